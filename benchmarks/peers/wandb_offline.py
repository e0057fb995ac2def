"""wandb offline: `run.log` hands each event to a service process, which writes a file that can be uploaded later."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peer import Peer, Totals, add

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LOG: Final = "run.log"
HEADER: Final = 7
BLOCK: Final = 32 << 10
CHUNK: Final = Struct("<IHB")
"""Checksum, length and type of a piece of a record: the file is written as LevelDB writes its log."""
FULL, LAST = 1, 4


class Store:
    """One offline run."""

    def __init__(self, directory: str, mode: str) -> None:
        os.environ["WANDB_SILENT"] = "true"
        import wandb

        settings = wandb.Settings(silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True)
        self._run: Any = wandb.init(project="benchmark", dir=directory, mode="offline", settings=settings)

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        self._run.log({"agent": agent, "episode": episode, "step": step, "value": value})

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        import wandb

        self._run.finish()
        wandb.teardown()  # Waits for the service process, which writes the file.


def totals(directory: str) -> Totals:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Totals = {}
    for folder, _, names in os.walk(directory):
        for name in names:
            if name.endswith(".wandb"):
                for one in _records(_settled(os.path.join(folder, name))):
                    record = Record.FromString(one)
                    if record.WhichOneof("record_type") == "history":
                        items = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
                        add(found, int(items["agent"]), 1, json.loads(items["value"]))
    return found


def _settled(path: str) -> bytes:
    """The file once it no longer grows: the service process outlives the one that was killed for a moment."""
    size = -1
    while size != os.path.getsize(path):
        size = os.path.getsize(path)
        time.sleep(0.5)
    with open(path, "rb") as stream:
        return stream.read()


def _records(data: bytes) -> Iterator[bytes]:
    at, parts = HEADER, b""
    while at + CHUNK.size <= len(data):
        rest = BLOCK - at % BLOCK
        if rest < CHUNK.size:
            at += rest
            continue
        _, length, kind = CHUNK.unpack_from(data, at)
        body = data[at + CHUNK.size : at + CHUNK.size + length]
        if not kind or len(body) < length:
            return  # Cut in the middle.
        parts += body
        if kind in (FULL, LAST):
            yield parts
            parts = b""
        at += CHUNK.size + length


PEER: Final = Peer("wandb offline", "wandb", Store, totals, {LOG: "nothing"})
