"""How quickly does a reader that knows only the directory tell each agent's totals? The journal checks all it reads.

The files are in the page cache, the reader begins anew each time, on level ground (`ground`). DuckDB, Arrow and the
journal's reader of history use all cores, the others one.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from typing import Final

import numpy as np

import replay
from benchmarks import training
from benchmarks.ground import level
from benchmarks.peer import Peer, Totals
from benchmarks.peers import arrow_ipc, duck, json_lines, leveldb, lmdb_store, msgpack_write, sqlite
from benchmarks.question import Answer, Effort, by_name, say
from journal.manifest import Manifest
from journal.speed import levels
from journal.speed.rounds import Contender, measure
from journal.storage.disk import DiskStorage
from replay.batch import FOLDED
from replay.compaction import compact
from replay.fold import fold
from replay.scan import scan
from replay.state import State

ARRAY: Final = "a float64 array, read and summed"
BATCHES: Final = "training-journal, batches"
SINGLE: Final = "training-journal, single cells"
HISTORY: Final = "training-journal, history"
EVENTS: Final = 8_000_000
SINGLE_EVENTS: Final = 2_000_000
READ: Final = (
    (duck.PEER, True, EVENTS),
    (arrow_ipc.PEER, True, EVENTS),
    (lmdb_store.PEER, True, EVENTS),
    (sqlite.PEER, True, 1_000_000),
    (leveldb.PEER, False, 200_000),
    (msgpack_write.PEER, False, 400_000),
    (json_lines.PEER, False, 400_000),
)
"""Peer, by batches or one by one, how many events. Each as it is quickest of those that anybody would use."""


def answer(directory: str, effort: Effort) -> Answer:
    """Events per second; the ratio is of the time for an event, to reading and summing a bare array."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        events, single = effort.events(EVENTS), effort.events(SINGLE_EVENTS)
        say(f"  writing what will be read: {events:,} events, several times")
        contenders = [
            Contender(ARRAY, ARRAY, _array(place, events), events=events, most=1, before=level),
            _own(BATCHES, place, events, size=levels.BATCH, read=_state),
            _own(SINGLE, place, single, size=1, read=_state),
            _own(HISTORY, place, events, size=levels.BATCH, read=history, compacted=True),
        ]
        for one, batches, number in READ:
            if one.missing:
                found.skip(one.name, one.missing)
                continue
            contenders.append(_peer(one, place, effort.events(number), batches))
        sizes = {
            one.name: {"bytes_per_event": bytes_in(os.path.join(place, one.name)) / one.events} for one in contenders
        }
        for figures in (measured := measure(contenders, rounds=effort.rounds)):
            found.add(figures, survives=None, limit=figures.name == ARRAY, **sizes.get(figures.name, {}))
    named = by_name(measured)
    for key, name in (("batches", BATCHES), ("single cells", SINGLE), ("history", HISTORY)):
        found.value(f"replay of {key}, M events/s", [1e3 / named[name].wall_ns])
        for rival in ("DuckDB", "Arrow IPC"):
            other = f"{rival}, batches"
            if other in named:
                ratios = [a / b for a, b in zip(named[other].wall_ratios, named[name].wall_ratios, strict=True)]
                found.value(f"replay of {key}, × {rival}", ratios)
    return found


def _array(place: str, events: int) -> Callable[[int], object]:
    storage = DiskStorage(place)
    storage.make_directory(ARRAY)
    with storage.stream(f"{ARRAY}/values") as stream:
        stream.write(training.rewards("rounded", events, 0).data)

    def read(calls: int) -> None:
        np.frombuffer(storage.read(f"{ARRAY}/values")).sum()

    return read


def bytes_in(directory: str) -> int:
    """All that its files hold; LMDB's has holes, which are not counted."""
    paths = (os.path.join(folder, name) for folder, _, names in os.walk(directory) for name in names)
    return sum(min(status.st_size, status.st_blocks * 512) for status in map(os.stat, paths))


def _own(
    name: str, place: str, events: int, *, size: int, read: Callable[[str], State], compacted: bool = False
) -> Contender:
    directory = os.path.join(place, name)
    training.record(directory, events, size=size)
    if compacted:
        compact(directory)

    def run(calls: int) -> None:
        steps = sum(agent.spent["train"].steps for agent in read(directory).agents.values())
        if steps != events:
            raise RuntimeError(f"{name}: {steps:,} of {events:,} rewards were read")

    return Contender(name, ARRAY, run, events=events, most=1, before=level)


def _state(directory: str) -> State:
    return replay.load(directory)


def history(directory: str) -> State:
    """From its first event, without the snapshot that spares that."""
    storage = DiskStorage(directory)
    state = State(Manifest.read(storage).journal_id)
    for batch in scan(storage, columns=FOLDED):
        fold(state, batch)
    return state


def _peer(one: Peer, place: str, events: int, batches: bool) -> Contender:
    name = one.name + (", batches" if batches else ", one by one")
    directory = os.path.join(place, name)
    os.mkdir(directory)
    modes = one.batch_modes if batches else one.modes
    store = one.open(directory, next(iter(modes)))
    for agent, episode, count in training.episodes(events):
        values = training.rewards("rounded", count, episode * training.AGENTS + agent)
        if batches:
            for first in range(0, count, levels.BATCH):
                store.batch(agent, episode, first, values[first : first + levels.BATCH])
        else:
            for step, value in enumerate(values.tolist()):
                store.append(agent, episode, step, value)
    store.close()

    def run(calls: int) -> None:
        totals: Totals = one.totals(directory)
        read = sum(count for count, _ in totals.values())
        if read != events:
            raise RuntimeError(f"{one.name}: {read:,} of {events:,} events were read")

    return Contender(name, ARRAY, run, events=events, most=1, before=level)
