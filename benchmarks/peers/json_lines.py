"""JSON lines, by orjson: a line per event, in Python's buffer or flushed at once; what many loops log today."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

from benchmarks.peer import KIND, EveryNowAndThen, Peer, Totals, add
from journal.storage.disk import DiskStorage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE: Final = "events.jsonl"
BUFFERED, FLUSHED, GROUP, SYNC = "buffered", "flushed", "flushed, fdatasync every 50 ms", "fdatasync"


class Store:
    """A file opened for appending, with Python's buffer."""

    def __init__(self, directory: str, mode: str) -> None:
        import orjson

        self._dumps, self._options = orjson.dumps, orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
        self._stream = DiskStorage(directory).stream(FILE)
        self._syncing = EveryNowAndThen(self.sync) if mode == GROUP else None
        self._flushed, self._always = mode != BUFFERED, mode == SYNC

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        self._put(
            {
                "time": time.time_ns(),
                "kind": KIND,
                "agent": agent,
                "episode": episode,
                "step": step,
                "value": value,
            }
        )

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        self._put(
            {
                "time": time.time_ns(),
                "kind": KIND,
                "agent": agent,
                "episode": episode,
                "step": first,
                "values": values,
            }
        )

    def _put(self, event: dict[str, object]) -> None:
        self._stream.write(self._dumps(event, option=self._options))
        if self._flushed:
            self._stream.flush()
            if self._always:
                os.fdatasync(self._stream.fileno())

    def sync(self) -> None:
        os.fdatasync(self._stream.fileno())

    def close(self) -> None:
        if self._syncing is not None:
            self._syncing.__exit__()
        self._stream.close()


def totals(directory: str) -> Totals:
    import orjson

    found: Totals = {}
    with open(os.path.join(directory, FILE), "rb") as stream:
        for line in stream:
            if not line.endswith(b"\n"):
                break  # Cut in the middle.
            event = orjson.loads(line)
            if "values" in event:
                add(found, event["agent"], len(event["values"]), sum(event["values"]))
            else:
                add(found, event["agent"], 1, event["value"])
    return found


PEER: Final = Peer(
    "JSON lines (orjson)",
    "orjson",
    Store,
    totals,
    {BUFFERED: "nothing", FLUSHED: "kill -9", GROUP: "power cut, a moment later", SYNC: "power cut"},
    {FLUSHED: "kill -9", SYNC: "power cut"},
)
