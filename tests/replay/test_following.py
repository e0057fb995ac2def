"""Following sees each event once, in order, whatever becomes of the files; durably, none that a power cut can take."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
import replay
from journal import segment
from journal.errors import HistoryDropped
from journal.storage import Storage
from journal.storage.memory import MemoryStorage
from replay import following
from replay.compaction import compact
from replay.following import follow

sys.path.insert(0, str(Path(__file__).parent))
from logs import fresh, record_everything, same_events, table


def now(storage: Storage, since: int = 0, *, durable: bool = False) -> list[int]:
    """The seqs of what can be followed without waiting."""
    return [
        seq for batch in follow(storage, since=since, durable=durable, timeout=0) for seq in batch["seq"].to_pylist()
    ]


def test_it_gives_what_events_gives_then_goes_on() -> None:
    storage = fresh()
    record_everything(storage)
    compact(storage)
    record_everything(storage)
    read = pa.Table.from_batches(list(follow(storage, timeout=0))).unify_dictionaries().combine_chunks()
    assert same_events(read, table(storage))
    assert now(storage, since=15) == list(range(15, read.num_rows))
    assert now(storage, since=read.num_rows) == []


@pytest.mark.parametrize("durable", [False, True])
def test_over_rotations_compactions_and_restarts_each_event_comes_once(
    durable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three trainings one after the other, compacted between them, while somebody follows all the time."""
    monkeypatch.setattr(segment, "SIZE_MIN", 128 << 10)
    monkeypatch.setattr(segment, "SIZE_MAX", 128 << 10)
    monkeypatch.setattr(following, "_POLL", 0.001)
    storage = fresh()
    journal.open("a journal", storage=storage).close()
    seen: list[int] = []
    count = 12_000 + 1
    whole = threading.Event()

    def listen() -> None:
        for batch in follow(storage, durable=durable, timeout=60):
            seen.extend(batch["seq"].to_pylist())
            if len(seen) >= count:
                break
        whole.set()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    segments = 0
    for session in range(3):
        with journal.open("a journal", storage=storage, sync_interval=0.005) as log:
            for step in range(4_000):
                log.reward(log.agent("PPO"), session, step, 1.0)
        segments += compact(storage).segments
    assert segments > 6, "it did go on from segment to segment"
    assert whole.wait(60)
    assert seen == list(range(count))


def test_one_that_lags_behind_a_compaction_goes_on_in_history(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segment, "SIZE_MIN", 128 << 10)
    storage = fresh()
    with journal.open("a journal", storage=storage) as log:
        log.append(journal.Custom(name="a"))
        live = follow(storage, timeout=0.2)
        assert next(live)["seq"].to_pylist() == [0]
        for step in range(5_000):
            log.reward(log.agent("PPO"), 0, step, 1.0)
    assert compact(storage).segments > 1
    record_everything(storage)
    rest = [seq for batch in live for seq in batch["seq"].to_pylist()]
    assert rest == list(range(1, replay.load(storage).events))


# -- durable -----------------------------------------------------------------------------------------------------------


def test_only_what_is_promised_comes_when_that_is_asked() -> None:
    storage = fresh()
    with journal.open("a journal", storage=storage, sync="close") as log:
        live = follow(storage, durable=True, timeout=0)
        log.append(journal.Custom(name="a"))
        assert now(storage) == [0]
        assert now(storage, durable=True) == []
        log.sync()
        log.append(journal.Custom(name="b"))
        assert now(storage, durable=True) == [0]
        assert next(live)["seq"].to_pylist() == [0]
        log.sync()
        log.append(journal.Custom(name="c"))
        assert next(live)["seq"].to_pylist() == [1]
        log.append(journal.Custom(name="d"))
        log.sync()
        assert [seq for batch in live for seq in batch["seq"].to_pylist()] == [2, 3]
    assert now(storage, durable=True) == now(storage) == [0, 1, 2, 3]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.sampled_from(["reward", "rewards", "sync", "look", "reopen"]), max_size=40), st.integers(0, 99))
def test_no_power_cut_takes_what_was_followed_durably(script: list[str], seed: int) -> None:
    storage = fresh()
    log = journal.open("a journal", storage=storage, sync="close")
    ppo = log.agent("PPO")
    listening = follow(storage, durable=True, timeout=0)
    seen: list[tuple[int, float]] = []
    for number, one in enumerate([*script, "look"]):
        if one == "reward":
            log.reward(ppo, 0, number, number / 7)
        elif one == "rewards":
            log.rewards(ppo, 0, np.arange(9), np.arange(9) / (number + 1))
        elif one == "sync":
            log.sync()
        elif one == "reopen":
            log.close()
            log = journal.open("a journal", storage=storage, sync="close")
        else:
            for batch in listening:
                seen += zip(batch["seq"].to_pylist(), batch["value"].to_pylist(), strict=True)
            listening = follow(storage, since=len(seen), durable=True, timeout=0)
            left = storage.crash(Random(seed))
            kept = [
                pair
                for batch in replay.events(left)
                for pair in zip(batch["seq"].to_pylist(), batch["value"].to_pylist(), strict=True)
            ]
            assert kept[: len(seen)] == seen
    log.close()


def test_too_many_that_wait_are_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "HELD_MAX", 100)
    monkeypatch.setattr(following, "_POLL", 0.0)
    storage = fresh()
    with journal.open("a journal", storage=storage, sync="close") as log:
        for step in range(1_000):
            log.reward(log.agent("PPO"), 0, step, 1.0)
        live = follow(storage, durable=True, timeout=5)
        later = threading.Timer(0.2, log.sync)
        later.start()
        seen: list[int] = []
        while len(seen) < 1_001:
            seen += next(live)["seq"].to_pylist()
        later.join()
    assert seen == list(range(1_001))


# -- what was dropped --------------------------------------------------------------------------------------------------


def test_events_that_were_dropped_before_it_came_to_them() -> None:
    storage = fresh()
    record_everything(storage)
    compact(storage, drop_history=True)
    with pytest.warns(RuntimeWarning, match="dropped"):
        assert now(storage) == []
    end = replay.load(storage).events
    assert now(storage, since=end) == []


def test_it_says_so_where_events_were_dropped_under_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "_POLL", 0.0)
    storage: MemoryStorage = fresh()
    record_everything(storage)
    compact(storage)
    record_everything(storage)
    live = follow(storage, timeout=5)
    next(live)
    compact(storage, drop_history=True)
    with pytest.raises(HistoryDropped):
        list(live)
