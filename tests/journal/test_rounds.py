"""Who promises, and when: the rounds of the sync thread, played by the test, and what they hold meanwhile."""

from __future__ import annotations

import contextlib
import errno
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import journal
from journal import cell, sharing
from journal.commit import Commit
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.tail import Tail
from journal.walk import Walk

sys.path.insert(0, str(Path(__file__).parent))
from quiet import FIRST, Action, fill, leave, marks, nothing, quiet, rounds

pytestmark = pytest.mark.usefixtures("small_segments")


@pytest.fixture
def storage() -> FaultyStorage:
    return FaultyStorage(MemoryStorage(mappable=False))


@pytest.fixture
def log(storage: FaultyStorage, clock: Any) -> journal.Log:
    return quiet(storage, clock)


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
        patch.setattr(Commit, "once", lambda self: 1 / 0)
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
        method = getattr(Commit, name)

        def call(self: Commit, *args: Any, **more: Any) -> Any:
            assert self._mutex.locked(), name
            held.append(name)
            return method(self, *args, **more)

        patch.setattr(Commit, name, call)

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
    one.at_rest(lambda: held.append("at rest" if one._mutex.locked() else "beside a promise"))
    assert held.pop() == "at rest"
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
        patch.setattr(one._sharing, "mutex", one._mutex)
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
        told.append((queue in one._sharing.waiting, queue.empty(), seconds > 0))
        one._mutex.release()
        with monkeypatch.context() as patch, contextlib.suppress(ZeroDivisionError):
            if failing:
                patch.setattr(log, "raise_failure", lambda: 1 / 0)
            promises[name]()
        told.append((queue in one._sharing.waiting, queue.empty()))

    monkeypatch.setattr(sharing, "wait", wait)
    one._mutex.acquire()
    one.reach(0)
    assert told == [(True, True, True), (False, False)] and log.promised.seq == 0
    assert not one._mutex.locked() and one._sharing.waiting == []
    log.close()


def test_who_finds_the_lock_free_again_does_not_wait(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who had it looked for waiting threads before this one was among them."""
    one = log._commit
    looks = [True, True, False, False]

    class Freed:
        def locked(self) -> bool:
            return looks.pop(0)

        def __enter__(self) -> None: ...

        def __exit__(self, *_: object) -> None: ...

    with monkeypatch.context() as patch:
        patch.setattr(one, "_mutex", Freed())
        patch.setattr(one._sharing, "mutex", one._mutex)
        patch.setattr(sharing, "wait", lambda queue, seconds: pytest.fail("it waits"))
        one.reach(0)
    assert looks == [] and log.promised.seq == 0
    log.close()


def test_who_has_to_wait_again_is_still_one(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted twice, it would be waited for at the next sync, and never come."""
    one, counted = log._commit, list[int]()

    def wait(queue: Any, seconds: float) -> None:
        counted.append(len(one._sharing.waiting))
        if len(counted) == 3:
            one._mutex.release()

    monkeypatch.setattr(sharing, "wait", wait)
    one._mutex.acquire()
    one.reach(0)
    assert counted == [1, 1, 1] and one._sharing.waiting == [] and one._sharing.company == 1
    log.close()


def test_who_was_in_company_waits_for_it_before_it_syncs(log: journal.Log, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sync for both, though nobody else is here yet."""
    one, waited = log._commit, list[float]()

    def wait(queue: Any, seconds: float) -> None:
        waited.append(seconds)
        one.once()  # The other one came, and syncs.

    monkeypatch.setattr(sharing, "wait", wait)
    one._sharing.company, one._sharing.gathered = 2, 0.0
    one.reach(0)
    assert len(waited) == 1 and log.promised.seq == 0
    one._sharing.company = 1
    log.append(journal.Custom(name="y"))
    one.reach(1)
    assert len(waited) == 1, "of one nobody waits for company"
    log.close()


def test_left_at_the_last_moment_a_segment_gets_no_receipt(
    log: journal.Log, storage: FaultyStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Behind the look at what is left, the writer goes on: its chain begins behind a seal that is not there."""
    seal_left = Commit._seal_left

    def late(self: Commit) -> None:
        seal_left(self)
        fill(log)

    with monkeypatch.context() as patch:
        patch.setattr(Commit, "_seal_left", late)
        log._commit.once()
    assert marks(storage) == [] and log.promised.seq == -1
    log.close()
    walk = Walk(storage).run()
    assert walk.promise.events == walk.seq == log.next_seq


def test_asked_again_with_nothing_new_it_writes_nothing(log: journal.Log, storage: FaultyStorage) -> None:
    log._commit.once()
    promised = log.promised
    storage.operations.clear()
    log._commit.once()
    assert storage.operations == [] and log.promised == promised
    log.close()


@pytest.mark.parametrize("mark", [bytes(64), b"\xff" * 64], ids=["less", "more"])
def test_another_cell_where_an_interrupted_receipt_was_to_stand_is_not_taken_for_it(
    log: journal.Log, mark: bytes
) -> None:
    """It never came there, and an event did."""
    one = log._commit
    before = one._state
    one._receipt = (log.tail()[1] - cell.CELL, mark, before._replace(durable=False))
    one._settle_receipt()
    assert one._receipt is None and one._state is before
    assert log.sync().seq == 0
    log.close()


def test_before_the_first_promise_there_is_no_receipt_to_put_on_disk(log: journal.Log, storage: FaultyStorage) -> None:
    storage.operations.clear()
    assert log._commit.settle().seq == -1
    assert storage.operations == []
    log.close()


def test_a_seal_is_on_disk_itself_and_leaves_nothing_to_settle(log: journal.Log, storage: FaultyStorage) -> None:
    fill(log)
    with log._commit._mutex:
        log._commit._seal_left()
    storage.operations.clear()
    assert log._commit.settle().seq == log.next_seq - 2
    assert [kind for kind, _ in storage.operations if kind == "sync"] == []
    log.close()
