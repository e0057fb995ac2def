"""Selection: the rows and columns that a query asks for, of a row group of history or of a batch of the live log."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal.events import kind_name
from journal.storage import Storage
from replay import table
from replay.batch import Batch
from replay.groups import RowGroup, row_groups
from replay.parquet import reading
from replay.query import Window
from replay.scan import Seen, check_kept, live_log

_TEXTS: Final = frozenset(
    field.name for field in table.EXACT if pa.types.is_string(field.type) or pa.types.is_dictionary(field.type)
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What is asked for; its window is good for one reading."""

    schema: pa.Schema
    agents: frozenset[str] | None
    kinds: frozenset[str] | None
    window: Window

    def read(self, storage: Storage, seen: Seen, since: int) -> Iterator[tuple[int, pa.RecordBatch | None]]:
        """The rows of one pass from seq `since` on, each batch with the seq behind it; None: there are none."""
        check_kept(seen.manifest, since)
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
            statistics = group.statistics(("time", "kind", "agent"))
            newest = statistics["time"].max_raw if "time" in statistics else None

            def times() -> NDArray[np.int64]:
                column: NDArray[Any] = group.read(["time"])["time"].chunk(0).to_numpy()
                return column.view(np.int64)

            wanted = self.window.cut(group.first, group.count, newest, times)
            start, stop = max(wanted.start, since - group.first), wanted.stop
            choosing = {
                name: names for name, names in (("kind", self.kinds), ("agent", self.agents)) if names is not None
            }
            if start >= stop or not all(_may_hold(statistics.get(name), names) for name, names in choosing.items()):
                return None
            mask = None
            if choosing:
                chosen = group.read(list(choosing))
                mask = np.logical_and.reduce([_among(chosen[name].chunk(0), names) for name, names in choosing.items()])
                mask[:start] = mask[stop:] = False
                if not mask.any():
                    return None
            rows = group.read(self.schema.names).cast(self.schema)
            for name in _TEXTS & {*self.schema.names}:
                # Arrow believes that a text is one; whoever takes the rows would find out.
                texts = rows[name].chunk(0)
                (texts.dictionary if isinstance(texts, pa.DictionaryArray) else texts).validate(full=True)
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


def _may_hold(statistics: Any, names: frozenset[str]) -> bool:
    return statistics is None or any(statistics.min <= name <= statistics.max for name in names)


def _among(column: pa.DictionaryArray, names: frozenset[str]) -> NDArray[np.bool_]:
    wanted = [number for number, name in enumerate(column.dictionary.to_pylist()) if name in names]
    index = column.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    found: NDArray[np.bool_] = np.isin(index, wanted)
    return found
