"""The next segment, made ahead of need: it takes nobody's room, and leaves no gap where it cannot be removed."""

from __future__ import annotations

import time
from threading import Event, Timer
from typing import Any

import pytest

import journal
from journal import segment
from journal.live import Spares
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage


@pytest.fixture(params=["mapped", "pwrite"])
def faulty(request: pytest.FixtureRequest) -> FaultyStorage:
    return FaultyStorage(MemoryStorage(mappable=request.param == "mapped"))


def test_a_spare_that_cannot_be_removed_leaves_no_gap_before_it(faulty: FaultyStorage, events_of: Any) -> None:
    """Found by failing system calls.

    The unused segment went, the spare behind it stayed, and a journal in which nothing was wrong was refused for the
    segment "missing" before it.
    """
    with journal.open("it", storage=faulty) as log:
        log.append(journal.Custom(name="x"))
    log = journal.open("it", storage=faulty)
    deadline = time.monotonic() + 5
    while not faulty.exists("segments/00000002.seg") and time.monotonic() < deadline:
        time.sleep(0.001)
    faulty.fail("remove", path="segments/00000002.seg")
    log.close()
    assert faulty.list("segments") == ["00000000.seg", "00000001.seg", "00000002.seg"]
    assert len(events_of(faulty)) == 1
    with journal.open("it", storage=faulty) as log:
        log.append(journal.Custom(name="y"))
    assert [one.payload["name"] for one in events_of(faulty)] == ["x", "y"]
    assert faulty.list("segments") == ["00000000.seg", "00000001.seg"]


def test_the_next_segment_leaves_room_for_what_else_is_saved(faulty: FaultyStorage) -> None:
    """Made ahead of need it took all that was left of a small disk, and a checkpoint of a few pages found none."""
    free = 9 * segment.SIZE_MIN
    faulty.free = lambda: free  # type: ignore[method-assign]
    log = journal.open("it", storage=faulty)
    agent, deadline = log.agent("a"), time.monotonic() + 30
    while len(faulty.list("segments")) < 5 and time.monotonic() < deadline:
        log.rewards(agent, 0, range(9000), [0.5] * 9000)
    sizes = {one.header.size for one in (log.tail()[0], *(left.segment for left in log.left))}
    log.close()
    assert max(sizes) == free // 4 // segment.SIZE_MIN * segment.SIZE_MIN == 2 * segment.SIZE_MIN


def test_zeros_are_written_again_when_the_writer_outruns_the_disk_no_more() -> None:
    storage, ready = MemoryStorage(), Event()
    storage.make_directory(segment.DIRECTORY)
    plain, zeros, now = storage.create, list[bool](), 0

    def create(path: str, size: int = 0, **how: bool) -> Any:
        nonlocal now
        now += 1_000_000
        zeros.append(how["zeros"])
        ready.wait()
        return plain(path, size, **how)

    storage.create = create  # type: ignore[method-assign]
    spares = Spares(storage, bytes(16), 0, gathered=True, clock=lambda: now, entropy=bytes)
    spares.start()
    try:
        ready.set()
        first = spares.take(1)
        ready.clear()
        spares.entered(first)
        while len(zeros) < 2:  # Only what is being made already is made as it was to be.
            time.sleep(0.001)
        Timer(0.1, ready.set).start()
        second = spares.take(1)
        assert zeros == [True, True], "the writer had to wait for the second one"
        spares.entered(second)
        while not storage.exists(segment.path_of(2)) or spares._preparing:
            time.sleep(0.001)
        assert zeros == [True, True, False]
        spares.entered(spares.take(1))
        while not storage.exists(segment.path_of(3)) or spares._preparing:
            time.sleep(0.001)
        assert zeros[3:] == [False], "it was taken at once"
        now += 100_000_000
        spares.entered(spares.take(1))
        while not storage.exists(segment.path_of(4)) or spares._preparing:
            time.sleep(0.001)
        assert zeros[4:] == [True]
    finally:
        spares.stop()
