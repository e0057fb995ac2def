"""The writer: seqs, segments, promises; through a map and by pwrite, under each sync policy, from several threads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import journal
from journal.live import create
from journal.manifest import Manifest
from journal.segment import Header
from journal.storage.disk import DiskStorage
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

POLICIES: tuple[Any, ...] = ("group", "always", "close")


@contextmanager
def held(log: journal.Log) -> Iterator[None]:
    """Group commit waits meanwhile: nothing is promised, nothing sealed."""
    with log._commit._mutex:
        yield


@pytest.fixture(params=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param == "mapped")


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("sync", POLICIES)
def test_seqs_count_events_over_segments_and_lives(storage: MemoryStorage, sync: Any, events_of: Any) -> None:
    expected = 0
    for _life in range(3):
        with journal.open("m", storage=storage, sync=sync) as log:
            assert not log.recovered.crashed
            agent = log.agent("a")
            expected += expected == 0
            for step in range(50):
                assert log.reward(agent, 0, step, float(step)) == expected
                assert log.rewards(agent, 0, range(3), [1.0, 2.0, 3.0]) == expected + 1
                assert log.append(journal.Custom(name="x", data="y" * step)) == expected + 4
                expected += 5
            if step % 7 == 0:
                log.sync()
    assert [one.seq for one in events_of(storage)] == list(range(expected))
    assert len(storage.list("segments")) > 10
    walk = Walk(storage).run()
    assert walk.promise.events == expected and not walk.unsealed
    assert Manifest.read(storage).segments == tuple(walk.ordinals)


@pytest.mark.usefixtures("small_segments")
def test_mapped_and_pwrite_write_the_same_bytes(clock: Any) -> None:
    trees = []
    for mappable in (True, False):
        storage = MemoryStorage(mappable=mappable)
        rng = Random(5)
        with journal.open("m", storage=storage, sync="close", clock=clock, entropy=rng.randbytes) as log:
            assert log.mapped == mappable
            agent = log.agent("a")
            for step in range(300):
                log.reward(agent, 0, step, step / 7, step % 4, step % 2)
                if step % 20 == 0:
                    log.append(journal.Custom(name="x", data=bytes(step * 60)))
                    log.rewards(agent, 1, range(step), np.arange(step), flags=1)
        trees.append({name: storage.read(f"segments/{name}") for name in storage.list("segments")})
    assert trees[0] == trees[1] and len(trees[0]) > 5


@pytest.mark.parametrize("sync", POLICIES)
def test_on_a_real_disk_it_is_the_same(tmp_path: Path, sync: Any, events_of: Any) -> None:
    count = 40_000 if sync != "always" else 200
    for life in range(2):
        with journal.open(tmp_path / "x", sync=sync) as log:
            agent = log.agent("a")
            for step in range(count):
                log.reward(agent, life, step, float(step))
            receipt = log.sync()
            assert receipt.seq == (life + 1) * count
    seen = events_of(DiskStorage(tmp_path / "x"))
    assert [(one.episode, one.step) for one in seen[1:]] == [(life, step) for life in range(2) for step in range(count)]


# -- promises --------------------------------------------------------------------------------------------------------


def survivors(storage: MemoryStorage, seeds: int = 6) -> int:
    """How many events are there after each of a few power cuts, at least; each is a prefix that opens."""
    least = 10**9
    for seed in range(seeds):
        after = storage.crash(Random(seed))
        with journal.open("m", storage=after, sync="close") as log:
            least = min(least, log.tail()[2])
    return least


@pytest.mark.parametrize("sync", POLICIES)
def test_sync_promises_everything_before_it(storage: MemoryStorage, sync: Any) -> None:
    with journal.open("m", storage=storage, sync=sync) as log:
        agent = log.agent("a")
        for step in range(30):
            last = log.reward(agent, 0, step, 1.0)
            if step % 10 == 5:
                receipt = log.sync()
                assert receipt.seq == last and log.promised == receipt
                assert survivors(storage) >= last + 1
                # The receipt itself has survived: it is what `verify --expect` is given.
                walk = Walk(storage.crash(Random(step))).run()
                assert (walk.promise.events, walk.promise.chain.hex()) == (receipt.seq + 1, receipt.chain)
                assert log.sync() == receipt


def test_always_survives_a_power_cut_when_append_returns(storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="always") as log:
        agent = log.agent("a")
        for step in range(8):
            assert log.reward(agent, 0, step, 1.0) < survivors(storage, 3)
        assert log.append(journal.Custom(name="x", data=bytes(5000))) < survivors(storage)
        assert log.rewards(agent, 0, range(500), np.ones(500)) + 500 <= survivors(storage)


def test_group_survives_a_power_cut_a_little_later(storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="group", sync_interval=0.01) as log:
        last = log.reward(log.agent("a"), 0, 0, 1.0)
        deadline = time.monotonic() + 5
        while log.promised.seq < last and time.monotonic() < deadline:
            time.sleep(0.005)
        assert log.promised.seq == last
        assert survivors(storage) > last
        while not log._commit._state.durable and time.monotonic() < deadline:
            time.sleep(0.005)
        assert log._commit._state.durable, "an idle journal puts its last receipt on disk, too"


def test_close_promises_only_at_sync_and_close(storage: MemoryStorage) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        log.append(journal.Custom(name="x"))
        time.sleep(0.15)
        assert log.promised.seq == -1
    assert survivors(storage) == 1


def test_an_idle_log_writes_nothing_more() -> None:
    faulty = FaultyStorage(MemoryStorage())
    with journal.open("m", storage=faulty, sync_interval=0.005) as log:
        log.append(journal.Custom(name="x"))
        log.sync()
        time.sleep(0.05)
        before, end = len(faulty.operations), log.tail()
        time.sleep(0.1)
        assert (len(faulty.operations), log.tail()) == (before, end)


def test_events_appended_while_a_sync_is_running_are_promised_by_the_next(storage: MemoryStorage) -> None:
    """A receipt may stand behind events that it does not cover; they must not look as if they were promised."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("a")
        log.reward(agent, 0, 0, 1.0)
        plain = log._commit._sync

        def slow(segment: Any) -> None:
            plain(segment)
            log.reward(agent, 0, 1, 2.0)

        log._commit._sync = slow  # type: ignore[method-assign]
        log._commit.once()
        log._commit._sync = plain  # type: ignore[method-assign]
        assert log.promised.seq == 1
        assert log.sync().seq == 2  # It used to wait for ever.


