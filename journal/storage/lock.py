"""The writer's lock on a real disk: a flock on `writer.lock`, which notes for people who holds it."""

from __future__ import annotations

import fcntl
import json
import os
import socket
import time
from collections.abc import Callable
from typing import Final

from journal.storage import LockHeld

_LOCK_PATIENCE: Final = 0.2
"""Seconds to wait for a lock: a reader that only looks may hold it for an instant."""


class DiskLock:
    """The lock, held; `let_go` is called once, when it is not any more."""

    def __init__(self, fd: int, let_go: Callable[[], None]) -> None:
        self._fd = fd
        self._let_go = let_go

    def release(self) -> None:
        if self._fd >= 0:
            # A child that was forked without telling Python still has the handle: closing ours would not unlock.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.drop()

    def drop(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)
            self._let_go()


def take(fd: int) -> None:
    """Lock the open lock file and note who holds it, or raise `LockHeld`."""
    deadline = time.monotonic() + _LOCK_PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            break
        except BlockingIOError:
            if time.monotonic() < deadline:
                time.sleep(0.01)
                continue
            noted = os.pread(fd, 4096, 0).decode("utf-8", "replace").strip()
            raise LockHeld(_holders(os.fstat(fd)) or _noted_pid(noted), noted) from None
    note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, note.encode() + b"\n", 0)
    except OSError:
        # The note is for people; the lock is the flock. A full disk must not keep a journal from being opened.
        pass


def _holders(status: os.stat_result) -> tuple[int, ...]:
    """The other processes that have this file open, as far as /proc shows them."""
    pids = set()
    for process in _entries("/proc"):
        if process.isdigit() and int(process) != os.getpid():
            for handle in _entries(f"/proc/{process}/fd"):
                try:
                    if os.path.samestat(os.stat(f"/proc/{process}/fd/{handle}"), status):
                        pids.add(int(process))
                except OSError:
                    continue
    return tuple(sorted(pids))


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _noted_pid(noted: str) -> tuple[int, ...]:
    try:
        return (int(json.loads(noted)["pid"]),)
    except (ValueError, KeyError, TypeError):
        return ()
