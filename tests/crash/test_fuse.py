"""A real file system that gives no shared writable map: FUSE with `direct_io`, where the kernel refuses it.

There every event is a `pwrite`, with the same promise: it survives the death of its process when `append` returns.
"""

from __future__ import annotations

import errno
import mmap
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import journal
import replay
from journal.storage.disk import DiskStorage
from replay.compaction import compact

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
import journal

with journal.open(sys.argv[1]) as log:
    agent = log.agent("a")
    while True:
        seq = log.next_seq
        print(log.reward(agent, seq, 0, seq * 0.5), flush=True)
"""

pytestmark = pytest.mark.crash


@pytest.fixture
def unmappable(tmp_path: Path) -> Iterator[Path]:
    """A directory in which no file can be mapped for shared writing."""
    if shutil.which("bindfs") is None or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        pytest.skip("needs bindfs and /dev/fuse")
    below, place = tmp_path / "below", tmp_path / "fuse"
    below.mkdir()
    place.mkdir()
    done = subprocess.run(["bindfs", "-o", "direct_io", below, place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"FUSE cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        if os.geteuid() == 0:
            subprocess.run(["umount", "-l", place], check=True)
        else:
            subprocess.run(["fusermount", "-uz", place], check=True)


def test_where_nothing_can_be_mapped_a_killed_writer_loses_nothing(unmappable: Path) -> None:
    with (unmappable / "probe").open("w+b") as file:
        file.truncate(4096)
        with pytest.raises(OSError) as refused:
            mmap.mmap(file.fileno(), 4096)
        assert refused.value.errno == errno.ENODEV, "this file system maps after all"
    place = unmappable / "j"
    known = -1
    for _ in range(3):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, place],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        with writer:
            assert writer.stdout is not None
            for _ in range(500):
                known = int(writer.stdout.readline())
            with pytest.raises(journal.JournalLocked) as held:
                journal.open(place)
            assert writer.pid in held.value.pids
            assert replay.verify(place).events > known
            writer.send_signal(signal.SIGKILL)
            known = max([known, *map(int, writer.stdout.read().split("\n")[:-1])])
        with journal.open(place) as log:
            assert log.recovered.crashed and not log.recovered.torn_events
            assert not log.mapped and DiskStorage(place).file_system.startswith("fuse")
            assert log.next_seq > known
            log.append(journal.Custom(name="on"))
        compact(place)
    report = replay.verify(place, deep=True)
    assert (report.status, report.events) == ("clean", log.next_seq)
    for batch in replay.events(place):
        for seq, kind, value in zip(*(batch[name].to_pylist() for name in ("seq", "kind", "value")), strict=True):
            assert kind != "Rewarded" or value == seq * 0.5
