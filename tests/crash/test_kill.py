"""A process killed by SIGKILL at random moments of appending: every event whose append had returned is there.

The process stores each acknowledged seq in shared memory, which outlives it. The same journal is killed again and
again, so recovery of a recovered journal is killed as well. `JOURNAL_KILLS` is how many kills.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import replay
from journal import batch, cell
from journal.arrays import COUNT
from journal.storage.disk import DiskStorage
from journal.walk import Walk

LIVES = 8
"""Of one journal; a longer one only takes longer to read."""
ACKNOWLEDGED = struct.Struct("<QQ")
"""(life, next seq): all events below it were appended, and append had returned."""

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL here"),
]

APPENDER = """
import mmap, random, struct, sys
import journal
from journal.together import ending

directory, shared, life, seed, sync = sys.argv[1:]
acknowledged = struct.Struct("<QQ")
rng = random.Random(int(seed))
with open(shared, "r+b") as file:
    memory = mmap.mmap(file.fileno(), acknowledged.size)
log = journal.open(directory, sync=sync)
agent = log.agent("PPO")
keys, over = [(agent, 0, i) for i in range(5)], ending(journal.EpisodeEnded(agent="-", episode=0, reason="terminated"))
step = 0
acknowledged.pack_into(memory, 0, int(life), log.next_seq)
while True:
    # What is recorded says which seq it must have: the episode is the seq, the value a function of it.
    seq = log.next_seq
    chance = rng.random()
    if chance < 0.94:
        assert log.reward(agent, seq, step, seq * 0.5) == seq
        following = seq + 1
    elif chance < 0.97:
        # Five episodes start, get a reward each, of zeros, and end.
        what = agent, 0, 5, 21, seq + 5, 0, bytes(5 * 20), keys, range(seq, seq + 5)
        assert log.vector_step(*what, 0.5, range(5), range(5), over) == seq
        following = seq + 15
    elif chance < 0.985:
        count = rng.randrange(1, 3000)
        assert log.rewards(agent, range(seq, seq + count), step, [(seq + i) * 0.5 for i in range(count)]) == seq
        following = seq + count
    elif chance < 0.995:
        assert log.append(journal.Custom(name="seq", data=[seq, "x" * rng.randrange(2000)])) == seq
        following = seq + 1
    elif chance < 0.999:
        log.sync()
        following = seq
    else:
        assert log.append(journal.Custom(name="seq", data=[seq, "x" * rng.randrange(1 << 20)])) == seq
        following = seq + 1
    acknowledged.pack_into(memory, 0, int(life), following)
    step += 1
"""


def killed(directory: Path, shared: Path, life: int, rng: random.Random) -> int:
    """Let a process append, and kill it. Returns how many events it had been told are recorded."""
    sync = rng.choice(("group", "group", "close", "always"))
    command = [sys.executable, "-c", APPENDER, directory, shared, str(life), str(rng.randrange(2**32)), sync]
    early = rng.random() < 0.1  # One life in ten is killed while it opens and recovers.
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(root)}, stderr=subprocess.PIPE)
    with shared.open("r+b") as file, mmap.mmap(file.fileno(), ACKNOWLEDGED.size) as memory, process:
        deadline = time.monotonic() + 30
        while not early and ACKNOWLEDGED.unpack_from(memory)[0] != life and time.monotonic() < deadline:
            assert process.poll() is None, process.stderr.read().decode() if process.stderr else ""
            time.sleep(0.001)
        time.sleep(rng.choice((rng.uniform(0, 0.002), rng.uniform(0, 0.05), rng.uniform(0, 0.4))))
        process.send_signal(signal.SIGKILL)
        process.wait()
        following: int = ACKNOWLEDGED.unpack_from(memory)[1]
        return following


def check(directory: Path, acknowledged: int) -> int:
    """Every event acknowledged is there and says what it said then. Returns how many events there are."""
    seq = started = 0
    for piece in Walk(DiskStorage(directory)):
        for at in piece.heads.tolist():
            one = piece.cells[at]
            kind = int(one["kind"])
            if kind >= cell.MARK_FIRST:
                continue
            assert int(one["seq"]) == seq
            if kind == cell.REWARDED:
                assert (int(one["episode"]), float(one["value"])) == (seq, seq * 0.5)
            if kind == cell.REWARDS:
                count = int(piece.cells[at : at + 1].view(COUNT)["count"][0])
                assert count <= batch.COUNT_MAX and int(one["episode"]) == seq
                seq += count - 1
            if kind == cell.EPISODE_STARTED:
                assert int(one["episode"]) == seq
                started += 1
            if kind == cell.EPISODE_ENDED:
                assert int(one["episode"]) == seq - 10
                started -= 1
            seq += 1
    assert not started, "a vector step is there in part"
    assert seq >= acknowledged, f"{acknowledged} events were acknowledged, {seq} are there"
    return seq


def test_killed_at_random_moments_nothing_acknowledged_is_lost(tmp_path: Path, campaign: Any) -> None:
    rng, kills = campaign.random, campaign.size("JOURNAL_KILLS", 8)
    shared = tmp_path / "shared"
    events = total = 0
    for life in range(1, kills + 1):
        directory = tmp_path / f"{life // LIVES}"
        if not directory.exists():
            shared.write_bytes(bytes(ACKNOWLEDGED.size))
            total, events = total + events, 0
        told = f"kill {life} of {kills}"
        acknowledged = killed(directory, shared, life, rng)
        if not (directory / "journal.json").exists():
            continue
        # First as the reader finds it, before anything is repaired.
        found = check(directory, acknowledged)
        assert found >= events, told
        events = found
        report = replay.verify(directory)
        assert report.status in ("clean", "torn"), (told, report)
    assert total + events > 100 * kills or kills < LIVES
    campaign.report(kills=kills, events=total + events, lost=0)
