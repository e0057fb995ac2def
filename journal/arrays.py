"""Many cells at once: the log as a numpy array. Nothing is parsed byte by byte."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from journal import cell
from journal.cell import CELL

CELL_DTYPE: Final = np.dtype(
    {
        "names": [
            "crc",
            "kind",
            "extent",
            "seq",
            "time_ns",
            "pad",
            "flags",
            "form",
            "payload_crc",
            "agent",
            "env_index",
            "episode",
            "step",
            "value",
        ],
        "formats": ["<u4", "<u2", "<u2", "<u8", "<i8", "u1", "u1", "<u2", "<u4", "<u4", "<u4", "<u8", "<u8", "<f8"],
        "offsets": [0, 4, 6, 8, 16, 24, 25, 26, 28, 32, 36, 40, 48, 56],
        "itemsize": CELL,
    }
)
"""The cell of docs/format.md; a test reads the offsets from both."""

COUNT: Final = np.dtype({"names": ["count"], "formats": ["<u8"], "offsets": [56], "itemsize": CELL})
"""A reward batch keeps the number of its rewards where others keep their value."""

PROMISE_DTYPE: Final = np.dtype(
    {
        "names": ["position", "events", "chain"],
        "formats": ["<u8", "<u8", "V24"],
        "offsets": [24, 32, 40],
        "itemsize": CELL,
    }
)

_WHOLE: Final = np.dtype((np.void, CELL))
_ALIKE: Final = 8
"""Heads in a row that are alike, before more are looked at than one."""
_LONG: Final = 64
"""Cells that stand side by side, on average, above which they are copied as one stretch."""
_LOOK_MAX: Final = 1 << 10
"""Eight times as many are looked at at once, at most: their cells fit the processor's cache."""

Cells = NDArray[Any]
Index = NDArray[np.int64]


def view(raw: bytes | memoryview) -> Cells:
    """The whole cells of `raw`, without a copy; a rest of less than a cell is left out."""
    return np.frombuffer(raw, dtype=CELL_DTYPE, count=len(raw) // CELL)


def heads(cells: Cells) -> Index:
    """Indices of the cells that are heads, if every extent is to be believed; the first cell must be one.

    Ends before the first cell of kind 0 and before a head whose payload is not all there. A bounded walk: it trusts
    extents only to skip, and the caller checks what it found. Payloads are skipped unread, and heads of the same extent
    that follow each other are taken many at once.
    """
    kinds, extents, total = cells["kind"], cells["extent"], len(cells)
    kind_at, extent_at = kinds.item, extents.item
    steps: list[int] = []
    counts: list[int] = []
    at = alike = last = 0
    while at < total and kind_at(at):
        extent = extent_at(at)
        step, count = extent + 1, 1
        if at + step > total:
            break
        if step != last:
            alike, last = 0, step
        elif alike >= _ALIKE:
            stop = min(total - extent, at + 8 * alike * step)
            same = (extents[at:stop:step] == extent) & (kinds[at:stop:step] != 0)
            count = len(same) if same.all() else int(same.argmin())
        alike = min(alike + count, _LOOK_MAX)
        steps.append(step)
        counts.append(count)
        at += step * count
    skips = np.repeat(np.array(steps, dtype=np.int64), counts)
    return np.cumsum(skips) - skips


def at(cells: Cells, found: Index) -> Cells:
    """The cells with these indices, which ascend; without a copy where they stand side by side."""
    if len(found) and int(found[-1]) - int(found[0]) == len(found) - 1:
        return cells[int(found[0]) : int(found[-1]) + 1]
    taken: Cells = cells.view(_WHOLE)[found].view(CELL_DTYPE)  # Field by field it would take twenty times as long.
    return taken


def put(cells: Cells, found: Index, what: Cells) -> None:
    """Write the cells `what` to these indices, which ascend."""
    target, source = cells.view(_WHOLE), what.view(_WHOLE)
    breaks = np.flatnonzero(np.diff(found) != 1) + 1
    if len(breaks) * _LONG >= len(found):
        target[found] = source
        return
    for begin, end in pairwise([0, *breaks.tolist(), len(found)]):
        target[found[begin] : found[begin] + end - begin] = source[begin:end]


def first_bad(raw: memoryview, cells: Cells, found: Index, salt: int, first_position: int) -> int | None:
    """The first of the heads `found` that does not check, payload and padding included; None if all do.

    `first_position` is the position of `raw[0:64]`.
    """
    columns = ("crc", "extent", "pad", "payload_crc")
    at: int
    crcs, extents, pads, payload_crcs = (cells[name][found].tolist() for name in columns)
    for at, crc, extent, pad, payload_crc in zip(found.tolist(), crcs, extents, pads, payload_crcs, strict=True):
        offset = at * CELL
        if cell.checksum(raw[offset + 4 : offset + CELL], salt, first_position + at) != crc:
            return at
        if extent:
            end = offset + CELL + extent * CELL
            exact = end - pad
            if pad >= CELL or any(raw[exact:end]):
                return at
            if cell.checksum(raw[offset + CELL : exact], salt, first_position + at) != payload_crc:
                return at
    return None


def payload(raw: memoryview, cells: Cells, at: int) -> memoryview:
    """The exact payload of the head at index `at`; empty where it has none."""
    offset = (at + 1) * CELL
    return raw[offset : offset + int(cells["extent"][at]) * CELL - int(cells["pad"][at])]


def column(cells: Cells, name: str, found: Index) -> NDArray[Any]:
    """One field of the cells with these indices, which ascend; without a copy where they stand side by side."""
    if len(found) and int(found[-1]) - int(found[0]) == len(found) - 1:
        return cells[name][int(found[0]) : int(found[-1]) + 1]
    return cells[name][found]


def takes(cells: Cells) -> NDArray[np.uint64]:
    """How many seqs each of these heads takes: none for a mark, a batch its count, any other one."""
    return np.diff(seqs(cells, np.arange(len(cells)), cells["kind"], 0))


def seqs(cells: Cells, found: Index, kinds: NDArray[np.uint16], first: int) -> NDArray[np.uint64]:
    """The seqs that the heads `found`, of these kinds, must have, and the one behind the last.

    A mark takes none, a batch its count, any other one; a mark has the seq of the event after it.
    """
    following = np.empty(len(found) + 1, dtype=np.uint64)
    following[0] = first
    np.less(kinds, cell.MARK_FIRST, out=following[1:], casting="unsafe")
    batches = np.flatnonzero(kinds == cell.REWARDS)
    if len(batches):
        following[1:][batches] = cells.view(COUNT)["count"][found[batches]]
    return np.cumsum(following, out=following)
