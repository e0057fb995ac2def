"""Reading the live log: every segment in order, checked once, and classified. Everything that decides it is here.

A `Walk` reads a segment whole (they are bounded), checks and hands out the same copy, and never maps. Below the last
promise the chain is the check, one hash over spans; above it each cell's crc is. Outcomes are named values:

    CorruptJournal (raised)   bytes before the last promise of any valid receipt do not check, or files were cut
    Torn                      bytes after the last promise do not check: never promised, so discarded by recovery
    neither                   all cells check

Nothing is changed; `journal.recovery` acts on what a finished walk found.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from journal import arrays, cell, chain, events, evidence, segment
from journal.ahead import files
from journal.arrays import Cells, Index
from journal.cell import CELL
from journal.context import KINDS, Context
from journal.errors import CorruptJournal, JournalFailed
from journal.manifest import Manifest
from journal.storage import Storage
from journal.storage.buffers import Buffers

_PATIENCE: Final = (0.0, 0.002, 0.005, 0.01, 0.02, 0.05)
"""Seconds to wait before a live segment is read again; after the last, what looks like damage is called damage."""
_LIMIT: Final = segment.SIZE_LIMIT + CELL
"""Bytes of a file that are read: a larger one is no segment."""
_PROMISED: Final = "a promised cell does not check"
_REMADE: Final = "promised cells were changed and their checksums made anew: the chain does not match"
_CUT: Final = "the file was cut from outside: it is neither whole nor sealed"
_MISSING: Final = "this segment of the journal is missing: it was removed from outside"


@dataclass(frozen=True, slots=True)
class Promise:
    """What a receipt says: the cells before `position` were on disk and hash to `chain`; `events` came before it."""

    position: int
    events: int
    chain: bytes


@dataclass(slots=True)
class Piece:
    """The good cells of one segment. `raw` begins with the segment opened mark, at `position`."""

    header: segment.Header
    path: str
    position: int
    seq: int
    raw: memoryview
    cells: Cells
    heads: Index
    """Indices in `cells` of the good heads, events and marks."""
    kinds: NDArray[np.uint16]
    """The kind of each head."""
    seqs: NDArray[np.uint64]
    """The seq of each head, or for a mark of the event after it, and the one behind the last: one more than `heads`."""
    end: int
    """Index of the cell after the last good one."""
    verified: int
    """Cells below the last promise that this segment holds."""
    sealed: bool
    size: int
    """Bytes of the file."""

    @property
    def events(self) -> int:
        """How many events it holds."""
        return int(self.seqs[-1] - self.seqs[0])

    @property
    def empty(self) -> bool:
        """No event and no promise: its writer died (or left) before its first append."""
        return not self.sealed and self.verified == 0 and self.events == 0

    def offset(self, index: int) -> int:
        """Where in the file the cell with this index lies, in bytes."""
        return (index + 1) * CELL


@dataclass(frozen=True, slots=True)
class Torn:
    """The end of the log that was never promised and does not check, or lies behind what does not."""

    parts: tuple[tuple[int, int], ...]
    """(ordinal of a segment, index of the first cell in it that is let go), in order."""
    bytes: int
    """How many, but for the zeros at each part's end."""
    events: int
    """Good ones among them, that cannot be kept because something before them is bad."""
    reason: str

    @property
    def later(self) -> frozenset[int]:
        """The segments that are let go whole."""
        return frozenset(ordinal for ordinal, index in self.parts if index == 0)


