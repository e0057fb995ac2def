"""Who promises, and when: the rounds of the sync thread, played by the test, and what they hold meanwhile."""

from __future__ import annotations

import contextlib
import errno
import linecache
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest

import journal
from journal import cell, commit
from journal.errors import DiskFull
from journal.live import LiveSegment
from journal.storage import Storage
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.tail import Tail
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("small_segments")
FIRST = "segments/00000000.seg"
Action = Callable[[], object]


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage(MemoryStorage(mappable=False))


@pytest.fixture
def log(storage: FaultyStorage, clock: Any) -> journal.Log:
    return quiet(storage, clock)


def quiet(storage: Storage, clock: Any) -> journal.Log:
    """Without a thread: it promises when the test says so."""
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log._commit.stop()
    log._commit._stopped = False
    log.append(journal.Custom(name="x"))
    return log


def fill(log: journal.Log) -> None:
    before = log.tail()[0]
    while log.tail()[0] is before:
        log.append(journal.Custom(name="x"))


def leave(log: journal.Log) -> None:
    """Go on to the next segment, without any event in it."""
    with log.lock:
        log._room(8192)
        log._allow()


def rounds(log: journal.Log, patch: pytest.MonkeyPatch, interval: float | None, *actions: Action) -> list[float | None]:
    """The sync thread's work, one round behind each action, then its end. Returns how long it would have waited."""
    waited: list[float | None] = []
    left = list(actions)

    def wait(_queue: object, seconds: float | None) -> None:
        waited.append(seconds)
        if left:
            left.pop(0)()
        else:
            log._commit._stopped = True

    patch.setattr(commit, "wait", wait)
    log._commit._interval = interval
    log._commit._run()
    return waited


def nothing() -> None:
    """A round in which nobody appends."""


def marks(storage: Any) -> list[int]:
    """The kinds of all promises in the log."""
    kinds = [int(kind) for piece in Walk(storage) for kind in piece.cells["kind"][piece.heads]]
    return [kind for kind in kinds if kind in (cell.RECEIPT, cell.SEGMENT_SEALED)]


