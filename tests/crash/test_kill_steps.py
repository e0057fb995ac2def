"""SIGKILL in the middle of everything: appends, rotations, checkpoints, closes, recoveries, compactions.

A forked child goes from step to step, and says in shared memory which one it is at and how far its appends have come;
it is killed at a random moment. Then the journal is read as it was left: every event whose append had returned, the
state that these events give, the newest checkpoint that was saved. The next child recovers it, or is killed at that.

`JOURNAL_KILLS` is how many kills.
"""

from __future__ import annotations

import mmap
import os
import random
import shutil
import signal
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import journal
import replay
from agents_adapter.checkpoint import CheckpointStore
from journal import segment
from journal.manifest import Manifest
from journal.storage.disk import DiskStorage
from replay.compaction import compact
from replay.fold import fold
from replay.scan import scan
from replay.state import State

STEPS = ("begin", "recovery", "append", "sync", "checkpoint", "close", "compaction")
SHARED = struct.Struct("<QQ")
"""(number of the step, next seq: all events below it were appended, and append had returned)."""
SAVED = struct.Struct("<Q")
LIVES = 25
"""Of one journal; a longer one only takes longer to read."""

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child; this system has no fork"),
]


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a few hundred events go on to the next one."""
    monkeypatch.setattr(segment, "SIZE_MIN", 8192)
    monkeypatch.setattr(segment, "SIZE_MAX", 32768)
    monkeypatch.setattr(segment, "RESERVE", 1024)


def work(directory: Path, shared: mmap.mmap, seed: int) -> None:
    """Step after step, for ever. What is recorded says which seq it must have."""
    rng, following = random.Random(seed), 0

    def at(step: str) -> None:
        SHARED.pack_into(shared, 0, STEPS.index(step), following)

    while True:
        at("recovery")
        sync: Any = rng.choice(("group", "group", "close", "always"))
        log = journal.open(directory, sync=sync, sync_interval=0.002)
        agent, store = log.agent("PPO"), CheckpointStore(DiskStorage(directory), keep=2)
        store.adopt("PPO", [])
        following = log.next_seq
        for _ in range(rng.randrange(1, 20)):
            step = rng.choice(("append", "append", "append", "sync", "checkpoint"))
            at(step)
            if step == "append":
                for _ in range(rng.randrange(40) if sync != "always" else 3):
                    seq = log.next_seq
                    assert log.reward(agent, seq, 0, seq * 0.5) == seq
                    following = seq + 1
                    at(step)
                seq, count = log.next_seq, rng.randrange(1, 300)
                log.rewards(agent, range(seq, seq + count), 0, [(seq + i) * 0.5 for i in range(count)])
                log.append(journal.Custom(name="x", data="y" * rng.choice((0, 100, 20_000))))
            elif step == "sync":
                log.sync()
            else:
                saved = store.save(log, "PPO", 0, {"bytes": rng.randbytes(3000)})
                SAVED.pack_into(shared, SHARED.size, saved.seq + 1)
            following = log.next_seq
            at(step)
        at("close")
        log.close()
        at("compaction")
        if rng.random() < 0.7:
            compact(directory)


def check(directory: Path, acknowledged: int, saved: int) -> int:
    """The journal as it was left. Returns how many events it has."""
    storage = DiskStorage(directory)
    fresh, seq = State(Manifest.read(storage).journal_id), 0
    for batch in scan(storage):
        assert np.array_equal(batch.seq, np.arange(seq, seq + len(batch), dtype=batch.seq.dtype))
        seq += len(batch)
        rewards = batch.kind == journal.Rewarded.kind
        assert np.array_equal(batch.value[rewards], batch.seq[rewards] * 0.5)
        assert np.array_equal(batch.episode[rewards], batch.seq[rewards])
        fold(fresh, batch)
    assert seq >= acknowledged, f"{acknowledged} events were acknowledged, {seq} are there"
    state = replay.load(directory)
    assert state.to_payload() == fresh.to_payload(), "the snapshot is not what the events give"
    if saved:
        newest = [one for one in state.agents["PPO"].checkpoints if one.seq + 1 >= saved]
        assert newest, "a checkpoint that was saved is not there"
        for one in newest[:1]:
            assert len(CheckpointStore(storage).load(one.path, one.sha256)["bytes"]) == 3000
    return seq


def test_killed_in_the_middle_of_any_step_nothing_is_lost(tmp_path: Path, campaign: Any) -> None:
    kills, rng = campaign.size("JOURNAL_KILLS", 40), campaign.random
    shared = mmap.mmap(-1, 64)
    during: Counter[str] = Counter()
    events = total = saved = 0
    for kill in range(kills):
        directory = tmp_path / "j"
        if kill % LIVES == 0:
            shutil.rmtree(directory, ignore_errors=True)
            total, events = total + events, 0
            SAVED.pack_into(shared, SHARED.size, 0)
        SHARED.pack_into(shared, 0, 0, events)
        wait = rng.choice((rng.uniform(0, 0.004), rng.uniform(0, 0.05), rng.uniform(0, 0.25)))
        seed = rng.randrange(2**32)
        pid = os.fork()
        if pid == 0:
            try:
                work(directory, shared, seed)
            finally:
                os._exit(1)
        deadline = time.monotonic() + wait
        while time.monotonic() < deadline:
            time.sleep(0.0005)
        # A child that ended by itself failed; otherwise it is there to be killed.
        assert os.waitpid(pid, os.WNOHANG) == (0, 0), "the child failed"
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        step, acknowledged = SHARED.unpack_from(shared, 0)
        during[STEPS[step]] += 1
        (saved,) = SAVED.unpack_from(shared, SHARED.size)
        told = f"kill {kill}, during {STEPS[step]}"
        try:
            if (directory / "journal.json").exists():
                found = check(directory, max(acknowledged, events), saved)
                report = replay.verify(directory, deep=kill % 5 == 0)
                assert report.status in ("clean", "torn"), report
                events = found
        except Exception as error:
            raise AssertionError(told) from error
    assert kills < 1000 or {*STEPS} - {"begin"} <= during.keys(), during
    campaign.report(kills=kills, events=total + events, lost=0, during=dict(sorted(during.items())))
