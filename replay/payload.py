"""The state as plain data, as msgpack holds it, and back. What a snapshot keeps; lossless."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from typing import Any

from replay.intervals import Intervals
from replay.seen import SeenBars, SeenList
from replay.state import Active, Agent, Attempt, Checkpoint, Lineage, OpenEpisode, Plan, Run
from replay.totals import PHASES, Phase, Totals
from replay.trends import Trends, of_phases


def plain(value: Any, seen: Callable[[SeenList], Any]) -> Any:
    """Any part of a state; `seen` gives what stands for a list of bars."""
    if isinstance(value, SeenList):
        return seen(value)
    if isinstance(value, (Totals, Trends)):
        return value.to_payload()
    if isinstance(value, Intervals):
        return value.pairs
    if hasattr(value, "__dataclass_fields__"):
        return {one.name: plain(getattr(value, one.name), seen) for one in fields(value) if one.name != "storage"}
    if isinstance(value, dict):
        # The open episodes' keys are pairs, which msgpack maps and JSON do not hold.
        if value and isinstance(next(iter(value)), tuple):
            return [[*key, plain(one, seen)] for key, one in value.items()]
        return {key: plain(one, seen) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, seen) for one in value]
    return value


def run_of(payload: dict[str, Any]) -> Run:
    """A run again."""
    attempts = [Attempt(**one) for one in payload["attempts"]]
    plans = {key: Plan(**plan) for key, plan in payload["plans"].items()}
    return Run(**{**payload, "attempts": attempts, "plans": plans})


def agent_of(payload: dict[str, Any], seen: Callable[[Any], SeenList]) -> Agent:
    """An agent again; `seen` takes back what stands for its bars."""
    opened = payload["open"] or []
    return Agent(
        **{
            **payload,
            "lineage": _lineage(payload["lineage"]),
            "spent_closed": {phase: Totals.from_payload(one) for phase, one in payload["spent_closed"].items()},
            "open": {(phase, env_index): _open(one) for phase, env_index, one in opened},
            "active": {phase: Active(*one) for phase, one in payload["active"].items()},
            "strays": {phase: _open(one) for phase, one in payload["strays"].items()},
            "checkpoints": [
                Checkpoint(**{**one, "lineage": _lineage(one["lineage"]), "trends": _trends(one.get("trends"))})
                for one in payload["checkpoints"]
            ],
            "trends": _trends(payload.get("trends")),
            "superseded": _trends(payload.get("superseded")),
            "bars": {key: seen(one) for key, one in payload["bars"].items()},
            "runs": [*dict.fromkeys(payload["runs"])],  # Raises where they are nothing that could be a name.
        }
    )


def _trends(payload: dict[Phase, Any] | None) -> dict[Phase, Trends]:
    """None in a snapshot that was made before there were any."""
    return of_phases() if payload is None else {phase: Trends.from_payload(payload[phase]) for phase in PHASES}


def lines(payload: Any) -> SeenList:
    """Bars that are there line by line."""
    return SeenList(SeenBars(*one) for one in payload)


def _open(payload: dict[str, Any]) -> OpenEpisode:
    return OpenEpisode(**{**payload, "bars": [SeenBars(*one) for one in payload["bars"]]})


def _lineage(payload: dict[str, Any]) -> Lineage:
    return Lineage(
        {phase: Totals.from_payload(one) for phase, one in payload["effective"].items()},
        dict(payload["next_episode"]),
        {phase: Intervals([list(pair) for pair in one]) for phase, one in payload["finished"].items()},
        dict(payload["bars"]),
        dict(payload["ended"]),
    )
