"""Copying the log, also of a journal that is being written: the prefix that a promise covers, sealed there.

The seal is put exactly where the promise ends, so the copy's chain has the same head as the promise. The one module
besides `recovery` and `commit` that seals a segment; it is another journal's, that nobody writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from journal import cell, segment
from journal.cell import CELL
from journal.errors import CorruptJournal, JournalFailed
from journal.manifest import Manifest
from journal.storage import Storage, replacing
from journal.walk import Piece, Promise, Walk


def copy_log(
    walk: Walk, target: Storage, promise: Promise, *, progress: Callable[[str], object] = lambda path: None
) -> Manifest:
    """Write the cells before `promise` into `target`; returns the manifest that makes it a journal, not yet written.

    `walk` is a new one, of the source; `promise` one that an earlier walk of it found. The segments are durable
    when it returns. Raises what walking raises, and `OSError` where the target cannot be written.
    """
    target.make_directory(segment.DIRECTORY)
    copied = []
    for piece in walk:
        kept = _kept(piece, promise)
        if kept is None:
            break
        with replacing(target, piece.path) as stream:
            for part in kept:
                stream.write(part)
        copied.append(piece.header.ordinal)
        progress(piece.path)
    return walk.manifest.with_segments(tuple(copied))


def check_log(storage: Storage, promise: Promise) -> None:
    """Read a copied log again, all of it. Raises `JournalFailed` unless its last promise is `promise`."""
    try:
        found = Walk(storage).run().promise
    except CorruptJournal as error:
        raise JournalFailed(
            f"{storage.name}: the copy does not read as it was written: {error.path}: {error.reason}; "
            "check that disk and copy again"
        ) from error
    if found != promise:
        raise JournalFailed(
            f"{storage.name}: the copy does not end where its source does: check that disk and copy again"
        )


def _kept(piece: Piece, promise: Promise) -> tuple[bytes | memoryview, ...] | None:
    """The bytes of a segment's copy; None where nothing in it is promised."""
    count = promise.position - piece.position
    if piece.sealed and count >= piece.end - 1:
        return piece.header.pack(), piece.raw[: piece.end * CELL]
    if count <= 0:
        return None
    seal = cell.pack_promise(
        cell.SEGMENT_SEALED,
        promise.events,
        time.time_ns(),
        promise.position,
        promise.events,
        promise.chain,
        salt=piece.header.salt,
        at=promise.position,
    )
    return piece.header.pack(), piece.raw[: count * CELL], seal
