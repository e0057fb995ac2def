"""Tail: the last events of a journal. What comes behind them: `replay.following`."""

from __future__ import annotations

from collections import deque

from journal.manifest import Manifest
from journal.walk import Walk
from journal.writer import LOCK_PATH
from replay.batch import Batch
from replay.loading import Place, storage_of
from replay.scan import kept, scan


def last(place: Place, count: int) -> tuple[list[Batch], int]:
    """The last `count` events, in batches, and the seq that comes next. Raises as `replay.load` does."""
    storage = storage_of(place)
    manifest = Manifest.read(storage)
    end = Walk(storage, manifest, live=storage.locked(LOCK_PATH)).run().seq
    newest: deque[Batch] = deque()
    held = 0
    for batch in scan(storage, since=kept(storage, max(0, end - count))) if count > 0 else ():
        newest.append(batch)
        held += len(batch)
        while held - len(newest[0]) >= count:
            held -= len(newest.popleft())
    if held > count:
        newest[0] = newest[0].cut(held - count, len(newest[0]))
    return list(newest), int(newest[-1].seq[-1]) + 1 if newest else end
