"""A signal handler or a destructor that calls the log in the middle of another call of its thread.

It once waited for its own thread, for ever. Now it is done, or refused in a line, and what it came between goes on.
"""

from __future__ import annotations

import ast
import dis
import gc
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import journal
from journal.episodes import fact
from journal.reentrant import refuse
from journal.rewarding import Steps
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from journal.together import ending
from journal.turn import Turn

pytestmark = [
    pytest.mark.usefixtures("small_segments"),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here"),
]

OURS = os.path.dirname(journal.__file__)
STARTED = fact(journal.EpisodeStarted(agent="a", episode=0))
ENDED = fact(journal.EpisodeEnded(agent="a", episode=0, reason="terminated"))
ENDING = ending(journal.EpisodeEnded(agent="a", episode=0, reason="terminated"))
SAW = fact(
    journal.BarsSeen(
        agent="a", episode=0, instrument="X", timeframe="H1", start=0, stop=9, content_hash=None, source="declared"
    )
)
PATIENCE = 20.0
"""Seconds after which a call is taken for one that waits for ever."""


@pytest.fixture(autouse=True)
def no_hang() -> Iterator[None]:
    """A call that waits for ever fails, and the test run goes on."""

    def waits(_number: int, _frame: FrameType | None) -> None:
        raise AssertionError("it waits for itself")

    before = signal.signal(signal.SIGALRM, waits)
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@cache
def telling(code: CodeType) -> frozenset[int]:
    """The lines with a `_held = …`, asked of the code that runs: a mutant's are not the file's."""
    found = [one for one in dis.get_instructions(code) if "STORE_FAST" in one.opname and "_held" in str(one.argval)]
    return frozenset(one.positions.lineno for one in found if one.positions and one.positions.lineno)


class Coming:
    """Comes in between before the line `at` of the journal's own, counted from 1, of what is called meanwhile."""

    def __init__(self, at: int, call: Callable[[], object]) -> None:
        self.at, self.call = at, call
        self.lines = 0
        self.came = False
        self.refused: journal.ReentrantCall | None = None

    def __enter__(self) -> Coming:
        sys.settrace(self._trace)
        return self

    def __exit__(self, *_: object) -> None:
        sys.settrace(None)

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        path = frame.f_code.co_filename
        if not path.startswith(OURS) or path.endswith("memory.py"):
            return None  # Storage in memory has a lock of its own, for which other threads wait; a disk has none.
        # A tracer comes before each line; a signal never between taking a lock and telling so.
        if event == "line" and frame.f_lineno not in telling(frame.f_code):
            self.lines += 1
            if self.lines == self.at:
                sys.settrace(None)
                self.came = True
                try:
                    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
                    self.call()
                except journal.ReentrantCall as error:
                    self.refused = error
                finally:
                    signal.setitimer(signal.ITIMER_REAL, 0)
        return self._trace


def an_episode(log: journal.Log, number: int) -> None:
    log.episode(STARTED, 1, 0, number, 0)
    log.episode(ENDED, 1, 0, number, 0)


def several(log: journal.Log, number: int) -> None:
    places = [(number, 5), (number, 6)]
    log.alike(journal.EpisodeStarted(agent="a", episode=0), b"", 1, 0, places)
    log.alike(journal.EpisodeEnded(agent="a", episode=0, reason="x"), ENDING.payload, 1, 0, places)


def a_vector_step(log: journal.Log, number: int) -> None:
    keys = [(1, 0, 10), (1, 0, 11)]
    payload = bytes(2 * (3 * 4 + 8))
    step = 1, 0, 2, 0b010101, number, 10, payload, keys
    log.vector_step(*step, [number, number], 0.0, [0, 1], [0, 1], ENDING)


def a_step(log: journal.Log, number: int) -> None:
    one = Steps(log.reward, 1, number, 0, 0)
    one.straight(log)
    one.step(1.0)


