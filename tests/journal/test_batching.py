"""The way of a batch past the lock: the same batch as by the long way, all or nothing, and who waits meanwhile."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

import journal
from journal import arrays, batch, cell, events
from journal.cell import CELL
from journal.live import PWRITE_FROM
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.turn import EXCHANGES, Turn
from journal.walk import Walk

FAST = pytest.mark.skipif(not EXCHANGES, reason="this Python has no fast path")
SMALL, LARGE = 20, PWRITE_FROM // 8
"""Rewards in a batch that goes through the map where there is one, and in one that does not."""


@pytest.fixture(autouse=True)
def nobody_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """A turn that is never given back would keep a test from its end."""

    def wait(turn: Turn) -> None:
        enough = time.monotonic() + 2
        while turn.taken:
            assert time.monotonic() < enough, "the turn is not given back"
            time.sleep(1e-4)

    monkeypatch.setattr(Turn, "wait", wait)


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


@pytest.fixture(params=[SMALL, LARGE], ids=["small", "large"])
def count(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@contextlib.contextmanager
def past_the_lock(log: journal.Log) -> Iterator[None]:
    """Nothing may queue at it."""
    log._append_cell = lambda *_, **__: pytest.fail("it queues at the lock")  # type: ignore[method-assign]
    try:
        yield
    finally:
        del log._append_cell


def rewarded(found: list[Any]) -> list[tuple[Any, ...]]:
    kept = [one for one in found if one.kind == "Rewarded"]
    return [(one.seq, one.agent, one.flags, one.episode, one.step, one.env_index, one.value) for one in kept]


VALUES = np.arange(20) - 9.5
USUAL: dict[str, tuple[Any, ...]] = {
    "an episode's steps": (7, range(100, 120), 3, VALUES),
    "its first ones": (0, range(20), 0, VALUES),
    "the last ones there are": (
        *(events.INTEGER_MAX, range(events.INTEGER_MAX - 19, events.INTEGER_MAX + 1)),
        *(batch.UINT32_MAX, VALUES),
    ),
    "one": (7, range(4, 5), 0, VALUES[:1]),
    "every other one": (7, range(10), 0, VALUES[::2]),
    "as many as one batch holds": (7, range(batch.COUNT_MAX), 0, np.zeros(batch.COUNT_MAX)),
}
OTHER: dict[str, tuple[Any, ...]] = {
    "none": (7, range(0), 0, VALUES[:0]),
    "more than one batch holds": (7, range(batch.COUNT_MAX + 1), 0, np.zeros(batch.COUNT_MAX + 1)),
    "steps of two": (7, range(0, 40, 2), 0, VALUES),
    "half as many steps, of two": (7, range(0, 20, 2), 0, VALUES),
    "no steps, from and to the right ones": (7, range(0, 20, -1), 0, VALUES),
    "a number as an array": (7, range(20), 0, np.array(5.0)),
    "steps of none": (7, range(20, 0, -1), 0, VALUES),
    "one step": (7, 5, 0, VALUES),
    "an array of steps": (7, np.arange(20), 0, VALUES),
    "an array of episodes": (np.arange(20), range(20), 0, VALUES),
    "a range of places": (7, range(20), range(20), VALUES),
    "a true episode": (True, range(20), 0, VALUES),
    "a true place": (7, range(20), True, VALUES),
    "a number of numpy's": (np.int64(7), range(20), 0, VALUES),
    "too few steps": (7, range(19), 0, VALUES),
    "too many steps": (7, range(21), 0, VALUES),
    "a step below zero": (7, range(-1, 19), 0, VALUES),
    "a step too large": (7, range(events.INTEGER_MAX - 18, events.INTEGER_MAX + 2), 0, VALUES),
    "an episode below zero": (-1, range(20), 0, VALUES),
    "an episode too large": (events.INTEGER_MAX + 1, range(20), 0, VALUES),
    "a place below zero": (7, range(20), -1, VALUES),
    "a place too large": (7, range(20), batch.UINT32_MAX + 1, VALUES),
    "a list": (7, range(20), 0, VALUES.tolist()),
    "float32": (7, range(20), 0, VALUES.astype("f4")),
    "integers": (7, range(20), 0, np.arange(20)),
    "the other byte order": (7, range(20), 0, VALUES.astype(">f8")),
    "two dimensions": (7, range(20), 0, np.zeros((20, 1))),
    "a kind of array of somebody's own": (7, range(20), 0, np.ma.masked_array(VALUES)),
}


@pytest.mark.parametrize("call", USUAL.values(), ids=USUAL.keys())
def test_the_usual_call_is_packed_as_any_other_one_would_be(call: tuple[Any, ...]) -> None:
    episode, steps, place, values = call
    packed = batch.usual(episode, steps, place, values)
    assert packed == batch.pack(episode, batch.as_column(steps, len(values), "steps"), place, batch.as_values(values))
    assert packed is not None and packed.payload == values.tobytes()


@pytest.mark.parametrize("call", OTHER.values(), ids=OTHER.keys())
def test_any_other_call_is_looked_at_column_by_column(call: tuple[Any, ...]) -> None:
    assert batch.usual(*call) is None


def test_what_the_usual_call_recorded_keeps_its_values(events_of: Any) -> None:
    storage, values = MemoryStorage(), VALUES.copy()
    with journal.open("m", storage=storage, sync="close") as log:
        log.rewards(log.agent("A"), 7, range(20), values)
        values[:] = 9
    assert [one.value for one in events_of(storage)][1:] == VALUES.tolist()


def test_a_batch_of_none_is_nothing_but_still_of_an_open_log(storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        _, before, _ = log.tail()
        for none in ([], VALUES[:0]):
            assert log.rewards(agent, 7, range(0), none) == log.rewards(agent, [], [], none, []) == 1
        assert log.tail()[1:] == (before, 1)
    with pytest.raises(journal.JournalClosed):
        log.rewards(agent, 7, range(0), [])


@pytest.mark.parametrize("same", [False, True])
def test_what_fits_no_one_batch_whatever_its_columns_are_is_split(same: bool) -> None:
    storage, count = MemoryStorage(), batch.COUNT_MAX + 1
    falling = np.arange(count)[::-1]
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        episode, place = (7, 3) if same else (falling, falling)
        assert log.rewards(agent, episode, falling, np.ones(count), place) == 1
        assert log.next_seq == 1 + count
    heads = [piece.cells[at : at + 1] for piece in Walk(storage) for at in piece.heads.tolist()]
    counts = [int(one.view(arrays.COUNT)["count"][0]) for one in heads if one["kind"][0] == cell.REWARDS]
    assert counts == [batch.COUNT_MAX, 1]
    last = next(one for one in reversed(heads) if one["kind"][0] == cell.REWARDS)
    assert (last["episode"][0], last["env_index"][0]) == ((7, 3) if same else (0, 0))


@FAST
def test_who_finds_the_way_shut_gives_the_turn_back_and_queues(
    count: int, monkeypatch: pytest.MonkeyPatch, events_of: Any
) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent, plain, seen = log.agent("A"), log._append_cell, []

        def looking(*arguments: Any, **more: Any) -> int:
            seen.append(log._turn.taken)
            return plain(*arguments, **more) if not log._turn.taken else 0

        monkeypatch.setattr(log, "_append_cell", looking)
        log._limit = 0
        assert log.rewards(agent, 7, range(count), np.ones(count)) == 1
        assert seen == [False] and log._limit > 0, "who had the lock opens the way again"
        assert log.rewards(agent, 7, range(count), np.ones(count)) == 1 + count
        assert seen == [False]
    assert len(rewarded(events_of(storage))) == 2 * count


@FAST
def test_a_batch_goes_past_the_lock(count: int, storage: MemoryStorage, events_of: Any) -> None:
    """And what follows it, single rewards and batches, stands where it should."""
    values = np.arange(count) + 0.25
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        with past_the_lock(log):
            assert log.rewards(agent, 7, range(5, 5 + count), values, 3, 1) == 1
            assert log.reward(agent, 7, 5 + count, -1.0) == 1 + count
            assert log.rewards(agent, range(count), [9] * count, values, range(count)) == 2 + count
            assert log.reward(agent, 8, 0, -2.0) == log.next_seq - 1 == 2 + 2 * count
    assert rewarded(events_of(storage)) == [
        *((1 + n, "A", 1, 7, 5 + n, 3, n + 0.25) for n in range(count)),
        (1 + count, "A", 0, 7, 5 + count, 0, -1.0),
        *((2 + count + n, "A", 0, n, 9, n, n + 0.25) for n in range(count)),
        (2 + 2 * count, "A", 0, 8, 0, 0, -2.0),
    ]


def test_what_is_not_said_is_zero(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        log.rewards(agent, 7, range(3), VALUES[:3])
        log.batch(agent, batch.Packed(3, 0, 7, 0, 0, VALUES[:3].tobytes()))
    assert {one[2] for one in rewarded(events_of(storage))} == {one[5] for one in rewarded(events_of(storage))} == {0}


def test_both_ways_leave_the_same_bytes(
    count: int, storage: MemoryStorage, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways: list[bytes] = []
    for exchanges in (EXCHANGES, False):
        monkeypatch.setattr("journal.tail.EXCHANGES", exchanges)
        place = MemoryStorage(mappable=storage.mappable)
        with journal.open(
            "m", storage=place, sync="close", clock=clock, entropy=lambda size: bytes(range(size))
        ) as log:
            now, agent = clock.now_ns, log.agent("A")
            assert exchanges == (log._limit > 0)
            for length in (1, 7, 8, 9, count):
                log.rewards(agent, 7, range(length), np.arange(length) + 0.5, 3, 1)
                log.rewards(agent, 7, np.arange(length)[::-1].tolist(), [0.5] * length)
                log.reward(agent, 7, length, 1.0)
            offset = log.tail()[1]
        clock.now_ns = now
        ways.append(place.read("segments/00000000.seg", CELL, offset - CELL))
    assert ways[0] == ways[1]


@FAST
@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("done", [False, True])
def test_an_interrupt_leaves_a_batch_whole_or_nothing(
    count: int, write: int, done: bool, storage: MemoryStorage, events_of: Any
) -> None:
    """Before or after the payload's store (1), and the head's (2), which publishes it."""
    values = np.arange(count) + 0.25
    with journal.open("m", storage=storage, sync="close") as log:
        agent, stores = log.agent("A"), iter((1, 2))
        plain, put, plain_file = log._segment.write, log._put, log._segment.file.write

        def interrupting(act: Any) -> Any:
            def interrupted(*arguments: Any) -> None:
                now = next(stores, 0)
                if now == write and not done:
                    raise KeyboardInterrupt
                act(*arguments)
                if now == write:
                    raise KeyboardInterrupt

            return interrupted

        if count == LARGE:
            log._segment.file.write = interrupting(plain_file)  # type: ignore[method-assign]
        else:
            log._segment.write = interrupting(plain)  # type: ignore[method-assign]
            log._put = interrupting(put)
        with pytest.raises(KeyboardInterrupt):
            log.rewards(agent, 7, range(count), values)
        log._segment.file.write, log._segment.write, log._put = plain_file, plain, put  # type: ignore[method-assign]
        there = write == 2 and done
        assert not log._turn.taken and log._interrupted is None and log._limit > 0
        assert log.next_seq == (1 + count if there else 1)
        with past_the_lock(log):
            log.reward(agent, 8, 0, 1.0)
            log.rewards(agent, 9, range(count), values)
    found = rewarded(events_of(storage))
    assert [one[3] for one in found] == [*[7] * (count if there else 0), 8, *[9] * count]
    assert [one[6] for one in found[-count:]] == values.tolist()


@FAST
def test_killed_before_its_head_is_there_a_batch_is_not(count: int, storage: MemoryStorage, events_of: Any) -> None:
    left: list[MemoryStorage] = []
    log = journal.open("m", storage=storage, sync="close")
    agent, plain, plain_file = log.agent("A"), log._segment.write, log._segment.file.write

    def noting(act: Any) -> Any:
        return lambda *arguments: (act(*arguments), left.append(storage.kill()))

    log.rewards(agent, 7, range(count), np.ones(count))
    if count == LARGE:
        log._segment.file.write = noting(plain_file)  # type: ignore[method-assign]
    else:
        log._segment.write = noting(plain)  # type: ignore[method-assign]
    log.rewards(agent, 8, range(count), np.ones(count))
    log._segment.file.write, log._segment.write = plain_file, plain  # type: ignore[method-assign]
    left.append(storage.kill())
    log.close()
    for dead, batches in ((left[0], 1), (left[-1], 2)):
        with journal.open("m", storage=dead) as again:
            assert again.next_seq == 1 + batches * count
        assert len(rewarded(events_of(dead))) == batches * count


@FAST
@pytest.mark.parametrize("write", [1, 2])
def test_a_batch_that_cannot_be_written_fails_the_log_and_gives_the_turn_back(count: int, write: int) -> None:
    storage = FaultyStorage(MemoryStorage(mappable=False))
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    storage.fail("write", path="segments/*.seg", nth=write)
    with pytest.raises(journal.JournalFailed, match="injected"):
        log.rewards(agent, 7, range(count), np.ones(count))
    assert not log._turn.taken and log._limit == 0
    storage.heal()
    with pytest.raises(journal.JournalFailed):
        log.rewards(agent, 7, range(count), np.ones(count))
    with pytest.raises(journal.JournalFailed):
        log.close()


@FAST
def test_what_does_not_fit_a_cell_is_refused_and_the_log_goes_on(count: int, storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        for wrong in ({"flags": 256}, {"flags": -1}, {"flags": None}):
            with pytest.raises(journal.EventRejected, match="does not fit a cell"):
                log.rewards(agent, 7, range(count), np.ones(count), **wrong)  # type: ignore[arg-type]
        for number in (0, -1, agent + 1):
            with pytest.raises(journal.EventRejected, match=rf"agent is {number}: .* log\.agent"):
                log.rewards(number, 7, range(count), np.ones(count))
        assert not log._turn.taken and log.next_seq == 1
        with past_the_lock(log):
            assert log.rewards(agent, 7, range(count), np.ones(count)) == 1


@FAST
def test_who_finds_the_turn_taken_waits_at_the_lock_and_leaves_it_taken(count: int, events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        log._turn.taken = True
        waiter = threading.Thread(target=log.rewards, args=(agent, 7, range(count), np.ones(count)))
        waiter.start()
        waiter.join(0.05)
        assert waiter.is_alive() and log._turn.taken and log.next_seq == 1
        log._turn.taken = False
        waiter.join(10)
        assert log.next_seq == 1 + count
    assert len(rewarded(events_of(storage))) == count


@FAST
def test_others_wait_while_a_payload_is_written(events_of: Any) -> None:
    """The system writes it without the interpreter, so other threads come meanwhile."""
    storage, writing, go_on = MemoryStorage(mappable=False), threading.Event(), threading.Event()
    with journal.open("m", storage=storage, sync="close") as log:
        agent, plain = log.agent("A"), log._segment.file.write

        def slow(offset: int, data: Any) -> None:
            if len(data) == LARGE * 8:
                writing.set()
                assert go_on.wait(10)
            plain(offset, data)

        log._segment.file.write = slow  # type: ignore[method-assign]
        first = threading.Thread(target=log.rewards, args=(agent, 7, range(LARGE), np.ones(LARGE)))
        first.start()
        assert writing.wait(10)
        others = [
            threading.Thread(target=log.reward, args=(agent, 8, 0, 1.0)),
            threading.Thread(target=log.rewards, args=(agent, 8, range(1, 3), np.ones(2))),
            threading.Thread(target=log.sync),
        ]
        for other in others:
            other.start()
        others[0].join(0.02)
        assert log.next_seq == 1 and all(other.is_alive() for other in others)
        go_on.set()
        for one in (first, *others):
            one.join(10)
        assert log.next_seq == 4 + LARGE
    assert [one[3] for one in rewarded(events_of(storage))] == [*[7] * LARGE, 8, 8, 8]


@pytest.fixture
def switching() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("switching", "small_segments")
def test_threads_that_switch_all_the_time_lose_nothing(storage: MemoryStorage, events_of: Any) -> None:
    rounds, errors, expected = 150, list[BaseException](), dict[int, tuple[int, int]]()

    def work(number: int) -> None:
        try:
            for step in range(0, 20 * rounds, 20):
                first = log.rewards(agent, number, range(step, step + 19), np.ones(19))
                expected.update((first + n, (number, step + n)) for n in range(19))
                expected[log.reward(agent, number, step + 19, 1.0)] = (number, step + 19)
        except BaseException as error:
            errors.append(error)

    with journal.open("m", storage=storage, sync_interval=0.001) as log:
        agent = log.agent("A")
        threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert {one[0]: (one[3], one[4]) for one in rewarded(events_of(storage))} == expected
    assert len(expected) == 3 * 20 * rounds


@FAST
def test_a_batch_that_just_fits_stays_and_one_cell_more_goes_on_to_the_next_segment(
    small_segments: int, storage: MemoryStorage
) -> None:
    for more in (0, 1):
        place = MemoryStorage(mappable=storage.mappable)
        with journal.open("m", storage=place, sync="close") as log:
            agent = log.agent("A")
            here, offset, seq = log.tail()
            cells = (here.limit - offset) // CELL - 1 + more
            with past_the_lock(log) if not more else contextlib.nullcontext():
                assert log.rewards(agent, 7, range(8 * cells), np.ones(8 * cells)) == seq
            assert (log.tail()[0] is here) == (not more)
            assert more or log.tail()[1] == here.limit
        assert Walk(place).run().seq == seq + 8 * cells


def test_always_a_batch_is_promised_when_it_returns(count: int) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="always") as log:
        agent = log.agent("A")
        for length in (count, 1, count, 1, 1):
            first = log.rewards(agent, 7, range(length), np.ones(length))
            assert log.promised.seq == log.next_seq - 1 == first + length - 1


def test_a_closed_log_and_a_forked_child_record_no_batch(count: int) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        child = os.fork()
        if not child:
            try:
                log.rewards(agent, 7, range(count), np.ones(count))
            except journal.JournalClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        log.rewards(agent, 7, range(count), np.ones(count))
    with pytest.raises(journal.JournalClosed):
        log.rewards(agent, 7, range(count), np.ones(count))
