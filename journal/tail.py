"""The end of the log: where the next cell goes, and how it moves on to the next segment.

What an interrupt (Ctrl-C) may cut short is settled here, by whoever holds the lock next: an append is either whole and
counted, or zeros; a change of segments is carried out to its end.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from threading import Lock as Mutex
from typing import Any, NamedTuple, Protocol

from journal import cell
from journal.cell import CELL
from journal.context import PLACED, EpisodeKey
from journal.errors import DiskFull, EventRejected, JournalClosed, JournalFailed
from journal.events import Event
from journal.live import LiveSegment, Spares, by_system, failure
from journal.manifest import Base
from journal.reentrant import NOTHING, refuse
from journal.segment import content_of
from journal.storage import Storage
from journal.turn import EXCHANGES, Turn


class Clock(Protocol):
    """What the journal asks the time of; the module `time` is one."""

    def time_ns(self) -> int:
        """Wall time in nanoseconds since 1970; may jump."""

    def monotonic(self) -> float:
        """Seconds that only grow, from any start."""


class Left(NamedTuple):
    """A segment that was filled: it waits for its seal."""

    segment: LiveSegment
    end: int
    """Its end in bytes."""
    seq: int
    """The next seq."""
    following: LiveSegment
    """Where the writer went on."""


Taken = tuple[Event, int, int, int, int]
"""What the context takes in of an event: itself, flags, agent, env_index, episode."""
Changed = tuple[Sequence[EpisodeKey], Sequence[int], Sequence[int], Sequence[int]]
"""What it takes in of a vector step, as `Context.change` does."""


class Tail:
    """The log's end, for one writer.

    Attributes that begin with `_` are guarded by `lock`, and those that the fast path changes by the turn as well: who
    holds the lock shuts the fast path first (`tail_locked`), and opens it again in the end (`_allow`).
    """

    # What the fast path asks for: with so many attributes, CPython would look each of them up in a dict.
    __slots__ = (
        "__dict__",
        "_always",
        "_base",
        "_buffer",
        "_limit",
        "_names",
        "_offset",
        "_put",
        "_salt",
        "_seq",
        "_shift",
        "_turn",
        "time_ns",
    )

    _limit: int
    """Byte offset where the fast path ends: 0 where it is shut, as the lock is held, or for good."""
    _offset: int
    _shift: int
    """Position less seq, of the next event: as long as rewards alone follow, each moves both by one."""
    _buffer: Any
    _put: Callable[[Any, int, int, bytes], None]

    def __init__(self, storage: Storage, spares: Spares, base: Base, clock: Clock) -> None:
        self.storage = storage
        self.time_ns = clock.time_ns
        self.monotonic = clock.monotonic
        self.lock = Mutex()
        self._turn = Turn()
        self.context = base.context
        self.left: list[Left] = []
        """Oldest first."""
        self.wake: SimpleQueue[None] = SimpleQueue()
        """Something was put into `left`, or the log is being closed."""
        self._pid = os.getpid()
        self._spares = spares
        self._failure: BaseException | None = None
        self._closed = False
        self._interrupted: tuple[int, int, int, int, tuple[Taken | Changed, ...]] | None = None
        """An append that raised: offset, seq, how many seqs and bytes it takes, what the context takes in."""
        self._switch: tuple[LiveSegment, int] | None = None
        self._seq = base.seq
        self._names = len(self.context.names)
        content = content_of(self.context)
        self._segment = spares.take(CELL + cell.extent_of(len(content))[0] * CELL)
        self._load(self._segment, self._segment.begin(content, base.seq, base.position, self.time_ns()))
        spares.entered(self._segment)
        self._allow()

    def tail(self) -> tuple[LiveSegment, int, int]:
        """(segment, its end in bytes, next seq), as of now."""
        self.refuse_within()
        with self.lock:
            _held = self.lock
            tail = self.tail_locked()
            self._allow()
        return tail

    def tail_locked(self) -> tuple[LiveSegment, int, int]:
        """The same, for who holds the lock; it stays so, as the fast path is shut until who appends opens it."""
        self._limit = 0
        if self._turn.taken:
            self._turn.wait()
        if self._interrupted is not None or self._switch is not None:
            self._settle()
        return self._segment, self._offset, self._seq

    def refuse_within(self, lock: Mutex | None = None, left: str = NOTHING) -> None:
        """Raise `ReentrantCall` where this thread is in the middle of an append, or holds `lock` as well.

        Whichever of them it holds: another thread may have the lock and wait for the turn that this one has. `left` is
        what the caller has done.
        """
        if self.lock.locked() or self._turn.taken or (lock is not None and lock.locked()):
            refuse(self.storage.name, self.lock, self._turn, lock, left=left)

    def mark_locked(self, mark: bytes) -> None:
        """Append a receipt at the tail that `tail_locked` gave; the lock is held and there is room."""
        offset, seq = self._offset, self._seq
        try:
            self._segment.file.write(offset, mark)
            self._offset = offset + CELL
        except BaseException as error:
            self._interrupted = (offset, seq, 0, CELL, ())
            self._settle()
            self._explain(error)
            raise
        self._allow()

    # -- interrupts --------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Finish what an interrupt has cut short. The fast path is shut.

        Whoever is interrupted has noted what is to be done, by a store next to which CPython looks for no signal. So
        this may be interrupted, too: the next one to hold the lock does it again.
        """
        self._unwind()
        self._enter()

    def _allow(self) -> None:
        """Open the fast path, unless the log is closed or has failed (asked last, so that no failure is missed)."""
        self._shift = self._base + (self._offset >> 6) - self._seq
        self._limit = self._way
        if self._closed or self._failure is not None:
            self._limit = 0

    def _unwind(self) -> None:
        """An append was cut short: count the event if its cell is there whole, else leave zeros."""
        if self._interrupted is None:
            return
        offset, seq, takes, length, taken = self._interrupted
        if self._failure is None:
            try:
                raw = bytes(self._segment.read(offset, CELL))
                crc = cell.checksum(raw[4:], self._salt, self._base + (offset >> 6))
                if any(raw) and crc == int.from_bytes(raw[:4], "little"):
                    self._offset, self._seq = offset + length, seq + takes
                    for one in taken:
                        if len(one) == 4:
                            self.context.change(*one)
                        else:
                            self._take_in(*one)
                else:
                    self._segment.write(offset, bytes(length))
                    self._offset, self._seq = offset, seq
            except OSError as error:
                if not by_system(error):
                    raise
                self.poison(error, "writing to the log")
        self._interrupted = None

    def _explain(self, error: BaseException) -> None:
        """Raise what the caller is told of an append that raised `error`; return where that says it already."""
        if isinstance(error, (struct.error, TypeError, OverflowError)):
            raise EventRejected(
                f"the event does not fit a cell: {error}; agent, episode, step and env_index are integers of 0 or more"
            ) from error
        if by_system(error):
            self.poison(error, "writing to the log")
            raise self._failed() from error

    def _take_in(self, event: Event, flags: int, agent: int, env_index: int, episode: int) -> None:
        """The context follows what is in the log. Doing it twice changes nothing."""
        if event.kind in PLACED:
            self.context.take_in(event.kind, flags, agent, ((episode, env_index),))
            return
        fields = {name: getattr(event, name, None) for name in ("name", "run", "attempt", "members")}
        self.context.apply(event.kind, flags, agent, env_index, episode, fields)
        self._names = len(self.context.names)

    # -- segments ----------------------------------------------------------------------------------------------------

    def _room(self, needed: int, *, closing: bool = False) -> int:
        """Make room for `needed` bytes of cells; returns the offset. `closing`: what the reserve is kept for."""
        segment, offset, seq = self.tail_locked()
        if offset + needed <= segment.limit:
            return offset
        content = content_of(self.context)
        try:
            spare = self._spares.take(CELL + cell.extent_of(len(content))[0] * CELL + needed)
        except JournalFailed as error:
            if closing and offset + needed <= segment.seal_at:
                return offset
            if not isinstance(error, DiskFull):
                self.poison(error)
            raise
        # The seal of the segment we leave takes the cell at `offset`; the next one begins behind it.
        position = segment.index_of(offset) + 1
        start = spare.begin(content, seq, position, self.time_ns())
        self._switch = (spare, start)
        return self.tail_locked()[1]

    def _enter(self) -> None:
        """Go on in the segment that `_switch` names, if any."""
        if self._switch is None:
            return
        segment, start = self._switch
        if self._segment is not segment:
            self.left.append(Left(self._segment, self._offset, self._seq, segment))  # Twice does no harm.
            self._segment = segment
        self._load(segment, start)
        self._spares.entered(segment)
        self._switch = None
        self.wake.put(None)

    def _load(self, segment: LiveSegment, offset: int) -> None:
        """Unpack what the fast path needs."""
        self._buffer = segment.buffer
        self._put = segment.put
        self._salt = segment.header.salt
        self._base = (segment.position & 0xFFFFFFFF) - 1
        # The fast path takes `_base` and the cell's index for a position's low 32 bits; in nearly all segments it is.
        straddles = self._base + segment.header.size // CELL > 0xFFFFFFFF
        self._way = segment.limit if EXCHANGES and not straddles else 0
        self._offset = offset

    def _close_files(self) -> None:
        for segment in [*(left.segment for left in self.left), self._segment]:
            segment.file.close()

    # -- failure -----------------------------------------------------------------------------------------------------

    def poison(self, error: BaseException, doing: str = "") -> None:
        """Something failed that cannot be taken back: from now on every call raises `JournalFailed`."""
        if self._failure is None:
            self._failure = failure(error, doing) if doing and isinstance(error, OSError) else error
        self._limit = 0

    def raise_failure(self) -> None:
        """Raise `JournalFailed` if something failed before."""
        if self._failure is not None:
            raise self._failed() from self._failure

    def _failed(self) -> JournalFailed:
        failed = self._failure
        if isinstance(failed, JournalFailed) and not isinstance(failed, DiskFull):
            return JournalFailed(f"{self.storage.name}: {failed}")
        return JournalFailed(
            f"{self.storage.name}: the log failed ({failed!r}); what was promised is safe, nothing more is promised: "
            "remove the cause and open the journal again"
        )

    def _usable(self) -> None:
        if self._closed or self._failure is not None:  # A forked child's is closed as well.
            self._refuse()

    def _refuse(self) -> None:
        if self._pid != os.getpid():
            raise JournalClosed(f"{self.storage.name}: this log belongs to the parent process; a child records nothing")
        if self._closed:
            raise JournalClosed(f"{self.storage.name}: this log is closed; open the journal again")
        self.raise_failure()