class Walk:
    """Iterate it once, to the end; then its attributes tell where the log ends.

    `live`: a writer may be at work, so what does not check above the last promise is "not yet", and anything that looks
    damaged is read again first. `ahead`: where none is, each segment is read while the one before it is looked at.
    `buffers`: segments are read into their memory, and into the same one again when nobody looks at it any more.
    Raises `CorruptJournal`, `UnsupportedFormat`, and `JournalFailed` where a read fails.
    """

    def __init__(
        self,
        storage: Storage,
        manifest: Manifest | None = None,
        *,
        live: bool = False,
        ahead: bool = False,
        buffers: Buffers | None = None,
    ) -> None:
        self.storage = storage
        self.manifest = manifest if manifest is not None else Manifest.read(storage)
        self.live = live
        base = self.manifest.base
        self.position, self.seq = base.position, base.seq
        """Where the next segment begins: after the last good cell (and its seal)."""
        self.promise = Promise(base.position, base.seq, base.chain)
        self.chain = base.chain
        """The chain at the end of the last sealed segment, at `position`."""
        self.torn: Torn | None = None
        self.unsealed: list[Piece] = []
        self.excess: list[Piece] = []
        """Sealed segments whose file goes on behind the seal: a truncate that did not happen."""
        self.empty: list[int] = []
        """Segments without any event, and spares."""
        self.leftover: list[int] = []
        """Segments below the base: compacted, not yet unlinked."""
        self.last: Piece | None = None
        self.last_sealed: str | None = None
        """Path of the last sealed segment: its seal may be in the page cache only."""
        self.ordinals = self._list()
        self._buffers = buffers
        self._files: Generator[memoryview, None, None] | None = None
        if ahead and not live and len(self.ordinals) > 1:
            self._files = files(storage, map(segment.path_of, self.ordinals), _LIMIT)

    def __iter__(self) -> Generator[Piece, None, None]:
        try:
            yield from self._pieces()
        finally:
            if self._files is not None:
                self._files.close()

    def _pieces(self) -> Iterator[Piece]:
        for ordinal in self.ordinals:
            piece = self._piece(ordinal)
            if piece is not None:
                self.last = piece
                if not piece.sealed:
                    self.unsealed.append(piece)
                else:
                    self.last_sealed = piece.path
                    if piece.size > piece.offset(piece.end):
                        self.excess.append(piece)
                yield piece
            if self.torn is not None:
                break
        if self.live:
            self.torn = None
        elif self.torn is None:
            self._drop_empty()

    def run(self) -> Walk:
        """Walk to the end and return itself."""
        for _ in self:
            pass
        return self

    def context(self) -> Context:
        """Names, run and open episodes at the end of the log."""
        piece = self.last
        if piece is None:
            return self.manifest.base.context.copy()
        return context_after(piece)

    def _list(self) -> list[int]:
        base, listed = self.manifest.base, self.manifest.segments
        try:
            names = self.storage.list(segment.DIRECTORY)
        except OSError as error:
            raise _failed(segment.DIRECTORY, error) from error
        found = sorted(o for name in names if (o := segment.ordinal_of(name)) is not None)
        self.leftover = [o for o in found if o < base.ordinal]
        ordinals = [o for o in found if o >= base.ordinal]
        # Counted, not listed: a stray file with a high number is not to cost memory.
        gap = next((n for n, o in enumerate(ordinals, base.ordinal) if n != o), base.ordinal + len(ordinals))
        if (ordinals and gap < ordinals[-1]) or (listed and gap <= listed[-1]):
            raise CorruptJournal(segment.path_of(gap), 0, base.seq, _MISSING)
        # Beside a writer, a segment is complete but for its seal once the next one is opened; so look at that first.
        while self.live and ordinals and ordinals[-1] not in listed and not self._opened(ordinals[-1]):
            ordinals.pop()
        return ordinals

    def _opened(self, ordinal: int) -> bool:
        try:
            return any(self.storage.read(segment.path_of(ordinal), CELL, CELL))
        except OSError:
            return False

    def _piece(self, ordinal: int) -> Piece | None:
        """One segment, read again a few times where a live writer may just be changing it."""
        state = (self.position, self.seq, self.promise, self.chain)
        for pause in _PATIENCE if self.live else ():
            try:
                piece = self._read(ordinal)
                if self.torn is None:
                    return piece
            except CorruptJournal:
                pass
            self.position, self.seq, self.promise, self.chain = state
            self.torn = None
            time.sleep(pause)
        return self._read(ordinal)

    def _read(self, ordinal: int) -> Piece | None:
        path = segment.path_of(ordinal)
        try:
            if self._files is not None:
                data: bytes | memoryview = next(self._files)
            elif self._buffers is not None:
                data = self._buffers.read(self.storage, path, _LIMIT)
            else:
                data = self.storage.read(path, 0, _LIMIT)
        except FileNotFoundError:
            raise CorruptJournal(path, 0, self.seq, _MISSING) from None
        except OSError as error:
            raise _failed(path, error) from error
        header = segment.Header.parse(data, path)
        if isinstance(header, str):
            # It was on disk before the segment had this name, so no power cut explains it.
            if ordinal in self.manifest.segments:
                raise CorruptJournal(path, 0, self.seq, header)
            self._bad_start(ordinal, header)
            return None
        if header.journal_id != self.manifest.journal_id:
            raise CorruptJournal(path, 0, self.seq, "this segment belongs to another journal")
        if header.ordinal != ordinal:
            raise CorruptJournal(path, 0, self.seq, f"this file is segment {header.ordinal} under another name")
        if len(data) > header.size or len(data) % CELL:
            raise CorruptJournal(
                path, len(data), self.seq, f"the file has {len(data):,} bytes, its header says {header.size:,}"
            )
        raw = memoryview(data)[CELL:]
        cells = arrays.view(raw)
        if not len(cells) or not int(cells["kind"][0]):
            if any_set(raw):
                self._bad_start(ordinal, "the first cell is not a segment opened mark")
                return None
            if len(data) != header.size:
                raise CorruptJournal(path, len(data), self.seq, _CUT)
            self.empty.append(ordinal)
            return None
        if self.empty:
            self._bad_start(self.empty[0], "the segment is empty and others follow")
            self.empty.clear()
            return None
        claimed = int(cells["episode"][0])
        good_mark = (
            int(cells["kind"][0]) == cell.SEGMENT_OPENED
            and arrays.first_bad(raw, cells, np.arange(1), header.salt, claimed) is None
        )
        if not good_mark:
            # A file is made whole, and is cut only when its seal, and so all of it, was on disk.
            cut = len(data) if len(data) != header.size else None
            self._bad_start(ordinal, "the segment opened mark does not check", cut)
            return None
        if claimed != self.position or int(cells["seq"][0]) != self.seq:
            # The mark is good, so what is missing lies before it, at the last segment's end (if never promised: torn).
            self._bad_start(ordinal, "cells are missing before this segment")
            return None
        return self._check(ordinal, path, header, raw, cells, len(data))

    def _check(
        self, ordinal: int, path: str, header: segment.Header, raw: memoryview, cells: Cells, size: int
    ) -> Piece:
        found, kinds, seqs = arrays.follow(cells, self.seq)
        seals = np.flatnonzero(kinds == cell.SEGMENT_SEALED)
        if len(seals):
            found, kinds = found[: seals[0] + 1], kinds[: seals[0] + 1]
        verified, value, promise = 0, self.chain, self.promise
        for at in found[(kinds == cell.RECEIPT) | (kinds == cell.SEGMENT_SEALED)].tolist():
            if arrays.first_bad(raw, cells, np.array([at]), header.salt, self.position) is not None:
                break
            if self.live and self.unsealed:
                break  # The seal before this segment was not there yet when it was read: the chain cannot be followed.
            stated = promise_at(cells, at)
            upto = stated.position - self.position
            bad, reason = at, "a receipt states what cannot be"
            if verified <= upto <= at and stated.events == _seq_at(found, seqs, upto) and not self.unsealed:
                value_then = chain.extend(value, (raw[verified * CELL : upto * CELL],))
                if value_then == stated.chain:
                    verified, value, promise = upto, value_then, stated
                    continue
                span = found[slice(*np.searchsorted(found, (verified, upto)))]
                damaged = arrays.first_bad(raw, cells, span, header.salt, self.position)
                bad, reason = (verified, _REMADE) if damaged is None else (damaged, _PROMISED)
            raise CorruptJournal(path, (bad + 1) * CELL, _seq_at(found, seqs, bad), reason)
        bad_head = arrays.first_bad(raw, cells, found[np.searchsorted(found, verified) :], header.salt, self.position)
        if bad_head is not None:
            found = found[found < bad_head]
        end = int(found[-1]) + 1 + int(cells["extent"][found[-1]])
        sealed = int(cells["kind"][found[-1]]) == cell.SEGMENT_SEALED
        rest = raw[end * CELL :]
        bad_reason = None
        if not sealed and any_set(rest):
            bad_reason = "a cell does not check"
        kinds, seqs = kinds[: len(found)], seqs[: len(found) + 1]
        seq = int(seqs[-1])
        piece = Piece(
            header, path, self.position, self.seq, raw, cells, found, kinds, seqs, end, verified, sealed, size
        )
        followed = ordinal != self.ordinals[-1]
        if not sealed and (bad_reason or followed) and self._promised(ordinal, self.position + end):
            raise CorruptJournal(path, piece.offset(end), seq, _PROMISED)
        if not sealed and size != header.size:
            raise CorruptJournal(path, size, seq, _CUT)
        if bad_reason:
            self._tear(ordinal, end, bad_reason)
        self.promise = promise
        self.position += end
        self.seq = seq
        if sealed:
            self.chain = chain.extend(value, (raw[(end - 1) * CELL : end * CELL],))
        else:
            self.chain = value
            # The next segment leaves room for the seal that this one still lacks.
            self.position += 1
        return piece

    def _bad_start(self, ordinal: int, reason: str, cut: int | None = None) -> None:
        """A segment that cannot be read from its start: torn if nothing was promised from here on, else corrupt.

        `cut`: the size of a file that is not whole; no power cut explains that.
        """
        if self._promised(ordinal, self.position - bool(self.unsealed)):
            raise CorruptJournal(segment.path_of(ordinal), 0, self.seq, reason)
        if cut is not None:
            raise CorruptJournal(segment.path_of(ordinal), cut, self.seq, _CUT)
        self._tear(ordinal, 0, reason)

    def _tear(self, ordinal: int, index: int, reason: str) -> None:
        """Let go of everything from cell `index` of a segment on."""
        parts = ((ordinal, index), *((later, 0) for later in self.ordinals if later > ordinal))
        size = lost = 0
        for part, start in parts if not self.live else ():
            raw, header = self._cells_of(part)
            size += len(bytes(raw[start * CELL :]).rstrip(b"\0"))
            if isinstance(header, segment.Header):
                lost += evidence.good_events(raw, header.salt, start)
        self.torn = Torn(parts, size, lost, reason)

    def _cells_of(self, ordinal: int) -> tuple[memoryview, segment.Header | str]:
        path = segment.path_of(ordinal)
        try:
            data = self.storage.read(path, 0, segment.SIZE_LIMIT)
        except OSError as error:
            raise _failed(path, error) from error
        return memoryview(data)[CELL:], segment.Header.parse(data, path)

    def _promised(self, ordinal: int, limit: int) -> bool:
        """Does any receipt or seal, in this segment or a later one, cover the cell at position `limit`?"""
        for later in self.ordinals:
            if later >= ordinal:
                raw, header = self._cells_of(later)
                if isinstance(header, segment.Header) and evidence.covers(raw, header.salt, limit):
                    return True
        return False

    def _drop_empty(self) -> None:
        """An unsealed last segment without any event is its writer's that never appended: as good as a spare."""
        piece = self.last
        if piece is not None and piece.empty and piece is self.unsealed[-1]:
            self.unsealed.pop()
            self.empty.insert(0, piece.header.ordinal)
            self.position = piece.position


