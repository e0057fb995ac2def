"""History: compacted events in Parquet, from which the original segments can be made again, byte for byte.

    history/<first seq>-<last seq>.parquet      one row per event; columns in `replay.lossless`

A file covers whole segments and describes itself: which ones, their headers, where the log stood before and after. So
the chain can be followed through it from the journal's first cell, and what depends on it can be built anew. It is
checked as a whole (`replay.parquet`) before anything in it is believed.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, cast

from journal import arrays, cell, segment
from journal.ahead import ahead
from journal.cell import CELL
from journal.errors import CorruptJournal
from journal.manifest import Base, Manifest
from journal.storage import Storage
from journal.walk import Piece, Promise, Walk
from replay import lossless
from replay.parquet import NO_THREADS, Checked, open_checked, reading

DIRECTORY: Final = "history"
_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,18})-(0|[1-9][0-9]{0,18})\.parquet")

_GROUP_ROWS_MAX: Final = 1 << 20
"""Events in a row group, which are unpacked at once; packed, a number that is the same in all takes next to nothing,
however many there are. A writer ends one at 131,072, or behind a batch, which is never cut."""


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


def describe(storage: Storage, path: str) -> Description:
    """Check the whole file, and return what it says of itself. Raises as `open_history` does."""
    return open_history(storage, path)[1]


def reencode(storage: Storage, path: str) -> Iterator[tuple[segment.Header, bytes]]:
    """The original segments, in order: (header, the file's bytes from the header cell to the seal).

    Raises as `open_history` does. Memory: a segment and a row group.
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

    Raises as `open_history` does. Memory: a row group and its cells, the next one, and the file.
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

    What the file says beside its cells is held against them (`replay.derived`). `chain` is what the file before ends
    with; None: what this one says it begins with. Raises as `open_history` does.
    """
    from replay.derived import Derived  # Which unpacks events: who only reads a file needs not.

    checked, told = open_history(storage, path)
    derived = Derived(checked)
    base = told.base if chain is None else replace(told.base, chain=chain)
    log = cast(Storage, _Remade(storage, told))
    walk = Walk(log, Manifest(told.journal_id, base, tuple(told.ordinals)))
    try:
        for piece in walk:
            derived.take(piece)
            yield piece
        derived.end(told.end.context.names)
    except CorruptJournal as error:
        if error.path == path:
            raise
        raise CorruptJournal(
            path, 0, error.seq, f"made again from it, {error.path} is not right: {error.reason}"
        ) from error
    if not same_place(Base(told.end.ordinal, walk.position, walk.seq, walk.chain), told.end):
        raise CorruptJournal(path, 0, told.base.seq, "it does not end where it says")


def chain(storage: Storage, path: str, start: bytes) -> Iterator[Promise]:
    """Every promise in the file, each one checked; `start` is the chain before it. Raises as `open_history` does.

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
        places = [told.base.seq, *(one.seq for one in told.segments), told.end.seq]
        if checked.file.metadata.num_rows != places[-1] - places[0] or len(told.ordinals) != len(told.segments):
            raise ValueError("it does not hold what it says")
        if places != sorted(places):
            raise ValueError("its segments are not in order")
        metadata = checked.file.metadata
        if any(metadata.row_group(number).num_rows > _GROUP_ROWS_MAX for number in range(metadata.num_row_groups)):
            raise ValueError("it has a row group of more events than any writer puts into one")
    return checked, told


def same_place(one: Base, other: Base) -> bool:
    """Is it the same place of the same log?"""
    return (one.ordinal, one.position, one.seq, one.chain) == (other.ordinal, other.position, other.seq, other.chain)
