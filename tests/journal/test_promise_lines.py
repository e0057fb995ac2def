"""Ctrl-C between any two lines of a promise, or a failure there: what is promised next still holds."""

from __future__ import annotations

import dis
import errno
import sys
from functools import cache
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import pytest

import journal
from journal import cell, commit
from journal.errors import DiskFull
from journal.live import LiveSegment
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.tail import Tail
from journal.walk import Walk

sys.path.insert(0, str(Path(__file__).parent))
from quiet import Action, fill, leave, marks, nothing, quiet, rounds

pytestmark = pytest.mark.usefixtures("small_segments")


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage(MemoryStorage(mappable=False))


@pytest.fixture
def log(storage: FaultyStorage, clock: Any) -> journal.Log:
    return quiet(storage, clock)


def interrupted_receipt(log: journal.Log, patch: pytest.MonkeyPatch) -> None:
    """Ctrl-C behind the receipt, which stands in the log, and again while the next promise looks at it."""
    put = Tail.mark_locked

    def mark_locked(self: Tail, mark: bytes) -> None:
        put(self, mark)
        raise KeyboardInterrupt

    def look(self: LiveSegment, offset: int, length: int) -> Any:
        raise KeyboardInterrupt

    for owner, name, instead in ((Tail, "mark_locked", mark_locked), (LiveSegment, "read", look)):
        with patch.context() as interrupted:
            interrupted.setattr(owner, name, instead)
            with pytest.raises(KeyboardInterrupt):
                log._commit.once()
    assert log.promised.seq == -1


@pytest.mark.parametrize("synced", [False, True])
def test_a_receipt_that_was_not_looked_at_is_counted_by_the_next_promise_or_by_the_close(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch, synced: bool
) -> None:
    interrupted_receipt(log, monkeypatch)
    if synced:
        log.append(journal.Custom(name="y"))
        log.sync()
    log.close()
    walk = Walk(storage).run()
    assert walk.promise.events == walk.seq == 1 + synced and not walk.unsealed
    assert marks(storage) == [cell.RECEIPT] * (1 + synced) + [cell.SEGMENT_SEALED]


def test_a_receipt_that_was_counted_is_forgotten_behind_its_seal(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupted_receipt(log, monkeypatch)
    log._commit.once()
    leave(log)
    rounds(log, monkeypatch, None, nothing)
    log._commit._stopped = False
    log.append(journal.Custom(name="y"))
    assert log.sync().seq == 1
    log.close()
    walk = Walk(storage).run()
    assert walk.promise.events == walk.seq == 2 and not walk.unsealed


@cache
def withs(code: CodeType) -> frozenset[int]:
    """The lines with a `with`, asked of the code that runs: it may be another one than the file's."""
    found = [one for one in dis.get_instructions(code) if one.opname in ("BEFORE_WITH", "LOAD_SPECIAL")]
    return frozenset(one.positions.lineno for one in found if one.positions and one.positions.lineno)


def before_line(nth: int, action: Action) -> bool:
    """Ctrl-C in `action`, before the nth line of `journal.commit` that it comes to. False: it has fewer lines.

    Not at the end of a `with`: between it and the release of the lock CPython looks for no signal.
    """
    left, before = nth, sys.gettrace()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != commit.__file__:
            return None
        if event == "line" and frame.f_lineno not in withs(frame.f_code):
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("leaves", [False, True])
def test_ctrl_c_before_any_line_of_a_promise_breaks_no_later_one(clock: Any, leaves: bool) -> None:
    """What stands in the log and what the writer knows of it change together, or the next promise finds out."""
    nth, interrupted = 0, True
    while interrupted:
        nth += 1
        storage = MemoryStorage()
        log = quiet(storage, clock)
        log.sync()
        log.append(journal.Custom(name="y"))
        if leaves:
            fill(log)
        interrupted = before_line(nth, log._commit.once)
        log._commit.once()
        fill(log)
        log._commit.once()
        log.append(journal.Custom(name="z"))
        assert log.sync().seq == log.next_seq - 1
        log.close()
        walk = Walk(storage).run()
        assert walk.promise.events == walk.seq == log.next_seq and not walk.unsealed, nth
    assert nth > 20


def test_a_receipt_that_is_on_disk_is_not_synced_again(log: journal.Log, storage: FaultyStorage) -> None:
    log.sync()
    log._commit.once()
    storage.operations.clear()
    log.sync()
    assert [one for one in storage.operations if one[0] == "sync"] == []
    log.close()


def test_behind_a_failure_no_receipt_is_counted(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupted_receipt(log, monkeypatch)
    log.poison(OSError(errno.EIO, "I/O error"), "syncing the log")
    with pytest.raises(journal.JournalFailed):
        log._commit.once()
    assert log.promised.seq == -1
    with pytest.raises(journal.JournalFailed):
        log.close()


def test_a_close_behind_a_failure_seals_nothing_that_waits_for_it(log: journal.Log, storage: FaultyStorage) -> None:
    with log._commit._mutex:
        fill(log)
        log.poison(OSError(errno.EIO, "I/O error"), "syncing the log")
    with pytest.raises(journal.JournalFailed):
        log._commit.close()
    assert marks(storage) == []
    with pytest.raises(journal.JournalFailed):
        log.close()


def test_a_full_disk_raises_what_it_is(log: journal.Log, storage: FaultyStorage) -> None:
    storage.fail("create", path="journal.json.tmp", error=errno.ENOSPC)
    with pytest.raises(DiskFull):
        log.sync()
    log.close()
