"""A batch: consecutive events as numpy columns. What scan yields and fold takes in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from journal import arrays, cell, events, segment
from journal.context import Context
from journal.errors import CorruptJournal
from journal.walk import Piece
from replay import unpacking

ROWS: Final = 1 << 17
"""Events that are unpacked at once; 8 MB of columns."""
COLUMNS: Final = {
    "seq": np.uint64,
    "time_ns": np.int64,
    "kind": np.uint16,
    "flags": np.uint8,
    "form": np.uint16,
    "agent": np.uint32,
    "env_index": np.uint32,
    "episode": np.uint64,
    "step": np.uint64,
    "value": np.float64,
}


@dataclass(slots=True)
class Batch:
    """Events in seq order: columns of equal length n, marks left out, reward batches unpacked to one row per reward."""

    seq: NDArray[np.uint64]
    time_ns: NDArray[np.int64]
    kind: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    form: NDArray[np.uint16]
    agent: NDArray[np.uint32]
    env_index: NDArray[np.uint32]
    episode: NDArray[np.uint64]
    step: NDArray[np.uint64]
    value: NDArray[np.float64]
    run: NDArray[np.int32]
    """Index into `runs`; -1 for an event outside any run."""
    runs: list[str]
    names: list[str]
    """`names[n - 1]` is the name with number n; holds at least the names that the rows use."""
    payloads: dict[int, bytes]
    """Row → msgpack payload, for the rows that carry one."""
    path: str = segment.DIRECTORY
    """The file that holds them."""
    heads: tuple[NDArray[np.uint64], NDArray[np.int64]] | None = None
    """Of a segment: each event's first seq and its cell's place there; history has no byte for an event."""

    def __len__(self) -> int:
        return len(self.seq)

    def name(self, number: int) -> str:
        """The name with this number; `"#7"` where the log never gave it."""
        return self.names[number - 1] if 0 < number <= len(self.names) else f"#{number}"

    def fields(self, row: int) -> dict[str, Any]:
        """The payload of a row, unpacked; empty where it has none or its kind is unknown."""
        raw = self.payloads.get(row)
        content = events.unpack(raw) if raw else {}
        return content if isinstance(content, dict) else {}

    def offset(self, seq: int) -> int:
        """Where in its file an event of this batch lies, in bytes; 0 in a file of history."""
        return 0 if self.heads is None else _offset(*self.heads, seq)

    def cut(self, start: int, stop: int) -> Batch:
        """The rows [start, stop)."""
        columns: dict[str, Any] = {name: getattr(self, name)[start:stop] for name in COLUMNS}
        return Batch(
            **columns,
            run=self.run[start:stop],
            runs=self.runs,
            names=self.names,
            payloads={row - start: raw for row, raw in self.payloads.items() if start <= row < stop},
            path=self.path,
            heads=self.heads,
        )

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """These rows, in this order; each at most once."""
        columns: dict[str, Any] = {name: getattr(self, name)[rows] for name in COLUMNS}
        place = {row: new for new, row in enumerate(rows.tolist())} if self.payloads else {}
        return Batch(
            **columns,
            run=self.run[rows],
            runs=self.runs,
            names=self.names,
            payloads={place[row]: raw for row, raw in self.payloads.items() if row in place},
            path=self.path,
            heads=self.heads,
        )


def _offset(first: NDArray[np.uint64], place: NDArray[np.int64], seq: int) -> int:
    """The byte of the cell that holds event `seq`: the last one that begins at or before it."""
    return (int(place[np.searchsorted(first, np.uint64(seq), side="right") - 1]) + 1) * cell.CELL


class Runs:
    """Which run each row belongs to: it follows the few events that change it, from batch to batch."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._ids: list[str] = []
        self.row = 0
        """The row that is looked at, for who must say which one it was."""

    def column(self, kind: NDArray[np.uint16], payloads: dict[int, bytes]) -> tuple[NDArray[np.int32], list[str]]:
        """The run column of the next rows, and the list it points into."""
        column = np.full(len(kind), self._number(self.context.run), dtype=np.int32)
        rare = np.flatnonzero(np.isin(kind, (cell.RUN_STARTED, cell.RUN_ENDED, cell.ATTEMPT_STARTED, cell.NAME_GIVEN)))
        for row in rare.tolist():
            self.row, code = row, int(kind[row])
            raw = payloads.get(row)
            self.context.apply(code, 0, 0, 0, 0, events.unpack(raw) if raw else None)
            # A run's last event still belongs to it.
            column[row + (code == cell.RUN_ENDED) :] = self._number(self.context.run)
        return column, self._ids

    def _number(self, run: str | None) -> int:
        if run is None:
            return -1
        if not self._ids or run != self._ids[-1]:
            if run in self._ids:
                return self._ids.index(run)
            self._ids.append(run)
        return len(self._ids) - 1


