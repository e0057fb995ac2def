"""An episode's reward is the caller's own `total += reward`, to the last bit, whatever the rewards are."""

import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from replay.rewards import _sum_after

finite = st.floats(allow_nan=False, allow_infinity=False)


def in_turn(total: float, values: list[float]) -> float:
    for value in values:
        total += value
    return total


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(finite, st.lists(finite, max_size=40))
@example(0.0, [-0.0])
@example(1.0, [-1.0])
@example(-1.0, [1.0, -0.0])
@example(1e308, [1e308, -1e308])
def test_each_value_is_added_to_the_last_sum(start: float, values: list[float]) -> None:
    start += 0.0  # No episode's reward is ever -0.0: it begins with 0.0.
    assert bits(_sum_after(start, np.array(values, dtype=np.float64))) == bits(in_turn(start, values))


@pytest.mark.parametrize("count", [7, 8, 9, 127, 128, 129, 8191, 8192, 8193, 100_000])
@pytest.mark.parametrize("step", [1, 2])
def test_long_stretches_too(count: int, step: int) -> None:
    """Around the sizes at which numpy would sum by pairs, or in buffers."""
    random = np.random.default_rng(count)
    drawn = random.normal(size=count * step) * 10.0 ** random.integers(-9, 9, count * step)
    values: NDArray[np.float64] = drawn[::step]
    assert bits(_sum_after(0.1, values)) == bits(in_turn(0.1, values.tolist()))
    swapped = values.astype(">f8")
    assert bits(_sum_after(0.1, swapped)) == bits(in_turn(0.1, values.tolist()))
    if count > 1000:
        assert float(np.sum(values)) != in_turn(0.0, values.tolist()), "choose rewards for which the order matters"
