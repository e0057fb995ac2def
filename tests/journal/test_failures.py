"""The system fails: what is promised stays, nothing false is promised after it, and a full disk is only a pause."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

import journal
from journal.cell import CELL
from journal.storage.disk import DiskStorage
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.walk import Walk


@pytest.fixture(params=["mapped", "pwrite"])
def faulty(request: pytest.FixtureRequest) -> FaultyStorage:
    return FaultyStorage(MemoryStorage(mappable=request.param == "mapped"))


@contextlib.contextmanager
def abandoned(log: journal.Log) -> Iterator[journal.Log]:
    """A log whose last close may fail."""
    try:
        yield log
    finally:
        with contextlib.suppress(journal.JournalError):
            log.close()


def every_use(log: journal.Log) -> list[Any]:
    return [
        lambda: log.reward(1, 0, 0, 1.0),
        lambda: log.rewards(1, 0, 0, [1.0]),
        lambda: log.append(journal.Custom(name="x")),
        lambda: log.agent("new"),
        log.sync,
    ]


# -- a failed sync or write is poison --------------------------------------------------------------------------------


@pytest.mark.parametrize("sync", ["group", "always", "close"])
@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC, errno.EDQUOT])
def test_after_a_failed_sync_nothing_is_promised_and_every_call_fails(
    faulty: FaultyStorage, sync: Any, error: int, events_of: Any
) -> None:
    """The kernel may have dropped the bytes and called them clean: the next sync would succeed and prove nothing."""
    with abandoned(journal.open("m", storage=faulty, sync=sync, sync_interval=3600)) as log:
        log.append(journal.Custom(name="kept"))
        before = log.sync()
        faulty.fail("sync", path="segments/00000000.seg", error=error)
        with pytest.raises(journal.JournalFailed) as caught:
            log.append(journal.Custom(name="in doubt"))
            log.sync()
        assert type(caught.value) is journal.JournalFailed and "open the journal again" in str(caught.value)
        for use in every_use(log) * 2:
            with pytest.raises(journal.JournalFailed):
                use()
        assert log.promised == before
        with pytest.raises(journal.JournalFailed):
            log.close()
        log.close()
    assert log.promised == before
    with journal.open("m", storage=faulty.inner) as log:
        assert log.tail()[2] >= before.seq + 1
    assert events_of(faulty.inner)[0].payload == {"name": "kept"}


@pytest.mark.parametrize("sync", ["group", "close"])
@pytest.mark.parametrize("seals", [False, True])
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_what_cannot_be_read_back_is_poison(sync: Any, seals: bool, events_of: Any) -> None:
    """Cells that were written by pwrite are read to be hashed, also by the thread, which has nobody to tell."""
    faulty = FaultyStorage(MemoryStorage(mappable=False))
    with abandoned(journal.open("m", storage=faulty, sync=sync, sync_interval=0.005)) as log:
        log.append(journal.Custom(name="kept"))
        before = log.sync()
        faulty.fail("read", path="segments/00000000.seg")
        with pytest.raises(journal.JournalFailed, match="open the journal again"):
            while True:
                log.append(journal.Custom(name="in doubt"))
                if sync == "close":
                    log.close() if seals else log.sync()
        for use in every_use(log):
            with pytest.raises((journal.JournalFailed, journal.JournalClosed)):
                use()
        assert log.promised == before
    with journal.open("m", storage=faulty.inner) as log:
        assert log.tail()[2] >= before.seq + 1
    assert events_of(faulty.inner)[0].payload == {"name": "kept"}


def test_the_sync_thread_finds_the_failure_and_the_fast_path_tells_it(faulty: FaultyStorage) -> None:
    with abandoned(journal.open("m", storage=faulty, sync_interval=0.005)) as log:
        agent = log.agent("a")
        log.sync()
        faulty.fail("sync", path="segments/00000000.seg")
        deadline = time.monotonic() + 5
        with pytest.raises(journal.JournalFailed):
            while time.monotonic() < deadline:
                log.reward(agent, 0, 0, 1.0)


def test_a_thread_that_waited_for_the_failing_sync_does_not_retry_it(faulty: FaultyStorage) -> None:
    with abandoned(journal.open("m", storage=faulty, sync="close")) as log:
        log.append(journal.Custom(name="x"))
        log.poison(OSError(errno.EIO, "seen by another thread"), "syncing the log")
        before = len(faulty.operations)
        for promise in (log._commit.once, log._commit.settle, log._commit.close, lambda: log._commit.reach(0)):
            with pytest.raises(journal.JournalFailed):
                promise()
        assert len(faulty.operations) == before and log.promised.seq == -1


def test_a_failure_while_the_writer_waits_for_a_segment_is_not_forgotten(
    faulty: FaultyStorage, small_segments: int
) -> None:
    with abandoned(journal.open("m", storage=faulty, sync="close")) as log:
        agent = log.agent("a")
        plain = log._spares.take

        def take(needed: int) -> Any:
            log.poison(OSError(errno.EIO, "meanwhile"), "syncing the log")
            return plain(needed)

        log._spares.take = take  # type: ignore[method-assign]
        with pytest.raises(journal.JournalFailed):
            for step in range(1000):
                log.reward(agent, 0, step, 1.0)
        assert step < 70


def test_a_failed_write_is_poison_and_leaves_no_half_event(events_of: Any) -> None:
    for tear in (False, True):
        faulty = FaultyStorage(MemoryStorage(mappable=False))
        with abandoned(journal.open("m", storage=faulty, sync="close")) as log:
            log.append(journal.Custom(name="kept"))
            faulty.fail("write", path="segments/00000000.seg", tear=tear)
            with pytest.raises(journal.JournalFailed, match="writing to the log"):
                log.append(journal.Custom(name="lost", data=b"x" * 3000))
            with pytest.raises(journal.JournalFailed):
                log.append(journal.Custom(name="refused"))
        with journal.open("m", storage=faulty.inner) as log:
            assert log.append(journal.Custom(name="on")) == 1
        assert [one.payload["name"] for one in events_of(faulty.inner)] == ["kept", "on"]


@pytest.mark.parametrize("kind", ["write", "truncate"])
def test_a_seal_that_fails_is_poison_and_recovery_makes_it(faulty: FaultyStorage, kind: str, events_of: Any) -> None:
    log = journal.open("m", storage=faulty, sync="close")
    log.append(journal.Custom(name="x"))
    log.sync()
    faulty.fail(kind, path="segments/00000000.seg")
    with pytest.raises(journal.JournalFailed, match="sealing"):
        log.close()
    with journal.open("m", storage=faulty.inner) as log:
        assert log.tail()[2] == 1
    assert len(events_of(faulty.inner)) == 1


def test_a_timeout_raised_by_a_signal_handler_is_no_failure_of_the_disk(faulty: FaultyStorage, events_of: Any) -> None:
    """TimeoutError is an OSError; raised by somebody's alarm inside an append it must not poison the log."""
    with journal.open("m", storage=faulty, sync="close") as log:
        log.append(journal.Custom(name="x"))
        plain = log._put

        def put(*arguments: Any) -> None:
            raise TimeoutError("the user's alarm")

        log._put = put
        with pytest.raises(TimeoutError):
            log.append(journal.Custom(name="y"))
        log._put = plain
        log.append(journal.Custom(name="z"))
    assert [one.payload["name"] for one in events_of(faulty.inner)] == ["x", "z"]


