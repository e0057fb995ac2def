"""Loading folds sealed segments before they are checked to their end: the state of a scan, or the error of a scan."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random
from typing import Any

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal.sealed
import replay
import replay.loading
from journal import segment
from journal.cell import CELL
from journal.early import Withdrawn, early
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage import Storage
from journal.storage.memory import MemoryStorage
from replay.batch import FOLDED
from replay.scan import scan
from replay.state import State

sys.path.insert(0, str(Path(__file__).parent))
from logs import record, record_everything
from model import commands


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments of 64 cells, read three at a time: most payloads and batches lie in several blocks."""
    monkeypatch.setattr(segment, "SIZE_MIN", 4096)
    monkeypatch.setattr(segment, "SIZE_MAX", 4096)
    monkeypatch.setattr(segment, "RESERVE", 512)
    monkeypatch.setattr(journal.sealed, "_CELLS", 3)


def scanned(storage: Storage) -> State:
    """The state of what a scan hands out."""
    state = State(Manifest.read(storage).journal_id)
    for batch in scan(storage, columns=FOLDED):
        replay.fold(state, batch)
    return state


def told(state: State) -> Any:
    return msgpack.packb(state.to_payload())


@given(script=commands, again=st.booleans())
@settings(max_examples=60, deadline=None)
def test_the_state_is_that_of_a_scan(script: list[tuple[Any, ...]], again: bool) -> None:
    storage = MemoryStorage()
    record(storage, script)
    if again:
        record_everything(storage)
    assert told(replay.load(storage)) == told(scanned(storage))


def test_of_every_kind_of_event_beside_a_writer_too() -> None:
    storage = MemoryStorage()
    record_everything(storage)
    with journal.open("j", storage=storage) as log:
        log.append(journal.Custom(name="x", data=bytes(9000)))
        log.sync()
        manifest = Manifest.read(storage)
        assert sum(piece.events for piece in early(storage, manifest)) > 30, "nothing of it was loaded early"
        assert told(replay.load(storage)) == told(scanned(storage))


def test_damage_is_told_as_by_a_scan() -> None:
    storage = MemoryStorage()
    record_everything(storage)
    record(storage, [("start", "PPO", "train", 0), *[("reward", "PPO", "train", 0, 1.5)] * 300])
    manifest = Manifest.read(storage)
    withdrawn, rng = 0, Random(1)
    for ordinal in manifest.segments[::2]:
        path = segment.path_of(ordinal)
        whole = storage.read(path)
        for at in range(0, len(whole), 3 * CELL):
            changed = bytearray(whole)
            changed[at + rng.randrange(CELL)] ^= 1 << rng.randrange(8)
            with storage.stream(path) as stream:
                stream.write(changed)
            with pytest.raises(CorruptJournal) as expected:
                scanned(storage)
            with pytest.raises(CorruptJournal) as raised:
                replay.load(storage)
            assert str(raised.value) == str(expected.value)
            try:
                list(early(storage, manifest))
            except (CorruptJournal, Withdrawn):
                withdrawn += 1
        with storage.stream(path) as stream:
            stream.write(whole)
    assert withdrawn > 50
    assert told(replay.load(storage)) == told(scanned(storage))


class ReadWrongOnce(MemoryStorage):
    """The value of a reward in one segment is read wrong, once."""

    path = ""

    def read_into(self, path: str, into: Any, offset: int = 0) -> int:
        count = super().read_into(path, into, offset)
        if path == self.path and offset <= 30 * CELL < offset + count:
            into[30 * CELL - offset + 57] ^= 0x40
            self.path = ""
        return count


def test_of_what_was_read_wrong_once_nothing_is_left() -> None:
    """What was folded is let go of, although what is read the second time is all right."""
    storage = ReadWrongOnce()
    record(storage, [("start", "PPO", "train", 0), *[("reward", "PPO", "train", 0, 1.5)] * 300])
    expected = told(scanned(storage))
    storage.path = segment.path_of(Manifest.read(storage).segments[2])
    assert told(replay.load(storage)) == expected
    assert not storage.path


def test_whatever_bytes_that_are_not_proved_yet_make_of_a_fold_a_scan_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    storage, folded = MemoryStorage(), replay.loading.fold
    record(storage, [("start", "PPO", "train", 0), *[("reward", "PPO", "train", 0, 1.5)] * 300])
    expected, failing = told(scanned(storage)), [OverflowError("no such number"), None]

    def fold(state: State, batch: Any) -> State:
        folded(state, batch)
        if failing and (error := failing.pop()) is not None:
            raise error
        return state

    monkeypatch.setattr(replay.loading, "fold", fold)
    assert told(replay.load(storage)) == expected
    assert not failing
