"""A vector step's starts, rewards and ends, appended as one: all of it or nothing, whatever interrupts."""

from __future__ import annotations

import contextlib
import errno
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import journal
from journal import batch, cell
from journal.cell import CELL
from journal.events import EpisodeEnded, EpisodeStarted
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.together import ending
from journal.walk import Walk

CUT = ending(EpisodeEnded(agent="-", episode=0, reason="truncated"))
KINDS = ["EpisodeStarted"] * 2 + ["Rewarded"] * 3 + ["EpisodeEnded"] * 2


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


@pytest.fixture(params=[True, False], ids=["past the lock", "queued"])
def shut(request: pytest.FixtureRequest) -> Any:
    """Shuts the fast path of a log, in one of two cases, so that what follows queues at the lock."""

    def shut(log: journal.Log) -> None:
        if not request.param:
            log._limit = 0

    return shut


def vector_step(
    log: journal.Log,
    agent: int,
    numbers: Any = (10, 11, 12),
    started: Any = (0, 2),
    ended: Any = (0, 1),
    *,
    flags: int = 1,
    how: Any = CUT,
    values: Any = (0.5, 1.5, 2.5),
) -> int:
    """A step of the three sub-environments 5, 6 and 7, the first and the last of which begin; two end in it."""
    packed = batch.pack(np.array(numbers, dtype=np.uint64), 4, range(5, 5 + len(numbers)), np.array(values))
    keys = [(agent, flags & 1, 5 + i) for i in range(len(numbers))]
    where = packed.form, packed.episode, 5, packed.payload, keys, list(numbers)
    assert packed.step == 4, "which is lost: a step is listed, or it is 0"
    return log.vector_step(agent, flags, len(numbers), *where, 7.25, list(started), list(ended), how)


def begun(log: journal.Log) -> int:
    """The second of the three is open."""
    agent = log.agent("A")
    log.append(EpisodeStarted(agent="A", episode=11, env_index=6, phase="eval"))
    return agent


def opened(log: journal.Log) -> dict[int, int]:
    """env_index → the open episode."""
    return {env_index: episode for (_, _, env_index), episode in log.context.episodes.items()}


class Hooked:
    """Stands in a segment's buffer's or file's place: `hook(store)` is called for each store, and is to do it."""

    def __init__(self, inner: Any, hook: Any) -> None:
        self.inner, self.hook = inner, hook

    def __setitem__(self, where: slice, data: bytes) -> None:
        self.hook(lambda: self.inner.__setitem__(where, data))

    def write(self, offset: int, data: bytes) -> None:
        self.hook(lambda: self.inner.write(offset, data))


@contextlib.contextmanager
def hooked(log: journal.Log, hook: Any) -> Iterator[None]:
    segment = log._segment
    buffer, file = segment.buffer, segment.file
    segment.buffer, segment.file = Hooked(buffer, hook), Hooked(file, hook)  # type: ignore[assignment]
    try:
        yield
    finally:
        segment.buffer, segment.file = buffer, file


def kinds(seen: list[Any]) -> list[str]:
    return [one.kind for one in seen][2:]


