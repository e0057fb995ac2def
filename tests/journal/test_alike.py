"""Several events that are alike, of any length, and the bars that each of them comes with."""

from __future__ import annotations

from typing import Any

import pytest

import journal
from journal import cell
from journal.events import BarsSeen, EpisodeEnded, EpisodeStarted, payload_of
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

STARTED = EpisodeStarted(agent="-", episode=0)
ENDED = EpisodeEnded(agent="-", episode=0, reason="terminated", metrics={"pnl": 1.5})
PLACES = [(4, 0), (5, 2), (6, 7)]


def told(events: list[Any]) -> list[tuple[Any, ...]]:
    return [(one.kind, one.seq, one.agent, one.episode, one.env_index, one.flags, one.payload) for one in events]


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


def seen_bars(start: int, episode: int = 0, env_index: int = 0) -> BarsSeen:
    """More than one cell of payload, unless they start late."""
    return BarsSeen(
        agent="A",
        episode=episode,
        env_index=env_index,
        instrument="EURUSD",
        timeframe="H1",
        start=start,
        stop=start + 240,
        content_hash=None,
        source="declared",
    )


@pytest.mark.parametrize("places", [PLACES, PLACES[:1]])
def test_ends_with_the_bars_they_come_with_are_what_one_after_the_other_gives(
    places: Any, storage: MemoryStorage, events_of: Any
) -> None:
    other = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log, journal.open("o", storage=other) as alone:
        agent = log.agent("A")
        log.alike(STARTED, b"", agent, 0, places)
        before = log.next_seq
        assert log.alike(ENDED, payload_of(ENDED), agent, 0, places, payload_of(seen_bars(7))) == before
        assert log.next_seq == before + 2 * len(places) and not log.context.episodes
        assert log.reward(agent, 0, 0, 1.0) == before + 2 * len(places), "whose checksum goes by its position"
        for episode, env_index in places:
            alone.append(EpisodeStarted(agent="A", episode=episode, env_index=env_index))
        for episode, env_index in places:
            alone.append(seen_bars(7, episode, env_index))
        for episode, env_index in places:
            ended = EpisodeEnded(
                agent="A", episode=episode, env_index=env_index, reason=ENDED.reason, metrics={"pnl": 1.5}
            )
            alone.append(ended)
        alone.reward(1, 0, 0, 1.0)
    assert told(events_of(storage)) == told(events_of(other))
    values = {one.kind: one.value for one in events_of(storage)}
    assert values["BarsSeen"] == 0.0 and values["EpisodeEnded"] > 0.0, "only the second has a time of its own"


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 127, 128, 129])
def test_what_comes_after_a_payload_of_any_length_stands_right_behind_it(length: int, storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        log.alike(STARTED, b"", agent, 0, PLACES)
        before = log.tail()[1]
        log.alike(ENDED, bytes(length), agent, 0, PLACES)
        assert log.tail()[1] == before + 3 * (64 + -(-length // 64) * 64)
        log.reward(agent, 0, 0, 1.0)
    (piece,) = Walk(storage)
    kinds = piece.cells["kind"][piece.heads].tolist()
    assert kinds[1:] == [cell.NAME_GIVEN, *[6] * 3, *[7] * 3, cell.REWARDED, cell.SEGMENT_SEALED]


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("done", [False, True])
def test_interrupted_bars_and_end_are_both_there_or_neither(
    write: int, done: bool, storage: MemoryStorage, events_of: Any
) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent, seen = log.agent("A"), payload_of(seen_bars(7))
        log.alike(STARTED, b"", agent, 0, [(4, 0)])
        plain, calls = log._segment.write, 0

        def interrupted(offset: int, data: bytes) -> None:
            nonlocal calls
            calls += 1
            if calls == write and not done:
                raise KeyboardInterrupt
            plain(offset, data)
            if calls == write:
                raise KeyboardInterrupt

        log._segment.write = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            log.alike(ENDED, payload_of(ENDED), agent, 0, [(4, 0)], seen)
        log._segment.write = plain  # type: ignore[method-assign]
        there = write == 2 and done
        assert log.next_seq == (4 if there else 2)
        assert list(log.context.episodes.values()) == ([] if there else [4])
        if not there:
            log.alike(ENDED, payload_of(ENDED), agent, 0, [(4, 0)], seen)
        log.reward(agent, 0, 0, 1.0)
    kinds = [one.kind for one in events_of(storage)]
    assert kinds == ["NameGiven", "EpisodeStarted", "BarsSeen", "EpisodeEnded", "Rewarded"]
