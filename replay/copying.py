"""Copy: a consistent copy of a journal, also of one that is being written: its promised prefix, sealed.

In this order, so that what a training goes on to do does not disturb it: note the last promise; copy the checkpoints at
once (those named before it may be removed next); then history, snapshots and log, which only grow; `journal.json` last,
so that an unfinished copy is no journal. Then the copy is read and checked.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Container, Iterator
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
from replay.info import sizes
from replay.loading import Place, load, storage_of
from replay.progress import Progress, silent
from replay.promises import Head
from replay.state import Checkpoint, State

_CHUNK: Final = 1 << 20
_TRIES: Final = 20
"""A compaction, or a checkpoint removed just now, makes the copy start again with a newer promise."""
_NO_FILE: Final = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG})
"""There is no file of that path."""
_PARQUET: Final = re.compile(r"(?:[0-9]+-)?([0-9]+)\.parquet")
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
    """The source has gone on: begin again, with a newer promise."""


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
        copying = _Copying(source, into, progress)
        for _ in range(_TRIES):
            manifest = Manifest.read(source)
            try:
                return copying.once(manifest)
            except (_Moved, FileNotFoundError):
                continue  # A training retires checkpoints, a compaction snapshots, also of what it left as it was.
            except CorruptJournal:
                if Manifest.read(source).base == manifest.base:
                    raise
    except OSError as error:
        kind = DiskFull if no_space(error) else JournalFailed
        raise kind(
            f"{into.name}: copying failed: {error.strerror or error}; remove what was begun there and copy again"
        ) from error
    raise JournalFailed(
        f"{source.name}: files are retired faster than they are copied; raise the training's keep=, or copy later"
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


class _Copying:
    """From one source to one target; checkpoints, whose files never change, are kept from one try to the next."""

    def __init__(self, source: Storage, target: Storage, progress: Progress) -> None:
        self._source = source
        self._target = target
        self._progress = progress
        self._done = self._total = 0
        self._digests: dict[str, str] = {}
        """Checkpoint in the target → its SHA-256."""

    def once(self, manifest: Manifest) -> Copied:
        """One try. Raises `_Moved` where a checkpoint that is named has gone, and what reading and writing raise."""
        source, target = self._source, self._target
        live = source.locked(LOCK_PATH)
        promise = Walk(source, manifest, live=live).run().promise
        present = {path: size for path, size in sizes(source, "checkpoints").items() if not path.endswith(".tmp")}
        compacted = list(_compacted(source, manifest))
        logged = [segment.path_of(ordinal) for ordinal in manifest.segments]
        self._done, self._total = 0, sum([*present.values(), *map(source.size, [*compacted, *logged])])
        if live:
            # Which of them are named takes time to find out; by then some may be gone.
            for path in present:
                self._copy_checkpoint(path)
        named = _named(load(source, at=promise.events - 1))
        damaged = self._check_checkpoints(named, live)
        for path in compacted:
            self._copy_file(path)
        copied = copy_log(
            Walk(source, manifest, live=live), target, promise, progress=lambda path: self._advance(source.size(path))
        )
        self._remove_others({segment.path_of(ordinal) for ordinal in copied.segments} | named.keys())
        copied.write(target)
        check_log(target, promise)
        return Copied(target.name, promise.events, Head.of(promise), len(named) - len(damaged), tuple(damaged))

    def _check_checkpoints(self, named: dict[str, Checkpoint], live: bool) -> list[str]:
        """Copy those that are not there yet; what is wrong with the others, which are left out."""
        damaged = []
        for path, checkpoint in named.items():
            try:
                if not inside(path).startswith("checkpoints/"):
                    raise ValueError("its path leads outside checkpoints/")
            except ValueError as error:
                damaged.append(f"{path}: {error}")
                continue
            if not self._copy_checkpoint(path):
                if live:
                    raise _Moved
                damaged.append(f"{path}: the file is missing")
            elif self._digests[path] != checkpoint.sha256:
                self._target.remove(path)
                del self._digests[path]
                damaged.append(f"{path}: its SHA-256 does not match: it was altered or damaged")
        return damaged

    def _copy_checkpoint(self, path: str) -> bool:
        """Is it in the target now?"""
        if path not in self._digests:
            try:
                self._source.size(path)
            except OSError as error:
                if error.errno in _NO_FILE:
                    return False
                raise
            try:
                self._digests[path] = self._copy_file(path)
            except (FileNotFoundError, IsADirectoryError):
                return False
        return True

    def _copy_file(self, path: str) -> str:
        """Copy one file; returns its SHA-256."""
        self._target.make_directory(path.rpartition("/")[0])
        digest = hashlib.sha256()
        size = self._source.size(path)
        with replacing(self._target, path) as stream:
            for offset in range(0, size, _CHUNK):
                part = self._source.read(path, offset, min(_CHUNK, size - offset))
                stream.write(part)
                digest.update(part)
                self._advance(len(part))
        return digest.hexdigest()

    def _remove_others(self, wanted: Container[str]) -> None:
        """Take away what an earlier try has copied and is not needed any more."""
        for directory in (segment.DIRECTORY, "checkpoints"):
            for path in sizes(self._target, directory):
                if path not in wanted:
                    self._target.remove(path)

    def _advance(self, count: int) -> None:
        self._done = min(self._done + count, self._total)
        self._progress(self._done, self._total)


def _named(state: State) -> dict[str, Checkpoint]:
    """The checkpoints that a resume from this state may need, oldest first; a team's is named by each member."""
    found = {one.path: one for agent in state.agents.values() for one in agent.checkpoints}
    return dict(sorted(found.items(), key=lambda item: item[1].seq))


def _compacted(source: Storage, manifest: Manifest) -> Iterator[str]:
    """History and snapshots below the live log; what a compaction is just making is still in the segments."""
    for directory in ("history", "snapshots", "snapshots/twin"):
        for name in source.list(directory):
            match = _PARQUET.fullmatch(name)
            # The last event of what takes the place of dropped history is the last that was dropped.
            if match and manifest.kept_from - (directory != "history") <= int(match[1]) < manifest.base.seq:
                yield f"{directory}/{name}"
