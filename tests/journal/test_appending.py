"""Appending under the lock: one event, or several that are alike; all or nothing, whatever interrupts."""

from __future__ import annotations

from typing import Any

import pytest

import journal
from journal import cell
from journal.events import EpisodeEnded, EpisodeStarted, payload_of
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


def test_they_are_what_one_append_after_the_other_gives(storage: MemoryStorage, events_of: Any) -> None:
    other = MemoryStorage()
    with journal.open("m", storage=storage) as log, journal.open("o", storage=other) as alone:
        agent = log.agent("A")
        assert log.alike(STARTED, b"", agent, 1, PLACES) == 1
        assert log.alike(ENDED, payload_of(ENDED), agent, 1, PLACES) == 4
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
            log.alike(like, payload_of(like), agent, 0, PLACES)
        assert log.append(journal.Custom(name="x")) == 2
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "EpisodeStarted", "Custom"]


@pytest.mark.parametrize("agent", [0, 2])
def test_of_an_agent_that_has_no_number_none_is_recorded(agent: int) -> None:
    with journal.open("m", storage=MemoryStorage()) as log:
        log.agent("A")
        with pytest.raises(journal.EventRejected, match=r"log\.agent"):
            log.alike(STARTED, b"", agent, 0, PLACES)
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
            log.alike(STARTED, b"", agent, 0, PLACES)
        log._segment.write = plain  # type: ignore[method-assign]
        there = write == 2 and done
        assert log.next_seq == (4 if there else 1)
        assert len(log.context.episodes) == (3 if there else 0)
        if not there:
            log.alike(STARTED, b"", agent, 0, PLACES)
        log.alike(ENDED, payload_of(ENDED), agent, 0, PLACES)
    assert [one.kind for one in events_of(storage)] == ["NameGiven", *["EpisodeStarted"] * 3, *["EpisodeEnded"] * 3]


def test_killed_right_after_it_they_are_there_with_their_payloads(storage: MemoryStorage, events_of: Any) -> None:
    """No seal vouches for them yet: each head and each payload has to check by itself."""
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    log.alike(STARTED, b"", agent, 0, PLACES)
    log.alike(ENDED, payload_of(ENDED), agent, 0, PLACES)
    log.append(journal.Custom(name="alone", data=bytes(100)))
    dead = storage.kill()
    log.close()
    with journal.open("m", storage=dead) as again:
        assert again.recovered.torn_bytes == 0
    assert told(events_of(dead)) == told(events_of(storage))


@pytest.mark.parametrize("write", [1, 2])
def test_killed_before_the_first_head_is_there_none_is(write: int, storage: MemoryStorage, events_of: Any) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    plain, left = log._segment.write, []

    def noted(offset: int, data: bytes) -> None:
        plain(offset, data)
        left.append(storage.kill())

    log._segment.write = noted  # type: ignore[method-assign]
    log.alike(STARTED, b"", agent, 0, PLACES)
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
            log.alike(STARTED, b"", agent, 0, places)
            log.alike(ENDED, payload_of(ENDED), agent, 0, places)
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
            lambda: log.alike(ENDED, payload_of(ENDED), agent, 0, places),
        ):
            with pytest.raises(journal.EventRejected, match="no episode is open"):
                refused()
            assert log.tail()[0] is here
        log.alike(STARTED, b"", agent, 0, places)
        assert log.tail()[0] is not here


def test_no_reward_passes_an_append_that_holds_the_lock(storage: MemoryStorage) -> None:
    """The fast path is shut and the lock held while something is stored; behind it the fast path is open again."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent, put, write = log.agent("A"), log._put, log._segment.write
        seen = []

        def looking(act: Any) -> Any:
            return lambda *args: seen.append(log._limit or not log.lock.locked()) or act(*args)

        log._put, log._segment.write = looking(put), looking(write)  # type: ignore[method-assign]
        log.append(journal.Custom(name="x"))
        assert log._limit == log._way
        log.alike(STARTED, b"", agent, 0, PLACES)
        assert log._limit == log._way
        log._put, log._segment.write = put, write  # type: ignore[method-assign]
        assert seen and not any(seen)


@pytest.mark.parametrize("agent", [0, -1, 2])
@pytest.mark.parametrize("door", ["reward", "reward under the lock", "rewards"])
def test_of_an_agent_that_has_no_number_no_reward_is_recorded(agent: int, door: str) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        log.agent("A")
        if door == "reward under the lock":
            log._limit = 0
        with pytest.raises(journal.EventRejected, match=rf"agent is {agent}: .* log\.agent"):
            log.rewards(agent, 0, 0, [1.0, 2.0]) if door == "rewards" else log.reward(agent, 0, 0, 1.0)
        assert log.next_seq == 1


def test_an_event_names_no_agent_that_has_no_number() -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        with pytest.raises(journal.EventRejected, match="agent is 1:"):
            log._append_cell(cell.CUSTOM, b"", agent=1)
        assert log._append_cell(cell.CUSTOM, b"", agent=0) == 0, "and most name none"


def test_what_is_not_said_is_zero(storage: MemoryStorage) -> None:
    """Zero is in the format, and what a reader of it may rely on."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        assert log._append_cell(cell.CUSTOM, b"") + 1 == log.next_seq
        log.alike(STARTED, b"", agent, 0, PLACES)
        log.alike(ENDED, payload_of(ENDED), agent, 0, PLACES)
    (piece,) = Walk(storage)
    heads = piece.cells[piece.heads]
    heads = heads[heads["kind"] < cell.MARK_FIRST][1:]
    assert len(heads) == 7
    assert ((heads["payload_crc"] != 0) == (heads["extent"] != 0)).all() and (heads["extent"] == 0).sum() == 4
    assert not any(heads[name].any() for name in ("flags", "form", "step"))
    assert not any(heads[name][0] for name in ("agent", "env_index", "episode", "value"))


