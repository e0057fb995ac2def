"""Appending without the lock: who has the turn, and what happens to everybody else."""

from __future__ import annotations

import ast
import dis
import inspect
import itertools
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import journal
from journal.manifest import Base, Manifest
from journal.rewarding import Steps
from journal.storage.memory import MemoryStorage
from journal.turn import EXCHANGES, Turn
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("impatient")


LEAVING = (ast.Call, ast.For, ast.While, ast.With, ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
"""What looks for signals."""


@pytest.fixture
def switching() -> Iterator[None]:
    """Threads change places as often as they can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


FAST = [journal.Log.reward, journal.Log.batch, journal.Log.vector_step, journal.Log.episode, Steps.step]


@pytest.mark.parametrize("fast", FAST)
def test_nothing_can_come_between_finding_the_turn_free_and_taking_it(fast: Any) -> None:
    """What CPython compiles the exchange to: neither a call nor a jump, where it would look for signals and threads."""
    code = fast.__code__
    source = Path(code.co_filename).read_text().splitlines()
    lines = {n for n, line in enumerate(source, 1) if "taken, turn.taken = turn.taken, True" in line}
    line_of = [(start, end) for start, end, line in code.co_lines() if line in lines]
    exchange = [one for one in dis.get_instructions(code) if any(a <= one.offset < b for a, b in line_of)]
    plain = ("LOAD_FAST", "LOAD_ATTR", "LOAD_CONST", "STORE_FAST", "STORE_ATTR", "SWAP", "COPY", "ROT_", "NOP", "CACHE")
    assert exchange and all(one.opname.startswith(plain) for one in exchange), [one.opname for one in exchange]


@pytest.mark.parametrize("fast", FAST)
def test_nothing_can_come_between_taking_the_turn_and_the_attempt_that_gives_it_back(fast: Any) -> None:
    """No call and no loop, which an interrupt could leave with the turn taken; but where it is given back before."""
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(fast)))))
    (exchange,) = [one for one in nodes if isinstance(one, ast.Assign) and "= (turn.taken, True)" in ast.unparse(one)]
    (attempt,) = [one for one in nodes if isinstance(one, ast.Try)]
    (shut,) = [one for one in nodes if isinstance(one, ast.If) and ast.unparse(one.test).startswith("taken or")]
    assert ast.unparse(shut.body[0]) == "if not taken:\n    taken, turn.taken = (True, False)"
    elsewhere = {id(node) for one in shut.body for node in ast.walk(one)}
    between = [one for one in nodes if isinstance(one, LEAVING) and exchange.lineno < one.lineno < attempt.lineno]
    assert not [ast.unparse(one) for one in between if id(one) not in elsewhere]
    # And once more behind whatever was raised: a second interrupt may follow the first.
    (handler,) = attempt.handlers
    given_back = next(
        n for n, one in enumerate(handler.body) if ast.unparse(one) == "taken, turn.taken = (True, False)"
    )
    before = [each for one in handler.body[:given_back] for each in ast.walk(one) if isinstance(each, LEAVING)]
    assert not [ast.unparse(one) for one in before]


@pytest.mark.skipif(not EXCHANGES, reason="this Python has no fast path")
@pytest.mark.usefixtures("switching")
@pytest.mark.parametrize("mappable", [True, False])
def test_threads_that_switch_all_the_time_lose_nothing(mappable: bool, events_of: Any) -> None:
    """Four threads append beside group commits, and change places in the middle of each other's appends."""
    count, seqs, errors = 1500, {}, []
    storage = MemoryStorage(mappable=mappable)

    def work(number: int) -> None:
        try:
            for step in range(count):
                seqs[log.reward(agent, number, step, float(step))] = (number, step)
        except BaseException as error:
            errors.append(error)

    with journal.open("m", storage=storage, sync_interval=0.001) as log:
        agent = log.agent("a")
        assert log._limit > 0
        threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    assert len(seqs) == 4 * count
    seen = {one.seq: (one.episode, one.step) for one in events_of(storage) if one.kind == "Rewarded"}
    assert seen == seqs


@pytest.mark.skipif(not EXCHANGES, reason="this Python has no fast path")
def test_who_does_not_get_the_turn_waits_for_whoever_has_it(events_of: Any) -> None:
    """One thread is held up between its store and its count; the others may not take its place in the log."""
    storage, stored, go_on = MemoryStorage(), threading.Event(), threading.Event()
    with journal.open("m", storage=storage, sync="close") as log:
        agent, plain, calls = log.agent("a"), log._put, itertools.count()

        def slow(*arguments: Any) -> None:
            plain(*arguments)
            if next(calls) == 0:
                stored.set()
                go_on.wait()

        log._put = slow
        first = threading.Thread(target=log.reward, args=(agent, 0, 1, 1.0))
        first.start()
        stored.wait()
        others = [threading.Thread(target=log.reward, args=(agent, 0, step, 1.0)) for step in (2, 3)]
        others.append(threading.Thread(target=log.sync))
        for other in others:
            other.start()
        time.sleep(0.02)
        assert log.next_seq == 1 and all(other.is_alive() for other in others)
        go_on.set()
        for one in (first, *others):
            one.join()
        assert log.next_seq == 4
    steps = [one.step for one in events_of(storage) if one.kind == "Rewarded"]
    assert steps[0] == 1 and sorted(steps) == [1, 2, 3]


def test_without_a_step_that_nobody_can_interrupt_each_append_takes_the_lock(
    monkeypatch: pytest.MonkeyPatch, events_of: Any
) -> None:
    monkeypatch.setattr("journal.tail.EXCHANGES", False)
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        agent = log.agent("a")
        for step in range(5):
            assert log.reward(agent, 0, step, 1.0) == step + 1
            assert log._limit == 0
    assert [one.step for one in events_of(storage)][1:] == list(range(5))


def test_an_interrupt_before_the_way_is_opened_again_leaves_it_to_the_next_append(
    monkeypatch: pytest.MonkeyPatch, events_of: Any
) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("a")

        def interrupted() -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(log, "_allow", interrupted)
            with pytest.raises(KeyboardInterrupt):
                log.append(journal.Custom(name="x"))
            assert log._limit == 0
        assert [log.reward(agent, 0, step, 1.0) for step in range(3)] == [2, 3, 4]
        assert not EXCHANGES or log._limit > 0
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "Custom", "Rewarded", "Rewarded", "Rewarded"]


