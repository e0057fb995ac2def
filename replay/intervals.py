"""A set of whole numbers kept as intervals: the finished entries of a plan are few intervals, however long it is."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field


@dataclass(slots=True)
class Intervals:
    """Disjoint, sorted [start, stop) pairs that do not touch."""

    pairs: list[list[int]] = field(default_factory=list)

    def add(self, number: int) -> None:
        """Add one number."""
        at = bisect_right(self.pairs, number, key=lambda pair: pair[0])
        before = self.pairs[at - 1] if at else None
        if before is not None and number < before[1]:
            return
        touches_before = before is not None and before[1] == number
        touches_after = at < len(self.pairs) and self.pairs[at][0] == number + 1
        if touches_before and touches_after:
            assert before is not None
            before[1] = self.pairs.pop(at)[1]
        elif touches_before:
            assert before is not None
            before[1] = number + 1
        elif touches_after:
            self.pairs[at][0] = number
        else:
            self.pairs.insert(at, [number, number + 1])

    def __contains__(self, number: int) -> bool:
        at = bisect_right(self.pairs, number, key=lambda pair: pair[0])
        return at > 0 and number < self.pairs[at - 1][1]

    def __len__(self) -> int:
        return sum(stop - start for start, stop in self.pairs)

    def __iter__(self) -> Iterator[int]:
        for start, stop in self.pairs:
            yield from range(start, stop)

    def copy(self) -> Intervals:
        """An independent copy."""
        return Intervals([list(pair) for pair in self.pairs])
