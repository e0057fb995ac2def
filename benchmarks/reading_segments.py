"""Where does the time go when segments are replayed or verified? Each step alone, over what the one before it made.

The first two are limits: nobody is spared them who checks what is read. `scan` walks segment by segment, `load` goes
block by block, in one thread. Shares count: a step alone has the processor's cache to itself.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from typing import Final

import replay
from benchmarks import training
from benchmarks.question import Answer, Effort, say
from journal import arrays, segment
from journal.chain import extend
from journal.early import early
from journal.manifest import Manifest
from journal.speed import levels
from journal.speed.rounds import Contender, measure
from journal.storage.buffers import Buffers, room
from journal.storage.disk import DiskStorage
from journal.walk import Piece, Walk
from replay.batch import Batch, unpacked
from replay.fold import fold
from replay.state import State

JOURNALS: Final = (("single cells", 2_000_000, 1), ("batches", 8_000_000, levels.BATCH))
"""What it is of, how many events, how many are appended at once."""
CHUNK: Final = 2 << 20


def answer(directory: str, effort: Effort) -> Answer:
    """Nanoseconds per event; the ratio is to the hash of the same bytes, in one thread, where they lie in memory."""
    found = Answer()
    contenders: list[Contender] = []
    with tempfile.TemporaryDirectory(dir=directory) as place:
        for name, number, size in JOURNALS:
            events = effort.events(number)
            say(f"  writing {events:,} events: {name}")
            path = os.path.join(place, name)
            training.record(path, events, size=size)
            hashing = f"{name}: BLAKE3 of the bytes"
            for what, run in _stages(path, hashing):
                contenders.append(
                    Contender(what if what == hashing else f"{name}: {what}", hashing, run, events=events, most=1)
                )
        for figures in measure(contenders, rounds=2 * effort.rounds):
            found.add(figures, survives=None, limit="replay." not in figures.name)
    return found


def _stages(path: str, hashing: str) -> Iterator[tuple[str, Callable[[int], object]]]:
    storage = DiskStorage(path)
    manifest = Manifest.read(storage)
    paths = [segment.path_of(ordinal) for ordinal in manifest.segments]
    pieces = list(Walk(storage, manifest))
    memory = room(CHUNK)

    def copied(calls: int) -> None:
        for path in paths:
            at = 0
            while count := storage.read_into(path, memory, at):
                at += count

    def hashed(calls: int) -> None:
        for piece in pieces:
            extend(b"", (piece.raw[at : at + CHUNK] for at in range(0, len(piece.raw), CHUNK)))

    def looked(calls: int) -> None:
        for piece in pieces:
            if len(arrays.follow(piece.cells, piece.seq).heads) != len(piece.heads):
                raise RuntimeError(f"{piece.path}: a head is missing")

    def walked(calls: int) -> None:
        Walk(storage, manifest, buffers=Buffers()).run()

    def by_blocks(calls: int) -> None:
        if sum(piece.events for piece in early(storage, manifest)) != sum(piece.events for piece in pieces):
            raise RuntimeError(f"{path}: not all of it is sealed and all right")

    def folded(calls: int) -> None:
        state = State(manifest.journal_id)
        for piece in pieces:
            for batch in _batches(piece):
                fold(state, batch)

    def unpacked_only(calls: int) -> None:
        for piece in pieces:
            for batch in _batches(piece):
                batch.changes()

    yield "copied out of the page cache, into the same 2 MiB", copied
    yield hashing, hashed
    yield "heads found, kinds and seqs looked at", looked
    yield "all of that: a walk, into memory of its own", walked
    yield "the same block by block, in a few MiB used again", by_blocks
    yield "changes of episode, and columns where it needs them", unpacked_only
    yield "unpacked and folded to totals", folded
    yield "replay.load", lambda calls: replay.load(path)
    yield "replay.verify", lambda calls: replay.verify(path)


def _batches(piece: Piece) -> Iterator[Batch]:
    return (batch for _, batch in unpacked(piece))
