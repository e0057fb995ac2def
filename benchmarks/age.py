"""Does a journal's age matter? Opening, resume points and the first append, at 10^5 events and at many more.

One journal grows, by reward batches, and is compacted on the way. At each size a fresh process opens it for writing,
loads the state, asks for every agent's resume point, appends one reward and syncs it. Its seconds are compared with
those at the first size: ratios count, times do not. What it had to read (bytes, and files) is counted, not timed; so is
the memory that it needed, and that of the compaction.

10,000 rewards make one episode, which tells which bars it saw. `journal compare` needs a line for each of those; the
snapshot keeps them apart, and opening does not read them.
"""

from __future__ import annotations

import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

import journal
import replay
from benchmarks.fresh import fresh
from benchmarks.question import Answer, Effort, say
from journal.segment import DIRECTORY as SEGMENTS
from journal.speed.levels import BATCH
from journal.storage import Memory
from journal.storage.disk import DiskFile, DiskStorage
from replay.compaction import compact

AGENTS: Final = ("LinearQ", "MLPDQN", "PPO")
SESSION: Final = 20_000_000
"""Events between two compactions."""
STEPS: Final = 10_000
"""Of an episode."""
SIZES: Final = (100_000, 1_000_000, 10_000_000)


def answer(directory: str, effort: Effort) -> Answer:
    """Seconds to open, at each size; the ratio is to the first."""
    return aged(directory, effort, SIZES)


def aged(directory: str, effort: Effort, sizes: Sequence[int]) -> Answer:
    """The same for other sizes."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        wanted = [effort.events(size) for size in sizes]
        for row in measure(place, wanted, steps=min(STEPS, wanted[0]), rounds=effort.rounds):
            say(f"  {row.events:,} events: {row.seconds * 1e3:.1f} ms")
            found.rows.append({"name": f"{row.events:,} events in {row.episodes:,} episodes", **asdict(row)})
    found.value("open at the last size ÷ at the first", [row["ratio"] for row in found.rows[-1:]])
    return found


@dataclass(frozen=True, slots=True)
class Opened:
    """What it took to open a journal for writing, tell all resume points, and append and sync one reward."""

    seconds: float
    rss: int
    """Peak memory of the process, bytes."""
    bytes_read: int
    files_read: int
    """Besides the live segments: whether the next one is ready is a matter of time."""
    events: int


@dataclass(frozen=True, slots=True)
class Row:
    """One size of the journal; seconds are of the median round."""

    events: int
    episodes: int
    bytes: int
    seconds: float
    ratio: float
    """To the seconds of the first size."""
    rss: int
    bytes_read: int
    files_read: int
    compact_seconds: float
    """Of all compactions since the size before."""
    compact_rss: int


class CountingStorage(DiskStorage):
    """A disk that counts what is read from it."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.bytes_read = 0
        self.files: set[str] = set()

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """As the disk does, counted."""
        data = super().read(path, offset, length)
        self.bytes_read += len(data)
        self.files.add(path)
        return data

    def read_into(self, path: str, memory: Memory, offset: int = 0) -> int:
        """As the disk does, counted."""
        count = super().read_into(path, memory, offset)
        self.bytes_read += count
        self.files.add(path)
        return count

    def open(self, path: str) -> DiskFile:
        """As the disk does, noted."""
        self.files.add(path)
        return super().open(path)


def grow(directory: str, events: int, *, steps: int, first: int) -> int:
    """One session that appends at least `events` rewards in whole episodes from number `first` on; the next number."""
    values, numbers = np.full(BATCH, 0.25), np.arange(steps)
    episode = first
    with journal.open(directory, sync="close") as log:
        if not first:
            log.append(journal.RunStarted(run="aging", config={}))
        for _ in range(-(-events // steps)):
            agent, number = AGENTS[episode % len(AGENTS)], episode // len(AGENTS)
            log.append(journal.EpisodeStarted(agent=agent, episode=number, entry=number))
            for start in range(0, steps, BATCH):
                step = numbers[start : start + BATCH]
                log.rewards(log.agent(agent), number, step, values[: len(step)])
            log.append(
                journal.BarsSeen(
                    agent=agent,
                    episode=number,
                    instrument="EURUSD",
                    timeframe="1h",
                    start=number,
                    stop=number + steps,
                    content_hash=bytes(16),
                    source="observed",
                )
            )
            log.append(journal.EpisodeEnded(agent=agent, episode=number, reason="terminated", metrics={}))
            episode += 1
    return episode


def open_once(directory: str) -> Opened:
    """In this process."""
    storage = CountingStorage(directory)
    start = time.perf_counter()
    with journal.open(directory, storage=storage) as log:
        state = replay.load(storage)
        points = {agent: state.resume(agent) for agent in state.agents}
        log.reward(log.agent(AGENTS[0]), points[AGENTS[0]].next_episode["train"], 0, 0.25)
        log.sync()
        seconds = time.perf_counter() - start
    return Opened(seconds, _peak(), storage.bytes_read, _besides_the_log(storage.files), state.events)


def _besides_the_log(paths: set[str]) -> int:
    return sum(not path.startswith(SEGMENTS) for path in paths)


def compact_once(directory: str) -> tuple[float, int]:
    """In this process: (seconds, peak memory in bytes)."""
    start = time.perf_counter()
    compact(directory)
    return time.perf_counter() - start, _peak()


def _peak() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def measure(directory: str, sizes: Sequence[int], *, steps: int, rounds: int, session: int = SESSION) -> Iterator[Row]:
    """Grow the journal in `directory` to each of the sizes, and open it there."""
    events = episode = 0
    reference: float | None = None
    for size in sizes:
        seconds, peak = 0.0, 0
        while events < size:
            count = min(session, size - events)
            episode = grow(directory, count, steps=steps, first=episode)
            took, rss = fresh(compact_once, directory)
            seconds, peak = seconds + took, max(peak, rss)
            events += count
        opened = [fresh(open_once, directory) for _ in range(rounds)]
        median = statistics.median(one.seconds for one in opened)
        reference = median if reference is None else reference
        yield Row(
            opened[0].events,
            episode,
            _bytes(directory),
            median,
            median / reference,
            max(one.rss for one in opened),
            max(one.bytes_read for one in opened),
            max(one.files_read for one in opened),
            seconds,
            peak,
        )


def _bytes(directory: str) -> int:
    return sum(os.path.getsize(os.path.join(folder, name)) for folder, _, names in os.walk(directory) for name in names)
