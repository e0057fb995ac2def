"""The way of a reward past the lock: two functions that do the same, and what shuts it."""

from __future__ import annotations

import ast
import inspect
import os
import textwrap
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import journal
from journal import cell
from journal.rewarding import Rewarding, Steps
from journal.storage.memory import MemoryStorage
from journal.turn import EXCHANGES
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("impatient")
FAST = pytest.mark.skipif(not EXCHANGES, reason="this Python has no fast path")

Recording = Callable[[float], object]
"""Records the next reward of one episode."""


def by_steps(log: journal.Log, agent: int, episode: int = 7, place: int = 3, flags: int = 1) -> Steps:
    steps = Steps(log.reward, agent, episode, place, flags)
    steps.straight(log)
    return steps


def by_log(log: journal.Log, agent: int) -> Recording:
    return lambda value: log.reward(agent, 7, log.next_seq - 1, value, 3, 1)


WAYS: dict[str, Callable[[journal.Log, int], Recording]] = {
    "Log.reward": by_log,
    "Steps.step": lambda log, agent: by_steps(log, agent).step,
}


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Callable[[journal.Log, int], Recording]:
    return WAYS[request.param]


def test_what_rewards_have_in_common_packs_to_the_same_bytes() -> None:
    whole = st.integers(0, (1 << 63) - 1)
    small = st.integers(0, (1 << 32) - 1)

    @given(whole, whole, st.integers(0, 255), small, small, whole, whole, st.floats())
    def check(seq: int, now: int, flags: int, agent: int, place: int, episode: int, step: int, value: float) -> None:
        common = cell.COMMON.pack(flags, agent, place, episode)
        packed = cell.REWARD.pack(cell.REWARDED, seq, now, flags, agent, place, episode, step, value)
        assert cell.STEP.pack(cell.REWARDED, seq, now, common, step, value) == packed

    check()


def test_both_ways_do_the_same_with_the_turn() -> None:
    """From the turn's exchange to its return: the same statements, but for what is packed and what is asked before."""

    def guarded(function: Any) -> list[str]:
        body = ast.parse(textwrap.dedent(inspect.getsource(function))).body[0]
        assert isinstance(body, ast.FunctionDef)
        first = next(n for n, one in enumerate(body.body) if "= (turn.taken, True)" in ast.unparse(one))
        said = [ast.unparse(one) for one in body.body[first - 1 : first + 2]]
        (attempt,) = [one for one in ast.walk(body) if isinstance(one, ast.Try)]
        lines = [
            ast.unparse(one)
            for one in (*attempt.body, *attempt.handlers[0].body)
            if not ast.unparse(one).startswith(("body = ", "if not 0 < agent"))
        ]
        assert [ast.unparse(one.type) for one in attempt.handlers if one.type is not None] == ["BaseException"]
        (shut,) = [one for one in body.body if isinstance(one, ast.If) and ast.unparse(one.test).startswith("taken or")]
        tests = [ast.unparse(shut.test), ast.unparse(shut.body[0])]
        around = shut.orelse or body.body
        after = around[next(n for n, one in enumerate(around) if one is attempt) + 1]
        return [*said, *tests, *lines, ast.unparse(after)]

    one, other = guarded(Rewarding.reward), guarded(Steps.step)
    assert one == other
    assert one[-1] == "taken, turn.taken = (True, False)" and len(one) == 14


