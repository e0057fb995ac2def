"""Every call that appends, as a test that comes in between makes it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

import journal
from journal.episodes import fact
from journal.rewarding import Steps
from journal.together import ending

STARTED = fact(journal.EpisodeStarted(agent="a", episode=0))
ENDED = fact(journal.EpisodeEnded(agent="a", episode=0, reason="terminated"))
ENDING = ending(journal.EpisodeEnded(agent="a", episode=0, reason="terminated"))
SAW = fact(
    journal.BarsSeen(
        agent="a", episode=0, instrument="X", timeframe="H1", start=0, stop=9, content_hash=None, source="declared"
    )
)


def an_episode(log: journal.Log, number: int) -> None:
    log.episode(STARTED, 1, 0, number, 0)
    log.episode(ENDED, 1, 0, number, 0)


def several(log: journal.Log, number: int) -> None:
    places = [(number, 5), (number, 6)]
    log.alike(journal.EpisodeStarted(agent="a", episode=0), b"", 1, 0, places)
    log.alike(journal.EpisodeEnded(agent="a", episode=0, reason="x"), ENDING.payload, 1, 0, places)


def a_vector_step(log: journal.Log, number: int) -> None:
    keys = [(1, 0, 10), (1, 0, 11)]
    payload = bytes(2 * (3 * 4 + 8))
    step = 1, 0, 2, 0b010101, number, 10, payload, keys
    log.vector_step(*step, [number, number], 0.0, [0, 1], [0, 1], ENDING)


def a_step(log: journal.Log, number: int) -> None:
    one = Steps(log.reward, 1, number, 0, 0)
    one.straight(log)
    one.step(1.0)


CALLS: dict[str, tuple[int, Callable[[journal.Log, int], object]]] = {
    "reward": (1, lambda log, number: log.reward(1, number, 0, 1.0)),
    "step": (1, a_step),
    "batch": (7, lambda log, number: log.rewards(1, number, range(7), np.ones(7))),
    "append": (1, lambda log, number: log.append(journal.Custom(name="outer", data=number))),
    "an episode": (2, an_episode),
    "several": (4, several),
    "a vector step": (6, a_vector_step),
    "sync": (0, lambda log, number: (log.reward(1, number, 0, 1.0), log.sync())),
}
"""How many events each appends (but for the reward before `sync`), and the call."""
