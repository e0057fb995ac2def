"""How much memory do writer, replay, verify and compaction need, whatever the number of events?

Anonymous memory only (RssAnon): mapped files and the page cache are the system's to take back. Above what the imports
take for the writer, all of it for the others. Sampled from outside, some hundred times a second.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Final

from benchmarks.question import Answer, Effort, say
from journal.speed.levels import BATCH

SIZES: Final = (2_000_000, 32_000_000)
SCALAR: Final = (200_000, 1_000_000)
LARGE: Final = 300
"""Events of a megabyte each."""


def answer(directory: str, effort: Effort) -> Answer:
    """Megabytes at two sizes; the goals are held against the larger."""
    found = Answer()
    for number in SCALAR:
        events = effort.events(number)
        with tempfile.TemporaryDirectory(dir=directory) as place:
            used = peak(partial(_write_single, place, events))
        _note(found, "writer", "one by one", events, used)
    for number in SIZES:
        events = effort.events(number)
        with tempfile.TemporaryDirectory(dir=directory) as place:
            _note(found, "writer", "batches", events, peak(partial(_write, place, events)))
            for what, work in (("replay", _replay), ("verify", _verify), ("compact", _compact)):
                say(f"  {what}, {events:,} events")
                _note(found, what, "batches", events, peak(partial(work, place)))
    with tempfile.TemporaryDirectory(dir=directory) as place:
        events = effort.events(LARGE)
        _note(found, "writer", "1 MB each", events, peak(partial(_write_large, place, events)))
        for what, work in (("replay", _replay), ("verify", _verify), ("compact", _compact)):
            say(f"  {what}, {events:,} events of 1 MB")
            _note(found, what, "1 MB each", events, peak(partial(work, place)))
    return found


def _note(found: Answer, what: str, how: str, events: int, used: tuple[int, int]) -> None:
    before, most = used
    counted = most - before if what == "writer" else most
    found.rows.append({"name": f"{what}, {how}", "events": events, "megabytes": counted / 1e6})
    key = f"{what}, MB"
    worst = max(counted / 1e6, found.values.get(key, {"value": 0.0})["value"])
    found.value(key, [worst])


def peak(work: Callable[[], object]) -> tuple[int, int]:
    """(bytes before the work, most bytes during it): anonymous memory of a process of its own."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_stand_by, args=(there, work))
    process.start()
    there.close()
    here.recv()  # All is imported.
    assert process.pid is not None
    before = most = anonymous(process.pid)
    here.send(None)
    while not here.poll(0.003):
        most = max(most, anonymous(process.pid))
    told = here.recv()
    process.join()
    if told is not None:
        raise RuntimeError(told)
    return before, most


def anonymous(pid: int) -> int:
    """RssAnon of a process, bytes."""
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as lines:
        for line in lines:
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return 0


def _stand_by(there: Connection, work: Callable[[], object]) -> None:
    import journal  # noqa: F401

    there.send(None)
    there.recv()
    told: Any = None
    try:
        work()
    except Exception as error:
        told = repr(error)
    there.send(told)
    time.sleep(0.05)


def _write_single(place: str, events: int) -> None:
    """By what a loop without numpy would import."""
    import journal

    with journal.open(place) as log:
        agent, reward = log.agent("PPO"), log.reward
        for step in range(events):
            reward(agent, 0, step, 0.5)


def _write(place: str, events: int) -> None:
    from benchmarks import training

    training.record(place, events, size=BATCH)


def _write_large(place: str, events: int) -> None:
    import journal

    with journal.open(place) as log:
        for _ in range(events):
            log.append(journal.Custom(name="weights", data={"noise": os.urandom(1_000_000)}))


def _replay(place: str) -> None:
    import replay

    replay.load(place)


def _verify(place: str) -> None:
    import replay

    replay.verify(place)


def _compact(place: str) -> None:
    from replay.compaction import compact

    compact(place)
    assert os.listdir(os.path.join(place, "history"))