@FAST
def test_rewards_go_past_the_lock(way: Any, events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        record = way(log, log.agent("a"))
        with log.lock:  # Whoever asked for it would wait for ever.
            for value in (0.5, -1.5, float("inf")):
                record(value)
        assert log.next_seq == 4
    rewards = [one for one in events_of(storage) if one.kind == "Rewarded"]
    assert [(one.seq, one.step, one.value) for one in rewards] == [(1, 0, 0.5), (2, 1, -1.5), (3, 2, float("inf"))]
    assert {(one.agent, one.flags, one.env_index, one.episode) for one in rewards} == {("a", 1, 3, 7)}


def test_killed_right_after_them_each_checks_by_itself(way: Any, events_of: Any) -> None:
    """No seal vouches for them yet."""
    storage = MemoryStorage()
    log = journal.open("m", storage=storage, sync="close")
    record = way(log, log.agent("a"))
    for number in range(300):
        record(float(number))
    dead = storage.kill()
    log.close()
    with journal.open("m", storage=dead) as again:
        assert again.recovered.torn_bytes == 0
    assert [one.value for one in events_of(dead) if one.kind == "Rewarded"] == [float(number) for number in range(300)]


@FAST
@pytest.mark.parametrize("stored", [False, True])
def test_an_interrupt_leaves_a_reward_whole_or_nothing(way: Any, stored: bool, events_of: Any) -> None:
    """Right before and right after the store; the next one goes on, past the lock again."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        record, put = way(log, log.agent("a")), log._put
        record(1.0)

        def interrupted(*arguments: Any) -> None:
            if stored:
                put(*arguments)
            raise KeyboardInterrupt

        log._put = interrupted
        with pytest.raises(KeyboardInterrupt):
            record(2.0)
        log._put = put
        assert not log._turn.taken and log._interrupted is None and log._limit > 0
        assert log.next_seq == (3 if stored else 2)
        with log.lock:
            record(3.0)
    values = [one.value for one in events_of(storage) if one.kind == "Rewarded"]
    assert values == ([1.0, 2.0, 3.0] if stored else [1.0, 3.0])


@FAST
def test_an_error_in_the_middle_is_told_and_gives_the_turn_back(way: Any) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        record = way(log, log.agent("a"))
        put = log._put

        def failing(*arguments: Any) -> None:
            raise OSError(5, "broken")

        log._put = failing
        with pytest.raises(journal.JournalFailed, match="broken"):
            record(1.0)
        log._put = put
        assert not log._turn.taken and log._limit == 0
        with pytest.raises(journal.JournalFailed):
            record(1.0)
        with pytest.raises(journal.JournalFailed):
            log.close()


@FAST
@pytest.mark.parametrize("agent", [-1, 0, 2])
def test_of_an_agent_that_has_no_number_no_reward_is_recorded(agent: int) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        known = log.agent("a")
        with pytest.raises(journal.EventRejected, match=rf"agent is {agent}: .* log\.agent"):
            log.reward(agent, 0, 0, 1.0)
        assert log._interrupted is None and log._limit > 0, "it is settled, and the way is open again"
        assert log.reward(known, 0, 0, 1.0) == 1


@FAST
def test_what_does_not_fit_a_cell_is_refused_and_settled(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("a")
        steps = by_steps(log, agent)
        steps.steps = -1
        for refused in (lambda: log.reward(agent, -1, 0, 1.0), lambda: steps.step(1.0)):
            with pytest.raises(journal.EventRejected, match="does not fit a cell"):
                refused()
            assert log._interrupted is None and log._limit > 0 and log.next_seq == 1
    assert len(events_of(storage)) == 1


@FAST
def test_who_finds_the_turn_taken_waits_at_the_lock_and_leaves_it_taken(way: Any, events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        record = way(log, log.agent("a"))
        log._turn.taken = True
        waiter = threading.Thread(target=record, args=(1.0,))
        waiter.start()
        waiter.join(0.05)
        assert waiter.is_alive() and log._turn.taken and log.next_seq == 1
        log._turn.taken = False
        waiter.join(10)
        assert log.next_seq == 2


@FAST
def test_who_finds_the_way_shut_gives_the_turn_back(way: Any, events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        record = way(log, log.agent("a"))
        log._limit = 0
        record(1.0)
        assert not log._turn.taken and log._limit > 0, "who had the lock opens the way again"
        log._limit = log._offset
        waiter = threading.Thread(target=record, args=(2.0,))
        with log.lock:
            waiter.start()
            waiter.join(0.05)
            assert waiter.is_alive() and not log._turn.taken, "there is no room for one cell more"
        waiter.join(10)
        assert log.next_seq == 3
    rewards = [one for one in events_of(storage) if one.kind == "Rewarded"]
    assert [(one.step, one.value) for one in rewards] == [(0, 1.0), (1, 2.0)]
    (piece,) = Walk(storage)
    heads = piece.cells[piece.cells["kind"] == cell.REWARDED]
    assert not any(heads[name].any() for name in ("form", "extent", "payload_crc"))


@FAST
def test_the_turn_is_held_while_it_is_stored(way: Any) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        record, put, held = way(log, log.agent("a")), log._put, []
        log._put = lambda *cell: held.append(log._turn.taken) or put(*cell)  # type: ignore[func-returns-value]
        record(1.0)
        log._put = put
        assert held == [True] and not log._turn.taken


def test_what_is_not_said_is_zero(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.reward(log.agent("a"), 4, 5, 1.0)
        log._limit = 0
        log.reward(log.agent("a"), 4, 6, 1.0)
    rewards = [one for one in events_of(storage) if one.kind == "Rewarded"]
    assert [(one.env_index, one.flags) for one in rewards] == [(0, 0), (0, 0)]


def test_what_comes_after_the_end_is_for_another_to_take() -> None:
    refused: list[tuple[Any, ...]] = []
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        steps = by_steps(log, log.agent("a"))
        steps.step(0.5)
        steps.over(lambda *reward: refused.append(reward))
        steps.step(1.5)
        assert refused == [(1, 7, 1, 1.5, 3, 1)] and log.next_seq == 2


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("sync", ["close", "always"])
def test_rewards_go_on_from_segment_to_segment_beside_other_events(way: Any, sync: Any, events_of: Any) -> None:
    """Other events move seq and position unlike, so what a reward's checksum is made with changes each time."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync=sync) as log:
        agent = log.agent("a")
        record = way(log, agent)
        for number in range(400):
            record(float(number))
            if number % 7 == 0:
                log.append(journal.Custom(name="x", data={"text": "y" * (number % 200)}))
            if number % 50 == 0:
                log.rewards(agent, 1, range(20), [0.25] * 20)
                log.sync()
        assert log.sync().seq == log.next_seq - 1
    found = [one.value for one in events_of(storage) if one.kind == "Rewarded" and one.episode == 7]
    assert found == [float(number) for number in range(400)]


@pytest.mark.parametrize("wrong", ["1", None, 1j, 2**53 + 1, np.array([1.0])], ids=repr)
def test_what_is_no_exact_number_is_refused(way: Any, wrong: Any) -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        record = way(log, log.agent("a"))
        with pytest.raises(journal.EventRejected, match="reward"):
            record(wrong)
        assert log.next_seq == 1
        record(np.float32(0.5))
        assert log.next_seq == 2


def test_numbers_and_ends_are_taken_and_counted() -> None:
    class Recorded(Steps):
        __slots__ = ("over",)

        def end(self, reason: str = "completed") -> None:
            self.over = reason

    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        steps = Recorded(log.reward, log.agent("a"), 0, 0, 0)
        steps.straight(log)
        with pytest.raises(ValueError, match="truth value"):
            steps.step(1.0, np.zeros(2))  # type: ignore[arg-type]
        assert (steps.steps, steps.reward, log.next_seq) == (0, 0.0, 1)
        for value in (2, True, 0.5, float("nan"), float("inf"), -0.25):
            steps.step(value)
        assert (steps.steps, steps.reward, log.next_seq) == (6, 3.25, 7)
        steps.step(1.0, False, True)
        assert steps.over == "truncated"
        steps.step(1.0, True, True)
        assert steps.over == "terminated"

        class Once:
            """True the first time: asked again behind the reward, it would have ended nothing."""

            asked = 0

            def __bool__(self) -> bool:
                self.asked += 1
                if self.asked > 1:
                    raise RuntimeError("asked again")
                return True

        for given, reason in (((Once(), False), "terminated"), ((False, Once()), "truncated")):
            steps.step(1.0, *given)  # type: ignore[arg-type]
            assert steps.over == reason
    with pytest.raises(NotImplementedError):
        Steps(log.reward, 1, 0, 0, 0).end()


def test_steps_are_recorded_by_the_other_way_until_theirs_is_open_and_when_it_is_shut() -> None:
    taken: list[tuple[Any, ...]] = []
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("a")
        steps = Steps(lambda *reward: taken.append(reward), agent, 7, 3, 1)
        steps.step(0.5)
        assert taken == [(agent, 7, 0, 0.5, 3, 1)]
        steps.straight(log)
        steps.step(0.5)
        assert len(taken) == (1 if EXCHANGES else 2)
        steps.straight(None)
        steps.step(1.5)
        assert taken[-1] == (agent, 7, 2, 1.5, 3, 1)
        assert steps.steps == 3 and steps.reward == 2.5
    steps.straight(log)
    steps.step(0.0)
    assert taken[-1] == (agent, 7, 3, 0.0, 3, 1), "the log is closed"


def test_always_each_step_waits_for_its_promise() -> None:
    with journal.open("m", storage=MemoryStorage(), sync="always") as log:
        steps = by_steps(log, log.agent("a"))
        for _ in range(3):
            steps.step(1.0)
            assert log.promised.seq == log.next_seq - 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_child_records_no_step() -> None:
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        steps = by_steps(log, log.agent("a"))
        steps.step(1.0)
        child = os.fork()
        if not child:
            try:
                steps.step(1.0)
            except journal.JournalClosed:
                os._exit(0)
            os._exit(1)
        assert os.waitpid(child, 0)[1] == 0
        steps.step(1.0)
        assert log.next_seq == 3
