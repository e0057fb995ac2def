"""The journal itself, as a peer of its peers: killed and read back as they are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, cast

import journal
import replay
from benchmarks.peer import Peer, Totals
from journal.speed.rounds import LATER
from journal.writer import Sync

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CLOSE, GROUP, ALWAYS = 'sync="close"', 'sync="group"', 'sync="always"'
NAMES: Final = tuple("1234")
"""Agents are numbered as they come; four are enough for every benchmark."""


class Store:
    """One journal."""

    def __init__(self, directory: str, mode: str) -> None:
        self._log = journal.open(directory, sync=cast(Sync, mode.split('"')[1]))
        for name in NAMES:
            self._log.agent(name)
        self.append = self._log.reward

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        self._log.rewards(agent, episode, range(first, first + len(values)), values)

    def close(self) -> None:
        self._log.close()


def totals(directory: str) -> Totals:
    found: Totals = {}
    for name, agent in replay.load(directory).agents.items():
        spent = agent.spent["train"]
        if spent.steps:
            found[int(name)] = (spent.steps, float(spent.reward))
    return found


PEER: Final = Peer(
    "training-journal",
    "journal",
    Store,
    totals,
    {CLOSE: "kill -9", GROUP: LATER, ALWAYS: "power cut"},
    {CLOSE: "kill -9", GROUP: LATER, ALWAYS: "power cut"},
)
