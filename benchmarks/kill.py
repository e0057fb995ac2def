"""What does each peer really keep? Its process is killed (SIGKILL), and a fresh reader counts what was acknowledged.

The writer notes in a mapped file, after each call that has returned, how many events that makes. What the reader finds
less than that is lost, and shows a peer in the class that it really has. A power cut is not tried here: which modes
survive one is what their makers say.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import struct
import tempfile
import time
from dataclasses import dataclass
from typing import Final

import numpy as np

from benchmarks.contenders import PEERS
from journal.speed.levels import BATCH, values
from journal.speed.rounds import Survives
from journal.storage.disk import DiskStorage

ACKNOWLEDGED: Final = "acknowledged"
PATIENCE: Final = 60.0
"""Seconds until the first event must be acknowledged."""


@dataclass(frozen=True, slots=True)
class Kept:
    """Of one mode: over all kills, what was acknowledged, and what of it nobody can read any more."""

    kills: int
    acknowledged: int
    lost: int

    def survives(self, said: Survives) -> Survives:
        """The class that it really has, as far as a SIGKILL shows."""
        return "nothing" if self.lost else said


def kept(name: str, mode: str, *, batches: bool, directory: str, kills: int, seconds: float) -> Kept:
    """Kill a writer `kills` times, each within about `seconds` of its first event."""
    acknowledged = lost = 0
    for _ in range(kills):
        with tempfile.TemporaryDirectory(dir=directory) as place:
            store = os.path.join(place, "store")
            os.mkdir(store)
            told = _killed(name, mode, batches, place, store, seconds)
            found = sum(count for count, _ in PEERS[name].totals(store).values())
        acknowledged += told
        lost += max(0, told - found)
    return Kept(kills, acknowledged, lost)


def _killed(name: str, mode: str, batches: bool, place: str, store: str, seconds: float) -> int:
    storage = DiskStorage(place)
    process = multiprocessing.get_context("spawn").Process(target=write, args=(name, mode, batches, place, store))
    process.start()
    try:
        deadline = time.monotonic() + PATIENCE
        while not _acknowledged(storage) and process.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        time.sleep(random.uniform(0.2, 1.0) * seconds)
        if not process.is_alive():
            raise RuntimeError(f"{name}, {mode}: the writer ended by itself with {process.exitcode}")
    finally:
        process.kill()
        process.join()
    return _acknowledged(storage)


def _acknowledged(storage: DiskStorage) -> int:
    data = storage.read(ACKNOWLEDGED, 0, 8) if storage.exists(ACKNOWLEDGED) else b""
    return int(struct.unpack("<Q", data)[0]) if len(data) == 8 else 0


def write(name: str, mode: str, batches: bool, place: str, store: str) -> None:
    """Append until killed."""
    writer = PEERS[name].open(store, mode)
    note = DiskStorage(place).create(ACKNOWLEDGED, 4096)
    given = values()
    array = np.array(given)
    events = 0
    while True:
        if batches:
            writer.batch(1, events // BATCH, 0, array)
            events += BATCH
        else:
            writer.append(1, 0, events, given[events % BATCH])
            events += 1
        note.write(0, struct.pack("<Q", events))
