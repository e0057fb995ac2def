"""Sealed segments that are all right, each seen once through a small window: what nobody need look at again.

`verify` uses nothing of what it reads; `journal.early` hands it out on the way. A seal states where the next segment
begins, and with which chain; so segments are checked side by side, each from what the seal before it states, and a run
of good ones proves that those statements were true. A segment is all right here only where a `Walk` would find nothing
to say: everything else, also what only looks unusual, is for the walk, which begins behind the last good one and tells
what is wrong.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from journal import arrays, cell, segment
from journal.ahead import submit
from journal.arrays import Cells, Found
from journal.cell import CELL
from journal.chain import Span, extend
from journal.errors import UnsupportedFormat
from journal.manifest import Base, Manifest
from journal.skipping import base_after
from journal.storage import Storage
from journal.storage.buffers import room
from journal.walk import Promise, promise_at

_CELLS: Final = (2 << 20) // CELL
"""How many are read at once, a block. The last two are held, so a receipt may lie that far behind what it states."""
_SIDE_BY_SIDE: Final = 2
"""Segments that are checked at the same time: reading and hashing release the interpreter."""


@dataclass(frozen=True, slots=True)
class Sealed:
    """A segment that is all right."""

    base: Base
    """Where the log goes on behind it; without context."""
    promise: Promise
    """The seal's own."""
    size: int
    """Bytes of the file."""


def sealed(storage: Storage, manifest: Manifest) -> Generator[Sealed, None, None]:
    """The listed segments from the manifest's base on, in order, up to the first that is not sealed and all right."""
    base, ordinals = manifest.base, iter(manifest.segments)
    begins: Base | None = base
    coming: deque[tuple[Base, Future[Sealed | None]]] = deque()
    windows = [Window() for _ in manifest.segments[:_SIDE_BY_SIDE]]
    with ThreadPoolExecutor(_SIDE_BY_SIDE, "verifying") as pool:
        while True:
            while len(coming) < len(windows) and begins is not None and (ordinal := next(ordinals, None)) is not None:
                behind = base_after(storage, ordinal)
                if behind is not None:
                    window = windows[ordinal % len(windows)]
                    coming.append((begins, submit(pool, _check, storage, manifest, ordinal, begins, window)))
                begins = behind
            if not coming:
                return
            begun, future = coming.popleft()
            found = future.result()
            if found is None or begun != base:
                return
            base = found.base
            yield found


class Window:
    """The memory of one thread: two blocks, each as large as a segment once a receipt lay too far behind.

    `margin`: so many cells are free before each block.
    """

    def __init__(self, margin: int = 0) -> None:
        self._margin = margin
        self.hold(_CELLS)

    def hold(self, cells: int) -> None:
        """Have blocks of that many cells."""
        self.cells, self.memory = cells, room(2 * (self._margin + cells) * CELL)
        self._heads = np.empty((2, arrays.follow_room(cells)), dtype=np.uint64)

    def heads(self, block: int) -> NDArray[np.uint64]:
        """Memory for the heads of a block."""
        memory: NDArray[np.uint64] = self._heads[block % 2]
        return memory

    def part(self, block: int, start: int, stop: int) -> memoryview:
        """The memory of the cells [start, stop) of a block; before it, from -margin on, is its margin."""
        place = block % 2 * (self._margin + self.cells) + self._margin
        return self.memory[(place + start) * CELL : (place + stop) * CELL]


def _check(storage: Storage, manifest: Manifest, ordinal: int, begins: Base, window: Window) -> Sealed | None:
    """The segment, if it is all right; `begins` is where it must begin."""
    one = Pass.begin(storage, manifest, ordinal, begins, window)
    for _ in one.blocks() if one is not None else ():
        pass
    if one is not None and one.too_late and one.total > window.cells:
        window.hold(one.total)
        return _check(storage, manifest, ordinal, begins, window)
    return one.found if one is not None else None


class Block(NamedTuple):
    """What a pass has just read: the cells [first, behind) of the segment, and the heads in them."""

    first: int
    behind: int
    found: Found
    following: int
    """Where the next head is; behind `behind`, where the last one's payload goes on."""


