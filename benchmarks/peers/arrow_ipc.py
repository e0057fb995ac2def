"""Arrow IPC: a record batch at a time into a stream file; the quickest way to write tables."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute

from benchmarks.peer import KIND, Peer, Totals
from journal.storage.disk import DiskStorage

if TYPE_CHECKING:
    from numpy.typing import NDArray

FILE: Final = "events.arrows"
FLUSHED, SYNC = "flushed", "fdatasync"
SCHEMA: Final = pa.schema(
    [
        *(("time", pa.int64()), ("kind", pa.uint16()), ("agent", pa.uint32()), ("episode", pa.uint64())),
        *(("step", pa.uint64()), ("value", pa.float64())),
    ]
)


class Store:
    """A stream of record batches."""

    def __init__(self, directory: str, mode: str) -> None:
        self.stream = DiskStorage(directory).stream(FILE)
        self._writer = pa.ipc.new_stream(self.stream, SCHEMA)
        self._always = mode == SYNC

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        self.batch(agent, episode, step, np.array([value]))

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        count = len(values)
        columns = [
            pa.array(np.full(count, time.time_ns())),
            pa.array(np.full(count, KIND, np.uint16)),
            pa.array(np.full(count, agent, np.uint32)),
            pa.array(np.full(count, episode, np.uint64)),
            pa.array(np.arange(first, first + count, dtype=np.uint64)),
            pa.array(values),
        ]
        self._writer.write_batch(pa.record_batch(columns, schema=SCHEMA))
        self.stream.flush()
        if self._always:
            os.fdatasync(self.stream.fileno())

    def close(self) -> None:
        self._writer.close()
        self.stream.close()


def totals(directory: str) -> Totals:
    """Of a stream that was cut too: the batches that are whole."""
    batches = []
    with open(os.path.join(directory, FILE), "rb") as stream:
        try:
            batches.extend(pa.ipc.open_stream(stream))
        except (pa.ArrowInvalid, OSError):
            pass  # Without its end mark, after a kill; the batches before are in the list.
        table = pa.Table.from_batches(batches, SCHEMA)
        found = table.group_by("agent").aggregate([("value", "count"), ("value", "sum")])
    rows = zip(*(found[name].to_pylist() for name in ("agent", "value_count", "value_sum")), strict=True)
    return {agent: (count, total) for agent, count, total in rows}


PEER: Final = Peer("Arrow IPC", "pyarrow", Store, totals, {}, {FLUSHED: "kill -9", SYNC: "power cut"})
