"""Who has given back a turn or a lock that another thread has by now is not taken for its holder: it waits."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import journal
from journal.rewarding import Steps
from journal.storage.memory import MemoryStorage

sys.path.insert(0, str(Path(__file__).parent))
from calls import CALLS

pytestmark = pytest.mark.usefixtures("small_segments")


def test_another_threads_lock_is_waited_for(events_of: Any) -> None:
    """Also from a handler that came in the middle of a call of the same thread, which has let go of it."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.agent("a")
        log.lock.acquire()
        thread = threading.Timer(0.05, log.lock.release)
        thread.start()
        assert log.append(journal.Custom(name="x")) == 1
        thread.join()


@pytest.mark.parametrize("outer", ["reward", "step", "batch", "an episode", "a vector step"])
def test_what_an_interrupt_left_is_settled_when_another_thread_lets_go_of_the_lock(
    outer: str, monkeypatch: pytest.MonkeyPatch, events_of: Any
) -> None:
    """The turn was given back before: it is Ctrl-C that goes on to the caller, and no refusal."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.agent("a")

        def interrupted() -> int:
            assert log._turn.taken
            log.lock.acquire()
            threading.Timer(0.05, log.lock.release).start()
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(log, "time_ns", interrupted)
            with pytest.raises(KeyboardInterrupt):
                CALLS[outer][1](log, 1)
        CALLS[outer][1](log, 2)
    assert {one.episode for one in events_of(storage)[1:]} == {2}


@pytest.mark.parametrize("way", ["quick", "slow"])
@pytest.mark.parametrize("outer", ["reward", "batch", "append", "an episode", "several", "a vector step"])
def test_who_has_given_the_turn_back_waits_for_another_threads(outer: str, way: str, events_of: Any) -> None:
    """Under `sync="always"` an append goes on behind its turn, or behind the lock."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="always") as log:
        log.agent("a")
        reach = log._reach

        def taken_by_another(seq: int) -> None:
            another_has_the_turn(log)
            reach(seq)

        log._reach = taken_by_another  # type: ignore[method-assign]
        if way == "slow":
            log._limit = 0
        CALLS[outer][1](log, 1)
        log._reach = reach  # type: ignore[method-assign]
        following = log.next_seq
    assert len(events_of(storage)) == following > 1


@pytest.mark.parametrize("outer", ["reward", "step", "batch", "an episode", "a vector step"])
def test_who_found_the_way_shut_waits_for_another_threads_turn(outer: str, events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.agent("a")
        refuse_within, came = log.refuse_within, []

        def taken_by_another() -> None:
            if not came:
                came.append(1)
                another_has_the_turn(log)
            refuse_within()

        log._limit = 0
        log.refuse_within = taken_by_another  # type: ignore[method-assign, assignment]
        CALLS[outer][1](log, 1)
        log.refuse_within = refuse_within  # type: ignore[method-assign]
        following = log.next_seq
    assert came and len(events_of(storage)) == following > 1


def test_the_end_behind_a_step_waits_for_another_threads_turn(events_of: Any) -> None:
    class Ending(Steps):
        def end(self, reason: str = "completed") -> None:
            another_has_the_turn(log)
            log.append(journal.Custom(name=reason))

    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        one = Ending(log.reward, log.agent("a"), 0, 0, 0)
        one.straight(log)
        one.step(1.0, True)
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "Rewarded", "Custom"]


def another_has_the_turn(log: journal.Log) -> None:
    def give_back() -> None:
        log._turn.taken = False

    log._turn.taken = True
    threading.Timer(0.05, give_back).start()


@pytest.mark.parametrize(("behind", "call"), [("served", "reach"), ("tell", "once")])
def test_a_sync_right_behind_another_one_waits_for_another_threads(
    behind: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The handler comes when the mutex was just let go of, and somebody else has it."""
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        log.agent("a")
        commit, came = log._commit, []
        plain = getattr(commit._sharing, behind)

        def comes(*arguments: Any) -> Any:
            told = plain(*arguments)
            if not came:
                commit._mutex.acquire()
                came.append(threading.Timer(0.05, commit._mutex.release))
                came[0].start()
                log.append(journal.Custom(name="x"))
                came.append(log.sync())
            return told

        with monkeypatch.context() as patch:
            patch.setattr(commit._sharing, behind, comes)
            getattr(commit, call)(*[0] * (call == "reach"))
        assert came[1].seq == 1
