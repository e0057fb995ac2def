"""How long may one call take? Every `log.reward` under group commit is timed, to the longest of them."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

import journal
from benchmarks.fresh import fresh
from benchmarks.question import Answer, Effort
from journal.speed.levels import WRITE, Null
from journal.storage.bare import RECORD, GrowingFile
from journal.storage.disk import DiskStorage

CALLS: Final = 200_000
EMPTY: Final = "an empty method: the machine's own pauses"
GROUP: Final = 'log.reward, sync="group"'
QUANTILES: Final = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}


def answer(directory: str, effort: Effort) -> Answer:
    """Microseconds of single calls, over all rounds; the empty method shows what is the machine's and not the log's."""
    found = Answer()
    for name, taken in fresh(pauses, directory, effort).items():
        row: dict[str, Any] = {"name": name, "limit": name != GROUP, "calls": len(taken)}
        row |= {quantile: float(np.percentile(taken, place)) / 1e3 for quantile, place in QUANTILES.items()}
        found.rows.append({**row, "max": float(taken.max()) / 1e3})
        if name == GROUP:
            for key in ("p99.9", "max"):
                found.value(f"pause {key}, ms", [found.rows[-1][key] / 1e3])
    return found


def pauses(directory: str, effort: Effort) -> dict[str, Any]:
    """In this process: nanoseconds of each call, the contenders in turns."""
    calls = effort.events(CALLS)
    taken: dict[str, list[Any]] = {EMPTY: [], WRITE: [], GROUP: []}
    with (
        tempfile.TemporaryDirectory(dir=directory) as place,
        GrowingFile(DiskStorage(place), "records") as file,
        journal.open(os.path.join(place, "group"), sync="group") as log,
    ):
        agent = log.agent("PPO")

        def write(agent: int, episode: int, step: int, value: float) -> None:
            file.write(RECORD.pack(step, agent, 0, episode, step, value))

        for turn in range(effort.rounds):
            for name, call in ((EMPTY, Null().reward), (WRITE, write), (GROUP, log.reward)):
                taken[name].append(_timed(call, agent, turn, calls))
    return {name: np.concatenate(parts) for name, parts in taken.items()}


def _timed(call: Callable[[int, int, int, float], object], agent: int, episode: int, calls: int) -> Any:
    taken = np.zeros(calls, np.int64)
    clock = time.perf_counter_ns
    for step in range(calls):
        start = clock()
        call(agent, episode, step, 0.5)
        taken[step] = clock() - start
    return taken
