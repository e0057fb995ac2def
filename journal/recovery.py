"""Recovery: after an unclean stop, make the log end at its last good cell, losing nothing that was promised.

It runs whenever a journal is opened for writing, is idempotent, and classifies everything (`journal.walk`) before it
changes anything. In this order, each step durable before the next, so that a crash in the middle is recovered as well:

    1. copy the torn tail to quarantine/
    2. sync the last sealed and every unsealed segment: what they hold, and their names, may be in the page cache only
    3. list only the segments that stay; remove the others: wholly torn ones, spares, compaction's leftovers
       (as far as history is there)
    4. seal the unsealed segments, cut all behind their seal
    5. remove unfinished temp files
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from journal import cell, chain, segment
from journal.cell import CELL
from journal.context import Context
from journal.live import failure
from journal.manifest import Base, Manifest
from journal.storage import Storage, replace
from journal.walk import Piece, Walk

QUARANTINE = "quarantine"
_HISTORY = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})\.parquet")
_DIRECTORIES = (segment.DIRECTORY, "history", "snapshots", "snapshots/twin", "checkpoints", QUARANTINE)


@dataclass(frozen=True, slots=True)
class Recovered:
    """What recovery found and did. `crashed`: the last writer did not close the log."""

    crashed: bool
    adopted_events: int
    torn_events: int
    torn_bytes: int
    quarantined: tuple[str, ...]
    reason: str | None


def recover(storage: Storage, manifest: Manifest, time_ns: int) -> tuple[Recovered, Manifest, Base]:
    """Bring the journal to its last good cell. The caller holds the writer's lock.

    Returns what was done, the manifest as it is on disk now, and where the next segment begins (its context without
    open episodes: their process is gone). Everything it adopted is durable and sealed when it returns. Raises
    `CorruptJournal`, `UnsupportedFormat` or `JournalFailed` with nothing changed.
    """
    walk = Walk(storage, manifest, ahead=True)
    context = walk.run().context()
    try:
        return _repair(storage, manifest, walk, context, time_ns)
    except OSError as error:
        raise failure(error, f"recovering {storage.name}") from error


def _repair(
    storage: Storage, manifest: Manifest, walk: Walk, context: Context, time_ns: int
) -> tuple[Recovered, Manifest, Base]:
    torn = walk.torn
    quarantined = _quarantine(storage, walk)

    for path in (walk.last_sealed, *(piece.path for piece in walk.unsealed)):
        if path is not None:
            _sync(storage, path)
    if walk.unsealed:
        storage.sync_directory(segment.DIRECTORY)

    leftover = walk.leftover if _in_history(storage, manifest) else []
    unwanted = {*leftover, *walk.empty, *(torn.later if torn else ())}
    keep = tuple(ordinal for ordinal in walk.ordinals if ordinal not in unwanted)
    if keep == manifest.segments:
        storage.sync_directory("")  # Whoever wrote it may have died before this.
    else:
        manifest = manifest.with_segments(keep)
        manifest.write(storage)
    for ordinal in sorted(unwanted, reverse=True):
        # One by one from the end, also for a power cut: a gap in the sequence would look like a loss.
        storage.remove(segment.path_of(ordinal))
        storage.sync_directory(segment.DIRECTORY)

    position, seq, value = walk.position, walk.seq, walk.chain
    for piece in walk.unsealed:
        value = _seal(storage, piece, value, time_ns)
        position = piece.position + piece.end + 1
    for piece in walk.excess:
        _cut(storage, piece)

    for directory in ("", *_DIRECTORIES):
        for name in storage.list(directory):
            if name.endswith(".tmp"):
                storage.remove(f"{directory}/{name}" if directory else name)

    done = Recovered(
        crashed=bool(walk.unsealed or torn),
        adopted_events=seq - walk.promise.events,
        torn_events=torn.events if torn else 0,
        torn_bytes=torn.bytes if torn else 0,
        quarantined=quarantined,
        reason=torn.reason if torn else None,
    )
    context.episodes.clear()
    following = keep[-1] + 1 if keep else manifest.base.ordinal
    return done, manifest, Base(following, position, seq, value, context)


def _in_history(storage: Storage, manifest: Manifest) -> bool:
    """Is there a history file, by its name, for every event below the live log that was not dropped?

    Otherwise the segments that were compacted are not removed: they may be all that is left.
    """
    begins = {int(match[2]): int(match[1]) for match in map(_HISTORY.fullmatch, storage.list("history")) if match}
    end = manifest.base.seq
    while end > manifest.kept_from:
        first = begins.get(end - 1, end)
        if first >= end:
            return False  # No file ends there.
        end = first
    return end == manifest.kept_from


def _quarantine(storage: Storage, walk: Walk) -> tuple[str, ...]:
    """Keep the torn bytes as evidence before anything is cut. Never overwrites what was kept earlier."""
    kept = []
    for ordinal, index in walk.torn.parts if walk.torn else ():
        data = storage.read(segment.path_of(ordinal), (index + 1) * CELL).rstrip(b"\0")
        if not data:
            continue
        path = name = f"{QUARANTINE}/{ordinal:08d}-{index}"
        again = 0
        while storage.exists(path):
            if storage.read(path) == data:
                break
            again += 1
            path = f"{name}.{again}"
        else:
            storage.make_directory(QUARANTINE)
            replace(storage, path, data)
        kept.append(path)
    return tuple(kept)


def _seal(storage: Storage, piece: Piece, value: bytes, time_ns: int) -> bytes:
    """Write and sync the seal of a segment that is synced, cut behind it. Returns the chain after the seal.

    `value` is the chain at the piece's last promise (at its beginning, where it holds none).
    """
    good = piece.raw[piece.verified * CELL : piece.end * CELL]
    value = chain.extend(value, (good,))
    mark = cell.pack_promise(
        cell.SEGMENT_SEALED,
        piece.seq + piece.events,
        time_ns,
        piece.position + piece.end,
        piece.seq + piece.events,
        value,
        salt=piece.header.salt,
        at=piece.position + piece.end,
    )
    file = storage.open(piece.path)
    try:
        file.write(piece.offset(piece.end), mark)
        file.sync()
        file.truncate(piece.offset(piece.end) + CELL)
        file.sync()
    finally:
        file.close()
    return chain.extend(value, (mark,))


def _sync(storage: Storage, path: str) -> None:
    file = storage.open(path)
    try:
        file.sync()
    finally:
        file.close()


def _cut(storage: Storage, piece: Piece) -> None:
    file = storage.open(piece.path)
    try:
        file.truncate(piece.offset(piece.end))
        file.sync()
    finally:
        file.close()
