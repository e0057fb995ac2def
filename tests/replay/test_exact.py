"""Exact sums: rounded once, in any order, however they were split."""

import itertools
import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from replay.exact import ExactSum
from replay.intervals import Intervals

finite = st.floats(allow_nan=False, allow_infinity=False)


def total(values: list[float]) -> ExactSum:
    result = ExactSum()
    for value in values:
        result.add(value)
    return result


@given(st.lists(finite))
def test_equals_fsum_and_forgets_the_order(values: list[float]) -> None:
    exact = sum((Fraction(value) for value in values), Fraction(0))
    assert Fraction(total(values).units, 1 << 1074) == exact
    try:
        assert float(total(values)) == math.fsum(values)
    except OverflowError:  # fsum gives up where a sum on the way is too large; the exact sum does not.
        assert max(map(abs, itertools.accumulate(map(Fraction, values)))) > 2**1023
    assert total(values) == total(values[::-1])


@given(st.lists(finite), st.lists(finite))
def test_adding_sums_is_summing_all(one: list[float], other: list[float]) -> None:
    assert total(one) + total(other) == total(one + other)
    assert total(one + other) - total(other) == total(one)


def test_a_sum_beyond_float64_is_infinite_not_an_error() -> None:
    assert float(total([1.7e308] * 3)) == math.inf
    assert float(total([-1.7e308] * 3)) == -math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises((ValueError, OverflowError)):
        ExactSum().add(value)


@given(st.lists(st.integers(0, 40)))
def test_intervals_are_a_set(numbers: list[int]) -> None:
    intervals = Intervals()
    for number in numbers:
        intervals.add(number)
    assert list(intervals) == sorted(set(numbers))
    assert len(intervals) == len(set(numbers))
    assert all(number in intervals for number in numbers)
    assert -1 not in intervals and 41 not in intervals
    # Disjoint and not touching: the fewest intervals that there can be.
    assert all(one[1] < two[0] for one, two in zip(intervals.pairs, intervals.pairs[1:], strict=False))
