"""What a compaction asks first, and does before what: each is a test that goes red when that one step is changed."""

from __future__ import annotations

import contextlib
import errno
import sys
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import journal
from journal.errors import CorruptJournal, JournalFailed, JournalLocked
from journal.manifest import Base, Manifest
from journal.storage import LockHeld
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from journal.walk import Walk, context_after
from replay import history, intake, snapshot
from replay.compaction import compact
from replay.dropping import NOTHING
from replay.loading import load

sys.path.insert(0, str(Path(__file__).parent))
from logs import (
    EPISODE,
    REWARD,
    add_segment_without_events,
    fresh,
    image,
    record,
    record_everything,
    same_events,
    table,
    whole_state,
)


def size(storage: MemoryStorage) -> int:
    """Bytes of segments, history and snapshots."""
    folders = ("segments", "history", "snapshots")
    return sum(storage.size(f"{folder}/{name}") for folder in folders for name in storage.list(folder))


@pytest.fixture
def compacted() -> MemoryStorage:
    """All of it is history, with a snapshot at its end."""
    storage = fresh()
    record_everything(storage)
    compact(storage)
    return storage


@pytest.mark.parametrize("script", [EPISODE, [REWARD]], ids=["five events", "one event"])
def test_history_above_the_end_is_seen_though_nothing_is_to_be_compacted(
    compacted: MemoryStorage, script: list[Any]
) -> None:
    """Set back to a state with no live log at all: there is nothing to do, but for saying what lies there."""
    older = compacted.kill()
    record(compacted, script)
    path = compact(compacted).history[-1]
    with older.stream(path) as stream:
        stream.write(compacted.read(path))
    before = image(older)
    for dry_run in (True, False):
        with pytest.raises(CorruptJournal, match="set back") as caught:
            compact(older, dry_run=dry_run)
        assert (caught.value.path, caught.value.offset, caught.value.seq) == (path, 0, load(older).events)
    assert image(older) == before


def changes(storage: FaultyStorage) -> list[tuple[str, str]]:
    """What was changed and synced, in order; a file written piece by piece is written once."""
    found = [one for one in storage.operations if one[0] in CHANGES]
    return [one for one, before in zip(found, [None, *found], strict=False) if one != before]


def replacing(path: str) -> list[tuple[str, str]]:
    """Whole and on disk before it has its name, and the name on disk before anything else is done."""
    steps = [("create", f"{path}.tmp"), ("write", f"{path}.tmp"), ("sync", f"{path}.tmp"), ("rename", path)]
    return [*steps, ("sync_directory", path.rpartition("/")[0])]