def parts(piece: Piece) -> Iterator[Piece]:
    """A piece in stretches of its heads, of at most `ROWS` events each or one reward batch: bounded when unpacked."""
    rows = np.cumsum(arrays.takes(piece.cells[piece.heads]), dtype=np.uint64)
    start = 0
    while start < len(piece.heads):
        before = int(rows[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(rows, np.uint64(before + ROWS), side="right")))
        yield replace(piece, heads=piece.heads[start:stop])
        start = stop


def unpack(piece: Piece, runs: Runs) -> Batch:
    """All events of a checked segment. Raises `CorruptJournal` where a reward batch contradicts itself."""
    heads = piece.heads[piece.cells["kind"][piece.heads] < cell.MARK_FIRST]
    found = piece.cells[heads]
    kind = found["kind"].copy()
    payloads: dict[int, bytes] = {}
    with_payload = np.flatnonzero(found["extent"])
    is_batch = kind == cell.REWARDS
    columns = {name: found[name] for name in COLUMNS}
    if is_batch.any():
        columns = _expand(piece, heads, found, is_batch)
        # Where each head's first row lies, now that batches take many.
        count = arrays.takes(found)
        row_of = (np.cumsum(count) - count).astype(np.int64)
        with_payload = with_payload[~is_batch[with_payload]]
        rows = row_of[with_payload].tolist()
    else:
        columns = {name: np.ascontiguousarray(column) for name, column in columns.items()}
        rows = with_payload.tolist()
    for row, at in zip(rows, heads[with_payload].tolist(), strict=True):
        payloads[row] = bytes(arrays.payload(piece.raw, piece.cells, at))
    try:
        run, ids = runs.column(columns["kind"], payloads)
    except ValueError as error:
        seq = int(columns["seq"][runs.row])
        raise CorruptJournal(piece.path, _offset(found["seq"], heads, seq), seq, str(error)) from error
    return Batch(
        **columns,
        run=run,
        runs=ids,
        names=runs.context.names,
        payloads=payloads,
        path=piece.path,
        heads=(np.ascontiguousarray(found["seq"]), heads),
    )


def _expand(piece: Piece, heads: arrays.Index, found: arrays.Cells, is_batch: NDArray[np.bool_]) -> dict[str, Any]:
    batches = np.flatnonzero(is_batch)
    wrong = unpacking.contradiction(found[batches])
    if wrong is not None:
        at = int(batches[wrong[0]])
        raise CorruptJournal(piece.path, piece.offset(int(heads[at])), int(found["seq"][at]), wrong[1])
    count = arrays.takes(found).astype(np.int64)
    columns = {name: np.repeat(found[name], count) for name in COLUMNS}
    begin = np.cumsum(count) - count
    columns["seq"] += (np.arange(len(columns["seq"])) - np.repeat(begin, count)).astype(np.uint64)
    unpacking.unpack(piece.raw, piece.cells, heads[batches], columns, begin[batches])
    in_batch = columns["kind"] == cell.REWARDS
    columns["kind"][in_batch] = cell.REWARDED
    columns["form"][in_batch] = 0
    return columns
