"""What a hostile journal costs its reader grows with its bytes, and not with their square.

Each took minutes or hours of what is done here in a second, by so many small things that each looks through all others.
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgpack
import numpy as np
import pytest

import journal
from journal import arrays, cell, evidence
from journal.cell import CELL
from journal.context import Context
from journal.errors import CorruptJournal
from journal.storage.memory import MemoryStorage
from replay import history, load, unpacking
from replay.compaction import compact
from replay.runs import Runs
from replay.trends import METRICS_MAX, Figures

sys.path.insert(0, str(Path(__file__).parent))

pytestmark = pytest.mark.crash
SECONDS = 5.0
"""Of this process's time; on a slow machine each takes one."""


@contextmanager
def soon() -> Iterator[None]:
    begun = time.process_time()
    yield
    assert time.process_time() - begun < SECONDS


def test_many_metrics_of_one_episode() -> None:
    """4 MiB of them are one event; those beyond the first went one by one, each time the last name was looked for."""
    with soon():
        figures = Figures.of(1, 0.5, 0, 0, {f"m{number:06}": number for number in range(100_000)})
    assert list(figures.metrics) == [f"m{number:06}" for number in range(METRICS_MAX)]


def test_many_batches_that_each_claim_another_count() -> None:
    """Without a payload each takes 64 bytes; all were looked through for each count."""
    heads = np.zeros(400_000, dtype=arrays.CELL_DTYPE)
    heads.view(arrays.COUNT)["count"] = np.arange(len(heads)) + 1
    with soon():
        assert unpacking.contradiction(heads) == (0, "batch of 1 rewards has a payload of another length")


def test_many_heads_that_each_claim_all_that_follows() -> None:
    """In a torn tail. Each is good by itself, and its payload is not: for each, all of it was hashed."""
    count, salt = 65_535, 7
    made = bytearray()
    for at in range(count):
        head = bytearray(cell.pack_head(cell.CUSTOM, at, 1, salt=salt, at=at))
        struct.pack_into("<H", head, 6, count - 1 - at)
        struct.pack_into("<I", head, 0, cell.checksum(bytes(head[4:]), salt, at))
        made += head
    with soon():
        assert evidence.good_events(memoryview(bytes(made)), salt, 0) <= 1


def test_what_stands_behind_a_payload_that_does_not_check_is_still_counted() -> None:
    heads = [cell.pack_head(cell.CUSTOM, 0, 1, bytes(100), salt=7, at=0), b"\1" * 2 * CELL]
    heads += [
        cell.pack_head(cell.CUSTOM, 1, 1, salt=7, at=3),
        b"\1" * CELL,
        cell.pack_head(cell.CUSTOM, 2, 1, salt=7, at=5),
    ]
    assert evidence.good_events(memoryview(b"".join(heads)), 7, 0) == 2


def test_many_runs() -> None:
    """Each was looked for among all that came before it."""
    count = 100_000
    payloads = {row: msgpack.packb({"run": f"r{row}"}) for row in range(count)}
    with soon():
        since, ids = Runs(Context()).follow([(row, cell.RUN_STARTED) for row in range(count)], payloads)
    assert ids == [f"r{row}" for row in range(count)] and since[-1] == (count - 1, count - 1)


def test_a_row_group_of_more_events_than_any_writer_puts_into_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten thousand million alike numbers take a few bytes of Parquet; a reader makes room for a row group at once."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        for _ in range(3):
            log.append(journal.Custom(name="x"))
    compact(storage)
    monkeypatch.setattr(history, "_GROUP_ROWS_MAX", 2)
    with pytest.raises(CorruptJournal, match="a row group of more events"):
        history.describe(storage, "history/0-2.parquet")
    monkeypatch.undo()
    assert load(storage).events == 3


def test_many_bars_of_one_episode() -> None:
    """All that were seen before were copied each time."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.append(journal.EpisodeStarted(agent="A", episode=0))
        for start in range(30_000):
            seen = journal.BarsSeen(
                agent="A",
                episode=0,
                instrument="X",
                timeframe="H1",
                start=start,
                stop=start + 1,
                content_hash=bytes(16),
                source="observed",
            )
            log.append(seen)
    with soon():
        state = load(storage)
    assert [one.start for one in state.agents["A"].open["train", 0].bars] == list(range(30_000))


def test_many_events_after_many_runs() -> None:
    """Each event looked for its run among all that its agent had been part of."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        for run in range(15_000):
            log.append(journal.RunStarted(run=f"run {run}", config={}))
            log.append(journal.MetricLogged(agent="A", metric="loss", step=0, value=0.5))
        for step in range(50_000):
            log.append(journal.MetricLogged(agent="A", metric="loss", step=step, value=0.5))
    with soon():
        state = load(storage)
    assert len(state.agents["A"].runs) == 15_000


def test_many_checkpoints_of_which_none_is_retired() -> None:
    """All of them were looked through at each."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        for number in range(10_000):
            event = journal.CheckpointSaved(agent="A", episode=number, path=f"checkpoints/{number}", sha256="", size=1)
            log.append(event)
    with soon():
        state = load(storage)
    assert [one.episode for one in state.agents["A"].checkpoints] == list(range(10_000))
