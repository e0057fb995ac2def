"""Who appends beside a vector step: nobody while it is stored, and who waits looks for room only then."""

from __future__ import annotations

import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import journal
from journal.storage.memory import MemoryStorage
from journal.turn import EXCHANGES, Turn

sys.path.insert(0, str(Path(__file__).parent))
from vector import KINDS, begun, hooked, kinds, vector_step

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


def test_nobody_else_appends_while_it_is_stored(shut: Any, storage: MemoryStorage) -> None:
    held = []

    def looking(store: Any) -> None:
        held.append(log._turn.taken or (log.lock.locked() and not log._limit))
        store()

    with journal.open("m", storage=storage, sync="close") as log:
        agent = begun(log)
        shut(log)
        with hooked(log, looking):
            vector_step(log, agent)
        assert held == [True, True]


@pytest.mark.skipif(not EXCHANGES, reason="this Python has no fast path")
@pytest.mark.usefixtures("small_segments")
def test_who_waited_for_the_turn_looks_for_room_only_then(
    storage: MemoryStorage, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever had the turn may have filled the segment."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent, (here, _, _) = begun(log), log.tail()

        def wait(turn: Turn) -> None:
            turn.taken, log._limit = False, log._way
            while log._offset < here.limit:
                log.reward(agent, 0, 1, 1.0)
            log._limit = 0

        monkeypatch.setattr(Turn, "wait", wait)
        log._turn.taken = True
        first = vector_step(log, agent)
        assert log.tail()[0] is not here
    assert kinds(events_of(storage))[first - 2 :] == KINDS


def test_who_does_not_get_the_turn_waits_for_whoever_has_it(storage: MemoryStorage, events_of: Any) -> None:
    """One thread is held up between its store and its count: another may not take its place in the log."""
    stored, go_on, firsts, stores = threading.Event(), threading.Event(), [], 0

    def slow(store: Any) -> None:
        nonlocal stores
        stores += 1
        store()
        if stores == 2:
            stored.set()
            go_on.wait(5)

    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")

        def work(number: int) -> None:
            firsts.append(vector_step(log, agent, (number,) * 3, (0, 1, 2), (0, 1, 2)))

        with hooked(log, slow):
            one, other = (threading.Thread(target=work, args=(number,)) for number in (7, 8))
            one.start()
            stored.wait(5)
            other.start()
            other.join(0.1)
            assert other.is_alive()
            go_on.set()
            one.join(5), other.join(5)
    assert firsts == [1, 10]
    assert [one.episode for one in events_of(storage)][1:] == [7] * 9 + [8] * 9


def test_beside_threads_that_append_rewards_none_is_lost_or_mixed(storage: MemoryStorage, events_of: Any) -> None:
    with journal.open("m", storage=storage, sync_interval=0.001) as log:
        agent = log.agent("A")

        def work() -> None:
            for step in range(2000):
                log.reward(agent, 1000, step, 1.0)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        firsts = [vector_step(log, agent, (n, n, n), (0, 1, 2), (0, 1, 2)) for n in range(300)]
        for thread in threads:
            thread.join()
    seen = events_of(storage)
    for n, first in enumerate(firsts):
        ours = seen[first : first + 9]
        assert [one.kind for one in ours] == ["EpisodeStarted"] * 3 + ["Rewarded"] * 3 + ["EpisodeEnded"] * 3
        assert {one.episode for one in ours} == {n}
    assert len(seen) == 1 + 2 * 2000 + 9 * 300
