"""A process that appends, syncs and closes while a timer interrupts it, and then looks whether all is there, once.

Every interrupt falls into the journal's own code, at whatever instruction the timer finds; often a second one follows
while the first is being dealt with. Run by test_interrupts.py: `interrupted.py SEED SYNC mapped|pwrite COUNT [PLACE]`,
on a disk at PLACE or else in memory. Prints what it did as JSON.
"""

import json
import os
import random
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import numpy as np

import journal
from journal import cell, segment
from journal.episodes import fact
from journal.rewarding import Steps
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from journal.together import ending
from journal.walk import Walk

SEED, SYNC, MAPPED, COUNT = sys.argv[1:5]
PLACE = Path(sys.argv[5]) if len(sys.argv) > 5 else None
OURS = os.path.dirname(journal.__file__)
ENDING = ending(journal.EpisodeEnded(agent="-", episode=0, reason="terminated"))
LONGEST = -3 if SYNC != "always" else -2
"""What an append takes, about, as a power of ten in seconds: the timer waits up to that long."""
STARTED = fact(journal.EpisodeStarted(agent="-", episode=0, seed=7))
ENDED = fact(journal.EpisodeEnded(agent="-", episode=0, reason="terminated"))
SEEN = fact(
    journal.BarsSeen(
        agent="-",
        episode=0,
        instrument="EURUSD",
        timeframe="H1",
        start=0,
        stop=240,
        content_hash=None,
        source="declared",
    )
)
BARS = 1 << 40
PER_LIFE = 50
"""Interrupts of one open log; then it is closed and looked at."""

rng = random.Random(int(SEED))
told = Counter[str]()
budget, doing = 0, ""


def interrupt(_number: int, frame: FrameType | None) -> None:
    """Raise, where the journal is at work; else look again a moment later."""
    global budget
    while frame is not None and not frame.f_code.co_filename.startswith(OURS):
        frame = frame.f_back
    if not budget:
        return
    if frame is not None:
        budget -= 1
        told[doing] += 1
    if budget or frame is None:
        signal.setitimer(signal.ITIMER_REAL, 15e-6)
    if frame is not None:
        raise KeyboardInterrupt


def interrupted(what: str, action: Callable[[], object], most: int = 2) -> bool:
    """Do it, interrupted once or more often, if the timer finds it at work. Was it?"""
    global budget, doing
    try:
        try:
            budget, doing = 1 if rng.random() < 0.7 else most, what
            signal.setitimer(signal.ITIMER_REAL, 10 ** rng.uniform(-6, LONGEST))
            action()
            return False
        finally:
            budget = 0
    except KeyboardInterrupt:
        return True


def append_something(log: journal.Log, agent: int, mark: int, known: dict[int, int]) -> None:
    """One append of a random kind; `mark`, in its step or episode, tells it from all others."""
    kind = rng.choice(("reward", "episode", "episodes", "metric", "batch", "vector step", "an episode"))
    if kind == "reward":
        seq = log.reward(agent, 0, mark, 1.0)
    elif kind == "episode":
        seq = log.append(journal.EpisodeStarted(agent="a", episode=mark, env_index=mark))
    elif kind == "episodes":
        places = [(mark + more, mark + more) for more in range(3)]
        seq = log.alike(journal.EpisodeStarted(agent="a", episode=0), b"", agent, 0, places)
        known.update((seq + more, mark + more) for more in range(3))
    elif kind == "metric":
        seq = log.append(journal.MetricLogged(agent="a", metric=f"m{mark % 500}", step=mark, value=1.0))
    elif kind == "vector step":
        numbers, all_of_them = range(mark, mark + 5), range(5)
        payload = bytes(5 * (3 * 4 + 8))  # Three columns and a float64 each; the batch's base is its mark.
        keys = [(agent, 0, number) for number in numbers]
        step = agent, 0, 5, 0b010101, mark + 5, mark, payload, keys
        seq = log.vector_step(*step, numbers, 0.0, all_of_them, all_of_them, ENDING)
        for more in all_of_them:
            known[seq + more], known[seq + 10 + more] = mark + more, -(mark + more)
        known[seq + 5] = mark + 5
        return
    elif kind == "an episode":
        place = agent, 0, mark, mark
        known[log.episode(STARTED, *place)] = mark
        seq = log.episode(ENDED, *place, SEEN)
        known[seq], known[seq + 1] = mark + BARS, -mark
        return
    else:
        count = rng.choice((30, 3000))  # Through the map where there is one, and not.
        seq = log.rewards(agent, 0, range(mark, mark + count), np.ones(count))
    known[seq] = mark


