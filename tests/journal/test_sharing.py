"""Threads that want a promise: who waits for whom, and who syncs. The threads are played by the test, one at a time."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import pytest

from journal import sharing
from journal.sharing import Sharing


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time, which passes when the test says so."""
    at = [100.0]
    monkeypatch.setattr(sharing.time, "perf_counter", lambda: at[0])
    return at


def waits(monkeypatch: pytest.MonkeyPatch, *meanwhile: Callable[[], object]) -> list[float]:
    """What happens in each wait, in order; no further one may begin. Returns how long each would take at most."""
    left, asked = list(meanwhile), list[float]()

    def wait(queue: SimpleQueue[None], seconds: float) -> None:
        asked.append(seconds)
        left.pop(0)()

    monkeypatch.setattr(sharing, "wait", wait)
    return asked


def nothing() -> None: ...


def company(of: Sharing, now: list[float], took: float, *, threads: int) -> None:
    """A sync that served so many threads and took so long ends now."""
    of.waiting += [SimpleQueue() for _ in range(threads - 1)]
    of.served(now[0] - took)


def gathered(within: float, now: list[float], monkeypatch: pytest.MonkeyPatch, took: float = 1.0) -> Sharing:
    """Three threads were served by a sync of `took` seconds, and all were here again `within` seconds later."""
    found = Sharing(threading.Lock())
    company(found, now, took, threads=3)
    now[0] += within
    waits(monkeypatch, nothing, nothing)
    with found.mutex:  # The first of them syncs, the others find it at work.
        found.turn().mine()
        found.turn().mine()
    found.served(now[0] - took)
    return found


