"""A question: what one benchmark asks, how much effort its answer takes, and what the answer holds.

rows      what was measured, one per contender, as `Figures.as_document` gives it
values    named ratios, that the goals are held against (`goals`)
skipped   what could not be measured here, and why
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from journal.speed.rounds import Figures


@dataclass(frozen=True, slots=True)
class Effort:
    """How thorough: rounds, seconds of each contender in a round, and the size of what is read, written or killed."""

    rounds: int
    seconds: float
    scale: float
    """Of the numbers of events."""
    kills: int

    def events(self, number: int) -> int:
        """That many events at full effort."""
        return max(1, round(number * self.scale))


FULL: Final = Effort(5, 0.1, 1.0, 2)
QUICK: Final = Effort(2, 0.002, 0.01, 1)
"""Only to see that all of it runs: the figures say nothing."""


@dataclass(slots=True)
class Answer:
    """What was found."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(self, figures: Figures, **more: Any) -> None:
        """One contender."""
        self.rows.append({**figures.as_document(), **more})

    def skip(self, name: str, reason: str) -> None:
        """One that is not to be had here."""
        self.skipped.append({"name": name, "reason": reason})

    def value(self, name: str, ratios: Sequence[float]) -> None:
        """A named ratio: the median of its rounds, and their range."""
        self.values[name] = {"value": statistics.median(ratios), "low": min(ratios), "high": max(ratios)}


def by_name(figures: Sequence[Figures]) -> dict[str, Figures]:
    """Figures by the name of their contender."""
    return {one.name: one for one in figures}


def say(text: str) -> None:
    """One line of progress on standard error."""
    print(f"{time.strftime('%H:%M:%S')}  {text}", file=sys.stderr, flush=True)