class Pass:
    """One pass over one segment. Indices are of cells, behind the header, as in a `Piece`."""

    @classmethod
    def begin(cls, storage: Storage, manifest: Manifest, ordinal: int, begins: Base, window: Window) -> Self | None:
        """Over a segment that must begin at `begins`. None where its name, header or size are not right."""
        path = segment.path_of(ordinal)
        try:
            size = storage.size(path)
            header = segment.Header.parse(storage.read(path, 0, CELL), path)
        except (OSError, UnsupportedFormat):
            return None
        if isinstance(header, str) or (header.journal_id, header.ordinal) != (manifest.journal_id, ordinal):
            return None
        if begins.ordinal != ordinal or size > header.size or size % CELL:
            return None
        return cls(storage, path, header, begins, size // CELL - 1, window)

    def __init__(
        self, storage: Storage, path: str, header: segment.Header, begins: Base, total: int, window: Window
    ) -> None:
        self._storage, self._window, self._cells = storage, window, window.cells
        self.path, self.header, self.begins, self.total = path, header, begins, total
        self._seen: list[Found] = []
        """The heads of the last two blocks."""
        self._next, self._seq = 0, begins.seq
        """Index of the head that comes next, and its seq."""
        self._span = Span(begins.chain)
        self._promise: Promise | None = None
        self.too_late = False
        """Did it end at a receipt that states a position before what is hashed?"""
        self._stated = self._hashed = 0
        """Indices of the cells behind the last promise, and behind what is hashed."""
        self.found: Sealed | None = None
        """What it is, when all of it was all right."""

    def blocks(self) -> Generator[Block, None, None]:
        """Each block, until the one after it is asked for; ends early where something is not right."""
        with suppress(OSError):
            yield from self._blocks()

    def _blocks(self) -> Iterator[Block]:
        for first in range(0, self.total, self._cells):
            self._hash(max(self._hashed, first - self._cells))
            behind = min(self.total, first + self._cells)
            raw = self._part(first, behind)
            if self._storage.read_into(self.path, raw, CELL + first * CELL) != len(raw):
                return
            cells = arrays.view(raw)
            if not first and not self._opened(raw, cells):
                return
            found = self._heads(cells, first)
            if found is None:
                return
            self._seen = [*self._seen[-1:], found]
            sealing = found.kinds == cell.SEGMENT_SEALED
            if sealing[:-1].any() or sealing[-1:].any() != (behind == self.total):
                return  # A log ends at its first seal.
            for at in found.heads[(found.kinds == cell.RECEIPT) | sealing].tolist():
                if not self._follows(raw, cells, at - first, at):
                    return
            yield Block(first, behind, found, self._next)
        last, promise = self.total - 1, self._promise
        if promise is None or self._stated != last:
            return
        value = extend(promise.chain, (self._part(last, self.total),))
        begins = self.begins
        base = Base(begins.ordinal + 1, begins.position + self.total, self._seq, value)
        self.found = Sealed(base, promise, CELL + self.total * CELL)

    def _opened(self, raw: memoryview, cells: Cells) -> bool:
        """Does it begin with the mark that it must begin with?"""
        one = cells[0]
        stated = int(one["kind"]), int(one["episode"]), int(one["seq"])
        if stated != (cell.SEGMENT_OPENED, self.begins.position, self.begins.seq):
            return False
        return arrays.first_bad(raw, cells, np.arange(1), self.header.salt, self.begins.position) is None

    def _heads(self, cells: Cells, first: int) -> Found | None:
        """The heads in a block, where one must follow the other up to its end."""
        behind = first + len(cells)
        found = arrays.follow(cells[self._next - first :], self._seq, self._window.heads(first // self._cells))
        found.heads[:] += self._next
        if len(found.heads):
            at = int(found.heads[-1])
            self._next = at + 1 + int(cells["extent"][at - first])
            self._seq = int(found.seqs[-1])
        if self._next < behind:  # Only where a payload goes on in the next block.
            one = cells[self._next - first : self._next - first + 1]
            kind, extent = int(one["kind"][0]), int(one["extent"][0])
            if not kind or int(one["seq"][0]) != self._seq or not behind <= self._next + extent < self.total:
                return None
            self._seq += int(arrays.takes(one)[0])
            found = Found(
                np.append(found.heads, self._next),
                np.append(found.kinds, one["kind"]),
                np.append(found.seqs, np.uint64(self._seq)),
            )
            self._next += 1 + extent
        return found

    def _follows(self, raw: memoryview, cells: Cells, index: int, at: int) -> bool:
        """Is the promise at a block's cell `index`, the segment's `at`, good, and does it state what is so?"""
        position = self.begins.position
        if arrays.first_bad(raw, cells, np.array([index]), self.header.salt, position + at - index) is not None:
            return False
        stated = promise_at(cells, index)
        upto = stated.position - position
        if upto > at:
            return False
        if upto < self._hashed:
            self.too_late = True
            return False
        if stated.events != self._seq_at(upto):
            return False
        self._hash(upto)
        if self._span.end() != stated.chain:
            return False
        self._span, self._stated, self._promise = Span(stated.chain), upto, stated
        return True

    def _seq_at(self, index: int) -> int:
        """The seq that the first event at cell `index` or later has."""
        found = next(one for one in self._seen if len(one.heads) and index <= one.heads[-1])
        return int(found.seqs[np.searchsorted(found.heads, index)])

    def _hash(self, stop: int) -> None:
        """Take the cells up to `stop` into the span."""
        while self._hashed < stop:
            upto = min(stop, self._hashed - self._hashed % self._cells + self._cells)
            self._span.take(self._part(self._hashed, upto))
            self._hashed = upto

    def _part(self, start: int, stop: int) -> memoryview:
        """The memory of these cells of one block."""
        block, before = start // self._cells, start - start % self._cells
        return self._window.part(block, start - before, stop - before)
