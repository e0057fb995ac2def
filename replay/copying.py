"""Copy: a consistent copy of a journal, also of one that is being written: its promised prefix, sealed.

In this order, so that what a training goes on to do does not disturb it: note the last promise; copy the checkpoints
named before it (the training may remove them next); history, snapshots and log, which only grow; `journal.json` last,
so that an unfinished copy is no journal. Then the copy is read and checked.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from journal import segment
from journal.copying import check_log, copy_log
from journal.errors import CorruptJournal, DiskFull, JournalFailed, NotAJournal
from journal.live import no_space
from journal.manifest import Manifest
from journal.storage import Storage, inside, replacing
from journal.storage.disk import DiskStorage
from journal.walk import Walk
from journal.writer import LOCK_PATH
from replay.loading import Place, load, storage_of
from replay.progress import Progress, silent
from replay.promises import Head
from replay.state import Checkpoint, State

_CHUNK: Final = 1 << 20
_TRIES: Final = 20
"""A compaction, or a checkpoint removed just now, makes the copy start again with a newer promise."""
_PARQUET: Final = re.compile(r"(?:\d+-)?(\d+)\.parquet")
"""Of history and snapshots: the last seq is in the name."""


@dataclass(frozen=True, slots=True)
class Copied:
    """What is in the copy; durable."""

    target: str
    events: int
    head: Head
    """The last promise; the same as the source's was."""
    checkpoints: int
    damaged: tuple[str, ...]
    """Checkpoints that are missing or altered in the source, so not in the copy: path and why."""


class _Moved(Exception):
    """The source has gone on: begin again."""


def copy(place: Place, target: str | os.PathLike[str], *, progress: Progress = silent) -> Copied:
    """Copy the journal in `place` to the new or empty directory `target`. Durable when it returns.

    Raises what `replay.load` raises, `NotAJournal` where the target is taken, and `JournalFailed` (`DiskFull`) where it
    cannot be written; what was begun there is then no journal.
    """
    source = storage_of(place)
    manifest = Manifest.read(source)
    into = _empty_target(source, target)
    try:
        into.make_directory("")
        for _ in range(_TRIES):
            manifest = Manifest.read(source)
            try:
                return _copy(source, manifest, into, progress)
            except _Moved:
                continue
            except (CorruptJournal, FileNotFoundError):
                if Manifest.read(source).base == manifest.base:
                    raise
    except OSError as error:
        kind = DiskFull if no_space(error) else JournalFailed
        raise kind(
            f"{into.name}: copying failed: {error.strerror or error}; remove what was begun there and copy again"
        ) from error
    raise JournalFailed(
        f"{source.name}: the training removes checkpoints faster than they are copied; raise its keep=, or copy later"
    )


def _empty_target(source: Storage, target: str | os.PathLike[str]) -> DiskStorage:
    into = DiskStorage(target)
    if os.path.lexists(target) and not os.path.isdir(target):
        raise NotAJournal(f"{os.fspath(target)}: a file, not a directory; give a new or empty directory")
    if into.list(""):
        raise NotAJournal(f"{os.fspath(target)}: not empty; give a new or empty directory")
    if os.path.realpath(into.root).startswith(os.path.realpath(source.name) + os.sep):
        raise NotAJournal(f"{os.fspath(target)}: lies inside the journal; give a directory outside of it")
    return into


def _copy(source: Storage, manifest: Manifest, target: Storage, progress: Progress) -> Copied:
    live = source.locked(LOCK_PATH)
    promise = Walk(source, manifest, live=live).run().promise
    checkpoints = _named(load(source, at=promise.events - 1))
    compacted = list(_compacted(source, manifest))
    files = [*compacted, *(segment.path_of(ordinal) for ordinal in manifest.segments)]
    sizes = {path: source.size(path) for path in files if source.exists(path)}
    total = sum(sizes.values()) + sum(checkpoint.size for checkpoint in checkpoints)
    done = 0

    def advance(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        progress(done, total)

    damaged = []
    for checkpoint in checkpoints:
        wrong = _copy_checkpoint(source, target, checkpoint, advance)
        if wrong is not None and live and not source.exists(checkpoint.path):
            raise _Moved
        if wrong is not None:
            damaged.append(f"{checkpoint.path}: {wrong}")
    for path in compacted:
        _copy_file(source, target, path, advance)
    copied = copy_log(
        Walk(source, manifest, live=live), target, promise, progress=lambda path: advance(sizes.get(path, 0))
    )
    for name in target.list(segment.DIRECTORY):
        if segment.ordinal_of(name) not in copied.segments:
            target.remove(f"{segment.DIRECTORY}/{name}")
    copied.write(target)
    check_log(target, promise)
    progress(total, total)
    return Copied(target.name, promise.events, Head.of(promise), len(checkpoints) - len(damaged), tuple(damaged))


def _named(state: State) -> list[Checkpoint]:
    """The checkpoints that a resume from this state may need; a team's is named by each member."""
    found = {one.path: one for agent in state.agents.values() for one in agent.checkpoints}
    return sorted(found.values(), key=lambda one: one.seq)


def _compacted(source: Storage, manifest: Manifest) -> Iterator[str]:
    """History and snapshots below the live log; what a compaction is just making is still in the segments."""
    for directory in ("history", "snapshots"):
        for name in source.list(directory):
            match = _PARQUET.fullmatch(name)
            if match and int(match[1]) < manifest.base.seq:
                yield f"{directory}/{name}"


def _copy_checkpoint(
    source: Storage, target: Storage, checkpoint: Checkpoint, advance: Callable[[int], None]
) -> str | None:
    """None, or why it was not copied."""
    try:
        if not inside(checkpoint.path).startswith("checkpoints/"):
            return "its path leads outside checkpoints/"
        _copy_file(source, target, checkpoint.path, advance, checkpoint.sha256)
    except FileNotFoundError:
        return "the file is missing"
    except ValueError as error:
        return str(error)
    return None


def _copy_file(
    source: Storage, target: Storage, path: str, advance: Callable[[int], None], sha256: str | None = None
) -> None:
    """Copy one file. Raises `ValueError`, with nothing left in the target, where it has not this SHA-256."""
    target.make_directory(path.rpartition("/")[0])
    digest = hashlib.sha256()
    size = source.size(path)
    with replacing(target, path) as stream:
        for offset in range(0, size, _CHUNK):
            part = source.read(path, offset, min(_CHUNK, size - offset))
            stream.write(part)
            digest.update(part)
            advance(len(part))
        if sha256 is not None and digest.hexdigest() != sha256:
            raise ValueError("its SHA-256 does not match: it was altered or damaged")
