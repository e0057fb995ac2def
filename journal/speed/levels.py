"""Levels: the log at each level of safety, and beside it the least that the system asks for the same safety.

    one event, safe from kill -9       struct + os.write for each; and an empty method, a store into a mapped file
    one event, safe from a power cut   pwrite + fdatasync for each, into a file whose blocks are written
    4,096 rewards at once              one os.write of the same float64 array; the same and fdatasync

The references have no lock, no clock, no checksum and no chain; the log has.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count as counter
from itertools import cycle, islice
from threading import Thread
from typing import TYPE_CHECKING, Final

import journal
from journal.segment import SIZE_MAX
from journal.speed.rounds import LATER, Contender, Run, Survives
from journal.storage.bare import BareFile, GrowingFile
from journal.storage.disk import DiskStorage
from journal.writer import Sync

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BATCH: Final = 4096
THREADS: Final = 8
READY: Final = 384
"""Batches in a round at most, 12 MB: the live segment and the one made ready hold them."""
READY_SYNCED: Final = 128
"""The same with a sync for each, 4 MB: seven rounds of eight do not reach the segment's end. Rounds without a bound do,
and then the disk makes the next one ready beside the syncs."""
_STRIDE: Final = 8
"""Batches that the smallest segments hold twice."""
PATIENCE: Final = 10.0
"""Seconds to wait for a log to be ready, before the round begins all the same."""
ROOM: Final = 16 << 20
"""Bytes of the limits' files."""

EMPTY: Final = "an empty method"
STORE: Final = "struct into a mapped file"
WRITE: Final = "struct + os.write"
PWRITE: Final = "pwrite + fdatasync"
ARRAY: Final = "one array write"
ARRAY_SYNC: Final = "array pwrite + fdatasync"
KILL: Final = 'log.reward, sync="close"'
GROUP: Final = 'log.reward, sync="group"'
ALWAYS: Final = 'log.reward, sync="always"'
ALWAYS_THREADS: Final = f'log.reward, sync="always", {THREADS} threads'
BATCHES: Final = 'log.rewards, sync="close"'
BATCHES_GROUP: Final = 'log.rewards, sync="group"'
BATCHES_ALWAYS: Final = 'log.rewards, sync="always"'
BATCHES_ALWAYS_ON_END: Final = f"{BATCHES_ALWAYS}, on end"
BATCHES_SYNC: Final = "log.rewards + log.sync"
LIMITS: Final = frozenset({EMPTY, STORE, WRITE, PWRITE, ARRAY, ARRAY_SYNC})
"""Those that are no log."""

Kept = tuple[journal.Log, Sync]
"""A log that is open from round to round, and how it syncs."""

_SYNCS: Final[tuple[tuple[Sync, Survives], ...]] = (("close", "kill -9"), ("group", LATER))


def values() -> list[float]:
    """4,096 rewards as a training has them: rounded to 1e-5, of both signs, the same each time."""
    return [round(((7919 * place) % BATCH) / BATCH - 0.5, 5) for place in range(BATCH)]


class Null:
    """What is left of a call when nothing is done: the interpreter's own share."""

    def reward(self, agent: int, episode: int, step: int, value: float) -> None:
        """Nothing."""


def one_by_one(reward: Callable[[int, int, int, float], object], agent: int = 1) -> Run:
    """Calls `reward` for each event; every run is an episode."""
    episodes, given = counter(), values()

    def run(calls: int) -> None:
        episode = next(episodes)
        for step, value in zip(range(calls), cycle(given), strict=False):
            reward(agent, episode, step, value)

    return run


def limits(directory: str, stack: ExitStack) -> Iterator[Contender]:
    """What is no log: each is what those that give the same safety are compared with, or the bound of it."""
    import numpy as np

    storage, array = DiskStorage(directory), np.array(values())
    growing = stack.enter_context(GrowingFile(storage, "records"))
    yield Contender(WRITE, WRITE, _records(growing), "kill -9", before=growing.empty)
    yield Contender(EMPTY, WRITE, one_by_one(Null().reward))
    mapped = stack.enter_context(BareFile(storage, "mapped", ROOM))
    yield Contender(STORE, WRITE, one_by_one(mapped.store), "kill -9")
    synced = stack.enter_context(BareFile(storage, "synced", 1 << 20))
    yield Contender(PWRITE, PWRITE, one_by_one(synced.pwrite), "power cut")
    arrays = stack.enter_context(GrowingFile(storage, "array"))
    yield Contender(ARRAY, ARRAY, _arrays(arrays.write, array), "kill -9", BATCH, READY, arrays.empty)
    synced_arrays = stack.enter_context(BareFile(storage, "synced-array", ROOM))
    yield Contender(ARRAY_SYNC, ARRAY_SYNC, _arrays(synced_arrays.pwrite_array, array), "power cut", BATCH, READY)


def single_events(directory: str, stack: ExitStack) -> Iterator[Contender]:
    """One event at a time, safe from `kill -9` at least."""
    yield from _of(limits(directory, stack), WRITE, EMPTY, STORE)
    for name, (sync, survives) in zip((KILL, GROUP), _SYNCS, strict=True):
        log = stack.enter_context(journal.open(f"{directory}/{sync}", sync=sync))
        run = one_by_one(log.reward, log.agent("PPO"))
        yield Contender(name, WRITE, run, survives, before=partial(ready, log))


