"""Rows and cells, there and back: what history keeps beside the table, so that the original cells can be made again.

    cells of a segment ── to_table ──▶ rows ── to_cells ──▶ the same bytes
                                        └───── to_batch ──▶ what scan yields

One row is one event. What a cell holds and a row does not say by itself stands in the columns `code` … `head`; the
checksums are not kept but computed again, which also checks them. Marks stand with the event that follows them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from functools import cache
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal import arrays, cell
from journal.cell import CELL
from journal.crc import crc32c
from journal.walk import Piece
from replay import arrow, table, unpacking
from replay.batch import COLUMNS, Batch

SCHEMA: Final = pa.schema(
    [
        *table.EXACT,
        pa.field("marks", pa.binary()),
        pa.field("head", pa.binary()),
    ]
)
"""The table's columns; the raw cells that stand before the event and are none; the raw head of a reward batch, in its
first row."""

_COLUMN_OF: Final = {name: name for name in COLUMNS} | {"time_ns": "time", "kind": "code", "agent": "agent_number"}
"""Field of a cell, and of a batch → its column."""
_FIELD_OF: Final = {name: field for field, name in _COLUMN_OF.items()}
READ: Final = [*(name for name in _COLUMN_OF.values() if name != "seq"), "run", "payload"]
"""The columns that `to_batch` needs: the events are numbered without a gap."""
ALIKE: Final = {_COLUMN_OF[name]: dtype for name, dtype in COLUMNS.items() if np.issubdtype(dtype, np.integer)}
"""Columns of integers that need not be unpacked where statistics tell that they hold one number alone."""
KEPT: Final = [*_COLUMN_OF.values(), "payload", "marks", "head"]
"""The columns that `to_cells` needs."""

STRETCH: Final = 1 << 13
"""Cells that are made again at once: they and the tables of their checksums fit the processor's cache."""


def to_table(piece: Piece, batch: Batch, before: int) -> tuple[pa.Table, int]:
    """The rows of `batch`, which are the events of `piece` (of those heads that it holds).

    `before` is the index of the cell after the last event taken so far; the cells from there to the first event here
    are its marks. Returns the rows, and that index for the next call.
    """
    is_event = piece.seqs[1:] > piece.seqs[:-1]
    at, row = piece.heads[is_event], (piece.seqs[:-1][is_event] - piece.seqs[0]).astype(np.int64)
    kinds = arrays.column(piece.cells, "kind", at)
    ends = at + 1 + arrays.column(piece.cells, "extent", at)
    begins = np.concatenate(([before], ends[:-1])) if len(at) else at
    marks = {
        int(row[i]): bytes(piece.raw[begins[i] * CELL : at[i] * CELL]) for i in np.flatnonzero(begins < at).tolist()
    }
    heads = {
        int(row[i]): bytes(piece.raw[at[i] * CELL : (at[i] + 1) * CELL])
        for i in np.flatnonzero(kinds == cell.REWARDS).tolist()
    }
    columns = [
        *table.record_batch(batch, table.EXACT).columns,
        *(arrow.sparse(len(batch), values, pa.binary()) for values in (marks, heads)),
    ]
    return pa.Table.from_arrays(columns, schema=SCHEMA), int(ends[-1]) if len(ends) else before


def read_columns(names: Collection[str] | None) -> list[str]:
    """The columns that `to_batch` needs for a batch that has these, or all."""
    return READ if names is None else [*(_COLUMN_OF[name] for name in names if name != "seq"), "payload"]


def to_batch(rows: pa.Table, names: list[str], first: int, alike: Mapping[str, int]) -> Batch:
    """The batch of rows, all of one chunk, the first of which has seq `first`; it needs the payloads.

    It has the columns that the rows have; and those of `alike`, which hold this number alone (as int64, in its bits).
    """
    held = set(rows.column_names)
    columns: dict[str, Any] = {field: numbers(rows, name) for field, name in _COLUMN_OF.items() if name in held}
    for field, name in _COLUMN_OF.items():
        if name in alike:
            number = np.array(alike[name], dtype=np.int64).astype(COLUMNS[field])
            columns[field] = np.broadcast_to(number, rows.num_rows)
    runs: list[str] = []
    if "run" in held:
        run = _chunk(rows, "run")
        columns["run"] = _as_numpy(run.indices.fill_null(-1), np.int32)
        runs = run.dictionary.to_pylist()
    return _Numbered(first, columns, rows.num_rows, runs=runs, names=names, payloads=_rare(rows, "payload"))