def interrupting(log: journal.Log, error: BaseException, *, done: bool) -> None:
    """The next store of a head raises: before it, or when it is done."""
    put = log._put

    def once(buffer: Any, offset: int, crc: int, body: bytes) -> None:
        log._put = put
        if done:
            put(buffer, offset, crc, body)
        raise error

    log._put = once


@pytest.mark.parametrize("done", [False, True])
def test_interrupted_an_event_is_there_and_counted_or_it_is_not(
    done: bool, storage: MemoryStorage, events_of: Any
) -> None:
    """At once, not only when the next one comes; and what is to be known of it is known."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        steps: list[tuple[Any, int]] = [
            (lambda: log.append(EpisodeStarted(agent="A", episode=4)), 1),
            (lambda: log.rewards(agent, 4, 0, [1.0, 2.0, 3.0]), 3),
        ]
        for step, takes in steps:
            before = log.next_seq
            interrupting(log, KeyboardInterrupt(), done=done)
            with pytest.raises(KeyboardInterrupt):
                step()
            assert log.next_seq == before + (takes if done else 0)
            assert list(log.context.episodes.values()) == ([4] if done or takes == 3 else [])
            if not done:
                step()
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "EpisodeStarted", *["Rewarded"] * 3]


@pytest.mark.parametrize("door", ["append", "episodes"])
def test_an_episode_whose_start_was_interrupted_twice_is_open(door: str, storage: MemoryStorage) -> None:
    """Its cell is there, but nobody has counted it yet: whoever comes next does, before asking what is open."""
    start = EpisodeStarted(agent="A", episode=4)
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        interrupting(log, KeyboardInterrupt(), done=True)
        unwind = log._unwind

        def unsettled() -> None:
            raise KeyboardInterrupt

        log._unwind = unsettled  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            log.append(start)
        log._unwind = unwind  # type: ignore[method-assign]
        assert log.next_seq == 1
        with pytest.raises(journal.EventRejected, match="episode 4 is open there"):
            log.append(start) if door == "append" else log.alike(STARTED, b"", agent, 0, [(4, 0)])
        assert log.next_seq == 2


@pytest.mark.parametrize("door", ["append", "episodes"])
@pytest.mark.parametrize("done", [False, True])
def test_a_store_that_fails_is_the_end_and_counted_if_it_is_there(
    door: str, done: bool, storage: MemoryStorage
) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent, error = log.agent("A"), OSError(5, "Input/output error")
        if door == "append":
            interrupting(log, error, done=done)
        else:
            write = log._segment.write

            def failing(offset: int, data: bytes) -> None:
                log._segment.write = write  # type: ignore[method-assign]
                if done:
                    write(offset, data)
                raise error

            log._segment.write = failing  # type: ignore[method-assign]
        with pytest.raises(journal.JournalFailed, match="writing to the log failed: Input/output error"):
            if door == "append":
                log.append(EpisodeStarted(agent="A", episode=4))
            else:
                log.alike(STARTED, b"", agent, 0, [(4, 0)])
        assert log.next_seq == (2 if done else 1)
        with pytest.raises(journal.JournalFailed):
            log.alike(STARTED, b"", agent, 0, PLACES)
        with pytest.raises(journal.JournalFailed):
            log.close()


def test_what_does_not_fit_a_cell_is_told_and_not_recorded(storage: MemoryStorage, events_of: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        with pytest.raises(journal.EventRejected, match="does not fit a cell"):
            log.alike(STARTED, b"", agent, 0, [(1, 0), (2, -1)])
        log._limit = 0
        with pytest.raises(journal.EventRejected, match="does not fit a cell"):
            log.reward(agent, 0, -1, 1.0)
        assert log.next_seq == 1 and not log.context.episodes
    assert len(events_of(storage)) == 1


def test_closed_it_takes_nothing(storage: MemoryStorage) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    log.close()
    for refused in (
        lambda: log.alike(STARTED, b"", agent, 0, PLACES),
        lambda: log.append(EpisodeStarted(agent="A", episode=4)),
        lambda: log.rewards(agent, 0, 0, [1.0]),
    ):
        with pytest.raises(journal.JournalClosed):
            refused()


@pytest.mark.parametrize("sync", ["always", "close"])
def test_only_always_promises_each_before_it_returns(sync: Any, storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync=sync) as log:
        agent, promises = log.agent("A"), [log.promised.seq]
        log.append(EpisodeStarted(agent="A", episode=1, env_index=9))
        promises.append(log.promised.seq)
        log.alike(STARTED, b"", agent, 0, PLACES)
        promises.append(log.promised.seq)
        log.alike(ENDED, payload_of(ENDED), agent, 0, PLACES[:1])
        promises.append(log.promised.seq)
        log.rewards(agent, 0, 0, [1.0, 2.0])
        promises.append(log.promised.seq)
    assert promises == ([0, 1, 4, 5, 7] if sync == "always" else [-1] * 5)
