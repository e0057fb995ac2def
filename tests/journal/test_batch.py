"""Batches: whatever forms their columns take, the same numbers come back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import journal
from journal import batch
from journal.events import INTEGER_MAX
from journal.storage.memory import MemoryStorage


@st.composite
def columns(draw: st.DrawFn, count: int, largest: int) -> Any:
    """A scalar, a run of consecutive numbers, or numbers that span at most 32 bits."""
    base = draw(st.integers(0, largest))
    form = draw(st.sampled_from(("constant", "consecutive", "listed")))
    if form == "constant":
        return base
    if form == "consecutive":
        base = min(base, largest - count)
        return np.arange(base, base + count, dtype=np.uint64)
    span = min(0xFFFFFFFF, largest - base)
    return np.array([base + draw(st.integers(0, span)) for _ in range(count)], dtype=np.uint64)


@given(st.data(), st.integers(1, 12))
def test_what_is_packed_is_unpacked(data: st.DataObject, count: int) -> None:
    episodes = data.draw(columns(count, INTEGER_MAX))
    steps = data.draw(columns(count, INTEGER_MAX))
    envs = data.draw(columns(count, 0xFFFFFFFF))
    values = np.array(data.draw(st.lists(st.floats(), min_size=count, max_size=count)))
    checked = [batch.as_column(one, count, "x") for one in (episodes, steps, envs)]
    packed = batch.pack(checked[0], checked[1], checked[2], batch.as_values(values))
    assert batch.payload_length(packed.rewards, packed.form) == len(packed.payload)
    back = batch.unpack(packed.rewards, packed.form, packed.episode, packed.step, packed.env_index, packed.payload)
    for given_, found in ((episodes, back.episode), (steps, back.step), (envs, back.env_index)):
        assert found.tolist() == np.broadcast_to(np.asarray(given_, dtype=np.uint64), count).tolist()
    assert back.value.tobytes() == values.tobytes()
    assert back.env_index.dtype == np.uint32


def test_columns_that_need_no_bytes_take_none() -> None:
    steps = batch.as_column(np.arange(7, 107, dtype=np.uint64), 100, "steps")
    assert steps == range(7, 107)
    packed = batch.pack(3, steps, np.full(100, 5, dtype=np.uint64), np.zeros(100))
    assert packed.form == batch.CONSECUTIVE << 2 | batch.LISTED << 4
    assert len(packed.payload) == 100 * (8 + 4)
    assert (packed.episode, packed.step, packed.env_index) == (3, 7, 5)


@pytest.mark.parametrize("form", [3, 3 << 2, 3 << 4, 1 << 6, 0xFFFF])
def test_an_unknown_form_is_refused(form: int) -> None:
    with pytest.raises(ValueError, match="unknown form"):
        batch.payload_length(1, form)


@pytest.mark.parametrize(("count", "length"), [(2, 8), (1, 9), (1, 0), (2**60, 8)])
def test_a_payload_of_another_length_is_refused(count: int, length: int) -> None:
    with pytest.raises(ValueError, match="payload"):
        batch.unpack(count, 0, 0, 0, 0, bytes(length))


def test_float32_and_integers_are_exact() -> None:
    assert batch.as_values(np.array([0.1], dtype=np.float32))[0] == float(np.float32(0.1))
    assert batch.as_values([2**53, -(2**53)]).tolist() == [2.0**53, -(2.0**53)]
    assert batch.as_values(np.array([2**60], dtype=np.uint64)).tolist() == [2.0**60]
    assert batch.as_values([True, False]).tolist() == [1.0, 0.0]


def test_the_given_arrays_are_copied() -> None:
    """Some frameworks change the array of rewards in place after the call."""
    storage = MemoryStorage()
    values, steps = np.ones(4), np.arange(4)
    with journal.open("m", storage=storage) as log:
        log.rewards(log.agent("a"), 0, steps, values)
        values[:] = 9
        steps[:] = 9
    raw = storage.read("segments/00000000.seg")
    assert np.ones(4).tobytes() in raw


def test_a_batch_over_the_limit_is_split_and_a_segments_worth_goes_whole_to_the_next(events_of: Any) -> None:
    storage = MemoryStorage()
    count = batch.COUNT_MAX + 1000
    with journal.open("m", storage=storage) as log:
        agent = log.agent("a")
        log.reward(agent, 0, 0, 1.0)
        base = log.rewards(agent, 0, range(count), np.arange(count), np.arange(count)[::-1])
        assert log.reward(agent, 1, 0, 2.0) == base + count
    seen = [one for one in events_of(storage) if one.kind == "Rewarded"]
    assert len(seen) == count + 2
    assert [(one.step, one.env_index, one.value) for one in seen[1:-1]] == [
        (i, count - 1 - i, float(i)) for i in range(count)
    ]


@pytest.mark.parametrize("dtype", ["i1", "u1", "i4", "u8", ">i4"])
def test_consecutive_numbers_are_found_in_every_dtype_and_only_there(dtype: str) -> None:
    """Whoever only compared neighbours would be wrong where small integers overflow, or numbers are left out."""
    assert batch.as_column(np.arange(100, 120, dtype=dtype), 20, "x") == range(100, 120)
    for others in ([3, 4, 6], [3, 5, 5], [5, 4, 3], [0, 0], [1, 0, 3, 4]):
        column = batch.as_column(np.array(others, dtype=dtype), len(others), "x")
        assert isinstance(column, np.ndarray) and column.tolist() == others
    assert batch.as_column(np.array([7], dtype=dtype), 1, "x") == range(7, 8)
    with pytest.raises(journal.EventRejected, match="outside"):
        batch.as_column(np.array([-2, -1, 0, 1], dtype="i1"), 4, "x")


def test_a_range_is_taken_as_it_is_and_within_the_same_bounds() -> None:
    steps = range(100, 120)
    assert batch.as_column(steps, 20, "x") is steps
    assert batch.as_column(range(2**32 - 2, 2**32), 2, "x", batch.UINT32_MAX) == range(2**32 - 2, 2**32)
    assert np.array_equal(batch.as_column(range(0, 40, 2), 20, "x"), np.arange(0, 40, 2))
    for bad, largest in ((range(-1, 19), 2**63 - 1), (range(2**32 - 1, 2**32 + 19), batch.UINT32_MAX)):
        with pytest.raises(journal.EventRejected, match="x holds a number outside"):
            batch.as_column(bad, 20, "x", largest)
    with pytest.raises(journal.EventRejected, match="give 21 integers"):
        batch.as_column(steps, 21, "x")


@pytest.mark.parametrize(
    "steps", [range(2**70), range(10**12), range(19), range(0, 10**12, 2), range(20, 0, 1), range(0)]
)
def test_a_range_of_another_length_is_refused_and_no_array_made_of_it(steps: range) -> None:
    with pytest.raises(journal.EventRejected, match=r"x is range.*: give 20 integers, or one"):
        batch.as_column(steps, 20, "x")


def test_a_range_with_steps_is_a_column_like_any_other() -> None:
    assert batch.as_column(range(40, 0, -2), 20, "x").tolist() == list(range(40, 0, -2))  # type: ignore[union-attr]
    assert batch.as_column(range(7, 27), 20, "x") == range(7, 27)


def test_a_batch_keeps_what_its_array_held_when_it_was_recorded() -> None:
    """Loops use their arrays again; a payload must not change between its checksum and its write."""
    values = np.arange(3, dtype=np.float64)
    packed = batch.pack(0, 0, 0, batch.as_values(values))
    values[:] = 9
    assert np.frombuffer(packed.payload).tolist() == [0, 1, 2]
