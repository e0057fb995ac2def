"""Queries: what is asked for is what a reader of everything would choose, and what is not asked for is not read."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import journal
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage import Storage
from journal.storage.memory import MemoryStorage
from replay import history, table
from replay.compaction import compact
from replay.groups import RowGroup
from replay.query import events

sys.path.insert(0, str(Path(__file__).parent))
from logs import flip, fresh, record_everything, same_events

HOUR = 3_600_000_000_000


class Clock:
    """Stands still until it is set."""

    def __init__(self) -> None:
        self.now = 0

    def time_ns(self) -> int:
        return self.now

    def monotonic(self) -> float:
        return self.now / 1e9


def record(storage: Storage, sessions: range) -> None:
    """Sessions of an hour each, PPO and SAC in turn; in number 2 the clock went back by two hours."""
    clock = Clock()
    for session in sessions:
        with journal.open("a journal", sync="close", storage=storage, clock=clock) as log:
            for agent in ("PPO", "SAC"):
                clock.now = (session - (2 if session == 2 else 0) + 3) * HOUR
                log.append(journal.EpisodeStarted(agent=agent, episode=session))
                log.rewards(log.agent(agent), session, np.arange(20), np.arange(20) / 7)
                clock.now += HOUR // 2
                log.append(journal.EpisodeEnded(agent=agent, episode=session, reason="terminated", metrics={"pnl": 1}))


@pytest.fixture(scope="module")
def places() -> dict[str, Storage]:
    """The same events in the live log, in history, and in both."""
    made: dict[str, Storage] = {"log": fresh(), "both": fresh(), "history": fresh()}
    record(made["log"], range(4))
    record(made["both"], range(2))
    compact(made["both"])
    record(made["both"], range(2, 4))
    record(made["history"], range(4))
    compact(made["history"])
    return made


def asked(storage: Storage, **query: Any) -> list[dict[str, Any]]:
    return [row for batch in events(storage, **query) for row in batch.to_pylist()]


COUNT = 2 + 4 * 2 * 22
bounds = st.none() | st.integers(0, COUNT + 3) | st.integers(1, 9).map(lambda h: datetime.fromtimestamp(h * 1800, UTC))


ASKED_FOR_NOTHING: dict[str, Any] = {"agents": None, "kinds": None, "columns": ["seq"]}


@settings(max_examples=150, deadline=None)
@example(place="log", **ASKED_FOR_NOTHING, since=datetime.fromtimestamp(4 * 3600, UTC), until=None)
@example(place="history", **ASKED_FOR_NOTHING, since=100, until=datetime.fromtimestamp(5 * 3600, UTC))
@given(
    place=st.sampled_from(["log", "both", "history"]),
    agents=st.none() | st.lists(st.sampled_from(["PPO", "SAC", "nobody"]), max_size=2),
    kinds=st.none() | st.lists(st.sampled_from(["Rewarded", "EpisodeEnded", "NameGiven", "RunStarted"]), max_size=2),
    columns=st.none() | st.lists(st.sampled_from(table.EXACT.names), min_size=1, max_size=4, unique=True),
    since=bounds,
    until=bounds,
)
def test_a_query_is_a_choice_from_all_events(
    places: dict[str, Storage],
    place: str,
    agents: list[str] | None,
    kinds: list[str] | None,
    columns: list[str] | None,
    since: int | datetime | None,
    until: int | datetime | None,
) -> None:
    everything = asked(places["log"], columns=table.EXACT.names)
    assert len(everything) == COUNT

    def first(moment: int | datetime | None, begin: int = 0) -> int:
        if not isinstance(moment, datetime):
            return begin if moment is None else moment
        return next((row["seq"] for row in everything[begin:] if row["time"].to_pydatetime() >= moment), COUNT)

    start = first(since)
    stop = COUNT if until is None else first(until, start)

    expected = [
        {name: row[name] for name in columns or table.SCHEMA.names}
        for row in everything
        if (agents is None or row["agent"] in agents)
        and (kinds is None or row["kind"] in kinds)
        and start <= row["seq"] < stop
    ]
    found = asked(places[place], agents=agents, kinds=kinds, columns=columns, since=since, until=until)
    assert found == expected


def test_every_kind_of_event_is_the_same_from_log_and_history() -> None:
    storage = fresh()
    record_everything(storage)

    def all_of() -> pa.Table:
        read = pa.Table.from_batches(list(events(storage, columns=table.EXACT.names)))
        return read.unify_dictionaries().combine_chunks()

    before = all_of()
    compact(storage)
    assert same_events(before, all_of())


def test_classes_and_single_names_are_taken(places: dict[str, Storage]) -> None:
    rows = asked(places["history"], kinds=journal.EpisodeEnded, agents="SAC", columns=["episode"])
    assert rows == [{"episode": number} for number in range(4)]


@pytest.mark.parametrize(
    ("query", "words"), [({"columns": ["reward"]}, "no column 'reward'"), ({"kinds": "Reward"}, "no kind 'Reward'")]
)
def test_what_does_not_exist_is_named_at_once(places: dict[str, Storage], query: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        events(places["log"], **query)


# -- what is not read --------------------------------------------------------------------------------------------------


class Watched(MemoryStorage):
    """Notes which files are read, and how many bytes of each."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[str, int] = {}

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        data = super().read(path, offset, length)
        self.seen[path] = self.seen.get(path, 0) + len(data)
        return data


