"""Exact sums: a total over millions of episodes, rounded once, whatever the order and however it was split.

Every finite float64 is an integer times 2**-1074, so a sum of them is one Python integer, and adding is associative.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_SHIFT: Final = 1074
_ONE: Final = 1 << _SHIFT


@dataclass(slots=True, order=True)
class ExactSum:
    """A sum of finite float64 numbers; `float()` rounds it once, to the nearest."""

    units: int = 0
    """The sum in units of 2**-1074."""

    def add(self, value: float) -> None:
        """Add one number. Raises `ValueError` (or `OverflowError`) for NaN or an infinite one."""
        numerator, denominator = value.as_integer_ratio()
        self.units += numerator << (_SHIFT - denominator.bit_length() + 1)

    def __float__(self) -> float:
        try:
            return self.units / _ONE
        except OverflowError:
            return float("inf") if self.units > 0 else float("-inf")

    def __add__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.units + other.units)

    def __sub__(self, other: ExactSum) -> ExactSum:
        return ExactSum(self.units - other.units)
