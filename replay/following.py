"""Following: what is there, and then what a living training adds, over rotations, compactions and restarts.

Only what is new is read: from the cell where it stopped, by pread, and on to the next segment behind a seal.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, NamedTuple

from journal import arrays, cell, segment
from journal.cell import CELL
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage import Storage
from journal.walk import Piece, Walk, context_after, opening_context
from replay.batch import Batch, parts, unpack
from replay.loading import Place, storage_of
from replay.runs import Runs
from replay.scan import Seen, kept, scan

if TYPE_CHECKING:
    import pyarrow as pa

_POLL: Final = 0.1
"""Seconds between two looks."""
_CHUNK: Final = 4 << 20
"""Bytes looked at in one step; more only for a longer payload."""
HELD_MAX: Final = 1 << 20
"""Events that wait in memory for their promise; beyond that they are let go, and read again when it comes."""


def follow(
    place: Place, *, since: int = 0, durable: bool = False, timeout: float | None = None
) -> Iterator[pa.RecordBatch]:
    """The events from seq `since` on, as `replay.events` gives them, and then each one that is appended.

    `durable`: only events that a power cut cannot take any more, as soon as that is promised. Without it an event comes
    when it survives the training's process; a power cut may still take it, and recovery then gives its seq to another.

    Goes on for ever, beside any number of trainings, one after the other; with `timeout` it ends when nothing came for
    so many seconds. Raises as `replay.load` does; `HistoryDropped` where it stopped at events that were dropped since.
    Memory: a segment, or a row group; with `durable` up to `HELD_MAX` events more.
    """
    from replay.table import record_batch  # It needs pyarrow.

    for batch in follow_batches(place, since, durable=durable, timeout=timeout):
        yield record_batch(batch)


def follow_batches(place: Place, since: int, *, durable: bool = False, timeout: float | None = None) -> Iterator[Batch]:
    """The same, as `replay.scan` gives them."""
    storage = storage_of(place)
    since = kept(storage, since)
    heard = time.monotonic()
    tries = 0
    while True:
        waiting = _Waiting()
        seen = Seen.now(storage)
        try:
            for news in _news(storage, seen.manifest, since):
                tries = 0
                found = waiting.release(news) if durable else [news.batch] if news.batch is not None else []
                for batch in found:
                    yield batch
                    since = int(batch.at("seq", len(batch) - 1)) + 1
                    heard = time.monotonic()
                if waiting.let_go and news.promised > since:
                    break  # What was let go can be read now.
                if news.idle:
                    if timeout is not None and time.monotonic() - heard >= timeout:
                        return
                    time.sleep(_POLL)
        except CorruptJournal:
            tries += 1
            if not seen.has_moved(storage, tries):
                raise


class News(NamedTuple):
    """What was found in one look."""

    batch: Batch | None
    promised: int
    """The events before this seq are promised."""
    idle: bool = False
    """There was nothing new."""


class _Waiting:
    """Events that are not promised yet."""

    def __init__(self) -> None:
        self._held: deque[Batch] = deque()
        self._count = 0
        self.let_go = False
        """There were too many: they are to be read again."""

    def release(self, news: News) -> Iterator[Batch]:
        """Take in what was found; gives what is promised now, in order."""
        if news.batch is not None and not self.let_go:
            self._held.append(news.batch)
            self._count += len(news.batch)
        while self._held and int(self._held[0].seq[0]) < news.promised:
            batch = self._held.popleft()
            count = min(len(batch), news.promised - int(batch.at("seq", 0)))
            if count < len(batch):
                self._held.appendleft(batch.cut(count, len(batch)))
                batch = batch.cut(0, count)
            self._count -= count
            yield batch
        if self._count > HELD_MAX:
            self._held.clear()
            self._count, self.let_go = 0, True


def _news(storage: Storage, manifest: Manifest, since: int) -> Iterator[News]:
    """What is there from `since` on, then what comes; ends where the log has to be looked at anew."""
    if since < manifest.base.seq:
        for batch in scan(storage, since=since, until=manifest.base.seq):
            yield News(batch, manifest.base.seq)
    walk = Walk(storage, manifest, live=True)
    for piece in walk:
        runs = Runs(opening_context(piece))
        for part in parts(piece) if walk.seq > since else ():
            batch = unpack(part, runs)
            start = max(0, since - int(batch.at("seq", 0))) if len(batch) else 0
            if start < len(batch):
                yield News(batch.cut(start, len(batch)), walk.promise.events)
    if walk.last is None:
        yield News(None, walk.promise.events, idle=True)
        return
    yield from _Follower(storage, walk.last, walk.promise.events).news()


class _Follower:
    """Reads on behind the last good cell of a segment, and in those after it."""

    def __init__(self, storage: Storage, piece: Piece, promised: int) -> None:
        self._storage = storage
        self._header = piece.header
        self._path = piece.path
        self._index = piece.end
        """Of the next cell, counted from the segment opened mark."""
        self._base = piece.position
        self._seq = piece.seq + piece.events
        self._sealed = piece.sealed
        self._runs = Runs(context_after(piece))
        self._promised = promised

    def news(self) -> Iterator[News]:
        """What is appended; ends where the log has to be looked at anew (a file was compacted away)."""
        while True:
            try:
                piece = self._next_segment() if self._sealed else self._new_cells()
            except FileNotFoundError:
                yield News(None, self._promised, idle=True)
                return
            if piece is None:
                yield News(None, self._promised, idle=True)
            else:
                yield News(unpack(piece, self._runs) if piece.events else None, self._promised)

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
            found, kinds, seqs = arrays.follow(cells, self._seq)
            if len(found) or len(data) < length or len(arrays.heads(cells)):
                break
            length *= 2  # A payload longer than this.
        position = self._base + self._index
        bad = arrays.first_bad(raw, cells, found, self._header.salt, position)
        if bad is not None:
            found = found[found < bad]
        if not len(found):
            return None
        end = int(found[-1]) + 1 + int(cells["extent"][found[-1]])
        kinds, seqs = kinds[: len(found)], seqs[: len(found) + 1]
        self._sealed = int(kinds[-1]) == cell.SEGMENT_SEALED
        piece = Piece(
            self._header,
            self._path,
            position,
            self._seq,
            raw,
            cells,
            found,
            kinds,
            seqs,
            end,
            0,
            self._sealed,
            len(data),
        )
        self._index += end
        self._seq += piece.events
        # A receipt is evidence of a sync that has returned; none states more than what stands before it.
        stated = cells[found[(kinds == cell.RECEIPT) | (kinds == cell.SEGMENT_SEALED)]].view(arrays.PROMISE_DTYPE)
        if len(stated):
            self._promised = max(self._promised, min(self._seq, int(stated["events"][-1])))
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