def test_a_round_promises_the_next_one_puts_the_receipt_on_disk_and_then_it_is_still(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def look() -> None:
        changes = [one for one in storage.operations if one[1] == FIRST and one[0] in ("write", "sync")]
        seen.append(([kind for kind, _ in changes], log.promised.seq))
        storage.operations.clear()

    look()

    def look_and_append() -> None:
        look()
        log.append(journal.Custom(name="y"))

    waited = rounds(log, monkeypatch, 0.5, nothing, look, look, look_and_append, look)
    assert seen[1:] == [(["sync", "write"], 0), (["sync"], 0), ([], 0), (["write", "write", "sync", "write"], 1)]
    assert waited == [0.5] * 6
    log.close()


def test_a_stop_syncs_nothing(log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.operations.clear()
    assert rounds(log, monkeypatch, 0.5) == [0.5]
    assert [kind for kind, _ in storage.operations if kind == "sync"] == [] and log.promised.seq == -1
    log.close()


@pytest.mark.parametrize("interval", [None, 0.5])
def test_a_round_seals_what_the_writer_has_left_though_no_event_is_new(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch, interval: float | None
) -> None:
    log.sync()
    rounds(log, monkeypatch, interval, lambda: leave(log))
    assert log.left == [] and marks(storage)[-1] == cell.SEGMENT_SEALED
    log.close()


def test_without_an_interval_a_round_promises_no_more_than_what_was_left(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert rounds(log, monkeypatch, None, lambda: fill(log)) == [None, None]
    assert log.promised.seq == log.next_seq - 2 and marks(storage) == [cell.SEGMENT_SEALED]
    log.close()


@pytest.mark.parametrize("interval", [None, 0.5])
def test_behind_a_failure_a_round_does_nothing_and_the_thread_ends(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch, interval: float | None
) -> None:
    fill(log)
    log.poison(OSError(errno.EIO, "I/O error"), "syncing the log")
    assert rounds(log, monkeypatch, interval, nothing, nothing) == [interval]
    assert marks(storage) == [] and log.promised.seq == -1
    with pytest.raises(journal.JournalFailed):
        log.close()


@pytest.mark.parametrize("interval", [None, 0.5])
def test_a_full_disk_is_a_pause_of_a_second(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch, interval: float | None
) -> None:
    fill(log)
    storage.fail("create", path="journal.json.tmp", error=errno.ENOSPC)
    assert rounds(log, monkeypatch, interval, nothing, nothing, nothing)[:3] == [interval, 1.0, interval]
    assert log.promised.seq >= log.next_seq - 2
    log.close()


def test_an_error_in_the_thread_is_told_to_every_later_caller(
    log: journal.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread that died would promise nothing any more, and nobody would know."""
    with monkeypatch.context() as patch:
        patch.setattr(commit.Commit, "once", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            rounds(log, patch, 0.5, nothing)
    for use in (log.sync, lambda: log.append(journal.Custom(name="y")), log.close):
        with pytest.raises(journal.JournalFailed, match="ZeroDivisionError"):
            use()


def test_who_is_started_knows_its_interval_and_who_is_woken_knows_that_it_is_the_end(
    log: journal.Log, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread may look at once: it would wait for ever for a wake-up that it already had."""
    one, seen = log._commit, list[Any]()
    queue = type("Queue", (), {"put": lambda self, item: seen.append(one._stopped)})()
    with monkeypatch.context() as patch:
        patch.setattr(one, "_worker", type("Worker", (), {"start": lambda self: seen.append(one._interval)})())
        one._interval = None
        one.start(0.5)
        one._worker.wait = lambda: seen.append("ended")  # type: ignore[method-assign]
        patch.setattr(log, "wake", queue)
        one.stop()
    assert seen == [0.5, True, "ended"]
    log.close()


# -- one at a time ---------------------------------------------------------------------------------------------------


def test_promises_are_made_by_one_thread_at_a_time(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two at once would extend the same chain twice."""
    one, held = log._commit, list[str]()

    def watch(patch: pytest.MonkeyPatch, name: str) -> None:
        method = getattr(commit.Commit, name)

        def call(self: commit.Commit, *args: Any, **more: Any) -> Any:
            assert self._mutex.locked(), name
            held.append(name)
            return method(self, *args, **more)

        patch.setattr(commit.Commit, name, call)

    with monkeypatch.context() as patch:
        for name in ("_once", "_seal_left", "_finish", "_guarded"):
            watch(patch, name)
        one.reach(0)
        one.settle()
        fill(log)
        one.once()
        fill(log)
        rounds(log, patch, None, nothing)
        one.close()
    assert set(held) == {"_once", "_seal_left", "_finish", "_guarded"}
    log.close()


def test_a_receipt_is_put_while_the_log_is_held(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the look at the tail and the receipt nobody may append there."""
    put = Tail.mark_locked

    def mark_locked(self: Tail, mark: bytes) -> None:
        assert self.lock.locked()
        put(self, mark)

    with monkeypatch.context() as patch:
        patch.setattr(Tail, "mark_locked", mark_locked)
        assert log.sync().seq == 0
    log.close()


def test_who_waited_while_another_promised_its_event_syncs_nothing(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They share one sync, though more has been appended since."""
    one = log._commit

    class Late:
        """A lock that is had only when somebody else is through."""

        def locked(self) -> bool:
            return False

        def __enter__(self) -> None:
            with lock:
                one._once()
            log.append(journal.Custom(name="later"))
            storage.operations.clear()

        def __exit__(self, *_: object) -> None: ...

    lock: threading.Lock = one._mutex
    with monkeypatch.context() as patch:
        patch.setattr(one, "_mutex", Late())
        one.reach(0)
    assert [one for one in storage.operations if one[0] == "sync"] == [] and log.promised.seq == 0
    log.close()


@pytest.mark.parametrize("failing", [False, True])
@pytest.mark.parametrize("name", ["once", "settle", "reach"])
def test_who_finds_the_lock_taken_is_told_when_it_is_free(
    log: journal.Log, monkeypatch: pytest.MonkeyPatch, name: str, failing: bool
) -> None:
    """Also by one that fails: who waits is to find that out at once."""
    one, told = log._commit, list[Any]()
    promises: dict[str, Action] = {"once": one.once, "settle": one.settle, "reach": lambda: one.reach(0)}

    def wait(queue: Any, seconds: float) -> None:
        told.append((queue in one._waiting, queue.empty(), seconds > 0))
        one._mutex.release()
        with monkeypatch.context() as patch, contextlib.suppress(ZeroDivisionError):
            if failing:
                patch.setattr(log, "raise_failure", lambda: 1 / 0)
            promises[name]()
        told.append((queue in one._waiting, queue.empty()))

    monkeypatch.setattr(commit, "wait", wait)
    one._mutex.acquire()
    one.reach(0)
    assert told == [(True, True, True), (False, False)] and log.promised.seq == 0
    assert not one._mutex.locked() and one._waiting == []
    log.close()


def test_who_finds_the_lock_free_again_does_not_wait(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had it looked for waiting threads before this one was among them."""
    one = log._commit
    looks = [True, False, False]

    class Freed:
        def locked(self) -> bool:
            return looks.pop(0)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(one, "_mutex", Freed())
        patch.setattr(commit, "wait", lambda queue, seconds: pytest.fail("it waits"))
        one.reach(0)
    assert looks == [] and log.promised.seq == 0
    log.close()


def test_left_at_the_last_moment_a_segment_gets_no_receipt(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the look at what is left, the writer goes on: its chain begins behind a seal that is not there."""
    seal_left = commit.Commit._seal_left

    def late(self: commit.Commit) -> None:
        seal_left(self)
        fill(log)

    with monkeypatch.context() as patch:
        patch.setattr(commit.Commit, "_seal_left", late)
        log._commit.once()
    assert marks(storage) == [] and log.promised.seq == -1
    log.close()
    walk = Walk(storage).run()
    assert walk.promise.events == walk.seq == log.next_seq


# -- cut short -------------------------------------------------------------------------------------------------------


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


def before_line(nth: int, action: Action) -> bool:
    """Ctrl-C in `action`, before the nth line of `journal.commit` that it comes to. False: it has fewer lines.

    Not at the end of a `with`: between it and the release of the lock CPython looks for no signal.
    """
    left, before = nth, sys.gettrace()

    def trace(frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal left
        if frame.f_code.co_filename != commit.__file__:
            return None
        if event == "line" and not linecache.getline(commit.__file__, frame.f_lineno).strip().startswith("with "):
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