class _Numbered(Batch):
    """Events of history, numbered without a gap: the column of their seqs is made when it is asked for."""

    def __init__(self, first: int, columns: Mapping[str, NDArray[Any]], length: int, **options: Any) -> None:
        super().__init__(columns, length, **options)
        self._first = first

    def column(self, name: str) -> NDArray[Any]:
        if name == "seq" and name not in self._columns:
            self._columns[name] = np.arange(self._first, self._first + len(self), dtype=np.uint64)
        return super().column(name)

    def at(self, name: str, row: int) -> Any:
        return self._first + row if name == "seq" else self._columns[name][row]

    def _names(self) -> Iterable[str]:
        return {**self._columns, "seq": None}


def to_cells(rows: pa.Table, salt: int, position: int) -> memoryview:
    """The original cells of these rows, which are of one segment; the first (a mark, if there is one) at `position`.

    Raises `ValueError` where rows contradict each other.
    """
    payloads, marks = _rare(rows, "payload"), _rare(rows, "marks")
    first, heads = _heads(rows)
    columns = {field: numbers(rows, name) for field, name in _COLUMN_OF.items()}
    single = _outside(first, heads, rows.num_rows)

    before, extents, takes = np.zeros((3, rows.num_rows), dtype=np.int64)
    takes[single] = takes[first] = 1
    extents[first] = heads["extent"]
    for row, raw in marks.items():
        before[row] = len(raw) // CELL
    for row, payload in payloads.items():
        extents[row] = cell.extent_of(len(payload))[0]
    after = np.cumsum(before + takes + extents)
    index = after - 1 - extents

    out = np.zeros((int(after[-1]) if len(after) else 0, CELL), dtype=np.uint8)
    cells = out.reshape(-1).view(arrays.CELL_DTYPE)
    if payloads:
        pads, crcs = np.zeros(rows.num_rows, dtype=np.uint8), np.zeros(rows.num_rows, dtype=np.uint32)
        for row, payload in payloads.items():
            head = int(index[row])
            _put(out, head + 1, payload)
            pads[row], crcs[row] = cell.extent_of(len(payload))[1], cell.checksum(payload, salt, position + head)
        columns |= {"extent": extents, "pad": pads, "payload_crc": crcs}
    for begin in range(0, len(single), STRETCH):
        some = single[begin : begin + STRETCH]
        made = np.zeros(len(some), dtype=arrays.CELL_DTYPE)
        taken = slice(begin, begin + len(some)) if not len(first) else some
        for field, column in columns.items():
            made[field] = column[taken]
        made["crc"] = checksums(made.view(np.uint8).reshape(-1, CELL), index[taken], salt, position)
        arrays.put(cells, index[taken], made)
    for row, raw in marks.items():
        _put(out, int(index[row] - before[row]), raw)
    cells[index[first]] = heads
    for members, packed in unpacking.pack(heads, columns, first):
        out[(index[first[members]] + 1)[:, None] + np.arange(packed.shape[1])] = packed
    return out.reshape(-1).data


def checksums(raw: NDArray[np.uint8], at: arrays.Index, salt: int, position: int) -> NDArray[np.uint32]:
    """The `crc` of the cells `raw`, of shape (n, 64), at least one, which stand at the positions `position + at`.

    A CRC is linear: of messages of one length it is the XOR of one table entry per byte. Many cells at once, that is
    many times faster than one call per cell; where all of them have the same byte, as in most places, once is enough.
    """
    contributions, length = _tables(), CELL - 4
    start = np.uint32(crc32c(bytes(length), salt))
    words = raw.view(np.uint64)
    differ = np.array([np.bitwise_or.reduce(words[:, one] ^ words[0, one]) for one in range(words.shape[1])])
    result = ((position + at) & 0xFFFFFFFF).astype(np.uint32) ^ start
    for place, differs in enumerate(differ.view(np.uint8)[4:].tolist()):
        contribution, column = contributions[place], raw[:, 4 + place]
        result ^= contribution.take(column) if differs else contribution[column[0]]
    return result


