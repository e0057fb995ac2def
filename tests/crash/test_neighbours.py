"""Beside others: many readers, and copies with `cp -r`, while a training writes, rotates, seals, closes and compacts.

A reader sees a prefix of what was appended, holding everything that was appended before it began to look, and never
calls it damaged. A copy made file by file is not of one moment: it may be refused, in one line, and is never misread.

`JOURNAL_SECONDS` is how long the readers look; `JOURNAL_COPIES` how many copies are made.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import journal
import replay
from journal import segment
from journal.storage.disk import DiskStorage
from replay.compaction import compact
from replay.scan import scan

NEXT = struct.Struct("<Q")
READERS = 8

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="its neighbours are forked; this system has no fork"),
]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that there is always one being opened or sealed."""
    monkeypatch.setattr(segment, "SIZE_MIN", 16384)
    monkeypatch.setattr(segment, "SIZE_MAX", 65536)
    monkeypatch.setattr(segment, "RESERVE", 1024)


def write(directory: Path, shared: mmap.mmap, seed: int) -> None:
    """Trainings, one after another; what is recorded says which seq it has."""
    rng = random.Random(seed)
    while True:
        with journal.open(directory, sync="group", sync_interval=0.002) as log:
            agent = log.agent("PPO")
            for _ in range(rng.randrange(1, 30)):
                for _ in range(rng.randrange(60)):
                    seq = log.next_seq
                    log.reward(agent, seq, 0, seq * 0.5)
                seq, count = log.next_seq, rng.randrange(1, 200)
                log.rewards(agent, range(seq, seq + count), 0, [(seq + i) * 0.5 for i in range(count)])
                NEXT.pack_into(shared, 0, log.next_seq)
                time.sleep(0.0005)
        if log.next_seq > 30_000:
            time.sleep(60)  # Enough: a longer journal only takes longer to read.
        if rng.random() < 0.5:
            compact(directory)