CALLS: dict[str, tuple[int, Callable[[journal.Log, int], object]]] = {
    "reward": (1, lambda log, number: log.reward(1, number, 0, 1.0)),
    "step": (1, a_step),
    "batch": (7, lambda log, number: log.rewards(1, number, range(7), np.ones(7))),
    "append": (1, lambda log, number: log.append(journal.Custom(name="outer", data=number))),
    "an episode": (2, an_episode),
    "several": (4, several),
    "a vector step": (6, a_vector_step),
    "sync": (0, lambda log, number: (log.reward(1, number, 0, 1.0), log.sync())),
}
"""How many events each appends (but for the reward before `sync`), and the call."""
WITHIN: dict[str, tuple[int, Callable[[journal.Log], object]]] = {
    "append": (1, lambda log: log.append(journal.Custom(name="within"))),
    "reward": (1, lambda log: log.reward(1, 0, 0, 2.0)),
    "batch": (3, lambda log: log.rewards(1, 0, range(3), np.full(3, 2.0))),
    "a vector step": (6, lambda log: a_vector_step(log, 3)),
    "several": (2, lambda log: log.alike(SAW.like, SAW.payload, 1, 0, [(0, 5), (0, 6)])),
    "sync": (0, lambda log: log.sync()),
}


@pytest.mark.parametrize(("way", "sync"), [("quick", "group"), ("slow", "group"), ("quick", "always")])
@pytest.mark.parametrize("outer", CALLS)
def test_whatever_comes_between_any_two_lines_is_done_or_refused(
    outer: str, way: str, sync: Any, events_of: Any
) -> None:
    takes, call = CALLS[outer]
    storage, refusals, done = MemoryStorage(), 0, 0
    with journal.open("m", storage=storage, sync=sync) as log:
        log.agent("a")
        for within, (more, comes) in WITHIN.items():
            for at in range(1, 10_000):
                if way == "slow":
                    log._limit = 0
                before = log.next_seq
                with Coming(at, lambda comes=comes: comes(log)) as coming:  # type: ignore[misc]
                    call(log, 100 + at)
                added = log.next_seq - before
                mine = takes or 1
                if coming.refused is None:
                    assert added == mine + more * coming.came, (within, at)
                    done += coming.came
                else:
                    refusals += 1
                    recorded = "the event is recorded" in str(coming.refused)
                    assert added == mine + more * recorded, (within, at)
                    assert recorded or "nothing was done" in str(coming.refused)
                assert not log._turn.taken
                if not coming.came:
                    break
            assert at > 5, "nothing was interrupted"
        assert refusals and done
        log.reward(1, 0, 0, 1.0)
        following = log.next_seq
    assert len(events_of(storage)) == following


@pytest.mark.parametrize("sync", ["group", "always"])
@pytest.mark.parametrize("outer", ["reward", "append", "a vector step", "sync", "close"])
def test_a_close_that_comes_between_closes_or_is_refused(outer: str, sync: Any, events_of: Any) -> None:
    """As of a handler of SIGTERM that finishes the run."""
    refusals = 0
    for at in range(1, 10_000):
        storage = MemoryStorage()
        log = journal.open("m", storage=storage, sync=sync)
        log.agent("a")
        with Coming(at, log.close) as coming:
            try:
                if outer == "close":
                    log.close()
                else:
                    CALLS[outer][1](log, 1)
            except journal.JournalClosed:
                assert coming.refused is None, "it was not closed"
        refusals += coming.refused is not None
        assert coming.refused is None or "nothing was done" in str(coming.refused)
        assert log.closed == (outer == "close" or (coming.came and coming.refused is None))
        following = log.next_seq
        log.close()
        assert len(events_of(storage)) == following
        if not coming.came:
            break
    assert refusals and at > 5


