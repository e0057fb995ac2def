"""Steps of a vector environment to test with: three sub-environments, of which some begin or end an episode."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

import journal
from journal import batch
from journal.events import EpisodeEnded, EpisodeStarted
from journal.together import ending

CUT = ending(EpisodeEnded(agent="-", episode=0, reason="truncated"))
KINDS = ["EpisodeStarted"] * 2 + ["Rewarded"] * 3 + ["EpisodeEnded"] * 2


def packed(numbers: Any, values: Any) -> batch.Packed:
    """The rewards of sub-environments 5, 6, 7, … as one batch."""
    made = batch.pack(np.array(numbers, dtype=np.uint64), 4, range(5, 5 + len(numbers)), np.array(values))
    assert made.step == 4, "which is lost in a vector step: a step is listed, or it is 0"
    return made._replace(step=0)


def vector_step(
    log: journal.Log,
    agent: int,
    numbers: Any = (10, 11, 12),
    started: Any = (0, 2),
    ended: Any = (0, 1),
    *,
    flags: int = 1,
    how: Any = CUT,
    values: Any = (0.5, 1.5, 2.5),
) -> int:
    """A step of the three sub-environments 5, 6 and 7, the first and the last of which begin; two end in it."""
    rewards = packed(numbers, values)
    keys = [(agent, flags & 1, 5 + i) for i in range(len(numbers))]
    where = rewards.form, rewards.episode, 5, rewards.payload, keys, list(numbers)
    return log.vector_step(agent, flags, len(numbers), *where, 7.25, list(started), list(ended), how)


def begun(log: journal.Log) -> int:
    """The second of the three is open."""
    agent = log.agent("A")
    log.append(EpisodeStarted(agent="A", episode=11, env_index=6, phase="eval"))
    return agent


def opened(log: journal.Log) -> dict[int, int]:
    """env_index → the open episode."""
    return {env_index: episode for (_, _, env_index), episode in log.context.episodes.items()}


class Hooked:
    """Stands in a segment's buffer's or file's place: `hook(store)` is called for each store, and is to do it."""

    def __init__(self, inner: Any, hook: Any) -> None:
        self.inner, self.hook = inner, hook

    def __setitem__(self, where: slice, data: bytes) -> None:
        self.hook(lambda: self.inner.__setitem__(where, data))

    def write(self, offset: int, data: bytes) -> None:
        self.hook(lambda: self.inner.write(offset, data))


@contextlib.contextmanager
def hooked(log: journal.Log, hook: Any) -> Iterator[None]:
    segment = log._segment
    buffer, file = segment.buffer, segment.file
    segment.buffer, segment.file = Hooked(buffer, hook), Hooked(file, hook)  # type: ignore[assignment]
    try:
        yield
    finally:
        segment.buffer, segment.file = buffer, file


def kinds(seen: list[Any]) -> list[str]:
    return [one.kind for one in seen][2:]
