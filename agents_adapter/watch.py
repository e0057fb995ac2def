"""The watch: in a resumed run, is what is done again what was done the first time?

At the rewind the superseded episodes are read from the log, once. Each that is done again is compared when it ends: not
before, because only then its bars are told. So a step of an episode costs nothing where there is nothing to compare
with, and one more call where there is. What is beyond `REWARDS_MAX` is left to `journal diverge`, which compares all.
"""

from __future__ import annotations

import warnings
from array import array
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from journal.errors import Diverged
from journal.events import pack, unpack
from replay import divergence, episodes
from replay.divergence import Reruns, Run, Windows, same_task
from replay.scan import scan

if TYPE_CHECKING:
    import journal
    from agents_adapter.episode import Episode

OnDivergence = Literal["warn", "raise", "ignore"]
REWARDS_MAX: Final = 1 << 20
"""How many superseded rewards are held (8 MB)."""


class Watch:
    """The superseded episodes of one resumed run, and those that are being done again."""

    def __init__(self, log: journal.Log, run: str, on_divergence: OnDivergence) -> None:
        self._log, self._run = log, run
        self._on_divergence = on_divergence
        self.before: dict[divergence.Name, Run] = {}
        """What may be done again; empty, there is nothing to tell of what begins and ends."""
        self._now: dict[int, array[float]] = {}
        """By the episode's id."""

    def rewound(self, agents: Iterable[str], to_seq: int) -> None:
        """These agents are about to go back to the checkpoint of `to_seq`: read what they did after it."""
        if self._on_divergence == "ignore":
            return
        windows, names = Windows(), list(agents)
        end = self._log.next_seq
        windows.add(names, to_seq, end)
        reruns = Reruns(windows, rewards_max=REWARDS_MAX)
        for batch in scan(self._log.storage, since=to_seq + 1, until=end):
            reruns.take(batch)
        reruns.finish()
        reruns.rewound(names, to_seq, end)
        self.before |= {name: run for name, run in reruns.held.items() if name[0] == self._run}

    def begun(self, agent: str, episodes: Sequence[Episode]) -> None:
        """Episodes began: listen to those that are done again."""
        for episode in episodes:
            if (self._run, agent, episode.phase, episode.number) in self.before:
                values = self._now[id(episode)] = array("d")
                episode.listen(values.append)

    def ended(self, agent: str, episodes: Sequence[Episode]) -> None:
        """Compare them. At an agent's first difference warns or raises `Diverged`; then it is not watched further."""
        for episode in episodes:
            self._compare(agent, episode)

    def _compare(self, agent: str, episode: Episode) -> None:
        values = self._now.pop(id(episode), None)
        before = self.before.pop((self._run, agent, episode.phase, episode.number), None)
        if values is None or before is None:
            return
        now = Run(
            episodes.Episode(
                agent,
                episode.phase,
                episode.env_index,
                episode.number,
                self._run,
                -1,
                episode.position,
                episode.seed,
                _recorded(episode.entry.params if episode.entry is not None else None),
                bars=episode.bars,
                reason="ended",
            ),
            [np.asarray(values)],
        )
        found = divergence.difference(before, now) if same_task(before.episode, now.episode) else None
        if found is None:
            return
        # All that follows is another training, and would differ as well.
        self.before = {name: run for name, run in self.before.items() if name[1] != agent}
        message = (
            f"{self._log.storage.name}: {found.as_words()}: the resumed training is not the one that was cut off. "
            "Something it draws from or carries on is not restored (a generator without a seed, an environment's own "
            "state): give it to state= or track.vars; `journal diverge` lists every such episode, "
            "on_divergence='ignore' trains on without a word"
        )
        if self._on_divergence == "raise":
            raise Diverged(message)
        warnings.warn(message, RuntimeWarning, stacklevel=4)


def _recorded(params: dict[str, Any] | None) -> dict[str, Any] | None:
    """Parameters as the log gives them back."""
    return None if params is None else unpack(pack(params, "params"))
