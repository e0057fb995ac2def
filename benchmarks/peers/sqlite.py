"""sqlite3: a row per event, each its own transaction, with a write-ahead log; batches by `executemany`."""

from __future__ import annotations

import os
import sqlite3
import time
from typing import TYPE_CHECKING, Final

from benchmarks.peer import KIND, Peer, Totals

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE: Final = "events.sqlite"
OFF, NORMAL, FULL = "WAL, synchronous=OFF", "WAL, synchronous=NORMAL", "WAL, synchronous=FULL"
INSERT: Final = "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)"


class Store:
    """A database with one table."""

    def __init__(self, directory: str, mode: str) -> None:
        self._database = sqlite3.connect(os.path.join(directory, FILE), isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(f"PRAGMA {mode.partition(', ')[2]}")
        self._database.execute(
            "CREATE TABLE event (time INTEGER, kind INTEGER, agent INTEGER, episode INTEGER, step INTEGER, value REAL)"
        )

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        self._database.execute(INSERT, (time.time_ns(), KIND, agent, episode, step, value))

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        now = time.time_ns()
        self._database.execute("BEGIN")
        self._database.executemany(
            INSERT, [(now, KIND, agent, episode, step, value) for step, value in enumerate(values.tolist(), first)]
        )
        self._database.execute("COMMIT")

    def close(self) -> None:
        self._database.close()


def totals(directory: str) -> Totals:
    database = sqlite3.connect(os.path.join(directory, FILE))
    rows = database.execute("SELECT agent, count(*), total(value) FROM event GROUP BY agent").fetchall()
    database.close()
    return {agent: (count, total) for agent, count, total in rows}


PEER: Final = Peer(
    "sqlite3",
    "sqlite3",
    Store,
    totals,
    {OFF: "kill -9", NORMAL: "kill -9", FULL: "power cut"},
    {NORMAL: "kill -9", FULL: "power cut"},
)