def test_they_are_what_one_append_after_the_other_gives(
    shut: Any, storage: MemoryStorage, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = MemoryStorage()
    with journal.open("m", storage=storage) as log, journal.open("o", storage=other) as alone:
        monkeypatch.setattr(log, "monotonic", lambda: 9.75)
        for one in (log, alone):
            begun(one)
        shut(log)
        assert vector_step(log, 1) == 2
        assert log._limit == log._way and not log._turn.taken and not log.lock.locked()
        assert log.next_seq == 9 and opened(log) == {7: 12}
        for episode, env_index in ((10, 5), (12, 7)):
            alone.append(EpisodeStarted(agent="A", episode=episode, env_index=env_index, phase="eval", monotonic=7.25))
        alone.rewards(1, [10, 11, 12], 0, [0.5, 1.5, 2.5], range(5, 8), 1)
        for episode, env_index in ((10, 5), (11, 6)):
            alone.append(
                EpisodeEnded(
                    agent="A", episode=episode, env_index=env_index, phase="eval", reason="truncated", monotonic=9.75
                )
            )
    assert [one[1:] for one in events_of(storage)[2:]] == [one[1:] for one in events_of(other)[2:]]
    assert kinds(events_of(storage)) == KINDS


@pytest.mark.parametrize(
    ("numbers", "started", "ended", "flags", "told"),
    [
        ((10, 11, 12), (1,), (), 1, "episode 11 of A, env 6 cannot start: episode 11 is open"),
        ((10, 11, 12), (0, 1, 2), (0,), 1, "episode 11 of A, env 6 cannot start: episode 11 is open"),
        ((10, 11, 12), (0, 2), (0, 1, 2), 0, "episode 11 of A, env 6 cannot end: no episode is open"),
        ((10, 11, 12), (0,), (0, 1, 2), 1, "episode 12 of A, env 7 cannot end: no episode is open"),
        ((10, 9, 12), (0, 2), (0, 1), 1, "episode 9 of A, env 6 cannot end: episode 11 is the open one"),
    ],
)
def test_where_one_contradicts_the_log_nothing_is_recorded(
    numbers: Any, started: Any, ended: Any, flags: int, told: str, shut: Any, storage: MemoryStorage, events_of: Any
) -> None:
    with journal.open("m", storage=storage) as log:
        agent = begun(log)
        shut(log)
        with pytest.raises(journal.EventRejected, match=told):
            vector_step(log, agent, numbers, started, ended, flags=flags)
        assert log.next_seq == 2 and opened(log) == {6: 11}
        vector_step(log, agent)
    assert kinds(events_of(storage)) == KINDS


def test_no_more_are_opened_than_a_journal_can_follow(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("context", "together"):
        monkeypatch.setattr(f"journal.{module}.EPISODES_MAX", 2)
    with journal.open("m", storage=MemoryStorage()) as log:
        agent = begun(log)
        with pytest.raises(journal.EventRejected, match="2 episodes are open"):
            vector_step(log, agent)
        assert log.next_seq == 2 and opened(log) == {6: 11}
        vector_step(log, agent, started=(0,))


@pytest.mark.parametrize("agent", [0, 2])
def test_of_an_agent_that_has_no_number_nothing_is_recorded(agent: int) -> None:
    with journal.open("m", storage=MemoryStorage()) as log:
        log.agent("A")
        with pytest.raises(journal.EventRejected, match=r"log\.agent"):
            vector_step(log, agent, ended=())
        assert log.next_seq == 1 and not opened(log)


@pytest.mark.parametrize("write", [1, 2])
@pytest.mark.parametrize("done", [False, True])
@pytest.mark.parametrize("starts", [(0, 2), ()], ids=["starts", "no starts"])
@pytest.mark.parametrize("settled", [True, False], ids=["settled", "settled later"])
def test_interrupted_it_is_all_there_and_counted_or_nothing_is(
    write: int, done: bool, starts: Any, settled: bool, shut: Any, storage: MemoryStorage, events_of: Any
) -> None:
    """Before or after the store of all but the first head (1), and of that one (2), which publishes them.

    A second interrupt may fall into the settling: then whoever comes next does it.
    """
    ends = (0, 1) if starts else (1,)
    with journal.open("m", storage=storage, sync="close") as log:
        agent, unwind, calls = begun(log), log._unwind, 0
        segment = log._segment
        plain = segment.buffer, segment.file

        def interrupted(store: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == write and not done:
                segment.buffer, segment.file = plain
                raise KeyboardInterrupt
            store()
            if calls == write:
                segment.buffer, segment.file = plain
                raise KeyboardInterrupt

        def again() -> None:
            raise KeyboardInterrupt

        if not settled:
            log._unwind = again  # type: ignore[method-assign]
        shut(log)
        with hooked(log, interrupted), pytest.raises(KeyboardInterrupt):
            vector_step(log, agent, started=starts, ended=ends)
        log._unwind = unwind  # type: ignore[method-assign]
        there = write == 2 and done
        more = 3 + len(starts) + len(ends) if there else 0
        assert log.next_seq == 2 + (more if settled else 0)
        log.reward(agent, 99, 0, 1.0)
        assert log.next_seq == 3 + more
        assert opened(log) == (({7: 12} if starts else {}) if there else {6: 11})
    expected = [*["EpisodeStarted"] * len(starts), *["Rewarded"] * 3, *["EpisodeEnded"] * len(ends)]
    assert kinds(events_of(storage)) == [*(expected if there else []), "Rewarded"]


@pytest.mark.parametrize("count", [3, 3000])
def test_killed_right_after_it_all_of_it_is_there(
    count: int, shut: Any, storage: MemoryStorage, events_of: Any
) -> None:
    """No seal vouches for them yet: each head and each payload has to check by itself. Much of it takes a write."""
    log = journal.open("m", storage=storage, sync="close")
    agent, all_of_them = log.agent("A"), range(count)
    shut(log)
    vector_step(log, agent, all_of_them, all_of_them, all_of_them[1:], values=np.arange(count) / 2)
    log.reward(agent, 0, 1, 1.0)
    dead = storage.kill()
    log.close()
    with journal.open("m", storage=dead) as again:
        assert again.recovered.torn_bytes == 0
        assert again.next_seq == 1 + 3 * count - 1 + 1
    assert events_of(dead) == events_of(storage)


@pytest.mark.parametrize("write", [1, 2])
def test_killed_before_the_first_head_is_there_nothing_is(write: int, storage: MemoryStorage, events_of: Any) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent, left = begun(log), []

    def noted(store: Any) -> None:
        store()
        left.append(storage.kill())

    with hooked(log, noted):
        vector_step(log, agent)
    log.close()
    dead = left[write - 1]
    journal.open("m", storage=dead).close()
    assert kinds(events_of(dead)) == (KINDS if write == 2 else [])


def test_it_never_lies_in_two_segments(small_segments: int, storage: MemoryStorage, events_of: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        for step in range(400):
            vector_step(log, agent, (step, step, step), (0, 1, 2), (0, 1, 2))
    segments = list(Walk(storage))
    assert len(segments) > 10
    for piece in segments:
        found = piece.cells[piece.heads]["kind"].tolist()
        ours = [kind for kind in found if kind in (cell.EPISODE_STARTED, cell.REWARDS, cell.EPISODE_ENDED)]
        assert ours[:7] in ([], [cell.EPISODE_STARTED] * 3 + [cell.REWARDS] + [cell.EPISODE_ENDED] * 3)
        assert len(ours) % 7 == 0
    assert len(events_of(storage)) == 1 + 400 * 9


@pytest.mark.usefixtures("small_segments")
@pytest.mark.filterwarnings("ignore:.*next segment cannot be prepared:RuntimeWarning")
def test_where_the_disk_is_full_nothing_of_it_is_recorded(events_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.live._RETRY", 0.02)
    faulty, done = FaultyStorage(MemoryStorage()), 0
    with journal.open("m", storage=faulty, sync="close") as log:
        agent = log.agent("A")
        faulty.fail("create", path="segments/*", times=10**9, error=errno.ENOSPC)
        with pytest.raises(journal.DiskFull):
            for _ in range(10_000):
                vector_step(log, agent, started=(0, 1, 2), ended=(0, 1, 2))
                done += 1
        assert not opened(log) and log.next_seq == 1 + 9 * done
        log.append(journal.AttemptEnded(run="r", attempt=0, status="interrupted"))
    assert len(events_of(faulty.inner)) == 1 + 9 * done + 1


def test_a_closed_log_takes_none(storage: MemoryStorage) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent = begun(log)
    log.close()
    with pytest.raises(journal.JournalClosed):
        vector_step(log, agent)


def test_a_store_that_fails_is_the_end(storage: MemoryStorage) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent = begun(log)

    segment = log._segment
    plain = segment.buffer, segment.file

    def failing(store: Any) -> None:
        segment.buffer, segment.file = plain
        raise OSError(5, "Input/output error")

    with hooked(log, failing), pytest.raises(journal.JournalFailed, match="writing to the log failed: Input/output"):
        vector_step(log, agent)
    for refused in (lambda: vector_step(log, agent), log.close):
        with pytest.raises(journal.JournalFailed):
            refused()


@pytest.mark.parametrize("sync", ["always", "close"])
def test_only_always_promises_it_before_it_returns(sync: Any, shut: Any, storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync=sync) as log:
        agent = begun(log)
        shut(log)
        vector_step(log, agent)
        assert log.promised.seq == (8 if sync == "always" else -1)


def test_what_does_not_fit_a_cell_is_refused_in_a_line(storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = begun(log)
        with pytest.raises(journal.EventRejected, match="does not fit a cell"):
            vector_step(log, agent, flags=1 << 40)
        assert log.next_seq == 2


def test_rewards_cannot_forge_a_promise_where_they_stand(storage: MemoryStorage) -> None:
    """The place is that of their own cells, behind those of the starts."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent = begun(log)
        here, offset, seq = log.tail()
        for more, refused in ((0, True), (1, False)):
            stated = log.promised.position + 1000
            at = stated + offset // CELL + 2 + more
            raw = cell.pack_promise(cell.RECEIPT, seq, 1, stated, 3, bytes(24), salt=here.header.salt, at=at)
            values = np.frombuffer(raw, dtype="<f8").tobytes()
            keys = [(agent, 1, 5), (agent, 1, 6), (agent, 1, 7)]
            step = partial(log.vector_step, agent, 1, 8, 0, 10, 5, values, keys, [10, 11, 12], 0.0, [0, 2], [], CUT)
            if refused:
                with pytest.raises(journal.EventRejected, match="byte 0 of the payload begins a forged promise"):
                    step()
                assert log.next_seq == seq and opened(log) == {6: 11}
            else:
                step()


def test_an_end_that_takes_more_than_a_cell_is_none_of_many() -> None:
    assert len(ending(EpisodeEnded(agent="-", episode=0, reason="x" * 40)).padded) == CELL
    with pytest.raises(journal.EventRejected, match="takes 69 bytes: append it by itself"):
        ending(EpisodeEnded(agent="-", episode=0, reason="x" * 59))


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
