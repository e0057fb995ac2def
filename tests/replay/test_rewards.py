"""An episode's reward is the caller's own `total += reward`, to the last bit, whatever the rewards are."""

import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

import journal
from journal.context import Context
from journal.storage.memory import MemoryStorage
from replay.batch import COLUMNS, Batch, unpack
from replay.rewards import _sum_after
from replay.runs import Runs
from replay.scan import scan

finite = st.floats(allow_nan=False, allow_infinity=False)


def in_turn(total: float, values: list[float]) -> float:
    for value in values:
        total += value
    return total


def bits(value: float) -> bytes:
    return struct.pack("<d", value)


@given(finite, st.lists(finite, max_size=40), st.integers(0, 40))
@example(0.0, [-0.0], 0)
@example(1.0, [-1.0], 1)
@example(-1.0, [1.0, -0.0], 1)
@example(1e308, [1e308, -1e308], 1)
def test_each_value_is_added_to_the_last_sum(start: float, values: list[float], cut: int) -> None:
    start += 0.0  # No episode's reward is ever -0.0: it begins with 0.0.
    column = np.array(values, dtype=np.float64)
    assert bits(_sum_after(start, (column,))) == bits(in_turn(start, values))
    assert bits(_sum_after(start, (column[:cut], column[cut:]))) == bits(in_turn(start, values))


@pytest.mark.parametrize("count", [7, 8, 9, 127, 128, 129, 8191, 8192, 8193, 100_000])
@pytest.mark.parametrize("step", [1, 2, 8])
def test_long_stretches_too(count: int, step: int) -> None:
    """Around the sizes at which numpy would sum by pairs, or in buffers."""
    random = np.random.default_rng(count)
    drawn = random.normal(size=count * step) * 10.0 ** random.integers(-9, 9, count * step)
    values: NDArray[np.float64] = drawn[::step]
    assert bits(_sum_after(0.1, (values,))) == bits(in_turn(0.1, values.tolist()))
    swapped = values.astype(">f8")
    assert bits(_sum_after(0.1, (swapped,))) == bits(in_turn(0.1, values.tolist()))
    if count > 1000:
        assert float(np.sum(values)) != in_turn(0.0, values.tolist()), "choose rewards for which the order matters"


def recorded(random: np.random.Generator, *, large: bool) -> list[Batch]:
    """Of agents and environments that take turns or do not, by single cells, and between them batches, or none."""
    storage = MemoryStorage()
    with journal.open("j", storage=storage, sync="close") as log:
        agents = [log.agent("A"), log.agent("B")]
        for episode in range(30):
            log.append(journal.Custom(name="x"))
            agent, turns = agents[random.integers(2)], random.integers(8) == 0
            for step in range(random.integers(300)):
                who = agents[step % 2] if turns else agent
                env = int(step == 77)
                log.reward(
                    who, episode, step, random.normal(), env, flags=int(random.integers(9) == 0) << 7 | step // 200
                )
            if large:
                for count in random.integers(400, 4096, random.integers(3)).tolist():
                    places = [0, np.arange(count), random.integers(5, size=count)]
                    log.rewards(agent, episode, places[random.integers(3)], random.normal(size=count))
    return list(scan(storage))


@pytest.mark.parametrize("large", [False, True])
def test_values_where_they_lie_and_changes_are_those_of_the_columns(large: bool) -> None:
    random = np.random.default_rng(3)
    apart = seen = 0
    for batch in recorded(random, large=large):
        columns = {name: batch.column(name).copy() for name in COLUMNS}
        plain = Batch(columns, len(batch), runs=[], names=[], payloads={})
        for _ in range(200):
            start = int(random.integers(len(batch)))
            stop = min(len(batch), start + int(random.integers(random.choice([50, 5000]))))
            if start < stop:
                fresh = unpack(batch._piece, Runs(Context()))
                assert fresh.latest_ns == plain.latest_ns
                assert fresh.changes().tolist() == plain.changes().tolist()
                pieces = [*fresh.values(start, stop)]
                apart += "value" not in fresh._columns
                seen += len(fresh.changes())
                assert np.concatenate(pieces).tobytes() == plain.value[start:stop].tobytes()
    assert apart > 20 and seen > 100
