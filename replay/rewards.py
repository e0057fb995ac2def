"""Rewards: which episode each belongs to, and the episodes' sums, by arrays: nearly all events are rewards."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

import numpy as np
from numpy.typing import NDArray

from journal.cell import EVAL
from replay.batch import Batch
from replay.state import Agent, OpenEpisode, State
from replay.totals import PHASES, Phase

# Few changes of episode within a stretch of rewards (one environment) are walked; many (interleaved ones) are grouped.
_WALKED_CHANGES: Final = 16
_WALKED_ROWS: Final = 256
"""Rewards from change to change, on average, above which many changes are walked too."""


class Rewards:
    """The rewards of one batch: stretches of them are given slots, one per episode, and then summed."""

    def __init__(self, state: State, batch: Batch) -> None:
        self.state = state
        self.batch = batch
        self._slots: list[OpenEpisode] = []
        self._slot_of: dict[int, int] = {}
        self._assigned: list[tuple[int, int, int | NDArray[np.int64]]] = []
        """Stretches in order: first row, the row behind the last, the slot of all or of each."""
        self._changes = batch.changes()
        self._asked: tuple[int, Agent | None] = (-1, None)

    def agent_at(self, row: int) -> Agent:
        """The agent of a row; many questions are about the same one."""
        asked, agent = self._asked
        if agent is None or row != asked:
            agent = self.named(self.batch.name(int(self.batch.at("agent", row))))
            self._asked = row, agent
        return agent

    def named(self, name: str) -> Agent:
        """The agent of this name, a new one where there was none."""
        agent = self.state.agents.get(name)
        if agent is None:
            agent = self.state.agents[name] = Agent(name)
        return agent

    def phase_at(self, row: int) -> Phase:
        """The phase of a row."""
        return PHASES[int(self.batch.at("flags", row)) & EVAL]

    def open_at(self, row: int) -> OpenEpisode | None:
        """The open episode that the row names, if it is that one that is open."""
        episode = self.agent_at(row).open.get((self.phase_at(row), int(self.batch.at("env_index", row))))
        return episode if episode is not None and episode.episode == int(self.batch.at("episode", row)) else None

    def assign(self, start: int, stop: int) -> None:
        """Give the rewards [start, stop), between two rare events, their slots."""
        first = self._changes[slice(*np.searchsorted(self._changes, (start + 1, stop)))]
        if len(first) < _WALKED_CHANGES or len(first) * _WALKED_ROWS < stop - start:
            for begin, end in pairwise([start, *first.tolist(), stop]):
                self._assigned.append((begin, end, self._slot_for(begin, end - 1)))
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
        self._assigned.append((start, stop, slots[code]))

    def _slot_for(self, row: int, last: int) -> int:
        """The slot of the episode that the reward in `row` belongs to; `last` is the last such row of this stretch."""
        agent = self.agent_at(row)
        phase = self.phase_at(row)
        episode = self.open_at(row)
        if episode is None:
            episode = agent.strays.setdefault(phase, OpenEpisode(0))
        episode.last_ns = max(episode.last_ns, int(self.batch.at("time_ns", last)))
        agent.last_updated_ns = max(agent.last_updated_ns, episode.last_ns)
        slot = self._slot_of.get(id(episode))
        if slot is None:
            slot = self._slot_of[id(episode)] = len(self._slots)
            self._slots.append(episode)
        return slot

    def sum(self) -> None:
        """Add all rewards to their episodes, in order."""
        for start, stop, slot in self._assigned:
            if isinstance(slot, int):
                self._add(self._slots[slot], start, stop)
            else:
                self._add_mixed(slot, self.batch.value[start:stop])

    def _add(self, episode: OpenEpisode, start: int, stop: int) -> None:
        """Add the rewards of one episode, one after the other, as the caller's own `total += reward` does."""
        episode.steps += stop - start
        total = _sum_after(episode.reward, self.batch.values(start, stop))
        # Neither NaN nor infinity leaves a sum that they are in, so nobody need look for them in a finite one.
        if not math.isfinite(total):
            value = self.batch.value[start:stop]
            finite = np.isfinite(value)
            episode.nan_rewards += int(np.isnan(value).sum())
            episode.infinite_rewards += int(np.isinf(value).sum())
            total = _sum_after(episode.reward, (value[finite],))
        episode.reward = total

    def _add_mixed(self, slot: NDArray[np.int64], value: NDArray[np.float64]) -> None:
        finite = np.isfinite(value)
        sums = np.array([episode.reward for episode in self._slots])
        steps = np.bincount(slot, minlength=len(sums))
        nan = infinite = np.zeros(len(sums), dtype=np.int64)
        # `add.at` is sequential, unlike a reduction: equal to the caller's own `total += reward`, at every split.
        adding, values = slot, value
        if not finite.all():
            adding, values = slot[finite], value[finite]
            nan = np.bincount(slot[np.isnan(value)], minlength=len(sums))
            infinite = np.bincount(slot[np.isinf(value)], minlength=len(sums))
        with np.errstate(over="ignore", invalid="ignore"):
            np.add.at(sums, adding, values)
        columns = zip(self._slots, sums.tolist(), steps.tolist(), nan.tolist(), infinite.tolist(), strict=True)
        for episode, total, count, nans, infinites in columns:
            episode.reward = total
            episode.steps += count
            episode.nan_rewards += nans
            episode.infinite_rewards += infinites


def _sum_after(total: float, values: Iterable[NDArray[np.float64]]) -> float:
    """`total`, and each value added to it in turn, to the last bit.

    What is subtracted in turn from its negative is the same with the other sign. Of `subtract` a reduction has to keep
    the order; of `add` it does not, and `accumulate`, which does, writes every step down: four times as long.
    """
    negative = -total
    with np.errstate(over="ignore", invalid="ignore"):
        for value in values:
            negative = np.subtract.reduce(value, initial=negative)
    return 0.0 - float(negative)
