"""Compaction: sealed segments become history and a snapshot; nothing is removed before its replacement is durable.

    write history, sync, make the segments again from it and compare, rename, sync history/
    → snapshot likewise                                 (the state, folded while history was written: loaded quickly)
    → journal.json: the live log begins behind the last compacted segment     (from here on history is what is read)
    → remove the segments, sync segments/

Killed at any step, running it again ends in the same place: up to journal.json the segments are the truth and what
lies there above the base is made anew or, where it is right, kept; behind it the segments are only leftovers.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import IO, Final

import numpy as np

from journal import segment
from journal.ahead import ahead
from journal.cell import CELL
from journal.errors import CorruptJournal, JournalFailed, JournalLocked
from journal.live import by_system, failure
from journal.manifest import Base, Manifest
from journal.recovery import recover
from journal.storage import LockHeld, Storage
from journal.writer import LOCK_PATH
from replay import history, snapshot
from replay.batch import unpacked
from replay.dropping import NOTHING, TWINS, Dropped, drop, finish, would_drop
from replay.history import Description, Span
from replay.intake import Intake, Stretch, plan, sealed, walked
from replay.loading import Place, storage_of
from replay.packing import HistoryWriter
from replay.progress import Progress, silent
from replay.snapshot import HistoryNote

_CHUNK: Final = 1 << 20
KEPT_SNAPSHOTS: Final = 2
"""The newest ones stay: if one is damaged, the other serves."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What a compaction did, or (`dry_run`) would do."""

    segments: int
    """How many segments went into history."""
    history: tuple[str, ...]
    """The history files that hold them."""
    snapshot: str | None
    """The snapshot that was made; None where the newest one was up to date."""
    bytes_before: int
    """Segments, history and snapshots together, before …"""
    bytes_after: int
    """… and after."""
    dropped: Dropped = NOTHING
    """The history that was dropped, where that was asked for."""


def compact(
    place: Place,
    *,
    dry_run: bool = False,
    keep: int = KEPT_SNAPSHOTS,
    drop_history: bool = False,
    progress: Progress = silent,
) -> Compacted:
    """Turn everything in the live log into history, with a snapshot of the state at its end. Durable when it returns.

    Recovers the log first, if it was not closed. Running it again with nothing new changes nothing, except that a
    damaged or missing snapshot is made anew. The newest `keep` snapshots stay, at least one. `dry_run` changes nothing
    at all: it does the work to nowhere, so that it knows the sizes, and takes as long. `drop_history` drops all history
    when that is done, for good (`replay.dropping`); a dry run tells it of the history that there is.

    Raises `JournalLocked` beside a running training, `CorruptJournal`, `NotAJournal`, `UnsupportedFormat`,
    `JournalFailed` and its child `DiskFull`; nothing is lost then. Memory: three segments, three row groups, the state.
    """
    storage = storage_of(place)
    manifest = Manifest.read(storage)
    with _reporting(storage):
        if dry_run:
            if storage.locked(LOCK_PATH):
                raise JournalLocked(f"{storage.name}: a training writes this journal; compact it when that has ended")
            return _rehearse(storage, manifest, keep, drop_history, progress)
        with _locked(storage):
            before = _size(storage)
            manifest = recover(storage, Manifest.read(storage), time.time_ns())[1]
            finish(storage, manifest)
            done = _compact(storage, manifest, before, keep, progress)
            if drop_history:
                dropped = drop(storage, Manifest.read(storage), progress)
                done = replace(done, dropped=dropped, bytes_after=_size(storage))
            return done


def _compact(storage: Storage, manifest: Manifest, before: int, keep: int, progress: Progress) -> Compacted:
    stretches = plan(manifest, sealed(storage, manifest))
    end = stretches[-1].end if stretches else manifest.base
    strays = _strays(storage, manifest, end)
    if not stretches and _up_to_date(storage, manifest):
        _retire_snapshots(storage, manifest, keep)
        return Compacted(0, (), None, before, _size(storage))

    step = _steps(storage, manifest.base, end, progress)
    notes = _notes(storage, manifest)
    with Intake(storage, manifest) as log:
        for stretch in stretches:
            told = _make_history(storage, log, stretch, step)
            notes.append(HistoryNote(told.path, told.size, told.sha256))
    made = _make_snapshot(storage, log, notes)
    for path in strays:
        # From the next step on they would lie below the base, where everything counts.
        if path not in (made, *(note.path for note in notes)):
            storage.remove(path)
            storage.sync_directory(path.partition("/")[0])

    if stretches:
        replace(manifest, base=log.place, segments=()).write(storage)
        for ordinal in range(manifest.base.ordinal, end.ordinal):
            storage.remove(segment.path_of(ordinal))
        storage.sync_directory(segment.DIRECTORY)
    _retire_snapshots(storage, manifest, keep)
    return _compacted(stretches, made, before, _size(storage))


