"""A peer: something else that a training could record its events with, in each class of safety that it has.

All do the same work. An event is a time, kind, agent, episode, step and float64 value; read cold, it gives the number
and the sum of each agent's values. Each peer is one file in peers/; what it loses is seen in `kill`, not believed.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from struct import Struct
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Final, Protocol

from journal.speed.rounds import Survives
from journal.storage import Buffer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

GROUP: Final = 0.05
"""Seconds between two syncs of those that sync now and then, as the journal does."""
KIND: Final = 9
BLOB: Final = Struct("<qIIQQI")
"""What stands before a batch's float64 values: time, kind, agent, episode, first step, count."""

Totals = dict[int, tuple[int, float]]
"""Agent → how many rewards, and their sum."""


class Store(Protocol):
    """One open store; what a call recorded has the safety of its mode when the call returns."""

    def append(self, agent: int, episode: int, step: int, value: float) -> object:
        """One event; its time is now."""

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> object:
        """Many rewards of one episode, steps `first` and on."""

    def close(self) -> object:
        """In order, as at a program's end."""


@dataclass(frozen=True)
class Peer:
    """How to write with it, and how a fresh process reads it."""

    name: str
    module: str
    """What must be importable; it is imported late, so that those who lack it can still be told so."""
    open: Callable[[str, str], Store]
    """(an empty directory, a mode) → the store."""
    totals: Callable[[str], Totals]
    """By a reader that knows the directory only, of events and batches alike."""
    modes: Mapping[str, Survives] = field(default_factory=dict)
    """For one event at a time: mode → what it is said to survive."""
    batch_modes: Mapping[str, Survives] = field(default_factory=dict)
    """The same for batches."""

    @property
    def missing(self) -> str | None:
        """Why it is not to be had here; None where it is."""
        if importlib.util.find_spec(self.module) is None:
            return f"{self.module} is not installed: pip install 'training-journal[bench]'"
        return None


def pack_blob(agent: int, episode: int, first: int, values: NDArray[np.float64]) -> bytes:
    """A batch as bytes, for those that store bytes."""
    return BLOB.pack(time.time_ns(), KIND, agent, episode, first, len(values)) + values.tobytes()


def add_blob(totals: Totals, blob: Buffer) -> None:
    """Take a batch into the totals."""
    import numpy as np

    _, _, agent, _, _, count = BLOB.unpack_from(blob)
    add(totals, agent, count, float(np.frombuffer(blob, np.float64, count, BLOB.size).sum()))


def add(totals: Totals, agent: int, count: int, value: float) -> None:
    """Take `count` rewards that sum up to `value` into the totals."""
    events, total = totals.get(agent, (0, 0.0))
    totals[agent] = (events + count, total + value)


class EveryNowAndThen(AbstractContextManager["EveryNowAndThen"]):
    """Calls `sync` every 50 ms in a thread, as anybody would by hand, until closed; then once more."""

    def __init__(self, sync: Callable[[], Any]) -> None:
        self._sync = sync
        self._ended = Event()
        self._thread = Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.wait(GROUP):
            self._sync()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._sync()
