"""Importing: events that another journal recorded, appended to a new one with the seqs, times and content they had.

What was one batch there may be several events here and the other way round; no event differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from journal import cell, events
from journal.errors import EventRejected
from journal.events import Event
from journal.writer import Log

BATCH_MIN: Final = 8
"""Rewards of one agent and one moment that are worth a batch."""


@dataclass(slots=True)
class Then:
    """A clock that shows the time of the event that is appended."""

    now_ns: int = 0

    def time_ns(self) -> int:
        """The event's time."""
        return self.now_ns

    def monotonic(self) -> float:
        """Never asked: events bring their own."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Rows:
    """Events in order: columns of equal length, as `replay.table.EXACT` names them."""

    seq: NDArray[np.uint64]
    time_ns: NDArray[np.int64]
    kind: NDArray[np.uint16]
    flags: NDArray[np.uint8]
    form: NDArray[np.uint16]
    agent: NDArray[np.uint32]
    env_index: NDArray[np.uint32]
    episode: NDArray[np.uint64]
    step: NDArray[np.uint64]
    value: NDArray[np.float64]
    payloads: Mapping[int, bytes]


def append_rows(log: Log, clock: Then, rows: Rows) -> None:
    """Append the rows to a log that was opened with `clock`. They survive the process; `log.close` promises them.

    Raises `EventRejected` naming the seq where one does not follow the one before it, or cannot be an event; those
    before it are recorded. Raises as `Log.append` does, too.
    """
    wrong = np.flatnonzero(rows.seq != log.next_seq + np.arange(len(rows.seq), dtype=np.uint64))
    end = int(wrong[0]) if len(wrong) else len(rows.seq)
    plain = (rows.kind == cell.REWARDED) & (rows.form == 0) & (rows.agent > 0)
    plain[list(rows.payloads)] = False
    same = plain[1:] & plain[:-1]
    for column in (rows.time_ns, rows.agent, rows.flags):
        same &= column[1:] == column[:-1]
    # Neighbours that may share a batch: it has one agent and one time.
    begins = [0, *(np.flatnonzero(~same[: max(0, end - 1)]) + 1).tolist()] if end else []
    for start, stop in zip(begins, [*begins[1:], end][: len(begins)], strict=True):
        clock.now_ns = int(rows.time_ns[start])
        if not plain[start]:
            _append_one(log, rows, start)
        elif stop - start < BATCH_MIN or not _append_batch(log, rows, slice(start, stop)):
            _append_rewards(log, rows, slice(start, stop))
    if end < len(rows.seq):
        raise EventRejected(
            f"event {int(rows.seq[end])} stands where {log.next_seq} should: an import takes all, in order from 0"
        )


def _append_batch(log: Log, rows: Rows, at: slice) -> bool:
    """Can they be a batch? One holds no numbers that are far apart."""
    agent, flags = int(rows.agent[at.start]), int(rows.flags[at.start])
    episodes, steps, env_indices = (_scalar(column[at]) for column in (rows.episode, rows.step, rows.env_index))
    try:
        log.rewards(agent, episodes, steps, rows.value[at], env_indices, flags)
    except EventRejected:
        return False  # None of them was recorded: as rewards, one by one, they may well be.
    return True


def _scalar(column: NDArray[Any]) -> int | NDArray[Any]:
    """A column whose rows are all the same as that number, which takes no space in a batch."""
    return int(column[0]) if bool((column == column[0]).all()) else column


def _append_rewards(log: Log, rows: Rows, at: slice) -> None:
    agent, flags = int(rows.agent[at.start]), int(rows.flags[at.start])
    columns = (rows.episode, rows.step, rows.value, rows.env_index)
    for episode, step, value, env_index in zip(*(column[at].tolist() for column in columns), strict=True):
        log.reward(agent, episode, step, value, env_index, flags)


def _append_one(log: Log, rows: Rows, row: int) -> None:
    kind, flags, agent = int(rows.kind[row]), int(rows.flags[row]), int(rows.agent[row])
    place = {name: int(getattr(rows, name)[row]) for name in ("form", "env_index", "episode", "step")}
    value, payload = float(rows.value[row]), rows.payloads.get(row, b"")
    try:
        if kind == 0 or kind >= cell.MARK_FIRST or kind == cell.REWARDS:
            raise EventRejected(f"its kind is {kind}, and that is no event's")
        event = _event(log, kind, flags, agent, place, value, payload)
        log._append_cell(kind, payload, flags=flags, agent=agent, value=value, event=event, **place)
    except EventRejected as error:
        raise EventRejected(f"event {int(rows.seq[row])} cannot be imported: {error}") from error


def _event(
    log: Log, kind: int, flags: int, agent: int, place: dict[str, int], value: float, payload: bytes
) -> Event | None:
    """What the log's context takes in of it; None for a kind that this version does not know."""
    try:
        content = events.unpack(payload) if payload else {}
    except ValueError as error:
        if kind in events.REGISTRY:
            raise EventRejected(str(error)) from error
        return None
    of_class = events.REGISTRY.get(kind)
    if of_class is None:
        return None
    if not isinstance(content, dict):
        raise EventRejected("its payload is no map")
    of_cell: dict[str, Any] = {
        **place,
        "agent": log.context.name(agent),
        "metric": log.context.name(place["form"]),
        "phase": "eval" if flags & cell.EVAL else "train",
        "value": value,
        "monotonic": value,
    }
    names = {field.name for field in fields(of_class)}
    given = {name: one for name, one in (of_cell | content).items() if name in names}
    try:
        event = of_class(**given)
    except TypeError as error:
        raise EventRejected(f"{of_class.__name__}: {error}") from error
    if isinstance(event, events.NameGiven) and event.number != len(log.context.names) + 1:
        raise EventRejected(f"the name {event.name!r} has number {event.number}, not {len(log.context.names) + 1}")
    return event
