"""An episode's start, and its end with its bars: past the lock, all of what is told at once or nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import sys
import threading
from typing import Any

import pytest

import journal
from journal import cell, episodes
from journal.episodes import Fact, fact
from journal.events import BarsSeen, EpisodeEnded, EpisodeStarted, payload_of
from journal.rewarding import Steps
from journal.storage.memory import MemoryStorage
from journal.turn import EXCHANGES
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("impatient")
FAST = pytest.mark.skipif(not EXCHANGES, reason="this Python has no fast path")

STARTED = fact(EpisodeStarted(agent="-", episode=0))
SEEDED = fact(EpisodeStarted(agent="-", episode=0, seed=7, entry=3))
ENDED = fact(EpisodeEnded(agent="-", episode=0, reason="completed"))
TOLD = fact(EpisodeEnded(agent="-", episode=0, reason="terminated", metrics={"pnl": 1.5, "why": "x" * 70}))


def bars(number: int = 0, env_index: int = 0) -> BarsSeen:
    return BarsSeen(
        agent="A",
        episode=number,
        env_index=env_index,
        instrument="EURUSD",
        timeframe="H1",
        start=7,
        stop=247,
        content_hash=None,
        source="declared",
        phase="eval",
    )


SEEN = fact(bars())


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


def told(events: list[Any]) -> list[tuple[Any, ...]]:
    return [(one.kind, one.seq, one.agent, one.episode, one.env_index, one.flags, one.payload) for one in events]


@FAST
def test_they_are_what_one_append_after_the_other_gives_and_take_no_lock(storage: Any, events_of: Any) -> None:
    other = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log, journal.open("o", storage=other) as alone:
        agent = log.agent("A")
        with log.lock:  # Whoever asked for it would wait for ever.
            assert log.episode(SEEDED, agent, 1, 4, 2) == 1
            assert log.context.episodes == {(agent, 1, 2): 4}
            assert log.reward(agent, 4, 0, 1.0, 2, 1) == 2
            assert log.episode(TOLD, agent, 1, 4, 2, SEEN) == 3
            assert not log.context.episodes and log.next_seq == 5
            assert log.episode(STARTED, agent, 1, 5, 2) == 5
            assert log.episode(ENDED, agent, 1, 5, 2) == 6
            assert log.reward(agent, 5, 0, 1.0, 2, 1) == 7
        place: dict[str, Any] = {"agent": "A", "env_index": 2, "phase": "eval"}
        alone.append(EpisodeStarted(episode=4, seed=7, entry=3, **place))
        alone.reward(1, 4, 0, 1.0, 2, 1)
        alone.append(bars(4, 2))
        alone.append(EpisodeEnded(episode=4, reason="terminated", metrics={"pnl": 1.5, "why": "x" * 70}, **place))
        alone.append(EpisodeStarted(episode=5, **place))
        alone.append(EpisodeEnded(episode=5, reason="completed", **place))
        alone.reward(1, 5, 0, 1.0, 2, 1)
    assert told(events_of(storage)) == told(events_of(other))


def test_starts_and_ends_tell_the_monotonic_time_and_bars_do_not(storage: Any, clock: Any) -> None:
    with journal.open("m", storage=storage, sync="close", clock=clock) as log:
        agent = log.agent("A")
        log.episode(fact(STARTED.like), agent, 0, 4, 0)
        log.episode(fact(ENDED.like), agent, 0, 4, 0, fact(SEEN.like))
    (piece,) = Walk(storage)
    heads = piece.cells[piece.heads]
    values = {int(one["kind"]): float(one["value"]) for one in heads if one["kind"] < cell.MARK_FIRST}
    now = clock.monotonic()
    assert values == {cell.NAME_GIVEN: 0.0, cell.EPISODE_STARTED: now, cell.BARS_SEEN: 0.0, cell.EPISODE_ENDED: now}
    heads = heads[heads["kind"] < cell.MARK_FIRST]
    assert not any(heads[name].any() for name in ("form", "step"))
    assert ((heads["payload_crc"] != 0) == (heads["extent"] != 0)).all() and (heads["extent"] == 0).any()


@pytest.mark.parametrize("room", [True, False], ids=["past the lock", "at the lock"])
def test_what_contradicts_the_log_is_refused(room: bool, storage: Any, events_of: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")

        def refused(match: str, *given: Any) -> None:
            if not room:
                log._limit = 0
            with pytest.raises(journal.EventRejected, match=match):
                log.episode(*given)
            assert not log._turn.taken

        refused("no episode is open", ENDED, agent, 0, 4, 0)
        log.episode(STARTED, agent, 0, 4, 0)
        refused("episode 4 is open there", STARTED, agent, 0, 5, 0)
        refused("episode 4 is open there", STARTED, agent, 0, 4, 0)
        refused("episode 4 is the open one", ENDED, agent, 0, 5, 0)
        refused("no episode is open", ENDED, agent, 1, 4, 0, SEEN)
        refused("no episode is open", ENDED, agent, 0, 4, 1, SEEN)
        refused(r"log\.agent", STARTED, 0, 0, 4, 9)
        refused(r"log\.agent", STARTED, 2, 0, 4, 9)
        refused("does not fit a cell", STARTED, agent, 0, -1, 9)
        refused("not", STARTED, "A", 0, 4, 9)
        assert log.next_seq == 2 and log.context.episodes == {(agent, 0, 0): 4}
        log.episode(ENDED, agent, 0, 4, 0)
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "EpisodeStarted", "EpisodeEnded"]


def test_more_episodes_than_a_journal_can_follow_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.context.EPISODES_MAX", 2)
    monkeypatch.setattr(episodes, "EPISODES_MAX", 2)
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        for place in range(2):
            log.episode(STARTED, agent, 0, place, place)
        with pytest.raises(journal.EventRejected, match="2 episodes are open"):
            log.episode(STARTED, agent, 0, 2, 2)
        log.episode(ENDED, agent, 0, 0, 0)
        log.episode(STARTED, agent, 0, 2, 2)


@FAST
@pytest.mark.parametrize("what", ["start", "end", "bars and end"])
@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("done", [False, True])
def test_interrupted_all_is_there_and_counted_or_nothing_is(
    what: str, write: int, done: bool, storage: Any, events_of: Any
) -> None:
    """Before or after the store of all but the first head (1), and of that one (2), which publishes it."""
    given: dict[str, tuple[Fact, Fact | None]] = {
        "start": (SEEDED, None),
        "end": (TOLD, None),
        "bars and end": (ENDED, SEEN),
    }
    how, seen = given[what]
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        if what != "start":
            log.episode(STARTED, agent, 0, 4, 0)
        before, plain, calls = log.next_seq, log._segment.write, itertools.count(1)

        def interrupted(offset: int, data: bytes) -> None:
            call = next(calls)
            if call == write and not done:
                raise KeyboardInterrupt
            plain(offset, data)
            if call == write:
                raise KeyboardInterrupt

        log._segment.write = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            log.episode(how, agent, 0, 4, 0, seen)
        log._segment.write = plain  # type: ignore[method-assign]
        there = write == 2 and done
        assert not log._turn.taken and log._limit > 0 and log._interrupted is None
        assert log.next_seq == before + (0 if not there else 2 if seen else 1)
        assert list(log.context.episodes.values()) == ([4] if there == (what == "start") else [])
        if not there:
            log.episode(how, agent, 0, 4, 0, seen)
        with log.lock:
            log.reward(agent, 4, 0, 1.0)
    kinds = [one.kind for one in events_of(storage)]
    ends = {"start": [], "end": ["EpisodeEnded"], "bars and end": ["BarsSeen", "EpisodeEnded"]}
    assert kinds == ["NameGiven", "EpisodeStarted", *ends[what], "Rewarded"]


@FAST
@pytest.mark.parametrize("seen", [None, SEEN], ids=["alone", "with bars"])
def test_the_turn_is_held_while_it_is_stored(seen: Fact | None) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent, write, held = log.agent("A"), log._segment.write, []

        def looking(offset: int, data: bytes) -> None:
            held.append(log._turn.taken)
            write(offset, data)

        log._segment.write = looking  # type: ignore[method-assign]
        log.episode(STARTED, agent, 0, 4, 0)
        log.episode(TOLD, agent, 0, 4, 0, seen)
        log._segment.write = write  # type: ignore[method-assign]
        assert held == [True, True, True] and not log._turn.taken, "a start without payload is one store"


def test_killed_right_after_it_all_is_there(storage: Any, events_of: Any) -> None:
    """No seal vouches for it: each head and each payload has to check by itself."""
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    log.episode(SEEDED, agent, 0, 4, 0)
    log.episode(TOLD, agent, 0, 4, 0, SEEN)
    dead = storage.kill()
    log.close()
    with journal.open("m", storage=dead) as again:
        assert again.recovered.torn_bytes == 0
    assert told(events_of(dead)) == told(events_of(storage))


@FAST
def test_killed_before_the_first_head_is_there_nothing_is(storage: Any, events_of: Any) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    log.episode(STARTED, agent, 0, 4, 0)
    plain, left = log._segment.write, []

    def noted(offset: int, data: bytes) -> None:
        plain(offset, data)
        left.append(storage.kill())

    log._segment.write = noted  # type: ignore[method-assign]
    log.episode(TOLD, agent, 0, 4, 0, SEEN)
    log._segment.write = plain  # type: ignore[method-assign]
    log.close()
    for dead, more in zip(left, ([], ["BarsSeen", "EpisodeEnded"]), strict=True):
        journal.open("m", storage=dead).close()
        assert [one.kind for one in events_of(dead)] == ["NameGiven", "EpisodeStarted", *more]


@FAST
@pytest.mark.parametrize("seen", [None, SEEN], ids=["alone", "with bars"])
def test_who_finds_the_turn_taken_or_the_way_shut_queues_at_the_lock(seen: Fact | None, storage: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        log.episode(STARTED, agent, 0, 4, 0)
        log._turn.taken = True
        waiter = threading.Thread(target=log.episode, args=(ENDED, agent, 0, 4, 0, seen))
        waiter.start()
        waiter.join(0.05)
        assert waiter.is_alive() and log._turn.taken and log.next_seq == 2
        log._turn.taken = False
        waiter.join(10)
        assert log.next_seq == (3 if seen is None else 4)
        log._limit = 0
        log.episode(STARTED, agent, 0, 5, 0)
        assert not log._turn.taken and log._limit > 0, "who had the lock opens the way again"


@FAST
def test_where_it_just_fits_it_goes_past_the_lock_and_one_cell_less_is_too_little(storage: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        log.episode(STARTED, agent, 0, 4, 0)
        needed = 2 * cell.CELL + len(SEEN.padded) + len(TOLD.padded)
        taken = threading.Lock()
        log._limit = log._offset + needed - 1
        log.lock, lock = taken, log.lock
        with taken:
            waiter = threading.Thread(target=log.episode, args=(TOLD, agent, 0, 4, 0, SEEN))
            waiter.start()
            waiter.join(0.05)
            assert waiter.is_alive() and log.next_seq == 2
            log._limit = 0
        waiter.join(10)
        log.lock = lock
        assert log.next_seq == 4
        log.episode(STARTED, agent, 0, 5, 0)
        log._limit = log._offset + needed
        with log.lock:
            log.episode(TOLD, agent, 0, 5, 0, SEEN)


@FAST
def test_a_large_one_is_left_to_who_holds_the_lock(storage: Any, events_of: Any) -> None:
    large = fact(EpisodeEnded(agent="-", episode=0, reason="completed", metrics={"text": "x" * 20_000}))
    with journal.open("m", storage=storage, sync="close") as log:
        agent, doors = log.agent("A"), []
        log.episode(STARTED, agent, 0, 4, 0)
        alike = log.alike
        log.alike = lambda *given: doors.append(given) or alike(*given)  # type: ignore[method-assign,func-returns-value]
        log.episode(large, agent, 0, 4, 0)
        assert len(doors) == 1
    assert events_of(storage)[-1].payload["metrics"] == {"text": "x" * 20_000}


@pytest.mark.parametrize("place", [1, 3])
def test_a_forged_promise_is_refused_wherever_its_payload_stands(place: int) -> None:
    """The first cell behind the head of the bars, or of the end."""
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        log.episode(STARTED, agent, 0, 4, 0)
        at = log._base + (log._offset >> 6) + place
        raw = cell.pack_promise(cell.RECEIPT, 9, 1, at + 1000, 9, bytes(24), salt=log._salt, at=at)
        forged = (fact(bars(), raw), ENDED) if place == 1 else (fact(bars(), b"\x80"), fact(TOLD.like, raw))
        with pytest.raises(journal.EventRejected, match="forged"):
            log.episode(forged[1], agent, 0, 4, 0, forged[0])
        assert log.next_seq == 2 and log.context.episodes
        other = (fact(bars(), raw), ENDED) if place == 3 else (fact(bars(), b"\x80"), fact(TOLD.like, raw))
        log.episode(other[1], agent, 0, 4, 0, other[0])
        assert log.next_seq == 4, "anywhere else it promises nothing"


@pytest.mark.parametrize("more", [0, 1])
def test_how_far_from_its_place_a_cell_is_believed_goes_by_where_the_second_payload_stands(more: int) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        log.episode(STARTED, agent, 0, 4, 0)
        seen = fact(bars(), b"\x80")
        offset = log.tail()[1] + cell.CELL + len(seen.padded)
        stated, place = log.promised.position + 1000, offset // cell.CELL
        at = stated + place + more
        raw = cell.pack_promise(cell.RECEIPT, 9, 1, stated, 9, bytes(24), salt=log._salt, at=at)
        refused = contextlib.nullcontext() if more else pytest.raises(journal.EventRejected, match="forged")
        with refused:
            log.episode(fact(TOLD.like, raw), agent, 0, 4, 0, seen)
        assert (log.next_seq == 2) == (not more)


@FAST
def test_an_error_of_the_system_is_the_end(storage: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")

        def failing(offset: int, data: bytes) -> None:
            raise OSError(5, "Input/output error")

        log._segment.write = failing  # type: ignore[method-assign]
        with pytest.raises(journal.JournalFailed, match="Input/output error"):
            log.episode(STARTED, agent, 0, 4, 0)
        assert not log._turn.taken and log._limit == 0
        with pytest.raises(journal.JournalFailed):
            log.episode(STARTED, agent, 0, 4, 0)
        with pytest.raises(journal.JournalFailed):
            log.close()


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("sync", ["close", "always"])
def test_episodes_go_on_from_segment_to_segment(sync: Any, storage: Any, events_of: Any) -> None:
    with journal.open("m", storage=storage, sync=sync) as log:
        agent = log.agent("A")
        for number in range(150):
            log.episode(SEEDED, agent, 0, number, 0)
            log.reward(agent, number, 0, 1.0)
            log.rewards(agent, number, range(1, 5), [1.0] * 4)
            seq = log.episode(TOLD if number % 2 else ENDED, agent, 0, number, 0, SEEN if number % 3 else None)
            if sync == "always":
                assert log.promised.seq == log.next_seq - 1
            assert log.next_seq == seq + (2 if number % 3 else 1)
    kinds = [one.kind for one in events_of(storage)][1:]
    assert kinds == [
        kind
        for number in range(150)
        for kind in ("EpisodeStarted", *["Rewarded"] * 5, *["BarsSeen"][: number % 3], "EpisodeEnded")
    ]
    assert len(storage.list("segments")) > 1


@FAST
def test_threads_that_switch_all_the_time_lose_nothing(storage: Any, events_of: Any) -> None:
    """Four threads begin, step and end their episodes beside group commits, in the middle of each other's appends."""
    count, errors = 150, []

    def work(place: int) -> None:
        try:
            for number in range(count):
                log.episode(SEEDED, agent, 0, number, place)
                steps = Steps(log.reward, agent, number, place, 0)
                steps.straight(log)
                for value in range(3):
                    steps.step(float(value))
                log.episode(TOLD, agent, 0, number, place, SEEN)
        except BaseException as error:
            errors.append(error)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with journal.open("m", storage=storage, sync_interval=0.001) as log:
            agent = log.agent("A")
            threads = [threading.Thread(target=work, args=(place,)) for place in range(4)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
    finally:
        sys.setswitchinterval(before)
    assert not errors
    found = events_of(storage)
    for place in range(4):
        mine = [(one.kind, one.episode, one.step) for one in found if one.agent and one.env_index == place]
        assert mine == [
            told
            for number in range(count)
            for told in (
                ("EpisodeStarted", number, 0),
                *(("Rewarded", number, step) for step in range(3)),
                ("BarsSeen", number, 0),
                ("EpisodeEnded", number, 0),
            )
        ]


def test_a_payload_that_is_given_is_taken_as_it_is() -> None:
    like = EpisodeStarted(agent="-", episode=0, seed=7, entry=3)
    assert fact(like, payload_of(like)) == fact(like)
    assert fact(like).padded == payload_of(like).ljust(64, b"\0") and fact(like).pad == 64 - len(payload_of(like))
    assert (STARTED.padded, STARTED.kind, STARTED.pad) == (b"", cell.EPISODE_STARTED, 0)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_records_no_episode() -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        child = os.fork()
        if not child:
            try:
                log.episode(STARTED, agent, 0, 4, 0)
            except journal.JournalClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        log.episode(STARTED, agent, 0, 4, 0)
        assert log.next_seq == 2