@pytest.mark.parametrize("sync", ["group", "always"])
def test_a_handler_that_records_whenever_it_likes_hangs_nothing(sync: Any, tmp_path: Path, events_of: Any) -> None:
    """Real signals, at any instant of the appends and syncs of one thread beside another's."""
    known, refused, rng = set[int](), 0, random.Random(7)

    def record(_number: int, _frame: FrameType | None) -> None:
        nonlocal refused
        try:
            known.add(log.append(journal.Custom(name="handler")))
        except journal.ReentrantCall as error:
            refused += 1
            if "the event is recorded" in str(error):
                lost.append(1)

    lost: list[int] = []
    stop = False

    def beside() -> None:
        while not stop:
            others.add(log.reward(1, 1, 0, 1.0))
            time.sleep(1e-4)

    others, own = set[int](), set[int]()
    with journal.open(tmp_path / "j", sync=sync, sync_interval=0.001) as log:
        log.agent("a")
        thread = threading.Thread(target=beside)
        signal.signal(signal.SIGALRM, record)
        thread.start()
        try:
            deadline = time.monotonic() + 60
            while len(known) < 30 or refused < 10:
                assert time.monotonic() < deadline, (len(known), refused)
                signal.setitimer(signal.ITIMER_REAL, 10 ** rng.uniform(-6, -3.5))
                for _ in range(20):
                    own.add(log.reward(1, 0, 0, 1.0))
                own.add(log.append(journal.Custom(name="loop", data=bytes(100))))
                log.sync()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            stop = True
            thread.join()
    assert not known & own and not known & others and not own & others
    seen = events_of(DiskStorage(tmp_path / "j"))
    assert len(seen) == 1 + len(known) + len(own) + len(others) + len(lost)
    assert {one.seq for one in seen if one.payload == {"name": "handler"}} >= known


def test_a_destructor_that_records_is_refused_and_the_append_goes_on(
    monkeypatch: pytest.MonkeyPatch, events_of: Any
) -> None:
    """The garbage collector may run it wherever something is made, under the lock too."""
    told: list[str] = []

    class Noting:
        def __init__(self) -> None:
            self.myself = self

        def __del__(self) -> None:
            try:
                log.append(journal.Custom(name="destructor"))
            except journal.ReentrantCall as error:
                told.append(str(error))

    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        plain = log._checked

        def collects(*arguments: Any) -> int:
            Noting()
            gc.collect()
            return plain(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(log, "_checked", collects)
            assert log.append(journal.Custom(name="x")) == 0
        assert len(told) == 1 and "nothing was done" in told[0] and "\n" not in told[0]
    assert [one.payload["name"] for one in events_of(storage)] == ["x"]


def test_a_destructor_in_the_thread_that_seals_is_refused_and_the_segment_is_sealed(
    monkeypatch: pytest.MonkeyPatch, events_of: Any
) -> None:
    storage, told = MemoryStorage(), SimpleQueue[str]()
    with journal.open("m", storage=storage, sync="close") as log:
        seal_left = log._commit._seal_left

        def destructor() -> None:
            try:
                log.sync()
            except journal.ReentrantCall as error:
                told.put(str(error))
            seal_left()

        with monkeypatch.context() as patch:
            patch.setattr(log._commit, "_seal_left", destructor)
            for _ in range(100):
                log.append(journal.Custom(name="x"))
            assert "nothing was done" in told.get(timeout=PATIENCE)
    assert len(events_of(storage)) == 100


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


def test_who_holds_what_is_told_by_the_frames_below() -> None:
    lock, other = threading.Lock(), threading.Lock()
    turn, free = Turn(), Turn()

    def held() -> None:
        with lock:
            _held = lock
            refuse("m", other, turn)
            with pytest.raises(journal.ReentrantCall, match="called by a signal handler"):
                refuse("m", other, lock)
        del _held
        refuse("m", lock)

    def taken() -> None:
        taken = False
        refuse("m", free, lock)
        with pytest.raises(journal.ReentrantCall, match="what it did"):
            refuse("m", turn, left="what it did")
        taken = True
        refuse("m", turn)
        assert taken

    held()
    taken()
    refuse("m", lock, turn)


def test_who_takes_the_logs_lock_says_so_in_the_same_breath() -> None:
    """Between the two CPython looks for no signal; a handler would find nobody who holds the lock, and wait."""
    found = 0
    for path in sorted(Path(OURS).glob("*.py")):
        for one in ast.walk(ast.parse(path.read_text())):
            if isinstance(one, ast.With):
                lock = ast.unparse(one.items[0].context_expr)
                if lock.endswith((".lock", "._closing")):
                    found += 1
                    assert ast.unparse(one.body[0]) == f"_held = {lock}", (path.name, one.lineno)
    assert found == 7
