"""A log without a thread: it promises when the test says so, as often as the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import journal
from journal import cell, commit
from journal.storage import Storage
from journal.walk import Walk

FIRST = "segments/00000000.seg"
Action = Callable[[], object]


def quiet(storage: Storage, clock: Any) -> journal.Log:
    """Without a thread: it promises when the test says so."""
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log._commit.stop()
    log._commit._stopped = False
    log.append(journal.Custom(name="x"))
    return log


def fill(log: journal.Log) -> None:
    before = log.tail()[0]
    while log.tail()[0] is before:
        log.append(journal.Custom(name="x"))


def leave(log: journal.Log) -> None:
    """Go on to the next segment, without any event in it."""
    with log.lock:
        log._room(8192)
        log._allow()


def rounds(log: journal.Log, patch: pytest.MonkeyPatch, interval: float | None, *actions: Action) -> list[float | None]:
    """The sync thread's work, one round behind each action, then its end. Returns how long it would have waited."""
    waited: list[float | None] = []
    left = list(actions)

    def wait(_queue: object, seconds: float | None) -> None:
        waited.append(seconds)
        if left:
            left.pop(0)()
        else:
            log._commit._stopped = True

    patch.setattr(commit, "wait", wait)
    log._commit._interval = interval
    log._commit._run()
    return waited


def nothing() -> None:
    """A round in which nobody appends."""


def marks(storage: Any) -> list[int]:
    """The kinds of all promises in the log."""
    kinds = [int(kind) for piece in Walk(storage) for kind in piece.cells["kind"][piece.heads]]
    return [kind for kind in kinds if kind in (cell.RECEIPT, cell.SEGMENT_SEALED)]
