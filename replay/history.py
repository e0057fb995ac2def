"""History: compacted events in Parquet, from which the original segments can be made again, byte for byte.

    history/<first seq>-<last seq>.parquet      one row per event; columns in `replay.lossless`

A file covers whole segments and describes itself: which ones, their headers, where the log stood before and after. So
the chain can be followed through it from the journal's first cell, and what depends on it can be built anew. It is
checked as a whole (`replay.parquet`) before anything in it is believed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import IO, Any, Final, Self, cast

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from journal import arrays, cell, segment
from journal.ahead import ahead, submit
from journal.cell import CELL
from journal.errors import CorruptJournal
from journal.manifest import Base, Manifest
from journal.storage import Storage
from journal.walk import Piece, Promise, Walk
from replay import lossless
from replay.batch import ROWS, Batch, unpacked
from replay.parquet import NO_THREADS, PACKED, Checked, Writer, open_checked, reading

DIRECTORY: Final = "history"
_NAME: Final = re.compile(r"(0|[1-9]\d{0,18})-(0|[1-9]\d{0,18})\.parquet")

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
    }


def _encoding_of(values: NDArray[np.float64]) -> str:
    """How such values take less space: as they are, or all first bytes, all second ones, and so on.

    The one for prices with few digits, the other (which is also quicker to unpack) for noise, integers and what was a
    float32: it makes a difference of up to twice the space.
    """
    codec = pa.Codec(*PACKED)
    split = np.ascontiguousarray(values.view(np.uint8).reshape(-1, 8).T)
    return "BYTE_STREAM_SPLIT" if len(codec.compress(split)) < len(codec.compress(values)) else "PLAIN"


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The events [first, last] of a history file, as its name says."""

    first: int
    last: int

    @property
    def path(self) -> str:
        """`history/<first seq>-<last seq>.parquet`."""
        return f"{DIRECTORY}/{self.first}-{self.last}.parquet"


@dataclass(frozen=True, slots=True)
class Covered:
    """A segment that a history file covers."""

    header: bytes
    """Its 64 bytes, as they were."""
    position: int
    seq: int
    trailing: bytes
    """The cells behind its last event: the last receipts and the seal."""


@dataclass(frozen=True, slots=True)
class Description:
    """What a history file says of itself."""

    path: str
    journal_id: bytes
    base: Base
    """Where the log stood before its first segment …"""
    end: Base
    """… and behind its last one."""
    segments: tuple[Covered, ...]
    size: int
    sha256: str

    @property
    def ordinals(self) -> range:
        """Of the segments that it covers."""
        return range(self.base.ordinal, self.end.ordinal)


def all_spans(storage: Storage) -> list[Span]:
    """Every file that has a history file's name, in order."""
    matches = (_NAME.fullmatch(name) for name in storage.list(DIRECTORY))
    return sorted(Span(int(match[1]), int(match[2])) for match in matches if match)


def spans(storage: Storage, manifest: Manifest, since: int = 0) -> list[Span]:
    """The files that hold the events below the manifest's base: without gap or overlap, by their names.

    Files above it are left out: a compaction that was killed made them, and the segments are there. So are those of
    events that were dropped. Raises `CorruptJournal` where one is missing or overlaps; a gap that ends before `since`
    is none to who reads from there on.
    """
    kept = range(manifest.kept_from, manifest.base.seq)
    found = [span for span in all_spans(storage) if span.first in kept]
    following = kept.start
    for span in found:
        if span.first > max(following, since):
            break
        if span.first < following or span.last >= manifest.base.seq:
            raise CorruptJournal(span.path, 0, span.first, "it overlaps another history file, or the live log")
        following = span.last + 1
    if following != manifest.base.seq:
        raise CorruptJournal(DIRECTORY, 0, following, f"the history file that begins with seq {following} is missing")
    return found


