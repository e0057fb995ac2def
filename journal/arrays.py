"""Many cells at once: the log as a numpy array. Nothing is parsed byte by byte."""

from __future__ import annotations

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

Cells = NDArray[Any]
Index = NDArray[np.int64]


def view(raw: bytes | memoryview) -> Cells:
    """The whole cells of `raw`, without a copy; a rest of less than a cell is left out."""
    return np.frombuffer(raw, dtype=CELL_DTYPE, count=len(raw) // CELL)


def heads(cells: Cells) -> Index:
    """Indices of the cells that are heads, if every extent is to be believed; the first cell must be one.

    Ends before the first cell of kind 0 and before a head whose payload is not all there. A bounded walk: it trusts
    extents only to skip, and the caller checks what it found.
    """
    total = len(cells)
    zeros = np.flatnonzero(cells["kind"] == 0)
    with_payload = np.flatnonzero(cells["extent"])
    if not len(with_payload):
        return np.arange(int(zeros[0]) if len(zeros) else total)
    keep = np.ones(total, dtype=bool)
    extents = cells["extent"]
    at, end = 0, total
    while at < total:
        i = int(np.searchsorted(with_payload, at))
        head = int(with_payload[i]) if i < len(with_payload) else total
        z = int(np.searchsorted(zeros, at))
        if z < len(zeros) and zeros[z] <= head:
            end = int(zeros[z])
            break
        if head >= total:
            break
        after = head + 1 + int(extents[head])
        if after > total:
            end = head
            break
        keep[head + 1 : after] = False
        at = after
    return np.flatnonzero(keep[:end])


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


def takes(cells: Cells) -> NDArray[np.uint64]:
    """How many seqs each of these heads takes: none for a mark, a batch its count, any other one."""
    kinds = cells["kind"]
    count = np.where(kinds >= cell.MARK_FIRST, np.uint64(0), np.uint64(1))
    batches = np.flatnonzero(kinds == cell.REWARDS)
    if len(batches):
        count[batches] = cells[batches].view(COUNT)["count"]
    return count
