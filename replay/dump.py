"""Dump: every cell of a journal as a line, marks included; of a damaged one, what precedes the damage."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

import numpy as np

from journal import arrays, segment
from journal.cell import CELL
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage import Storage
from journal.walk import Piece, Walk
from journal.writer import LOCK_PATH
from replay.lines import Line, piece_lines
from replay.loading import Place, storage_of
from replay.scan import kept

Moment = int | datetime
"""A seq, or a time."""


def dump(place: Place, *, since: Moment | None = None, until: Moment | None = None) -> Iterator[Line]:
    """One line per event (a reward batch is one) and mark, in order, with since ≤ seq < until; or since ≤ time < until.

    Where the log is damaged, what precedes the damage is yielded before `CorruptJournal` is raised.
    """
    newest_ns = 0
    try:
        # The running maximum of the times, where one ends the listing, begins with the first event.
        first = since if isinstance(since, int) and not isinstance(until, datetime) else 0
        for piece in _pieces(storage_of(place), first):
            if isinstance(since, int) and piece.seq + piece.events < since:
                continue
            for line in piece_lines(piece):
                newest_ns = max(newest_ns, line.time_ns)
                if until is not None and _reached(until, line, newest_ns):
                    return
                if since is None or _reached(since, line, newest_ns):
                    yield line
    except CorruptJournal as error:
        if not isinstance(until, int) or error.seq < until:
            raise


def _reached(moment: Moment, line: Line, newest_ns: int) -> bool:
    # A clock that went back does not matter: the running maximum counts.
    return line.seq >= moment if isinstance(moment, int) else newest_ns >= round(moment.timestamp() * 1e9)


def _pieces(storage: Storage, since: int) -> Iterator[Piece]:
    kept(storage, since)
    manifest = Manifest.read(storage)
    if manifest.base.seq:
        from replay.history import pieces, spans  # It needs pyarrow.

        for span in spans(storage, manifest, since):
            if span.last >= since:
                yield from pieces(storage, span.path)
    walk = Walk(storage, manifest, live=storage.locked(LOCK_PATH))
    try:
        yield from walk
    except CorruptJournal as error:
        rest = _before_damage(storage, walk, error)
        if rest is not None:
            yield rest
        raise


def _before_damage(storage: Storage, walk: Walk, error: CorruptJournal) -> Piece | None:
    """The cells of the damaged segment that precede the damage and check one by one; None where there are none."""
    directory, _, name = error.path.rpartition("/")
    ordinal = segment.ordinal_of(name)
    if directory != segment.DIRECTORY or ordinal is None or not storage.exists(error.path):
        return None
    data = storage.read(error.path, 0, min(error.offset, segment.SIZE_LIMIT))
    header = segment.Header.parse(data, error.path)
    if isinstance(header, str) or len(data) <= CELL:
        return None
    raw = memoryview(data)[CELL:]
    cells = arrays.view(raw)
    found = arrays.heads(cells)
    position = int(cells["episode"][0])
    bad = arrays.first_bad(raw, cells, found, header.salt, position)
    found = found if bad is None else found[found < bad]
    if not len(found) or position != walk.position:
        return None
    end = int(found[-1] + 1 + np.int64(cells["extent"][found[-1]]))
    kinds = cells["kind"][found]
    seqs = arrays.seqs(cells, found, kinds, walk.seq)
    return Piece(header, error.path, position, walk.seq, raw, cells, found, kinds, seqs, end, 0, False, len(data))
