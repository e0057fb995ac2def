"""What the tests of the log share: a clock that stands still, small segments, and a plain reader of events."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

import journal
from journal import arrays, batch, cell, events, segment, turn
from journal.storage import Storage
from journal.walk import Walk


class Seen(NamedTuple):
    """One event as it was read back; a reward of a batch is one of its own."""

    seq: int
    kind: str
    agent: str | None
    flags: int
    env_index: int
    episode: int
    step: int
    value: float
    payload: Any


def read_events(storage: Storage, *, live: bool = False) -> list[Seen]:
    """Every event of the live log, in order, with names and batches resolved."""
    names: list[str | None] = [None]
    seen: list[Seen] = []
    for piece in Walk(storage, live=live):
        for at in piece.heads.tolist():
            one = piece.cells[at]
            kind, seq = int(one["kind"]), int(one["seq"])
            payload = arrays.payload(piece.raw, piece.cells, at)
            if kind >= cell.MARK_FIRST:
                continue
            content = events.unpack(payload) if len(payload) and kind != cell.REWARDS else None
            if kind == cell.NAME_GIVEN:
                assert content["number"] == len(names)
                names.append(content["name"])
            base = (names[int(one["agent"])], int(one["flags"]))
            place = (int(one["episode"]), int(one["step"]), int(one["env_index"]))
            if kind == cell.REWARDS:
                count = int(piece.cells[at : at + 1].view(arrays.COUNT)["count"][0])
                columns = batch.unpack(count, int(one["form"]), *place, payload)
                for i in range(count):
                    where = (int(columns.env_index[i]), int(columns.episode[i]), int(columns.step[i]))
                    seen.append(Seen(seq + i, "Rewarded", *base, *where, float(columns.value[i]), None))
            else:
                where = (place[2], place[0], place[1])
                seen.append(Seen(seq, events.kind_name(kind), *base, *where, float(one["value"]), content))
    assert [one.seq for one in seen] == list(range(seen[0].seq, seen[0].seq + len(seen))) if seen else True
    return seen


class StandingClock:
    """Time is what the test says it is."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000

    def time_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9


class Impatient:
    """Sleeps, and fails who has slept too long in one wait."""

    def sleep(self, seconds: float) -> None:
        if not seconds:  # A wait begins with that.
            self._until = time.monotonic() + 5.0
        if time.monotonic() > self._until:
            raise AssertionError("a turn was taken and not given back")
        time.sleep(seconds)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for a turn that is never given back fails after a while, instead of waiting for ever."""
    monkeypatch.setattr(turn, "time", Impatient())


@pytest.fixture(params=[True, False], ids=["past the lock", "queued"])
def shut(request: pytest.FixtureRequest) -> Any:
    """Shuts the fast path of a log, in one of two cases, so that what follows queues at the lock."""

    def shut(log: journal.Log) -> None:
        if not request.param:
            log._limit = 0

    return shut


@pytest.fixture
def events_of() -> Callable[..., list[Seen]]:
    return read_events


@pytest.fixture
def clock() -> StandingClock:
    return StandingClock()


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> int:
    """Segments of 64 cells, so that a short test rotates often. Returns their size in bytes."""
    monkeypatch.setattr(segment, "SIZE_MIN", 4096)
    monkeypatch.setattr(segment, "SIZE_MAX", 4096)
    monkeypatch.setattr(segment, "RESERVE", 512)
    return 4096
