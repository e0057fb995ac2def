"""Reward batches, many at once: their rows as columns, and the cells that hold them again.

`journal.batch` says what a batch is, one at a time. A vector environment appends thousands that have the same number of
rewards and the same form; those are taken together as one matrix.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from journal import arrays
from journal.arrays import Cells, Index
from journal.batch import CONSECUTIVE, CONSTANT, LISTED, payload_length
from journal.cell import CELL, extent_of

PLACES: Final = ("episode", "step", "env_index")
"""The columns that have a form, two bits each, in this order."""
UNPACKED: Final = (*PLACES, "value")
"""The columns in which the rewards of one batch may differ."""
_LARGE: Final = 512
"""Rewards of a batch that is worth a call of its own."""


def contradiction(heads: Cells) -> tuple[int, str] | None:
    """The first of these heads whose payload is not as long as its count and form want it: (index, why); else None.

    All at once: those that contradict themselves may each have a shape of its own.
    """
    room = heads["extent"].astype(np.int64) * CELL
    count, form = heads.view(arrays.COUNT)["count"], heads["form"]
    wrong = (count > room.astype(np.uint64)) | (form >> 6 != 0)
    size = np.full(len(heads), 8, dtype=np.int64)
    for place in range(len(PLACES)):
        one = form >> (2 * place) & 3
        wrong |= one > CONSECUTIVE
        size += 4 * (one == LISTED)
    wrong |= np.where(wrong, 0, count).astype(np.int64) * size != room - heads["pad"]
    if not wrong.any():
        return None
    index = int(wrong.argmax())
    try:
        payload_length(int(count[index]), int(form[index]))
    except ValueError as error:
        return index, str(error)
    return index, f"batch of {int(count[index])} rewards has a payload of another length"


def unpack(raw: memoryview, cells: Cells, at: Index, columns: dict[str, NDArray[Any]], begin: Index) -> None:
    """Write the rows of the batches whose heads are at the indices `at` into `columns`, the first of each at `begin`.

    The heads must not contradict themselves. Only the given columns are written, `UNPACKED` or some of them.
    """
    matrix = np.frombuffer(raw, dtype=np.uint8, count=len(cells) * CELL).reshape(-1, CELL)
    heads = arrays.at(cells, at)
    for count, form, members in _shapes(heads):
        extent = extent_of(payload_length(count, form))[0]
        stretches = [np.array([member]) for member in members.tolist()] if count >= _LARGE else [members]
        for some in stretches:
            if len(some) == 1:
                first = int(begin[some[0]])
                rows: Any = slice(first, first + count)
                after = int(at[some[0]]) + 1
                payload = matrix[after : after + extent].reshape(1, -1)
            else:
                rows = begin[some][:, None] + np.arange(count)
                payload = matrix[(at[some] + 1)[:, None] + np.arange(extent)].reshape(len(some), -1)
            _unpack(count, form, heads[some], payload, columns, rows)


def _unpack(
    count: int, form: int, heads: Cells, payload: NDArray[np.uint8], columns: dict[str, NDArray[Any]], rows: Any
) -> None:
    """Batches of one shape: a row of `payload` and of `rows` for each."""
    offset = 0
    for place, name in enumerate(PLACES):
        one = form >> (2 * place) & 3
        column = columns.get(name)
        if column is not None:
            base = heads[name].astype(column.dtype)[:, None]
            if one == CONSTANT:
                column[rows] = base
            elif one == CONSECUTIVE:
                column[rows] = base + np.arange(count, dtype=column.dtype)
            else:
                column[rows] = base + _cut(payload, offset, count, "<u4").astype(column.dtype)
        offset += 0 if one in (CONSTANT, CONSECUTIVE) else 4 * count
    if "value" in columns:
        columns["value"][rows] = _cut(payload, offset, count, "<f8")


def values(raw: memoryview, at: int, count: int, form: int) -> NDArray[np.float64]:
    """The values of the batch whose head is at the index `at`, where they lie: behind all other columns."""
    end = (at + 1) * CELL + payload_length(count, form)
    return np.frombuffer(raw, "<f8", count, end - 8 * count)


def pack(heads: Cells, columns: dict[str, NDArray[Any]], begin: Index) -> Iterator[tuple[Index, NDArray[np.uint8]]]:
    """The payload cells of batches, made again from their rows, of which the first of each is at `begin`.

    Yields (which of the heads, cells of shape (that many, extent, 64)) until each head had its turn.
    """
    for count, form, members in _shapes(heads):
        rows = begin[members][:, None] + np.arange(count)
        extent = extent_of(payload_length(count, form))[0]
        payload = np.zeros((len(members), extent * CELL), dtype=np.uint8)
        offset = 0
        for place, name in enumerate(PLACES):
            if form >> (2 * place) & 3 not in (CONSTANT, CONSECUTIVE):
                column = columns[name]
                listed = column[rows] - heads[name][members].astype(column.dtype)[:, None]
                payload[:, offset : offset + 4 * count] = listed.astype("<u4").view(np.uint8)
                offset += 4 * count
        payload[:, offset : offset + 8 * count] = columns["value"][rows].view(np.uint8)
        yield members, payload.reshape(len(members), extent, CELL)


def _shapes(heads: Cells) -> Iterator[tuple[int, int, Index]]:
    """(count, form, indices of the heads that have both)."""
    keys = np.stack((heads.view(arrays.COUNT)["count"], heads["form"].astype(np.uint64)), axis=1)
    shapes, shape_of = np.unique(keys, axis=0, return_inverse=True)
    for number, (count, form) in enumerate(shapes.tolist()):
        yield count, form, np.flatnonzero(shape_of.reshape(-1) == number)


def _cut(payload: NDArray[np.uint8], offset: int, count: int, dtype: str) -> NDArray[Any]:
    """`count` numbers per row, from a byte offset."""
    length = count * np.dtype(dtype).itemsize
    return np.ascontiguousarray(payload[:, offset : offset + length]).view(dtype)
