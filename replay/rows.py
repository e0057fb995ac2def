"""Rows: trends as tables, one per run, instrument, day or stretch of a life; for DataFrames and Parquet."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import date, timedelta
from typing import IO, TYPE_CHECKING, Any, Final, Literal, get_args

from journal.errors import JournalFailed
from replay.loading import with_trends
from replay.state import State
from replay.totals import PHASES
from replay.trends import Figures, Spread, Trends

if TYPE_CHECKING:
    import pandas as pd

By = Literal["run", "instrument", "day", "life"]
BY: Final[tuple[By, ...]] = get_args(By)
COLUMNS: Final[dict[By, str]] = {"run": "run", "instrument": "instrument", "day": "day", "life": "first_episode"}
"""What each row is of."""

Row = dict[str, Any]


def rows(state: State, by: By) -> list[Row]:
    """One row per agent, phase and run (instrument, day, stretch), in order; nothing spent, no row.

    The plain figures are effective, `spent_…` what was computed; `<metric>_count`, `_sum`, `_mean`, `_min`, `_max` are
    of the metrics of the episodes' ends. `total_training_time` is known by run and day only. NaN: there is no value.
    Raises as `replay.load` does, where a snapshot without trends has to be folded anew.
    """
    state = with_trends(state)
    found = []
    for name, agent in state.agents.items():
        for phase in PHASES:
            effective, spent = agent.effective_trends(phase), agent.spent_trends(phase, state.current_run)
            effective.coarsen(spent.shift)
            part, spent_part = _part(effective, by), _part(spent, by)
            for key in sorted(spent_part):
                told = _key(by, key, spent.shift)
                row = {"agent": name, "phase": phase, COLUMNS[by]: told, **_figures(part.get(key, Figures()), by)}
                of_spent = _figures(spent_part[key], by, metrics=False)
                found.append(row | {f"spent_{column}": value for column, value in of_spent.items() if column[0] == "t"})
    return found


def frame(state: State, by: By) -> pd.DataFrame:
    """`rows` as a DataFrame; index: agent, phase, and what it is by."""
    import pandas as pd

    index = ["agent", "phase", COLUMNS[by]]
    found = pd.DataFrame(rows(state, by))
    return (found if len(found.columns) else pd.DataFrame(columns=index)).set_index(index)


def write_parquet(stream: IO[bytes], table: list[Row], by: By) -> None:
    """The rows as a Parquet file. Days are dates; counts are whole numbers.

    Raises `JournalFailed` where one of them has more than 63 bits, which no honest log gives.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = list(dict.fromkeys(name for row in table for name in row)) or ["agent", "phase", COLUMNS[by]]
    texts = {"agent", "phase", "run", "instrument", "day"}
    fields = []
    for name in names:
        whole = name == "first_episode" or name.endswith(("episodes", "steps", "_count")) or "_rewards" in name
        fields.append(pa.field(name, pa.string() if name in texts else pa.int64() if whole else pa.float64()))
    columns = {name: [row.get(name) for row in table] for name in names}
    try:
        made = pa.table(columns, schema=pa.schema(fields))
    except (OverflowError, pa.ArrowInvalid) as error:
        raise JournalFailed(
            f"these trends do not fit a Parquet file: {error}; read them as a table or as JSON"
        ) from error
    pq.write_table(made, stream)


def _part(trends: Trends, by: By) -> dict[Any, Figures]:
    parts: dict[By, dict[Any, Figures]] = {
        "run": trends.runs,
        "instrument": trends.instruments,
        "day": trends.days,
        "life": trends.life,
    }
    return parts[by]


def _key(by: By, key: Any, shift: int) -> Any:
    if by == "life":
        return int(key) << shift
    return _day(key) if by == "day" else key


def _day(number: int) -> str:
    try:
        return (date(1970, 1, 1) + timedelta(days=number)).isoformat()
    except OverflowError:
        return str(number)  # A clock beyond what a calendar holds.


def _figures(figures: Figures, by: By, *, metrics: bool = True) -> Row:
    reward = figures.reward
    time = {"total_training_time": figures.time_ns / 1e9} if by in ("run", "day") else {}
    row = {
        "total_episodes": figures.episodes,
        "total_steps": figures.steps,
        "total_reward": float(reward.total),
        **{f"{name}_reward": of(reward) for name, of in _OF.items()},
        "nan_rewards": figures.nan_rewards,
        "infinite_rewards": figures.infinite_rewards + reward.odd,
        **time,
    }
    for name in sorted(figures.metrics) if metrics else ():
        spread = figures.metrics[name]
        row |= {f"{name}_count": spread.count, f"{name}_sum": float(spread.total)}
        row |= {f"{name}_{what}": of(spread) for what, of in _OF.items()}
    return row


_OF: Final[dict[str, Callable[[Spread], float]]] = {
    "mean": lambda spread: spread.mean,
    "min": lambda spread: spread.least if spread.count else math.nan,
    "max": lambda spread: spread.greatest if spread.count else math.nan,
}
