"""Query: which events are asked for, and which of their columns; what holds neither is not decoded, or not even read.

history      files outside [since, until) are not opened; row groups whose statistics say that no row fits are not
             decoded, nor are columns that nobody asked for; rows are chosen by the few columns that choose
live log     sealed segments that end before `since` are not read, nor is anything behind `until`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from journal.events import KIND_NAMES, Event
from replay.loading import Place, storage_of
from replay.scan import Seen, kept, passes

if TYPE_CHECKING:
    import pyarrow as pa

Moment = int | datetime
"""A seq, or a time."""


def events(
    place: Place,
    *,
    columns: Sequence[str] | None = None,
    agents: str | Sequence[str] | None = None,
    kinds: str | type[Event] | Sequence[str | type[Event]] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> Iterator[pa.RecordBatch]:
    """The events with since ≤ event < until as Arrow record batches, one row per event (a batch is unpacked).

    Columns: seq, time, run, kind (the event's class name), agent, phase, env_index, episode, step, value, and `fields`,
    the kind's own fields as JSON text; by name also code, flags, form, agent_number and payload (`replay.table`). Only
    those in `columns`, in that order; only events of these `agents` and `kinds` (names, or the classes).

    `since` and `until` are seqs or times. A time stands for the first event (`until`: from `since` on) that is not
    earlier, so a clock that went back does not matter; naive ones are local. Raises `ValueError` for a column or kind
    that does not exist, else as `replay.load` does, at the first damage of what is read; warns where events were
    dropped. Memory: two segments, or two files of history and a row group.
    """
    from replay import table  # It needs pyarrow, which `import replay` does not.
    from replay.selection import Selection

    selection = Selection(
        table.select(_known(columns, table.EXACT.names, "column")) if columns is not None else table.SCHEMA,
        None if agents is None else frozenset(_listed(agents)),
        None if kinds is None else frozenset(_known(kinds, KIND_NAMES.values(), "kind")),
        Window(_bound(since), _bound(until)),
    )
    storage = storage_of(place)
    begin = kept(storage, since if isinstance(since, int) else 0)

    def once(seen: Seen, following: int) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        return selection.read(storage, seen, following)

    return (rows for rows in passes(storage, begin, once) if rows is not None and rows.num_rows)


def _listed(names: Any) -> list[str]:
    several = [names] if isinstance(names, (str, type)) else list(names)
    return [name.__name__ if isinstance(name, type) else str(name) for name in several]


def _known(names: Any, known: Any, what: str) -> list[str]:
    found = _listed(names)
    for name in found:
        if name not in known and not (what == "kind" and name.startswith("kind ")):
            raise ValueError(f"there is no {what} {name!r:.80}: there are {', '.join(dict.fromkeys(known))}")
    return found


def _bound(moment: Moment | None) -> int | _Time | None:
    return _Time(round(moment.timestamp() * 1e9)) if isinstance(moment, datetime) else moment


@dataclass(frozen=True, slots=True)
class _Time:
    """The first event whose time is `ns` or later."""

    ns: int


@dataclass(slots=True)
class Window:
    """[since, until), of which the ends that are times are found while reading."""

    since: int | _Time | None
    until: int | _Time | None
    over: bool = False
    """Was `until` reached?"""

    def cut(self, first: int, count: int, newest: int | None, times: Callable[[], NDArray[np.int64]]) -> slice:
        """Which of the `count` events from seq `first` on are in it.

        `times` gives theirs, in nanoseconds; it is not called where `newest`, the latest of them (None: unknown), says
        enough.
        """
        start, stop = 0, count
        if isinstance(self.since, int):
            start = min(max(0, self.since - first), count)
        elif self.since is not None:
            start = _reached(self.since, 0, count, newest, times)
            if start < count:
                self.since = first + start  # From here on everything is, whatever its time.
        if isinstance(self.until, int):
            stop = min(max(0, self.until - first), count)
        elif self.until is not None:
            # What lies before `since` may not have been read, so it has no say.
            stop = _reached(self.until, start, count, newest, times)
        self.over = stop < count
        return slice(start, max(start, stop))


def _reached(time: _Time, start: int, count: int, newest: int | None, times: Callable[[], NDArray[np.int64]]) -> int:
    """The first event from index `start` on that is not earlier; `count` where there is none."""
    if start == count or (newest is not None and newest < time.ns):
        return count
    late = times()[start:] >= time.ns
    return start + int(np.argmax(late)) if late.any() else count
