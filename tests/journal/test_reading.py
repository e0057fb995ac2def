"""Readers beside a writer: a prefix, all that was appended, and never damage where there is none."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest

import journal
from journal import cell
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from journal.walk import Walk


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("where", ["memory", "disk"])
def test_a_reader_beside_a_writer_sees_a_prefix_and_never_damage(where: str, tmp_path: Path, events_of: Any) -> None:
    storage: Any = MemoryStorage() if where == "memory" else DiskStorage(tmp_path / "x")
    stop = threading.Event()

    def work() -> None:
        agent = log.agent("a")
        rng = Random(1)
        step = 0
        while not stop.is_set():
            log.reward(agent, 0, step, float(step))
            step += 1
            if step % 50 == 0:
                log.append(journal.Custom(name="x", data=bytes(rng.randrange(6000))))
            if step % 100 == 0:
                time.sleep(0.001)

    with journal.open(tmp_path / "x", storage=storage, sync_interval=0.002) as log:
        log.append(journal.Custom(name="first"))
        thread = threading.Thread(target=work)
        thread.start()
        try:
            seen = 0
            deadline = time.monotonic() + 1.5
            while time.monotonic() < deadline:
                promised = log.promised.seq
                events = events_of(storage, live=True)
                assert len(events) >= seen
                assert len(events) > promised
                seen = len(events)
        finally:
            stop.set()
            thread.join()
    assert seen > 500


def test_a_reader_beside_a_writer_sees_what_was_appended_at_once(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        for number in range(5):
            log.append(journal.Custom(name=f"n{number}"))
            assert [one.payload["name"] for one in events_of(storage, live=True)][-1] == f"n{number}"


def test_what_is_half_written_is_not_yet_there(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.append(journal.Custom(name="x"))
        segment, end, _ = log.tail()
        segment.buffer[end : end + 32] = b"\x09" * 32
        walk = Walk(storage, live=True).run()
        assert walk.torn is None and walk.seq == 1
        assert Walk(storage).run().torn is not None
        segment.buffer[end : end + 32] = bytes(32)


def test_kinds_that_a_newer_version_wrote_are_counted_and_kept(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        log._append_cell(1000, b"unknown")
        log.append(journal.Custom(name="x"))
    assert [piece.events for piece in Walk(storage)] == [2]
    assert int(next(iter(Walk(storage))).cells["kind"][2]) == 1000 < cell.MARK_FIRST


def test_a_stray_segment_with_a_high_number_costs_nothing() -> None:
    """All numbers up to it were once written down to find the missing one: gigabytes, and minutes."""
    import tracemalloc

    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        log.append(journal.Custom(name="x"))
    with storage.stream("segments/99999999.seg") as stream:
        stream.write(storage.read("segments/00000000.seg"))
    tracemalloc.start()
    try:
        with pytest.raises(journal.CorruptJournal, match="missing") as caught:
            Walk(storage)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()
    assert caught.value.path == "segments/00000001.seg"