@cache
def _tables() -> NDArray[np.uint32]:
    """[i, b]: what a byte b at place i of a cell's body adds to its CRC."""
    length = CELL - 4
    zero = crc32c(bytes(length))
    return np.array(
        [[crc32c(bytes(i) + bytes([b]) + bytes(length - 1 - i)) ^ zero for b in range(256)] for i in range(length)],
        dtype=np.uint32,
    )


def _heads(rows: pa.Table) -> tuple[arrays.Index, arrays.Cells]:
    """The rows in which reward batches begin, and their heads."""
    column = _chunk(rows, "head")
    heads = arrays.view(b"".join(column.drop_null().to_pylist()))
    first = _present(column)
    counts = heads.view(arrays.COUNT)["count"]
    room = np.append(first[1:], rows.num_rows)[: len(first)] - first
    if len(heads) != len(first) or unpacking.contradiction(heads) or (counts < 1).any() or (counts > room).any():
        raise ValueError("a reward batch in it is not whole")
    return first, heads


def _outside(first: arrays.Index, heads: arrays.Cells, count: int) -> arrays.Index:
    """The rows, of `count`, that are in no reward batch."""
    if not len(first):
        return np.arange(count)
    in_batch = np.zeros(count + 1, dtype=np.int8)
    in_batch[first] += 1
    in_batch[first + heads.view(arrays.COUNT)["count"].astype(np.int64)] -= 1
    return np.flatnonzero(np.cumsum(in_batch[:-1], dtype=np.int8) == 0)


def _put(out: NDArray[np.uint8], index: int, raw: bytes) -> None:
    flat = out.reshape(-1)
    flat[index * CELL : index * CELL + len(raw)] = np.frombuffer(raw, dtype=np.uint8)


def _chunk(rows: pa.Table, name: str) -> pa.Array:
    column = rows.column(name)
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def numbers(rows: pa.Table, name: str) -> NDArray[Any]:
    """A column without nulls as a numpy array, bit for bit; times as nanoseconds."""
    return _as_numpy(_chunk(rows, name), COLUMNS[_FIELD_OF[name]])


def _as_numpy(column: pa.Array, dtype: Any) -> NDArray[Any]:
    """The same memory. Arrow's own way there imports pandas, which takes longer than a million events."""
    if column.null_count:
        raise ValueError("it lacks numbers")
    return np.frombuffer(column.buffers()[1], dtype)[column.offset : column.offset + len(column)]


def _rare(rows: pa.Table, name: str) -> dict[int, bytes]:
    """Row → value of a column of bytes that is nearly all null."""
    column = _chunk(rows, name)
    if column.null_count == len(column):
        return {}
    at = _present(column)
    _, offsets, data = column.buffers()
    ends = np.frombuffer(offsets, np.int32)[column.offset :]
    places = zip(at.tolist(), ends[at].tolist(), ends[at + 1].tolist(), strict=True)
    raw = memoryview(data or b"").cast("B")
    return {row: bytes(raw[begin:end]) for row, begin, end in places}


def _present(column: pa.Array) -> arrays.Index:
    """The rows that are not null; a byte of eight that are costs next to nothing."""
    valid = column.buffers()[0]
    if valid is None:
        return np.arange(len(column))
    packed = np.frombuffer(valid, np.uint8)
    places = np.flatnonzero(packed != 0)
    bits = np.unpackbits(packed[places], bitorder="little").reshape(-1, 8)
    rows: arrays.Index = (places[:, None] * 8 + np.arange(8))[bits.view(np.bool_)] - column.offset
    return rows[(rows >= 0) & (rows < len(column))]
