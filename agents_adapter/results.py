"""Results: an agent's ended episodes in one run, from the log, without those that a rewind has superseded."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from journal.storage import Storage
from replay.outcomes import outcomes
from replay.scan import kept

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("phase", "episode", "env_index", "entry", "seed", "steps", "reward", "reason", "seconds")


def episodes_frame(storage: Storage, run: str, agent: str) -> pd.DataFrame:
    """One row per episode, in the order in which they ended: `COLUMNS`, then one column for each metric of their ends.

    `reward` is the left-to-right sum of the finite rewards, `seconds` monotonic time from start to end.
    """
    import pandas as pd

    rows = episode_rows(storage, run, agent)
    metrics = dict.fromkeys(name for row in rows for name in row if name not in COLUMNS)
    return pd.DataFrame(rows, columns=[*COLUMNS, *metrics])


def episode_rows(storage: Storage, run: str, agent: str) -> list[dict[str, Any]]:
    """The same, a dict for each episode."""
    rows = []
    for outcome in outcomes(storage, run, [agent], since=kept(storage))[agent]:
        one = outcome.episode
        figures = (one.phase, one.number, one.env_index, one.entry, one.seed, one.steps, outcome.reward, one.reason)
        rows.append({**one.metrics, **dict(zip(COLUMNS, (*figures, one.ended - one.began), strict=True))})
    return rows
