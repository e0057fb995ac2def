"""Episodes: what a scan yields, told one episode at a time, each reward with the episode that it belongs to.

    opened ─▶ rewarded, rewarded, … ─▶ closed        for each episode; several may be open at a time
    rewound                                          after the episodes that the rewind cut were closed

The fold needs only sums; who compares or lists episodes needs this. Subclass it and give it every batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from journal import cell
from journal.errors import CorruptJournal
from journal.events import INTEGER_MAX, kind_name
from replay.batch import Batch
from replay.seen import SeenBars, see
from replay.totals import PHASES, Phase


@dataclass(slots=True, eq=False)
class Episode:
    """One episode of one agent, as far as it has been told."""

    agent: str
    phase: Phase
    env_index: int
    number: int
    run: str | None
    seq: int
    """Of its start."""
    entry: int | None
    seed: Any
    params: dict[str, Any] | None
    steps: int = 0
    bars: list[SeenBars] = field(default_factory=list)
    reason: str | None = None
    """Why it ended; None while it is open, and of one that was cut off."""
    metrics: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    """Monotonic seconds, as at its end."""
    ended: float = 0.0
    end_seq: int = -1
    """Of its end; -1 where it has none."""

    @property
    def name(self) -> tuple[str | None, str, Phase, int]:
        """What its re-run has too: run, agent, phase, number."""
        return self.run, self.agent, self.phase, self.number


class Episodes:
    """Follows the episodes from batch to batch. Rewards outside any open episode are passed over."""

    def __init__(self) -> None:
        self.open: dict[tuple[str, Phase, int], Episode] = {}
        """(agent, phase, env_index) → the open episode."""

    def opened(self, episode: Episode) -> None:
        """It began."""

    def rewarded(self, episode: Episode, values: NDArray[np.float64]) -> None:
        """The rewards of its next steps, shape (n,), n > 0; a copy that may be kept."""

    def closed(self, episode: Episode) -> None:
        """It ended, or was cut off: then `reason` is None."""

    def rewound(self, agents: list[str], to_seq: int, seq: int) -> None:
        """These agents went back to the checkpoint of `to_seq`, by the event `seq`."""

    def take(self, batch: Batch) -> None:
        """The next events. Raises `CorruptJournal` where one makes no sense."""
        rewards = batch.kind == cell.REWARDED
        start = row = 0
        try:
            for row in [*np.flatnonzero(~rewards).tolist(), len(batch)]:
                if start < row:
                    self._rewards(batch, start, row)
                if row < len(batch):
                    self._rare(batch, row)
                start = row + 1
        except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError) as error:
            at = min(row, len(batch) - 1)
            seq, kind = int(batch.seq[at]), kind_name(int(batch.kind[at]))
            reason = f"the {kind} of seq {seq} makes no sense: {' '.join(str(error).split())[:200]}"
            raise CorruptJournal(batch.path, 0, seq, reason) from error

    def _rewards(self, batch: Batch, start: int, stop: int) -> None:
        for rows in _grouped(batch, start, stop):
            first = int(rows[0])
            episode = self._at(batch, first)
            if episode is not None:
                episode.steps += len(rows)
                self.rewarded(episode, batch.value[rows])

    def _rare(self, batch: Batch, row: int) -> None:
        kind = int(batch.kind[row])
        if kind == cell.EPISODE_STARTED:
            self._start(batch, row)
        elif kind == cell.EPISODE_ENDED:
            episode = self._at(batch, row)
            if episode is not None:
                fields = batch.fields(row)
                episode.reason = str(fields.get("reason"))
                episode.metrics = dict(fields.get("metrics") or {})
                episode.ended, episode.end_seq = float(batch.value[row]), int(batch.seq[row])
                self._close([episode])
        elif kind == cell.BARS_SEEN:
            self._see(batch, row)
        elif kind == cell.REWOUND:
            agents, to_seq = rewind_of(batch.fields(row), batch.name(int(batch.agent[row])))
            self._close([one for one in self.open.values() if one.agent in agents])
            self.rewound(agents, to_seq, int(batch.seq[row]))
        elif kind in (cell.RUN_STARTED, cell.RUN_ENDED, cell.ATTEMPT_STARTED, cell.ATTEMPT_ENDED):
            self._close(self.open.values())  # They were another process's, or nobody's any more.

    def _start(self, batch: Batch, row: int) -> None:
        fields = batch.fields(row)
        key = self._key(batch, row)
        left = self.open.get(key)
        if left is not None:
            self._close([left])
        run = int(batch.run[row])
        episode = self.open[key] = Episode(
            *key,
            int(batch.episode[row]),
            batch.runs[run] if run >= 0 else None,
            int(batch.seq[row]),
            entry_of(fields),
            fields.get("seed"),
            fields.get("params"),
            began=float(batch.value[row]),
        )
        self.opened(episode)

    def _see(self, batch: Batch, row: int) -> None:
        """What was shown replaces what was only claimed, as in the fold."""
        episode = self._at(batch, row)
        if episode is None:
            return
        fields = batch.fields(row)
        see(episode.bars, SeenBars.of(episode.number, episode.entry, fields))

    def _close(self, episodes: Iterable[Episode]) -> None:
        for episode in list(episodes):
            del self.open[episode.agent, episode.phase, episode.env_index]
            self.closed(episode)

    def _key(self, batch: Batch, row: int) -> tuple[str, Phase, int]:
        phase = PHASES[int(batch.flags[row]) & cell.EVAL]
        return batch.name(int(batch.agent[row])), phase, int(batch.env_index[row])

    def _at(self, batch: Batch, row: int) -> Episode | None:
        """The open episode that the row names, if it is that one that is open."""
        episode = self.open.get(self._key(batch, row))
        return episode if episode is not None and episode.number == int(batch.episode[row]) else None


def entry_of(fields: Mapping[str, Any]) -> int | None:
    """Which entry of the plan an episode carries out. Raises `ValueError` for what is no such number."""
    entry = fields.get("entry")
    if entry is not None and not (type(entry) is int and 0 <= entry <= INTEGER_MAX):
        raise ValueError(f"its entry is {entry!r:.80}")
    return entry


def rewind_of(fields: Mapping[str, Any], agent: str) -> tuple[list[str], int]:
    """Who went back, and to which checkpoint's event; -1, which is none, where it tells no number."""
    to_seq = fields.get("to_seq")
    return [str(name) for name in fields.get("members") or (agent,)], to_seq if isinstance(to_seq, int) else -1


def _grouped(batch: Batch, start: int, stop: int) -> Iterator[NDArray[np.intp]]:
    """The rows [start, stop), those of one episode together and in order; sub-environments take turns."""
    columns = [column[start:stop] for column in (batch.agent, batch.flags & cell.EVAL, batch.env_index, batch.episode)]
    order = np.arange(stop - start)
    if any((column != column[0]).any() for column in columns):
        order = np.lexsort(columns)
    changes = np.zeros(max(len(order) - 1, 0), dtype=bool)
    for column in columns:
        sorted_ = column[order]
        changes |= sorted_[1:] != sorted_[:-1]
    for group in np.split(order, np.flatnonzero(changes) + 1):
        yield group + start
