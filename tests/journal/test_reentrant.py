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
from collections import Counter
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any

import numpy as np
import pytest

import journal
from journal.reentrant import refuse
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from journal.turn import Turn

sys.path.insert(0, str(Path(__file__).parent))
from calls import CALLS, SAW, a_vector_step

pytestmark = [
    pytest.mark.usefixtures("small_segments"),
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there is no timer here"),
]

OURS = os.path.dirname(journal.__file__)
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


@pytest.mark.parametrize("sync", ["group", "always", "close"])
def test_an_append_that_comes_into_a_close_is_done_or_refused(sync: Any, events_of: Any) -> None:
    told: Counter[str] = Counter()
    for at in range(1, 10_000):
        storage = MemoryStorage()
        log = journal.open("m", storage=storage, sync=sync)
        log.agent("a")

        def comes(log: journal.Log = log) -> None:
            try:
                log.append(journal.Custom(name="within"))
                told["done"] += 1
            except journal.JournalClosed:
                told["closed"] += 1

        with Coming(at, comes) as coming:
            log.close()
        told["refused"] += coming.refused is not None
        assert len(events_of(storage)) == log.next_seq == 1 + told["done"]
        if not coming.came:
            break
        told["done"] = 0
    assert told["refused"] and told["closed"]


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