def rewards(log: journal.Log, agent: int, first: int, known: dict[int, int]) -> None:
    """Twenty, by `Log.reward` or as steps of an episode."""
    if rng.random() < 0.5:
        for mark in range(first, first + 20):
            known[log.reward(agent, 0, mark, 1.0)] = mark
        return
    steps = Steps(log.reward, agent, 0, 0, 0)
    steps.straight(log)
    for mark in range(first, first + 20):
        steps.steps = mark
        steps.step(1.0)
        known[log.next_seq - 1] = mark


def seen(storage: Storage) -> dict[int, int]:
    """What somebody who reads beside the writer finds: the mark of each seq, ends below zero, bars above `BARS`."""
    marks: dict[int, int] = {}
    for piece in Walk(storage, live=True):
        for at in piece.heads.tolist():
            one = piece.cells[at]
            if int(one["kind"]) < cell.MARK_FIRST:
                mark = int(one["step"]) or int(one["episode"])
                marks[int(one["seq"])] = {cell.EPISODE_ENDED: -mark, cell.BARS_SEEN: mark + BARS}.get(one["kind"], mark)
    return marks


def check(storage: Storage, known: dict[int, int]) -> None:
    """What was acknowledged or seen is there under its seq; nothing, acknowledged or interrupted, is there twice."""
    marks = seen(storage)
    for seq, mark in known.items():
        assert marks[seq] == mark, f"event {seq} is {marks[seq]} instead of {mark}"
    there = [mark for mark in marks.values() if mark]
    assert len(there) == len(set(there)), "an event is there twice"


def life(storage: DiskStorage | MemoryStorage) -> None:
    """One log, from its opening to its end."""
    log = journal.open("m", storage=storage, sync=SYNC, sync_interval=0.001)  # type: ignore[arg-type]
    agent, known, mark = log.agent("a"), dict[int, int](), 1
    enough = told.total() + PER_LIFE
    while told.total() < enough:
        chance = rng.random()
        if chance < 0.7:
            hit = interrupted("appending", lambda first=mark: rewards(log, agent, first, known))
        elif chance < 0.97:
            hit = interrupted("appending", lambda first=mark: append_something(log, agent, first, known))
        else:
            hit = interrupted("syncing", log.sync)
        mark += 20
        if hit and rng.random() < 0.2:
            known.update(seen(storage))  # Also an event whose append was interrupted: from now on it has its seq.
    dead = storage.kill() if isinstance(storage, MemoryStorage) else None
    closings = 1
    while interrupted("closing", log.close, most=4) and rng.random() < 0.7:
        closings += 1  # Whoever was interrupted tries it again, and is interrupted again.
    signal.setitimer(signal.ITIMER_REAL, 0)
    log.close()
    told["closings interrupted again"] += closings > 1
    assert not storage.locked("writer.lock"), "the closed log holds its lock"
    told["lives"] += 1
    told["acknowledged or seen"] += len(known)
    if dead is not None:
        with journal.open("m", storage=dead) as again:
            found = again.recovered
            # Nothing is torn, but the begin of a segment in which nothing was appended yet, or of an append that was
            # interrupted, and so was its settling: the next append would have done it.
            assert found.torn_bytes == 0 or hit or "segment opened mark" in str(found.reason), found
            assert found.torn_events == 0
        check(dead, known)
    journal.open("m", storage=storage).close()
    check(storage, known)
    walk = Walk(storage).run()
    assert not walk.unsealed and walk.promise.events == walk.seq


def main() -> None:
    segment.SIZE_MIN = segment.SIZE_MAX = 8192  # type: ignore[misc]
    segment.RESERVE = 1024  # type: ignore[misc]
    signal.signal(signal.SIGALRM, interrupt)
    # In a callback of the interpreter, such as a weak reference's, an interrupt has no caller to go to.
    sys.unraisablehook = lambda unraisable: told.update({"without a caller": 1})
    while sum(told[what] for what in ("appending", "syncing", "closing")) < int(COUNT):
        if PLACE is None:
            life(MemoryStorage(mappable=MAPPED == "mapped"))
        else:
            life(DiskStorage(PLACE))
            shutil.rmtree(PLACE)
    print(json.dumps(told), flush=True)


main()
