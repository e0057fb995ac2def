"""What LMDB, LevelDB and RocksDB share: a key per event in rising order, and 40 bytes of struct as its value."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peer import KIND, EveryNowAndThen, Totals, add, add_blob, pack_blob
from journal.storage import Buffer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

KEY: Final = Struct(">Q")
"""Big-endian, so that keys sort as numbers."""
EVENT: Final = Struct("<qIIQQd")
"""Time, kind, agent, episode, step, value."""


class KeyValues:
    """Puts events through `put(key, value)`; `sync` is called every 50 ms where it is given."""

    def __init__(
        self, put: Callable[[bytes, bytes], Any], close: Callable[[], Any], sync: Callable[[], Any] | None = None
    ) -> None:
        self._put = put
        self._close = close
        self._syncing = None if sync is None else EveryNowAndThen(sync)
        self._seq = 0

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        seq = self._seq
        self._put(KEY.pack(seq), EVENT.pack(time.time_ns(), KIND, agent, episode, step, value))
        self._seq = seq + 1

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        seq = self._seq
        self._put(KEY.pack(seq), pack_blob(agent, episode, first, values))
        self._seq = seq + 1

    def close(self) -> None:
        if self._syncing is not None:
            self._syncing.__exit__()
        self._close()


def sum_up(values: Iterable[Buffer]) -> Totals:
    """The totals of all values, in any order."""
    found: Totals = {}
    for one in values:
        if len(one) == EVENT.size:
            _, _, agent, _, _, value = EVENT.unpack(one)
            add(found, agent, 1, value)
        else:
            add_blob(found, one)
    return found
