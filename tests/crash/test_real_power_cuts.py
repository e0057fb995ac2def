"""Real power cuts: a real file system, cut off at a moment of a writer's work, mounted again and recovered.

The file system (ext4 or XFS) lies in an image on an XFS that can share blocks. Copying the image with
`cp --reflink=always` is one atomic step: what the image's "disk" had been given at that moment is there, what was only
in the page cache is not, as after pulling the plug. The writer, an unmodified process, writes at full speed, and notes
what it was promised in a file elsewhere; what that file said *before* the copy began must be in the copy.

`JOURNAL_CUTS` is how many cuts of each file system. Needs root, loop devices and mkfs.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import journal
import replay
from agents_adapter.checkpoint import CheckpointStore
from journal.storage.disk import DiskStorage

ROOT = Path(__file__).parents[2]
CUTS_OF_A_LIFE = 12
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=0,lazy_journal_init=0"],
    "xfs": ["mkfs.xfs", "-q", "-f", "-m", "reflink=1"],
}
SIZE = {"ext4": 256 << 20, "xfs": 320 << 20}

WRITER = """
import os, random, sys
import journal
from agents_adapter.checkpoint import CheckpointStore
from journal.storage.disk import DiskStorage
from replay.compaction import compact

directory, told, seed, honest = sys.argv[1:]
rng = random.Random(int(seed))
out = os.open(told, os.O_WRONLY | os.O_APPEND)
say = lambda *words: os.write(out, (" ".join(map(str, words)) + "\\n").encode())
honest = honest == "honest"
while True:
    sync = rng.choice(("group", "group", "always", "close")) if honest else "close"
    log = journal.open(directory, sync=sync, sync_interval=0.01)
    agent, store = log.agent("PPO"), CheckpointStore(DiskStorage(directory), keep=2)
    store.adopt("PPO", [])
    for turn in range(rng.choice((20, 100, 1000))):
        seq, chance = log.next_seq, rng.random()
        if chance < 0.9:
            for seq in range(seq, seq + (40 if sync != "always" else 1)):
                assert log.reward(agent, seq, 0, seq * 0.5) == seq
        elif chance < 0.97:
            count = rng.randrange(1, 3000)
            log.rewards(agent, range(seq, seq + count), 0, [(seq + i) * 0.5 for i in range(count)])
        elif chance < 0.98:
            log.append(journal.Custom(name="big", data="x" * rng.randrange(1 << 17)))
        elif chance < 0.99:
            saved = store.save(log, "PPO", 0, {"bytes": rng.randbytes(rng.randrange(1 << 15)), "seq": seq})
            say("checkpoint", saved.path, saved.sha256)
        elif honest:
            log.sync()
        receipt = log.promised
        if not honest:
            say("promised", log.next_seq - 1, "-")
        elif chance > 0.9 or sync == "always":
            say("promised", receipt.seq, receipt.chain)
    if honest:
        log.close()
        say("promised", log.promised.seq, log.promised.chain)
        if rng.random() < 0.7:
            compact(directory)
            say("compacted", log.promised.seq)
