"""Peers beside the limits: each peer in a process of its own, in turns with the references, and killed."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count as counter
from typing import Any, Final

import numpy as np

from benchmarks.contenders import JOURNAL, PEERS
from benchmarks.fresh import Died, fresh
from benchmarks.kill import kept
from benchmarks.peer import Peer, Store
from benchmarks.question import Answer, Effort, say
from journal.speed import levels
from journal.speed.rounds import Contender, Figures, Run, measure

MOST_BATCHES: Final = 256
"""In a round, 8 MB of values."""
MOST_EVENTS: Final = 400_000


def ask_peers(answer: Answer, directory: str, effort: Effort, *, batches: bool) -> None:
    """A row for each mode of each peer that is to be had; the others are skipped, with the reason."""
    for name, one in PEERS.items():
        if one is JOURNAL or not (one.batch_modes if batches else one.modes):
            continue
        if one.missing:
            answer.skip(name, one.missing)
            continue
        say(f"  {name}")
        try:
            answer.rows += fresh(measured, name, directory, effort, batches)
        except Died as error:
            answer.skip(name, str(error))


def measured(name: str, directory: str, effort: Effort, batches: bool) -> list[dict[str, Any]]:
    """The rows of one peer."""
    one = PEERS[name]
    modes = one.batch_modes if batches else one.modes
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        contenders = list(_references(place, stack, batches))
        limits = {limit.name for limit in contenders}
        for number, (mode, survives) in enumerate(modes.items()):
            folder = os.path.join(place, str(number))
            os.mkdir(folder)
            store = stack.enter_context(_closing(one.open(folder, mode)))
            synced = survives == "power cut"
            contenders.append(
                Contender(
                    mode,
                    (levels.ARRAY_SYNC if synced else levels.ARRAY)
                    if batches
                    else (levels.PWRITE if synced else levels.WRITE),
                    in_batches(store.batch) if batches else levels.one_by_one(store.append),
                    survives,
                    levels.BATCH if batches else 1,
                    MOST_BATCHES if batches else MOST_EVENTS,
                )
            )
        figures = measure(contenders, rounds=effort.rounds, seconds=effort.seconds)
    return [_row(one, figure, directory, effort, batches) for figure in figures if figure.name not in limits]


def killed(name: str, mode: str, directory: str, effort: Effort, *, batches: bool) -> dict[str, int]:
    """What a mode lost when it was killed, for its row."""
    found = kept(name, mode, batches=batches, directory=directory, kills=effort.kills, seconds=0.3)
    return {"kills": found.kills, "acknowledged": found.acknowledged, "lost": found.lost}


def journal_mode(name: str) -> str:
    """The peer's mode of a contender in `journal.speed.levels`."""
    return next(mode for mode in JOURNAL.modes if mode in name)


def _row(one: Peer, figure: Figures, directory: str, effort: Effort, batches: bool) -> dict[str, Any]:
    found = killed(one.name, figure.name, directory, effort, batches=batches)
    row = figure.as_document()
    if found["lost"]:
        row["survives"] = "nothing"
    return {**row, "peer": one.name, "mode": figure.name, "name": f"{one.name}, {figure.name}", **found}


def _references(place: str, stack: ExitStack, batches: bool) -> Iterator[Contender]:
    wanted = (levels.ARRAY, levels.ARRAY_SYNC) if batches else (levels.WRITE, levels.PWRITE)
    for one in levels.limits(place, stack):
        if one.name in wanted:
            yield one


def in_batches(batch: Callable[..., object]) -> Run:
    """Calls `batch` with 4,096 rewards each time."""
    array, episodes = np.array(levels.values()), counter()

    def run(calls: int) -> None:
        for _ in range(calls):
            batch(1, next(episodes), 0, array)

    return run


@contextmanager
def _closing(store: Store) -> Iterator[Store]:
    yield store
    store.close()
