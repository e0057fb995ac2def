"""Results of comparable agents: figures with intervals, pair by pair, and whether anybody may be called better.

Only a comparison that is proved has results. They are of evaluation where every agent was evaluated, else of training,
and say so. Replicates of an agent (`PPO`, `PPO#1`, …) are one algorithm with several seeds.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from journal.errors import NotComparable
from replay import statistics
from replay.compare import Comparison
from replay.outcomes import Outcome
from replay.state import State
from replay.statistics import Interval, Values
from replay.totals import Phase

REWARD = "reward"
"""The metric that every episode has: the sum of its rewards."""


@dataclass(frozen=True, slots=True)
class Standing:
    """One algorithm: its replicates' mean, and the interquartile mean with its interval."""

    agent: str
    replicates: int
    mean: float
    iqm: Interval


@dataclass(frozen=True, slots=True)
class Contest:
    """Two algorithms; the difference is the first one's mean less the other's."""

    agent: str
    other: str
    difference: Interval
    improvement: float
    p: float | None
    better: str | None


@dataclass(frozen=True, slots=True)
class Results:
    """What `results` found; `notes` is what has to be said with the figures."""

    phase: Phase
    metric: str
    episodes: int
    tried: int
    """Algorithms in all the journals, compared or not."""
    notes: tuple[str, ...]
    standings: tuple[Standing, ...]
    contests: tuple[Contest, ...]

    def as_document(self) -> dict[str, Any]:
        """`results` in `journal compare --json`."""
        return asdict(self)


def results(comparison: Comparison, tried: int, metric: str = REWARD) -> Results:
    """What comparable agents came to, by `metric`: "reward", or what `episode.end` was given. Higher counts as better.

    Raises `NotComparable` where the comparison is not proved, or an episode has no such number.
    """
    if comparison.verdict != "comparable":
        raise NotComparable(f"there are no results of agents that are {comparison.verdict}: {comparison.reason}")
    phase: Phase = "eval" if comparison.episodes.get("eval") else "train"
    values: dict[str, list[list[float]]] = {}
    for agent, told in comparison.outcomes.items():
        values.setdefault(algorithm_of(agent), []).append([_value(one, metric, agent) for one in told[phase]])
    arrays: list[Values] = [np.array(rows) for rows in values.values()]
    with np.errstate(over="ignore", invalid="ignore"):  # Means of finite values may be infinite.
        return _results(comparison, tried, metric, phase, list(values), arrays)


def _results(
    comparison: Comparison, tried: int, metric: str, phase: Phase, names: list[str], arrays: list[Values]
) -> Results:
    iqms = statistics.describe(arrays)
    standings = [
        Standing(name, len(rows), float(rows.mean()), iqm) for name, rows, iqm in zip(names, arrays, iqms, strict=True)
    ]
    contests = [
        Contest(
            names[pair.one],
            names[pair.other],
            pair.difference,
            pair.improvement,
            pair.p,
            None if pair.better is None else names[pair.better],
        )
        for pair in statistics.compare_pairs(arrays)
    ]
    return Results(
        phase,
        metric,
        comparison.episodes[phase],
        tried,
        tuple(_notes(phase, standings, tried)),
        tuple(sorted(standings, key=lambda one: -one.mean)),
        tuple(contests),
    )


def algorithm_of(agent: str) -> str:
    """The agent without the number of its replicate: `PPO#3` is a PPO."""
    name, mark, number = agent.rpartition("#")
    return name if mark and number.isdigit() else agent


def tried_in(states: Iterable[State]) -> int:
    """How many algorithms have ended an episode in these journals."""
    return len(
        {
            algorithm_of(name)
            for state in states
            for name, agent in state.agents.items()
            if any(agent.lineage.ended.values())
        }
    )


def _value(outcome: Outcome, metric: str, agent: str) -> float:
    episode = outcome.episode
    value = outcome.reward if metric == REWARD else episode.metrics.get(metric)
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    known = ", ".join([REWARD, *map(str, episode.metrics)])
    what = "has none" if value is None else f"is {value!r:.40}"
    raise NotComparable(
        f"{metric!r:.60} {what} in {episode.phase} episode {episode.number} of {agent}: give it to episode.end(…) in "
        f"every episode, or take another metric (there: {known})"
    )


def _notes(phase: Phase, standings: Sequence[Standing], tried: int) -> Iterable[str]:
    if phase == "train":
        yield "training returns, with exploration: evaluate the agents to know what they have learned"
    few = [f"{one.agent} {one.replicates}" for one in standings if one.replicates < statistics.REPLICATES_MIN]
    if few:
        yield (
            f"under {_COUNT} replicates ({', '.join(few)}): this describes these policies on these bars; nobody is "
            "called better"
        )
    elif len(standings) > 1:
        yield f"of equals, one would be called better in at most {statistics.ALPHA:.0%} of such comparisons"
    were, are = "agent was" if tried == 1 else "agents were", "is" if len(standings) == 1 else "are"
    compared = f"{tried} {were} tried in these journals, {len(standings)} {are} compared"
    yield compared if tried < 3 else f"{compared}: the best of many looks good by luck"


_COUNT = {5: "five"}[statistics.REPLICATES_MIN]
