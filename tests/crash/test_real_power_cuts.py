"""The power is cut under a real kernel: a clone of the disk, taken in one instant while a training records on it.

    outer XFS with reflinks ─▶ one image file ─▶ inner ext4 or XFS, mounted: the training records here
                                    └ cp --reflink: what was on that disk at one instant, and nothing else

A clone is mounted, so the kernel replays its journal; then ours is read, recovered, and checked against what had been
acknowledged before the clone began. `JOURNAL_CUTS` is how many clones on each file system.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

import journal
import replay
from agents_adapter import CheckpointStore
from journal.manifest import Manifest
from journal.storage.disk import DiskStorage

SIZES = {"ext4": 128 << 20, "xfs": 320 << 20}
OUTER_SIZE = 12 << 30
"""Sparse: what is never written takes no space."""
CUTS_OF_A_LIFE = 12
NEWEST_KEPT = 2
"""Of the acknowledged checkpoints: the store keeps 3, and a save may be at work when the power goes."""
PAGE = 4096

pytestmark = pytest.mark.crash


class Lost(AssertionError):
    """Something that was acknowledged is not there."""


def run(*command: object) -> None:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120)
    if done.returncode:
        raise OSError(f"{' '.join(map(str, command))}: {done.stderr.strip()}")


@contextlib.contextmanager
def mounted(image: Path, place: Path, *options: str) -> Iterator[Path]:
    """A file system in a file; unmounted, and its loop device given back, whatever happens."""
    place.mkdir(exist_ok=True)
    run("mount", "-o", ",".join(("loop", *options)), image, place)
    try:
        yield place
    finally:
        if subprocess.run(["umount", place], capture_output=True).returncode:
            subprocess.run(["umount", "-l", place], check=True)


def make(image: Path, kind: str, size: int) -> None:
    image.unlink(missing_ok=True)
    with image.open("wb") as file:
        file.truncate(size)
    run(*{"ext4": ("mkfs.ext4", "-q", "-F"), "xfs": ("mkfs.xfs", "-q", "-m", "reflink=1")}[kind], image)


@pytest.fixture
def outer(tmp_path: Path) -> Iterator[Path]:
    """A mounted file system whose files can be cloned in one instant."""
    for tool in ("mkfs.xfs", "mkfs.ext4", "mount", "losetup"):
        if shutil.which(tool) is None:
            pytest.skip(f"cutting the power needs {tool}")
    if os.geteuid() != 0:
        pytest.skip("mounting the images whose power is cut needs root")
    image = tmp_path / "outer.img"
    try:
        make(image, "xfs", OUTER_SIZE)
        mount = mounted(image, tmp_path / "outer")
        place = mount.__enter__()
    except OSError as error:
        pytest.skip(f"an XFS image with reflinks cannot be mounted here: {error}")
    try:
        yield place
    finally:
        mount.__exit__(None, None, None)
        image.unlink()


# -- one life, and the cuts of it --------------------------------------------------------------------------------------


@dataclass
class Acked:
    """What the training had been told, up to one instant."""

    seq: int = -1
    expect: tuple[int, str] | None = None
    checkpoints: list[tuple[str, str, int]] = field(default_factory=list)
    compacted: int = -1

    @classmethod
    def read(cls, data: bytes) -> Acked:
        acked = cls()
        for line in data[: data.rfind(b"\n") + 1].splitlines():
            told = json.loads(line)
            acked.seq = max(acked.seq, told.get("seq", -1))
            acked.compacted = max(acked.compacted, told.get("compacted", -1))
            if "expect" in told:
                acked.expect = (told["expect"][0], told["expect"][1])
            if "checkpoint" in told:
                acked.checkpoints.append(tuple(told["checkpoint"]))
        return acked


class Disk:
    """The inner file system, and the clones of it."""

    def __init__(self, outer: Path, kind: str, rng: random.Random) -> None:
        self.outer, self.kind, self.rng = outer, kind, rng
        self.image = outer / "inner.img"

    def life(self, cuts: int, *, lie: bool = False) -> list[tuple[Path, Acked]]:
        """Let a training record, cut the power so many times (fewer where the disk fills up)."""
        rng = self.rng
        acked = self.outer.parent / "acked"
        acked.write_bytes(b"")
        make(self.image, self.kind, SIZES[self.kind])
        # Without pressure the kernel keeps what was not synced for 5 seconds; with it, some pages come to disk early.
        pressure = not lie and rng.random() < 0.7
        sync = "close" if lie else rng.choice(("group", "group", "always", "close", "close"))
        patient = lie or rng.random() < 0.9  # Else cuts fall into the making of the journal as well.
        taken: list[tuple[Path, Acked]] = []
        with mounted(self.image, self.outer.parent / "live") as place:
            command = [sys.executable, Path(__file__).with_name("recording.py"), place / "x", acked]
            command += [str(rng.randrange(2**32)), sync, *(["--lie"] if lie else [])]
            root = Path(__file__).parents[2]
            errors = self.outer.parent / "errors"
            with (
                errors.open("wb") as stderr,
                subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(root)}, stderr=stderr) as process,
            ):
                try:
                    deadline = time.monotonic() + 60
                    while process.poll() is None and time.monotonic() < deadline:
                        if acked.stat().st_size or (not patient and (place / "x").exists()):
                            break
                        time.sleep(0.001)
                    while len(taken) < cuts and process.poll() is None:
                        time.sleep(rng.choice((rng.uniform(0, 0.01), rng.uniform(0, 0.1), rng.uniform(0, 0.2))))
                        if pressure:
                            write_back(place / "x" / "segments", rng)
                        space = os.statvfs(place)
                        if space.f_bavail < space.f_blocks // 3:
                            break
                        taken.append(self.cut(len(taken), acked))
                    assert process.poll() is None, errors.read_text()
                finally:
                    process.kill()
        return taken

    def cut(self, number: int, acked: Path) -> tuple[Path, Acked]:
        size = acked.stat().st_size  # Before the clone begins: what is acknowledged during it may be lost.
        clone = self.outer / f"cut-{number}.img"
        run("cp", "--reflink=always", self.image, clone)
        with acked.open("rb") as file:
            return clone, Acked.read(file.read(size))

    def after(self, clone: Path, check: Callable[[Path], None]) -> None:
        """The power comes back: mount what was on the disk, and look."""
        options = ("nouuid",) if self.kind == "xfs" else ()
        try:
            with mounted(clone, self.outer.parent / "after", *options) as place:
                check(place / "x")
        finally:
            clone.unlink()


def write_back(directory: Path, rng: random.Random) -> None:
    """Some of the last pages reach the disk before anybody syncs them, those before them not, as under pressure."""
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError):
        newest = sorted(directory.iterdir())[-2:]  # The spare is mostly the last.
        with newest[-1].open("rb") as file:
            # Read again, its pages come one by one and are written so; as they were made, a megabyte is one unit.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        with rng.choice(newest).open("rb") as file:
            last = len(file.read().rstrip(b"\0")) // PAGE
            for _ in range(rng.randrange(1, 4)):
                start = max(0, last - rng.randrange(8))
                # 7: wait before, write, wait after.
                _LIBC.sync_file_range(
                    file.fileno(), ctypes.c_int64(start * PAGE), ctypes.c_int64(PAGE), ctypes.c_uint(7)
                )


_LIBC = ctypes.CDLL(None, use_errno=True)


# -- what must be there ------------------------------------------------------------------------------------------------


def check(directory: Path, acked: Acked, found: Counter[str]) -> None:
    """Everything acknowledged is there, and says what it said then. Raises `Lost`; anything else is a refusal."""
    storage = DiskStorage(directory)
    if acked.seq < 0 and not (directory / "journal.json").exists():
        journal.open(directory).close()  # Cut while it was made: it is made now.
        found["unmade"] += 1
        return
    before = replay.verify(directory)
    found[before.status] += 1
    assert before.status != "corrupt", before
    with journal.open(directory) as log:
        found["adopted"] += log.recovered.adopted_events > 0
        events = log.next_seq
    if events <= acked.seq:
        raise Lost(f"seq {acked.seq} was acknowledged, {events} events are there")
    after = replay.verify(directory, deep=True, expect=acked.expect)
    assert after.status == "clean" and after.events == events, after
    assert contents(directory) == events
    assert Manifest.read(storage).base.seq > acked.compacted
    for path, sha256, seq in acked.checkpoints[-NEWEST_KEPT:]:
        content = CheckpointStore(storage).load(path, sha256)
        assert content["seq"] == seq and (content["weights"] == np.arange(len(content["weights"]))).all()
    found["compacted"] += Manifest.read(storage).base.seq > 0
    found["checkpoints"] += bool(acked.checkpoints)


def contents(directory: Path) -> int:
    """Each event says which seq it must have, in its own words. Returns how many there are."""
    following = 0
    for batch in replay.events(directory):
        seq = batch["seq"].to_numpy()
        assert (seq == np.arange(following, following + len(seq))).all()
        following += len(seq)
        rewarded = batch.filter(pc.equal(batch["kind"].cast(pa.string()), "Rewarded"))
        own = rewarded["seq"].to_numpy()
        assert (rewarded["episode"].to_numpy() == own).all() and (rewarded["value"].to_numpy() == own * 0.5).all()
        custom = batch.filter(pc.equal(batch["kind"].cast(pa.string()), "Custom"))
        for own_seq, fields in zip(custom["seq"].to_pylist(), custom["fields"].to_pylist(), strict=True):
            said, text = json.loads(fields)["data"]
            assert said == own_seq and not text.strip("x")
    return following


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_power_cuts_lose_nothing_that_was_acknowledged(outer: Path, kind: str, campaign: Any) -> None:
    wanted = campaign.size("JOURNAL_CUTS", 3)
    disk = Disk(outer, kind, campaign.random)
    found: Counter[str] = Counter()
    cuts = lives = acknowledged = 0
    while cuts < wanted:
        lives += 1
        for clone, acked in disk.life(min(wanted - cuts, CUTS_OF_A_LIFE)):
            cuts += 1
            acknowledged += acked.seq + 1
            disk.after(clone, lambda place, acked=acked: check(place, acked, found))
    assert acknowledged > 0

    # The control: who acknowledges without a sync is seen to lose, or this test could see no loss at all.
    seen = lies = 0
    for clone, acked in disk.life(max(3, min(wanted, CUTS_OF_A_LIFE)), lie=True):
        lies += 1
        try:
            disk.after(clone, lambda place, acked=acked: check(place, acked, Counter()))
        except Lost:
            seen += 1
    assert seen, f"{lies} power cuts took nothing from a training that never synced"
    campaign.report(
        file_system=kind, cuts=cuts, lives=lives, acknowledged=acknowledged, lost=0, refused=0, **found,
        control=f"{seen} of {lies} lost",
    )  # fmt: skip
