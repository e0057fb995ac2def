"""Does a journal's age matter up to a billion events? It takes long to grow one, so this is asked by name only."""

from __future__ import annotations

from typing import Final

from benchmarks.age import aged
from benchmarks.question import Answer, Effort

SIZES: Final = (100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)


def answer(directory: str, effort: Effort) -> Answer:
    """As `age`, at more sizes."""
    return aged(directory, effort, SIZES)
