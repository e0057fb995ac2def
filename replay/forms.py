"""Forms: events outside of any journal, as Parquet, CSV or JSON lines; written and read, and nothing lost between.

In text, times are UTC to the nanosecond and payloads are hexadecimal. `value_bits` holds the 64 bits (hexadecimal) of a
value that JSON has no word for: one that is no finite number, or minus zero.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from typing import IO, Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from replay import arrow, table
from replay.batch import ROWS
from replay.packing import options_for
from replay.parquet import NO_READERS, NO_THREADS, Writer
from replay.progress import Progress, silent

BITS: Final = "value_bits"
PATH: Final = "path"
"""The column that names the journal, where rows come from several."""


def write_parquet(rows: Iterable[pa.RecordBatch], schema: pa.Schema, stream: IO[bytes]) -> int:
    """Write the rows to a stream, compressed, in row groups as history has them. Returns how many."""
    count = 0
    with Writer(stream, schema, **options_for(schema)) as file:
        for gathered in _gathered(rows, schema):
            file.write(gathered)
            count += gathered.num_rows
        file.close({"events": count})
    return count


def write_csv(rows: Iterable[pa.RecordBatch], schema: pa.Schema, stream: IO[bytes]) -> int:
    """Write the rows with a line of names above them. Returns how many."""
    count = 0
    text = _as_text(pa.Table.from_batches([], schema=schema)).schema
    with pa_csv.CSVWriter(stream, text) as file:
        for batch in rows:
            file.write_table(_as_text(pa.Table.from_batches([batch])))
            count += batch.num_rows
    return count


def write_jsonl(rows: Iterable[pa.RecordBatch], schema: pa.Schema, stream: IO[bytes]) -> int:
    """Write each row as one JSON object on a line of its own. Returns how many."""
    count = 0
    for batch in rows:
        text = _as_text(pa.Table.from_batches([batch]))
        parts: list[Any] = []
        for name in text.column_names:
            parts += [f"{',' if parts else '{'}{json.dumps(name)}:", _as_json(name, text[name].combine_chunks())]
        lines = pc.binary_join_element_wise(*parts, "}\n", "", null_handling="replace", null_replacement="null")
        stream.write("".join(lines.to_pylist()).encode())
        count += batch.num_rows
    return count


WRITERS: Final = {"parquet": write_parquet, "csv": write_csv, "jsonl": write_jsonl}


def with_path(batch: pa.RecordBatch, path: str, schema: pa.Schema) -> pa.RecordBatch:
    """The rows with a first column that names their journal, as in `schema`."""
    index = pa.array(np.zeros(batch.num_rows, dtype=np.int32))
    return pa.RecordBatch.from_arrays(
        [pa.DictionaryArray.from_arrays(index, pa.array([path])), *batch.columns], schema=schema
    )


def _gathered(rows: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """The same rows in fewer pieces: a row group each."""
    pending: list[pa.RecordBatch] = []
    held = 0
    for batch in rows:
        if held + batch.num_rows > ROWS and held:
            yield _together(pending, schema)
            pending, held = [], 0
        pending.append(batch)
        held += batch.num_rows
    if held:
        yield _together(pending, schema)


def _together(batches: list[pa.RecordBatch], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_batches(batches, schema=schema).unify_dictionaries().combine_chunks()


def _as_text(rows: pa.Table) -> pa.Table:
    """The rows as what text can hold: names instead of dictionaries, bytes in hexadecimal, `value_bits`."""
    columns: dict[str, Any] = {}
    for field in rows.schema:
        column = rows[field.name]
        if pa.types.is_dictionary(field.type):
            column = column.cast(pa.string())
        elif pa.types.is_binary(field.type):
            texts = [None if raw is None else raw.hex() for raw in column.to_pylist()] if _any(column) else None
            column = pa.nulls(rows.num_rows, pa.string()) if texts is None else pa.array(texts, pa.string())
        elif pa.types.is_timestamp(field.type):
            column = column.cast(pa.string())
        columns[field.name] = column
        if field.name == "value":
            values: NDArray[np.float64] = column.to_numpy()
            odd = np.flatnonzero(~np.isfinite(values) | ((values == 0) & np.signbit(values))).tolist()
            bits = {row: values[row : row + 1].astype(">f8").tobytes().hex().encode() for row in odd}
            columns[BITS] = arrow.sparse(rows.num_rows, bits, pa.string())
    return pa.table(columns)


def _any(column: pa.ChunkedArray) -> bool:
    return bool(column.null_count < len(column))


def _as_json(name: str, column: pa.Array) -> pa.Array:
    """A column's values as JSON text; null stays null."""
    if pa.types.is_floating(column.type):
        finite = pc.is_finite(column)
        return pc.if_else(finite, column, pa.scalar(None, column.type)).cast(pa.string())
    if not pa.types.is_string(column.type):
        return column.cast(pa.string())
    if name == "fields":
        return column  # It is JSON already.
    coded = column.dictionary_encode()
    words = pa.array([json.dumps(word, ensure_ascii=False) for word in coded.dictionary.to_pylist()], pa.string())
    return pa.DictionaryArray.from_arrays(coded.indices, words).cast(pa.string())


