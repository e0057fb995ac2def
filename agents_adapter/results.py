"""Results: an agent's ended episodes in one run, from the log, without those that a rewind has superseded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from journal import cell, events
from journal.storage import Storage
from replay.batch import Batch
from replay.scan import kept, scan

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("phase", "episode", "env_index", "entry", "seed", "steps", "reward", "reason", "seconds")


def episodes_frame(storage: Storage, run: str, agent: str) -> pd.DataFrame:
    """One row per episode, in the order in which they ended: `COLUMNS`, then one column for each metric of their ends.

    `reward` is the left-to-right sum of the finite rewards, `seconds` monotonic time from start to end.
    """
    import pandas as pd

    table = Results(run, agent)
    for batch in scan(storage, since=kept(storage)):
        table.take(batch)
    return pd.DataFrame(table.rows, columns=[*COLUMNS, *table.metrics])


class Results:
    """Collects the episodes, batch by batch; `rows` are those that count, `metrics` the names of their metrics."""

    def __init__(self, run: str, agent: str) -> None:
        self.run, self.agent = run, agent
        self.rows: list[dict[str, Any]] = []
        self.metrics: dict[str, None] = {}
        self._seqs: list[int] = []
        """Of each row's end; ascending."""
        self._open: dict[tuple[int, int], dict[str, Any]] = {}

    def take(self, batch: Batch) -> None:
        """Take in the next events."""
        if self.run not in batch.runs:
            return
        ours = batch.run == batch.runs.index(self.run)
        number = batch.names.index(self.agent) + 1 if self.agent in batch.names else 0
        mine = ours & (batch.agent == number)
        rewards = mine & (batch.kind == cell.REWARDED)
        # Attempts end every open episode; a rewind of a team names the agent among its members.
        rare = np.flatnonzero(
            (mine & ~rewards) | (ours & np.isin(batch.kind, (cell.REWOUND, cell.ATTEMPT_STARTED, cell.ATTEMPT_ENDED)))
        )
        start = 0
        for row in [*rare.tolist(), len(batch)]:
            if start < row:
                self._add(batch, np.flatnonzero(rewards[start:row]) + start)
            if row < len(batch):
                self._rare(batch, row)
            start = row + 1

    def _add(self, batch: Batch, rows: np.ndarray[Any, np.dtype[np.int64]]) -> None:
        if not len(rows):
            return
        phase, env = batch.flags[rows] & cell.EVAL, batch.env_index[rows]
        changes = np.flatnonzero((phase[1:] != phase[:-1]) | (env[1:] != env[:-1])) + 1
        for part in np.split(rows, changes):
            opened = self._open.get((int(batch.flags[part[0]] & cell.EVAL), int(batch.env_index[part[0]])))
            if opened is not None:
                value = batch.value[part]
                opened["steps"] += len(part)
                # A running sum is sequential, as the caller's own `total += reward` is.
                opened["reward"] = float(np.cumsum(np.concatenate(([opened["reward"]], value[np.isfinite(value)])))[-1])

    def _rare(self, batch: Batch, row: int) -> None:
        kind, fields = int(batch.kind[row]), batch.fields(row)
        key = (int(batch.flags[row] & cell.EVAL), int(batch.env_index[row]))
        if kind == cell.EPISODE_STARTED:
            self._open[key] = {
                "phase": "eval" if key[0] else "train",
                "episode": int(batch.episode[row]),
                "env_index": key[1],
                "entry": fields.get("entry"),
                "seed": fields.get("seed"),
                "steps": 0,
                "reward": 0.0,
                "seconds": float(batch.value[row]),
            }
        elif kind == cell.EPISODE_ENDED:
            opened = self._open.pop(key, None)
            if opened is not None and opened["episode"] == int(batch.episode[row]):
                metrics = fields.get("metrics") or {}
                self.metrics.update(dict.fromkeys(name for name in metrics if name not in COLUMNS))
                opened["reason"] = fields.get("reason")
                opened["seconds"] = float(batch.value[row]) - opened["seconds"]
                self.rows.append({**metrics, **opened})
                self._seqs.append(int(batch.seq[row]))
        elif kind in (cell.ATTEMPT_STARTED, cell.ATTEMPT_ENDED):
            self._open.clear()
        elif kind == events.Rewound.kind:
            saver = batch.name(int(batch.agent[row]))
            if self.agent in (fields.get("members") or (saver,)):
                while self._seqs and self._seqs[-1] > fields.get("to_seq", -1):
                    self._seqs.pop()
                    self.rows.pop()
                self._open.clear()