# -- a full disk -----------------------------------------------------------------------------------------------------


def filled(log: journal.Log, agent: int) -> int:
    """Append until the disk is full; returns how many."""
    count = 0
    with pytest.raises(journal.DiskFull, match="free some space"):
        while count < 1_000_000:
            log.reward(agent, 0, count, 1.0)
            count += 1
    return count


@pytest.mark.usefixtures("small_segments")
@pytest.mark.filterwarnings("ignore:.*next segment cannot be prepared:RuntimeWarning")
def test_a_full_disk_stops_appending_and_space_lets_it_go_on(
    faulty: FaultyStorage, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("journal.live._RETRY", 0.02)
    with journal.open("m", storage=faulty, sync="close") as log:
        agent = log.agent("a")
        log.append(journal.EpisodeStarted(agent="a", episode=0))
        faulty.fail("create", path="segments/*", times=10**9, error=errno.ENOSPC)
        count = filled(log, agent)
        for _ in range(3):
            with pytest.raises(journal.DiskFull):
                log.reward(agent, 0, 0, 1.0)
        # What ends a run still finds room, and everything can be promised.
        log.append(journal.EpisodeEnded(agent="a", episode=0, reason="interrupted"))
        last = log.append(journal.AttemptEnded(run="r", attempt=0, status="interrupted"))
        assert log.sync().seq == last
        faulty.heal()
        deadline = time.monotonic() + 5
        while time.monotonic() < deadline:
            try:
                log.reward(agent, 0, count, 2.0)
                break
            except journal.DiskFull:
                time.sleep(0.01)
    seen = events_of(faulty.inner)
    assert sum(one.value == 1.0 and one.kind == "Rewarded" for one in seen) == count
    assert seen[-1].value == 2.0


@pytest.mark.usefixtures("small_segments")
def test_a_full_disk_is_warned_of_once(faulty: FaultyStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.live._RETRY", 0.01)
    faulty.fail("create", path="segments/00000001*", times=10**9, error=errno.ENOSPC)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with journal.open("m", storage=faulty) as log:
            log.append(journal.Custom(name="x"))
            time.sleep(0.1)
            log.append(journal.Custom(name="y"))
    assert [str(one.message).partition(":")[2][:45] for one in caught] == [
        " the next segment cannot be prepared ([Errno "
    ]


@pytest.mark.usefixtures("small_segments")
@pytest.mark.filterwarnings("ignore:.*next segment cannot be prepared:RuntimeWarning")
def test_a_reserve_that_is_used_up_ends_in_disk_full_and_not_in_a_hang(faulty: FaultyStorage) -> None:
    with journal.open("m", storage=faulty, sync="close") as log:
        agent = log.agent("a")
        faulty.fail("create", path="segments/*", times=10**9, error=errno.ENOSPC)
        filled(log, agent)
        if (log._segment.seal_at - log.tail()[1]) % (2 * CELL):
            log.sync()  # A receipt, so that events of two cells fill the rest exactly.
        with pytest.raises(journal.DiskFull):
            for _ in range(100):
                log.append(journal.RunEnded(run="r"))
        assert log.tail()[1] == log._segment.seal_at
        with pytest.raises(journal.DiskFull, match="no room for a receipt"):
            log.sync()
        seq = log.tail()[2]
    assert Walk(faulty.inner).run().promise.events == seq  # The seal's place was kept.


def test_no_space_for_journal_json_is_a_pause_for_group_and_the_end_for_always(faulty: FaultyStorage) -> None:
    with journal.open("m", storage=faulty, sync="close") as log:
        log.append(journal.Custom(name="x"))
        faulty.fail("create", path="journal.json.tmp", error=errno.ENOSPC)
        with pytest.raises(journal.DiskFull):
            log.sync()
        assert log.append(journal.Custom(name="y")) == 1
        assert log.sync().seq == 1
    with abandoned(journal.open("m", storage=faulty, sync="always")) as log:
        faulty.fail("create", path="journal.json.tmp", error=errno.ENOSPC)
        # The event is in the log, but its promise could not be kept: appending it again would double it.
        with pytest.raises(journal.JournalFailed) as caught:
            log.append(journal.Custom(name="z"))
        assert not isinstance(caught.value, journal.DiskFull)
        with pytest.raises(journal.JournalFailed):
            log.append(journal.Custom(name="z"))


def test_a_journal_that_cannot_be_opened_says_why_and_leaves_the_lock(faulty: FaultyStorage) -> None:
    for kind, error, expected in (
        ("create", errno.ENOSPC, journal.DiskFull),
        ("create", errno.EROFS, journal.JournalFailed),
        ("make_directory", errno.EACCES, journal.JournalFailed),
        ("lock", errno.EIO, journal.JournalFailed),
        ("sync", errno.EIO, journal.JournalFailed),
        ("rename", errno.EIO, journal.JournalFailed),
    ):
        faulty.fail(kind, error=error)
        with pytest.raises(expected):
            journal.open("m", storage=faulty)
        faulty.heal()
        assert not faulty.locked("writer.lock")
    journal.open("m", storage=faulty).close()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A real file system of 4 MiB."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small tmpfs needs root")
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", place], check=True)


@pytest.mark.filterwarnings("ignore:.*next segment cannot be prepared:RuntimeWarning")
def test_a_really_full_disk(small_disk: Path, events_of: Any) -> None:
    ballast = small_disk / "ballast"
    with journal.open(small_disk / "x") as log:
        assert log.mapped
        agent = log.agent("a")
        ballast.write_bytes(bytes(512 << 10))
        count = filled(log, agent)
        assert count > 40_000  # The first segment and the second; the third, even the smallest, has no room.
        last = log.append(journal.RunEnded(run="r"))
        assert log.sync().seq == last
        ballast.unlink()
        deadline = time.monotonic() + 10
        while True:
            try:
                log.reward(agent, 0, count, 2.0)
                break
            except journal.DiskFull:
                assert time.monotonic() < deadline
                time.sleep(0.05)
    seen = events_of(DiskStorage(small_disk / "x"))
    assert len(seen) == 1 + count + 1 + 1 and seen[-1].value == 2.0


def test_no_space_to_open_at_all(small_disk: Path) -> None:
    (small_disk / "ballast").write_bytes(bytes((4 << 20) - (64 << 10)))
    with pytest.raises(journal.DiskFull):
        journal.open(small_disk / "x")
    (small_disk / "ballast").unlink()
    journal.open(small_disk / "x").close()


# -- somebody else's hands -------------------------------------------------------------------------------------------


def test_a_directory_deleted_under_the_writer_is_noticed_before_the_next_promise(tmp_path: Path) -> None:
    with abandoned(journal.open(tmp_path / "x", sync="close")) as log:
        log.append(journal.Custom(name="x"))
        log.sync()
        shutil.rmtree(tmp_path / "x")
        log.append(journal.Custom(name="y"))
        with pytest.raises(journal.JournalFailed, match="deleted"):
            log.sync()
        with pytest.raises(journal.JournalFailed):
            log.append(journal.Custom(name="z"))


@pytest.mark.parametrize("mappable", [True, False])
def test_a_segment_cut_under_the_writer_is_noticed_before_the_next_promise(mappable: bool) -> None:
    storage = MemoryStorage(mappable=mappable)
    with abandoned(journal.open("m", storage=storage, sync="close")) as log:
        log.append(journal.Custom(name="x"))
        storage.open("segments/00000000.seg").truncate(4096)
        with pytest.raises(journal.JournalFailed, match=r"has 4,096 bytes instead of 1,048,576"):
            log.sync()


def test_not_a_journal(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(journal.NotAJournal, match="a file, not a directory"):
        journal.open(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
    other = tmp_path / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("x")
    with pytest.raises(journal.NotAJournal, match=r"thesis\.tex"):
        journal.open(other)
    assert os.listdir(other) == ["thesis.tex"]
    with pytest.raises(journal.JournalFailed):
        journal.open(tmp_path / "file" / "below")


def as_nobody(action: Any) -> str:
    """What `action` raises in a child without any rights."""
    if os.geteuid() != 0:
        pytest.skip("dropping rights needs root")
    read, write = os.pipe()
    child = os.fork()
    if not child:
        try:
            os.setgroups([])
            os.setgid(65534)
            os.setuid(65534)
            action()
            text = "nothing"
        except BaseException as error:
            text = f"{type(error).__name__}: {error}"
        os.write(write, text.encode())
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as stream:
        text = stream.read()
    os.waitpid(child, 0)
    return text


def test_no_permission_and_a_read_only_directory(tmp_path: Path) -> None:
    for directory in (tmp_path, *tmp_path.parents):
        if not directory.stat().st_mode & 0o001:
            directory.chmod(directory.stat().st_mode | 0o011) if directory.owner() == "root" else None
    closed, readable = tmp_path / "closed", tmp_path / "readable"
    with journal.open(closed) as log:
        log.append(journal.Custom(name="x"))
    readable.mkdir(mode=0o755)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    for place in (closed, readable, readable / "new"):
        told = as_nobody(lambda place=place: journal.open(place))
        assert told.startswith("JournalFailed: ") and "ermission denied" in told, told
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_writeback_in_any_order_never_makes_a_good_journal_corrupt(faulty: FaultyStorage, events_of: Any) -> None:
    rng = Random(3)
    storage = faulty.inner
    assert isinstance(storage, MemoryStorage)
    with journal.open("m", storage=storage, sync="close") as log:
        for number in range(40):
            log.append(journal.Custom(name="x", data=bytes(rng.randrange(900))))
            storage.writeback(rng)
            after = storage.crash(rng)
            with journal.open("m", storage=after, sync="close") as again:
                assert again.tail()[2] <= number + 1
            assert len(events_of(after)) <= number + 1
