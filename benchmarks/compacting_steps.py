"""Where does the time of a compaction go?

Each step alone, in one thread, over what the step before it gives; the whole beside them, as the journal does it: with
the row groups encoded in one thread, read ahead and compared in others.
"""

from __future__ import annotations

import io
import os
import tempfile
from typing import Any, Final

import numpy as np
import pyarrow as pa

from benchmarks import training
from benchmarks.question import Answer, Effort
from journal.manifest import Manifest
from journal.speed.rounds import Contender, measure
from journal.storage.disk import DiskStorage
from journal.walk import Walk
from replay import history, lossless
from replay.batch import unpacked
from replay.compaction import compact
from replay.fold import fold
from replay.packing import encoding_of, options_for
from replay.parquet import NO_THREADS, Writer
from replay.state import State

EVENTS: Final = 500_000
WHOLE: Final = "compaction"


def answer(directory: str, effort: Effort) -> Answer:
    """Rewards rounded to 1e-5, one by one; the ratios are to the whole."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        events = effort.events(EVENTS)
        live, turns = os.path.join(place, "live"), [0]
        training.record(live, events, size=1)

        def turn() -> str:
            return os.path.join(place, f"turn-{turns[0]}")

        def again() -> None:
            turns[0] += 1
            training.record(turn(), events, size=1)

        again()
        compact(turn())
        storage, compacted = DiskStorage(live), DiskStorage(turn())
        manifest = Manifest.read(storage)
        pieces = list(Walk(storage, manifest))
        parts = [one for piece in pieces for one in unpacked(piece)]
        tables = [lossless.to_table(part, batch, 0)[0] for part, batch in parts]
        path = history.spans(compacted, Manifest.read(compacted))[0].path
        groups = _groups(compacted, path)
        cells = [np.frombuffer(lossless.to_cells(rows, 0, 0), dtype=np.uint8).reshape(-1, 64) for rows in groups]
        at = [np.arange(len(one)) for one in cells]
        options = options_for(lossless.SCHEMA, value=encoding_of(lossless.numbers(groups[0], "value")))

        def folded() -> None:
            state = State(manifest.journal_id)
            for piece in pieces:
                for _, batch in unpacked(piece):
                    fold(state, batch)

        def encoded() -> None:
            with Writer(io.BytesIO(), lossless.SCHEMA, **options) as file:
                for rows in tables:
                    file.write(rows)

        def compared() -> None:
            for piece in pieces:
                raw = np.frombuffer(piece.raw, dtype=np.uint8)
                there = np.frombuffer(storage.read(piece.path, 64, len(raw)), dtype=np.uint8)
                assert np.array_equal(raw, there)

        def checked() -> None:
            for some, index in zip(cells, at, strict=True):
                for begin in range(0, len(some), lossless.STRETCH):
                    end = begin + lossless.STRETCH
                    lossless.checksums(some[begin:end], index[begin:end], 0, 0)

        def step(name: str, work: Any) -> Contender:
            return Contender(name, WHOLE, lambda calls: work(), events=events, most=1)

        contenders = [
            step("segments read and checked; twice", lambda: Walk(storage, manifest, ahead=True).run()),
            step("events as columns, and folded", folded),
            step("rows for Parquet", lambda: [lossless.to_table(part, batch, 0) for part, batch in parts]),
            step("row groups encoded, and hashed", encoded),
            step("row groups checked and decoded", lambda: _groups(compacted, path)),
            step("cells made again", lambda: [lossless.to_cells(rows, 0, 0) for rows in groups]),
            step("of that, their checksums", checked),
            step("compared with the segments on disk", compared),
            Contender(WHOLE, WHOLE, lambda calls: compact(turn()), events=events, most=1, before=again),
        ]
        for one in measure(contenders, rounds=2 * effort.rounds):
            found.add(one, survives=None)
    return found


def _groups(storage: DiskStorage, path: str) -> list[pa.Table]:
    file = history.open_history(storage, path)[0].file
    numbers = range(file.metadata.num_row_groups)
    return [file.read_row_group(number, columns=lossless.KEPT, **NO_THREADS).combine_chunks() for number in numbers]
