"""A batch: consecutive events as numpy columns. What scan yields and fold takes in.

A segment's batch makes a column when somebody first asks for it: nearly all events are rewards, of which the fold needs
little more than the values.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from journal import arrays, cell, events, segment
from journal.errors import CorruptJournal
from journal.walk import Piece, opening_context
from replay import unpacking
from replay.runs import Runs, filled

ROWS: Final = 1 << 17
"""Events that are unpacked at once; 8 MB of columns."""
PAYLOADS: Final = 1 << 16
"""Cells of payloads that are unpacked at once; 4 MB, and one event's."""
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

_LARGE: Final = 512
"""Rewards of a batch, on average, above which each is added up where it lies."""

FOLDED: Final = (*(name for name in COLUMNS if name not in ("form", "step")),)
"""What the fold needs of a batch: of history, the rest need not be unpacked for it."""

Scalar = TypeVar("Scalar", bound=np.generic)


class _Column(Generic[Scalar]):
    """An attribute of a batch that is one of its columns."""

    def __set_name__(self, owner: type[Batch], name: str) -> None:
        self._name = name

    @overload
    def __get__(self, batch: None, owner: type[Batch]) -> _Column[Scalar]: ...

    @overload
    def __get__(self, batch: Batch, owner: type[Batch]) -> NDArray[Scalar]: ...

    def __get__(self, batch: Batch | None, owner: type[Batch]) -> _Column[Scalar] | NDArray[Scalar]:
        return self if batch is None else batch.column(self._name)


class Batch:
    """Events in seq order: columns of equal length n, marks left out, reward batches unpacked to one row per reward."""

    seq = _Column[np.uint64]()
    time_ns = _Column[np.int64]()
    kind = _Column[np.uint16]()
    flags = _Column[np.uint8]()
    form = _Column[np.uint16]()
    agent = _Column[np.uint32]()
    env_index = _Column[np.uint32]()
    episode = _Column[np.uint64]()
    step = _Column[np.uint64]()
    value = _Column[np.float64]()
    run = _Column[np.int32]()
    """Index into `runs`; -1 for an event outside any run."""

    def __init__(
        self,
        columns: Mapping[str, NDArray[Any]],
        length: int,
        *,
        runs: list[str],
        names: list[str],
        payloads: dict[int, bytes],
        path: str = segment.DIRECTORY,
        piece: Piece | None = None,
    ) -> None:
        self._columns = dict(columns)
        self._length = length
        self.runs = runs
        self.names = names
        """`names[n - 1]` is the name with number n; holds at least the names that the rows use."""
        self.payloads = payloads
        """Row → msgpack payload, for the rows that carry one."""
        self.path = path
        """The file that holds them."""
        self._piece = piece
        """Of a segment: where each event lies in it; history has no byte for an event."""

    def __len__(self) -> int:
        return self._length

    def column(self, name: str) -> NDArray[Any]:
        """One column; the same array each time."""
        return self._columns[name]

    def at(self, name: str, row: int) -> Any:
        """One number of a column, which need not be made for that."""
        return self.column(name)[row]

    @property
    def latest_ns(self) -> int:
        """The newest time."""
        return int(self.time_ns.max())

    def values(self, start: int, stop: int) -> Iterable[NDArray[np.float64]]:
        """The values of the rows [start, stop), in order, in pieces; not necessarily a copy, nor side by side."""
        return (self.value[start:stop],)

    def rare(self) -> NDArray[np.int64]:
        """The rows that are no rewards."""
        return np.flatnonzero(self.kind != cell.REWARDED)

    def changes(self) -> NDArray[np.int64]:
        """The rows whose agent, phase, env_index or episode differs from the row before."""
        return _changes(self.flags, self.agent, self.env_index, self.episode)

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
        return 0 if self._piece is None else _offset(self._piece, seq)

    def cut(self, start: int, stop: int) -> Batch:
        """The rows [start, stop)."""
        if (start, stop) == (0, len(self)):
            return self
        payloads = {row - start: raw for row, raw in self.payloads.items() if start <= row < stop}
        return self._of({name: self.column(name)[start:stop] for name in self._names()}, stop - start, payloads)

    def take(self, rows: NDArray[np.int64]) -> Batch:
        """These rows, in this order; each at most once."""
        place = {row: new for new, row in enumerate(rows.tolist())} if self.payloads else {}
        payloads = {place[row]: raw for row, raw in self.payloads.items() if row in place}
        return self._of({name: self.column(name)[rows] for name in self._names()}, len(rows), payloads)

    def _names(self) -> Iterable[str]:
        """Of the columns that it has."""
        return self._columns

    def _of(self, columns: dict[str, NDArray[Any]], length: int, payloads: dict[int, bytes]) -> Batch:
        return Batch(
            columns, length, runs=self.runs, names=self.names, payloads=payloads, path=self.path, piece=self._piece
        )


