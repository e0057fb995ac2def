"""Tail: the last events of a journal, and those that a living training adds.

Following reads only what is new: from the cell where it stopped, by pread, and on to the next segment behind a seal.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import Final

import numpy as np

from journal import arrays, cell, segment
from journal.cell import CELL
from journal.manifest import Manifest
from journal.storage import Storage
from journal.walk import Piece, Walk, context_after, opening_context
from journal.writer import LOCK_PATH
from replay.batch import Batch, Runs, parts, unpack
from replay.loading import Place, storage_of
from replay.scan import kept, scan

_POLL: Final = 0.1
"""Seconds between two looks."""
_CHUNK: Final = 4 << 20
"""Bytes looked at in one step; more only for a longer payload."""


def last(place: Place, count: int) -> tuple[list[Batch], int]:
    """The last `count` events, in batches, and the seq that comes next. Raises as `replay.load` does."""
    storage = storage_of(place)
    manifest = Manifest.read(storage)
    end = Walk(storage, manifest, live=storage.locked(LOCK_PATH)).run().seq
    newest: deque[Batch] = deque()
    held = 0
    for batch in scan(storage, since=kept(storage, max(0, end - count))) if count > 0 else ():
        newest.append(batch)
        held += len(batch)
        while held - len(newest[0]) >= count:
            held -= len(newest.popleft())
    if held > count:
        newest[0] = newest[0].cut(held - count, len(newest[0]))
    return list(newest), int(newest[-1].seq[-1]) + 1 if newest else end


def follow(place: Place, since: int) -> Iterator[Batch]:
    """The events from seq `since` on, as they are appended; goes on for ever. Raises as `replay.load` does."""
    storage = storage_of(place)
    while True:
        for batch in _until_now(storage, since):
            for one in batch.batches() if isinstance(batch, _Follower) else (batch,):
                yield one
                since = int(one.seq[-1]) + 1
        time.sleep(_POLL)


def _until_now(storage: Storage, since: int) -> Iterator[Batch | _Follower]:
    """What is there, and then who reads on from exactly there; nobody where there is no segment."""
    manifest = Manifest.read(storage)
    if since < manifest.base.seq:
        yield from scan(storage, since=since, until=manifest.base.seq)
    walk = Walk(storage, manifest, live=True)
    for piece in walk:
        runs = Runs(opening_context(piece))
        for part in parts(piece):
            batch = unpack(part, runs)
            start = max(0, since - int(batch.seq[0])) if len(batch) else 0
            if start < len(batch):
                yield batch.cut(start, len(batch))
    if walk.last is not None:
        yield _Follower(storage, walk.last)


class _Follower:
    """Reads on behind the last good cell of a segment, and in those after it."""

    def __init__(self, storage: Storage, piece: Piece) -> None:
        self._storage = storage
        self._header = piece.header
        self._path = piece.path
        self._index = piece.end
        """Of the next cell, counted from the segment opened mark."""
        self._base = piece.position
        self._seq = piece.seq + piece.events
        self._sealed = piece.sealed
        self._runs = Runs(context_after(piece))

    def batches(self) -> Iterator[Batch]:
        """What is appended; ends where the log has to be looked at anew (a file was compacted away)."""
        while True:
            try:
                piece = self._next_segment() if self._sealed else self._new_cells()
            except FileNotFoundError:
                return
            if piece is None:
                time.sleep(_POLL)
            elif piece.events:
                yield unpack(piece, self._runs)

    def _new_cells(self) -> Piece | None:
        if self._storage.read(self._path, 0, CELL) != self._header.pack():
            raise FileNotFoundError  # An empty segment was removed, and another one made in its place.
        length = _CHUNK
        while True:
            data = self._storage.read(self._path, (self._index + 1) * CELL, length)
            raw = memoryview(data)[: len(data) // CELL * CELL]
            cells = arrays.view(raw)
            if not len(cells) or not int(cells["kind"][0]):
                return None
            found = arrays.heads(cells)
            if len(found) or len(data) < length:
                break
            length *= 2  # A payload longer than this.
        position = self._base + self._index
        bad = arrays.first_bad(raw, cells, found, self._header.salt, position)
        if bad is not None:
            found = found[found < bad]
        takes = arrays.takes(cells[found])
        expected = np.uint64(self._seq) + np.cumsum(takes, dtype=np.uint64) - takes
        wrong = np.flatnonzero(cells["seq"][found] != expected)
        found = found[: wrong[0]] if len(wrong) else found
        if not len(found):
            return None
        end = int(found[-1]) + 1 + int(cells["extent"][found[-1]])
        self._sealed = int(cells["kind"][found[-1]]) == cell.SEGMENT_SEALED
        piece = Piece(self._header, self._path, position, self._seq, raw, cells, found, end, 0, self._sealed, len(data))
        self._index += end
        self._seq += piece.events
        return piece

    def _next_segment(self) -> Piece | None:
        path = segment.path_of(self._header.ordinal + 1)
        try:
            raw = self._storage.read(path, 0, 2 * CELL)
        except FileNotFoundError:
            if not self._storage.exists(self._path):
                raise
            return None
        header = segment.Header.parse(raw, path)
        if isinstance(header, str) or not any(raw[CELL:]):
            return None  # A spare: prepared, not yet begun.
        self._base, self._header, self._path = self._base + self._index, header, path
        self._index, self._sealed = 0, False
        return self._new_cells()
