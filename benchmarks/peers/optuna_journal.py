"""Optuna's JournalFileBackend: the log behind its journal storage; a locked, synced JSON line per event."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peer import KIND, Peer, Totals, add

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE: Final = "optuna.log"
APPEND: Final = "append_logs"


class Store:
    """One log file."""

    def __init__(self, directory: str, mode: str) -> None:
        self._log = _backend(directory)

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        self._log.append_logs(
            [
                {
                    "time": time.time_ns(),
                    "kind": KIND,
                    "agent": agent,
                    "episode": episode,
                    "step": step,
                    "value": value,
                }
            ]
        )

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


def _backend(directory: str) -> Any:
    from optuna.storages.journal import JournalFileBackend

    return JournalFileBackend(os.path.join(directory, FILE))


def totals(directory: str) -> Totals:
    found: Totals = {}
    for event in _backend(directory).read_logs(0):
        add(found, event["agent"], 1, event["value"])
    return found


PEER: Final = Peer("Optuna JournalFileBackend", "optuna", Store, totals, {APPEND: "power cut"})
