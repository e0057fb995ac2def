"""A disk that is really full, during each operation: one line says so, nothing is lost, and with space it goes on.

Each operation is tried with more and more space left, from none to enough, so that it meets the end of the disk at
each of its steps. In between, all that was recorded before it is there. Then space comes back, and it succeeds.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from small_disk import PAGE, Disk, image, mounted

import agents_adapter
import journal
import replay
from agents_adapter import CheckpointStore, Plan
from replay.compaction import compact
from replay.copying import copy

BUDGETS = [*(PAGE * n for n in (0, 1, 2, 4, 9, 30)), (1 << 20) + 6 * PAGE, 5 << 20]
"""Bytes that are left: a few pages at a time where small files are made, then around a segment's size."""
INODES = (0, 1, 3, 40)
ROOT = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.crash,
    pytest.mark.filterwarnings("ignore:.*next segment cannot be prepared:RuntimeWarning"),
]


# -- the operations ----------------------------------------------------------------------------------------------------


def record(log: journal.Log, count: int) -> None:
    """Events that say which seq they must have."""
    agent = log.agent("a")
    for _ in range(count):
        seq = log.next_seq
        log.reward(agent, seq, 0, seq * 0.5)


def opened(place: Path) -> None:
    with journal.open(place / "x") as log:
        record(log, 3)


def begun(place: Path) -> None:
    with journal.open(place / "new") as log:
        record(log, 3)


def cut(place: Path) -> None:
    """Prepare: a torn tail, which recovery keeps aside."""
    pid = os.fork()
    if not pid:
        log = journal.open(place / "x", sync="close")
        record(log, 100)
        log.sync()
        record(log, 300)
        os._exit(0)
    os.waitpid(pid, 0)
    path = [one for one in sorted((place / "x" / "segments").iterdir()) if any(one.read_bytes()[64:128])][-1]
    data = path.read_bytes().rstrip(b"\0")
    with path.open("r+b") as file:
        file.seek(len(data) - 200 * 64 - 30)
        file.write(b"\xff" * 5)


def compacted(place: Path) -> None:
    compact(place / "x")


def checkpointed(place: Path) -> None:
    with journal.open(place / "x") as log:
        record(log, 3)
        CheckpointStore(log.storage).save(log, "a", 1, {"w": np.arange(30_000, dtype=np.float64)})


def run(place: Path) -> None:
    with agents_adapter.start(place / "x", resume="never", code="c") as training:
        agent = training.agent("b", state={"w": np.arange(3000, dtype=np.float64)})
        for episode in agent.episodes(Plan.from_list([("X", "H1", 0, 10)])):
            episode.step(1.0)


def copied(place: Path) -> None:
    shutil.rmtree(place / "copy", ignore_errors=True)
    copy(place / "x", place / "copy")


OPERATIONS: dict[str, tuple[Callable[[Path], None], Callable[[Path], None]]] = {
    "open": (lambda place: None, opened),
    "a new journal": (lambda place: None, begun),
    "recovery with quarantine": (cut, opened),
    "compaction": (lambda place: None, compacted),
    "checkpoint": (lambda place: None, checkpointed),
    "run": (lambda place: None, run),
    "copy": (lambda place: None, copied),
}
"""What comes before the disk is full, and what is done then. Done again with space, it must succeed."""


def prepared(place: Path) -> int:
    """A journal of two segments in `place`/x. Returns how many events were promised."""
    for number in range(2):
        with journal.open(place / "x") as log:
            record(log, 300 + number)
    return log.promised.seq + 1


def attempt(operation: Callable[[Path], None], place: Path) -> bool:
    """Was it done? Else it raised `DiskFull`, in one line that says what to do."""
    try:
        operation(place)
    except journal.DiskFull as error:
        text = str(error)
        assert "\n" not in text and ("space" in text or "again" in text), text
        return False
    return True


def check(place: Path, promised: int) -> int:
    """What was promised is there, seq by seq. Returns how many events there are."""
    report = replay.verify(place / "x")
    assert report.status != "corrupt" and report.events >= promised, report
    for batch in replay.events(place / "x"):
        ours = batch.filter(pc.equal(batch["agent"].cast(pa.string()), "a"))
        ours = ours.filter(pc.equal(ours["kind"].cast(pa.string()), "Rewarded"))
        assert (ours["value"].to_numpy() == ours["seq"].to_numpy() * 0.5).all()
    return report.events


def wipe(place: Path) -> None:
    for name in ("x", "new", "copy"):
        shutil.rmtree(place / name, ignore_errors=True)


