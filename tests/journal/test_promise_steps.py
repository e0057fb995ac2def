"""What is done for a promise, and in which order: each step is durable before what rests on it is written."""

from __future__ import annotations

import errno
import time
from typing import Any

import pytest

import journal
from journal import cell, chain
from journal.commit import Commit
from journal.storage.faulty import CHANGES, FaultyStorage
from journal.storage.memory import MemoryFile, MemoryStorage
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("small_segments")
FIRST, SECOND = "segments/00000000.seg", "segments/00000001.seg"
LISTING = [
    *(("create", "journal.json.tmp"), ("write", "journal.json.tmp"), ("sync", "journal.json.tmp")),
    *(("rename", "journal.json"), ("sync_directory", "")),
]


def promising(path: str) -> list[tuple[str, str]]:
    """The cells, then the receipt, then the receipt itself on disk."""
    return [("sync", path), ("write", path), ("sync", path)]


def sealing(path: str) -> list[tuple[str, str]]:
    """The cells, then the seal, and only behind a seal that is on disk is the file cut."""
    return [("sync", path), ("write", path), ("sync", path), ("truncate", path), ("sync", path)]


@pytest.fixture
def storage() -> FaultyStorage:
    """Without a map, so that each write is seen."""
    return FaultyStorage(MemoryStorage(mappable=False))


def done(storage: FaultyStorage) -> list[tuple[str, str]]:
    """What was changed since the last look; the next segment, prepared meanwhile, apart."""
    found = [one for one in storage.operations if one[0] in CHANGES]
    storage.operations.clear()
    return [(kind, path) for kind, path in found if not path.startswith("segments/00000002") and path != "segments"]


def fill(log: journal.Log) -> None:
    """Append until the next segment is begun; nothing is sealed or promised meanwhile."""
    before = log.tail()[0]
    while log.tail()[0] is before:
        log.append(journal.Custom(name="x"))


def test_the_steps_of_a_promise_of_a_seal_and_of_a_close(storage: FaultyStorage, clock: Any) -> None:
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log.append(journal.Custom(name="x"))
    while ("rename", SECOND) not in storage.operations:  # The next segment is prepared.
        time.sleep(0.001)
    done(storage)
    log.sync()
    assert done(storage) == LISTING + promising(FIRST)
    log.append(journal.Custom(name="x"))
    done(storage)
    log.sync()
    assert done(storage) == promising(FIRST)
    log.sync()
    assert done(storage) == [], "nothing is new"
    with log._commit._mutex:
        fill(log)
        done(storage)
    log.sync()
    assert done(storage) == sealing(FIRST) + LISTING + promising(SECOND)
    log.close()
    assert [one for one in done(storage) if one[0] != "remove"] == sealing(SECOND)


def test_a_close_promises_what_was_never_synced(storage: FaultyStorage, clock: Any) -> None:
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    with log._commit._mutex:
        fill(log)
    log.append(journal.Custom(name="last"))
    storage.operations.clear()
    log.close()
    found = [one for one in done(storage) if one[0] != "remove"]
    assert [one for one in found if one[1] == FIRST][:5] == sealing(FIRST)
    assert found[-5:] == sealing(SECOND)
    listed = [at for at, one in enumerate(found) if one == ("rename", "journal.json")]
    assert len(listed) == 2 and listed[0] < found.index(("sync", FIRST)) < listed[1] < found.index(("sync", SECOND))


def test_promises_say_when_they_were_made(clock: Any) -> None:
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, sync="close", clock=clock) as log:
        log.append(journal.Custom(name="x"))
        clock.now_ns += 5
        log.sync()
        clock.now_ns += 5
    (piece,) = Walk(storage)
    times = {int(piece.cells["kind"][at]): int(piece.cells["time_ns"][at]) for at in piece.heads.tolist()}
    assert times[cell.RECEIPT] == clock.now_ns - 5 and times[cell.SEGMENT_SEALED] == clock.now_ns


def receipts(storage: MemoryStorage) -> int:
    return sum(int((piece.cells["kind"][piece.heads] == cell.RECEIPT).sum()) for piece in Walk(storage))


@pytest.mark.parametrize("mappable", [True, False])
def test_the_disk_begins_with_what_is_to_be_promised_before_it_is_hashed_unless_it_lies_in_a_map(
    mappable: bool, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through a map nobody looks before it is known that the file is still there, whole."""
    steps: list[Any] = []
    hasten, extend, sync, check = MemoryFile.hasten, chain.extend, Commit._sync, MemoryFile.check

    def checked(file: MemoryFile, size: int) -> str | None:
        steps.append("check")
        return check(file, size)

    def hastened(file: MemoryFile, offset: int, length: int) -> None:
        steps.append((offset, length))
        hasten(file, offset, length)

    def hashed(value: bytes, parts: Any) -> bytes:
        steps.append("hash")
        return extend(value, parts)

    def synced(commit: Commit, segment: Any) -> None:
        steps.append("sync")
        sync(commit, segment)

    monkeypatch.setattr(MemoryFile, "check", checked)
    monkeypatch.setattr(MemoryFile, "hasten", hastened)
    monkeypatch.setattr(chain, "extend", hashed)
    monkeypatch.setattr(Commit, "_sync", synced)
    log = journal.open("memory", storage=MemoryStorage(mappable=mappable), sync="close", clock=clock)
    for _ in range(2):
        start = log._commit._state.done
        log.append(journal.Custom(name="x"))
        end = log.tail()[1]
        log.sync()
        assert steps == ["check" if mappable else (start, end - start), "hash", "sync", "check"]
        steps.clear()
    monkeypatch.undo()
    log.close()


def test_what_fails_while_it_is_synced_is_not_promised(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread's failure, in the middle of a sync that succeeds: its bytes may be among those that are lost."""
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log.append(journal.Custom(name="x"))
    monkeypatch.setattr(Commit, "_sync", lambda self, segment: log.poison(OSError(errno.EIO, "I/O error"), "elsewhere"))
    with pytest.raises(journal.JournalFailed):
        log.sync()
    assert receipts(storage) == 0 and log.promised.seq == -1
    with pytest.raises(journal.JournalFailed):
        log.close()


def test_a_segment_that_is_left_while_it_is_synced_is_promised_by_its_seal(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log.append(journal.Custom(name="x"))
    sync, left = Commit._sync, []

    def slow(self: Commit, segment: Any) -> None:
        sync(self, segment)
        if not left:
            left.append(segment)
            fill(log)

    monkeypatch.setattr(Commit, "_sync", slow)
    promised = log.sync()
    last = log.append(journal.Custom(name="last"))
    assert promised.seq <= last
    log.close()
    walk = Walk(storage).run()
    assert walk.promise.events == last + 1 and not walk.unsealed and receipts(storage) <= 1