def synced_events(directory: str, stack: ExitStack) -> Iterator[Contender]:
    """One event at a time, safe from a power cut when the call returns; by one thread and by several."""
    yield from _of(limits(directory, stack), PWRITE)
    log = stack.enter_context(journal.open(f"{directory}/always", sync="always"))
    agent = log.agent("PPO")
    yield Contender(ALWAYS, PWRITE, one_by_one(log.reward, agent), "power cut")
    runs = [one_by_one(log.reward, agent) for _ in range(THREADS)]
    yield Contender(ALWAYS_THREADS, PWRITE, _together(runs), "power cut", THREADS)


def batches(directory: str, stack: ExitStack) -> Iterator[Contender]:
    """4,096 rewards at a time, into segments that are ready; with a sync for each; with a sync of its receipt too."""
    logs: list[Kept] = []

    def opened(place: str, sync: Sync) -> journal.Log:
        return grown(f"{directory}/batches-{place}", sync, stack, logs)

    def own() -> Iterator[Contender]:
        for name, (sync, survives) in zip((BATCHES, BATCHES_GROUP), _SYNCS, strict=True):
            yield Contender(name, ARRAY, rewards(opened(sync, sync)), survives, BATCH, READY)
        always = rewards(opened("always", "always"))
        yield Contender(BATCHES_ALWAYS, ARRAY_SYNC, always, "power cut", BATCH, READY_SYNCED)
        yield Contender(BATCHES_ALWAYS_ON_END, ARRAY_SYNC, always, "power cut", BATCH)
        synced = opened("synced", "close")
        append = rewards(synced)

        def appended_and_synced(calls: int) -> None:
            for _ in range(calls):
                append(1)
                synced.sync()

        yield Contender(BATCHES_SYNC, ARRAY_SYNC, appended_and_synced, "power cut", BATCH, READY)

    yield from on_level_ground((*_of(limits(directory, stack), ARRAY, ARRAY_SYNC), *own()), logs)


def _of(contenders: Iterator[Contender], *names: str) -> Iterator[Contender]:
    return (one for one in contenders if one.name in names)


def everything(directory: str, stack: ExitStack) -> list[Contender]:
    """All of them, each with a file or journal of its own in `directory`, open until `stack` is closed."""
    return [one for make in (single_events, batches, synced_events) for one in make(directory, stack)]


def rewards(log: journal.Log, size: int = BATCH) -> Run:
    """Appends batches of `size` rewards."""
    import numpy as np

    given, steps = np.array(list(islice(cycle(values()), size))), range(size)
    agent, episodes = log.agent("PPO"), counter()

    def run(calls: int) -> None:
        for _ in range(calls):
            log.rewards(agent, next(episodes), steps, given)

    return run


def ready(log: journal.Log) -> None:
    """Wait until the next segment is ready, as it is in any training that does not outrun its disk."""
    _wait(lambda: log.ready)


def on_level_ground(contenders: Iterable[Contender], logs: Sequence[Kept]) -> Iterator[Contender]:
    """The same; but before each round all logs come to rest.

    Else what one of them left to its threads would fall into the next one's round, or into a limit's.
    """

    def before(logs: Sequence[Kept], first: Callable[[], object] | None) -> None:
        if first is not None:
            first()
        at_rest(logs)

    return (replace(one, before=partial(before, logs, one.before)) for one in contenders)


def at_rest(logs: Sequence[Kept]) -> None:
    """As `ready`, and until nothing is left to be sealed or, where a log does so by itself, to be synced."""
    for log, sync in logs:
        _wait(partial(_rests, log, sync))


def _rests(log: journal.Log, sync: Sync) -> bool:
    return log.ready and not log.left and (sync == "close" or log.promised.seq == log.next_seq - 1)


def _wait(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not true() and time.monotonic() < deadline:
        time.sleep(0.001)


def grown(directory: str, sync: Sync, stack: ExitStack, logs: list[Kept]) -> journal.Log:
    """A log as it is after its first minute, also put into `logs`: segments double until they have their full size.

    Slowly, as a training does: a log that outruns its disk goes on in segments that are only allocated, and the first
    write to each page of such a one takes twice the time.
    """
    log = stack.enter_context(journal.open(directory, sync=sync))
    append = rewards(log)
    while log.tail()[0].header.size < SIZE_MAX:
        ready(log)
        append(_STRIDE)
    logs.append((log, sync))
    return log


def _records(file: GrowingFile) -> Run:
    episodes, given = counter(), values()

    def run(calls: int) -> None:
        episode = next(episodes)
        for start in range(0, calls, BATCH):
            file.records(1, episode, range(start, min(start + BATCH, calls)), given)

    return run


def _arrays(write: Callable[[memoryview], object], array: NDArray[np.float64]) -> Run:
    data = array.data.cast("B")

    def run(calls: int) -> None:
        for _ in range(calls):
            write(data)

    return run


def _together(runs: list[Run]) -> Run:
    def run(calls: int) -> None:
        threads = [Thread(target=one, args=(calls,)) for one in runs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    return run
