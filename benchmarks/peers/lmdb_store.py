"""LMDB: a memory-mapped B-tree; a transaction for each event. The quickest of the key-value stores to read."""

from __future__ import annotations

from typing import Final

from benchmarks.peer import Peer, Totals
from benchmarks.peers.key_values import KeyValues, sum_up

SIZE: Final = 8 << 30
"""Address space; the file is as large as what is in it."""
NOSYNC, GROUP, SYNC = "sync=False", "sync=False, env.sync every 50 ms", "sync=True"


def opened(directory: str, mode: str) -> KeyValues:
    import lmdb

    environment = lmdb.open(directory, map_size=SIZE, sync=mode == SYNC, lock=True)

    def put(key: bytes, value: bytes) -> None:
        with environment.begin(write=True) as transaction:
            transaction.put(key, value, append=True)

    return KeyValues(put, environment.close, (lambda: environment.sync(True)) if mode == GROUP else None)


def totals(directory: str) -> Totals:
    import lmdb

    environment = lmdb.open(directory, map_size=SIZE, readonly=True)
    with environment.begin(buffers=True) as transaction:
        found = sum_up(value for _, value in transaction.cursor())
    environment.close()
    return found


PEER: Final = Peer(
    "LMDB",
    "lmdb",
    opened,
    totals,
    {NOSYNC: "kill -9", GROUP: "power cut, a moment later", SYNC: "power cut"},
    {NOSYNC: "kill -9", SYNC: "power cut"},
)