@contextmanager
def child(work: Any, *arguments: Any) -> Iterator[int]:
    """A forked process that does `work`; ended by SIGKILL."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work(*arguments)
            code = 0
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    try:
        yield pid
    finally:
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass


@contextmanager
def training(directory: Path, seed: int) -> Iterator[mmap.mmap]:
    shared = mmap.mmap(-1, 64)
    with child(write, directory, shared, seed) as pid:
        deadline = time.monotonic() + 30
        while not NEXT.unpack_from(shared)[0] and time.monotonic() < deadline:
            time.sleep(0.001)
        yield shared
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the training failed"


def count_of(directory: Path) -> int:
    """How many events a reader sees; each is what it was appended as."""
    seq = 0
    for batch in scan(DiskStorage(directory)):
        assert np.array_equal(batch.seq, np.arange(seq, seq + len(batch), dtype=batch.seq.dtype))
        rewards = batch.kind == journal.Rewarded.kind
        assert np.array_equal(batch.value[rewards], batch.seq[rewards] * 0.5)
        seq += len(batch)
    return seq


def look(directory: Path, shared: mmap.mmap, seed: int, seconds: float, looks: mmap.mmap, number: int) -> None:
    rng, done, last = random.Random(seed), 0, 0
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        appended = NEXT.unpack_from(shared)[0]
        how = rng.choice(("events", "load", "verify", "deep"))
        if how == "events":
            seen = count_of(directory)
        elif how == "load":
            seen = replay.load(directory).events
        else:
            report = replay.verify(directory, deep=how == "deep")
            assert report.status == "clean", report
            seen = report.events
        assert seen >= appended, f"{how}: {appended} were appended, {seen} are seen"
        assert seen >= last, f"{how}: {last} were seen before, {seen} now"
        last, done = seen, done + 1
        NEXT.pack_into(looks, 8 * number, done)


def test_eight_readers_beside_a_training_see_a_prefix_and_never_damage(tmp_path: Path, campaign: Any) -> None:
    seconds, directory = campaign.size("JOURNAL_SECONDS", 3), tmp_path / "j"
    looks = mmap.mmap(-1, 8 * READERS)
    with training(directory, campaign.random.randrange(2**32)) as shared:
        pids = []
        for number in range(READERS):
            seed = campaign.random.randrange(2**32)
            reader = child(look, directory, shared, seed, seconds, looks, number)
            pids.append((reader.__enter__(), reader))
        try:
            codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid, _ in pids]
        finally:
            for _, reader in pids:
                reader.__exit__(None, None, None)
    assert codes == [0] * READERS
    done = [NEXT.unpack_from(looks, 8 * number)[0] for number in range(READERS)]
    assert all(done), done
    events = NEXT.unpack_from(shared)[0]
    campaign.report(readers=READERS, looks=sum(done), events=events, damaged=0)


def test_a_copy_made_file_by_file_is_refused_or_a_true_prefix(tmp_path: Path, campaign: Any) -> None:
    copies, directory = campaign.size("JOURNAL_COPIES", 15), tmp_path / "j"
    ends: Counter[str] = Counter()
    with training(directory, campaign.random.randrange(2**32)) as shared:
        for number in range(copies):
            copy = tmp_path / f"copy-{number}"
            shutil.copytree(directory, copy, copy_function=_copied, ignore_dangling_symlinks=True)
            ends[_judged(copy, NEXT.unpack_from(shared)[0])] += 1
            shutil.rmtree(copy)
            time.sleep(campaign.random.uniform(0, 0.05))
    campaign.report(copies=copies, misread=0, **ends)


def test_a_copy_of_which_each_file_is_of_another_moment_is_refused_or_a_true_prefix(
    tmp_path: Path, campaign: Any
) -> None:
    """In any order of files and of the pieces of a file, while the journal grows, seals, closes and is compacted."""
    copies, rng = campaign.size("JOURNAL_COPIES", 30), campaign.random
    ends: Counter[str] = Counter()
    for number in range(copies):
        training = Recorded(tmp_path / f"j-{number}", rng)
        training.go_on()
        copy = tmp_path / f"copy-{number}"
        copy.mkdir()
        names = ["journal.json", "writer.lock", "segments", "history", "snapshots"]
        for name in rng.sample(names, len(names)):
            training.go_on()
            place = training.directory / name
            (copy / name).mkdir() if place.is_dir() else training.copy(place, copy / name)
            found = list(place.iterdir()) if place.is_dir() else []
            for path in rng.sample(found, len(found)):
                training.copy(path, copy / name / path.name)
        training.log.close()
        ends[_judged(copy, training.log.next_seq)] += 1
        shutil.rmtree(copy)
        shutil.rmtree(training.directory)
    campaign.report(copies=copies, misread=0, **ends)
    assert {"refused", "prefix"} <= ends.keys()


class Recorded:
    """A training that goes on by itself a little whenever it is told to; what is recorded says which seq it has."""

    def __init__(self, directory: Path, rng: random.Random) -> None:
        self.directory, self.rng = directory, rng
        self.begin()

    def begin(self) -> None:
        self.log = journal.open(self.directory, sync="close")
        self.agent = self.log.agent("PPO")

    def go_on(self) -> None:
        rng = self.rng
        for _ in range(rng.randrange(6)):
            chance, log = rng.random(), self.log
            if chance < 0.6:
                seq, count = log.next_seq, rng.randrange(1, 1000)
                numbers = np.arange(seq, seq + count)
                log.rewards(self.agent, numbers, 0, numbers * 0.5)
            elif chance < 0.9:
                for _ in range(rng.randrange(200)):
                    log.reward(self.agent, log.next_seq, 0, log.next_seq * 0.5)
            elif chance < 0.95:
                log.sync()
            else:
                log.close()
                if rng.random() < 0.6:
                    compact(self.directory)
                self.begin()

    def copy(self, source: Path, target: Path) -> None:
        """As `cp` does, in pieces; what has gone meanwhile is left out, what is open stays readable."""
        try:
            with source.open("rb") as file, target.open("wb") as out:
                while piece := file.read(self.rng.choice((512, 4096, 1 << 16))):
                    out.write(piece)
                    if self.rng.random() < 0.5:
                        self.go_on()
        except FileNotFoundError:
            target.unlink(missing_ok=True)


def test_what_the_breaks_change_is_still_there() -> None:
    """Two of them had come to change nothing: `broken.py` is run by hand, and the code had moved on."""
    sys.path.insert(0, str(Path(__file__).parent))
    import broken

    for one in broken.ALL:
        source = (broken.ROOT / one.path).read_text(encoding="utf-8")
        gone = [before for before in one.changes if before not in source]
        assert not gone, (one.what, one.path, gone)
        for test in one.tests:
            path, _, name = test.partition("::")
            assert f"def {name.partition('[')[0]}(" in (broken.ROOT / path).read_text(encoding="utf-8"), test


def _copied(source: str, target: str) -> str:
    """As `cp -r` does: what has gone meanwhile is left out."""
    try:
        return shutil.copyfile(source, target)
    except FileNotFoundError:
        return target


def _judged(copy: Path, appended: int) -> str:
    if not (copy / "journal.json").exists():
        return "no journal"
    try:
        seen = count_of(copy)
        state = replay.load(copy)
        assert state.events == seen
        with journal.open(copy) as log:
            assert log.next_seq == seen
            log.append(journal.Custom(name="on"))
        assert count_of(copy) == seen + 1
    except journal.JournalError as error:
        assert "\n" not in str(error)
        return "refused"
    assert seen <= appended + 100_000
    return "prefix"