def test_a_segment_is_listed_before_anything_in_it_is_promised() -> None:
    faulty = FaultyStorage(MemoryStorage())
    with journal.open("m", storage=faulty, sync="close") as log:
        log.append(journal.Custom(name="x"))
        faulty.operations.clear()
        log.sync()
    spare = "segments/00000001.seg"
    done = [(kind, path) for kind, path in faulty.operations if kind in ("rename", "sync") and spare not in path]
    assert done[:3] == [
        ("sync", "journal.json.tmp"),
        ("rename", "journal.json"),
        ("sync", "segments/00000000.seg"),
    ]


# -- segments --------------------------------------------------------------------------------------------------------


def test_segments_grow_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.segment.SIZE_MIN", 4096)
    monkeypatch.setattr("journal.segment.SIZE_MAX", 4 * 4096)
    monkeypatch.setattr("journal.segment.RESERVE", 512)
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        for step in range(1500):
            log.reward(log.agent("a"), 0, step, 1.0)
    sizes = [piece.header.size // 4096 for piece in Walk(storage)]
    assert sizes[:3] == [1, 2, 4] and set(sizes[3:]) == {4}


@pytest.mark.usefixtures("small_segments")
def test_a_payload_larger_than_a_segment_gets_one_of_its_own(storage: MemoryStorage, events_of: Any) -> None:
    sizes = [10, 3000, 4096, 50_000, 10, 1 << 20, 4_000_000]
    with journal.open("m", storage=storage) as log:
        for size in sizes:
            log.append(journal.Custom(name="x", data=bytes(size)))
    assert [len(one.payload["data"]) for one in events_of(storage)] == sizes


@pytest.mark.usefixtures("small_segments")
def test_every_length_of_payload_fits_at_every_place_of_a_segment(events_of: Any) -> None:
    storage = MemoryStorage()
    rng = Random(11)
    sizes = [rng.randrange(0, 4000) for _ in range(150)]
    with journal.open("m", storage=storage, sync="close") as log:
        for size in sizes:
            log.append(journal.Custom(name="x", data=bytes(size)))
            if size % 5 == 0:
                log.sync()
    assert [len(one.payload["data"]) for one in events_of(storage)] == sizes


@pytest.mark.usefixtures("small_segments")
def test_a_kill_right_at_a_rotation_loses_nothing(storage: MemoryStorage, events_of: Any) -> None:
    with journal.open("m", storage=storage, sync="close") as log, held(log):
        agent = log.agent("a")
        for step in range(200):
            seq = log.reward(agent, 0, step, 1.0)
            if step % 3 == 0 or log.left:
                dead = storage.kill()
                with journal.open("m", storage=dead, sync="close") as again:
                    assert again.tail()[2] == seq + 1
            if len(log.left) > 3:
                break


def test_a_segment_that_is_begun_again_keeps_nothing_of_the_first_time(storage: MemoryStorage) -> None:
    storage.make_directory("segments")
    spare = create(storage, Header(bytes(16), 0, 1, 4096, 0), gathered=False)
    spare.begin(b"long" * 100, 0, 0, 0)
    end = spare.begin(b"short", 0, 5, 0)
    assert not any(storage.read("segments/00000000.seg", end))


def test_a_receipt_put_while_the_log_is_closing_stays(storage: MemoryStorage, events_of: Any) -> None:
    log = journal.open("m", storage=storage, sync="close")
    log.append(journal.Custom(name="x"))
    stop = log._stop

    def stop_late() -> None:
        log._commit.once()
        stop()

    log._stop = stop_late  # type: ignore[method-assign]
    log.close()
    assert len(events_of(storage)) == 1
    assert Walk(storage).run().promise.events == 1


def test_opening_and_closing_leaves_no_trace(storage: MemoryStorage) -> None:
    for _ in range(3):
        journal.open("m", storage=storage).close()
        assert storage.list("segments") == []
    assert Manifest.read(storage).segments == ()


# -- the end ---------------------------------------------------------------------------------------------------------


def test_close_twice_and_use_after_close(storage: MemoryStorage) -> None:
    log = journal.open("m", storage=storage)
    agent = log.agent("a")
    log.close()
    log.close()
    assert log.closed
    for use in (
        lambda: log.reward(agent, 0, 0, 1.0),
        lambda: log.rewards(agent, 0, 0, [1.0]),
        lambda: log.rewards(agent, 0, 0, []),
        lambda: log.append(journal.Custom(name="x")),
        lambda: log.agent("new"),
        log.sync,
    ):
        with pytest.raises(journal.JournalClosed, match="open the journal again"):
            use()
    assert log.promised.seq == 0
    journal.open("m", storage=storage).close()


def test_an_exception_in_the_block_goes_on_and_closes(storage: MemoryStorage, events_of: Any) -> None:
    with pytest.raises(RuntimeError, match="the loop"), journal.open("m", storage=storage) as log:
        log.append(journal.Custom(name="x"))
        raise RuntimeError("the loop")
    assert log.closed and len(events_of(storage)) == 1


@pytest.mark.parametrize(
    "arguments", [{"sync": "often"}, {"sync_interval": 0}, {"sync_interval": float("nan")}], ids=repr
)
def test_bad_arguments_are_refused_before_anything_is_made(arguments: dict[str, Any]) -> None:
    storage = MemoryStorage()
    with pytest.raises(ValueError, match="sync"):
        journal.open("m", storage=storage, **arguments)
    assert storage.list("") == []


# -- threads ---------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("sync", POLICIES)
def test_eight_threads_append_without_losing_or_mixing(storage: MemoryStorage, sync: Any, events_of: Any) -> None:
    count = 200 if sync != "always" else 40
    errors: list[BaseException] = []
    seqs: dict[tuple[int, int], int] = {}

    def work(number: int) -> None:
        try:
            agent = log.agent(f"agent {number % 3}")
            for step in range(count):
                chance = step % 10
                if chance < 6:
                    seq = log.reward(agent, number, step, float(step))
                elif chance < 8:
                    seq = log.rewards(agent, number, step, [float(step)])
                else:
                    event = journal.MetricLogged(agent=f"n {number} {step}", metric="m", step=step, value=float(number))
                    seq = log.append(event)
                seqs[number, step] = seq
                if step % 50 == 49:
                    assert log.sync().seq >= seq
        except BaseException as error:
            errors.append(error)

    with journal.open("m", storage=storage, sync=sync, sync_interval=0.002) as log:
        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not errors
    seen = {one.seq: one for one in events_of(storage)}
    for (number, step), seq in seqs.items():
        one = seen[seq]
        assert one.step == step
        assert (one.episode, one.agent) == (
            (number, f"agent {number % 3}") if one.kind == "Rewarded" else (0, f"n {number} {step}")
        )
    assert len(seen) == len(seqs) + sum(one.kind == "NameGiven" for one in seen.values())


def test_concurrent_always_appends_share_their_syncs() -> None:
    faulty = FaultyStorage(MemoryStorage())

    def work() -> None:
        for step in range(25):
            log.reward(agent, 0, step, 1.0)

    with journal.open("m", storage=faulty, sync="always", sync_interval=60) as log:
        agent = log.agent("a")
        plain = log._commit._sync

        def slow(segment: Any) -> None:
            time.sleep(0.005)  # Long beside an append, also on a busy machine.
            plain(segment)

        log._commit._sync = slow  # type: ignore[method-assign]
        faulty.operations.clear()
        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        syncs = sum(kind == "sync" for kind, _ in faulty.operations)
    assert syncs < 45, f"{syncs} syncs for 200 appends of 8 threads; the least is 25, in turns with one's own 50"


def test_closing_while_others_append_loses_nothing_that_was_acknowledged(events_of: Any) -> None:

    def work(log: journal.Log, agent: int, done: list[int]) -> None:
        try:
            while True:
                done.append(log.reward(agent, 0, 0, 1.0))
        except journal.JournalClosed:
            pass

    for seed in range(12):
        storage = MemoryStorage()
        acknowledged: list[int] = []
        log = journal.open("m", storage=storage, sync_interval=0.001)
        agent = log.agent("a")
        thread = threading.Thread(target=work, args=(log, agent, acknowledged))
        thread.start()
        time.sleep(0.001 * seed)
        log.close()
        thread.join(5)
        assert not thread.is_alive()
        assert [one.seq for one in events_of(storage)][1:] == acknowledged


def test_names_given_by_many_threads_at_once_keep_their_numbers(events_of: Any) -> None:
    storage = MemoryStorage()
    numbers: list[dict[str, int]] = [{} for _ in range(8)]
    with journal.open("m", storage=storage, sync="close") as log:

        def work(mine: dict[str, int]) -> None:
            names = [f"n{i}" for i in range(100)]
            Random(id(mine)).shuffle(names)
            for name in names:
                mine[name] = log.agent(name)

        threads = [threading.Thread(target=work, args=(mine,)) for mine in numbers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert all(mine == numbers[0] for mine in numbers)
    given = {one.payload["name"]: one.payload["number"] for one in events_of(storage)}
    assert given == numbers[0]
