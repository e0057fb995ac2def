"""Query: which events are asked for, and which of their columns; what holds neither is not decoded, or not even read.

history      files outside [since, until) are not opened; row groups whose statistics say that no row fits are not
             decoded, nor are columns that nobody asked for; rows are chosen by the few columns that choose
live log     sealed segments that end before `since` are not read, nor is anything behind `until`
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal.events import KIND_NAMES, Event, kind_name
from journal.storage import Storage
from replay import table
from replay.batch import Batch
from replay.history import RowGroup, row_groups
from replay.loading import Place, storage_of
from replay.parquet import reading
from replay.scan import Seen, live_log, passes

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

    `since` and `until` are seqs or times. A time stands for the first event that is not earlier, so a clock that went
    back does not matter; naive ones are local. Raises `ValueError` for a column or kind that does not exist, else as
    `replay.load` does, at the first damage of what is read. Memory: a segment, or a row group.
    """
    query = Query(
        table.select(_known(columns, table.EXACT.names, "column")) if columns is not None else table.SCHEMA,
        None if agents is None else frozenset(_listed(agents)),
        None if kinds is None else frozenset(_known(kinds, KIND_NAMES.values(), "kind")),
        _Window(_bound(since), _bound(until)),
    )
    storage = storage_of(place)
    begin = since if isinstance(since, int) else 0

    def once(seen: Seen, following: int) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        return query.read(storage, seen, following)

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
class _Window:
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
            start = self._reached(self.since, count, newest, times)
            if start < count:
                self.since = first + start  # From here on everything is, whatever its time.
        if isinstance(self.until, int):
            stop = min(max(0, self.until - first), count)
        elif self.until is not None:
            stop = self._reached(self.until, count, newest, times)
        self.over = stop < count
        return slice(start, max(start, stop))

    def _reached(self, time: _Time, count: int, newest: int | None, times: Callable[[], NDArray[np.int64]]) -> int:
        if newest is not None and newest < time.ns:
            return count
        late = times() >= time.ns
        return int(np.argmax(late)) if late.any() else count


@dataclass(frozen=True, slots=True)
class Query:
    """What is asked for; read once."""

    schema: pa.Schema
    agents: frozenset[str] | None
    kinds: frozenset[str] | None
    window: _Window = field(default_factory=lambda: _Window(None, None))

    def read(self, storage: Storage, seen: Seen, since: int) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        """The rows of one pass from seq `since` on, each batch with the seq behind it; None: there are none."""
        if since < seen.manifest.base.seq:
            for group in row_groups(storage, seen.manifest, since):
                yield group.first + group.count, self._of_history(group, since)
                if self.window.over:
                    return
        for batch in live_log(storage, seen, since):
            if len(batch):
                yield int(batch.seq[-1]) + 1, self._of_log(batch, since)
                if self.window.over:
                    return

    def _of_history(self, group: RowGroup, since: int) -> pa.RecordBatch | None:
        with reading(group.path, group.first):
            statistics = _statistics(group)
            newest = statistics["time"].max_raw if statistics["time"] is not None else None

            def times() -> NDArray[np.int64]:
                column: NDArray[Any] = group.read(["time"])["time"].chunk(0).to_numpy()
                return column.view(np.int64)

            wanted = self.window.cut(group.first, group.count, newest, times)
            start, stop = max(wanted.start, since - group.first), wanted.stop
            choosing = {
                name: names for name, names in (("kind", self.kinds), ("agent", self.agents)) if names is not None
            }
            if start >= stop or not all(_may_hold(statistics[name], names) for name, names in choosing.items()):
                return None
            mask = None
            if choosing:
                chosen = group.read(list(choosing))
                mask = np.logical_and.reduce([_among(chosen[name].chunk(0), names) for name, names in choosing.items()])
                mask[:start] = mask[stop:] = False
                if not mask.any():
                    return None
            rows = group.read(self.schema.names).cast(self.schema)
        rows = rows.slice(start, stop - start) if mask is None else rows.filter(pa.array(mask))
        return rows.combine_chunks().to_batches()[0]

    def _of_log(self, batch: Batch, since: int) -> pa.RecordBatch:
        first = int(batch.seq[0])
        wanted = self.window.cut(first, len(batch), None, lambda: batch.time_ns)
        batch = batch.cut(max(wanted.start, since - first, 0), wanted.stop)
        if self.kinds is not None or self.agents is not None:
            mask = np.ones(len(batch), dtype=np.bool_)
            for column, names, name in ((batch.kind, self.kinds, kind_name), (batch.agent, self.agents, batch.name)):
                if names is not None:
                    present = np.unique(column)
                    mask &= np.isin(column, [one for one in present.tolist() if name(one) in names])
            batch = batch.take(np.flatnonzero(mask))
        return table.record_batch(batch, self.schema)


def _statistics(group: RowGroup) -> dict[str, Any]:
    """Column → what Parquet knows of its values in a row group; None where nothing."""
    metadata = group.file.metadata.row_group(group.number)
    found = {}
    for number in range(metadata.num_columns):
        column = metadata.column(number)
        known = column.is_stats_set and column.statistics.has_min_max
        found[column.path_in_schema] = column.statistics if known else None
    return found


def _may_hold(statistics: Any, names: frozenset[str]) -> bool:
    return statistics is None or any(statistics.min <= name <= statistics.max for name in names)


def _among(column: pa.DictionaryArray, names: frozenset[str]) -> NDArray[np.bool_]:
    wanted = [number for number, name in enumerate(column.dictionary.to_pylist()) if name in names]
    index = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    found: NDArray[np.bool_] = np.isin(index, wanted)
    return found