def test_files_outside_the_range_are_not_read() -> None:
    storage = Watched()
    for _ in range(3):
        record(storage, range(1))
        compact(storage)
    record(storage, range(3))
    spans = history.spans(storage, Manifest.read(storage))
    assert len(spans) == 3
    segments = [f"segments/{name}" for name in storage.list("segments")]
    storage.seen.clear()
    assert asked(storage, since=spans[1].first, until=spans[1].last)
    assert {path for path in storage.seen if "/" in path and "segments" not in path} == {spans[1].path}
    storage.seen.clear()
    last = 3 * (2 + 44) - 4 + 3 * 44
    assert [row["seq"] for row in asked(storage, since=last - 1)] == [last - 1]
    assert not any(path.startswith("history") for path in storage.seen)
    assert all(storage.seen.get(path, 0) <= 128 for path in segments[:-1]) and storage.seen[segments[-1]] > 128


def test_columns_that_nobody_asked_for_and_groups_without_a_row_are_not_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = fresh()
    record(storage, range(3))
    monkeypatch.setattr("replay.packing.ROWS", 30)
    monkeypatch.setattr("replay.batch.ROWS", 30)
    compact(storage)
    read: list[tuple[int, tuple[str, ...]]] = []
    original = RowGroup.read

    def noting(group: RowGroup, columns: Any) -> pa.Table:
        read.append((group.number, tuple(columns)))
        return original(group, columns)

    monkeypatch.setattr(RowGroup, "read", noting)
    assert len(asked(storage, columns=["value"], since=10, until=12)) == 2
    assert read == [(0, ("value",))]
    read.clear()
    assert asked(storage, columns=["seq"], agents="A") == [], "its name is below all that the statistics know"
    assert read == []
    assert asked(storage, columns=["seq"], agents="QQQ") == [], "its name might be there"
    assert {columns for _, columns in read} == {("agent",)}
    read.clear()
    assert asked(storage, columns=["seq"], since=datetime(2100, 1, 1, tzinfo=UTC)) == []
    assert read == [], "the statistics know the latest time"


def test_a_damaged_seal_costs_a_longer_walk_and_no_event() -> None:
    storage = fresh()
    record(storage, range(3))
    wanted = asked(storage, since=100)
    path = f"segments/{storage.list('segments')[1]}"
    flip(storage, path, storage.size(path) * 8 - 1)
    with pytest.raises(CorruptJournal, match=path):
        asked(storage, since=100)
    flip(storage, path, storage.size(path) * 8 - 1)
    assert asked(storage, since=100) == wanted