def test_a_single_thread_syncs_each_time_and_at_once(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    waits(monkeypatch)
    alone = Sharing(threading.Lock())
    for _ in range(3):
        assert alone.turn().mine()
        alone.served(now[0] - 1.0)
        assert alone.company == 1 and alone.waiting == []
        assert alone.gathered == math.inf, "one is no company, whoever comes later"


def test_who_comes_first_waits_and_who_comes_last_syncs_for_all(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    three = gathered(0.25, now, monkeypatch)
    assert three.company == 3
    first, second, third = three.turn(), three.turn(), three.turn()
    served = list[bool]()

    def come_third() -> None:
        served.append(third.mine())
        assert len(three.waiting) == 2
        three.served(now[0] - 1.0)

    asked = waits(monkeypatch, lambda: served.append(second.mine()), come_third)
    assert not first.mine() and served == [True, False]
    assert asked == [0.05, 0.05] and three.waiting == [] and three.company == 3


@pytest.mark.parametrize(("took", "longest"), [(0.04, 0.02), (0.0001, 0.0006)])
def test_the_wait_is_half_a_sync_long_or_as_threads_need_to_wake(
    now: list[float], monkeypatch: pytest.MonkeyPatch, took: float, longest: float
) -> None:
    three = gathered(0.0, now, monkeypatch)
    three.took = took
    asked = waits(monkeypatch, nothing)
    assert not three.turn().mine() and asked == [pytest.approx(longest)]


def test_who_waited_in_vain_syncs_and_nobody_waits_until_the_company_is_soon_complete_again(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    three = gathered(0.25, now, monkeypatch)
    turn = three.turn()
    asked = waits(monkeypatch, nothing)
    assert not turn.mine() and len(asked) == 1 and three.gathered == math.inf
    assert turn.mine() and three.waiting == []
    company(three, now, 1.0, threads=3)
    assert three.turn().mine()  # And does not wait: `waits` allows no more.


def test_a_company_that_came_during_the_wait_is_not_in_vain(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    three = gathered(0.25, now, monkeypatch)
    waits(monkeypatch, three.mutex.acquire)  # Whoever was last syncs just now.
    assert not three.turn().mine() and three.gathered == 0.25


def test_the_company_of_one_that_waited_in_vain_is_not_itself(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    three = gathered(0.25, now, monkeypatch)
    three.company = 2
    turn = three.turn()
    waits(monkeypatch, nothing)
    assert not turn.mine() and turn.mine() and three.gathered == math.inf


def test_who_was_told_while_it_waited_did_not_wait_in_vain(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    three = gathered(0.25, now, monkeypatch)
    waits(monkeypatch, lambda: three.served(now[0] - 1.0))
    assert not three.turn().mine() and three.gathered == 0.25


def test_who_finds_a_sync_at_work_waits_for_it_and_not_for_company(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    three = gathered(0.0, now, monkeypatch)
    three.took = 0.001
    asked = waits(monkeypatch, nothing)
    with three.mutex:
        three.turn().mine()
    assert asked == [0.05]


def test_more_than_the_company_of_before_does_not_make_it_late(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    three = gathered(0.25, now, monkeypatch)
    waits(monkeypatch, *[nothing] * 3)
    now[0] += 0.5
    with three.mutex:
        three.turn().mine()
        three.turn().mine()
        now[0] += 5.0
        three.turn().mine()
    assert three.gathered == 0.5


@pytest.mark.parametrize(("within", "waited"), [(0.5, 1), (0.75, 0)])
def test_threads_that_do_more_than_a_quarter_of_a_sync_between_their_events_are_not_waited_for(
    now: list[float], monkeypatch: pytest.MonkeyPatch, within: float, waited: int
) -> None:
    three = gathered(within, now, monkeypatch, took=2.0)
    assert three.gathered == within
    asked = waits(monkeypatch, nothing)
    assert three.turn().mine() is not bool(waited) and len(asked) == waited


def test_who_comes_again_with_the_same_event_was_here_and_has_not_come_soon(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow thread whose event came too late for a sync is told of its end; a busy one would then wait for it."""
    two = Sharing(threading.Lock())
    slow = two.turn()
    waits(monkeypatch, nothing, nothing)
    with two.mutex:  # A sync that does not serve it is at work.
        slow.mine()
    two.served(now[0] - 1.0)
    assert two.company == 2
    with two.mutex:
        slow.mine()
    assert two.gathered == math.inf
    two.served(now[0] - 1.0)
    waits(monkeypatch)
    assert two.turn().mine()


def test_the_last_to_come_is_counted_though_it_waits_for_nobody(
    now: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    two = Sharing(threading.Lock())
    company(two, now, 1.0, threads=2)
    waits(monkeypatch, nothing)
    with two.mutex:
        two.turn().mine()
    now[0] += 0.5
    two.gathered = math.inf
    assert two.turn().mine() and two.gathered == 0.5


def test_a_thread_is_listed_once_however_often_it_looks(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    one = Sharing(threading.Lock())
    turn = one.turn()
    asked = waits(monkeypatch, nothing, nothing)
    with one.mutex:
        turn.mine()
        turn.mine()
        assert len(one.waiting) == 1 and asked == [0.05, 0.05]
    assert turn.mine() and one.waiting == []


def test_telling_wakes_each_once(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    one = Sharing(threading.Lock())
    waits(monkeypatch, nothing, nothing)
    with one.mutex:
        one.turn().mine()
        one.turn().mine()
    told: list[Any] = list(one.waiting)
    assert one.tell() == 2 and one.tell() == 0
    assert [queue.qsize() for queue in told] == [1, 1]


def asleep(of: Sharing, number: int) -> list[SimpleQueue[None]]:
    """So many threads wait, one after the other."""
    queues: list[SimpleQueue[None]] = [SimpleQueue() for _ in range(number)]
    of.waiting += queues
    return queues


def awake(queues: list[SimpleQueue[None]]) -> list[bool]:
    return [queue.qsize() == 1 for queue in queues]


def test_of_many_who_wait_three_are_told_at_once_and_the_last_to_come_first() -> None:
    many = Sharing(threading.Lock())
    queues = asleep(many, 5)
    assert many.tell() == 5 and many.waiting == [] and many.company == 1
    assert awake(queues) == [False, False, True, True, True]
    many.tell_next()
    assert awake(queues) == [False, True, True, True, True]
    many.tell_next()
    many.tell_next()
    assert all(awake(queues)) and many.untold == []
    queues = asleep(many, 5)
    many.served(0.0)
    assert many.company == 6, "also those who are not told yet"


@pytest.mark.parametrize("syncs", [False, True])
def test_who_wakes_tells_the_next_first(now: list[float], monkeypatch: pytest.MonkeyPatch, syncs: bool) -> None:
    """Whether it waited for a sync at work or for company; and also when nobody woke it."""
    three = gathered(0.0, now, monkeypatch)
    queues = asleep(three, 5)
    three.tell()
    waits(monkeypatch, lambda: awake(queues) == [False, False, True, True, True] or pytest.fail("too early"))
    if syncs:
        three.mutex.acquire()
    assert not three.turn().mine()
    assert awake(queues) == [False, True, True, True, True]


def test_who_is_told_before_it_sleeps_tells_the_next_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else would wake them: what woke it was meant to go on."""
    waits(monkeypatch)
    one = Sharing(threading.Lock())
    queues = asleep(one, 3)

    class Freed:
        """It is free again, and all were told, just behind the first look."""

        looks = 0

        def locked(self) -> bool:
            self.looks += 1
            if self.looks == 2:
                one.tell()
            return self.looks == 1

    one.mutex = Freed()  # type: ignore[assignment]
    assert not one.turn().mine()
    assert all(awake(queues)), "two of them and itself were told; it told the third"


def test_who_does_not_wait_tells_nobody(now: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    waits(monkeypatch)
    one = Sharing(threading.Lock())
    queues = asleep(one, 5)
    one.tell()
    assert one.turn().mine() and awake(queues) == [False, False, True, True, True]


def test_whom_an_interrupt_left_asleep_the_next_round_tells() -> None:
    many = Sharing(threading.Lock())
    left = asleep(many, 5)
    many.tell()
    later = asleep(many, 2)
    assert many.tell() == 2
    assert awake(later) == [True, True] and awake(left) == [False, True, True, True, True]
