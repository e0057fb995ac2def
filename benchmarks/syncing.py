"""Where does the time go under `sync="always"`: what stands beside an event's one sync, and what do threads add?

Each step alone, and in turns with the sync itself. Of what one event needs, the steps in italics are spared nobody who
writes a checked log. The threads in italics have nothing to record: one of them writes 64 bytes and syncs when all are
there, and they are woken as the log wakes its own; so that is what the interpreter and the system take for a turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from queue import SimpleQueue
from threading import Lock, Thread
from typing import Final

import journal
from benchmarks.question import Answer, Effort, by_name
from journal import cell, chain
from journal.sharing import Sharing
from journal.speed import levels
from journal.speed.rounds import Contender, Run, measure
from journal.storage.bare import BareFile
from journal.storage.disk import DiskFile, DiskStorage

PACKED: Final = "an event and a receipt packed, their CRC-32C"
WRITE: Final = "one write of both"
HASH: Final = "BLAKE3 of both"
CHECK: Final = "is the file still there, with all its bytes?"
STEPS: Final = (PACKED, WRITE, HASH, CHECK)
UNSYNCED: Final = 'log.reward, sync="always", where the disk takes no time'
BARE_THREADS: Final = f"{levels.THREADS} threads with nothing to record, one pwrite + fdatasync for all"


class WithoutDisk(DiskStorage):
    """Where nothing that is written is waited for."""

    def create(self, path: str, size: int = 0, *, zeros: bool = True) -> DiskFile:
        """A file whose syncs do nothing."""
        file = super().create(path, size, zeros=zeros)
        file.sync = lambda: None  # type: ignore[method-assign]
        file.hasten = lambda offset, length: None  # type: ignore[method-assign]
        return file


def answer(directory: str, effort: Effort) -> Answer:
    """Nanoseconds per event; the ratio is to pwrite + fdatasync."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        contenders = [*levels.synced_events(place, stack), *_steps(place, stack), _threads(place, stack)]
        figures = measure(contenders, rounds=8 * effort.rounds, seconds=effort.seconds / 4)
    for one in figures:
        found.add(one, survives=None, limit=one.name in (levels.PWRITE, BARE_THREADS, *STEPS))
    named = by_name(figures)
    steps = zip(*(named[step].wall_ratios for step in STEPS), strict=True)
    found.value("a sync and what nobody is spared", [1 + sum(step) for step in steps])
    alone, together = named[levels.ALWAYS].wall_ratios, named[BARE_THREADS].wall_ratios
    found.value("threads with nothing to record ÷ one", [a / b for a, b in zip(alone, together, strict=True)])
    return found


def _steps(place: str, stack: ExitStack) -> Iterator[Contender]:
    storage, salt = DiskStorage(place), 7
    value = chain.genesis(bytes(16))

    def packed() -> bytes:
        body = cell.REWARD.pack(cell.REWARDED, 1, 2, 0, 1, 0, 1, 2, 0.5)
        event = cell.PUBLISH.pack(cell.checksum(body, salt, 4), body)
        return cell.pack_promise(cell.RECEIPT, 2, 3, 4, 5, value, salt=salt, at=5) + event

    both = packed()
    file = storage.create("written", levels.ROOM)
    stack.callback(file.close)
    places = count(0, len(both))
    yield _contender(PACKED, packed)
    yield _contender(WRITE, lambda: file.write(next(places) % levels.ROOM, both))
    yield _contender(HASH, lambda: chain.extend(value, (both,)))
    yield _contender(CHECK, lambda: file.check(levels.ROOM))
    unsynced = journal.open("unsynced", storage=WithoutDisk(f"{place}/unsynced"), sync="always")
    stack.enter_context(unsynced)
    yield Contender(UNSYNCED, levels.PWRITE, levels.one_by_one(unsynced.reward, unsynced.agent("PPO")))


def _contender(name: str, step: Callable[[], object]) -> Contender:
    def run(calls: int) -> None:
        for _ in range(calls):
            step()

    return Contender(name, levels.PWRITE, run)


def _threads(place: str, stack: ExitStack) -> Contender:
    file = stack.enter_context(BareFile(DiskStorage(place), "shared", 1 << 20))
    return Contender(BARE_THREADS, levels.PWRITE, _in_step(file), events=levels.THREADS)


def _in_step(file: BareFile) -> Run:
    def run(calls: int) -> None:
        sharing, numbers = Sharing(Lock()), count(1)

        def work() -> None:
            for step in range(calls):
                told: SimpleQueue[None] = SimpleQueue()
                sharing.waiting.append(told)
                if next(numbers) % levels.THREADS == 0:  # The last to come; whoever has its number is in the list.
                    sharing.waiting.remove(told)
                    file.pwrite(1, 0, step, 0.5)
                    sharing.tell()
                else:
                    told.get()
                    sharing.tell_next()

        threads = [Thread(target=work) for _ in range(levels.THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run
