"""Snapshots: the whole state and nothing but it; any damage is found, passed over and named."""

from __future__ import annotations

import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import zstandard
from hypothesis import given, settings

import journal
import replay
from journal.errors import CorruptJournal, JournalFailed
from journal.manifest import Base, Manifest
from journal.storage.memory import MemoryStorage
from replay import compaction, snapshot
from replay.frames import totals_row
from replay.loading import load
from replay.state import State

sys.path.insert(0, str(Path(__file__).parent))
from logs import flip, fresh, record, record_everything, whole_state
from model import commands


def write(storage: MemoryStorage, state: State, base: Base | None = None) -> str:
    storage.make_directory("snapshots")
    path = snapshot.path_of(state.last_seq)
    with storage.stream(path) as stream:
        snapshot.write(stream, state, base or Base(1, 99, state.events, bytes(24)), [])
    return path


@pytest.fixture
def compacted() -> MemoryStorage:
    """Three sessions, each compacted: the last two snapshots are kept."""
    storage = fresh()
    for _ in range(3):
        record_everything(storage)
        compaction.compact(storage)
    return storage


@settings(max_examples=40, deadline=None)
@given(commands)
def test_a_state_comes_back_whole(script: list[Any]) -> None:
    storage = fresh()
    record(storage, [("reward", "PPO", "train", 0, 1.0), *script])
    state = load(storage)
    found = snapshot.read(storage, write(storage, state))
    assert snapshot.packed(found.state) == snapshot.packed(state)
    assert found.base.seq == state.events


def test_nan_in_a_config_comes_back() -> None:
    storage = fresh()
    with journal.open("a journal", storage=storage) as log:
        log.append(journal.RunStarted(run="r", config={"lr": float("nan"), "more": [1, {"x": b"\0"}]}))
    state = load(storage)
    assert snapshot.packed(snapshot.read(storage, write(storage, state)).state) == snapshot.packed(state)
    compaction.compact(storage)
    assert snapshot.packed(whole_state(storage)) == snapshot.packed(state)


def test_its_rows_are_the_totals_for_any_tool(tmp_path: Path) -> None:
    with journal.open(tmp_path) as log:
        for agent in ("PPO", "SAC"):
            log.append(journal.EpisodeStarted(agent=agent, episode=0))
            log.rewards(log.agent(agent), 0, range(3), [0.1, 0.2, float("nan")])
            log.append(journal.EpisodeEnded(agent=agent, episode=0, reason="terminated"))
        log.append(journal.EpisodeStarted(agent="PPO", episode=0, phase="eval"))
    path = compaction.compact(tmp_path).snapshot
    assert path is not None
    frame = pd.read_parquet(tmp_path / path)
    assert frame["agent"].tolist() == ["PPO", "SAC"]
    state = replay.load(tmp_path)
    for row, agent in zip(frame.to_dict("records"), state.agents.values(), strict=True):
        for name, value in totals_row(agent).items():
            if name == "last_updated":
                assert row[name] == pd.Timestamp(agent.last_updated_ns, tz="UTC")
            else:
                assert row[name] == value, name
    assert frame["total_reward"].tolist() == [0.1 + 0.2] * 2
    assert frame["nan_rewards"].tolist() == [1, 1]


def test_any_flipped_bit_is_found(compacted: MemoryStorage) -> None:
    path = snapshot.path_of(snapshot.seqs(compacted)[0])
    size = compacted.size(path) * 8
    for bit in [*range(0, size, 211), *range(size - 12 * 8, size)]:
        flip(compacted, path, bit)
        with pytest.raises(CorruptJournal) as caught:
            snapshot.read(compacted, path)
        assert caught.value.path == path
        flip(compacted, path, bit)
    snapshot.read(compacted, path)


def test_a_digit_of_the_digest_in_the_other_case_is_found(compacted: MemoryStorage) -> None:
    """One bit that a lenient comparison of hexadecimal digits would let pass."""
    path = snapshot.path_of(snapshot.seqs(compacted)[0])
    data = compacted.read(path)
    start = data.index(b"training_journal_sha256\x18\x40") + 25
    letter = next(i for i in range(start, start + 64) if chr(data[i]).isalpha())
    flip(compacted, path, letter * 8 + 5)
    with pytest.raises(CorruptJournal, match="SHA-256"):
        snapshot.read(compacted, path)


