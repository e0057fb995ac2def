"""Many reward batches at once, held against `journal.batch`, which does one at a time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from journal import arrays, batch, cell
from replay import unpacking
from replay.batch import COLUMNS

number = st.integers(0, 2**31)


def columns(count: int) -> st.SearchStrategy[int | list[int]]:
    """One number for all, any numbers, or consecutive ones."""
    following = number.map(lambda first: list(range(first, first + count)))
    return st.one_of(number, st.lists(number, min_size=count, max_size=count), following)


rewards = st.floats(width=64, allow_nan=True)


@st.composite
def packed(draw: st.DrawFn) -> batch.Packed:
    count = draw(st.integers(2, 3))
    drawn = [draw(columns(count)) for _ in ("episode", "step", "env")]
    values = np.array(draw(st.lists(rewards, min_size=count, max_size=count)))
    return batch.pack(*(one if isinstance(one, int) else np.array(one, dtype=np.uint64) for one in drawn), values)


def cells_of(batches: list[batch.Packed]) -> bytes:
    """The batches as cells, each with its payload behind it."""
    out = b""
    for one in batches:
        value = float(np.uint64(one.rewards).view(np.float64))
        places = {"env_index": one.env_index, "episode": one.episode, "step": one.step}
        head = cell.pack_head(cell.REWARDS, 0, 0, one.payload, salt=0, at=0, form=one.form, value=value, **places)
        out += head + one.payload + bytes(cell.extent_of(len(one.payload))[1])
    return out


@settings(deadline=None)
@given(st.lists(packed(), min_size=1, max_size=12))
def test_many_at_once_are_what_each_one_is(batches: list[batch.Packed]) -> None:
    """There and back."""
    raw = memoryview(cells_of(batches))
    cells = arrays.view(raw)
    at = arrays.heads(cells)
    counts = np.array([one.rewards for one in batches])
    begin = np.cumsum(counts) - counts
    columns: dict[str, NDArray[Any]] = {
        name: np.repeat(cells[at][name].astype(dtype), counts) for name, dtype in COLUMNS.items()
    }
    assert unpacking.contradiction(cells[at]) is None
    unpacking.unpack(raw, cells, at, columns, begin)
    for one, first in zip(batches, begin.tolist(), strict=True):
        alone = batch.unpack(one.rewards, one.form, one.episode, one.step, one.env_index, one.payload)
        for name, expected in alone._asdict().items():
            assert columns[name][first : first + one.rewards].tobytes() == expected.tobytes()
    seen = set()
    for members, made in unpacking.pack(cells[at], columns, begin):
        for member, payload in zip(members.tolist(), made, strict=True):
            seen.add(member)
            assert payload.tobytes().startswith(batches[member].payload)
            assert not any(payload.tobytes()[len(batches[member].payload) :])
    assert seen == set(range(len(batches)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [({"rewards": 3}, "another length"), ({"rewards": 2**60}, "another length"), ({"form": 64}, "unknown form")],
)
def test_a_batch_that_contradicts_itself_is_named_before_it_is_unpacked(change: dict[str, int], reason: str) -> None:
    """Also one that would take all memory."""
    good = batch.pack(1, 2, 3, np.array([0.5, 0.25]))
    heads = arrays.view(cells_of([good, good._replace(**change), good]))[[0, 2, 4]]
    found = unpacking.contradiction(heads)
    assert found is not None
    assert found[0] == 1
    assert reason in found[1]
