"""The bars that episodes have seen: a list in blocks, which stays in its snapshot until somebody looks."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
import replay
from journal.errors import CorruptJournal
from journal.storage.memory import MemoryStorage
from replay import compaction, seen, snapshot
from replay.compare import compare
from replay.loading import load
from replay.seen import Block, SeenBars, SeenList
from replay.state import State, merge

sys.path.insert(0, str(Path(__file__).parent))
from logs import flip, fresh


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen, "ROWS", 4)
    monkeypatch.setattr(snapshot, "ROWS", 4)


def bars(number: int) -> SeenBars:
    content = None if number % 3 == 0 else number.to_bytes(16, "big")
    return SeenBars(number, None if number % 2 else number, "EURUSD", "1h", number, number + 9, content, "observed")


def in_blocks(lines: list[SeenBars]) -> SeenList:
    """The same lines as a snapshot gives them: the last block is not full."""
    return SeenList(blocks=[Block.of(lines[start : start + seen.ROWS]) for start in range(0, len(lines), seen.ROWS)])


steps = st.lists(st.tuples(st.sampled_from(["extend", "cut", "reopen"]), st.integers(0, 11)), max_size=20)


@settings(max_examples=300, deadline=None)
@given(steps)
def test_it_is_a_list_however_it_was_made(script: list[tuple[str, int]]) -> None:
    given_, plain, number = SeenList(), list[SeenBars](), 0
    seen.ROWS = snapshot.ROWS = 4
    for what, count in script:
        if what == "extend":
            more = [bars(number + i) for i in range(count)]
            number += count
            given_.extend(more)
            plain += more
        elif what == "cut":
            given_.cut(count)
            del plain[count:]
        else:
            given_ = in_blocks(list(given_))
        assert len(given_) == len(plain)
        twin = given_.copy()
        assert list(given_) == plain
        assert given_ == SeenList(plain) == in_blocks(plain)
        assert [block.sha256 for block in given_.blocks()] == [block.sha256 for block in in_blocks(plain).blocks()]
        twin.extend([bars(99)])
        assert twin != given_ and len(given_) == len(plain)


def train(storage: MemoryStorage, first: int, count: int) -> None:
    with journal.open("a journal", sync="close", storage=storage) as log:
        if not first:
            log.append(journal.RunStarted(run="r", config={}))
        for episode in range(first, first + count):
            for agent in ("PPO", "SAC"):
                log.append(journal.EpisodeStarted(agent=agent, episode=episode))
                log.append(
                    journal.BarsSeen(
                        agent=agent, episode=episode, instrument="EURUSD", timeframe="1h", start=episode,
                        stop=episode + 9, content_hash=episode.to_bytes(16, "big"), source="observed",
                    )
                )  # fmt: skip
                log.append(journal.EpisodeEnded(agent=agent, episode=episode, reason="terminated"))


@pytest.fixture
def trained() -> Iterator[MemoryStorage]:
    """Ten episodes of two agents, compacted, and one more in the log."""
    storage = fresh()
    train(storage, 0, 10)
    compaction.compact(storage)
    train(storage, 10, 1)
    yield storage


def places(storage: MemoryStorage) -> list[seen.Place]:
    path = snapshot.path_of(snapshot.seqs(storage)[0])
    state = snapshot.read(storage, path).state
    blocks = [block for agent in state.agents.values() for one in agent.bars.values() for block in one.blocks()]
    found = [block.source for block in blocks if isinstance(block.source, seen.Place)]
    assert len(found) == len(blocks) == 6
    return found


def test_opening_looks_at_none_of_them(trained: MemoryStorage) -> None:
    found = compare(load(trained))
    assert (found.verdict, found.episodes) == ("comparable", {"train": 11})
    path, data = places(trained)[0].path, bytearray(trained.read(places(trained)[0].path))
    for place in places(trained):
        data[place.offset : place.offset + place.size] = bytes(place.size)
    with trained.stream(path) as stream:
        stream.write(data)
    state = load(trained)
    assert state.resume("PPO").next_episode["train"] == 11
    assert state.totals["total_episodes"].tolist() == [11, 11]


def test_what_a_later_compaction_writes_is_what_all_events_give(trained: MemoryStorage) -> None:
    compaction.compact(trained)
    told = load(trained)
    for last in snapshot.seqs(trained):
        trained.remove(snapshot.path_of(last))
    assert snapshot.packed(told) == snapshot.packed(load(trained))
    assert told == load(trained)


def test_a_damaged_block_is_found_when_somebody_looks_and_made_anew(trained: MemoryStorage) -> None:
    good = [list(one) for one in load(trained).agents["SAC"].bars.values()]
    place = places(trained)[-1]
    flip(trained, place.path, (place.offset + place.size // 2) * 8)
    state = load(trained)
    assert state.resume("SAC").next_episode["train"] == 11, "what opening needs is not in doubt"
    with pytest.raises(CorruptJournal, match="bars in it are damaged") as caught:
        compare(state)
    assert caught.value.path == place.path
    with pytest.warns(RuntimeWarning, match="passed over.*journal compact"):
        assert compare(load(trained, whole=True)).verdict == "comparable"
    report = replay.verify(trained, deep=True)
    assert [finding.file for finding in report.findings] == [place.path]
    with pytest.warns(RuntimeWarning, match="passed over"):
        compaction.compact(trained)
    assert [list(one) for one in load(trained).agents["SAC"].bars.values()] == good


def test_a_damaged_block_at_the_log_s_end_is_made_anew_by_compaction(trained: MemoryStorage) -> None:
    compaction.compact(trained)
    before = trained.read(places_of(trained).path)
    flip(trained, places_of(trained).path, (places_of(trained).offset + 9) * 8)
    with pytest.warns(RuntimeWarning, match="passed over"):
        assert compaction.compact(trained).snapshot == places_of(trained).path
    assert trained.read(places_of(trained).path) == before


def test_a_block_that_the_disk_took_otherwise_is_noticed_before_segments_go(
    trained: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new snapshot is read back with all its blocks."""
    read, before = snapshot.read, [trained.read(f"segments/{name}") for name in trained.list("segments")]

    def worn(storage: MemoryStorage, path: str, **how: bool) -> snapshot.Snapshot:
        if path.endswith(".tmp"):
            (block, *_) = read(storage, path).state.agents["PPO"].bars["r/train"].blocks()
            assert isinstance(block.source, seen.Place)
            flip(storage, path, (block.source.offset + 9) * 8)
        return read(storage, path, **how)

    monkeypatch.setattr(snapshot, "read", worn)
    with pytest.raises(CorruptJournal, match="damaged"):
        compaction.compact(trained)
    assert [trained.read(f"segments/{name}") for name in trained.list("segments")] == before


