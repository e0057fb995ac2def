"""msgpack and `os.write`: each event packed and given to the system at once; what many write by hand."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Final

import msgpack

from benchmarks.peer import KIND, EveryNowAndThen, Peer, Totals, add, add_blob, pack_blob
from journal.storage.disk import DiskStorage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE: Final = "events.msgpack"
WRITE, GROUP, SYNC = "write", "write, fdatasync every 50 ms", "write + fdatasync"


class Store:
    """A file opened for appending."""

    def __init__(self, directory: str, mode: str) -> None:
        self._stream = DiskStorage(directory).stream(FILE)
        self._fd = self._stream.fileno()
        self._pack = msgpack.Packer().pack
        self._syncing = EveryNowAndThen(self.sync) if mode == GROUP else None
        self._always = mode == SYNC

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        os.write(self._fd, self._pack((time.time_ns(), KIND, agent, episode, step, value)))
        if self._always:
            os.fdatasync(self._fd)

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        os.write(self._fd, self._pack(pack_blob(agent, episode, first, values)))
        if self._always:
            os.fdatasync(self._fd)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        if self._syncing is not None:
            self._syncing.__exit__()
        self._stream.close()


def totals(directory: str) -> Totals:
    found: Totals = {}
    with open(os.path.join(directory, FILE), "rb") as stream:
        for one in msgpack.Unpacker(stream):
            if isinstance(one, bytes):
                add_blob(found, one)
            else:
                add(found, one[2], 1, one[5])
    return found


PEER: Final = Peer(
    "msgpack + os.write",
    "msgpack",
    Store,
    totals,
    {WRITE: "kill -9", GROUP: "power cut, a moment later", SYNC: "power cut"},
    {WRITE: "kill -9", SYNC: "power cut"},
)
