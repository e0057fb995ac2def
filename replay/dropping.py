"""Dropping history, where somebody asks for it: the totals stay, and a record of what is gone.

    everything is compacted and verified from the first event on: what cannot be verified is not dropped
    → the newest snapshot gets a twin: from here on nothing can make it anew         snapshots/twin/
    → journal.json notes what is dropped: events, chain, each file's SHA-256, when   (from here on it is not read)
    → history and older snapshots are removed, sync history/, snapshots/

Killed at any step, running it again (up to journal.json) or the next compaction (behind it) ends in the same place.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Final

from journal.errors import CorruptJournal, JournalFailed
from journal.manifest import Drop, DroppedFile, Manifest
from journal.storage import Storage, replacing
from replay import history, snapshot
from replay.history import Span
from replay.progress import Progress, silent
from replay.snapshot import path_of, twin_of

TWINS: Final = f"{snapshot.DIRECTORY}/twin"
_CHUNK: Final = 1 << 20
_FOUNDATIONS: Final = (history.DIRECTORY, snapshot.DIRECTORY, "journal.json", "segments")
"""Damage to these forbids to drop anything; a lost checkpoint has nothing to do with it."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """What was dropped, or would be."""

    events: int
    files: tuple[str, ...]
    bytes: int


NOTHING: Final = Dropped(0, (), 0)


def would_drop(
    storage: Storage, manifest: Manifest, made: dict[Span, int] | None = None, progress: Progress = silent
) -> Dropped:
    """What dropping history would take away: that which is there, and `made` (span → bytes), which a compaction adds.

    Raises `CorruptJournal` where it would refuse.
    """
    sizes = {span: storage.size(span.path) for span in history.spans(storage, manifest)} | (made or {})
    if not sizes:
        return NOTHING
    _check(storage, progress)
    events = sum(span.last + 1 - span.first for span in sizes)
    return Dropped(events, tuple(span.path for span in sizes), sum(sizes.values()))


def drop(storage: Storage, manifest: Manifest, progress: Progress = silent) -> Dropped:
    """Drop all history below the live log, which holds nothing. The caller holds the writer's lock; durable on return.

    Raises `CorruptJournal` where anything in it, or the snapshot, is not what it should be; nothing is dropped then.
    """
    done = would_drop(storage, manifest, progress=progress)
    if not done.files:
        return done
    last = manifest.base.seq - 1
    noted = {note.path: note for note in snapshot.read_at(storage, manifest).history}
    files = []
    for path in done.files:
        told = noted.get(path) or history.describe(storage, path)
        files.append(DroppedFile(path, told.size, told.sha256))
    _copy(storage, path_of(last), twin_of(last))
    entry = Drop(manifest.kept_from, last, manifest.base.chain, time.time_ns(), tuple(files))
    manifest = replace(manifest, drops=(*manifest.drops, entry))
    manifest.write(storage)
    finish(storage, manifest)
    return done


def finish(storage: Storage, manifest: Manifest) -> None:
    """Take away what was dropped and is still there, and mend the snapshot that takes its place, or its twin."""
    founding = manifest.kept_from - 1
    if manifest.drops:
        _mend(storage, manifest)
    _remove(storage, [span.path for span in history.all_spans(storage) if span.first < manifest.kept_from])
    _remove(storage, [path_of(last) for last in snapshot.seqs(storage) if last < founding])
    twins = [f"{TWINS}/{name}" for name in storage.list(TWINS)]
    _remove(storage, [path for path in twins if not manifest.drops or path != twin_of(founding)])


def _check(storage: Storage, progress: Progress) -> None:
    from replay.verify import verify  # It imports all that reads.

    for finding in verify(storage, deep=True, progress=progress).findings:
        if finding.file.partition("/")[0] in _FOUNDATIONS:
            raise CorruptJournal(finding.file, finding.offset, finding.seq, f"nothing is dropped: {finding.reason}")


def _mend(storage: Storage, manifest: Manifest) -> None:
    last = manifest.kept_from - 1
    good, bad = [], []
    for path in (path_of(last), twin_of(last)):
        try:
            snapshot.read_at(storage, manifest, last, path=path, whole=True)
            good.append(path)
        except CorruptJournal:
            bad.append(path)
    if good and bad:
        _copy(storage, good[0], bad[0])


def _copy(storage: Storage, source: str, target: str) -> None:
    """The same bytes under another name, durable, and read again."""
    storage.make_directory(target.rpartition("/")[0])
    size = storage.size(source)
    with replacing(storage, target) as stream:
        for offset in range(0, size, _CHUNK):
            stream.write(storage.read(source, offset, min(_CHUNK, size - offset)))
    for offset in range(0, size, _CHUNK):
        if storage.read(source, offset, _CHUNK) != storage.read(target, offset, _CHUNK):
            raise JournalFailed(
                f"{storage.name}: {target} is not what was written: check memory and disk, and try again"
            )


def _remove(storage: Storage, paths: list[str]) -> None:
    for path in paths:
        storage.remove(path)
    for directory in dict.fromkeys(path.rpartition("/")[0] for path in paths):
        storage.sync_directory(directory)
