"""A process that appends while a timer interrupts it, again and again, and then looks whether all is there, once.

Run by test_processes.py: `interrupted.py SEED SYNC mapped|pwrite SECONDS`.
"""

import random
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType

import journal
from journal import cell, segment
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

SEED, SYNC, MAPPED, SECONDS = sys.argv[1:]
rng = random.Random(int(SEED))
hits = budget = 0


def interrupt(_number: int, _frame: FrameType | None) -> None:
    global hits, budget
    if budget:
        budget -= 1
        hits += 1
        raise KeyboardInterrupt


def interrupted(action: Callable[[], object]) -> object:
    """What `action` returns; None where an interrupt hit it, and sometimes a second one right after the first."""
    global budget
    try:
        try:
            budget = 1 + (rng.random() < 0.3)
            signal.setitimer(signal.ITIMER_REAL, rng.uniform(1e-6, 200e-6), 15e-6)
            return action()
        finally:
            budget = 0
    except KeyboardInterrupt:
        return None


def append_something(log: journal.Log, agent: int, mark: int, known: dict[int, int]) -> None:
    """One append of a random kind; `mark`, in its step or episode, tells it from all others."""
    kind = rng.choice(("reward", "episode", "metric", "batch"))
    if kind == "reward":
        seq = log.reward(agent, 0, mark, 1.0)
    elif kind == "episode":
        seq = log.append(journal.EpisodeStarted(agent="a", episode=mark, env_index=mark))
    elif kind == "metric":
        seq = log.append(journal.MetricLogged(agent="a", metric=f"m{mark % 500}", step=mark, value=1.0))
    else:
        seq = log.rewards(agent, 0, [mark] * 30, [1.0] * 30)
    known[seq] = mark


def rewards(log: journal.Log, agent: int, first: int, known: dict[int, int]) -> None:
    for mark in range(first, first + 20):
        known[log.reward(agent, 0, mark, 1.0)] = mark


def check(storage: MemoryStorage, known: dict[int, int]) -> None:
    marks: dict[int, int] = {}
    for piece in Walk(storage):
        for at in piece.heads.tolist():
            one = piece.cells[at]
            if int(one["kind"]) < cell.MARK_FIRST:
                marks[int(one["seq"])] = int(one["step"]) or int(one["episode"])
    for seq, mark in known.items():
        assert marks[seq] == mark, f"event {seq} is {marks[seq]} instead of {mark}"
    there = [mark for mark in marks.values() if mark]
    assert len(there) == len(set(there)), "an event is there twice"


def main() -> None:
    segment.SIZE_MIN = segment.SIZE_MAX = 8192  # type: ignore[misc]
    segment.RESERVE = 1024  # type: ignore[misc]
    storage = MemoryStorage(mappable=MAPPED == "mapped")
    log = journal.open("m", storage=storage, sync=SYNC, sync_interval=0.001)  # type: ignore[arg-type]
    agent, known, mark = log.agent("a"), dict[int, int](), 1
    signal.signal(signal.SIGALRM, interrupt)
    deadline = time.monotonic() + float(SECONDS)
    while time.monotonic() < deadline:
        chance = rng.random()
        if chance < 0.7:
            interrupted(lambda first=mark: rewards(log, agent, first, known))
        elif chance < 0.97:
            interrupted(lambda first=mark: append_something(log, agent, first, known))
        else:
            interrupted(log.sync)
        mark += 20
    dead = storage.kill()
    interrupted(log.close)
    signal.setitimer(signal.ITIMER_REAL, 0)
    log.close()
    with journal.open("m", storage=dead) as again:
        found = again.recovered
        # Nothing is torn, but perhaps the begin of a segment in which nothing was appended yet.
        assert found.torn_bytes == 0 or "segment opened mark" in str(found.reason), found
        assert found.torn_events == 0
    check(dead, known)
    journal.open("m", storage=storage).close()
    check(storage, known)
    walk = Walk(storage).run()
    assert not walk.unsealed and walk.promise.events == walk.seq
    print(hits, len(known), flush=True)


main()
