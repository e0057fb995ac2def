"""One segment: a preallocated file of cells, written by one writer in its one lifetime. Names and header live here.

The header cell, the first 64 bytes, is not part of the log and has no position:

     0          8        12      16            32        40       48          56       60      64
    +----------+--------+-------+-------------+---------+--------+-----------+--------+-------+
    | magic    | format | salt  | journal id  | ordinal | size   | created_ns| zero   | crc   |
    +----------+--------+-------+-------------+---------+--------+-----------+--------+-------+

The first cell after it is the *segment opened* mark; the last of a finished one is the *segment sealed* mark.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct
from typing import Final

from journal import cell, events
from journal.cell import CELL
from journal.context import Context
from journal.crc import crc32c
from journal.errors import UnsupportedFormat

FORMAT: Final = 1
"""The format version that this package reads and writes."""
MAGIC: Final = b"TJ\xf1seg\r\n"
"""Not text, and broken by a transfer that changes line ends."""
HEADER: Final = Struct("<8sII16sQQqII")
assert HEADER.size == CELL

SIZE_MIN: Final = 1 << 20
SIZE_MAX: Final = 32 << 20
"""Bytes: segments grow 1, 2, 4 … 32 MiB within a writer's life."""
RESERVE: Final = 64 << 10
"""Bytes kept at a segment's end for the run's end, receipts and the seal, so that a full disk does not cut them off."""
SIZE_LIMIT: Final = 1 << 30
"""A header that claims more is damaged; nothing is allocated by its word."""

DIRECTORY: Final = "segments"
_NAME: Final = re.compile(r"([0-9]{8})\.seg")


def path_of(ordinal: int) -> str:
    """`segments/<ordinal, 8 digits>.seg`."""
    return f"{DIRECTORY}/{ordinal:08d}.seg"


def ordinal_of(name: str) -> int | None:
    """The ordinal in a segment's file name, None for any other name: also for one with digits of another script."""
    match = _NAME.fullmatch(name)
    return int(match[1]) if match else None


@dataclass(frozen=True, slots=True)
class Header:
    """What a segment says of itself."""

    journal_id: bytes
    ordinal: int
    salt: int
    size: int
    created_ns: int

    def pack(self) -> bytes:
        """The 64 bytes."""
        body = HEADER.pack(MAGIC, FORMAT, self.salt, self.journal_id, self.ordinal, self.size, self.created_ns, 0, 0)[
            :-4
        ]
        return body + crc32c(body).to_bytes(4, "little")

    @classmethod
    def parse(cls, raw: bytes | memoryview, path: str) -> Header | str:
        """The header, or in words why there is none. Raises `UnsupportedFormat` for one of a newer version."""
        if len(raw) < CELL:
            return f"the file has {len(raw)} bytes, less than its header"
        magic, version, salt, journal_id, ordinal, size, created_ns, _, crc = HEADER.unpack(raw[:CELL])
        if magic != MAGIC:
            return "the file does not begin as a segment does"
        if crc32c(raw[: CELL - 4]) != crc:
            return "the segment's header does not check"
        if version != FORMAT:
            raise UnsupportedFormat(
                f"{path}: written in format {version}, this training-journal reads format {FORMAT}: upgrade it"
            )
        if size % CELL or not 2 * CELL <= size <= SIZE_LIMIT:
            return f"the segment's header claims {size} bytes"
        return cls(journal_id, ordinal, salt, size, created_ns)


def opened(content: bytes, seq: int, time_ns: int, *, salt: int, position: int) -> bytes:
    """The *segment opened* mark with its payload cells: first seq, position, and `content` (see `content_of`)."""
    head = cell.pack_head(cell.SEGMENT_OPENED, seq, time_ns, content, salt=salt, at=position, episode=position)
    return head + content + bytes(cell.extent_of(len(content))[1])


def content_of(context: Context) -> bytes:
    """What a reader must know at a segment's first cell, packed; `Context` is bounded, so that it always fits."""
    return events.pack(context.as_payload(), "the name table")