def _retiring(storage: Storage, manifest: Manifest, keep: int) -> list[int]:
    """All but the newest `keep`, and but the one that takes the place of dropped history."""
    return [last for last in snapshot.seqs(storage)[keep:] if last != manifest.kept_from - 1]


def _retire_snapshots(storage: Storage, manifest: Manifest, keep: int) -> None:
    retired = _retiring(storage, manifest, max(1, keep))
    for last in retired:
        storage.remove(snapshot.path_of(last))
    if retired:
        storage.sync_directory(snapshot.DIRECTORY)


def _rehearse(storage: Storage, manifest: Manifest, keep: int, drop_history: bool, progress: Progress) -> Compacted:
    """What would be done, with everything written to nowhere."""
    made: dict[Span, int] = {}
    done, live, newest = _rehearse_compaction(storage, manifest, keep, made, progress)
    if not drop_history:
        return done
    dropped = would_drop(storage, manifest, made, progress)
    return replace(done, dropped=dropped, bytes_after=live + 2 * newest)  # Of the snapshots one, and its twin.


def _rehearse_compaction(
    storage: Storage, manifest: Manifest, keep: int, made: dict[Span, int], progress: Progress
) -> tuple[Compacted, int, int]:
    """What compacting alone would do; and then the bytes of all segments, and those of the newest snapshot."""
    before = after = _size(storage)
    live = _size(storage, segment.DIRECTORY)
    stretches = plan(manifest, walked(storage, manifest))
    end = stretches[-1].end if stretches else manifest.base
    _strays(storage, manifest, end)
    kept = max(1, keep)
    if not stretches and _up_to_date(storage, manifest):
        after -= sum(storage.size(snapshot.path_of(last)) for last in _retiring(storage, manifest, kept))
        path = snapshot.path_of(manifest.base.seq - 1)
        return Compacted(0, (), None, before, after), live, storage.size(path) if manifest.base.seq else 0
    step = _steps(storage, manifest.base, end, progress)
    notes = _notes(storage, manifest)
    with Intake(storage, manifest) as log:
        for stretch in stretches:
            size, sha256 = _write_history(storage, log, stretch, _Nowhere(), step)
            notes.append(HistoryNote(stretch.span.path, size, sha256))
            made[stretch.span] = size
            taken = sum(storage.size(segment.path_of(ordinal)) for ordinal in stretch.ordinals)
            live, after = live - taken, after + size - taken
    newest = snapshot.write(_Nowhere(), log.state, log.place, notes)[0]
    after += newest
    after -= sum(storage.size(snapshot.path_of(last)) for last in _retiring(storage, manifest, kept - 1))
    return _compacted(stretches, snapshot.path_of(end.seq - 1), before, after), live, newest


def _compacted(stretches: list[Stretch], made: str, before: int, after: int) -> Compacted:
    files = tuple(stretch.span.path for stretch in stretches)
    return Compacted(sum(len(stretch.ordinals) for stretch in stretches), files, made, before, after)


# -- what is to be done ------------------------------------------------------------------------------------------------


def _strays(storage: Storage, manifest: Manifest, end: Base) -> list[str]:
    """What lies above the base: made by a compaction that was killed, or by another course of this journal.

    Raises `CorruptJournal` for history that reaches above the log's end: it may be all that is left of those events.
    """
    spans = [span for span in history.all_spans(storage) if span.first >= manifest.base.seq]
    for span in spans:
        if span.last >= end.seq:
            reason = (
                f"it holds events above seq {end.seq - 1}, where the log ends: journal.json or segments were set back"
            )
            raise CorruptJournal(span.path, 0, max(span.first, end.seq), reason)
    snapshots = [snapshot.path_of(last) for last in snapshot.seqs(storage) if last >= manifest.base.seq]
    return [span.path for span in spans] + snapshots


def _up_to_date(storage: Storage, manifest: Manifest) -> bool:
    """Is there a good snapshot at the base (or nothing that it could hold)?"""
    if not manifest.base.seq:
        return True
    try:
        snapshot.read_at(storage, manifest, whole=True)
    except CorruptJournal:
        return False
    return True


def _notes(storage: Storage, manifest: Manifest) -> list[HistoryNote]:
    """The history files below the base; as the last snapshot noted them, so that later damage stays visible."""
    spans = history.spans(storage, manifest)
    if not spans:
        return []
    try:
        noted = {note.path: note for note in snapshot.read_at(storage, manifest).history}
    except CorruptJournal:
        noted = {}
    notes = []
    for span in spans:
        note = noted.get(span.path)
        if note is None:
            told = history.describe(storage, span.path)
            note = HistoryNote(told.path, told.size, told.sha256)
        notes.append(note)
    return notes


# -- doing it ----------------------------------------------------------------------------------------------------------


