"""The state as plain data, as msgpack holds it, and back. What a snapshot keeps; lossless.

On the way back every number and text must be of the type that a fold gives it: a snapshot that somebody else wrote,
under a right SHA-256, is refused here and not where its values are used.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any, Final, TypeVar

from replay.intervals import Intervals
from replay.seen import SeenBars, SeenList
from replay.state import Active, Agent, Attempt, Checkpoint, Lineage, OpenEpisode, Plan, Run
from replay.totals import PHASES, Phase, Totals
from replay.trends import Trends, of_phases

Made = TypeVar("Made")

_TYPES: Final[dict[Any, tuple[type, ...]]] = {
    "int": (int,),
    "int | None": (int, type(None)),
    "float": (float,),
    "str": (str,),
    "str | None": (str, type(None)),
    "list[str]": (list,),
    "dict[str, str]": (dict,),
    "dict[str, Any]": (dict,),
}
"""What a field of this annotation may be; of others it is looked at elsewhere, or may be anything."""


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
    attempts = [_made(Attempt, one) for one in payload["attempts"]]
    plans = {key: _made(Plan, plan) for key, plan in payload["plans"].items()}
    return _made(Run, payload, attempts=attempts, plans=plans)


def agent_of(payload: dict[str, Any], seen: Callable[[Any], SeenList]) -> Agent:
    """An agent again; `seen` takes back what stands for its bars."""
    opened = payload["open"] or []
    return _made(
        Agent,
        payload,
        lineage=_lineage(payload["lineage"]),
        spent_closed=_of_each(payload["spent_closed"], Totals.from_payload),
        open={(_phase(phase), _number(env_index)): _open(one) for phase, env_index, one in opened},
        active={_phase(phase): _active(*one) for phase, one in payload["active"].items()},
        strays={_phase(phase): _open(one) for phase, one in payload["strays"].items()},
        checkpoints=[
            _made(Checkpoint, one, lineage=_lineage(one["lineage"]), trends=_trends(one.get("trends")))
            for one in payload["checkpoints"]
        ],
        trends=_trends(payload.get("trends")),
        superseded=_trends(payload.get("superseded")),
        bars={key: seen(one) for key, one in payload["bars"].items()},
        runs=[*dict.fromkeys(payload["runs"])],
    )


def lines(payload: Any) -> SeenList:
    """Bars that are there line by line."""
    return SeenList(SeenBars.checked(*one) for one in payload)


def _made(kind: type[Made], payload: dict[str, Any], **parts: Any) -> Made:
    """A part of the state again. Raises `TypeError` where a field is not what a fold gives."""
    made = kind(**{**payload, **parts})
    for one in fields(kind):  # type: ignore[arg-type]
        value, types = getattr(made, one.name), _TYPES.get(one.type)
        wrong = types is not None and type(value) not in types
        if wrong or (one.type == "list[str]" and not all(type(text) is str for text in value)):
            raise TypeError(f"{kind.__name__}.{one.name} is {value!r:.80}")
    return made


def _of_each(payload: dict[str, Any], make: Callable[[Any], Made]) -> dict[Phase, Made]:
    return {phase: make(payload[phase]) for phase in PHASES}


def _phase(value: Any) -> Phase:
    return PHASES[PHASES.index(value)]


def _number(value: Any) -> int:
    if type(value) is not int:
        raise TypeError(f"{value!r:.80} is no number")
    return value


def _numbers(payload: dict[str, Any]) -> dict[str, int]:
    return {str(key): _number(count) for key, count in payload.items()}


def _trends(payload: dict[str, Any] | None) -> dict[Phase, Trends]:
    """None in a snapshot that was made before there were any."""
    return of_phases() if payload is None else _of_each(payload, Trends.from_payload)


def _active(since: Any, wall_ns: Any, count: Any) -> Active:
    if type(since) is not float:
        raise TypeError(f"a clock stands at {since!r:.80}")
    return Active(since, _number(wall_ns), _number(count))


def _open(payload: dict[str, Any]) -> OpenEpisode:
    return _made(OpenEpisode, payload, bars=[SeenBars.checked(*one) for one in payload["bars"]])


def _intervals(payload: Any) -> Intervals:
    pairs = [[_number(start), _number(stop)] for start, stop in payload]
    ends = [end for pair in pairs for end in pair]
    if any(one >= other for one, other in pairwise(ends)) or (ends and ends[-1] - ends[0] > _LONGEST):
        raise ValueError("the entries that are finished make no sense")
    return Intervals(pairs)


_LONGEST: Final = 1 << 62
"""Numbers that the entries of a plan may span: how many there are must fit 63 bits."""


def _lineage(payload: dict[str, Any]) -> Lineage:
    return Lineage(
        _of_each(payload["effective"], Totals.from_payload),
        _of_each(payload["next_episode"], _number),
        _of_each(payload["finished"], _intervals),
        _numbers(payload["bars"]),
        _numbers(payload["ended"]),
    )
