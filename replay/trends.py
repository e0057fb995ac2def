"""Trends: what an agent did, apart by run, by instrument, by day and by stretch of its life, in figures that add up.

Every ended episode is counted in one row of each. How many rows there are does not depend on the number of episodes:
a life is cut into at most `STRETCHES` stretches of 1, 2, 4, … episode numbers each, which double as it grows.

    since the last checkpoint │ checkpoint: what led to it │ a rewind: what came after it is superseded
                                                              effective = all that led to now
                                                              spent     = effective + superseded + open
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from replay.exact import ExactSum
from replay.totals import PHASES, Phase

STRETCHES: Final = 64
METRICS_MAX: Final = 64
"""How many metrics of one name each are kept in a row: those that come first in the alphabet."""
_SHIFT_MAX: Final = 64
"""Numbers of episodes have as many bits."""
DAY_NS: Final = 86_400_000_000_000

Number = int | float


@dataclass(slots=True)
class Spread:
    """Many values of one quantity: sums that are exact, and the least and the greatest of them."""

    count: int = 0
    """Of the finite ones."""
    total: ExactSum = field(default_factory=ExactSum)
    squares: int = 0
    """The exact sum of the values' squares, in units of 2**-2148."""
    least: float = math.inf
    greatest: float = -math.inf
    odd: int = 0
    """NaN and infinite ones: counted apart, never added."""

    def add(self, value: float) -> None:
        """Take in one value."""
        if not math.isfinite(value):
            self.odd += 1
            return
        value += 0.0  # One zero.
        one = ExactSum()
        one.add(value)
        self.count += 1
        self.total = self.total + one
        self.squares += one.units**2
        self.least = min(self.least, value)
        self.greatest = max(self.greatest, value)

    def merge(self, other: Spread) -> None:
        """Take in all that `other` has."""
        self.count += other.count
        self.total = self.total + other.total
        self.squares += other.squares
        self.least = min(self.least, other.least)
        self.greatest = max(self.greatest, other.greatest)
        self.odd += other.odd

    @property
    def mean(self) -> float:
        """NaN where there is no value."""
        return float(self.total) / self.count if self.count else math.nan

    @property
    def variance(self) -> float:
        """The sample's, computed from the exact sums; NaN for fewer than two values."""
        if self.count < 2:
            return math.nan
        # In whole numbers: where the two nearly cancel, what is left would else be noise.
        above = max(0, self.count * self.squares - self.total.units**2)
        try:
            return above / (self.count * (self.count - 1) << _SQUARES)
        except OverflowError:
            return math.inf

    def to_payload(self) -> list[Any]:
        """Itself as plain data."""
        return [self.count, _packed(self.total.units), _packed(self.squares), self.least, self.greatest, self.odd]

    @classmethod
    def from_payload(cls, payload: Any) -> Spread:
        """What `to_payload` gave. Raises `ValueError` or `TypeError` for anything else."""
        count, total, squares, least, greatest, odd = payload
        return cls(int(count), ExactSum(_unpacked(total)), _unpacked(squares), float(least), float(greatest), int(odd))


@dataclass(slots=True)
class Figures:
    """One row: some of an agent's episodes, in one phase."""

    episodes: int = 0
    steps: int = 0
    nan_rewards: int = 0
    infinite_rewards: int = 0
    time_ns: int = 0
    """Monotonic time inside episodes; only of runs and days, where sub-environments are not to be told apart."""
    reward: Spread = field(default_factory=Spread)
    """Of the episodes' rewards."""
    metrics: dict[str, Spread] = field(default_factory=dict)
    """Of what `episode.end(**metrics)` was given, as far as it is numbers."""

    @classmethod
    def of(
        cls,
        steps: int,
        reward: float,
        nan_rewards: int,
        infinite_rewards: int,
        metrics: Mapping[str, Any] | None = None,
    ) -> Figures:
        """One episode; of its metrics, those that are no numbers are left out."""
        figures = cls(1, steps, nan_rewards, infinite_rewards)
        figures.reward.add(reward)
        for name, value in (metrics or {}).items():
            if isinstance(value, Number):
                figures._spread(str(name)).add(float(value))
        figures._bound()
        return figures

    def merge(self, other: Figures) -> None:
        """Take in all that `other` has."""
        self.episodes += other.episodes
        self.steps += other.steps
        self.nan_rewards += other.nan_rewards
        self.infinite_rewards += other.infinite_rewards
        self.time_ns += other.time_ns
        self.reward.merge(other.reward)
        for name, spread in other.metrics.items():
            self._spread(name).merge(spread)
        self._bound()

    def _spread(self, name: str) -> Spread:
        spread = self.metrics.get(name)
        if spread is None:
            spread = self.metrics[name] = Spread()
        return spread

    def _bound(self) -> None:
        # The first ones by name are the same however the episodes were split and merged.
        if len(self.metrics) > METRICS_MAX:
            for name in sorted(self.metrics)[METRICS_MAX:]:
                del self.metrics[name]

    def to_payload(self) -> list[Any]:
        """Itself as plain data."""
        counts = [self.episodes, self.steps, self.nan_rewards, self.infinite_rewards, self.time_ns]
        metrics = {name: self.metrics[name].to_payload() for name in sorted(self.metrics)}
        return [*counts, self.reward.to_payload(), metrics]

    @classmethod
    def from_payload(cls, payload: Any) -> Figures:
        """What `to_payload` gave. Raises `ValueError` or `TypeError` for anything else."""
        episodes, steps, nan_rewards, infinite_rewards, time_ns, reward, metrics = payload
        counts = int(episodes), int(steps), int(nan_rewards), int(infinite_rewards), int(time_ns)
        spreads = {str(name): Spread.from_payload(one) for name, one in dict(metrics).items()}
        return cls(*counts, Spread.from_payload(reward), spreads)


