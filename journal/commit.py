"""Group commit: turn what is in the page cache into a promise.

    note the end P, hash up to it  →  fdatasync every segment with cells below P, oldest first  →  append a receipt

A receipt is evidence of a sync that has already returned. A segment that the writer has left is sealed here, off the
append path: its seal is the promise of the whole segment. Appending is never blocked by a sync.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import NamedTuple, TypeVar

from journal import cell, chain
from journal.cell import CELL
from journal.errors import DiskFull, JournalError
from journal.live import LiveSegment, by_system, failure, no_space
from journal.manifest import Base, Manifest
from journal.reentrant import NOTHING
from journal.sharing import Sharing, Turn
from journal.tail import Left, Tail
from journal.worker import Worker, wait

T = TypeVar("T")


class Receipt(NamedTuple):
    """A promise that was made: all events up to `seq` are on disk, whatever happens, and hash to `chain`."""

    seq: int
    """The last promised event; -1 where nothing is promised yet."""
    chain: str
    """Hex. Note it with `seq`, and `journal verify --expect SEQ:CHAIN` proves that nothing before it was changed."""
    position: int
    """All cells before this one are promised."""


class _State(NamedTuple):
    """Replaced whole, so that an interrupt leaves the old one or the new one."""

    segment: LiveSegment
    done: int
    """Byte offset in `segment` up to which the chain has come."""
    chain: bytes
    receipt: Receipt
    durable: bool
    """Is that receipt itself on disk?"""


class Commit:
    """The promises of one log. `once` may be called from any thread; `start` calls it every `interval` seconds."""

    def __init__(self, log: Tail, manifest: Manifest, base: Base) -> None:
        self._log = log
        self.manifest = manifest
        self._mutex = threading.Lock()
        self._sharing = Sharing(self._mutex)
        receipt = Receipt(base.seq - 1, base.chain.hex(), base.position)
        self._state = _State(log.tail()[0], CELL, base.chain, receipt, True)
        # What is about to be written, and the state once it is: an interrupt between the two would fork the chain.
        self._receipt: tuple[int, bytes, _State] | None = None
        self._seal: tuple[LiveSegment, bytes, _State] | None = None
        self._stopped = False
        self._worker = Worker("journal-sync", self._run)

    @property
    def receipt(self) -> Receipt:
        """The last promise."""
        return self._state.receipt

    def start(self, interval: float | None) -> None:
        """Sync every `interval` seconds in a thread of its own; None: only seal what the writer has left."""
        self._interval = interval
        self._worker.start()

    def stop(self) -> None:
        """End the thread; nothing is synced by this."""
        self._stopped = True
        self._log.wake.put(None)
        self._worker.wait()

    @property
    def running(self) -> bool:
        """Is the thread at work?"""
        return self._worker.running

    def reach(self, seq: int) -> None:
        """Return when the event `seq` is promised; callers that come together share one sync."""
        sharing = self._sharing
        turn: Turn | None = None
        while self._state.receipt.seq < seq:
            if not sharing.alone:
                turn = turn or sharing.turn()
                if not turn.mine():
                    continue
            began = time.perf_counter()
            try:
                with self._mutex:
                    _held = self._mutex
                    if self._state.receipt.seq < seq:
                        self._once()
                del _held
            finally:
                sharing.served(began)

    def once(self) -> None:
        """Promise what was appended so far. On disk when it returns; the receipt itself only after `settle`."""
        try:
            with self._mutex:
                _held = self._mutex
                self._once()
            del _held
        finally:
            self._sharing.tell()

    def settle(self) -> Receipt:
        """Put the last receipt on disk as well, and return it."""
        try:
            with self._mutex:
                _held = self._mutex
                self._log.raise_failure()
                state = self._state
                if not state.durable:
                    self._guarded(state.segment.file.sync, "syncing a receipt")
                    self._state = state._replace(durable=True)
                return state.receipt
        finally:
            self._sharing.tell()

    def close(self) -> None:
        """Seal all segments: everything appended is promised, and the promise is on disk. Nothing more is appended."""
        with self._mutex:
            self._log.raise_failure()
            self._seal_left()
            segment, end, seq = self._log.tail()  # Only now: until here, another thread may have put a receipt there.
            self._list(segment)
            self._finish(Left(segment, end, seq, segment))

    def at_rest(self, action: Callable[[], object]) -> None:
        """Call it while nobody is about to promise anything."""
        with self._mutex:
            action()

    def refuse_within(self, left: str = NOTHING) -> None:
        """Raise `ReentrantCall` where this thread is in the middle of an append or a promise.

        Who promises waits for those who append. `left` is what the caller has done.
        """
        self._log.refuse_within(self._mutex, left)

    def _run(self) -> None:
        interval = self._interval
        try:
            while True:
                wait(self._log.wake, interval)
                if self._stopped:
                    return
                try:
                    if interval is None:
                        self._seal_all()
                    elif self._idle():
                        self.settle()
                    else:
                        self.once()
                except DiskFull:
                    # No room for journal.json or a receipt: no promise now, the next round tries again.
                    wait(self._log.wake, 1.0)
        except JournalError:
            return  # The log is poisoned and tells every later caller why.
        except BaseException as error:
            self._log.poison(error)
            raise

    def _seal_all(self) -> None:
        with self._mutex:
            _held = self._mutex
            self._log.raise_failure()
            self._seal_left()

    def _idle(self) -> bool:
        segment, _, seq = self._log.tail()
        return segment is self._state.segment and seq - 1 <= self._state.receipt.seq

    def _once(self) -> None:
        log = self._log
        # After a failed sync the next one may succeed though the bytes are lost: never promise anything then.
        log.raise_failure()
        self._settle_receipt()
        self._seal_left()
        segment, end, seq = log.tail()
        state = self._state
        if segment is not state.segment or seq - 1 <= state.receipt.seq:
            return  # Rotated this very moment (the next round seals and goes on), or no event is new.
        self._list(segment)
        promised, mark = self._guarded(lambda: self._carry(segment, end, seq), "syncing the log")
        with log.lock:
            _held = log.lock
            log.raise_failure()
            now, at, next_seq = log.tail_locked()
            if now is not segment:
                return  # The seal will promise these cells.
            if at >= segment.seal_at:
                raise DiskFull(f"{segment.path} has no room for a receipt and the disk none for the next segment")
            if at != end:
                mark = self._mark(promised, at, next_seq)
            self._receipt = (at, mark, promised)
            log.mark_locked(mark)
            self._state = promised
            self._receipt = None

    def _carry(self, segment: LiveSegment, end: int, seq: int) -> tuple[_State, bytes]:
        """Put on disk what stands before `end`. Returns what the state is once a receipt tells it, and that receipt.

        It is the receipt for a log in which nothing is appended meanwhile: so it is made up while the disk writes.
        """
        state = self._state
        cells = self._read(segment, state.done, end)
        # Hashed before the sync, while the disk may begin: just written, the cells are in the processor's caches; after
        # the wait for a disk nothing is.
        segment.hasten(state.done, end - state.done)
        value = chain.extend(state.chain, (cells,))
        promised = _State(segment, end, value, Receipt(seq - 1, value.hex(), segment.index_of(end)), False)
        mark = self._mark(promised, end, seq)
        self._sync(segment)
        return promised, mark

    def _mark(self, promised: _State, at: int, seq: int) -> bytes:
        """The receipt for `promised`, to stand at byte `at` of its segment, where the next event's seq is `seq`."""
        segment, receipt = promised.segment, promised.receipt
        return cell.pack_promise(
            cell.RECEIPT,
            seq,
            self._log.time_ns(),
            receipt.position,
            receipt.seq + 1,
            promised.chain,
            salt=segment.header.salt,
            at=segment.index_of(at),
        )

    def _settle_receipt(self) -> None:
        if self._receipt is not None:
            at, mark, state = self._receipt
            if bytes(self._cells(state.segment, at, at + CELL)) == mark:
                self._state = state
            self._receipt = None

    def _seal_left(self) -> None:
        left = self._log.left
        while left:
            if self._state.segment is left[0].segment:
                self._list(left[0].segment)
                self._finish(left[0])
            left[0].segment.file.close()
            left.pop(0)

    def _finish(self, left: Left) -> None:
        """Seal one segment. Interrupted, it goes on with the same seal when it is called again."""
        segment, end, seq, following = left
        self._settle_receipt()
        if self._seal is None or self._seal[0] is not segment:
            state = self._state
            self._guarded(lambda: self._sync(segment), "syncing the log")
            value = chain.extend(state.chain, (self._cells(segment, state.done, end),))
            position = segment.index_of(end)
            mark = cell.pack_promise(
                cell.SEGMENT_SEALED,
                seq,
                self._log.time_ns(),
                position,
                seq,
                value,
                salt=segment.header.salt,
                at=position,
            )
            receipt = Receipt(seq - 1, value.hex(), position)
            self._seal = (segment, mark, _State(following, CELL, chain.extend(value, (mark,)), receipt, True))
        _, mark, sealed = self._seal

        def seal() -> None:
            segment.file.write(end, mark)
            segment.file.sync()
            segment.file.truncate(end + CELL)
            segment.file.sync()

        self._guarded(seal, "sealing a segment")
        self._state = sealed

    def _cells(self, segment: LiveSegment, start: int, end: int) -> bytes | memoryview:
        """What was written to these bytes of a segment, to be hashed."""
        return self._guarded(lambda: self._read(segment, start, end), "reading the log")

    def _read(self, segment: LiveSegment, start: int, end: int) -> bytes | memoryview:
        if segment.mapped:
            self._check(segment)  # Behind the end of a file that was cut, a look through its map kills the process.
        return segment.read(start, end - start)

    def _check(self, segment: LiveSegment) -> None:
        wrong = segment.file.check(segment.header.size)
        if wrong is not None:
            raise OSError(0, f"{segment.path}: {wrong}")

    def _sync(self, segment: LiveSegment) -> None:
        self._check(segment)
        segment.file.sync()

    def _list(self, segment: LiveSegment) -> None:
        """A segment is listed before anything in it is promised."""
        ordinal = segment.header.ordinal
        if ordinal not in self.manifest.segments:
            manifest = self.manifest.with_segments((*self.manifest.segments, ordinal))
            self._guarded(
                lambda: manifest.write(self._log.storage), "listing a segment in journal.json", can_wait_for_space=True
            )
            self.manifest = manifest

    def _guarded(self, action: Callable[[], T], doing: str, *, can_wait_for_space: bool = False) -> T:
        """Any error of the system is poison, a full disk too: a sync that found no space has lost bytes."""
        try:
            return action()
        except OSError as error:
            if not by_system(error):
                raise
            if can_wait_for_space and no_space(error):
                raise failure(error, doing) from error
            self._log.poison(error, doing)
            self._log.raise_failure()
            raise
