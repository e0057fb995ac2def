"""Rounds: contenders that do the same work run in turns, and each is compared with its reference of the same round.

The median of the rounds counts, their spread tells how quiet the machine was. Ratios count, times do not: machines
differ. CPU time is of the whole process, all its threads included.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal

Run = Callable[[int], object]
"""Does the work that many times."""
Survives = Literal["nothing", "kill -9", "power cut, a moment later", "power cut"]
"""What an event survives when the call that recorded it has returned."""
LATER: Final = "power cut, a moment later"
"""`kill -9` at once, and a power cut after the next group commit."""
ROUNDS: Final = 5
_FIRST_TRIES: Final = 8
"""Calls of the first attempt to find how many a round needs."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to do the work, with the name of the one that it is compared with."""

    name: str
    reference: str
    run: Run
    survives: Survives = "nothing"
    events: int = 1
    """That one call records, or reads."""
    most: int = 1 << 30
    """Calls in a round at most, so that the disk that it needs is bounded."""
    before: Callable[[], object] | None = None
    """What is done before each round and not measured."""


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one contender: nanoseconds per event (median round), and its ratios to the reference, one per round."""

    name: str
    reference: str
    survives: Survives
    events: int
    """In a round."""
    wall_ns: float
    cpu_ns: float
    wall_ratios: tuple[float, ...]
    cpu_ratios: tuple[float, ...]

    @property
    def wall_ratio(self) -> float:
        """The median."""
        return statistics.median(self.wall_ratios)

    @property
    def cpu_ratio(self) -> float:
        """The median."""
        return statistics.median(self.cpu_ratios)

    def as_document(self) -> dict[str, Any]:
        """For JSON."""
        return {
            **asdict(self),
            "wall_ratio": self.wall_ratio,
            "cpu_ratio": self.cpu_ratio,
            "events_per_second": 1e9 / self.wall_ns if self.wall_ns else None,
        }


def measure(
    contenders: Sequence[Contender],
    *,
    rounds: int = ROUNDS,
    seconds: float = 0.2,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> list[Figures]:
    """Each contender once per round, for about `seconds`; the rounds begin with another one each time."""
    total = len(contenders) * (rounds + 1)
    calls = []
    for done, one in enumerate(contenders):
        calls.append(_calibrate(one, seconds))
        progress(done + 1, total)
    wall: dict[str, list[float]] = {one.name: [] for one in contenders}
    cpu: dict[str, list[float]] = {one.name: [] for one in contenders}
    for turn in range(rounds):
        for place in range(len(contenders)):
            index = (turn + place) % len(contenders)
            one, count = contenders[index], calls[index]
            took_wall, took_cpu = _time(one, count)
            wall[one.name].append(took_wall / (count * one.events))
            cpu[one.name].append(took_cpu / (count * one.events))
            progress((turn + 1) * len(contenders) + place + 1, total)
    return [
        Figures(
            one.name,
            one.reference,
            one.survives,
            count * one.events,
            statistics.median(wall[one.name]),
            statistics.median(cpu[one.name]),
            ratios(wall[one.name], wall[one.reference]),
            ratios(cpu[one.name], cpu[one.reference]),
        )
        for one, count in zip(contenders, calls, strict=True)
    ]


def ratios(mine: Sequence[float], reference: Sequence[float]) -> tuple[float, ...]:
    """Round by round. A CPU clock that saw nothing in either gives no ratio worth telling: 1."""
    return tuple(a / b if b else 1.0 for a, b in zip(mine, reference, strict=True))


def _time(one: Contender, calls: int) -> tuple[int, int]:
    if one.before is not None:
        one.before()
    wall_start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
    one.run(calls)
    wall_end, cpu_end = time.perf_counter_ns(), time.process_time_ns()
    return wall_end - wall_start, cpu_end - cpu_start


def _calibrate(one: Contender, seconds: float) -> int:
    """How many calls take about `seconds`; finding it warms up."""
    calls = min(_FIRST_TRIES, one.most)
    while True:
        took, _ = _time(one, calls)
        if took > seconds * 1e9 / 4 or calls >= one.most:
            return max(1, min(one.most, int(calls * seconds * 1e9 / max(took, 1))))
        calls = min(one.most, calls * 4)