def test_a_turn_is_awaited_until_it_is_given_back() -> None:
    turn = Turn()
    turn.wait()
    turn.taken = True
    waiter = threading.Thread(target=turn.wait)
    waiter.start()
    time.sleep(0.01)
    assert waiter.is_alive()
    turn.taken = False
    waiter.join(10)
    assert not waiter.is_alive()


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("before", [40, 70, 64 * 3])
def test_checksums_hold_where_positions_pass_32_bits(before: int, events_of: Any) -> None:
    """A journal of 2**32 cells, 256 GiB, goes on: of a position the low 32 bits are in each checksum."""
    storage = MemoryStorage()
    storage.make_directory("segments")
    new = Manifest.new(bytes(16))
    base = Base(0, (1 << 32) - before, 0, new.base.chain)
    Manifest(new.journal_id, base).write(storage)
    with journal.open("m", storage=storage) as log:
        agent = log.agent("a")
        for step in range(300):
            log.reward(agent, 0, step, 1.0)
        log.rewards(agent, 1, range(20), [1.0] * 20)
        assert log.sync().position > 1 << 32
    assert [one.step for one in events_of(storage) if one.kind == "Rewarded"] == [*range(300), *range(20)]
    walk = Walk(storage).run()
    assert not walk.unsealed and walk.promise.events == walk.seq == 321


def test_whatever_is_appended_an_interrupt_is_noted_before_the_next_one_can_come() -> None:
    """A second Ctrl-C in the handler of the first lost the note, and what was half stored lay below later payloads."""
    handlers = []
    for path in sorted(Path(journal.__file__).parent.glob("*.py")):
        for one in ast.walk(ast.parse(path.read_text())):
            if isinstance(one, ast.ExceptHandler) and "._interrupted" in ast.unparse(one):
                noted = next(n for n, each in enumerate(one.body) if "._interrupted" in ast.unparse(each))
                handlers.append(path.stem)
                early = [each for line in one.body[: noted + 1] for each in ast.walk(line) if isinstance(each, LEAVING)]
                assert not [ast.unparse(each) for each in early], (path, one.lineno)
    assert handlers == [
        *("appending", "appending", "batching", "episodes", "rewarding", "rewarding", "tail", "together"),
    ]