# -- reading -----------------------------------------------------------------------------------------------------------

NEEDED: Final = [name for name in table.EXACT.names if name not in ("run", "kind", "agent", "phase", "fields")]
"""The columns that an import is made from; the others say the same for people."""
_TEXT: Final = pa.schema(
    [
        *(
            pa.field(name, pa.string() if name in ("time", "payload") else table.EXACT.field(name).type)
            for name in NEEDED
        ),
        pa.field(BITS, pa.string()),
    ]
)


def read(path: str, progress: Progress = silent) -> Iterator[pa.Table]:
    """The rows of a file in one of the three forms, told by how it begins, in the columns `NEEDED`.

    Raises `ValueError` or `pyarrow.ArrowException` where it is none of them, and `OSError`.
    """
    with open(path, "rb") as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        begin = file.read(4)
        file.seek(0)
        form = _parquet_rows if begin == b"PAR1" else _json_rows if begin[:1] == b"{" else _csv_rows
        if begin:
            for rows in form(file):
                yield rows
                progress(min(file.tell(), size), size)


def _parquet_rows(file: IO[bytes]) -> Iterator[pa.Table]:
    parquet = pq.ParquetFile(file, page_checksum_verification=True, **NO_READERS)
    _complete(parquet.schema_arrow.names)
    for batch in parquet.iter_batches(ROWS, columns=NEEDED, **NO_THREADS):
        yield pa.Table.from_batches([batch]).select(NEEDED)


def _complete(names: Iterable[str]) -> None:
    missing = [name for name in NEEDED if name not in set(names)]
    if missing:
        raise ValueError(f"it has no column {', '.join(missing)}: export without --columns")


def _json_rows(file: IO[bytes]) -> Iterator[pa.Table]:
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(file, 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"line {number} is no JSON: {error}") from error
        if number == 1:
            _complete(row if isinstance(row, dict) else ())
            columns = {name: [] for name in _TEXT.names}
        if not isinstance(row, dict):
            raise ValueError(f"line {number} is no JSON object")
        for name, column in columns.items():
            column.append(row.get(name))
        count += 1
        if count == ROWS // 4:
            yield _from_text(pa.table(columns, schema=_TEXT))
            columns, count = {name: [] for name in _TEXT.names}, 0
    if count:
        yield _from_text(pa.table(columns, schema=_TEXT))


def _csv_rows(file: IO[bytes]) -> Iterator[pa.Table]:
    options = pa_csv.ConvertOptions(
        column_types={field.name: field.type for field in _TEXT},
        strings_can_be_null=True,
        quoted_strings_can_be_null=False,
        null_values=[""],
    )
    reader = pa_csv.open_csv(file, convert_options=options)
    _complete(reader.schema.names)
    for batch in reader:
        yield _from_text(pa.Table.from_batches([batch]))


def _from_text(rows: pa.Table) -> pa.Table:
    columns: dict[str, Any] = {}
    for name in NEEDED:
        column, type_ = rows[name].combine_chunks(), table.EXACT.field(name).type
        if name == "payload":
            texts = column.to_pylist() if column.null_count < len(column) else None
            column = (
                pa.nulls(len(column), type_)
                if texts is None
                else pa.array([None if text is None else bytes.fromhex(text) for text in texts], type_)
            )
        elif name == "value":
            values = column.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.float64)
            bits = rows[BITS].to_pylist() if BITS in rows.column_names and _any(rows[BITS]) else []
            for row, text in enumerate(bits):
                if text is not None:
                    values[row : row + 1] = np.frombuffer(bytes.fromhex(text), dtype=">f8", count=1)
            column = pa.array(values, type_)
        columns[name] = column.cast(type_)
    return pa.table(columns)
