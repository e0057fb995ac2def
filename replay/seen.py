"""The bars that ended episodes have seen: a list of which only the end is unpacked.

`journal compare` alone looks at them, and there is a line for each episode of an agent's life. So they are kept in
blocks of `ROWS` lines, packed as columns; one that came from a snapshot stays in its file until somebody looks. What
opening a journal costs does not depend on how many there are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgpack
import zstandard

from journal.errors import CorruptJournal, JournalFailed
from journal.storage import Storage

ROWS: Final = 4096
"""Lines in a block; the last one of a list may have fewer. Part of what makes equal lists equal blocks."""
BLOCK_MAX: Final = 1 << 28
"""Bytes of an unpacked block; one that claims more is damaged."""


def whole(value: Any) -> int:
    """A whole number that msgpack holds. Raises `ValueError`, `TypeError` or `OverflowError` for what is none."""
    number = int(value)
    if not -(1 << 63) <= number < 1 << 64:
        raise ValueError("a number in it has more than 64 bits")
    return number


class SeenBars(NamedTuple):
    """The bars of one episode. `content_hash` is None where they were only declared."""

    episode: int
    entry: int | None
    instrument: str
    timeframe: str
    start: int
    stop: int
    content_hash: bytes | None
    source: str
    tolerance: float | None = None
    quantised_hash: bytes | None = None

    @classmethod
    def of(cls, episode: int, entry: int | None, fields: Mapping[str, Any]) -> SeenBars:
        """From the fields of a BarsSeen."""
        return cls.checked(
            episode,
            entry,
            str(fields.get("instrument")),
            str(fields.get("timeframe")),
            whole(fields.get("start", 0)),
            whole(fields.get("stop", 0)),
            fields.get("content_hash"),
            str(fields.get("source")),
            fields.get("tolerance"),
            fields.get("quantised_hash"),
        )

    @classmethod
    def checked(cls, *values: Any) -> SeenBars:
        """Of these values. Raises `TypeError` where one is not of its type."""
        one = cls(*values)
        for name, value, types in zip(cls._fields, one, _TYPES, strict=True):
            if type(value) not in types:
                raise TypeError(f"{name} of bars is {value!r:.80}")
        return one


def see(bars: list[SeenBars], seen: SeenBars) -> None:
    """Take in what an episode saw: what was shown replaces what was only claimed, so all of them are of one kind."""
    shown = bool(bars) and bars[-1].source == "observed"
    if seen.source == "observed" and not shown:
        bars.clear()
    if seen.source == "observed" or not shown:
        bars.append(seen)


_NONE: Final = type(None)
_TYPES: Final = (
    *((int,), (int, _NONE), (str,), (str,), (int,), (int,)),
    *((bytes, _NONE), (str,), (float, _NONE), (bytes, _NONE)),
)
"""Of its fields, in their order."""
_PLAIN: Final = SeenBars._fields.index("tolerance")
"""How many columns a block without tolerances has."""


class Place(NamedTuple):
    """Where a packed block lies in a snapshot."""

    storage: Storage
    path: str
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Block:
    """Lines, packed: equal `sha256` (of the columns as msgpack), equal lines."""

    count: int
    sha256: bytes
    source: bytes | Place
    """The columns as msgpack, compressed (zstd)."""

    @classmethod
    def of(cls, rows: list[SeenBars]) -> Block:
        """These lines, packed. Raises `OverflowError` for a number of more than 64 bits."""
        columns = list(zip(*rows, strict=True))
        if not any(map(any, columns[_PLAIN:])):
            del columns[_PLAIN:]  # As before there were tolerances: equal lines, equal blocks, whoever packed them.
        raw = msgpack.packb(columns)
        return cls(len(rows), hashlib.sha256(raw).digest(), zstandard.ZstdCompressor(level=3).compress(raw))

    def packed(self) -> bytes:
        """Compressed. Raises `CorruptJournal` where its snapshot is gone, `JournalFailed` where a read fails."""
        if isinstance(self.source, bytes):
            return self.source
        storage, path, offset, size = self.source
        try:
            return storage.read(path, offset, size)
        except FileNotFoundError:
            raise self._damaged("this snapshot was removed while it was in use") from None
        except OSError as error:
            raise JournalFailed(
                f"{path} could not be read: {error.strerror or error}; nothing was changed: check the disk"
            ) from error

    def check(self) -> list[list[Any]]:
        """Its columns, of a line each. Raises `CorruptJournal` (damaged in its snapshot), and as `packed` does."""
        frame = self.packed()
        try:
            # The frame tells its size, and what it tells is what gets allocated.
            if not 0 <= zstandard.frame_content_size(frame) <= BLOCK_MAX:
                raise ValueError("it claims another size than a block has")
            raw = zstandard.ZstdDecompressor().decompress(frame)
            if hashlib.sha256(raw).digest() != self.sha256:
                raise ValueError("its SHA-256 does not match")
            columns: list[list[Any]] = msgpack.unpackb(raw, strict_map_key=False)
            if not _PLAIN <= len(columns) <= len(SeenBars._fields) or any(len(one) != self.count for one in columns):
                raise ValueError("it has another number of lines, or of columns")
        except (zstandard.ZstdError, msgpack.UnpackException, ValueError, TypeError) as error:
            raise self._damaged(f"the bars in it are damaged: {error}") from error
        return columns

    def rows(self) -> list[SeenBars]:
        """The lines, checked. Raises as `check` does."""
        columns = self.check()
        for name, column, types in zip(SeenBars._fields, columns, _TYPES, strict=False):
            if not set(map(type, column)) <= set(types):
                raise self._damaged(f"the bars in it are damaged: {name} of some is of another type")
        return [SeenBars(*row) for row in zip(*columns, strict=True)]

    def _damaged(self, reason: str) -> CorruptJournal:
        path = self.source.path if isinstance(self.source, Place) else "snapshots"
        return CorruptJournal(path, 0, 0, reason)


class SeenList:
    """Grows at its end, is cut by a rewind, and is read from its beginning; equal where the lines are."""

    __slots__ = ("_blocks", "_tail")

    def __init__(self, rows: Iterable[SeenBars] = (), *, blocks: Iterable[Block] = ()) -> None:
        self._blocks = list(blocks)
        """All of `ROWS` lines but the last, which may have fewer."""
        self._tail: list[SeenBars] = []
        """What comes behind them."""
        self.extend(rows)

    def extend(self, rows: Iterable[SeenBars]) -> None:
        """Append lines. Raises as `Block.check` does, where a block that is not full has to be packed with them."""
        self._tail.extend(rows)
        begun = self._blocks[-1].count % ROWS if self._blocks else 0
        if begun + len(self._tail) >= ROWS:
            self._settle()

    def cut(self, length: int) -> None:
        """Let go of all but the first `length` lines. Raises as `Block.check` does, where a block is cut."""
        while self._blocks and (packed := self._packed()) > length:
            before = packed - self._blocks[-1].count
            self._tail = self._blocks[-1].rows() if before < length else []
            self._blocks.pop()
        del self._tail[max(0, length - self._packed()) :]

    def blocks(self) -> Iterator[Block]:
        """All lines, packed: equal lists give equal blocks. Raises as `Block.check` does."""
        settled = self.copy()
        if self._tail:
            settled._settle()
        yield from settled._blocks
        if settled._tail:
            yield Block.of(settled._tail)

    def check(self) -> None:
        """Raises as `Block.check` does. To make lines of the blocks, too, would take three times as long."""
        for block in self._blocks:
            block.check()

    def copy(self) -> SeenList:
        """An independent copy; what is packed is shared."""
        twin = SeenList(blocks=self._blocks)
        twin._tail = list(self._tail)
        return twin

    def __len__(self) -> int:
        return self._packed() + len(self._tail)

    def __iter__(self) -> Iterator[SeenBars]:
        """The lines; raises as `Block.check` does."""
        for block in self._blocks:
            yield from block.rows()
        yield from self._tail

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SeenList):
            return NotImplemented
        return len(self) == len(other) and [b.sha256 for b in self.blocks()] == [b.sha256 for b in other.blocks()]

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> SeenList:
        return self.copy()

    def __repr__(self) -> str:
        return f"<{len(self):,} SeenBars>"

    def _packed(self) -> int:
        """How many lines are in blocks."""
        return (len(self._blocks) - 1) * ROWS + self._blocks[-1].count if self._blocks else 0

    def _settle(self) -> None:
        """Pack as much of the tail as fills blocks, with what a block that is not full holds before it."""
        if self._blocks and self._blocks[-1].count < ROWS:
            self._tail = self._blocks[-1].rows() + self._tail
            self._blocks.pop()
        full = len(self._tail) // ROWS * ROWS
        self._blocks += [Block.of(self._tail[start : start + ROWS]) for start in range(0, full, ROWS)]
        del self._tail[:full]
