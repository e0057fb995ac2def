"""Scan: the events of a journal in seq order, from history and segments alike, in bounded memory.

Beside a writer it is a consistent prefix of the log. A file that compaction takes away while it is read is not an
error: the journal is listed again and the scan goes on from its seq.
"""

from __future__ import annotations

from collections.abc import Iterator

from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage import Storage
from journal.walk import Walk, opening_context
from journal.writer import LOCK_PATH
from replay.batch import Batch, Runs, parts, unpack


def scan(storage: Storage, *, since: int = 0, until: int | None = None) -> Iterator[Batch]:
    """Batches of the events with since ≤ seq < until (to the end, if None).

    Memory: one segment, or one row group of history. Raises `CorruptJournal` at the first damage of what was promised
    (everything before it has been yielded), `NotAJournal`, `UnsupportedFormat`, `JournalFailed`.
    """
    following = since
    while True:
        manifest = Manifest.read(storage)
        try:
            for batch in _pass(storage, manifest, following, until):
                yield batch
                following = int(batch.seq[-1]) + 1
            return
        except CorruptJournal:
            if Manifest.read(storage).base == manifest.base:
                raise


def _pass(storage: Storage, manifest: Manifest, since: int, until: int | None) -> Iterator[Batch]:
    for batch in _everything(storage, manifest, since):
        if until is not None and len(batch) and int(batch.seq[0]) >= until:
            return
        start = max(0, since - int(batch.seq[0])) if len(batch) else 0
        stop = len(batch) if until is None else min(len(batch), until - int(batch.seq[0])) if len(batch) else 0
        if start < stop:
            yield batch if stop - start == len(batch) else batch.cut(start, stop)


def _everything(storage: Storage, manifest: Manifest, since: int) -> Iterator[Batch]:
    if since < manifest.base.seq:
        from replay.history import read  # It needs pyarrow.

        yield from read(storage, manifest, since)
    walk = Walk(storage, manifest, live=storage.locked(LOCK_PATH))
    for piece in walk:
        if walk.seq > since:
            runs = Runs(opening_context(piece))
            for part in parts(piece):
                yield unpack(part, runs)