def through(disk: Disk, name: str, fill: Callable[[int], None], budgets: Any) -> list[bool]:
    """The operation with each budget; whether it was done with it."""
    before, operation = OPERATIONS[name]
    outcomes = []
    for left in budgets:
        promised = prepared(disk.place)
        before(disk.place)
        fill(left)
        outcomes.append(attempt(operation, disk.place))
        events = check(disk.place, promised)
        disk.free()
        operation(disk.place)
        assert check(disk.place, promised) >= (events if outcomes[-1] else promised)
        assert replay.verify(disk.place / "x", deep=True).status == "clean"
        assert not list(disk.place.rglob("*.tmp"))
        wipe(disk.place)
    return outcomes


@pytest.mark.parametrize("name", OPERATIONS)
def test_a_full_disk_during_each_operation(disk: Disk, name: str, campaign: Any) -> None:
    """`JOURNAL_BUDGETS` says how many budgets less than enough, none among them; 7 are all."""
    between = campaign.random.sample(BUDGETS[1:-1], campaign.size("JOURNAL_BUDGETS", 2) - 1)
    outcomes = through(disk, name, disk.fill, [BUDGETS[0], *sorted(between), BUDGETS[-1]])
    assert not outcomes[0] and outcomes[-1], outcomes


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_inode_left_during_each_operation(few_names: Disk, name: str) -> None:
    outcomes = through(few_names, name, few_names.take_names, INODES)
    assert not outcomes[0] and outcomes[-1], outcomes


# -- a training that is under way --------------------------------------------------------------------------------------


def one_more(log: journal.Log, form: str) -> None:
    """One event, or one batch of them."""
    agent = log.agent("a")
    seq = log.next_seq
    if form == "scalars":
        for one in range(seq, seq + 1000):
            log.reward(agent, one, 0, one * 0.5)
    elif form == "batch":
        log.rewards(agent, range(seq, seq + 2000), 0, [(seq + i) * 0.5 for i in range(2000)])
    else:
        log.append(journal.Custom(name="x", data=bytes(50_000)))


@pytest.mark.parametrize("form", ["scalars", "batch", "payload"])
@pytest.mark.parametrize("sync", ["group", "close"])
def test_appending_and_rotating_into_a_full_disk(disk: Disk, form: str, sync: Any) -> None:
    """Whatever was appended is there; the same log goes on, and keeps its promises, when there is space."""
    with journal.open(disk.place / "x", sync=sync) as log:
        log.agent("a")
        promised = log.sync().seq
        disk.fill(PAGE)
        with pytest.raises(journal.DiskFull, match="free some space"):
            while True:
                one_more(log, form)
                disk.fill(PAGE)  # A sealed segment gives back what it did not need.
        kept = log.next_seq
        with pytest.raises(journal.DiskFull):
            one_more(log, form)
        assert log.next_seq == kept
        with contextlib.suppress(journal.DiskFull):  # Of journal.json, which lists the newest segment.
            assert log.sync().seq == kept - 1
        assert check(disk.place, promised + 1) <= kept
        disk.free()
        deadline = time.monotonic() + 30
        while log.next_seq == kept and time.monotonic() < deadline:
            with contextlib.suppress(journal.DiskFull):  # The next segment is tried again each second.
                one_more(log, form)
        assert log.sync().seq == log.next_seq - 1 >= kept
    assert check(disk.place, kept + 1) == log.next_seq
    assert replay.verify(disk.place / "x", deep=True).status == "clean"


@pytest.mark.parametrize("form", ["batch", "payload"])
def test_a_full_disk_while_each_append_is_promised(disk: Disk, form: str) -> None:
    """Where an event is in the log and its promise finds no space, the log fails: appended again, it would double."""
    log = journal.open(disk.place / "x", sync="always")
    disk.fill(PAGE)
    kept = 0
    with pytest.raises(journal.JournalFailed, match="space"):
        while True:
            one_more(log, form)
            kept = log.next_seq
            disk.fill(PAGE)
    with contextlib.suppress(journal.JournalFailed):
        log.close()
    assert check(disk.place, kept) >= kept
    disk.free()
    opened(disk.place)
    assert check(disk.place, kept) >= kept + 3
    assert replay.verify(disk.place / "x", deep=True).status == "clean"


@pytest.mark.parametrize("listed", [True, False])
def test_closing_on_a_full_disk_needs_no_space(disk: Disk, listed: bool) -> None:
    """The seal has its place from the beginning, and the unused next segment gives room for journal.json."""
    log = journal.open(disk.place / "x", sync="close")
    deadline = time.monotonic() + 30
    while not (disk.place / "x" / "segments" / "00000001.seg").exists() and time.monotonic() < deadline:
        time.sleep(0.001)  # Full before it was made, there is nothing to give.
    record(log, 10)
    if listed:
        log.sync()
        record(log, 10)
    disk.fill(0)
    log.close()
    assert check(disk.place, log.next_seq) == log.next_seq
    disk.free()
    opened(disk.place)
    assert check(disk.place, 0) == log.next_seq + 3