def places_of(storage: MemoryStorage) -> seen.Place:
    path = snapshot.path_of(snapshot.seqs(storage)[0])
    (block, *_) = snapshot.read(storage, path).state.agents["PPO"].bars["r/train"].blocks()
    assert isinstance(block.source, seen.Place)
    return block.source


def test_every_flipped_bit_of_a_block_is_found(trained: MemoryStorage) -> None:
    for place in places(trained):
        for bit in range(place.offset * 8, (place.offset + place.size) * 8, 7):
            flip(trained, place.path, bit)
            with pytest.raises(CorruptJournal):
                snapshot.read(trained, place.path, whole=True)
            flip(trained, place.path, bit)
    snapshot.read(trained, places(trained)[0].path, whole=True)


@pytest.mark.parametrize(
    "columns",
    [
        [[0, 1]] * 8,
        [[0, 1, 2]] * 7 + [[0, 1]],
        [[0, 1, 2]] * 7,
        [[0, 1, 2]] * 11,
        [[0, 1, 2]] * 7 + [3],
    ],
)
def test_a_block_of_another_shape_is_refused_though_its_sha256_is_right(columns: list[Any]) -> None:
    def block(columns: list[Any]) -> Block:
        raw = msgpack.packb(columns)
        return Block(3, hashlib.sha256(raw).digest(), zstandard.ZstdCompressor().compress(raw))

    numbers, texts, nothing = [0, 1, 2], ["x"] * 3, [None] * 3
    good_one = [numbers, nothing, texts, texts, numbers, numbers, [bytes(16)] * 3, texts]
    for good in (good_one, [*good_one, nothing, nothing]):
        SeenList(blocks=[block(good)]).check()
        assert len(block(good).rows()) == 3
    for read in (SeenList(blocks=[block(columns)]).check, block(columns).rows):
        with pytest.raises(CorruptJournal, match="bars in it are damaged"):
            read()


@pytest.mark.parametrize("column", range(8))
@pytest.mark.parametrize("value", [1.5, [1], {"x": 1}, True])
def test_a_block_of_values_of_another_type_is_refused_where_they_are_looked_at(column: int, value: Any) -> None:
    """`journal compare` ended in a TypeError, or an AttributeError."""
    columns: list[Any] = [[0], [0], ["X"], ["1h"], [0], [1], [bytes(16)], ["observed"]]
    columns[column] = [value]
    raw = msgpack.packb(columns)
    with pytest.raises(CorruptJournal, match="bars in it are damaged"):
        Block(1, hashlib.sha256(raw).digest(), zstandard.ZstdCompressor().compress(raw)).rows()


def test_a_rewind_that_cuts_a_damaged_block_is_told_by_history() -> None:
    storage = fresh()
    train(storage, 0, 2)
    with journal.open("a journal", sync="close", storage=storage) as log:
        saved = log.append(
            journal.CheckpointSaved(agent="PPO", episode=2, path="checkpoints/x", sha256="0" * 64, size=1)
        )
    train(storage, 2, 5)
    compaction.compact(storage)
    with journal.open("a journal", sync="close", storage=storage) as log:
        log.append(journal.Rewound(agent="PPO", to_seq=saved, path="checkpoints/x"))
    good = load(storage)
    assert [len(agent.bars["r/train"]) for agent in good.agents.values()] == [2, 7]
    place = places_of(storage)
    flip(storage, place.path, (place.offset + place.size // 2) * 8)
    with pytest.warns(RuntimeWarning, match="passed over"):
        assert load(storage) == good


def test_a_snapshot_that_is_gone_says_so_when_somebody_looks(trained: MemoryStorage) -> None:
    state = load(trained)
    trained.remove(places(trained)[0].path)
    with pytest.raises(CorruptJournal, match="removed while it was in use"):
        compare(state)


def test_a_state_of_another_journal_adds_up(trained: MemoryStorage) -> None:
    one, other = load(trained), fresh()
    train(other, 0, 5)
    merged = merge(merge(State(), one), load(other))
    assert len(merged.agents["PPO"].bars["r/train"]) == 11 + 5
    assert len(one.agents["PPO"].bars["r/train"]) == 11, "the parts stay as they were"
    assert merged == merge(State(), merge(one, load(other)))