class HistoryWriter:
    """Writes one history file to a stream, segment by segment; a context manager. Memory: two row groups.

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
        self._rows = 0
        self._encoder = ThreadPoolExecutor(1, "encoding history")
        self._encoding: Future[None] | None = None

    def add(self, piece: Piece, header: bytes, look: Callable[[Batch], None] = lambda batch: None) -> None:
        """Take in the next segment, whole; `header` is its first 64 bytes. All its events are shown to `look`."""
        before = 0
        for part, batch in unpacked(piece):
            look(batch)
            rows, before = lossless.to_table(part, batch, before)
            if self._rows + rows.num_rows > ROWS:
                self._flush()
            self._pending.append(rows)
            self._rows += rows.num_rows
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
        self._pending, self._rows = [], 0

    def _wait(self) -> None:
        encoding, self._encoding = self._encoding, None
        if encoding is not None:
            encoding.result()

    def _encode(self, tables: list[pa.Table]) -> None:
        rows = pa.concat_tables(tables).unify_dictionaries().combine_chunks()
        if self._file is None:
            encoding = _encoding_of(lossless.numbers(rows, "value"))
            self._file = Writer(self._stream, lossless.SCHEMA, **options_for(lossless.SCHEMA, value=encoding))
        self._file.write(rows)
        # Arrow keeps what was freed for later, beside two segments of 64 MB more than a compaction should take.
        tables.clear()
        pa.default_memory_pool().release_unused()


def describe(storage: Storage, path: str) -> Description:
    """Check the whole file, and return what it says of itself. Raises as `read` does."""
    return open_history(storage, path)[1]


def reencode(storage: Storage, path: str) -> Iterator[tuple[segment.Header, bytes]]:
    """The original segments, in order: (header, the file's bytes from the header cell to the seal).

    Raises as `read` does. Memory: a segment and a row group.
    """
    parts: list[bytes | memoryview] = []
    for header, part, last in stretches(storage, path):
        parts.append(part)
        if last:
            data = b"".join(parts)
            parts.clear()  # Whoever gets `data` need not hold it twice.
            yield header, data


def stretches(storage: Storage, path: str) -> Iterator[tuple[segment.Header, bytes | memoryview, bool]]:
    """The same in pieces of at most a row group: (header, the bytes that come next, are they the segment's last).

    Raises as `read` does. Memory: a row group and its cells, the next one, and the file.
    """
    checked, told = open_history(storage, path)
    file, rows = checked.file, None
    numbers = range(file.metadata.num_row_groups)
    read = partial(file.read_row_group, columns=lossless.KEPT, **NO_THREADS)
    groups = ahead(read(number).combine_chunks() for number in numbers)
    ends = [covered.seq for covered in told.segments[1:]] + [told.end.seq]
    for covered, end in zip(told.segments, ends, strict=True):
        with reading(path, covered.seq):
            header = segment.Header.parse(covered.header, path)
            if isinstance(header, str):
                raise ValueError(header)
        yield header, covered.header, False
        cells, missing = 0, end - covered.seq
        while missing:
            with reading(path, covered.seq):
                if rows is None or not rows.num_rows:
                    rows = next(groups, None)
                    if rows is None:
                        raise ValueError("it holds fewer events than it says")
                count = min(missing, rows.num_rows)
                part = lossless.to_cells(rows.slice(0, count), header.salt, covered.position + cells)
            cells += len(part) // CELL
            rows = rows.slice(count)
            missing -= count
            yield header, part, False
        yield header, covered.trailing, True


def pieces(storage: Storage, path: str, chain: bytes | None = None) -> Iterator[Piece]:
    """The segments made again and checked as live ones are: every cell, every promise, the chain from `chain` on.

    `chain` is what the file before ends with; None: what this one says it begins with. Raises as `read` does.
    """
    told = describe(storage, path)
    base = told.base if chain is None else replace(told.base, chain=chain)
    log = cast(Storage, _Remade(storage, told))
    walk = Walk(log, Manifest(told.journal_id, base, tuple(told.ordinals)))
    try:
        yield from walk
    except CorruptJournal as error:
        if error.path == path:
            raise
        raise CorruptJournal(
            path, 0, error.seq, f"made again from it, {error.path} is not right: {error.reason}"
        ) from error
    if not same_place(Base(told.end.ordinal, walk.position, walk.seq, walk.chain), told.end):
        raise CorruptJournal(path, 0, told.base.seq, "it does not end where it says")


def chain(storage: Storage, path: str, start: bytes) -> Iterator[Promise]:
    """Every promise in the file, each one checked; `start` is the chain before it. Raises as `read` does.

    The chain behind it is `describe(storage, path).end.chain`, which is checked too when the iterator ends.
    """
    for piece in pieces(storage, path, start):
        at = piece.heads[(piece.kinds == cell.RECEIPT) | (piece.kinds == cell.SEGMENT_SEALED)]
        for stated in piece.cells[at].view(arrays.PROMISE_DTYPE):
            yield Promise(int(stated["position"]), int(stated["events"]), bytes(stated["chain"]))


class _Remade:
    """The segments directory as it was, made again from a history file: what a `Walk` asks of a storage."""

    def __init__(self, storage: Storage, told: Description) -> None:
        self._path, self._seq = told.path, told.base.seq
        self._ordinals = told.ordinals
        self._segments = reencode(storage, told.path)

    def list(self, directory: str) -> list[str]:
        return [segment.path_of(ordinal).removeprefix(f"{directory}/") for ordinal in self._ordinals]

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """The walk reads each segment once, whole, in order; again only where its end does not check."""
        made = next(self._segments, None)
        if made is None:
            raise CorruptJournal(self._path, 0, self._seq, f"made again from it, {path} is not right")
        return made[1]


def open_history(storage: Storage, path: str, span: Span | None = None) -> tuple[Checked, Description]:
    """Check the whole file, and take in its footer. `span` is what its name promises, if it has its name already.

    Raises `CorruptJournal` naming the file and the first seq in doubt, `UnsupportedFormat`, `JournalFailed`.
    """
    seq = span.first if span is not None else 0
    checked = open_checked(storage, path, seq, lossless.SCHEMA)
    document = checked.document
    with reading(path, seq):
        told = Description(
            path,
            bytes.fromhex(document["journal"]),
            Base.from_payload(document["base"]),
            Base.from_payload(document["end"]),
            tuple(
                Covered(bytes.fromhex(one["header"]), one["position"], one["seq"], base64.b64decode(one["trailing"]))
                for one in document["segments"]
            ),
            checked.size,
            checked.sha256,
        )
        if span is not None and (told.base.seq, told.end.seq - 1) != (span.first, span.last):
            raise ValueError(f"it holds the events {told.base.seq} to {told.end.seq - 1}, its name says otherwise")
        if checked.file.metadata.num_rows != told.end.seq - told.base.seq or len(told.ordinals) != len(told.segments):
            raise ValueError("it does not hold what it says")
    return checked, told


def same_place(one: Base, other: Base) -> bool:
    """Is it the same place of the same log?"""
    return (one.ordinal, one.position, one.seq, one.chain) == (other.ordinal, other.position, other.seq, other.chain)