@dataclass(slots=True)
class Trends:
    """The rows of one agent and phase. Equal whatever order the episodes came in and however they were split."""

    runs: dict[str, Figures] = field(default_factory=dict)
    """By the run's id; "" outside any run."""
    instruments: dict[str, Figures] = field(default_factory=dict)
    """By what the episode's bars are of; several: "EURUSD + GBPUSD"; "" where it told none."""
    days: dict[int, Figures] = field(default_factory=dict)
    """By the day of the episode's end, UTC, counted from 1970-01-01."""
    life: dict[int, Figures] = field(default_factory=dict)
    """By episode number >> `shift`."""
    shift: int = 0

    def add(
        self,
        number: int,
        run: str,
        instruments: Iterable[str],
        time_ns: int,
        figures: Figures,
    ) -> None:
        """Take in one episode."""
        self.coarsen(max(0, number.bit_length() - STRETCHES.bit_length() + 1))
        rows: list[tuple[dict[Any, Figures], Any]] = [
            (self.runs, run),
            (self.instruments, " + ".join(sorted(set(instruments)))),
            (self.days, time_ns // DAY_NS),
            (self.life, number >> self.shift),
        ]
        for part, key in rows:
            _row(part, key).merge(figures)

    def add_time(self, run: str, time_ns: int, elapsed_ns: int) -> None:
        """Time inside episodes, which passed until `time_ns`."""
        _row(self.runs, run).time_ns += elapsed_ns
        _row(self.days, time_ns // DAY_NS).time_ns += elapsed_ns

    def merge(self, other: Trends) -> None:
        """Take in all that `other` has."""
        self.coarsen(other.shift)
        parts: list[tuple[dict[Any, Figures], dict[Any, Figures]]] = [
            (self.runs, other.runs),
            (self.instruments, other.instruments),
            (self.days, other.days),
        ]
        for part, more in parts:
            for key, figures in more.items():
                _row(part, key).merge(figures)
        for stretch, figures in other.life.items():
            _row(self.life, stretch >> (self.shift - other.shift)).merge(figures)

    def coarsen(self, shift: int) -> None:
        """Make stretches of 1 << `shift` episode numbers, if they are shorter."""
        if shift <= self.shift:
            return
        fine, by, self.life, self.shift = self.life, shift - self.shift, {}, shift
        for stretch, figures in fine.items():
            _row(self.life, stretch >> by).merge(figures)

    def to_payload(self) -> list[Any]:
        """Itself as plain data, in an order of its own, so that equal trends are equal bytes."""
        parts: list[dict[Any, Figures]] = [self.runs, self.instruments, self.days, self.life]
        return [*([[key, part[key].to_payload()] for key in sorted(part)] for part in parts), self.shift]

    @classmethod
    def from_payload(cls, payload: Any) -> Trends:
        """What `to_payload` gave. Raises `ValueError` or `TypeError` for anything else."""
        runs, instruments, days, life, shift = payload
        if type(shift) is not int or not 0 <= shift <= _SHIFT_MAX:
            raise ValueError(f"it holds stretches of 2**{shift!r:.30} episodes")
        return cls(
            {str(key): Figures.from_payload(one) for key, one in runs},
            {str(key): Figures.from_payload(one) for key, one in instruments},
            {int(key): Figures.from_payload(one) for key, one in days},
            {int(key): Figures.from_payload(one) for key, one in life},
            shift,
        )


def of_phases() -> dict[Phase, Trends]:
    """Empty ones for each phase."""
    return {phase: Trends() for phase in PHASES}


def _row(part: dict[Any, Figures], key: Any) -> Figures:
    figures = part.get(key)
    if figures is None:
        figures = part[key] = Figures()
    return figures


_SQUARES: Final = 2 * 1074
"""`ExactSum` counts units of 2**-1074; their squares, of this power."""


def _packed(units: int) -> list[Any]:
    """Such sums are mostly zeros at their end."""
    zeros = (units & -units).bit_length() - 1 if units else 0
    units >>= zeros
    return [zeros, units.to_bytes(units.bit_length() // 8 + 1, "big", signed=True)]


def _unpacked(payload: Any) -> int:
    zeros, units = payload
    if type(zeros) is not int or not 0 <= zeros <= 2 * _SQUARES or type(units) is not bytes or len(units) > 1024:
        raise ValueError("it holds sums that make no sense")
    return int.from_bytes(units, "big", signed=True) << zeros
