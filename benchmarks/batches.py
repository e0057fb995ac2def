"""What do 4,096 rewards at once cost: into ready segments, with a sync for each batch, and for a gigabyte on end?"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import Final

import numpy as np

import journal
from benchmarks.beside import ask_peers, journal_mode, killed
from benchmarks.contenders import JOURNAL
from benchmarks.fresh import fresh
from benchmarks.question import Answer, Effort, by_name
from journal.speed import levels
from journal.speed.rounds import Contender, Figures, measure
from journal.storage.bare import GrowingFile
from journal.storage.disk import DiskStorage

ROUNDS: Final = 3
SUSTAINED: Final = 32768
"""Batches of 4,096 float64: a gigabyte."""
ON_END: Final = "one array write, 1 GB on end, closed"
ON_END_LOG: Final = 'log.rewards, sync="group", 1 GB on end, closed'
_NOT_KILLED: Final = (levels.BATCHES_SYNC, levels.BATCHES_ALWAYS_ON_END, ON_END_LOG)
"""Those whose safety is seen in others: it is the same calls."""


def answer(directory: str, effort: Effort) -> Answer:
    """Ratios to one write of the same float64 array (to array pwrite + fdatasync, where it survives a power cut)."""
    found = Answer()
    figures = fresh(own, directory, effort) + fresh(on_end, directory, effort)
    for one in figures:
        if one.name in levels.LIMITS or one.name == ON_END:
            found.add(one, limit=True)
        elif one.name not in _NOT_KILLED:
            mode = journal_mode(one.name)
            lost = killed(JOURNAL.name, mode, directory, effort, batches=True)
            found.add(one, peer=JOURNAL.name, mode=mode, **lost)
        else:
            found.add(one, peer=JOURNAL.name, mode=one.name)
    named = by_name(figures)
    found.value("batch", named[levels.BATCHES].wall_ratios)
    found.value("batch, CPU", named[levels.BATCHES].cpu_ratios)
    found.value("batch, sync for each", named[levels.BATCHES_ALWAYS].wall_ratios)
    found.value("batch, sync for each, on end", named[levels.BATCHES_ALWAYS_ON_END].wall_ratios)
    found.value("batch, receipt synced for each", named[levels.BATCHES_SYNC].wall_ratios)
    found.value("batch, 1 GB on end", named[ON_END_LOG].wall_ratios)
    ask_peers(found, directory, effort, batches=True)
    return found


def own(directory: str, effort: Effort) -> list[Figures]:
    """The journal and the limits, in this process."""
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        return measure(list(levels.batches(place, stack)), rounds=ROUNDS * effort.rounds, seconds=effort.seconds)


def on_end(directory: str, effort: Effort) -> list[Figures]:
    """A gigabyte each round; the file, or the journal, is new each time and gone afterwards."""
    calls = effort.events(SUSTAINED)
    array = np.array(levels.values())

    def write(rounds: int) -> None:
        data = array.data.cast("B")
        with tempfile.TemporaryDirectory(dir=directory) as place, GrowingFile(DiskStorage(place), "array") as file:
            for _ in range(calls):
                file.write(data)

    def append(rounds: int) -> None:
        with tempfile.TemporaryDirectory(dir=directory) as place, journal.open(place, sync="group") as log:
            levels.rewards(log)(calls)

    events = calls * levels.BATCH
    return measure(
        [
            Contender(ON_END, ON_END, write, "power cut", events=events, most=1),
            Contender(ON_END_LOG, ON_END, append, "power cut", events=events, most=1),
        ],
        rounds=min(3, effort.rounds),
    )
