"""A background thread that others can wait for, though Ctrl-C may hit them while they wait.

`Thread.join` and `is_alive` cannot be trusted then: interrupted, CPython 3.11 takes a thread that runs for one that has
ended. Nor can `Event` and `Condition`: interrupted in their `__enter__`, they leave their lock taken. So what crosses
between the threads is plain attributes and queues written in C.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

_POLL: Final = 0.05
"""Seconds: an interrupt may swallow a wake-up, so nobody waits for one for ever."""


class Worker:
    """One daemon thread that runs `work` once, from `start` on."""

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        self._work = work
        self._ended: SimpleQueue[None] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self.running = False
        """Has it begun and not ended?"""

    def start(self) -> None:
        """Begin. Raises `RuntimeError` where the system gives no thread."""
        self.running = True
        try:
            self._thread.start()
        except RuntimeError:
            self.running = False
            raise

    def wait(self) -> None:
        """Return when the work has ended."""
        while self.running:
            wait(self._ended, _POLL)

    def _run(self) -> None:
        try:
            self._work()
        finally:
            self.running = False
            self._ended.put(None)


def wait(queue: SimpleQueue[None], seconds: float | None) -> None:
    """Return when something is put into `queue`, or the time is over."""
    try:
        queue.get(timeout=seconds)
    except Empty:
        pass
