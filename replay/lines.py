"""Lines: an event or a mark as one line of text, or as one JSON object: what `journal dump` and `tail` print."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields as dataclass_fields
from datetime import UTC, datetime
from functools import partial
from typing import Any, Final, NamedTuple

from journal import arrays, batch, cell, events
from journal.cell import EVAL
from journal.walk import Piece, context_after
from replay.batch import Batch
from replay.documents import dumps, plain
from replay.totals import PHASES

_TEXT_MAX: Final = 200
"""Characters of one field in a line of text; JSON holds everything."""
_HIDDEN: Final = {"env_index": 0, "phase": "train"}
"""Fields that a line of text leaves out where they say nothing."""


class Line(NamedTuple):
    """One event or mark. `position` is its cell's; None where it is read from unpacked rows."""

    position: int | None
    seq: int
    """Of a mark, which takes none, the seq of the event that comes next."""
    time_ns: int
    kind: str
    fields: dict[str, Any]

    def as_document(self) -> dict[str, Any]:
        """The line as JSON holds it."""
        place = {} if self.position is None else {"position": self.position}
        return {**place, "seq": self.seq, "time": _moment(self.time_ns), "kind": self.kind, **self.fields}

    def as_text(self) -> str:
        """Position, seq, time in UTC, kind, and the fields that say something."""
        place = "" if self.position is None else f"{self.position:>9} "
        told = {
            name: value for name, value in self.fields.items() if value is not None and _HIDDEN.get(name, ...) != value
        }
        shown = " ".join(f"{name}={_short(value)}" for name, value in told.items())
        return f"{place}{self.seq:>9} {_moment(self.time_ns)} {self.kind:<16} {shown}".rstrip()


def batch_lines(rows: Batch) -> Iterator[Line]:
    """One line per row."""
    for row in range(len(rows)):
        kind = int(rows.kind[row])
        fields = _fields(kind, partial(_column_at, rows, row), rows.payloads.get(row, b""), rows.names)
        yield Line(None, int(rows.seq[row]), int(rows.time_ns[row]), events.kind_name(kind), fields)


def piece_lines(piece: Piece) -> Iterator[Line]:
    """One line per head, events and marks; a reward batch is one line that holds its columns."""
    names = context_after(piece).names
    for at in piece.heads.tolist():
        found = piece.cells[at]
        kind = int(found["kind"])
        payload = bytes(arrays.payload(piece.raw, piece.cells, at))
        if kind in (cell.RECEIPT, cell.SEGMENT_SEALED):
            stated = piece.cells[at : at + 1].view(arrays.PROMISE_DTYPE)[0]
            fields: dict[str, Any] = {
                "promised": int(stated["position"]),
                "events": int(stated["events"]),
                "chain": bytes(stated["chain"]).hex(),
            }
        elif kind == cell.REWARDS:
            fields = _reward_batch(piece, at, payload, names)
        else:
            fields = _fields(kind, found.__getitem__, payload, names)
        yield Line(piece.position + at, int(found["seq"]), int(found["time_ns"]), events.kind_name(kind), fields)


def _fields(kind: int, get: Callable[[str], Any], payload: bytes, names: Sequence[str]) -> dict[str, Any]:
    """The fields of an event in the order of its class; of an unknown kind, all that the cell holds."""
    content = _content(payload)
    event = events.REGISTRY.get(kind)
    if event is None:
        if kind >= cell.MARK_FIRST:
            return content
        raw = {name: get(name).item() for name in ("flags", "form", "agent", "env_index", "episode", "step", "value")}
        return {**raw, **content}
    of_cell: dict[str, Callable[[], Any]] = {
        "agent": lambda: _name(int(get("agent")), names),
        "metric": lambda: _name(int(get("form")), names),
        "phase": lambda: PHASES[int(get("flags")) & EVAL],
        "monotonic": lambda: float(get("value")),
        "value": lambda: float(get("value")),
        "env_index": lambda: int(get("env_index")),
        "episode": lambda: int(get("episode")),
        "step": lambda: int(get("step")),
    }
    known = [field.name for field in dataclass_fields(event)]
    told = {name: of_cell[name]() if name in of_cell else content.get(name) for name in known}
    return told | {name: value for name, value in content.items() if name not in known}


def _column_at(rows: Batch, row: int, name: str) -> Any:
    return getattr(rows, name)[row]


def _reward_batch(piece: Piece, at: int, payload: bytes, names: Sequence[str]) -> dict[str, Any]:
    found = piece.cells[at]
    count = int(piece.cells[at : at + 1].view(arrays.COUNT)["count"][0])
    place = {name: int(found[name]) for name in ("form", "episode", "step", "env_index")}
    try:
        columns = batch.unpack(count, **place, payload=payload)
    except ValueError as error:  # It contradicts itself: shown as it is.
        return {"count": count, **place, "payload": payload, "wrong": str(error)}
    return {
        "agent": _name(int(found["agent"]), names),
        "count": count,
        "phase": PHASES[int(found["flags"]) & EVAL],
        **{name: column.tolist() for name, column in columns._asdict().items()},
    }


def _content(payload: bytes) -> dict[str, Any]:
    if not payload:
        return {}
    try:
        content = events.unpack(payload)
    except ValueError:
        return {"payload": payload}
    return {str(key): value for key, value in content.items()} if isinstance(content, dict) else {"payload": content}


def _name(number: int, names: Sequence[str]) -> str | None:
    if number == 0:
        return None
    return names[number - 1] if number <= len(names) else f"#{number}"


def _short(value: Any) -> str:
    if isinstance(value, list) and len(value) > 8:
        return f"[{_short(value[0])} … {_short(value[-1])}]"
    value = plain(value) if not isinstance(value, float) else value
    text = value if isinstance(value, str) and value.isprintable() and " " not in value else _json(value)
    return text if len(text) <= _TEXT_MAX else text[: _TEXT_MAX - 1] + "…"


def _json(value: Any) -> str:
    return repr(value) if isinstance(value, float) else dumps(value, indent=None)


def _moment(time_ns: int) -> str:
    try:
        return datetime.fromtimestamp(time_ns / 1e9, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    except (OverflowError, ValueError, OSError):
        return str(time_ns)
