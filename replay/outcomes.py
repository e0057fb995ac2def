"""Outcomes: what each effective, ended episode of a run came to. What a rewind has superseded is taken back."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from journal.storage import Storage
from replay.episodes import Episode, Episodes
from replay.scan import scan


@dataclass(frozen=True, slots=True)
class Outcome:
    """An episode that has ended, and the left-to-right sum of its finite rewards."""

    episode: Episode
    reward: float


class Outcomes(Episodes):
    """Collects them from batch to batch, for some agents of one run."""

    def __init__(self, run: str | None, agents: Collection[str]) -> None:
        super().__init__()
        self.found: dict[str, list[Outcome]] = {agent: [] for agent in agents}
        """Agent → outcomes, in the order in which the episodes ended."""
        self._run = run
        self._sums: dict[Episode, float] = {}

    def rewarded(self, episode: Episode, values: NDArray[np.float64]) -> None:
        """Add up, one after the other: as the caller's own `total += reward` does."""
        if self._wanted(episode):
            finite = values[np.isfinite(values)]
            with np.errstate(over="ignore", invalid="ignore"):
                self._sums[episode] = float(np.cumsum(np.concatenate(([self._sums.get(episode, 0.0)], finite)))[-1])

    def closed(self, episode: Episode) -> None:
        """Keep it, if it has ended."""
        reward = self._sums.pop(episode, 0.0)
        if self._wanted(episode) and episode.reason is not None:
            self.found[episode.agent].append(Outcome(episode, reward))

    def rewound(self, agents: list[str], to_seq: int, seq: int) -> None:
        """What these agents did since is superseded."""
        for agent in agents:
            found = self.found.get(agent, [])
            while found and found[-1].episode.end_seq > to_seq:
                found.pop()

    def _wanted(self, episode: Episode) -> bool:
        return episode.run == self._run and episode.agent in self.found


def outcomes(storage: Storage, run: str | None, agents: Collection[str], since: int = 0) -> Mapping[str, list[Outcome]]:
    """Agent → its outcomes in `run` (None: outside any run), in one pass from seq `since` on; raises as `scan` does."""
    found = Outcomes(run, agents)
    for batch in scan(storage, since=since):
        found.take(batch)
    return found.found