class _Unpacked(Batch):
    """The events of a checked segment. Knows the first row of each head, and makes a column when it is asked for."""

    def __init__(self, piece: Piece, runs: Runs) -> None:
        self._cells = piece.cells
        self._heads, kind, seqs = _events(piece)
        self._begins: NDArray[np.int64] = (seqs - piece.seqs[0]).view(np.int64)
        self._asked = (-1, -1)
        self._views: dict[str, NDArray[Any]] = {}
        length = int(piece.seqs[-1] - piece.seqs[0])
        self._kinds = kind
        self._batches = np.flatnonzero(kind == cell.REWARDS)
        self._of_batches = arrays.at(piece.cells, self._heads[self._batches])
        wrong = unpacking.contradiction(self._of_batches) if len(self._batches) else None
        if wrong is not None:
            index = int(self._batches[wrong[0]])
            place = piece.offset(int(self._heads[index]))
            raise CorruptJournal(piece.path, place, int(self._of_batches["seq"][wrong[0]]), wrong[1])
        self._rare = np.flatnonzero((kind != cell.REWARDED) & (kind != cell.REWARDS))
        # Behind a payload the next head stands further on.
        ends = np.append(np.flatnonzero(self._heads[1:] - self._heads[:-1] != 1), len(self._heads) - 1)
        ends = ends[: len(self._heads)]
        self._stretches = arrays.side_by_side(self._heads, ends)
        with_payload = ends[(kind[ends] != cell.REWARDS) & (piece.cells["extent"][self._heads[ends]] != 0)]
        payloads = {
            row: bytes(arrays.payload(piece.raw, piece.cells, at))
            for row, at in zip(self._begins[with_payload].tolist(), self._heads[with_payload].tolist(), strict=True)
        }
        rare = list(zip(self.rare().tolist(), kind[self._rare].tolist(), strict=True))
        try:
            self._runs, ids = runs.follow(rare, payloads)
        except ValueError as error:
            seq = self._seq(runs.row)
            raise CorruptJournal(piece.path, _offset(piece, seq), seq, str(error)) from error
        super().__init__(
            {}, length, runs=ids, names=runs.context.names, payloads=payloads, path=piece.path, piece=piece
        )

    def column(self, name: str) -> NDArray[Any]:
        made = self._columns.get(name)
        if made is None:
            made = self._columns[name] = self._make(name)
        return made

    def at(self, name: str, row: int) -> Any:
        if not len(self._batches):
            view = self._views.get(name)
            return (self._of_cells(name) if view is None else view).item(self._heads.item(row))
        made = self._columns.get(name)
        if made is not None:
            return made[row]
        if name == "seq":
            return self._seq(row)
        index = self._index(row)
        head = self._heads.item(index)
        if self._kinds[index] != cell.REWARDS or name in ("time_ns", "flags", "agent"):
            return self._of_cells(name).item(head)
        place = unpacking.PLACES.index(name) if name in unpacking.PLACES else None
        if place is not None and not self._of_cells("form").item(head) >> 2 * place & 3:
            return self._of_cells(name).item(head)
        return self.column(name)[row]

    def _of_cells(self, name: str) -> NDArray[Any]:
        """One field of all cells; to make the view takes longer than to look at one number in it."""
        view = self._views.get(name)
        if view is None:
            view = self._views[name] = self._cells[name]
        return view

    def _names(self) -> Iterable[str]:
        return (*COLUMNS, "run")

    @property
    def latest_ns(self) -> int:
        if not self._stretches.long or "time_ns" in self._columns:
            return int((self._field("time_ns") if len(self._batches) else self.time_ns).max())
        times = self._cells["time_ns"]
        return max(int(times[start : start + count].max()) for start, _, count in self._stretches.each)

    def values(self, start: int, stop: int) -> Iterable[NDArray[np.float64]]:
        """Where they lie, if they lie together: a column of them need not be made to be added up."""
        if "value" in self._columns:
            return super().values(start, stop)
        first, last = self._index(start), self._index(stop - 1)
        at, end = int(self._heads[first]), int(self._heads[last])
        if not len(self._batches):
            return (self._cells["value"][at : end + 1],) if end - at == last - first else super().values(start, stop)
        return (
            self._parts(start, stop, first, last)
            if stop - start > _LARGE * (last - first)
            else super().values(start, stop)
        )

    def _parts(self, start: int, stop: int, first: int, last: int) -> Iterator[NDArray[np.float64]]:
        """The same of the heads [first, last], batches of many rewards nearly all."""
        piece = self._piece
        assert piece is not None
        for index in range(first, last + 1):
            at, begin = int(self._heads[index]), int(self._begins[index])
            if self._kinds[index] == cell.REWARDS:
                count = int(self._cells.view(arrays.COUNT)["count"][at])
                value = unpacking.values(piece.raw, at, count, int(self._cells["form"][at]))
                yield value[max(0, start - begin) : stop - begin]
            else:
                yield self._cells["value"][at : at + 1]

    def rare(self) -> NDArray[np.int64]:
        return self._begins[self._rare]

    def changes(self) -> NDArray[np.int64]:
        for place, name in enumerate(unpacking.PLACES):
            if name != "step" and (self._of_batches["form"] >> 2 * place & 3).any():
                return super().changes()
        if not len(self._batches):
            return self._changes_of_singles()
        # Within a batch nothing changes.
        return self._begins[_changes(self._field("flags"), self._field("owner"), self._field("episode"))]

    def _changes_of_singles(self) -> NDArray[np.int64]:
        """The same where each row is a cell: most stretches of cells are of one episode, so that is asked first."""
        columns = (self._cells["flags"], self._cells.view(arrays.OWNER)["owner"], self._cells["episode"])
        if not self._stretches.long:
            return _changes(*(column[self._heads] for column in columns))
        flags, owner, episode = columns
        found, row, before = [], 0, None
        for start, _, count in self._stretches.each:
            here = int(flags[start]) & cell.EVAL, int(owner[start]), int(episode[start])
            if before is not None and here != before:
                found.append(np.array([row]))
            some = [column[start : start + count] for column in columns]
            if count > 1 and not all((column == column[0]).all() for column in some):
                found.append(_changes(*some) + row)
                last = start + count - 1
                here = int(flags[last]) & cell.EVAL, int(owner[last]), int(episode[last])
            row, before = row + count, here
        return np.concatenate(found) if found else np.empty(0, np.int64)

    def _index(self, row: int) -> int:
        """Of the head that holds a row; many questions are about the same one."""
        if not len(self._batches):
            return row
        if row != self._asked[0]:
            self._asked = row, int(self._begins.searchsorted(row, side="right")) - 1
        return self._asked[1]

    def _seq(self, row: int) -> int:
        index = self._index(row)
        return int(self._cells["seq"][self._heads[index]]) + row - int(self._begins[index])

    def _field(self, name: str) -> NDArray[Any]:
        """One field of the heads, as it stands there."""
        cells = self._cells.view(arrays.OWNER) if name == "owner" else self._cells
        return arrays.take(cells[name], self._heads, self._stretches)

    def _make(self, name: str) -> NDArray[Any]:
        if name == "run":
            return filled(self._length, self._runs)
        if not len(self._batches):
            return self._field(name)
        if name in unpacking.UNPACKED:
            column = np.empty(self._length, dtype=COLUMNS[name])
            single = np.ones(len(self._heads), dtype=bool)
            single[self._batches] = False
            column[self._begins[single]] = self._cells[name][self._heads[single]]
            piece = self._piece
            assert piece is not None
            unpacking.unpack(
                piece.raw, piece.cells, self._heads[self._batches], {name: column}, self._begins[self._batches]
            )
            return column
        found = self._field(name)
        if name == "kind":
            found[self._batches] = cell.REWARDED
        elif name == "form":
            found[self._batches] = 0
        elif name == "seq":
            found -= self._begins.astype(np.uint64)
        column = np.repeat(found, np.diff(self._begins, append=self._length))
        if name == "seq":
            column += np.arange(self._length, dtype=np.uint64)
        return column


