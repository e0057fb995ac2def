"""A promise is cut short between two of its steps, by Ctrl-C or by the system: what is promised next still holds.

The chain is what could break: were a receipt or a seal in the log and the writer did not know of it (or the other way
round), the next promise would not follow from it, and a healthy journal would be refused.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

import journal
from journal import cell
from journal.manifest import Manifest
from journal.storage import Storage
from journal.storage.faulty import FaultyFile, FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.tail import Tail
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("small_segments")
FIRST = "segments/00000000.seg"


def opened(storage: Storage, clock: Any) -> journal.Log:
    """A log that promises only when told; no thread of it syncs."""
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log.append(journal.Custom(name="x"))
    return log


def fill(log: journal.Log) -> None:
    """Append until the next segment is begun; the last one is not sealed yet."""
    before = log.tail()[0]
    while log.tail()[0] is before:
        log.append(journal.Custom(name="x"))


def whole(storage: Storage, events: int) -> Walk:
    """The log holds so many events, all promised and sealed, and every promise follows from the one before."""
    walk = Walk(storage).run()
    assert (walk.seq, walk.promise.events, walk.unsealed) == (events, events, [])
    return walk


def interrupt(patch: pytest.MonkeyPatch, owner: type, name: str, *, nth: int = 1, path: str = "", behind: bool) -> None:
    """The nth call of a method in this thread (on this file) is interrupted, before it or behind it."""
    method: Callable[..., Any] = getattr(owner, name)
    thread, calls = threading.get_ident(), count(1)

    def call(one: Any, *args: Any) -> Any:
        mine = threading.get_ident() == thread and (not path or one.path == path)
        number = next(calls) if mine else 0
        if number == nth and not behind:
            raise KeyboardInterrupt
        answer = method(one, *args)
        if number == nth:
            raise KeyboardInterrupt
        return answer

    patch.setattr(owner, name, call)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize("rotates", [False, True])
def test_an_interrupted_receipt_is_there_and_known_or_neither(
    clock: Any, monkeypatch: pytest.MonkeyPatch, behind: bool, rotates: bool
) -> None:
    storage = MemoryStorage()
    log = opened(storage, clock)
    with monkeypatch.context() as patch:
        interrupt(patch, Tail, "mark_locked", behind=behind)
        with pytest.raises(KeyboardInterrupt):
            log.sync()
    assert log.promised.seq == -1, "who was interrupted was promised nothing"
    if rotates:
        with log._commit._mutex:
            fill(log)
    last = log.append(journal.Custom(name="y"))
    assert log.sync().seq == last
    log.close()
    whole(storage, last + 1)


@pytest.mark.parametrize("behind", [False, True])
def test_an_interrupted_sync_of_a_receipt_is_done_again(
    clock: Any, monkeypatch: pytest.MonkeyPatch, behind: bool
) -> None:
    storage = FaultyStorage(MemoryStorage())
    log = opened(storage, clock)
    with monkeypatch.context() as patch:
        interrupt(patch, FaultyFile, "sync", nth=2, path=FIRST, behind=behind)  # The cells, then the receipt.
        with pytest.raises(KeyboardInterrupt):
            log.sync()
    storage.operations.clear()
    log.sync()
    assert ("sync", FIRST) in storage.operations
    log.close()
    whole(storage, 1)


@pytest.mark.parametrize("behind", [False, True])
@pytest.mark.parametrize(
    ("name", "nth"), [("sync", 1), ("write", 1), ("sync", 2), ("truncate", 1), ("sync", 3), ("close", 1)]
)
def test_an_interrupted_seal_is_done_again_and_is_the_same_one(
    clock: Any, monkeypatch: pytest.MonkeyPatch, name: str, nth: int, behind: bool
) -> None:
    storage = FaultyStorage(MemoryStorage())
    log = opened(storage, clock)
    log.sync()
    with monkeypatch.context() as patch, log._commit._mutex:
        fill(log)
        interrupt(patch, FaultyFile, name, nth=nth, path=FIRST, behind=behind)
        with pytest.raises(KeyboardInterrupt):
            log._commit._once()
        last = log.tail()[2] - 1
        clock.now_ns += 1_000_000_000  # A seal that was made anew would say another time, and hash otherwise.
        log._commit._once()
    assert log.promised.seq == last
    log.close()
    whole(storage, last + 1)


def test_behind_a_failure_nothing_is_sealed(clock: Any) -> None:
    """A close after a failed sync must not promise the segments that wait for their seal."""
    storage = FaultyStorage(MemoryStorage(mappable=False))
    log = opened(storage, clock)
    with log._commit._mutex:
        fill(log)
        log.poison(OSError(errno.EIO, "I/O error"), "syncing the log")
    with pytest.raises(journal.JournalFailed):
        log.close()
    kinds = [int(kind) for piece in Walk(storage) for kind in piece.cells["kind"][piece.heads]]
    assert cell.SEGMENT_SEALED not in kinds and cell.RECEIPT not in kinds


def test_a_listing_that_found_no_space_is_written_later(clock: Any) -> None:
    """A segment is listed before anything in it is promised: a promise that could not list it does not forget that."""
    storage = FaultyStorage(MemoryStorage())
    log = opened(storage, clock)
    storage.fail("write", path="journal.json.tmp", error=errno.ENOSPC)
    with pytest.raises(journal.DiskFull):
        log.sync()
    assert Manifest.read(storage).segments == () and log.promised.seq == -1
    assert log.sync().seq == 0
    assert Manifest.read(storage).segments == (0,)
    log.close()
    whole(storage, 1)


def test_a_listing_that_fails_otherwise_is_the_end(clock: Any) -> None:
    storage = FaultyStorage(MemoryStorage())
    log = opened(storage, clock)
    storage.fail("write", path="journal.json.tmp", error=errno.EIO)
    for _ in range(2):
        with pytest.raises(journal.JournalFailed):
            log.sync()
    with pytest.raises(journal.JournalFailed):
        log.close()


def test_an_error_that_is_not_the_systems_goes_through_and_poisons_nothing(
    clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal's handler may raise `TimeoutError` in the middle of a sync: an `OSError` without a number."""
    storage = FaultyStorage(MemoryStorage())
    log = opened(storage, clock)

    def late(_file: FaultyFile) -> None:
        raise TimeoutError("the handler's")

    with monkeypatch.context() as patch:
        patch.setattr(FaultyFile, "sync", late)
        with pytest.raises(TimeoutError, match="the handler's"):
            log.sync()
    assert log.sync().seq == 0
    log.close()
    whole(storage, 1)


def test_segments_that_are_sealed_are_let_go(clock: Any, tmp_path: Path) -> None:
    with journal.open(tmp_path / "j", sync="close", clock=clock) as log:
        fill(log)
        log.sync()
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(6):
            fill(log)
            log.sync()
        assert len(os.listdir("/proc/self/fd")) <= before + 2  # The next segment, and the lock of who looks at it.
