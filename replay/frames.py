"""The state as pandas DataFrames, for people who want to go on computing."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from journal.manifest import Manifest
from replay.state import Agent, State

if TYPE_CHECKING:
    import pandas as pd


def totals_document(agent: Agent) -> dict[str, Any]:
    """An agent's cumulative totals: the keys of `journal totals --json`."""
    spent = agent.spent
    return {
        **agent.effective["train"].as_document(),
        "runs": len(agent.runs),
        "attempts": agent.attempts,
        "rewinds": agent.rewinds,
        "last_updated": moment(agent.last_updated_ns),
        "spent": {**spent["train"].as_document(), "eval": spent["eval"].as_document()},
        "eval": agent.effective["eval"].as_document(),
    }


def totals_row(agent: Agent) -> dict[str, Any]:
    """The same, flat: `spent_…` and `eval_…` beside the effective totals of phase train. The columns of a table."""
    document = totals_document(agent)
    spent, evaluated = document.pop("spent"), document.pop("eval")
    spent.pop("eval")
    document |= {f"spent_{key}": value for key, value in spent.items()}
    return document | {f"eval_{key}": value for key, value in evaluated.items()}


def totals_frame(state: State) -> pd.DataFrame:
    """One row per agent (index `agent`): effective totals of phase train, with `spent_…` and `eval_…` columns."""
    import pandas as pd

    rows = {name: totals_row(agent) for name, agent in state.agents.items()}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "agent"
    return frame


def moment(time_ns: int) -> str | None:
    """A time as ISO 8601 in UTC, to the microsecond; None for 0. Beyond what a calendar holds: the number."""
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="microseconds") if time_ns else None
    except (OverflowError, ValueError, OSError):
        return str(time_ns)


def dropped_document(manifest: Manifest) -> dict[str, Any] | None:
    """`dropped` in every document of a journal whose history was dropped: how many events, and when; else None."""
    if not manifest.drops:
        return None
    last = manifest.drops[-1]
    return {"events": last.last + 1, "last_seq": last.last, "time": moment(last.time_ns)}