def _events(piece: Piece) -> tuple[arrays.Index, NDArray[np.uint16], NDArray[np.uint64]]:
    """The heads of a piece that are events, their kinds and their seqs."""
    found, kinds, seqs = piece.heads, piece.kinds, piece.seqs[:-1]
    marks = np.flatnonzero(kinds >= cell.MARK_FIRST)
    if not len(marks):
        return found, kinds, seqs
    first = int(marks[0] == 0)
    last = len(found) - int(marks[-1] == len(found) - 1)
    if len(marks) == first + len(found) - last:  # Only at the ends.
        return found[first:last], kinds[first:last], seqs[first:last]
    return np.delete(found, marks), np.delete(kinds, marks), np.delete(seqs, marks)


def _offset(piece: Piece, seq: int) -> int:
    """The byte of the cell that holds event `seq`: the last one that begins at or before it."""
    heads, _, seqs = _events(piece)
    return piece.offset(int(heads[np.searchsorted(seqs, np.uint64(seq), side="right") - 1]))


def _changes(flags: NDArray[Any], *columns: NDArray[Any]) -> NDArray[np.int64]:
    changed = np.zeros(len(flags), dtype=bool)
    for column, mask in ((flags, cell.EVAL), *((column, None) for column in columns)):
        if column.strides != (0,):  # Else it is one number, in history where that is known beforehand.
            column = column if mask is None else column & mask
            changed[1:] |= column[1:] != column[:-1]
    return np.flatnonzero(changed)