def test_a_damaged_one_is_passed_over_and_named(compacted: MemoryStorage) -> None:
    good = whole_state(compacted)
    newest, older = snapshot.seqs(compacted)
    flip(compacted, snapshot.path_of(newest), 800)
    with pytest.warns(RuntimeWarning, match=f"snapshots/{newest}.parquet.*journal compact"):
        assert load(compacted) == good
    flip(compacted, snapshot.path_of(older), 800)
    with pytest.warns(RuntimeWarning) as caught:
        assert load(compacted) == good
    assert [str(one.message).split(": ")[1] for one in caught] == [
        snapshot.path_of(newest),
        snapshot.path_of(older),
    ]


def test_without_any_the_history_is_folded(compacted: MemoryStorage) -> None:
    good = whole_state(compacted)
    for last in snapshot.seqs(compacted):
        compacted.remove(snapshot.path_of(last))
    assert whole_state(compacted) == good


def test_the_newest_that_may_serve_is_taken(compacted: MemoryStorage) -> None:
    manifest = Manifest.read(compacted)
    newest, older = snapshot.seqs(compacted)

    def last(**limits: int) -> int | None:
        state = snapshot.newest(compacted, manifest, **limits)
        return None if state is None else state.last_seq

    assert last() == newest
    assert last(until=newest + 1) == newest
    assert last(until=newest) == older
    assert last(until=older) is None
    then = snapshot.read(compacted, snapshot.path_of(older)).state.last_time_ns
    assert last(before_ns=then) == older
    assert last(before_ns=then - 1) is None


def test_time_travel_into_history(compacted: MemoryStorage) -> None:
    """At every seq and at some times, what a fold from the beginning gives."""
    twin = compacted.kill()
    for last in snapshot.seqs(twin):
        twin.remove(snapshot.path_of(last))
    for at in range(0, load(compacted).events, 3):
        assert whole_state(compacted, at) == whole_state(twin, at), at
        assert load(compacted, at=at).last_seq == at
    moment = datetime.fromtimestamp(load(compacted, at=40).last_time_ns / 1e9, UTC)
    assert load(compacted, at=moment) == load(twin, at=moment)


def test_what_lies_above_the_live_log_is_not_believed(compacted: MemoryStorage) -> None:
    manifest = Manifest.read(compacted)
    older = snapshot.seqs(compacted)[1]
    back = snapshot.read(compacted, snapshot.path_of(older)).base
    state = snapshot.newest(compacted, replace(manifest, base=back))
    assert state is not None and state.last_seq == older


@pytest.mark.parametrize("wrong", ["journal", "chain", "name"])
def test_one_of_elsewhere_is_passed_over(compacted: MemoryStorage, wrong: str) -> None:
    good = load(compacted)
    manifest = Manifest.read(compacted)
    state, base = good.copy(), manifest.base
    if wrong == "journal":
        state.journal_id = bytes(16)
    elif wrong == "chain":
        base = replace(base, chain=bytes(24))
    path = write(compacted, state, base)
    if wrong == "name":
        compacted.rename(path, snapshot.path_of(good.last_seq - 1))
    with pytest.warns(RuntimeWarning, match="passed over"):
        assert load(compacted) == good


def test_what_claims_too_much_is_not_unpacked(compacted: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bomb: a frame that says more than the document does, and a document that says more than is ever written."""
    state = load(compacted)
    path = write(compacted, state)
    monkeypatch.setattr(snapshot, "STATE_MAX", 100)
    with pytest.raises(CorruptJournal, match="its state claims"):
        snapshot.read(compacted, path)
    with pytest.raises(JournalFailed, match="go on in a new journal"):
        write(compacted, state)
    monkeypatch.undo()
    with monkeypatch.context() as patch:
        bomb = zstandard.ZstdCompressor().compress(bytes(1 << 20))
        patch.setattr(zstandard, "ZstdCompressor", lambda **_: type("", (), {"compress": lambda self, raw: bomb})())
        write(compacted, state)
    with pytest.raises(CorruptJournal, match="another size"):
        snapshot.read(compacted, path)


def test_good_ones_raise_no_warning(compacted: MemoryStorage) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(compacted)
