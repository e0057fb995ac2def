"""Where does the time of 4,096 rewards at once go: into ready segments, and with a sync for each?

Each step alone, of batches one after the other, beside one write of the same bytes; then all that nobody is spared who
copies what it is given, checks it and can tell half a batch from a whole one, in one loop without a log; then the log.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import cycle
from typing import Final

import numpy as np

from benchmarks.contenders import JOURNAL
from benchmarks.question import Answer, Effort
from journal import cell, chain
from journal.cell import CELL
from journal.crc import crc32c
from journal.segment import SIZE_MAX
from journal.speed import levels
from journal.speed.rounds import Contender, Figures, Run, measure
from journal.storage.bare import BareFile, GrowingFile
from journal.storage.disk import DiskFile, DiskStorage

ROUNDS: Final = 3
SALT: Final = 0x00C0FFEE
LENGTH: Final = 8 * levels.BATCH
SIZE: Final = LENGTH + CELL
"""Bytes of a batch: its payload and its head."""
ALL: Final = "all of that in one loop, without a log"
ALL_SYNC: Final = "all of that and fdatasync in one loop, without a log"


def answer(directory: str, effort: Effort) -> Answer:
    """Microseconds per batch; ratios to one array write, and to array pwrite + fdatasync where it is synced."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        logs: list[levels.Kept] = []
        contenders = [*_written(place, stack, logs), *_synced(place, stack, logs)]
        level = list(levels.on_level_ground(contenders, logs))
        for one in measure(level, rounds=ROUNDS * effort.rounds, seconds=effort.seconds):
            found.rows.append(_row(one))
    return found


def _row(one: Figures) -> dict[str, object]:
    log = one.name.startswith("log.")
    times = {"wall_us": one.wall_ns * levels.BATCH / 1e3, "cpu_us": one.cpu_ns * levels.BATCH / 1e3}
    more = {"peer": JOURNAL.name} if log else {"limit": True}
    shown = {**one.as_document(), "survives": None, "wall_ns": None, "cpu_ns": None, "events_per_second": None}
    return {**shown, **times, **more}


def _written(place: str, stack: ExitStack, logs: list[levels.Kept]) -> Iterator[Contender]:
    storage, array = DiskStorage(place), np.array(levels.values())
    payload = array.tobytes()
    growing = stack.enter_context(GrowingFile(storage, "array"))
    ready = _Ready(storage, "ready", stack)
    head = _head(payload, 0)

    def payloads(calls: int) -> None:
        for at in ready.places(calls):
            ready.file.write(at + CELL, payload)

    def payloads_and_heads(calls: int) -> None:
        for at in ready.places(calls):
            ready.file.write(at + CELL, payload)
            ready.file.write(at, head)

    def all_of_it(calls: int) -> None:
        for at in ready.places(calls):
            copied = _checked(array)
            ready.file.write(at + CELL, copied)
            ready.file.write(at, _head(copied, at // CELL))

    def alone(name: str, run: Run) -> Contender:
        return Contender(name, levels.ARRAY, run, "kill -9", levels.BATCH, levels.READY)

    def repeated(step: Callable[[], object]) -> Run:
        def run(calls: int) -> None:
            for _ in range(calls):
                step()

        return run

    run = repeated(partial(growing.write, payload))
    yield Contender(levels.ARRAY, levels.ARRAY, run, "kill -9", levels.BATCH, levels.READY, growing.empty)
    yield alone("payload into a ready segment", payloads)
    yield alone("and its head behind it", payloads_and_heads)
    yield alone("a copy that the caller cannot change", repeated(partial(array.tobytes)))
    yield alone("does it hold a forged promise?", repeated(partial(cell.forged, payload, SALT, 0, 0, 0)))
    yield alone("CRC-32C of the payload", repeated(partial(crc32c, payload, SALT)))
    yield alone("a head, packed and with its own CRC", repeated(partial(_head, payload, 0, 0)))
    yield alone(ALL, all_of_it)
    log = levels.grown(f"{place}/close", "close", stack, logs)
    yield alone(levels.BATCHES, levels.rewards(log))
    agent, steps = log.agent("PPO"), np.arange(levels.BATCH)
    yield alone("log.rewards, steps as an array", repeated(partial(log.rewards, agent, 0, steps, array)))


def _synced(place: str, stack: ExitStack, logs: list[levels.Kept]) -> Iterator[Contender]:
    storage, array = DiskStorage(place), np.array(levels.values())
    file = stack.enter_context(BareFile(storage, "synced", levels.ROOM))
    data = array.data.cast("B")
    ready = _Ready(storage, "ready to be synced", stack)
    beginning, joined = bytes(chain.CHAIN_LENGTH), bytes(SIZE)

    def written(calls: int) -> None:
        for _ in range(calls):
            file.pwrite_array(data)

    def all_of_it(calls: int) -> None:
        for at in ready.places(calls):
            copied = _checked(array)
            whole = _head(copied, at // CELL) + copied
            ready.file.write(at, whole)
            ready.file.hasten(at, SIZE)
            chain.extend(beginning, (whole,))
            ready.file.check(SIZE_MAX)
            ready.file.sync()

    def hashed(calls: int) -> None:
        for _ in range(calls):
            chain.extend(beginning, (joined,))

    def alone(name: str, run: Run) -> Contender:
        return Contender(name, levels.ARRAY_SYNC, run, "power cut", levels.BATCH, levels.READY)

    yield alone(levels.ARRAY_SYNC, written)
    yield alone("BLAKE3 of a batch", hashed)
    yield alone(ALL_SYNC, all_of_it)
    yield alone(levels.BATCHES_ALWAYS, levels.rewards(levels.grown(f"{place}/always", "always", stack, logs)))


class _Ready:
    """A file as a segment is when it is ready, written from its beginning to its end and over again."""

    def __init__(self, storage: DiskStorage, path: str, stack: ExitStack) -> None:
        self.file: DiskFile = storage.create(path, SIZE_MAX)
        stack.callback(self.file.close)
        self.file.sync()
        self._places = cycle(range(0, SIZE_MAX - SIZE, SIZE))

    def places(self, calls: int) -> Iterator[int]:
        """Where the next batches go."""
        for _, at in zip(range(calls), self._places, strict=False):
            yield at


def _checked(array: np.ndarray[tuple[int], np.dtype[np.float64]]) -> bytes:
    copied = array.tobytes()
    if cell.forged(copied, SALT, 0, 0, 0) is not None:
        raise RuntimeError("these rewards hold no promise")
    return copied


def _head(payload: bytes, at: int, payload_crc: int | None = None) -> bytes:
    """Of a batch of the usual call; `payload_crc` where the payload's is not to be computed."""
    own = crc32c(payload, SALT) ^ at if payload_crc is None else payload_crc
    body = cell.BATCH.pack(cell.REWARDS, LENGTH // CELL, 1, 1, 0, 0, 8, own, 1, 0, 0, 0, levels.BATCH)
    return cell.PUBLISH.pack(crc32c(body, SALT) ^ at, body)
