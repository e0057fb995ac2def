"""What a compaction asks first, and does before what: each is a test that goes red when that one step is changed."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from random import Random

import pytest

import journal
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from journal.walk import Walk
from replay import compaction, history
from replay.compaction import compact

sys.path.insert(0, str(Path(__file__).parent))
from logs import (
    EPISODE,
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


def test_history_above_the_end_is_seen_though_nothing_is_to_be_compacted(compacted: MemoryStorage) -> None:
    """Set back to a state with no live log at all: there is nothing to do, but for saying what lies there."""
    older = compacted.kill()
    record(compacted, EPISODE)
    path = compact(compacted).history[-1]
    with older.stream(path) as stream:
        stream.write(compacted.read(path))
    before = image(older)
    for dry_run in (True, False):
        with pytest.raises(CorruptJournal, match="set back") as caught:
            compact(older, dry_run=dry_run)
        assert caught.value.path == path
    assert image(older) == before


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


def test_a_lost_snapshot_leaves_segments_without_events_listed(compacted: MemoryStorage) -> None:
    add_segment_without_events(compacted)
    before, listed = image(compacted), Manifest.read(compacted).segments
    (last,) = compacted.list("snapshots")
    compacted.remove(f"snapshots/{last}")
    assert compact(compacted).segments == 0
    assert Manifest.read(compacted).segments == listed and len(listed) == 1
    assert image(compacted) == before


def test_a_history_file_is_bounded_by_the_bytes_of_all_its_segments(
    compacted: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        record(compacted, EPISODE)
    taken = [piece.offset(piece.end) for piece in Walk(compacted)]
    monkeypatch.setattr(compaction, "BYTES_MAX", sum(taken[:2]))
    before = table(compacted)
    assert len(compact(compacted).history) == 2, "two segments each"
    assert same_events(table(compacted), before)
