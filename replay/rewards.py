"""Rewards: which episode each belongs to, and the episodes' sums, by arrays: nearly all events are rewards."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from journal.cell import EVAL
from replay.batch import Batch
from replay.state import Agent, OpenEpisode, State
from replay.totals import PHASES, Phase

# Few changes of episode within a stretch of rewards (one environment) are walked; many (interleaved ones) are grouped.
_WALKED_CHANGES = 16


class Rewards:
    """The rewards of one batch: stretches of them are given slots, one per episode, and all are summed at once."""

    def __init__(self, state: State, batch: Batch) -> None:
        self.state = state
        self.batch = batch
        self._slots: list[OpenEpisode] = []
        self._slot_of: dict[int, int] = {}
        self._slot = np.zeros(len(batch), dtype=np.int64)
        self._changes = self._find_changes()

    def agent_at(self, row: int) -> Agent:
        """The agent of a row."""
        return self.named(self.batch.name(int(self.batch.agent[row])))

    def named(self, name: str) -> Agent:
        """The agent of this name, a new one where there was none."""
        agent = self.state.agents.get(name)
        if agent is None:
            agent = self.state.agents[name] = Agent(name)
        return agent

    def phase_at(self, row: int) -> Phase:
        """The phase of a row."""
        return PHASES[int(self.batch.flags[row]) & EVAL]

    def open_at(self, row: int) -> OpenEpisode | None:
        """The open episode that the row names, if it is that one that is open."""
        episode = self.agent_at(row).open.get((self.phase_at(row), int(self.batch.env_index[row])))
        return episode if episode is not None and episode.episode == int(self.batch.episode[row]) else None

    def _find_changes(self) -> NDArray[np.bool_]:
        """Rows whose agent, phase, env_index or episode differs from the row before."""
        batch = self.batch
        changes = np.zeros(len(batch), dtype=bool)
        for column in (batch.agent, batch.flags & EVAL, batch.env_index, batch.episode):
            changes[1:] |= column[1:] != column[:-1]
        return changes

    def assign(self, start: int, stop: int) -> None:
        """Give the rewards [start, stop), between two rare events, their slots."""
        first = np.flatnonzero(self._changes[start + 1 : stop]) + start + 1
        if len(first) < _WALKED_CHANGES:
            bounds = [start, *first.tolist(), stop]
            for begin, end in pairwise(bounds):
                self._slot[begin:end] = self._slot_for(begin, end - 1)
            return
        batch = self.batch
        code = np.zeros(stop - start, dtype=np.int64)
        for column in (batch.agent, batch.flags & EVAL, batch.env_index, batch.episode):
            distinct, inverse = np.unique(column[start:stop], return_inverse=True)
            code = np.unique(code * len(distinct) + inverse, return_inverse=True)[1]
        order = np.arange(stop - start)
        firsts = np.full(int(code.max()) + 1, stop - start)
        lasts = np.zeros(len(firsts), dtype=np.int64)
        np.minimum.at(firsts, code, order)
        np.maximum.at(lasts, code, order)
        slots = np.zeros(len(firsts), dtype=np.int64)
        for group in np.argsort(firsts).tolist():
            slots[group] = self._slot_for(start + int(firsts[group]), start + int(lasts[group]))
        self._slot[start:stop] = slots[code]

    def _slot_for(self, row: int, last: int) -> int:
        """The slot of the episode that the reward in `row` belongs to; `last` is the last such row of this stretch."""
        agent = self.agent_at(row)
        phase = self.phase_at(row)
        episode = self.open_at(row)
        if episode is None:
            episode = agent.strays.setdefault(phase, OpenEpisode(0))
        episode.last_ns = max(episode.last_ns, int(self.batch.time_ns[last]))
        agent.last_updated_ns = max(agent.last_updated_ns, episode.last_ns)
        slot = self._slot_of.get(id(episode))
        if slot is None:
            slot = self._slot_of[id(episode)] = len(self._slots)
            self._slots.append(episode)
        return slot

    def sum(self, rows: NDArray[np.intp]) -> None:
        """Add the rewards in `rows` to their episodes, in order."""
        if not self._slots:
            return
        slot = self._slot[rows]
        value = self.batch.value[rows]
        finite = np.isfinite(value)
        sums = np.array([episode.reward for episode in self._slots])
        steps = np.bincount(slot, minlength=len(sums))
        nan = infinite = np.zeros(len(sums), dtype=np.int64)
        # `add.at` is sequential, unlike a reduction: equal to the caller's own `total += reward`, at every split.
        if finite.all():
            np.add.at(sums, slot, value)
        else:
            np.add.at(sums, slot[finite], value[finite])
            nan = np.bincount(slot[np.isnan(value)], minlength=len(sums))
            infinite = np.bincount(slot[np.isinf(value)], minlength=len(sums))
        columns = zip(self._slots, sums.tolist(), steps.tolist(), nan.tolist(), infinite.tolist(), strict=True)
        for episode, total, count, nans, infinites in columns:
            episode.reward = total
            episode.steps += count
            episode.nan_rewards += nans
            episode.infinite_rewards += infinites
