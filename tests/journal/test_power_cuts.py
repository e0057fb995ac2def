"""The process dies, or the power goes, at every step of recovery and of a writer's close, and again and again.

What is promised is there afterwards, what was appended is a prefix, and the journal opens. Small, and in memory.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import journal
from journal.cell import CELL
from journal.manifest import Manifest
from journal.recovery import recover
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("small_segments")
EventsOf = Callable[[Storage], list[Any]]
FIRST = "segments/00000000.seg"


def repaired(storage: Storage) -> None:
    recover(storage, Manifest.read(storage), 7)


def image(storage: MemoryStorage) -> dict[str, bytes]:
    """Every file and its bytes, but for the lock."""
    names = [*storage.list(""), *(f"{d}/{name}" for d in ("segments", "quarantine") for name in storage.list(d))]
    return {name: storage.read(name) for name in names if name not in ("writer.lock", "segments", "quarantine")}


def damaged(clock: Any) -> MemoryStorage:
    """An unclean stop that needs every step of recovery: quarantine, removals, adoption, seals, temp files."""
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    agent = log.agent("a")
    for step in range(40):
        log.reward(agent, 0, step, 1.0)
    log.sync()
    with log._commit._mutex:  # Nothing is sealed meanwhile: five segments wait for it.
        while len(log.left) < 4:
            log.reward(agent, 0, 0, 1.0)
        dead = storage.kill()
    log.close()
    third = list(Walk(dead))[2]
    assert not third.sealed
    dead.open(third.path).write(third.offset(third.end - 1) + 5, b"!!!")
    dead.create("journal.json.tmp", 5).close()
    return dead


def test_killed_at_any_step_recovery_ends_in_the_same_place(events_of: EventsOf, clock: Any) -> None:
    """The process dies before one of its steps; then, but for the first time round, the power goes as well."""
    start = damaged(clock)
    done = start.kill()
    repaired(done)
    expected, quarantine = events_of(done), done.list("quarantine")
    assert len(expected) > 100 and len(quarantine) == 3 and len(done.list("segments")) == 3
    for nth in range(1, 200):
        for tear in (False, True):
            storage = start.kill()
            faulty = FaultyStorage(storage)
            faulty.fail(*CHANGES, nth=nth, kill=True, tear=tear)
            try:
                repaired(faulty)
            except Killed:
                pass
            else:
                assert nth > 30
                return
            for seed in range(-1, 12):
                after = storage.kill() if seed < 0 else storage.crash(Random(1000 * nth + seed))
                repaired(after)
                events = events_of(after)
                assert events == expected[: len(events)] and len(events) >= 41, (nth, seed)
                if seed < 0:
                    assert events == expected and after.list("quarantine") == quarantine
                once = image(after)
                repaired(after)
                assert image(after) == once
    raise AssertionError("recovery never ended")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("path", ["journal.json*", "segments/00000000.seg", "segments"])
def test_a_writer_killed_at_any_step_of_its_close_keeps_what_it_promised(
    events_of: EventsOf, clock: Any, path: str
) -> None:
    for nth in range(1, 20):
        storage = MemoryStorage()
        faulty = FaultyStorage(storage)
        log = journal.open("memory", storage=faulty, sync="close", clock=clock)
        log.append(journal.Custom(name="promised"))
        promised = log.sync().seq
        for number in range(20):
            log.append(journal.Custom(name="appended", data=number))
        faulty.fail(*CHANGES, path=path, nth=nth, kill=True)
        ended = False
        try:
            log.close()
            ended = True
        except Killed:
            pass
        expected = events_of(storage)
        assert len(expected) == 21
        for seed in range(-1, 12):
            after = storage.kill() if seed < 0 else storage.crash(Random(100 * nth + seed))
            repaired(after)
            found = events_of(after)
            assert found == expected[: len(found)]
            assert len(found) == 21 or (seed >= 0 and not ended and len(found) > promised)
            # The next writer builds on it, and the power goes again.
            with journal.open("memory", storage=after, sync="close", clock=clock) as log:
                log.append(journal.Custom(name="on"))
                log.sync()
                again = after.crash(Random(seed))
            repaired(again)
            assert len(events_of(again)) == len(found) + 1
        if ended:
            return
    raise AssertionError("close never ended")


def test_a_log_closed_without_an_event_leaves_no_gap_behind(clock: Any) -> None:
    """Its segment and the spare behind it are removed; if only the first removal survived, one would be missing."""
    for _ in range(3):
        storage = MemoryStorage()
        log = journal.open("memory", storage=storage, clock=clock)
        deadline = time.monotonic() + 5
        while not storage.exists("segments/00000001.seg") and time.monotonic() < deadline:
            time.sleep(0.001)
        log.close()
        for seed in range(30):
            repaired(storage.crash(Random(seed)))


def test_a_seal_in_the_page_cache_is_synced_before_anything_is_built_on_it(events_of: EventsOf, clock: Any) -> None:
    """The process died between writing the seal and syncing it: it reads as sealed, and a power cut would unseal it."""
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        log.append(journal.Custom(name="x"))
    node = storage._names[FIRST]
    node.durable = node.durable[: -2 * CELL] + bytes(4096 - len(node.durable) + 2 * CELL)
    with journal.open("memory", storage=storage, clock=clock) as log:
        assert not log.recovered.crashed
        log.append(journal.Custom(name="y"))
        log.sync()
        for seed in range(10):
            after = storage.crash(Random(seed))
            repaired(after)
            assert len(events_of(after)) == 2


def test_what_recovery_removed_stays_removed(clock: Any) -> None:
    """A spare behind a clean end: nothing is sealed after its removal, so no later step syncs the directory for it."""
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        log.append(journal.Custom(name="x"))
    header = Walk(storage).run().last.header  # type: ignore[union-attr]
    names = storage.list("segments")
    spare = storage.create("segments/00000001.seg", 4096)
    spare.write(0, replace(header, ordinal=1).pack())
    spare.sync()
    storage.sync_directory("segments")
    repaired(storage)
    for seed in range(20):
        assert storage.crash(Random(seed)).list("segments") == names == ["00000000.seg"]


def cached(start: MemoryStorage) -> MemoryStorage:
    """The same journal as somebody just copied it: nothing of its segments is on disk, their names neither."""
    storage = MemoryStorage()
    storage.make_directory("segments")
    for path in ("journal.json", *(piece.path for piece in Walk(start))):  # Without the spare.
        file = storage.create(path)
        file.write(0, start.read(path))
        if path == "journal.json":
            file.sync()
            storage.sync_directory("")
        file.close()
    return storage


@pytest.mark.parametrize("copied", [False, True])
def test_a_seal_promises_only_what_is_on_disk_and_a_list_only_names_that_are(
    events_of: EventsOf, clock: Any, copied: bool
) -> None:
    """The power goes while a segment is adopted: were a step not durable before the next, it would be refused."""
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    for number in range(12):
        log.append(journal.Custom(name="x", data=number))
    dead = storage.kill()
    log.close()
    expected = events_of(dead)
    assert (Manifest.read(dead).segments, len(list(Walk(dead)))) == ((), 1)
    nth, ended = 0, False
    while not ended:
        nth += 1
        faulty = FaultyStorage(cached(dead) if copied else dead.kill())
        faulty.fail(*CHANGES, nth=nth, kill=True)
        try:
            repaired(faulty)
            ended = True
        except Killed:
            pass
        for seed in range(24):
            after = faulty.inner.crash(Random(seed))  # type: ignore[attr-defined]
            repaired(after)
            found = events_of(after)
            assert found == expected[: len(found)] and (not ended or found == expected), (nth, seed)
    assert nth > 8


def test_a_segment_is_taken_from_the_list_before_it_is_removed(events_of: EventsOf, clock: Any) -> None:
    """Listed and begun, but its first cells did not reach the disk. Gone and still listed, it would be missed."""
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        log.append(journal.Custom(name="x"))
    header = Walk(storage).run().last.header  # type: ignore[union-attr]
    begun = storage.create("segments/00000001.seg", 4096)
    begun.write(0, replace(header, ordinal=1).pack() + bytes(CELL) + b"a second cell without the first")
    begun.sync()
    storage.sync_directory("segments")
    Manifest.read(storage).with_segments((0, 1)).write(storage)
    expected = events_of(storage)
    found = recover(storage.kill(), Manifest.read(storage), 7)[0]
    assert found.crashed and found.torn_bytes > 0 and found.reason == "the first cell is not a segment opened mark"
    nth, ended = 0, False
    while not ended:
        nth += 1
        faulty = FaultyStorage(storage.kill())
        faulty.fail(*CHANGES, nth=nth, kill=True)
        try:
            repaired(faulty)
            ended = True
        except Killed:
            pass
        for after in (faulty.inner.kill(), *(faulty.inner.crash(Random(seed)) for seed in range(5))):  # type: ignore[attr-defined]
            repaired(after)
            assert events_of(after) == expected
            assert (after.list("segments"), Manifest.read(after).segments) == (["00000000.seg"], (0,))
    assert nth > 5


def test_a_failing_step_is_told_and_the_next_try_goes_on(events_of: EventsOf, clock: Any) -> None:
    start = damaged(clock)
    done = start.kill()
    repaired(done)
    expected = events_of(done)
    nth = 0
    while True:
        nth += 1
        storage = start.kill()
        faulty = FaultyStorage(storage)
        faulty.fail(*CHANGES, nth=nth)
        try:
            repaired(faulty)
            break
        except journal.JournalFailed:
            pass
        repaired(storage)
        assert events_of(storage) == expected
    assert nth > 10


@pytest.mark.parametrize("sealed", [False, True])
def test_recovery_leaves_no_file_open_whatever_fails(clock: Any, tmp_path: Path, sealed: bool) -> None:
    def handles() -> int:
        return len(os.listdir("/proc/self/fd"))

    start = damaged(clock)
    if sealed:
        repaired(start)
        start.open(FIRST).truncate(4096)  # The truncate behind the seal did not happen.
    before, nth, ended = handles(), 0, False
    while not ended:
        nth += 1
        root = tmp_path / str(nth)
        for path, data in image(start).items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(data)
        faulty = FaultyStorage(DiskStorage(root))
        faulty.fail("sync", "write", "truncate", nth=nth)
        try:
            repaired(faulty)
            ended = True
        except journal.JournalFailed:
            pass
        assert handles() == before
    assert nth > (3 if sealed else 10)


def test_a_full_disk_during_recovery_is_told_as_that(clock: Any) -> None:
    faulty = FaultyStorage(damaged(clock))
    faulty.fail("create", error=errno.ENOSPC)
    with pytest.raises(journal.DiskFull):
        repaired(faulty)


@pytest.mark.parametrize("sync", ["group", "close", "always"])
@pytest.mark.parametrize("seed", range(12))
def test_power_cuts_never_lose_a_promise_and_leave_a_prefix(events_of: EventsOf, sync: Any, seed: int) -> None:
    """Several lives of one journal, each ended by a power cut or a kill at a random moment."""
    rng = Random(seed)
    storage = MemoryStorage(mappable=rng.random() < 0.7)
    appended: list[tuple[int, float]] = []
    for _life in range(6):
        log = journal.open("memory", storage=storage, sync=sync, sync_interval=0.001)
        agent = log.agent("a")
        for _step in range(rng.randrange(150 if sync != "always" else 40)):
            chance = rng.random()
            if chance < 0.03:
                log.sync()
            elif chance < 0.06:
                storage.writeback(rng)
            elif chance < 0.1:
                value = rng.random()
                log.append(journal.MetricLogged(agent="a", metric=f"m{rng.randrange(9)}", step=1, value=value))
                appended.append((log._seq - 1, value))
            elif chance < 0.15:
                values = [rng.random() for _ in range(rng.randrange(1, 40))]
                base = log.rewards(agent, 0, range(len(values)), values)
                appended += [(base + i, value) for i, value in enumerate(values)]
            else:
                value = rng.random()
                appended.append((log.reward(agent, 0, 0, value), value))
        kill = rng.random() < 0.3
        promised = log.promised
        after = storage.kill() if kill else storage.crash(rng)
        log.close()
        storage = after
        known = dict(appended)
        with journal.open("memory", storage=storage) as log:
            assert log.recovered is not None
        seen = {one.seq: one.value for one in events_of(storage) if one.kind in ("Rewarded", "MetricLogged")}
        last = events_of(storage)[-1].seq if storage.list("segments") else -1
        assert last >= promised.seq
        assert seen == {seq: value for seq, value in known.items() if seq <= last}
        if kill:
            assert not known or last >= max(known)
        appended = [(seq, value) for seq, value in appended if seq <= last]
