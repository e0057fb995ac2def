"""How history is written, and what bounds the memory for it."""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

import journal
import replay.batch
from journal.storage.memory import MemoryStorage
from journal.walk import Walk
from replay import history, lossless, packing, parquet

sys.path.insert(0, str(Path(__file__).parent))
from logs import fresh, record_everything, segments, write_history


@pytest.fixture
def everything() -> MemoryStorage:
    storage = fresh()
    record_everything(storage)
    return storage


def test_what_is_unpacked_at_once_is_bounded(everything: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replay.batch, "ROWS", 3)
    for piece in Walk(everything):
        stretches = list(replay.batch.parts(piece))
        assert np.concatenate([part.heads for part in stretches]).tolist() == piece.heads.tolist()
        assert all(part.events <= 3 or len(part.heads) == 1 for part in stretches)
    monkeypatch.setattr(replay.batch, "PAYLOADS", 4)
    monkeypatch.setattr(replay.batch, "ROWS", 1000)
    for piece in Walk(everything):
        stretches = list(replay.batch.parts(piece))
        assert np.concatenate([part.heads for part in stretches]).tolist() == piece.heads.tolist()
        payloads = [part.heads - np.arange(len(part.heads)) for part in stretches]
        assert all(cells[-1] - cells[0] < 4 for cells in payloads)
        starts = [after.heads[0] - one.heads[0] - len(one.heads) for one, after in pairwise(stretches)]
        assert all(cells >= 4 for cells in starts), "as long as they may be"


def test_events_that_carry_much_make_a_row_group_shorter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded by what is unpacked, whatever the events are: here hex in JSON, beside the payload itself."""
    storage = fresh()
    with journal.open("a journal", storage=storage) as log:
        for step in range(40):
            log.append(journal.Custom(name="x", data={"weights": bytes(1000)}))
            log.reward(log.agent("PPO"), 0, step, 0.5)
    before = segments(storage)
    monkeypatch.setattr(replay.batch, "PAYLOADS", 100)
    monkeypatch.setattr(packing, "GROUP_MAX", 20_000)
    path = write_history(storage)
    file = parquet.open_checked(storage, path, 0, lossless.SCHEMA).file
    groups = [file.read_row_group(number) for number in range(file.metadata.num_row_groups)]
    assert 5 < len(groups) < 12
    assert all(1000 < group.nbytes < 20_000 + 1000 for group in groups[:-1])
    assert [raw for _, raw in history.reencode(storage, path)] == before