"""


@dataclass
class Told:
    """What the writer had been promised."""

    seq: int = -1
    chain: str = "-"
    compactions: int = 0
    checkpoints: list[tuple[str, str]] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Told:
        told = cls()
        for line in path.read_text().splitlines(keepends=True):
            words = line.split()
            if not line.endswith("\n"):
                break
            if words[0] == "promised":
                told.seq, told.chain = int(words[1]), words[2]
            elif words[0] == "checkpoint":
                told.checkpoints.append((words[1], words[2]))
            else:
                told.compactions += 1
        return told


def call(*command: object) -> None:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{command}: {done.stderr}"


@contextmanager
def mounted(image: Path, place: Path, *options: str) -> Iterator[Path]:
    place.mkdir(exist_ok=True)
    call("mount", "-o", ",".join(("loop", *options)), image, place)
    try:
        yield place
    finally:
        for _ in range(50):
            if subprocess.run(["umount", str(place)], capture_output=True, check=False).returncode == 0:
                break
            time.sleep(0.05)
        else:
            call("umount", "-l", place)


@contextmanager
def plug(directory: Path, kind: str) -> Iterator[tuple[Path, Path]]:
    """(the image, where it is mounted): a file system that can be cut off."""
    with ExitStack() as stack:
        outer = directory / "outer.img"
        with outer.open("wb") as file:
            file.truncate(8 << 30)
        call(*MAKE["xfs"], outer)
        pool = stack.enter_context(mounted(outer, directory / "pool"))
        image = pool / "disk.img"
        with image.open("wb") as file:
            file.truncate(SIZE[kind])
        call(*MAKE[kind], image)
        yield image, stack.enter_context(mounted(image, directory / "disk"))


def cut(image: Path, number: int) -> Path:
    """Pull the plug."""
    copy = image.with_name(f"cut-{number}.img")
    call("cp", "--reflink=always", image, copy)
    return copy


def lives(directory: Path, kind: str, cuts: int, rng: random.Random, *, honest: bool) -> Iterator[tuple[Path, Told]]:
    """Each cut: the journal in the file system as it was mounted again, and what had been promised before."""
    with plug(directory, kind) as (image, disk):
        done = 0
        while done < cuts:
            told = directory / "told"
            told.write_bytes(b"")
            name = f"life-{done}"
            command = [
                sys.executable,
                "-c",
                WRITER,
                disk / name,
                told,
                rng.randrange(2**32),
                "honest" if honest else "not",
            ]
            writer = subprocess.Popen(
                [str(word) for word in command], env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE
            )
            taken: list[tuple[Path, Told]] = []
            with writer:
                try:
                    deadline = time.monotonic() + 30
                    while not told.stat().st_size and writer.poll() is None and time.monotonic() < deadline:
                        time.sleep(0.001)
                    for _ in range(min(CUTS_OF_A_LIFE, cuts - done)):
                        time.sleep(rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.2))))
                        if honest and rng.random() < 0.1:
                            os.sync()  # A kernel may write back at any time what nobody has synced.
                        before = Told.read(told)
                        assert writer.poll() is None, writer.stderr.read().decode() if writer.stderr else ""
                        taken.append((cut(image, done + len(taken)), before))
                finally:
                    writer.send_signal(signal.SIGKILL)
                    writer.wait()
            shutil.rmtree(disk / name)
            for copy, before in taken:
                with mounted(copy, directory / "after", *(["nouuid"] if kind == "xfs" else [])) as after:
                    yield after / name, before
                copy.unlink()
            done += len(taken)


def lost(place: Path, told: Told) -> int:
    """Check what a cut left, as a reader finds it and after recovery. Returns how many promised events are missing."""
    if not (place / "journal.json").exists():
        return told.seq + 1
    expect = None if told.chain == "-" else (told.seq, told.chain)
    for _ in ("as it was found", "recovered"):
        report = replay.verify(place, deep=True, expect=expect)
        if report.events <= told.seq:
            return told.seq + 1 - report.events
        assert report.status in ("clean", "torn"), report
        seq = 0
        for batch in replay.events(place):
            seqs = batch["seq"].to_numpy()
            rewards = np.array(batch["kind"].to_pylist()) == "Rewarded"
            assert seqs.tolist() == list(range(seq, seq + len(seqs)))
            assert (batch["value"].to_numpy()[rewards] == seqs[rewards] * 0.5).all()
            assert (batch["episode"].to_numpy()[rewards] == seqs[rewards]).all()
            seq += len(seqs)
        assert seq == report.events
        journal.open(place).close()
    store = CheckpointStore(DiskStorage(place))
    for path, sha256 in told.checkpoints[-1:]:
        assert set(store.load(path, sha256)) == {"bytes", "seq"}
    return 0


@pytest.fixture
def power(tmp_path: Path) -> Path:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        pytest.skip("cutting a file system off needs root, to mount it")
    missing = [tool for tool in ("mkfs.ext4", "mkfs.xfs", "mount", "losetup") if shutil.which(tool) is None]
    if missing:
        pytest.skip(f"missing here: {', '.join(missing)}")
    try:
        with plug(tmp_path, "ext4") as (image, _):
            cut(image, 0)
    except AssertionError as error:
        pytest.skip(f"this system cannot mount and share blocks: {error}")
    return tmp_path


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_after_a_power_cut_everything_promised_is_there(power: Path, campaign: Any, kind: str) -> None:
    cuts = campaign.size("JOURNAL_CUTS", 4)
    done = promised = compactions = checkpoints = 0
    for place, told in lives(power, kind, cuts, campaign.random, honest=True):
        assert lost(place, told) == 0, (done, told)
        done += 1
        promised += told.seq + 1
        compactions += told.compactions > 0
        checkpoints += bool(told.checkpoints)
    assert done == cuts and promised
    campaign.report(
        cuts=done,
        promised_events=promised,
        lost=0,
        refused=0,
        after_compactions=compactions,
        after_checkpoints=checkpoints,
    )


@pytest.mark.crash
@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_writer_that_says_promised_without_syncing_is_caught(power: Path, campaign: Any, kind: str) -> None:
    """The control: could this harness not see a loss, the test above would show nothing."""
    losses = [lost(place, told) for place, told in lives(power, kind, 3, campaign.random, honest=False)]
    assert any(losses), "a power cut lost nothing that was not synced: this harness cannot see a loss"
    campaign.report(cuts=len(losses), events_lost=sum(losses))
