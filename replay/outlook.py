"""The outlook: is an agent getting better? A statement about means, with its interval, or that too little is known.

The mean of the last quarter of its episodes is held against that of the first quarter: the difference, and the interval
of about 95 % in which it lies if episodes were independent of each other (they seldom are, so it is rather wider).
Better is more reward. Of a metric, only rising and falling are told: less drawdown is better, less profit is not.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from replay.totals import Phase
from replay.trends import Figures, Spread, Trends

EPISODES_MIN: Final = 20
"""Episodes that each quarter must have, before anything is said."""
_WIDTH: Final = 1.96
_BARS: Final = "▁▂▃▄▅▆▇█"

Verdict = Literal["better", "worse", "rising", "falling", "no clear change", "not enough episodes"]


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a life: from the episode number `first` on."""

    first: int
    episodes: int
    mean: float
    """NaN where no episode of it has a finite value."""


@dataclass(frozen=True, slots=True)
class Outlook:
    """How one agent's reward (or a metric) has gone in one phase, over its effective episodes."""

    agent: str
    phase: Phase
    metric: str
    episodes: int
    """With a finite value."""
    verdict: Verdict
    before: float
    """Mean of the first quarter; NaN where nothing is said."""
    now: float
    """Mean of the last quarter."""
    low: float
    high: float
    """The interval of `now - before`."""
    quarter: tuple[int, int]
    """Episodes in the first and the last quarter."""
    life: tuple[Stretch, ...]

    def __str__(self) -> str:
        """Words: the verdict and what it rests on."""
        what = "reward" if self.metric == "reward" else self.metric
        who = f"{self.agent}, {self.phase}: {self.episodes:,} episodes with a {what}"
        if self.verdict == "not enough episodes":
            return f"{who}: not enough episodes to tell (it takes {EPISODES_MIN} in each quarter of its life)"
        told = f"getting {self.verdict}" if self.verdict in ("better", "worse") else self.verdict
        return (
            f"{who}: {told}: a mean {what} of {self.before:.6g} in the first {self.quarter[0]:,} and {self.now:.6g} in "
            f"the last {self.quarter[1]:,}, a change of {self.now - self.before:+.6g} (95 %: {self.low:+.6g} to "
            f"{self.high:+.6g})"
        )

    def as_document(self) -> dict[str, Any]:
        """The keys of a phase in `journal trends --json`."""
        return {
            "verdict": self.verdict,
            "words": str(self),
            "episodes": self.episodes,
            "before": self.before,
            "now": self.now,
            "change": self.now - self.before,
            "low": self.low,
            "high": self.high,
            "quarter": list(self.quarter),
            "life": [{"first": one.first, "episodes": one.episodes, "mean": one.mean} for one in self.life],
        }


def sparkline(means: Sequence[float]) -> str:
    """One character for each; a gap where it is NaN."""
    finite = [one for one in means if math.isfinite(one)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    steps = len(_BARS) - 1
    return "".join(
        " "
        if not math.isfinite(one)
        else _BARS[round((one - low) / (high - low) * steps) if 0 < high - low < math.inf else steps // 2]
        for one in means
    )


def outlook(agent: str, phase: Phase, trends: Trends, metric: str = "reward") -> Outlook:
    """Judge the agent's effective trends."""
    numbers = sorted(trends.life)
    rows = [(number << trends.shift, _spread(trends.life[number], metric)) for number in numbers]
    life = tuple(Stretch(first, spread.count, spread.mean) for first, spread in rows)
    spreads = [spread for _, spread in rows]
    total = sum(spread.count for spread in spreads)
    first, last = _quarter(iter(spreads), total), _quarter(reversed(spreads), total)
    quarter = first.count, last.count
    if min(quarter) < EPISODES_MIN or sum(quarter) > total:
        none = math.nan
        return Outlook(agent, phase, metric, total, "not enough episodes", none, none, none, none, quarter, life)
    change = last.mean - first.mean
    width = _WIDTH * math.sqrt(first.variance / first.count + last.variance / last.count)
    low, high = change - width, change + width
    verdict: Verdict = "no clear change"
    if low > 0:
        verdict = "better" if metric == "reward" else "rising"
    elif high < 0:
        verdict = "worse" if metric == "reward" else "falling"
    return Outlook(agent, phase, metric, total, verdict, first.mean, last.mean, low, high, quarter, life)


def _quarter(spreads: Iterator[Spread], total: int) -> Spread:
    """From one end: whole stretches until they hold a quarter of the episodes."""
    found = Spread()
    for spread in spreads:
        found.merge(spread)
        if 4 * found.count >= total:
            break
    return found


def _spread(figures: Figures, metric: str) -> Spread:
    return figures.reward if metric == "reward" else figures.metrics.get(metric, Spread())
