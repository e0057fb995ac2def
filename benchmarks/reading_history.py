"""Where does the time go when history is read, and what of it can no reader be spared that checks what it reads?

The first four are limits: what the libraries under a reader take for the same bytes, one after the other. The journal's
own steps come then, alone in one thread each; last the whole, as one thread does it and as the journal does.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks import training
from benchmarks.cold_read import EVENTS, history
from benchmarks.question import Answer, Effort, by_name
from journal.manifest import Manifest
from journal.speed import levels
from journal.speed.rounds import Contender, measure
from journal.storage.disk import DiskStorage
from replay.batch import FOLDED
from replay.compaction import compact
from replay.fold import fold
from replay.groups import row_groups
from replay.history import spans
from replay.state import State

HASHED: Final = "the files read, their SHA-256"
ZSTD: Final = "zstd unpacks the values"
VALUES: Final = "Arrow decodes the values: zstd, page checksums and all"
SUMMED: Final = "the values added up from left to right"
ALONE: Final = "all of it, in one thread"
WHOLE: Final = "training-journal, history"


def answer(directory: str, effort: Effort) -> Answer:
    """Rewards rounded to 1e-5, in batches; the ratios are to Arrow decoding the column that nobody can do without."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        events = effort.events(EVENTS)
        training.record(place, events, size=levels.BATCH)
        compact(place)
        storage = DiskStorage(place)
        manifest = Manifest.read(storage)
        paths = [os.path.join(place, span.path) for span in spans(storage, manifest)]
        held = [pa.py_buffer(storage.read(span.path)) for span in spans(storage, manifest)]
        groups = list(row_groups(storage, manifest, 0))
        batches = [group.batch(FOLDED) for group in groups]
        codec = pa.Codec("zstd", 2)
        packed = [(codec.compress(batch.value), batch.value.nbytes) for batch in batches]

        def hashed() -> None:
            for path, data in zip(paths, held, strict=True):
                memory = pa.allocate_buffer(data.size)
                with open(path, "rb", buffering=0) as file:
                    file.readinto(memory)
                hashlib.sha256(memory).digest()

        def unpacked() -> None:
            for data, size in packed:
                codec.decompress(data, size)

        def values() -> None:
            for data in held:
                file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True, pre_buffer=False)
                for number in range(file.metadata.num_row_groups):
                    file.read_row_group(number, columns=["value"], use_threads=False)

        def alone() -> None:
            state = State(manifest.journal_id)
            for group in row_groups(storage, manifest, 0):
                fold(state, group.batch(FOLDED))

        def folded() -> None:
            state = State(manifest.journal_id)
            for batch in batches:
                fold(state, batch)

        def limit(name: str, work: Callable[[], object]) -> Contender:
            return Contender(name, VALUES, lambda calls: work(), events=events, most=1)

        contenders = [
            limit(HASHED, hashed),
            limit(ZSTD, unpacked),
            limit(VALUES, values),
            limit(SUMMED, lambda: [np.subtract.reduce(batch.value) for batch in batches]),
            limit("files opened: read, hashed, footers taken in", lambda: list(row_groups(storage, manifest, 0))),
            limit("what the fold asks for, unpacked", lambda: [None for group in groups if not group.batch(FOLDED)]),
            limit("the fold of it", folded),
            limit(ALONE, alone),
            limit(WHOLE, lambda: history(place)),
        ]
        figures = measure(contenders, rounds=2 * effort.rounds)
        for one in figures:
            found.add(one, survives=None, limit=one.name in (HASHED, ZSTD, VALUES, SUMMED))
    named = by_name(figures)
    floor = sum(named[name].cpu_ns for name in (HASHED, VALUES, SUMMED))
    found.value("history in one thread, CPU ÷ what nobody is spared", [named[ALONE].cpu_ns / floor])
    return found