def context_after(piece: Piece) -> Context:
    """The context at the end of a segment: the one its first mark carries, and the events that change it taken in."""
    context = opening_context(piece)
    for at in piece.heads[np.isin(piece.kinds, KINDS)].tolist():
        one = piece.cells[at]
        payload = arrays.payload(piece.raw, piece.cells, at)
        try:
            content = events.unpack(payload) if len(payload) else None
        except ValueError as error:
            reason = f"an event makes no sense: {error}"
            raise CorruptJournal(piece.path, piece.offset(at), int(one["seq"]), reason) from error
        context.apply(
            int(one["kind"]),
            int(one["flags"]),
            int(one["agent"]),
            int(one["env_index"]),
            int(one["episode"]),
            content,
        )
    return context


def opening_context(piece: Piece) -> Context:
    """What the segment opened mark of a checked piece carries. Raises `CorruptJournal` where it makes no sense."""
    try:
        return Context.from_payload(events.unpack(arrays.payload(piece.raw, piece.cells, 0)))
    except ValueError as error:
        raise CorruptJournal(piece.path, CELL, piece.seq, f"the segment opened mark makes no sense: {error}") from error


def _seq_at(found: Index, seqs: NDArray[np.uint64], index: int) -> int:
    """The seq that the first event at cell `index` or later has."""
    return int(seqs[np.searchsorted(found, index)])


def any_set(raw: memoryview) -> bool:
    """Is any byte not zero?"""
    return bool(np.frombuffer(raw, dtype=np.uint8).any())


def promise_at(cells: Cells, at: int) -> Promise:
    """What the receipt or seal at this index states."""
    stated = cells[at : at + 1].view(arrays.PROMISE_DTYPE)[0]
    return Promise(int(stated["position"]), int(stated["events"]), bytes(stated["chain"]))


def _failed(path: str, error: OSError) -> JournalFailed:
    return JournalFailed(f"{path} could not be read: {error.strerror or error}; nothing was changed: check the disk")
