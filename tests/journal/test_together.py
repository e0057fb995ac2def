"""A vector step's starts, rewards and ends, appended as one: all of it or nothing, whatever interrupts."""

from __future__ import annotations

import contextlib
import errno
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import journal
from journal import cell
from journal.cell import CELL
from journal.events import EpisodeEnded, EpisodeStarted
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.together import ending
from journal.walk import Walk

sys.path.insert(0, str(Path(__file__).parent))
from vector import CUT, KINDS, begun, hooked, kinds, opened, packed, vector_step

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


def test_they_are_what_one_append_after_the_other_gives(
    shut: Any, storage: MemoryStorage, events_of: Any, clock: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To the last bit."""
    other = MemoryStorage()
    with contextlib.ExitStack() as logs:
        log, alone = (
            logs.enter_context(
                journal.open("m", storage=place, sync="close", clock=clock, entropy=lambda size: bytes(range(size)))
            )
            for place in (storage, other)
        )
        for one in (log, alone):
            monkeypatch.setattr(one, "monotonic", lambda: 9.75)
            begun(one)
        shut(log)
        assert vector_step(log, 1) == 2
        assert log._limit == log._way and not log._turn.taken and not log.lock.locked()
        assert log.next_seq == 9 and opened(log) == {7: 12}
        for episode, env_index in ((10, 5), (12, 7)):
            alone.append(EpisodeStarted(agent="A", episode=episode, env_index=env_index, phase="eval", monotonic=7.25))
        alone.batch(1, packed([10, 11, 12], [0.5, 1.5, 2.5]), 1)
        for episode, env_index in ((10, 5), (11, 6)):
            alone.append(
                EpisodeEnded(
                    agent="A", episode=episode, env_index=env_index, phase="eval", reason="truncated", monotonic=9.75
                )
            )
    path = "segments/00000000.seg"
    assert storage.read(path, 0, 1 << 16) == other.read(path, 0, 1 << 16)
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
        with pytest.raises(journal.EventRejected, match="env 6 cannot start"):
            vector_step(log, agent, started=(0, 1))
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
    how = ending(EpisodeEnded(agent="-", episode=0, reason="truncated"))
    shut(log)
    vector_step(log, agent, all_of_them, all_of_them, all_of_them[1:], how=how, values=np.arange(count) / 2)
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


@pytest.mark.parametrize("done", [False, True])
def test_a_store_that_fails_is_the_end_and_counted_if_it_is_there(
    done: bool, shut: Any, storage: MemoryStorage
) -> None:
    log = journal.open("m", storage=storage, sync="close")
    agent, stores = begun(log), 0
    segment = log._segment
    plain = segment.buffer, segment.file

    def failing(store: Any) -> None:
        nonlocal stores
        stores += 1
        if stores == 1 or done:
            store()
        if stores == 2:
            segment.buffer, segment.file = plain
            raise OSError(5, "Input/output error")

    shut(log)
    with hooked(log, failing), pytest.raises(journal.JournalFailed, match="writing to the log failed: Input/output"):
        vector_step(log, agent)
    assert log.next_seq == (9 if done else 2) and opened(log) == ({7: 12} if done else {6: 11})
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
        shut(log)
        vector_step(log, agent, (12,), (), ())
        assert log.promised.seq == (9 if sync == "always" else -1), "also a single reward"


def test_what_does_not_fit_a_cell_is_refused_in_a_line(shut: Any, storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = begun(log)
        shut(log)
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
    for length, pad in ((40, 14), (54, 0)):
        made = ending(EpisodeEnded(agent="-", episode=0, reason="x" * length))
        assert len(made.padded) == CELL and (len(made.payload), made.pad) == (CELL - pad, pad)
    for length in (55, 59):
        with pytest.raises(journal.EventRejected, match=f"takes {length + 10} bytes: append it by itself"):
            ending(EpisodeEnded(agent="-", episode=0, reason="x" * length))
