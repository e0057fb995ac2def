"""Row groups: the events of history, a stretch of them at a time, and no more of their columns than is asked for.

    file, checked as a whole ──▶ row groups, in order ──▶ batches, two of them unpacked while one is looked at

Nothing is decoded before the whole file was found to be what was written (`replay.parquet`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from journal.ahead import at_once, submit
from journal.errors import CorruptJournal
from journal.manifest import Base, Manifest
from journal.storage import Storage
from replay import lossless
from replay.batch import Batch
from replay.history import Description, Span, open_history, same_place, spans
from replay.parquet import NO_THREADS, Checked, reading

_SETTLED: Final = 2
"""The row group of a file at which nobody unpacks the file before it any more."""


@dataclass(frozen=True, slots=True)
class RowGroup:
    """Some events of a history file that was checked, not decoded yet."""

    path: str
    file: pq.ParquetFile
    number: int
    first: int
    """Its first seq."""
    names: list[str]

    @property
    def count(self) -> int:
        """How many events it holds."""
        return int(self.file.metadata.row_group(self.number).num_rows)

    def read(self, columns: Sequence[str]) -> pa.Table:
        """Its rows, in these columns, each of one chunk. Raises as `read` of this module does."""
        with reading(self.path, self.first):
            return self.file.read_row_group(self.number, columns=list(columns), **NO_THREADS).combine_chunks()

    def statistics(self, columns: Collection[str]) -> dict[str, Any]:
        """Column → what Parquet knows of its values, of these columns; those of which it knows nothing are left out."""
        metadata = self.file.metadata.row_group(self.number)
        found = {}
        for number, name in enumerate(lossless.SCHEMA.names):
            if name in columns:
                statistics = metadata.column(number).statistics
                if statistics is not None and statistics.has_min_max:
                    found[name] = statistics
        return found

    def batch(self, columns: Collection[str] | None) -> Batch:
        """Its events, with these columns of a batch, or all. Raises as `read` of this module does."""
        wanted = lossless.read_columns(columns)
        with reading(self.path, self.first):
            known = self.statistics({"seq", *wanted} & lossless.ALIKE.keys())
            if "seq" in known and (known["seq"].min, known["seq"].max) != (self.first, self.first + self.count - 1):
                raise ValueError("its events are not numbered as it says")
            alike = {
                name: known[name].min_raw
                for name in wanted
                if name in known and known[name].min_raw == known[name].max_raw
            }
            rows = self.read([name for name in wanted if name not in alike])
            batch = lossless.to_batch(rows, self.names, self.first, alike)
        batch.path = self.path
        return batch


def read(
    storage: Storage, manifest: Manifest, since: int, columns: Collection[str] | None = None
) -> Generator[Batch, None, None]:
    """Batches of the events from `since` (or a little before it) to the manifest's base, with these columns, or all.

    Two are unpacked while one is looked at, and the next file is read and hashed meanwhile, each in a thread. Raises
    `CorruptJournal` naming the file and the first seq in doubt, `UnsupportedFormat`, `JournalFailed`. Memory: three row
    groups and two files.
    """
    with (
        ThreadPoolExecutor(1, "checking history") as checker,
        ThreadPoolExecutor(2, "unpacking history") as unpackers,
    ):
        groups = row_groups(storage, manifest, since, checker)

        def batch(opening: Future[RowGroup | None]) -> Batch | None:
            group = opening.result()
            return None if group is None else group.batch(columns)

        def following() -> Future[Batch | None]:
            return submit(unpackers, batch, at_once(next, groups, None))

        coming = deque((following(), following()))
        while (found := coming.popleft().result()) is not None:
            coming.append(following())
            yield found


def row_groups(
    storage: Storage, manifest: Manifest, since: int, checker: ThreadPoolExecutor | None = None
) -> Iterator[RowGroup]:
    """The row groups that hold the events from `since` to the manifest's base; raises as `read` does.

    Files below `since` are not read. Of the others every byte is checked, but nothing decoded; by `checker`, if there
    is one, while the row groups of the file before it are looked at.
    """
    before: Base | None = None
    wanted = [span for span in spans(storage, manifest, since) if span.last >= since]

    opening: deque[Future[tuple[Checked, Description]]] = deque()

    def begin(span: Span | None) -> None:
        if span is not None and checker is not None:
            opening.append(submit(checker, open_history, storage, span.path, span))

    begin(next(iter(wanted[1:]), None))  # Before the first two there is no file.
    for span, after in zip_longest(wanted, wanted[1:]):
        checked, told = opening.popleft().result() if opening and before else open_history(storage, span.path, span)
        if told.journal_id != manifest.journal_id:
            raise CorruptJournal(span.path, 0, span.first, "this file belongs to another journal")
        if before is not None and not same_place(before, told.base):
            raise CorruptJournal(span.path, 0, span.first, "it does not go on where the history file before it ends")
        if manifest.drops and span.first == manifest.kept_from and told.base.chain != manifest.drops[-1].chain:
            raise CorruptJournal(span.path, 0, span.first, "it does not go on where the dropped history ended")
        before = told.end
        if span.last + 1 == manifest.base.seq and not same_place(told.end, manifest.base):
            raise CorruptJournal(span.path, 0, span.first, "it does not end where the log begins by journal.json")
        following = span.first
        for number in range(checked.file.metadata.num_row_groups):
            if number == _SETTLED and not opening:
                begin(after)
            # One and the next are unpacked at the same time.
            file = checked.twin if number % 2 else checked.file
            group = RowGroup(span.path, file, number, following, told.end.context.names)
            following += group.count
            if following > since:
                yield group
