"""What does `verify` cost beside hashing the same bytes, and nothing else?"""

from __future__ import annotations

import os
import tempfile
from typing import Final

import replay
from benchmarks import training
from benchmarks.ground import level
from benchmarks.question import Answer, Effort, by_name
from journal.chain import extend
from journal.segment import DIRECTORY
from journal.speed import levels
from journal.speed.rounds import Contender, measure
from journal.storage.disk import DiskStorage

HASH: Final = "BLAKE3 of the same bytes, in memory"
READ_HASH: Final = "read and BLAKE3"
EVENTS: Final = 64_000_000
CHUNK: Final = 1 << 20


def answer(directory: str, effort: Effort) -> Answer:
    """Of a journal of batches; an event is 8 bytes and its share of a head. The hash is the chain's, in one thread."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        events = effort.events(EVENTS)
        training.record(place, events, size=levels.BATCH)
        storage = DiskStorage(place)
        paths = [os.path.join(DIRECTORY, name) for name in storage.list(DIRECTORY)]
        held = [storage.read(path) for path in paths]

        def hashed(calls: int) -> None:
            for data in held:
                view = memoryview(data)
                extend(b"", (view[at : at + CHUNK] for at in range(0, len(data), CHUNK)))

        def read_and_hashed(calls: int) -> None:
            for path in paths:
                size = storage.size(path)
                extend(b"", (storage.read(path, at, CHUNK) for at in range(0, size, CHUNK)))

        def verified(calls: int) -> None:
            report = replay.verify(place)
            if report.status != "clean" or report.events < events:
                raise RuntimeError(f"{report.status}, {report.events:,} events")

        contenders = [
            Contender(HASH, HASH, hashed, events=events, most=1, before=level),
            Contender(READ_HASH, HASH, read_and_hashed, events=events, most=1, before=level),
            Contender("replay.verify", HASH, verified, events=events, most=1, before=level),
        ]
        figures = measure(contenders, rounds=2 * effort.rounds)
        for one in figures:
            found.add(one, survives=None, limit=one.name != "replay.verify")
    found.value("verify, speed ÷ hash alone", [1 / ratio for ratio in by_name(figures)["replay.verify"].wall_ratios])
    return found