def test_history_then_snapshot_then_strays_then_the_base_then_segments_then_old_snapshots(
    compacted: MemoryStorage,
) -> None:
    record(compacted, EPISODE)
    faulty = FaultyStorage(compacted)
    faulty.fail("rename", path="journal.json", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    storage = compacted.kill()  # A history file and a snapshot that will lie in the middle of what comes now.
    (stray,) = [span.path for span in history.all_spans(storage) if span.first > 0]
    last, middle = [f"snapshots/{name}" for name in sorted(storage.list("snapshots"), key=lambda name: int(name[:-8]))]
    record(storage, EPISODE)
    first = Manifest.read(storage).base
    whole = FaultyStorage(storage)
    done = compact(whole, keep=1)
    assert done.snapshot is not None
    live = [f"segments/{ordinal:08d}.seg" for ordinal in range(first.ordinal, first.ordinal + 2)]
    assert changes(whole) == [
        *(("lock", "writer.lock"), ("sync", live[-1]), ("sync_directory", "")),
        *(("make_directory", "history"), *replacing(done.history[0])),
        *(("make_directory", "snapshots"), *replacing(done.snapshot)),
        *(("remove", stray), ("sync_directory", "history"), ("remove", middle), ("sync_directory", "snapshots")),
        *replacing("journal.json"),
        *(*(("remove", path) for path in live), ("sync_directory", "segments")),
        *(("remove", last), ("sync_directory", "snapshots")),
    ]
    assert not storage.locked("writer.lock")
    again = FaultyStorage(storage)
    assert compact(again, keep=1).snapshot is None
    assert changes(again) == [("lock", "writer.lock"), ("sync_directory", "")], "nothing is left to do"


def test_a_history_file_that_is_kept_is_durable_with_its_directory_and_not_written_again(
    compacted: MemoryStorage,
) -> None:
    """Who made it may have died before it synced the names; the segments go on the strength of it."""
    record(compacted, EPISODE)
    faulty = FaultyStorage(compacted)
    faulty.fail("rename", path="snapshots/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    again, plain = FaultyStorage(compacted.kill()), whole_state(compacted)
    (kept,) = compact(again).history
    steps = changes(again)
    assert whole_state(again) == plain and Manifest.read(again).base.seq == plain.events, "it was folded all the same"
    at = steps.index(("make_directory", "history"))
    assert steps[at + 1] == ("sync_directory", "history") and steps[at + 2] == ("make_directory", "snapshots")
    assert not [path for _, path in steps if path.startswith(kept)]


@pytest.mark.parametrize("path", ["history/*", "snapshots/*"])
@pytest.mark.parametrize("stuck", [False, True])
def test_a_failed_step_leaves_no_half_file_and_no_lock(compacted: MemoryStorage, path: str, stuck: bool) -> None:
    record(compacted, EPISODE)
    before = image(compacted)
    faulty = FaultyStorage(compacted)
    faulty.fail("rename", path=path)
    if stuck:
        faulty.fail("remove", path="*.tmp", error=errno.EROFS)
    with pytest.raises(JournalFailed, match=r"compacting .* Input/output error"):
        compact(faulty)
    assert not compacted.locked("writer.lock")
    made = set(image(compacted)) - set(before)
    assert [name for name in made if name.endswith(".tmp")] == [name for name in made if stuck and ".tmp" in name]
    assert any(name.endswith(".tmp") for name in made) == stuck
    compact(compacted)
    assert not [name for name in image(compacted) if name.endswith(".tmp")]


def test_what_the_caller_raises_goes_through(compacted: MemoryStorage) -> None:
    """A signal's handler that raises `TimeoutError`, an `OSError`, has nothing to do with the disk."""
    record(compacted, EPISODE)

    def late(_done: int, _total: int) -> None:
        raise TimeoutError("the handler's")

    with pytest.raises(TimeoutError, match="the handler's"):
        compact(compacted, progress=late)
    assert not compacted.locked("writer.lock")


@pytest.mark.parametrize(("pids", "who"), [((7, 8), "process 7, 8 writes"), ((), "process unknown writes")])
def test_who_writes_it_is_told(
    compacted: MemoryStorage, monkeypatch: pytest.MonkeyPatch, pids: tuple[int, ...], who: str
) -> None:
    def lock(_path: str) -> None:
        raise LockHeld(pids)

    monkeypatch.setattr(compacted, "lock", lock)
    with pytest.raises(JournalLocked, match=who) as caught:
        compact(compacted)
    assert caught.value.pids == pids


def test_what_it_took_before_is_before_the_recovery() -> None:
    storage = fresh()
    log = journal.open("a journal", storage=storage, sync="close")
    log.append(journal.Custom(name="x"))
    crashed = storage.kill()
    log.close()
    before = size(crashed)
    assert before >= 1 << 20, "a segment that nobody sealed has its whole size"
    done = compact(crashed)
    assert (done.bytes_before, done.bytes_after) == (before, size(crashed))


def test_what_a_killed_compaction_left_is_gone_for_good_before_the_base_moves_over_it(compacted: MemoryStorage) -> None:
    """Its history file covers only a part of what is compacted next; below the base it would count beside the other."""
    record(compacted, EPISODE)
    faulty = FaultyStorage(compacted)
    faulty.fail("rename", path="snapshots/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    storage = compacted.kill()
    stray = history.all_spans(storage)[-1].path
    record(storage, EPISODE)
    plain, before = whole_state(storage), table(storage)
    for path in ("", "history", "snapshots", "segments"):
        storage.sync_directory(path)
    whole = FaultyStorage(storage.kill())
    compact(whole)
    assert not whole.exists(stray)
    changes = [one for one in whole.operations if one[0] in CHANGES]
    for nth in range(changes.index(("remove", stray)) + 1, len(changes) + 2):
        faulty = FaultyStorage(storage.kill())
        faulty.fail(*CHANGES, nth=nth, kill=True)
        with contextlib.suppress(Killed):
            compact(faulty)
        for seed in range(8):
            after = faulty.inner.crash(Random(seed))  # type: ignore[attr-defined]
            assert Manifest.read(after).segments or not after.exists(stray), (nth, seed)
            assert whole_state(after) == plain and same_events(table(after), before), (nth, seed)


def sync_all(storage: MemoryStorage) -> None:
    """Nothing of it can be taken back any more."""
    for directory in ("", "segments", "history", "snapshots"):
        for name in storage.list(directory):
            if storage.exists(path := f"{directory}/{name}".lstrip("/")) and path.count("/") + (not directory):
                with contextlib.suppress(IsADirectoryError):
                    storage.open(path).sync()
        storage.sync_directory(directory)


@pytest.mark.parametrize("killed_at", [None, "history", "snapshots", ""])
def test_everything_is_durable_when_it_returns(compacted: MemoryStorage, killed_at: str | None) -> None:
    """Also what an earlier one, killed before it synced a directory, had named; and what was retired is gone."""
    record(compacted, EPISODE)
    compact(compacted)
    record(compacted, EPISODE)
    sync_all(compacted)
    storage = compacted
    if killed_at is not None:
        faulty = FaultyStorage(storage)
        faulty.fail("sync_directory", path=killed_at, nth=2 if killed_at == "" else 1, kill=True)
        with pytest.raises(Killed):
            compact(faulty)
        storage = storage.kill()
    compact(storage, keep=1)
    assert len(storage.list("snapshots")) == 1 and not storage.list("segments")
    for seed in range(20):
        assert image(storage.crash(Random(seed))) == image(storage)


def test_a_file_of_another_course_is_not_taken_for_this_one(compacted: MemoryStorage) -> None:
    """The journal was set back and went on otherwise: the same numbers, other rewards; the file is whole and right."""
    other = compacted.kill()
    record(other, [*EPISODE, ("reward", "PPO", "train", 0, 7.0)])
    (path,) = compact(other).history
    record(compacted, [*EPISODE, ("reward", "PPO", "train", 0, 8.0)])
    with compacted.stream(path) as stream:
        stream.write(other.read(path))
    before = table(compacted)
    assert compact(compacted).history == (path,)
    assert same_events(table(compacted), before)


def test_a_rehearsal_knows_what_a_lost_snapshot_and_retired_ones_take(compacted: MemoryStorage) -> None:
    for _ in range(2):
        record(compacted, EPISODE)
        compact(compacted, keep=5)
    record(compacted, EPISODE)
    rehearsed = compact(compacted, keep=1, dry_run=True)
    assert compact(compacted, keep=1) == rehearsed
    assert rehearsed.bytes_after == size(compacted)
    assert rehearsed.snapshot is not None
    compacted.remove(rehearsed.snapshot)
    again = compact(compacted, dry_run=True)
    assert compact(compacted) == again and again.snapshot == rehearsed.snapshot


def test_progress_counts_each_byte_of_the_segments_twice(compacted: MemoryStorage) -> None:
    """It is written and compared."""
    for _ in range(2):
        record(compacted, EPISODE)
    sizes = [piece.size for piece in Walk(compacted)]
    seen: list[tuple[int, int]] = []
    compact(compacted, progress=lambda done, total: seen.append((done, total)))
    assert {of for _, of in seen} == {2 * sum(sizes)}
    assert [seen[0][0], seen[-1][0]] == [sizes[0], 2 * sum(sizes)] and len(seen) == 4


def test_a_stray_snapshot_of_one_more_event_is_removed_as_well(compacted: MemoryStorage) -> None:
    record(compacted, [REWARD])
    faulty = FaultyStorage(compacted)
    faulty.fail("rename", path="journal.json", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    storage = compacted.kill()
    stray, first = snapshot.seqs(storage)
    assert stray == first + 1
    record(storage, EPISODE)
    compact(storage, keep=5)
    assert snapshot.seqs(storage) == [stray + len(EPISODE), first]


def test_a_lost_snapshot_leaves_segments_without_events_listed(compacted: MemoryStorage) -> None:
    add_segment_without_events(compacted)
    before, listed = image(compacted), Manifest.read(compacted).segments
    (last,) = compacted.list("snapshots")
    compacted.remove(f"snapshots/{last}")
    assert compact(compacted).segments == 0
    assert Manifest.read(compacted).segments == listed and len(listed) == 1
    assert image(compacted) == before


@pytest.mark.parametrize("limit", ["EVENTS_MAX", "BYTES_MAX"])
@pytest.mark.parametrize(("less", "files"), [(0, 2), (1, 4)], ids=["two segments each", "one segment each"])
def test_a_history_file_is_bounded_by_all_its_segments(
    compacted: MemoryStorage, monkeypatch: pytest.MonkeyPatch, limit: str, less: int, files: int
) -> None:
    for _ in range(4):
        record(compacted, EPISODE)
    taken = [len(EPISODE) if limit == "EVENTS_MAX" else piece.offset(piece.end) for piece in Walk(compacted)]
    assert len(set(taken)) == 1
    monkeypatch.setattr(intake, limit, sum(taken[:2]) - less)
    before = table(compacted)
    assert len(compact(compacted).history) == files
    assert same_events(table(compacted), before)


def test_each_history_file_ends_with_what_the_next_one_begins_with(
    compacted: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Place, chain, names, open episodes: each file can be read and proved without the ones before it."""
    for _ in range(3):
        record(compacted, EPISODE)
    places, walk = [Manifest.read(compacted).base], Walk(compacted)
    for piece in walk:
        context = context_after(piece)
        places.append(Base(piece.header.ordinal + 1, walk.position, walk.seq, walk.chain, context))
        assert context.names
    monkeypatch.setattr(intake, "BYTES_MAX", 1)
    told = [history.describe(compacted, path) for path in compact(compacted).history]
    assert [one.base for one in told] == places[:-1]
    assert [one.end for one in told] == places[1:]


def test_killed_with_several_files_it_goes_on_where_it_was(
    compacted: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lies there reaches up to the end of all of them, and all segments go."""
    for _ in range(3):
        record(compacted, EPISODE)
    monkeypatch.setattr(intake, "BYTES_MAX", 1)
    before = table(compacted)
    faulty = FaultyStorage(compacted)
    faulty.fail("rename", path="snapshots/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    storage, seen = compacted.kill(), list[tuple[int, int]]()
    total = 2 * sum(piece.size for piece in Walk(storage))
    rehearsed = compact(storage, dry_run=True, progress=lambda done, total: seen.append((done, total)))
    assert {of for _, of in seen} == {total}
    done = compact(storage)
    assert len(done.history) == 3
    assert (done.segments, done.history, done.snapshot) == (rehearsed.segments, rehearsed.history, rehearsed.snapshot)
    assert not storage.list("segments") and same_events(table(storage), before)


def test_each_segment_is_checked_twice_and_compared_once_and_no_more(compacted: MemoryStorage) -> None:
    """Before anything is changed, and while it is written; the plan between needs no more than its header and seal."""
    for _ in range(3):
        record(compacted, EPISODE)
    live = [f"segments/{ordinal:08d}.seg" for ordinal in range(1, 4)]
    whole = FaultyStorage(compacted)
    compact(whole)
    reads = [path for verb, path in whole.operations if verb == "read"]
    plan, header, comparison = 2, 1, len(("header", "events", "what is behind them"))
    assert [reads.count(path) for path in live] == [2 + plan + header + comparison] * 3


@pytest.mark.parametrize("what", ["no seal", "another end", "another chain"])
def test_a_log_that_changes_between_recovery_and_reading_is_not_compacted(
    compacted: MemoryStorage, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Somebody who does not ask for the lock; what history is planned from is what it is then written from."""
    for _ in range(2):
        record(compacted, EPISODE)
    before = image(compacted)
    base_after = intake.base_after

    def changed(storage: MemoryStorage, ordinal: int) -> Base | None:
        base = base_after(storage, ordinal)
        assert base is not None
        other = {
            "no seal": None,
            "another end": replace(base, seq=base.seq + 1),
            "another chain": replace(base, chain=b"x"),
        }
        return other[what]

    monkeypatch.setattr(intake, "base_after", changed)
    begins, ends = Manifest.read(compacted).base.seq, load(compacted).events
    with pytest.raises(CorruptJournal, match="a moment ago") as caught:
        compact(compacted)
    told = ("segments/00000001.seg", 0, begins) if what == "no seal" else ("segments/00000003.seg", 0, ends)
    assert (caught.value.path, caught.value.offset, caught.value.seq) == told
    assert image(compacted) == before


# -- beside dropped history --------------------------------------------------------------------------------------------


def test_what_dropping_takes_away_is_rehearsed_and_counted_with_the_twin_that_stays(compacted: MemoryStorage) -> None:
    record(compacted, EPISODE)
    plain = compact(compacted, dry_run=True)
    assert plain.dropped == NOTHING
    rehearsed = compact(compacted, dry_run=True, drop_history=True)
    done = compact(compacted, drop_history=True)
    assert rehearsed.dropped == done.dropped, "also of the file that is yet to be made"
    assert rehearsed.bytes_after < plain.bytes_after
    assert len(done.dropped.files) == 2
    last = Manifest.read(compacted).base.seq - 1
    there = sum(compacted.size(path) for path in (snapshot.path_of(last), snapshot.twin_of(last)))
    assert done.bytes_after == there
    again = compact(compacted)
    assert (again.bytes_before, again.bytes_after, again.dropped) == (there, there, NOTHING)


def test_a_drop_that_was_killed_is_finished_before_anything_is_built_on_it(compacted: MemoryStorage) -> None:
    faulty = FaultyStorage(compacted)
    faulty.fail("remove", path="history/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty, drop_history=True)
    storage = compacted.kill()
    (left,) = [span.path for span in history.all_spans(storage)]
    record(storage, EPISODE)
    again = FaultyStorage(storage)
    (made,) = compact(again).history
    steps = changes(again)
    assert steps.index(("remove", left)) < steps.index(("create", f"{made}.tmp"))
    assert [span.path for span in history.all_spans(storage)] == [made]


def test_the_snapshot_that_takes_the_place_of_dropped_history_is_never_retired(compacted: MemoryStorage) -> None:
    compact(compacted, drop_history=True)
    founding = Manifest.read(compacted).kept_from - 1
    for _ in range(2):
        record(compacted, EPISODE)
        rehearsed = compact(compacted, keep=1, dry_run=True)
        assert compact(compacted, keep=1) == rehearsed
        newest, oldest = snapshot.seqs(compacted)
        assert newest > oldest == founding
