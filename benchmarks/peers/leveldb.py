"""LevelDB, by plyvel: a log and sorted tables; the pattern of most storage engines since."""

from __future__ import annotations

from functools import partial
from typing import Final

from benchmarks.peer import Peer, Totals
from benchmarks.peers.key_values import KeyValues, sum_up

DEFAULT, SYNC = "sync=False", "sync=True"


def opened(directory: str, mode: str) -> KeyValues:
    import plyvel

    store = plyvel.DB(directory, create_if_missing=True)
    return KeyValues(partial(store.put, sync=mode == SYNC), store.close)


def totals(directory: str) -> Totals:
    import plyvel

    store = plyvel.DB(directory)
    found = sum_up(value for _, value in store)
    store.close()
    return found


PEER: Final = Peer(
    "LevelDB (plyvel)",
    "plyvel",
    opened,
    totals,
    {DEFAULT: "kill -9", SYNC: "power cut"},
    {DEFAULT: "kill -9", SYNC: "power cut"},
)
