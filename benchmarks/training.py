"""A training to read: journals of episodes and rewards, by single cells or batches, for the questions about reading."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final, Literal

import numpy as np

import journal
from journal.speed.levels import BATCH

if TYPE_CHECKING:
    from numpy.typing import NDArray

Rewards = Literal["rounded", "random"]
AGENTS: Final = 4
STEPS: Final = 4 * BATCH
"""Of an episode."""


def rewards(kind: Rewards, count: int, seed: int) -> NDArray[np.float64]:
    """Normal rewards, others for each seed: rounded to 1e-5 as those of a market are, or with all their bits random."""
    values = np.random.default_rng(seed).normal(size=count)
    return values.round(5) if kind == "rounded" else values


def episodes(events: int) -> Iterator[tuple[int, int, int]]:
    """(agent from 1, episode, steps), until that many events are given."""
    for number, first in enumerate(range(0, events, STEPS)):
        yield 1 + number % AGENTS, number // AGENTS, min(STEPS, events - first)


def record(directory: str, events: int, *, size: int, kind: Rewards = "rounded") -> None:
    """A journal of that many rewards, in episodes; by batches of `size`, or one by one (1)."""
    steps = np.arange(STEPS)
    with journal.open(directory, sync="close") as log:
        for name in range(1, AGENTS + 1):
            log.agent(str(name))
        for agent, episode, count in episodes(events):
            values = rewards(kind, count, episode * AGENTS + agent)
            log.append(journal.EpisodeStarted(agent=str(agent), episode=episode))
            if size == 1:
                reward = log.reward
                for step, value in enumerate(values.tolist()):
                    reward(agent, episode, step, value)
            else:
                for first in range(0, count, size):
                    stop = min(first + size, count)
                    log.rewards(agent, episode, steps[first:stop], values[first:stop])
            log.append(journal.EpisodeEnded(agent=str(agent), episode=episode, reason="terminated"))
