"""What a history file says twice: its columns for queries, and its statistics, held against its own cells.

The cells are made again from some columns, and the chain proves those. The others follow from them (the run, and the
names of kinds, agents and phases), and so do the agents' names in its footer and Parquet's statistics, by which readers
pass over row groups or need not unpack them. Damage there is found by the file's SHA-256; somebody who computes that
anew could make them say anything, so `verify --deep` and `--expect` look here.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import pyarrow as pa

from journal.walk import Piece, context_after
from replay import lossless, table
from replay.batch import unpacked
from replay.parquet import NO_THREADS, Checked, reading

_DERIVED: Final = pa.schema([field for field in lossless.SCHEMA if field.name not in lossless.KEPT])
_ASKED: Final = [*lossless.ALIKE, "value", *_DERIVED.names]
"""The columns of which statistics are believed, by queries or by replay."""


class Derived:
    """Takes the segments of one history file, made again from it, in order."""

    def __init__(self, checked: Checked) -> None:
        self._path = checked.path
        self._file = checked.twin
        self._groups = iter(range(self._file.metadata.num_row_groups))
        self._rows = _DERIVED.empty_table()
        """Of the row group that was read last, those that no segment was compared with yet."""
        self._seq = 0
        self._names: list[str] = []

    def take(self, piece: Piece) -> None:
        """The next segment. Raises `CorruptJournal` where the file says of its events what is not so."""
        self._seq, self._names = piece.seq, context_after(piece).names
        with reading(self._path, piece.seq):
            for _, batch in unpacked(piece):
                made = table.record_batch(batch, _DERIVED)
                done = 0
                while done < len(batch):
                    if not self._rows.num_rows:
                        self._rows = self._next_group()
                    count = min(len(batch) - done, self._rows.num_rows)
                    for name in _DERIVED.names:
                        there, right = self._rows[name].slice(0, count), made.column(name).slice(done, count)
                        if not _same(name, _texts(there), _texts(right)):
                            raise ValueError(f"its column {name!r} is not what its events give")
                    self._rows = self._rows.slice(count)
                    done += count

    def end(self, names: list[str]) -> None:
        """No segment follows. Raises `CorruptJournal` unless these are the agents' names then."""
        with reading(self._path, self._seq):
            if self._names != names:
                raise ValueError("its agents' names are not those that its events give")

    def _next_group(self) -> pa.Table:
        number = next(self._groups)
        rows = self._file.read_row_group(number, columns=_ASKED, **NO_THREADS).combine_chunks()
        metadata = self._file.metadata.row_group(number)
        for place, name in enumerate(lossless.SCHEMA.names):
            column = metadata.column(place)
            known = column.statistics
            if column.path_in_schema != name:
                raise ValueError(f"its column {name!r} has another name in a row group")
            if name in _ASKED and known is not None and known.has_min_max and not _cover(known, rows, name):
                raise ValueError(f"its statistics of the column {name!r} are not what the column holds")
        return rows.select(_DERIVED.names)


def _same(name: str, there: pa.Array, right: pa.Array) -> bool:
    """Of kinds that only a newer version knows, the name is not known here."""
    if there.equals(right) or name != "kind":
        return bool(there.equals(right))
    pairs = zip(there.to_pylist(), right.to_pylist(), strict=True)
    return all(one == other or other.startswith("kind ") for one, other in pairs)


def _texts(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    return whole.dictionary_decode() if isinstance(whole, pa.DictionaryArray) else whole


def _cover(statistics: Any, rows: pa.Table, name: str) -> bool:
    """Does the column hold nothing outside what statistics say? More in them than in it only costs readers time."""
    if name in _DERIVED.names:
        texts = [text for text in _texts(rows[name]).unique().to_pylist() if text is not None]
        return all(statistics.min <= text <= statistics.max for text in texts)
    column = lossless.numbers(rows, name)
    if name == "value":
        column = column[~np.isnan(column)]  # Which are in no statistics.
        return bool(((statistics.min <= column) & (column <= statistics.max)).all())
    least, greatest = np.array([statistics.min_raw, statistics.max_raw], dtype=np.int64).astype(column.dtype)
    return bool(((least <= column) & (column <= greatest)).all())
