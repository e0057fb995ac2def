"""Deep verification: what lies in the cells, and what depends on them.

cells          each one's own checksum; that batches and payloads make sense
snapshots      each one against a fold of all events before it
checkpoints    each one that a resume may need, against its SHA-256
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from journal import arrays, segment
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage import Storage
from journal.walk import Piece, opening_context
from replay.batch import Batch, parts, unpack
from replay.fold import fold
from replay.resume import MISSING, check
from replay.runs import Runs
from replay.state import State, without_trends

Found = Callable[[CorruptJournal], None]
"""Takes one finding; the verification goes on."""


class Contents:
    """Takes the pieces of a journal in order, from its first one on, and folds them as it checks them."""

    def __init__(self, storage: Storage, manifest: Manifest, *, live: bool) -> None:
        self._storage = storage
        self._live = live
        self._state = State(manifest.journal_id)
        self._whole = True
        """Was every event folded so far? Otherwise the state says nothing."""
        self._snapshots = [last for last in _snapshots(storage) if last >= manifest.kept_from]
        self._manifest = manifest

    def begin(self, found: Found) -> None:
        """Where history was dropped: the two snapshots that take its place are checked, and folded on from."""
        if not self._manifest.drops:
            return
        from replay.snapshot import packed, path_of, read_at, twin_of

        last = self._manifest.kept_from - 1
        good = []
        for path in (path_of(last), twin_of(last)):
            try:
                good.append(read_at(self._storage, self._manifest, last, path=path, whole=True).state)
            except CorruptJournal as error:
                found(error)
        if len(good) == 2 and packed(good[0]) != packed(good[1]):
            found(CorruptJournal(twin_of(last), 0, last, f"it is not the same as {path_of(last)}"))
        self._whole = bool(good)
        self._state = good[0] if good else self._state

    def take(self, piece: Piece, found: Found) -> None:
        """Check one piece's cells and fold its events."""
        if piece.path.startswith(segment.DIRECTORY):  # Those of history were made anew just now.
            bad = arrays.first_bad(piece.raw, piece.cells, piece.heads, piece.header.salt, piece.position)
            if bad is not None:
                seq = int(piece.seqs[np.searchsorted(piece.heads, bad)])
                found(CorruptJournal(piece.path, piece.offset(bad), seq, "this cell's own checksum does not match"))
        self._whole = self._whole and piece.seq == self._state.events
        if not self._whole:
            return
        try:
            runs = Runs(opening_context(piece))
            for part in parts(piece):
                self._fold(unpack(part, runs), found)
        except CorruptJournal as error:
            self._whole = False
            found(error)

    def finish(self, found: Found) -> None:
        """Check the checkpoints that the state names, as far as it was folded."""
        if not self._whole:
            return
        named = {one.path: one for agent in self._state.agents.values() for one in agent.checkpoints}
        for checkpoint in named.values():
            wrong = check(self._storage, checkpoint)
            if wrong is not None and not (self._live and wrong == MISSING):
                found(CorruptJournal(checkpoint.path, 0, checkpoint.seq, wrong))

    def _fold(self, batch: Batch, found: Found) -> None:
        while len(batch):
            stop = len(batch)
            if self._snapshots:
                stop = min(stop, self._snapshots[0] + 1 - int(batch.at("seq", 0)))
            fold(self._state, batch.cut(0, stop))
            batch = batch.cut(stop, len(batch))
            if self._snapshots and self._snapshots[0] == self._state.last_seq:
                self._check_snapshot(self._snapshots.pop(0), found)

    def _check_snapshot(self, last: int, found: Found) -> None:
        from replay.snapshot import packed, path_of, read

        path = path_of(last)
        try:
            kept = read(self._storage, path, whole=True).state
        except CorruptJournal as error:
            if self._storage.exists(path):  # Else a compaction has retired it since it was listed.
                found(error)
            return
        states = [kept, self._state]
        if kept.trends_since != self._state.trends_since:  # It was made before there were any.
            states = [without_trends(one) for one in states]
        if packed(states[0]) != packed(states[1]):
            found(CorruptJournal(path, 0, last, "this snapshot is not what the events before it give"))


def _snapshots(storage: Storage) -> list[int]:
    """The last seqs of all snapshots, oldest first."""
    if not storage.list("snapshots"):
        return []
    from replay.snapshot import seqs  # It needs pyarrow.

    return seqs(storage)[::-1]
