"""Several events that are alike, appended at once: all of them or none, whatever interrupts."""

from __future__ import annotations

from typing import Any

import pytest

import journal
from journal.events import EpisodeEnded, EpisodeStarted, payload_of
from journal.storage.memory import MemoryStorage

STARTED = EpisodeStarted(agent="-", episode=0)
ENDED = EpisodeEnded(agent="-", episode=0, reason="terminated", metrics={"pnl": 1.5})
PLACES = [(4, 0), (5, 2), (6, 7)]


def told(events: list[Any]) -> list[tuple[Any, ...]]:
    return [(one.kind, one.seq, one.agent, one.episode, one.env_index, one.flags, one.payload) for one in events]


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


def test_they_are_what_one_append_after_the_other_gives(storage: MemoryStorage, events_of: Any) -> None:
    other = MemoryStorage()
    with journal.open("m", storage=storage) as log, journal.open("o", storage=other) as alone:
        agent = log.agent("A")
        assert log.episodes(STARTED, b"", agent, 1, PLACES) == 1
        assert log.episodes(ENDED, payload_of(ENDED), agent, 1, PLACES) == 4
        assert log.next_seq == 7 and not log.context.episodes
        for event in (EpisodeStarted, EpisodeEnded):
            more: dict[str, Any] = {} if event is EpisodeStarted else {"reason": "terminated", "metrics": {"pnl": 1.5}}
            for episode, env_index in PLACES:
                alone.append(event(agent="A", episode=episode, env_index=env_index, phase="eval", **more))
    assert told(events_of(storage)) == told(events_of(other))


@pytest.mark.parametrize(("opened", "like"), [((9, 2), STARTED), ((4, 0), ENDED)])
def test_where_one_contradicts_the_log_none_is_recorded(opened: tuple[int, int], like: Any, events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        agent = log.agent("A")
        log.append(EpisodeStarted(agent="A", episode=opened[0], env_index=opened[1]))
        with pytest.raises(journal.EventRejected, match="open"):
            log.episodes(like, payload_of(like), agent, 0, PLACES)
        assert log.append(journal.Custom(name="x")) == 2
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "EpisodeStarted", "Custom"]


@pytest.mark.parametrize("agent", [0, 2])
def test_of_an_agent_that_has_no_number_none_is_recorded(agent: int) -> None:
    with journal.open("m", storage=MemoryStorage()) as log:
        log.agent("A")
        with pytest.raises(journal.EventRejected, match=r"log\.agent"):
            log.episodes(STARTED, b"", agent, 0, PLACES)
        assert log.next_seq == 1 and not log.context.episodes


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("done", [False, True])
def test_interrupted_they_are_all_there_and_counted_or_none_is(
    write: int, done: bool, storage: MemoryStorage, events_of: Any
) -> None:
    """Before or after the store of all but the first head (1), and of that one (2), which publishes them."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
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
            log.episodes(STARTED, b"", agent, 0, PLACES)
        log._segment.write = plain  # type: ignore[method-assign]
        there = write == 2 and done
        assert log.next_seq == (4 if there else 1)
        assert len(log.context.episodes) == (3 if there else 0)
        if not there:
            log.episodes(STARTED, b"", agent, 0, PLACES)
        log.episodes(ENDED, payload_of(ENDED), agent, 0, PLACES)
    assert [one.kind for one in events_of(storage)] == ["NameGiven", *["EpisodeStarted"] * 3, *["EpisodeEnded"] * 3]


@pytest.mark.parametrize("write", [1, 2])
def test_killed_before_the_first_head_is_there_none_is(write: int, storage: MemoryStorage, events_of: Any) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    plain, left = log._segment.write, []

    def noted(offset: int, data: bytes) -> None:
        plain(offset, data)
        left.append(storage.kill())

    log._segment.write = noted  # type: ignore[method-assign]
    log.episodes(STARTED, b"", agent, 0, PLACES)
    log._segment.write = plain  # type: ignore[method-assign]
    log.close()
    dead = left[write - 1]
    journal.open("m", storage=dead).close()
    assert [one.kind for one in events_of(dead)] == ["NameGiven", *["EpisodeStarted"] * (3 if write == 2 else 0)]


def test_they_never_lie_in_two_segments(small_segments: int, storage: MemoryStorage, events_of: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        for episode in range(0, 3000, 3):
            places = [(episode + more, more) for more in range(3)]
            log.episodes(STARTED, b"", agent, 0, places)
            log.episodes(ENDED, payload_of(ENDED), agent, 0, places)
    kinds = [one.kind for one in events_of(storage)][1:]
    assert len(storage.list("segments")) > 1
    assert kinds == (["EpisodeStarted"] * 3 + ["EpisodeEnded"] * 3) * 1000


def test_a_name_is_given_once_though_ctrl_c_came_twice(storage: MemoryStorage, events_of: Any) -> None:
    """After its store, and while that was settled: who comes next settles it, and only then asks which names there are.

    A second cell with the same name would give it a second number.
    """

    def stored(buffer: Any, offset: int, crc: int, body: bytes) -> None:
        put(buffer, offset, crc, body)
        raise KeyboardInterrupt

    def unsettled() -> None:
        raise KeyboardInterrupt

    with journal.open("m", storage=storage, sync="close") as log:
        put = log._put
        log._put, log._unwind = stored, unsettled  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            log.agent("A")
        log._put = put
        del log._unwind
        assert log.agent("A") == 1
        assert log.agent("B") == 2
    assert [(one.kind, one.payload["name"]) for one in events_of(storage)] == [("NameGiven", "A"), ("NameGiven", "B")]


def test_what_is_refused_takes_no_segment(small_segments: int, storage: MemoryStorage) -> None:
    """It would have found no room in this one: the log stays where it is."""
    places = [(number, number) for number in range(20)]
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        here = log.tail()[0]
        while log.tail()[1] + 64 <= here.limit:
            log.reward(agent, 0, 0, 1.0)
        for refused in (
            lambda: log.append(EpisodeEnded(agent="A", episode=0, reason="terminated")),
            lambda: log.episodes(ENDED, payload_of(ENDED), agent, 0, places),
        ):
            with pytest.raises(journal.EventRejected, match="no episode is open"):
                refused()
            assert log.tail()[0] is here
        log.episodes(STARTED, b"", agent, 0, places)
        assert log.tail()[0] is not here


def test_no_reward_passes_an_append_that_holds_the_lock(storage: MemoryStorage) -> None:
    """The fast path is shut while something is stored, and open again behind it."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent, put, write = log.agent("A"), log._put, log._segment.write
        seen = []

        def looking(act: Any) -> Any:
            return lambda *args: seen.append(log._limit) or act(*args)

        log._put, log._segment.write = looking(put), looking(write)  # type: ignore[method-assign]
        log.append(journal.Custom(name="x"))
        assert log._limit == log._way
        log.episodes(STARTED, b"", agent, 0, PLACES)
        assert log._limit == log._way
        log._put, log._segment.write = put, write  # type: ignore[method-assign]
        assert seen and not any(seen)
