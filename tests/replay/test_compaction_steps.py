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
from replay import history
from replay.compaction import compact

sys.path.insert(0, str(Path(__file__).parent))
from logs import EPISODE, fresh, image, record, record_everything, same_events, table, whole_state


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
