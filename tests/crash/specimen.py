"""A small journal with everything in it, from which hostile ones are made.

All kinds of events and marks, all forms of batches, two history files, two snapshots, checkpoints, a segment that is
sealed, one that its writer left, one with promises and a tail that was never promised, a spare. The process was killed.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from random import Random

import numpy as np
import pytest

import journal
from agents_adapter import codec
from journal import segment
from journal.storage import Storage, replace
from journal.storage.memory import MemoryStorage
from replay.compaction import compact

DIRECTORIES = ("", "segments", "history", "snapshots", "checkpoints", "quarantine")
SIZE = 2048
"""Bytes of a segment: small, so that every bit of it can be tried."""

Image = Mapping[str, bytes]
"""Path → bytes of every file of a journal."""


class StandingClock:
    """Time moves by one step at each look, so that two journals made alike are alike."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000

    def time_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9 - 1_699_999_000


def small(patch: pytest.MonkeyPatch) -> None:
    """Segments of 32 cells."""
    patch.setattr(segment, "SIZE_MIN", SIZE)
    patch.setattr(segment, "SIZE_MAX", SIZE)
    patch.setattr(segment, "RESERVE", 256)


def image(storage: Storage) -> dict[str, bytes]:
    """Every file and its bytes; the lock's note is for people."""
    return {
        path: storage.read(path)
        for directory in DIRECTORIES
        for name in storage.list(directory)
        if (path := f"{directory}/{name}".lstrip("/")) not in (*DIRECTORIES, "writer.lock")
    }


def restored(files: Image) -> MemoryStorage:
    """A storage that holds these files."""
    storage = MemoryStorage()
    for directory in DIRECTORIES:
        storage.make_directory(directory)
    for path, data in files.items():
        with storage.stream(path) as stream:
            stream.write(data)
    return storage


def save(log: journal.Log, agent: str, episode: int, retired: list[str] | None = None) -> str:
    """A checkpoint: its file, then its event; returns its path."""
    path, data = f"checkpoints/{agent}-{episode}.ckpt", codec.encode({"weights": np.arange(3.0) * episode})
    log.storage.make_directory("checkpoints")
    replace(log.storage, path, data)
    log.append(
        journal.CheckpointSaved(
            agent=agent,
            episode=episode,
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            retired=retired,
        )
    )
    return path


def build() -> MemoryStorage:
    """The journal, as its killed process left it. Segments must be `small`."""
    storage, clock = MemoryStorage(), StandingClock()
    for life, script in enumerate((_first, _second, _third)):
        with journal.open(
            "specimen", storage=storage, sync="close", clock=clock, entropy=Random(life).randbytes
        ) as log:
            script(log)
        if life < 2:
            compact(storage)
    log = journal.open("specimen", storage=storage, sync="close", clock=clock, entropy=Random(3).randbytes)
    try:
        _fourth(log)
        _wait_for_spare(log)
        return storage.kill()
    finally:
        log.close()


def _first(log: journal.Log) -> None:
    log.append(journal.RunStarted(run="r1", config={"lr": 0.1}))
    log.append(journal.AttemptStarted(run="r1", attempt=0, pid=7, argv=["t.py"], cwd="x", versions={}))
    entries = [{"instrument": "X", "start": 0, "stop": 3}]
    log.append(journal.PlanRecorded(agent="PPO", plan_hash="ab", entries=entries, length=1))
    first = save(log, "PPO", 0)
    _episode(log, 0)
    save(log, "PPO", 1, retired=[first])
    log.storage.remove(first)
    log.append(journal.AttemptEnded(run="r1", attempt=0, status="interrupted", error="^C"))


def _second(log: journal.Log) -> None:
    log.append(journal.AttemptStarted(run="r1", attempt=1, pid=8, argv=["t.py"], cwd="x", versions={}))
    log.rewards(log.agent("PPO"), [3, 1], [7, 9], [0.5, float("nan")], [1, 0])
    log.sync()


def _third(log: journal.Log) -> None:
    log.append(journal.Rewound(agent="PPO", to_seq=9, path="checkpoints/PPO-1.ckpt"))
    _episode(log, 1)
    save(log, "PPO", 2)


def _fourth(log: journal.Log) -> None:
    ppo = log.agent("PPO")
    log.append(journal.EpisodeStarted(agent="PPO", episode=2, entry=1))
    log.rewards(ppo, 2, range(3), [1.0, 2.0, 3.0])
    log.append(journal.MetricLogged(agent="PPO", metric="loss", step=1, value=0.25))
    log.sync()
    log.append(journal.Custom(name="note", data={"bytes": b"\0\xff", "text": "x" * 80}))
    while log.tail()[0].header.ordinal < 4:  # Its writer goes on to the next segment.
        log.reward(ppo, 2, 3, 0.125)
        log.sync()
    log.append(journal.EpisodeEnded(agent="PPO", episode=2, reason="terminated", metrics={"pnl": 1.0}))
    log.sync()
    log.reward(ppo, 3, 0, 4.0)
    log.rewards(ppo, 3, [4, 2], [5.0, 6.0])
    log.append(journal.AttemptEnded(run="r1", attempt=1, status="completed"))
    log.append(journal.RunEnded(run="r1"))


def _episode(log: journal.Log, number: int) -> None:
    log.append(journal.EpisodeStarted(agent="PPO", episode=number, seed=7, entry=number))
    log.append(
        journal.BarsSeen(
            agent="PPO",
            episode=number,
            instrument="X",
            timeframe="H1",
            start=0,
            stop=3,
            content_hash=bytes(range(16)),
            source="observed",
        )
    )
    log.append(journal.Rewarded(agent="PPO", episode=number, step=0, value=-0.0))
    log.append(journal.EpisodeEnded(agent="PPO", episode=number, reason="truncated"))


def _wait_for_spare(log: journal.Log) -> None:
    """The next segment is made in the background; whether it is there already is not to be chance."""
    following = log.tail()[0].header.ordinal + 1
    for _ in range(10_000):
        if log.storage.exists(segment.path_of(following)):
            return
        time.sleep(0.001)
    raise AssertionError("no spare was prepared")
