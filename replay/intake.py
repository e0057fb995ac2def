"""Intake: the live log as a compaction takes it in: in stretches of bounded size, read once, and folded on the way.

    where each segment ends ── plan ──▶ stretches ── Intake.read ──▶ checked segments ──▶ history
                                                                          └── fold ──▶ the snapshot's state

A stretch becomes one file of history. What is read here is checked as ever; that it is what was planned is checked too.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Final, Self

from journal import segment
from journal.errors import CorruptJournal
from journal.manifest import Base, Manifest
from journal.skipping import base_after
from journal.storage import Storage
from journal.walk import Piece, Walk, context_after
from replay.batch import Batch
from replay.fold import fold
from replay.history import Span
from replay.loading import load, with_trends

EVENTS_MAX: Final = 8_000_000
BYTES_MAX: Final = 256 << 20
"""How much of the log one history file covers, at most; a single segment may be more."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """The segments of one history file: what lies between two places of the log."""

    base: Base
    end: Base

    @property
    def span(self) -> Span:
        """Of its events."""
        return Span(self.base.seq, self.end.seq - 1)

    @property
    def ordinals(self) -> range:
        """Of its segments."""
        return range(self.base.ordinal, self.end.ordinal)


def plan(manifest: Manifest, behind: Iterable[tuple[int, Base]]) -> list[Stretch]:
    """The live log in stretches of bounded size; their ends lack contexts, which only who reads it knows.

    `behind` tells of each segment its bytes, and where the log stands behind it. The same log gives the same stretches,
    so that the files of a killed compaction fit. A segment without events never begins a stretch: a history file has
    events.
    """
    stretches = []
    base = end = manifest.base
    size = 0
    for taken, after in behind:
        full = after.seq - base.seq > EVENTS_MAX or size + taken > BYTES_MAX
        if full and end.seq > base.seq and after.seq > end.seq:
            stretches.append(Stretch(base, end))
            base, size = end, 0
        end = after
        size += taken
    return [*stretches, Stretch(base, end)] if end.seq > base.seq else stretches


def sealed(storage: Storage, manifest: Manifest) -> Iterator[tuple[int, Base]]:
    """What `plan` asks, of a log that was recovered just now: each segment was checked, so its seal tells enough.

    Raises `CorruptJournal` where there is none.
    """
    seq = manifest.base.seq
    for ordinal in manifest.segments:
        path = segment.path_of(ordinal)
        after = base_after(storage, ordinal)
        if after is None:
            raise CorruptJournal(path, 0, seq, "its seal is gone, which was there a moment ago")
        yield storage.size(path), after
        seq = after.seq


def walked(storage: Storage, manifest: Manifest) -> Iterator[tuple[int, Base]]:
    """The same, of a log that was not. Raises as `Walk` does."""
    walk = Walk(storage, manifest, ahead=True)
    for piece in walk:
        yield piece.offset(piece.end), Base(piece.header.ordinal + 1, walk.position, walk.seq, walk.chain)


class Intake:
    """The live log, read once, and folded as it is read; a context manager. Memory: three segments, and the state."""

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self.journal_id = manifest.journal_id
        self.place = manifest.base
        """Where the log stands behind what was read."""
        self.state = with_trends(load(storage, manifest.base.seq - 1, whole=True))
        """After what was read and folded."""
        self._walk = Walk(storage, manifest, ahead=True)
        self._pieces = iter(self._walk)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._pieces.close()

    def read(self, stretch: Stretch) -> Iterator[Piece]:
        """The segments of the next stretch, checked. Whoever takes them hands their events to `fold`, each once.

        Raises `JournalFailed`, and `CorruptJournal` where they do not check, or do not end where the stretch does.
        """
        last = None
        for last in islice(self._pieces, len(stretch.ordinals)):
            yield last
        if last is not None:
            walk = self._walk
            context = context_after(last)
            self.place = Base(last.header.ordinal + 1, walk.position, walk.seq, walk.chain, context)
        if self.place != replace(stretch.end, context=self.place.context):
            path = segment.path_of(self.place.ordinal)
            raise CorruptJournal(path, 0, self.place.seq, "the log is no longer what it was a moment ago")

    def fold(self, batch: Batch) -> None:
        """Take in the next events. Raises as `replay.fold.fold` does."""
        fold(self.state, batch)
