"""The events: one frozen class per kind of fact, in the past tense, and the one registry of them all.

An event's fields named `agent`, `env_index`, `episode`, `step`, `value` and `phase` live in its cell; all others
travel as a msgpack map in its payload. Nothing here is ever pickled, and nothing read back is executed.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Final, Literal

import msgpack

from journal import cell
from journal.errors import EventRejected
from journal.fields import check_map, check_phase, check_seconds, check_text, check_texts
from journal.nesting import check_nesting

Phase = Literal["train", "eval"]

NAME_LENGTH_MAX: Final = 200
INTEGER_MAX: Final = 2**63 - 1
"""Largest number in a cell: Parquet readers that know no unsigned integers read it too."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Event:
    """One fact. Subclasses are validated when built and raise `EventRejected`, naming the field."""

    kind: ClassVar[int]

    def __post_init__(self) -> None:
        for name, check, optional in _CHECKS[self.kind]:
            value = getattr(self, name)
            if not (optional and value is None):
                check(value, f"{type(self).__name__}.{name}")


@dataclass(frozen=True, kw_only=True, slots=True)
class NameGiven(Event):
    """A name (of an agent or a metric) got its journal-wide number. The writer appends it by itself."""

    kind: ClassVar[int] = cell.NAME_GIVEN
    name: str
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class RunStarted(Event):
    """A training began: one plan or budget, to be carried out over any number of attempts."""

    kind: ClassVar[int] = cell.RUN_STARTED
    run: str
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class RunEnded(Event):
    """The run's plan or budget is carried out. A run without this event is unfinished."""

    kind: ClassVar[int] = cell.RUN_ENDED
    run: str
    status: str = "completed"


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptStarted(Event):
    """A process took up a run. `code` is the SHA-256 of its main script."""

    kind: ClassVar[int] = cell.ATTEMPT_STARTED
    run: str
    attempt: int
    pid: int
    argv: list[str]
    cwd: str
    code: str | None = None
    git_commit: str | None = None
    git_dirty: bool | None = None
    versions: dict[str, str]
    host: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class AttemptEnded(Event):
    """The process let go of the run. `crashed` is written by the next process, for one that vanished."""

    kind: ClassVar[int] = cell.ATTEMPT_ENDED
    run: str
    attempt: int
    status: str
    error: str | None = None

    def __post_init__(self) -> None:
        Event.__post_init__(self)
        if self.status not in ("completed", "interrupted", "failed", "crashed"):
            raise EventRejected(
                f"AttemptEnded.status is {self.status!r}: use completed, interrupted, failed or crashed"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeStarted(Event):
    """An agent began an episode in sub-environment `env_index`.

    `entry` is the number of the plan's entry it carries out; `monotonic` (seconds) is stamped by the writer
    where the caller gives none, and is what training time is computed from.
    """

    kind: ClassVar[int] = cell.EPISODE_STARTED
    agent: str
    episode: int
    phase: Phase = "train"
    env_index: int = 0
    seed: int | None = None
    entry: int | None = None
    params: dict[str, Any] | None = None
    monotonic: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class EpisodeEnded(Event):
    """An episode ended; `reason` is terminated, truncated, completed, or the caller's own word."""

    kind: ClassVar[int] = cell.EPISODE_ENDED
    agent: str
    episode: int
    phase: Phase = "train"
    env_index: int = 0
    reason: str
    metrics: dict[str, Any] | None = None
    monotonic: float | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class BarsSeen(Event):
    """The bars [start, stop) of an instrument, by content. Only `source="observed"` proves anything.

    `content_hash` is 16 bytes over the timestamps and prices of exactly these bars; None where only claimed.
    `quantised_hash` is the same after rounding to multiples of `tolerance`, where that was asked for.
    """

    kind: ClassVar[int] = cell.BARS_SEEN
    agent: str
    episode: int
    phase: Phase = "train"
    env_index: int = 0
    instrument: str
    timeframe: str
    start: int
    stop: int
    content_hash: bytes | None
    source: Literal["observed", "declared"]
    tolerance: float | None = None
    quantised_hash: bytes | None = None

    def __post_init__(self) -> None:
        Event.__post_init__(self)
        if self.start >= self.stop:
            raise EventRejected(f"BarsSeen.start is {self.start}, stop is {self.stop}: start must be below stop")
        if self.source not in ("observed", "declared"):
            raise EventRejected(f"BarsSeen.source is {self.source!r}: use 'observed' or 'declared'")
        for name in ("content_hash", "quantised_hash"):
            if (content := getattr(self, name)) is not None and not (type(content) is bytes and len(content) == 16):
                raise EventRejected(f"BarsSeen.{name} must be 16 bytes")
        if (self.tolerance is None) != (self.quantised_hash is None):
            raise EventRejected("BarsSeen has one of tolerance and quantised_hash: give both or none")
        if self.source == "observed" and self.content_hash is None:
            raise EventRejected("BarsSeen is 'observed' without a content_hash: only hashed bars are observed")


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewarded(Event):
    """One step's reward. Where speed matters, `Log.reward` and `Log.rewards` write the same without this object."""

    kind: ClassVar[int] = cell.REWARDED
    agent: str
    episode: int
    step: int
    value: float
    phase: Phase = "train"
    env_index: int = 0

    def __post_init__(self) -> None:
        Event.__post_init__(self)
        object.__setattr__(self, "value", as_reward(self.value))


@dataclass(frozen=True, kw_only=True, slots=True)
class MetricLogged(Event):
    """A number beside the rewards (a loss, epsilon, …) at `step`, whatever the caller counts there."""

    kind: ClassVar[int] = cell.METRIC_LOGGED
    agent: str
    metric: str
    step: int
    value: float
    phase: Phase = "train"

    def __post_init__(self) -> None:
        Event.__post_init__(self)
        object.__setattr__(self, "value", as_reward(self.value, "MetricLogged.value"))


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckpointSaved(Event):
    """The state of `agent` (and of `members`, for a team) was on disk under `path` before this event was.

    `episode` is the first train episode that is not in the state. `retired` names the files of older
    checkpoints that are removed once this event is promised.
    """

    kind: ClassVar[int] = cell.CHECKPOINT_SAVED
    agent: str
    episode: int
    path: str
    sha256: str
    size: int
    members: list[str] | None = None
    retired: list[str] | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Rewound(Event):
    """`agent` (and `members`) went back to the checkpoint whose event is `to_seq`: what came after is superseded."""

    kind: ClassVar[int] = cell.REWOUND
    agent: str
    to_seq: int
    members: list[str] | None = None
    path: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class PlanRecorded(Event):
    """The plan that `agent` follows in `phase`, whole: `entries` in order, and the hash that names them."""

    kind: ClassVar[int] = cell.PLAN_RECORDED
    agent: str
    phase: Phase = "train"
    plan_hash: str
    entries: list[dict[str, Any]] | None = None
    path: str | None = None
    length: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Custom(Event):
    """Anything else: a name and what msgpack can hold. It is recorded and shown, never interpreted."""

    kind: ClassVar[int] = cell.CUSTOM
    name: str
    data: Any = None
    agent: str | None = None


REGISTRY: Final[dict[int, type[Event]]] = {
    event.kind: event
    for event in (
        NameGiven,
        RunStarted,
        RunEnded,
        AttemptStarted,
        AttemptEnded,
        EpisodeStarted,
        EpisodeEnded,
        BarsSeen,
        Rewarded,
        MetricLogged,
        CheckpointSaved,
        Rewound,
        PlanRecorded,
        Custom,
    )
}
KIND_NAMES: Final[dict[int, str]] = {kind: event.__name__ for kind, event in REGISTRY.items()} | {
    cell.REWARDS: "Rewarded",
    cell.RECEIPT: "Receipt",
    cell.SEGMENT_OPENED: "SegmentOpened",
    cell.SEGMENT_SEALED: "SegmentSealed",
}

# Where a field lives in the cell; `monotonic` and `value` share the float64 slot, `metric` rides as a number.
_CELL_FIELDS: Final = frozenset({"agent", "env_index", "episode", "step", "value", "phase", "monotonic", "metric"})
_PAYLOAD_FIELDS: Final[dict[int, tuple[tuple[str, Any], ...]]] = {
    kind: tuple((field.name, field.default) for field in fields(event) if field.name not in _CELL_FIELDS)
    for kind, event in REGISTRY.items()
}
_READ_BACK: Final = frozenset({str, int, float, bool, bytes})
"""Types of which msgpack gives back what it was given; in lists and dicts there may be others."""


def kind_name(kind: int) -> str:
    """The class name of a kind, or `"kind 57"` for one that a newer version wrote."""
    return KIND_NAMES.get(kind, f"kind {kind}")


def payload_of(event: Event) -> bytes:
    """The msgpack map of an event's fields that do not live in its cell; empty when all are at their default.

    Raises `EventRejected` where a value cannot be recorded or the payload is over the limit.
    """
    content = {}
    for name, default in _PAYLOAD_FIELDS[event.kind]:
        value = getattr(event, name)
        # By type first: an array does not compare to one truth.
        if type(value) is not type(default) or value != default:
            content[name] = value
    if not content:
        return b""
    what = type(event).__name__
    payload = pack(content, what)
    if all(type(value) in _READ_BACK for value in content.values()):
        return payload
    check_nesting(content, what)
    try:
        unpack(payload)
        return payload
    except ValueError as error:
        raise EventRejected(f"{what} could not be read back: {error}; use text as keys") from error


def pack(content: Any, what: str) -> bytes:
    """`content` in msgpack. Raises `EventRejected` naming `what` where it cannot be recorded."""
    try:
        payload = msgpack.packb(content, default=_plain)
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        instead = "give numbers, text, bytes, lists and dicts, and put an object's state in a checkpoint"
        raise EventRejected(f"{what} cannot be recorded: {error}; {instead}") from error
    if len(payload) > cell.PAYLOAD_MAX:
        raise EventRejected(
            f"{what} is {len(payload):,} bytes; an event holds at most {cell.PAYLOAD_MAX:,}: save it through the "
            "checkpoint store (agents_adapter.CheckpointStore) and record its path"
        )
    return bytes(payload)


def unpack(payload: bytes | memoryview) -> Any:
    """What `pack` packed. Raises `ValueError` where the bytes are no msgpack; sizes are bounded by the bytes given."""
    try:
        return msgpack.unpackb(payload, strict_map_key=False)
    except (msgpack.UnpackException, ValueError, TypeError, RecursionError, OverflowError) as error:
        raise ValueError(f"payload is no msgpack: {error}") from error


def _plain(value: Any) -> Any:
    """What numpy, pandas and pathlib give, as what msgpack knows."""
    for method in ("tolist", "isoformat", "__fspath__"):
        convert = getattr(value, method, None)
        if convert is not None:
            return convert()
    raise TypeError(f"{type(value).__name__} {value!r:.80}")


def check_name(name: Any, what: str) -> str:
    """`name`, if it can name an agent, a run, an instrument or a metric; else `EventRejected`."""
    if not isinstance(name, str):
        raise EventRejected(f"{what} is {name!r:.80}, not a text")
    if not name or name != name.strip() or len(name) > NAME_LENGTH_MAX:
        raise EventRejected(
            f"{what} is {name!r:.80}: a name has 1 to {NAME_LENGTH_MAX} characters, no space at its ends"
        )
    if name in (".", "..") or not name.isprintable() or "/" in name or "\\" in name:
        raise EventRejected(f"{what} is {name!r:.80}: a name holds no '/', no '\\' and no control character")
    return name


def check_count(number: Any, what: str) -> None:
    """Raises `EventRejected` unless `number` is an integer of 0 … 2**63 - 1."""
    try:
        good = not isinstance(number, bool) and 0 <= number.__index__() <= INTEGER_MAX
    except (AttributeError, TypeError):
        good = False
    if not good:
        raise EventRejected(f"{what} is {number!r:.80}: it must be an integer of 0 or more")


def check_tolerance(number: Any, what: str) -> None:
    """Raises `EventRejected` unless `number` is a finite float above 0."""
    if not isinstance(number, float) or not 0.0 < number < math.inf:
        raise EventRejected(f"{what} is {number!r:.80}: give a step to round prices to, such as 0.0001")


def _check_names(names: Any, what: str) -> None:
    if not isinstance(names, list):
        raise EventRejected(f"{what} is {names!r:.80}, not a list of names")
    for name in names:
        check_name(name, what)


def as_reward(value: Any, what: str = "reward") -> float:
    """`value` as the float64 that is recorded; it must be exactly that number.

    Taken: float, int and bool (exact in float64), numpy and torch scalars, arrays of shape (). NaN and infinite
    values are taken, and counted apart. Refused with `EventRejected`: None, text, complex, arrays with a shape, an int
    that float64 cannot hold.
    """
    if isinstance(value, (float, int)):
        number = value
    else:
        shape = getattr(value, "shape", ())
        if tuple(shape) != ():
            raise EventRejected(
                f"{what} has shape {tuple(shape)}: give one number (reward[0]?), or the whole array to rewards()"
            )
        item = getattr(value, "item", None)
        number = item() if item is not None else value
    if isinstance(number, (float, int)):
        try:
            real = float(number)
        except OverflowError:
            raise EventRejected(f"{what} is larger than any float64: give a float") from None
        if real == number or number != number:
            return real
        raise EventRejected(f"{what} {number} is not exact in float64 (integers are up to 2**53): give a float")
    raise EventRejected(f"{what} is {value!r:.80}: give a number")


# What a field must be follows from its name, in every event; one whose default is None may be None.
_RULES: Final[dict[str, Callable[[Any, str], object]]] = {
    **dict.fromkeys(("agent", "instrument", "metric", "name", "run"), check_name),
    **dict.fromkeys(("attempt", "entry", "env_index", "episode", "length", "number", "pid"), check_count),
    **dict.fromkeys(("size", "start", "step", "stop", "to_seq"), check_count),
    **dict.fromkeys(("code", "cwd", "error", "git_commit", "host", "path"), check_text),
    **dict.fromkeys(("plan_hash", "reason", "sha256", "source", "status", "timeframe"), check_text),
    **dict.fromkeys(("argv", "retired"), check_texts),
    **dict.fromkeys(("config", "metrics", "params", "versions"), check_map),
    "members": _check_names,
    "monotonic": check_seconds,
    "phase": check_phase,
    "tolerance": check_tolerance,
}
_CHECKS: Final = {
    kind: tuple(
        (field.name, _RULES[field.name], field.default is None) for field in fields(event) if field.name in _RULES
    )
    for kind, event in REGISTRY.items()
}