def _make_history(storage: Storage, log: Intake, stretch: Stretch, step: Callable[[int], None]) -> Description:
    """The history file of a stretch, durable, and proved to give its segments again."""
    path = stretch.span.path
    storage.make_directory(history.DIRECTORY)
    kept = _kept(storage, stretch)
    if kept is not None:
        storage.sync_directory(history.DIRECTORY)
        for piece in log.read(stretch):
            for _, batch in unpacked(piece):
                log.fold(batch)
        return kept
    with _renamed(storage, path) as temporary:
        with storage.stream(temporary) as stream:
            _write_history(storage, log, stretch, stream, step)
        told = history.describe(storage, temporary)
        if not _gives_again(storage, told, step):
            raise JournalFailed(
                f"{storage.name}: {path} does not give the bytes of its segments again; they are untouched: "
                "check memory and disk, and try again"
            )
    return replace(told, path=path)


def _kept(storage: Storage, stretch: Stretch) -> Description | None:
    """The history file of a stretch that a killed compaction left, if it is right; else it is to be made anew."""
    if not storage.exists(stretch.span.path):
        return None
    try:
        told = history.describe(storage, stretch.span.path)
        right = told.ordinals == stretch.ordinals and _gives_again(storage, told, lambda count: None)
    except CorruptJournal:
        return None  # Its segments are here and were just checked.
    return told if right else None


def _write_history(
    storage: Storage, log: Intake, stretch: Stretch, stream: IO[bytes], step: Callable[[int], None]
) -> tuple[int, str]:
    with HistoryWriter(stream, log.journal_id, log.place) as writer:
        for piece in log.read(stretch):
            writer.add(piece, storage.read(piece.path, 0, CELL), log.fold)
            step(piece.size)
        return writer.close(log.place)


def _gives_again(storage: Storage, told: Description, step: Callable[[int], None]) -> bool:
    """Are the segments made again from a history file the ones on disk, byte for byte?"""
    offset = 0
    for header, part, last in ahead(history.stretches(storage, told.path)):
        path = segment.path_of(header.ordinal)
        made = np.frombuffer(part, dtype=np.uint8)
        for begin in range(0, len(made), _CHUNK):
            some = made[begin : begin + _CHUNK]
            there = np.frombuffer(storage.read(path, offset + begin, len(some)), dtype=np.uint8)
            if not np.array_equal(some, there):
                return False
        offset += len(made)
        if last:
            if offset != storage.size(path):
                return False
            step(offset)
            offset = 0
    return True


def _make_snapshot(storage: Storage, log: Intake, notes: list[HistoryNote]) -> str:
    """The snapshot of the whole state, durable; read back before it gets its name."""
    path = snapshot.path_of(log.place.seq - 1)
    storage.make_directory(snapshot.DIRECTORY)
    with _renamed(storage, path) as temporary:
        with storage.stream(temporary) as stream:
            snapshot.write(stream, log.state, log.place, notes)
        if snapshot.packed(snapshot.read(storage, temporary, whole=True).state) != snapshot.packed(log.state):
            raise JournalFailed(
                f"{storage.name}: {path} does not give the state again; the segments are untouched: "
                "check memory and disk, and try again"
            )
    return path


@contextmanager
def _renamed(storage: Storage, path: str) -> Iterator[str]:
    """A temporary name, which becomes `path`, durably, when the block ends well; else the file is removed."""
    temporary = f"{path}.tmp"
    try:
        yield temporary
        storage.rename(temporary, path)
    except BaseException:
        try:
            storage.remove(temporary)
        except OSError:
            pass  # Recovery removes it; the first error is what counts.
        raise
    storage.sync_directory(path.rpartition("/")[0])


@contextmanager
def _locked(storage: Storage) -> Iterator[None]:
    try:
        lock = storage.lock(LOCK_PATH)
    except LockHeld as held:
        who = ", ".join(str(pid) for pid in held.pids) or "unknown"
        raise JournalLocked(
            f"{storage.name}: process {who} writes this journal; compact it when that has ended", held.pids
        ) from None
    try:
        yield
    finally:
        lock.release()


@contextmanager
def _reporting(storage: Storage) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if not by_system(error):
            raise
        raise failure(error, f"compacting {storage.name}") from error


def _steps(storage: Storage, base: Base, end: Base, progress: Progress) -> Callable[[int], None]:
    """Adds up what is done: each byte of the segments is written once and compared once."""
    total = 2 * sum(storage.size(segment.path_of(ordinal)) for ordinal in range(base.ordinal, end.ordinal))
    done = 0

    def step(count: int) -> None:
        nonlocal done
        done = min(done + count, total)
        progress(done, total)

    return step


def _size(storage: Storage, *directories: str) -> int:
    """Bytes of the files in these directories; in all that compaction changes, where none is named."""
    directories = directories or (segment.DIRECTORY, history.DIRECTORY, snapshot.DIRECTORY, TWINS)
    paths = (f"{directory}/{name}" for directory in directories for name in storage.list(directory))
    return sum(storage.size(path) for path in paths if path != TWINS)


class _Nowhere(io.BytesIO):
    """A stream that keeps nothing."""

    def write(self, data: object) -> int:
        return len(memoryview(data))  # type: ignore[arg-type]