def parts(piece: Piece) -> Iterator[Piece]:
    """A piece in stretches of its heads, of at most `ROWS` events and `PAYLOADS` cells: bounded when unpacked.

    A reward batch is never cut, and the last event of a stretch has its whole payload.
    """
    start, seqs, behind_heads = 0, piece.seqs, piece.heads.item
    while start < len(piece.heads):
        stop = int(np.searchsorted(seqs, seqs[start] + np.uint64(ROWS), side="right")) - 1
        # Cells before a head that are none themselves: they ascend, and are counted for those that are looked at.
        payloads = behind_heads(start) - start + PAYLOADS
        stop = bisect_left(range(stop), payloads, lo=start, key=lambda index: behind_heads(index) - index)
        stop = max(start + 1, stop)
        yield replace(piece, heads=piece.heads[start:stop], kinds=piece.kinds[start:stop], seqs=seqs[start : stop + 1])
        start = stop


def unpacked(piece: Piece) -> Iterator[tuple[Piece, Batch]]:
    """The stretches of a checked segment, each with its events. Raises as `unpack` does."""
    runs = Runs(opening_context(piece))
    for part in parts(piece):
        yield part, unpack(part, runs)
        del part


def unpack(piece: Piece, runs: Runs) -> Batch:
    """All events of a checked segment. Raises `CorruptJournal` where a reward batch contradicts itself."""
    return _Unpacked(piece, runs)
