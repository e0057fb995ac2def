"""Packing: how history is written to Parquet, row group by row group, in bounded memory.

    segments ── lossless.to_table ──▶ rows ── gathered, until there are `ROWS` or `GROUP_MAX` bytes ──▶ a row group

A row group is what a reader has to unpack at once. So events that carry much make it shorter.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import IO, Any, Final, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal.ahead import submit
from journal.cell import CELL
from journal.manifest import Base
from journal.walk import Piece
from replay import lossless
from replay.batch import ROWS, Batch, unpacked
from replay.parquet import PACKED, Writer

GROUP_MAX: Final = 16 << 20
"""Bytes of a row group in memory, above which it ends, though it has few rows. 131,072 rewards have 11 MB."""
_BATCH: Final = 1 << 14
"""Values that Arrow encodes at once: a tenth less time than with the 1,024 that it takes by itself."""
_TRIED: Final = 1 << 15
"""Values that are compressed either way before it is decided how all of them are written."""
_DICTIONARY: Final = [
    *("run", "kind", "agent", "phase", "env_index", "fields"),
    *("code", "flags", "form", "agent_number"),
]
_SEARCHED: Final = [
    *("seq", "time", "run", "kind", "agent", "phase", "env_index", "episode", "step", "value"),
    *("code", "flags", "form", "agent_number"),
]
"""The columns that queries select by, as readers skip row groups by their statistics; and those that often hold one
number alone, which need not be decoded then."""
_ENCODING: Final = {
    **dict.fromkeys(("seq", "time", "episode", "step"), "DELTA_BINARY_PACKED"),
    # No dictionary for values: it would make one of NaNs with different bits.
    **dict.fromkeys(("value", "payload", "marks", "head"), "PLAIN"),
}


def options_for(schema: pa.Schema, **encoding: str) -> dict[str, Any]:
    """How these columns are written to Parquet: what `replay.parquet.Writer` takes beside the schema.

    `encoding`: of some columns another one than is usual.
    """
    names = schema.names
    return {
        "use_dictionary": [name for name in names if name in _DICTIONARY],
        "column_encoding": {name: one for name, one in (_ENCODING | encoding).items() if name in names},
        "write_statistics": [name for name in names if name in _SEARCHED],
        "write_batch_size": _BATCH,
    }


def encoding_of(values: NDArray[np.float64]) -> str:
    """How such values take less space, judged by the first of them.

    As they are: prices with few digits. All first bytes, all second ones, and so on, which is also quicker to unpack:
    noise, integers and what was a float32. It makes a difference of up to twice the space.
    """
    codec, values = pa.Codec(*PACKED), values[:_TRIED]
    split = np.ascontiguousarray(values.view(np.uint8).reshape(-1, 8).T)
    return "BYTE_STREAM_SPLIT" if len(codec.compress(split)) < len(codec.compress(values)) else "PLAIN"


class HistoryWriter:
    """Writes one history file to a stream, segment by segment; a context manager. Memory: three row groups.

    A row group is encoded in a thread, while the next one is gathered; where that fails, it is raised by a later call.
    The first one decides how values are written.
    """

    def __init__(self, stream: IO[bytes], journal_id: bytes, base: Base) -> None:
        self._stream = stream
        self._file: Writer | None = None
        self._journal_id = journal_id
        self._base = base
        self._covered: list[dict[str, Any]] = []
        self._pending: list[pa.Table] = []
        self._rows = self._bytes = 0
        self._encoder = ThreadPoolExecutor(1, "encoding history")
        self._encoding: Future[None] | None = None

    def add(self, piece: Piece, header: bytes, look: Callable[[Batch], None] = lambda batch: None) -> None:
        """Take in the next segment, whole; `header` is its first 64 bytes. All its events are shown to `look`."""
        before = 0
        for part, batch in unpacked(piece):
            look(batch)
            rows, before = lossless.to_table(part, batch, before)
            size = rows.nbytes
            if self._rows + rows.num_rows > ROWS or self._bytes + size > GROUP_MAX:
                self._flush()
            self._pending.append(rows)
            self._rows += rows.num_rows
            self._bytes += size
        self._covered.append(
            {
                "header": header.hex(),
                "position": piece.position,
                "seq": piece.seq,
                "trailing": base64.b64encode(piece.raw[before * CELL : piece.end * CELL]).decode(),
            }
        )

    def close(self, end: Base) -> tuple[int, str]:
        """Finish it: the log stands at `end` behind the last segment. Returns (size in bytes, SHA-256)."""
        self._flush()
        self._wait()
        assert self._file is not None, "a history file has events"
        return self._file.close(
            {
                "journal": self._journal_id.hex(),
                "base": self._base.as_payload(),
                "end": end.as_payload(),
                "segments": self._covered,
            }
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._encoder.shutdown()
        if self._file is not None:
            self._file.__exit__(kind, error, trace)

    def _flush(self) -> None:
        self._wait()
        if self._rows:
            self._encoding = submit(self._encoder, self._encode, self._pending)
        self._pending, self._rows, self._bytes = [], 0, 0

    def _wait(self) -> None:
        encoding, self._encoding = self._encoding, None
        if encoding is not None:
            encoding.result()

    def _encode(self, tables: list[pa.Table]) -> None:
        rows = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        if self._file is None:
            encoding = encoding_of(lossless.numbers(rows, "value"))
            self._file = Writer(self._stream, lossless.SCHEMA, **options_for(lossless.SCHEMA, value=encoding))
        self._file.write(rows)
        # Arrow keeps what was freed for later, beside two segments of 64 MB more than a compaction should take.
        tables.clear()
        pa.default_memory_pool().release_unused()
