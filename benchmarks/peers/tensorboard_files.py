"""TensorBoard event files, by tensorboardX: what most training loops log scalars to."""

from __future__ import annotations

import os
import time
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peer import Peer, Totals, add

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SUMMARY, FLUSHED = "add_scalar", "add_scalar + flush"
DIRECT, DIRECT_SYNC = "EventsWriter, its file flushed", "EventsWriter + flush (fsync)"
HEAD: Final = Struct("<QI")
"""Length and its checksum, before each record; a checksum of the data follows it."""


class Store:
    """One event file. Agent and episode are the tag, as loops do it; of the value, 32 bits are kept."""

    def __init__(self, directory: str, mode: str) -> None:
        from tensorboardX import SummaryWriter
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        self._event, self._scalar = Event, scalar
        self._mode = mode
        self._writer: Any
        if mode in (DIRECT, DIRECT_SYNC):
            self._writer = EventsWriter(os.path.join(directory, "events"))
        else:
            self._writer = SummaryWriter(directory)

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        if self._mode in (DIRECT, DIRECT_SYNC):
            self._write(f"{agent}/{episode}", step, value)
            return
        self._writer.add_scalar(f"{agent}/{episode}", value, step)
        if self._mode == FLUSHED:
            self._writer.flush()

    def _write(self, tag: str, step: int, value: float) -> None:
        """What `add_scalar` does, in this thread."""
        self._writer.write_event(self._event(summary=self._scalar(tag, value), wall_time=time.time(), step=step))
        if self._mode == DIRECT_SYNC:
            self._writer.flush()
        else:
            self._writer._py_recordio_writer._writer.flush()  # Its own flush syncs the disk as well.

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._writer.close()


def totals(directory: str) -> Totals:
    from tensorboardX.proto.event_pb2 import Event

    found: Totals = {}
    for name in os.listdir(directory):
        with open(os.path.join(directory, name), "rb") as stream:
            data = stream.read()
        at = 0
        while at + HEAD.size <= len(data):
            length, _ = HEAD.unpack_from(data, at)
            body = data[at + HEAD.size : at + HEAD.size + length]
            if len(body) < length or len(data) < at + HEAD.size + length + 4:
                break  # Cut in the middle.
            for value in Event.FromString(body).summary.value:
                add(found, int(value.tag.partition("/")[0]), 1, value.simple_value)
            at += HEAD.size + length + 4
    return found


PEER: Final = Peer(
    "TensorBoard files (tensorboardX)",
    "tensorboardX",
    Store,
    totals,
    {SUMMARY: "nothing", FLUSHED: "nothing", DIRECT: "kill -9", DIRECT_SYNC: "power cut"},
)
