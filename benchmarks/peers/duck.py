"""DuckDB: a database for analysis in the process; a row per event is not what it is for, batches and reading are."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pyarrow as pa

from benchmarks.peer import KIND, Peer, Totals

if TYPE_CHECKING:
    from numpy.typing import NDArray

COLUMNS: Final = "time BIGINT, kind USMALLINT, agent UINTEGER, episode UBIGINT, step UBIGINT, value DOUBLE"
FILE: Final = "events.duckdb"
COMMIT: Final = "a commit for each"


class Store:
    """A database with one table."""

    def __init__(self, directory: str, mode: str) -> None:
        import duckdb

        self._database: Any = duckdb.connect(os.path.join(directory, FILE))
        self._database.execute(f"CREATE TABLE event ({COLUMNS})")

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        self._database.execute(
            "INSERT INTO event VALUES (?, ?, ?, ?, ?, ?)", (time.time_ns(), KIND, agent, episode, step, value)
        )

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        rows = pa.table({"step": np.arange(first, first + len(values), dtype=np.uint64), "value": values})
        self._database.register("rows", rows)
        self._database.execute(
            f"INSERT INTO event SELECT {time.time_ns()}, {KIND}, {agent}, {episode}, step, value FROM rows"
        )

    def close(self) -> None:
        self._database.close()


def totals(directory: str) -> Totals:
    import duckdb

    database: Any = duckdb.connect(os.path.join(directory, FILE))
    rows = database.execute("SELECT agent, count(*), sum(value) FROM event GROUP BY agent").fetchall()
    database.close()
    return {agent: (count, total) for agent, count, total in rows}


PEER: Final = Peer("DuckDB", "duckdb", Store, totals, {COMMIT: "power cut"}, {COMMIT: "power cut"})
