"""Many cells at once: the log as a numpy array. Nothing is parsed byte by byte."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Final, NamedTuple

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

OWNER: Final = np.dtype({"names": ["owner"], "formats": ["<u8"], "offsets": [32], "itemsize": CELL})
"""Agent and env_index as one number."""

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
_KIND_EXTENT: Final = np.dtype({"names": ["both"], "formats": ["<u4"], "offsets": [4], "itemsize": CELL})
"""Kind and extent as one number, the extent in its upper half."""
_ALIKE: Final = 8
"""Heads in a row that are alike, before more are looked at than one."""
_MANY: Final = 64
"""Heads at equal distances that are worth a call of their own."""
_LOOK: Final = 1 << 10
"""As many as that are looked at first, to see whether they are alike: the call takes as long as looking."""
_LOOK_MAX: Final = 1 << 14
"""As many as that are looked at at once: 1 MiB of cells without payload fits the processor's cache."""
_TAKEN: Final = 1 << 13
"""Heads of which several fields are copied at once: half a MiB of cells, which fits the processor's cache."""
_COMPARED: Final = 1 << 16
"""Heads that are compared at once."""

Cells = NDArray[Any]
Index = NDArray[np.int64]


def view(raw: bytes | memoryview) -> Cells:
    """The whole cells of `raw`, without a copy; a rest of less than a cell is left out."""
    return np.frombuffer(raw, dtype=CELL_DTYPE, count=len(raw) // CELL)


class Found(NamedTuple):
    """Heads that follow each other, and what every reader asks of them: arrays of their own, not views of the cells."""

    heads: Index
    """Their indices."""
    kinds: NDArray[np.uint16]
    seqs: NDArray[np.uint64]
    """The seq of each, or for a mark of the event after it, and the one behind the last: one more than `heads`."""

    def cut(self, start: int, stop: int) -> Found:
        """The heads [start, stop) of them."""
        return Found(self.heads[start:stop], self.kinds[start:stop], self.seqs[start : stop + 1])


class Stretches(NamedTuple):
    """Heads at equal distances, stretch after stretch."""

    each: list[tuple[int, int, int]]
    """Index of the first, step, count; in `follow` each begins where the one before it ends."""
    heads: int
    """In all of them."""

    @property
    def long(self) -> bool:
        """Are they so long, on average, that one after the other is quickest?"""
        return self.heads >= _MANY * len(self.each)


def follow(cells: Cells, first: int, memory: NDArray[np.uint64] | None = None) -> Found:
    """The heads from cell 0 on, as long as their seqs follow, from `first` on; perhaps written into `memory`.

    That is of `follow_room(len(cells))` numbers, for who asks again and again: fresh memory costs as much as looking.
    """
    stretches = _stretches(cells)
    count = stretches.heads
    # One piece of memory: the allocator gives three to the system and gets them again, page by page, with each segment.
    if memory is None:
        memory = np.empty(follow_room(count), dtype=np.uint64)
    found, following = memory[:count].view(np.int64), memory[count : 2 * count + 1]
    kinds = memory[2 * count + 1 : follow_room(count)].view(np.uint16)[:count]
    _indices(stretches, found)
    take(cells["kind"], found, stretches, kinds)
    seqs(cells, found, kinds, first, following)
    return Found(found, kinds, following).cut(0, _alike(cells["seq"], stretches, found, following))


def follow_room(count: int) -> int:
    """Numbers of memory that `follow` needs for so many cells."""
    return 2 * count + 1 + -(-count // 4)


def heads(cells: Cells) -> Index:
    """Indices of the cells that are heads, if every extent is to be believed; the first cell must be one.

    Ends before the first cell of kind 0 and before a head whose payload is not all there.
    """
    stretches = _stretches(cells)
    found = np.empty(stretches.heads, dtype=np.int64)
    _indices(stretches, found)
    return found


def _stretches(cells: Cells) -> Stretches:
    """The heads, see `heads`.

    A bounded walk: it trusts extents only to skip, and the caller checks what it found. Payloads are skipped unread,
    and heads of the same extent that follow each other are taken many at once.
    """
    both, total = cells.view(_KIND_EXTENT)["both"], len(cells)
    both_at = both.item
    found: list[tuple[int, int, int]] = []
    at = start = alike = last = done = 0
    look = _LOOK
    while at < total and (one := both_at(at)) & 0xFFFF:
        step, count = (one >> 16) + 1, 1
        if at + step > total:
            break
        if step != last:
            if alike:
                found.append((start, last, alike))
                done += alike
            start, alike, last, look = at, 0, step, _LOOK
        elif alike >= _ALIKE:
            some = both[at : min(total - step + 1, at + look * step) : step]
            count = _leading(some == one)
            look = min(4 * look, _LOOK_MAX)
            if count < len(some):  # Of another kind, perhaps of the same extent: few of those are looked at, at once.
                rest = some[count : count + _MANY]
                count += _leading(((rest & 0xFFFF) != 0) & (rest >> 16 == step - 1))
                look = _LOOK
        alike += count
        at += step * count
    if alike:
        found.append((start, last, alike))
    return Stretches(found, done + alike)


def _leading(true: NDArray[np.bool_]) -> int:
    """How many of them are true, up to the first that is not."""
    return len(true) if true.all() else int(true.argmin())


def _indices(stretches: Stretches, into: Index) -> None:
    """Write the index of each head."""
    if not stretches.long:
        skips = np.repeat([step for _, step, _ in stretches.each], [count for _, _, count in stretches.each])
        np.subtract(np.cumsum(skips, out=into), skips, out=into)
        return
    done = 0
    for start, step, count in stretches.each:
        into[done : done + count] = np.arange(start, start + step * count, step)
        done += count


def side_by_side(found: Index, ends: Index) -> Stretches:
    """The stretches of the heads `found`; behind the places `ends` in it the next head is not the next cell."""
    starts = np.append(0, ends[:-1] + 1) if len(found) else ends
    if len(starts) * _MANY > len(found):
        starts = starts[:0]  # One by one: `take` needs none of them.
    counts = ends[: len(starts)] + 1 - starts
    each = [(start, 1, count) for start, count in zip(found[starts].tolist(), counts.tolist(), strict=True)]
    return Stretches(each, len(found) if each else -1)


def take(column: NDArray[Any], found: Index, stretches: Stretches, into: NDArray[Any] | None = None) -> NDArray[Any]:
    """A copy of one field of each head, perhaps made `into` an array. Without `stretches` it is one by one."""
    made = np.empty(len(found), dtype=column.dtype) if into is None else into
    _take([column], found, stretches, [made])
    return made


def taken(columns: list[NDArray[Any]], found: Index, stretches: Stretches) -> list[NDArray[Any]]:
    """Copies of several fields: while a cell is in the processor's cache, all of them."""
    made = [np.empty(len(found), dtype=column.dtype) for column in columns]
    _take(columns, found, stretches, made)
    return made


def _take(columns: list[NDArray[Any]], found: Index, stretches: Stretches, into: list[NDArray[Any]]) -> None:
    if not stretches.long:
        for column, made in zip(columns, into, strict=True):
            made[:] = column[found]
        return
    done = 0
    both = list(zip(columns, into, strict=True))
    at_once = _TAKEN if len(columns) > 1 else _COMPARED
    for start, step, count in stretches.each:
        for first in range(start, start + step * count, step * at_once):
            behind = min(start + step * count, first + step * at_once)
            stop = done + (behind - first) // step
            for column, made in both:
                made[done:stop] = column[first:behind:step]
            done = stop


def _alike(column: NDArray[Any], stretches: Stretches, found: Index, expected: NDArray[Any]) -> int:
    """How many heads have the expected value in one field, up to the first that has another one."""
    if not stretches.long:
        return _leading(column[found] == expected[: len(found)])
    done = 0
    for start, step, count in stretches.each:
        for first in range(0, count, _COMPARED):
            some = column[start + first * step : start + min(count, first + _COMPARED) * step : step]
            right = _leading(some == expected[done : done + len(some)])
            done += right
            if right < len(some):
                return done
    return done


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
    if len(breaks) * _MANY >= len(found):
        target[found] = source
        return
    for begin, end in pairwise([0, *breaks.tolist(), len(found)]):
        target[found[begin] : found[begin] + end - begin] = source[begin:end]


def first_bad(raw: memoryview, cells: Cells, found: Index, salt: int, first_position: int) -> int | None:
    """The first of the heads `found` that does not check, payload and padding included; None if all do.

    A payload that is not all there does not check, whatever its checksum says of the rest. `first_position` is the
    position of `raw[0:64]`.
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
            if end > len(raw) or pad >= CELL or any(raw[exact:end]):
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


def seqs(
    cells: Cells, found: Index, kinds: NDArray[np.uint16], first: int, into: NDArray[np.uint64] | None = None
) -> NDArray[np.uint64]:
    """The seqs that the heads `found`, of these kinds, must have, and the one behind the last; perhaps written `into`.

    A mark takes none, a batch its count, any other one; a mark has the seq of the event after it. Of a count no more is
    believed than the batch's payload can hold, so that no seq wraps round whatever a cell says.
    """
    following = np.empty(len(found) + 1, dtype=np.uint64) if into is None else into
    following[0] = first
    np.less(kinds, cell.MARK_FIRST, out=following[1:], casting="unsafe")
    batches = np.flatnonzero(kinds == cell.REWARDS)
    if len(batches):
        at = found[batches]
        held = cells["extent"][at].astype(np.uint64) * (CELL // 8)  # A reward takes 8 bytes at least.
        following[1:][batches] = np.minimum(cells.view(COUNT)["count"][at], held)
    return np.cumsum(following, out=following)
