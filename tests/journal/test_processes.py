"""Other processes, forks and interrupts: one writer at a time, and an append is whole or not there."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest

import journal
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

ROOT = Path(__file__).parents[2]


def python(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Another process that runs `code`; its last line is awaited by the caller."""
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )


def in_child(action: Any) -> str:
    """What `action` returns, or raises, in a forked child."""
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            text = str(action())
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


# -- one writer ------------------------------------------------------------------------------------------------------


def test_a_second_writer_is_told_who_holds_the_lock(tmp_path: Path) -> None:
    other = python(
        """
        import sys, journal
        with journal.open(sys.argv[1]) as log:
            log.append(journal.Custom(name="x"))
            print("open", flush=True)
            sys.stdin.read()
        """,
        tmp_path / "x",
    )
    with other:
        assert other.stdout is not None and other.stdin is not None
        assert other.stdout.readline() == "open\n"
        with pytest.raises(journal.JournalLocked, match=f"process {other.pid} writes") as held:
            journal.open(tmp_path / "x")
        assert held.value.pids == (other.pid,)
        other.stdin.close()
    with journal.open(tmp_path / "x") as log:
        assert not log.recovered.crashed


def test_a_second_open_in_the_same_process_is_refused_too(tmp_path: Path) -> None:
    with journal.open(tmp_path / "x") as log:
        log.append(journal.Custom(name="x"))
        with pytest.raises(journal.JournalLocked) as held:
            journal.open(tmp_path / "x")
        assert held.value.pids == (os.getpid(),)
        assert log.append(journal.Custom(name="y")) == 1