def test_closing_where_the_next_segment_found_no_space_either_loses_nothing(disk: Disk) -> None:
    """Then journal.json may find none: one line says so, and the next open seals what is there."""
    log = journal.open(disk.place / "x", sync="close")
    disk.fill(0)
    record(log, 10)
    try:
        log.close()
    except journal.DiskFull as error:
        assert "\n" not in str(error)
    disk.free()
    opened(disk.place)
    assert check(disk.place, 0) == log.next_seq + 3


def train(place: Path, disk: Disk | None, full_from: int, every: int) -> np.ndarray:
    """A learner whose every weight depends on all before it. From one episode on there is no space."""
    rng, weights = np.random.default_rng(3), np.random.default_rng(4).normal(size=30_000)
    with agents_adapter.start(place, checkpoint_every=every, keep=1, code="c") as training:
        agent = training.agent("L", state={"w": weights, "rng": rng})
        for episode in agent.episodes(Plan.from_list([("X", "H1", i, i + 1) for i in range(12)])):
            if disk is not None and episode.index >= full_from:
                disk.fill(0)
            for _ in range(6000):
                reward = float(rng.normal() + weights[0])
                weights[episode.index] += reward * 0.01
                episode.step(reward)
    return weights


@pytest.mark.parametrize(("every", "full_from"), [(2, 0), (2, 5), (1000, 0), (1000, 1)])
def test_a_training_stopped_by_a_full_disk_resumes_and_ends_bit_equal(
    tmp_path: Path, disk: Disk, every: int, full_from: int
) -> None:
    """It fails at a checkpoint (`every` 2) or at the next segment; the next start goes on where there is space."""
    expected = train(tmp_path / "uncut", None, 0, every)
    with pytest.raises(journal.DiskFull):
        train(disk.place / "x", disk, full_from, every)
    assert replay.verify(disk.place / "x").status != "corrupt"
    disk.free()
    assert train(disk.place / "x", None, 0, every).tobytes() == expected.tobytes()
    assert replay.verify(disk.place / "x", deep=True).status == "clean"


def test_the_command_line_says_it_in_one_line(disk: Disk) -> None:
    prepared(disk.place)
    disk.fill(0)
    for arguments in (("compact", "x"), ("copy", "x", "copy")):
        done = subprocess.run(
            [sys.executable, "-m", "replay", *arguments],
            cwd=disk.place, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 2 and done.stdout == "" and done.stderr.count("\n") == 1, done
        assert done.stderr.startswith("journal: ") and "space" in done.stderr, done
    disk.free()
    check(disk.place, 600)


# -- copies that share blocks ------------------------------------------------------------------------------------------

APPENDER = """
import sys
import journal

with journal.open("x", sync=sys.argv[1]) as log:
    agent = log.agent("a")
    for _ in range(100):
        seq = log.next_seq
        log.reward(agent, seq, 0, seq * 0.5)
    print(log.sync().seq, flush=True)
    input()
    try:
        for _ in range(20_000):
            seq = log.next_seq
            log.reward(agent, seq, 0, seq * 0.5)
        print("all", flush=True)
    except journal.JournalFailed as error:
        print(type(error).__name__, error, flush=True)
"""


@pytest.mark.parametrize("sync", ["group", "close", "always"])
@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_a_reflink_copy_of_the_live_segment_and_a_full_disk_kill_nobody(tmp_path: Path, kind: str, sync: str) -> None:
    """After `cp --reflink` a store into the segment needs a new block. Through a map that would be a SIGBUS."""
    made = {"xfs": ("mkfs.xfs", "-q", "-m", "reflink=1"), "btrfs": ("mkfs.btrfs", "-q")}[kind]
    with mounted(tmp_path / "small", "-o", "loop", image(tmp_path / "image", 320 << 20, *made)) as disk:
        process = subprocess.Popen(
            [sys.executable, "-c", APPENDER, sync],
            cwd=disk.place, env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            assert process.stdin is not None and process.stdout is not None and process.stderr is not None
            promised = int(process.stdout.readline())
            segments = disk.place / "x" / "segments"
            deadline = time.monotonic() + 60
            while not (segments / "00000001.seg").exists():  # The spare, which gets its name when it is ready.
                assert time.monotonic() < deadline, sorted(segments.iterdir())
                time.sleep(0.01)
            for path in sorted(segments.iterdir()):
                shared = disk.place / f"copy-of-{path.name}"
                subprocess.run(["cp", "--reflink=always", path, shared], check=True)
            disk.fill(0)
            process.stdin.write("\n")
            process.stdin.flush()
            said = process.stdout.readline()
            disk.free()
            process.stdin.close()
            code = process.wait(timeout=60)
            assert code >= 0, f"killed by {signal.Signals(-code).name}"
            told = process.stderr.read()
        assert said.startswith(("DiskFull ", "JournalFailed ", "all")) and (said == "all\n" or "space" in said), (
            said,
            told,
        )
        check(disk.place, promised + 1)
        opened(disk.place)
        check(disk.place, promised + 1)
