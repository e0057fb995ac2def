"""Threads that each want their event promised share one sync.

Whoever finds a sync at work waits for its end, and does not queue at its lock: the thread that had the lock takes it
again before those who sleep there are awake, and would sync alone, each time.

Nor does the thread that has just synced always begin the next sync at once: those whom it served are only waking, and
where they come with a next event straight away they would miss it, so every second sync would be for one event. Where
as many as were here came again soon, it waits for them, and whoever comes last syncs for all. Soon is a quarter of a
sync, for a longer wait would cost more than it saves, or what the interpreter takes to wake them.

Only one thread at a time has the interpreter. Woken all at once, they would queue at its lock, where each has to be
woken a second time; so a few are, and each of them wakes one more.
"""

from __future__ import annotations

import contextlib
import math
import threading
import time
from queue import SimpleQueue
from typing import Final

from journal.worker import wait

_POLL: Final = 0.05
"""Seconds between two looks at a sync of another thread: an interrupt may swallow the wake-up."""
_SOON: Final = 0.25
"""Syncs: a company that took longer to gather is not waited for."""
_WAKING: Final = 100e-6
"""Seconds that a thread of the company is given to wake and to come again, however short a sync is."""
_PATIENCE: Final = 2
"""Times as long as that one waits; who wakes before the company is complete has to wait again, for the sync."""


_AT_ONCE: Final = 3
"""Threads on their way at a time: to wake takes some three times as long as to come again with a next event."""


class Sharing:
    """Who waits for a sync that is made under `mutex`. No lock of its own: an interrupt at any line leaves no harm.

    What goes wrong then, or by a race, is a number that is off by one until the next sync.
    """

    def __init__(self, mutex: threading.Lock) -> None:
        self.mutex = mutex
        self.waiting: list[SimpleQueue[None]] = []
        """One for each thread whose event may be promised when `mutex` is free again."""
        self.untold: list[SimpleQueue[None]] = []
        """Those who may look and were not told yet."""
        self.company = 1
        """How many threads the last sync found here, the one that made it among them."""
        self.took = 0.0
        """Seconds of it."""
        self.ended = 0.0
        self.gathered = math.inf
        """Seconds from the end of a sync until as many were here again."""

    @property
    def alone(self) -> bool:
        """Is nobody else here, nor was at the last sync? Then a turn would be one's own at once."""
        return self.company == 1 and not self.waiting and not self.mutex.locked()

    def turn(self) -> Turn:
        """For a thread that comes with an event."""
        return Turn(self)

    def tell(self) -> int:
        """The mutex is free again: let those who wait look. Returns how many they are."""
        waiting, self.waiting = self.waiting, []
        self.untold += waiting
        for _ in self.untold[:_AT_ONCE]:
            self.tell_next()
        return len(waiting)

    def tell_next(self) -> None:
        """Wake one more of those who may look, if any is left: the first thing that a thread does when it is awake.

        Whoever fell asleep last is told first: what it needs is still in the processor's caches.
        """
        try:
            told = self.untold.pop()
        except IndexError:
            return
        told.put(None)

    @property
    def soon(self) -> float:
        """Seconds within which others are worth waiting for."""
        return max(_SOON * self.took, _WAKING * self.company)

    def served(self, began: float) -> None:
        """The same, by the thread whose turn it was and whose sync began then (`time.perf_counter`)."""
        self.company = 1 + self.tell()
        self.ended = time.perf_counter()
        self.took = self.ended - began


class Turn:
    """One thread's wait for the promise of its event."""

    def __init__(self, sharing: Sharing) -> None:
        self._sharing = sharing
        self._told: SimpleQueue[None] = SimpleQueue()
        self._came = False

    def mine(self) -> bool:
        """Is it for this thread to sync? False after a wait: look whether another one did, then ask again."""
        sharing = self._sharing
        if sharing.mutex.locked():
            self._come()
            if sharing.mutex.locked():  # Else nobody tells.
                wait(self._told, _POLL)
            sharing.tell_next()  # Also where it was told while it came, and need not sleep.
            return False
        if self._others_come():
            self._come()
            wait(self._told, min(_PATIENCE * sharing.soon, _POLL))  # A disk that stood still would make it long.
            sharing.tell_next()
            if self._told in sharing.waiting and not sharing.mutex.locked():
                sharing.gathered = math.inf  # In vain.
            return False
        self._leave()
        self._count()
        return True

    def _others_come(self) -> bool:
        sharing = self._sharing
        return 1 + len(sharing.waiting) < sharing.company and sharing.gathered <= sharing.soon

    def _come(self) -> None:
        if self._told not in self._sharing.waiting:
            self._sharing.waiting.append(self._told)
            self._count()

    def _leave(self) -> None:
        """Who syncs is in no company with itself."""
        if self._told in self._sharing.waiting:  # Else it never waited, or was told.
            with contextlib.suppress(ValueError):  # Somebody tells it just now.
                self._sharing.waiting.remove(self._told)

    def _count(self) -> None:
        """Note when the company is complete again; who comes a second time with the same event, unserved, was here."""
        sharing = self._sharing
        if not self._came and 1 + len(sharing.waiting) == sharing.company > 1:
            sharing.gathered = time.perf_counter() - sharing.ended
        self._came = True