def test_a_killed_writer_leaves_no_lock_behind(tmp_path: Path) -> None:
    other = python(
        """
        import os, signal, sys, journal
        log = journal.open(sys.argv[1], sync="close")
        log.append(journal.Custom(name="x"))
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "x",
    )
    assert other.wait() == -signal.SIGKILL
    other.communicate()
    with journal.open(tmp_path / "x") as log:
        assert log.recovered.crashed and log.recovered.adopted_events == 1


def test_an_exit_without_close_seals_the_log(tmp_path: Path) -> None:
    other = python(
        """
        import sys, journal
        log = journal.open(sys.argv[1], sync="close")
        log.append(journal.Custom(name="x"))
        """,
        tmp_path / "x",
    )
    assert other.communicate() == ("", "") and other.returncode == 0
    walk = Walk(DiskStorage(tmp_path / "x")).run()
    assert walk.promise.events == 1 and not walk.unsealed


# -- fork ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["disk", "memory"])
def test_a_forked_child_may_not_append_and_the_parent_goes_on(where: str, tmp_path: Path, events_of: Any) -> None:
    storage: Any = DiskStorage(tmp_path / "x") if where == "disk" else MemoryStorage()
    with journal.open("x", storage=storage) as log:
        agent = log.agent("a")
        for use in (
            lambda: log.reward(agent, 0, 0, 1.0),
            lambda: log.rewards(agent, 0, 0, [1.0]),
            lambda: log.append(journal.Custom(name="x")),
            lambda: log.sync(),
        ):
            assert in_child(use).startswith("JournalClosed: ") and "parent" in in_child(use)
        assert in_child(log.close) == "None"
        assert log.reward(agent, 0, 0, 1.0) == 1
        assert storage.locked("writer.lock")
    assert len(events_of(storage)) == 2


def test_a_child_of_a_dead_writer_does_not_keep_the_lock(tmp_path: Path) -> None:
    """A training is killed; its data loader's worker, a fork, lives on and must not lock the journal."""
    other = python(
        """
        import os, signal, sys, time, journal
        log = journal.open(sys.argv[1])
        log.append(journal.Custom(name="x"))
        child = os.fork()
        if not child:
            time.sleep(60)
        print(child, flush=True)
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "x",
    )
    assert other.stdout is not None
    child = int(other.stdout.readline())
    try:
        assert other.wait() == -signal.SIGKILL
        with journal.open(tmp_path / "x") as log:
            assert log.tail()[2] == 1
    finally:
        os.kill(child, signal.SIGKILL)
        other.communicate()


def test_the_processes_that_really_hold_the_lock_are_named(tmp_path: Path) -> None:
    """One that was forked behind Python's back: the noted pid is dead, the holder is another."""
    other = python(
        """
        import ctypes, os, signal, sys, time, journal
        log = journal.open(sys.argv[1])
        child = ctypes.PyDLL(None).fork()
        if not child:
            time.sleep(60)
        print(child, flush=True)
        time.sleep(0.1)
        os.kill(os.getpid(), signal.SIGKILL)
        """,
        tmp_path / "x",
    )
    assert other.stdout is not None
    child = int(other.stdout.readline())
    try:
        assert other.wait() == -signal.SIGKILL
        with pytest.raises(journal.JournalLocked) as held:
            journal.open(tmp_path / "x")
        assert held.value.pids == (child,)
    finally:
        os.kill(child, signal.SIGKILL)
        other.communicate()


def test_a_fork_beside_busy_threads_does_not_hang(tmp_path: Path) -> None:
    stop = threading.Event()
    with journal.open(tmp_path / "x", sync_interval=0.001) as log:
        agent = log.agent("a")

        def work() -> None:
            while not stop.is_set():
                log.reward(agent, 0, 0, 1.0)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            for _ in range(20):
                assert in_child(lambda: log.reward(agent, 0, 0, 1.0)).startswith("JournalClosed")
        finally:
            stop.set()
            thread.join()


# -- interrupts ------------------------------------------------------------------------------------------------------


def test_an_interrupt_between_store_and_count_is_settled_by_the_next_append(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("a")
        plain = log._put

        def after_the_store(*arguments: Any) -> None:
            plain(*arguments)
            raise KeyboardInterrupt

        def in_the_middle(buffer: Any, offset: int, crc: int, body: bytes) -> None:
            buffer[offset + 4 : offset + 30] = body[:26]
            raise KeyboardInterrupt

        for put, counted in ((after_the_store, 1), (in_the_middle, 0)):
            before = log.tail()[2]
            log._put = put
            with pytest.raises(KeyboardInterrupt):
                log.reward(agent, 0, counted, 1.0)
            log._put = plain
            assert log.tail()[2] == before + counted
        log._put = after_the_store
        with pytest.raises(KeyboardInterrupt):
            log.append(journal.EpisodeStarted(agent="a", episode=5))
        log._put = plain
        with pytest.raises(journal.EventRejected, match="episode 5 is open there"):
            log.append(journal.EpisodeStarted(agent="a", episode=6))
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "Rewarded", "EpisodeStarted"]


@pytest.mark.parametrize("where", ["_settle", "_unwind", "_take_in"])
def test_an_interrupt_while_settling_an_interrupt_is_settled_as_well(
    where: str, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.agent("a")
        plain, put, calls = getattr(log, where), log._put, 0

        def after_the_store(*arguments: Any) -> None:
            put(*arguments)
            raise KeyboardInterrupt

        def again(*arguments: Any) -> None:
            nonlocal calls
            calls += 1
            if calls < 3:
                raise KeyboardInterrupt
            plain(*arguments)

        log._put = after_the_store
        monkeypatch.setattr(log, where, again)
        with pytest.raises(KeyboardInterrupt):
            log.append(journal.EpisodeStarted(agent="a", episode=0))
        log._put = put
        with pytest.raises(KeyboardInterrupt):
            log.append(journal.EpisodeEnded(agent="a", episode=0, reason="x"))
        assert log.append(journal.EpisodeEnded(agent="a", episode=0, reason="x")) == 2
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "EpisodeStarted", "EpisodeEnded"]


def test_an_interrupt_while_going_to_the_next_segment_is_settled_before_anything_else(
    small_segments: int, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large event needs the next segment, small ones would still fit into this: it has been left all the same."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("a")
        for where in ("_enter", "_load"):
            plain = getattr(log, where)

            def interrupted(*arguments: Any) -> None:
                raise KeyboardInterrupt

            log.reward(agent, 0, 0, 1.0)
            monkeypatch.setattr(log, where, interrupted)
            with pytest.raises(KeyboardInterrupt):
                log.append(journal.Custom(name="large", data=bytes(3500)))
            monkeypatch.setattr(log, where, plain)
            for step in range(3):
                log.reward(agent, 1, step, 1.0)
    assert [one.kind for one in events_of(storage)] == ["NameGiven"] + ["Rewarded"] * 8


def test_an_interrupt_after_a_receipt_does_not_fork_the_chain() -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.append(journal.Custom(name="x"))
        file: Any = log._segment.file
        plain = file.write

        def write(offset: int, data: bytes) -> None:
            plain(offset, data)
            raise KeyboardInterrupt

        file.write = write
        with pytest.raises(KeyboardInterrupt):
            log._commit.once()
        file.write = plain
        log.append(journal.Custom(name="y"))
        assert log.sync().seq == 1
    assert Walk(storage).run().promise.events == 2


@pytest.mark.parametrize("step", ["write", "sync", "truncate"])
def test_an_interrupt_while_sealing_is_gone_on_with(step: str, small_segments: int) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log, log._commit._mutex:
        agent = log.agent("a")
        while not log.left:
            log.reward(agent, 0, 0, 1.0)
        file: Any = log.left[0].segment.file
        plain = getattr(file, step)

        def interrupted(*arguments: Any) -> None:
            plain(*arguments)
            raise KeyboardInterrupt

        setattr(file, step, interrupted)
        with pytest.raises(KeyboardInterrupt):
            log._commit._seal_left()
        setattr(file, step, plain)
        log._commit._seal_left()
        assert not log.left
    walk = Walk(storage).run()
    assert not walk.unsealed and walk.promise.events == walk.seq
