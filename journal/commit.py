"""Group commit: turn what is in the page cache into a promise.

    note the end P  →  fdatasync every segment with cells below P, oldest first  →  append a receipt (P, chain)

A receipt is evidence of a sync that has already returned. A segment that the writer has left is sealed here, off the
append path: its seal is the promise of the whole segment. Appending is never blocked by a sync.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, NamedTuple

from journal import cell, chain
from journal.cell import CELL
from journal.errors import DiskFull, JournalError
from journal.live import LiveSegment, failure, no_space
from journal.manifest import Manifest

if TYPE_CHECKING:
    from journal.writer import Log


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
    seen: int
    """Byte offset up to which there is nothing new: behind the last receipt."""
    receipt: Receipt
    durable: bool
    """Is that receipt itself on disk?"""


class Commit:
    """The promises of one log. `once` may be called from any thread; `start` calls it every `interval` seconds."""

    def __init__(self, log: Log, manifest: Manifest, segment: LiveSegment, value: bytes, receipt: Receipt) -> None:
        self._log = log
        self.manifest = manifest
        self._mutex = threading.Lock()
        self._state = _State(segment, CELL, value, CELL, receipt, True)
        self._intent: tuple[int, bytes, _State] | None = None
        self._wake = threading.Event()
        self._stopped = False
        self._thread: threading.Thread | None = None

    @property
    def receipt(self) -> Receipt:
        """The last promise."""
        return self._state.receipt

    def start(self, interval: float | None) -> None:
        """Sync every `interval` seconds in a thread of its own; None: only seal what the writer has left."""
        self._thread = threading.Thread(target=self._run, args=(interval,), name="journal-sync", daemon=True)
        self._thread.start()

    def rotated(self) -> None:
        """The writer has left a segment: seal it soon."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread; nothing is synced by this."""
        self._stopped = True
        self._wake.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join()

    def reach(self, position: int) -> None:
        """Return when every cell before `position` is promised; callers that wait together share one sync."""
        while self._state.receipt.position < position:
            with self._mutex:
                if self._state.receipt.position < position:
                    self._once()

    def once(self) -> None:
        """Promise what was appended so far. On disk when it returns; the receipt itself only after `settle`."""
        with self._mutex:
            self._once()

    def settle(self) -> Receipt:
        """Put the last receipt on disk as well, and return it."""
        with self._mutex:
            state = self._state
            if not state.durable:
                self._guarded(state.segment.file.sync, "syncing a receipt")
                self._state = state._replace(durable=True)
            return state.receipt

    def close(self) -> None:
        """Seal the last segment: everything appended is promised, and the promise is on disk."""
        with self._mutex:
            self._seal_left()
            log = self._log
            segment, end, seq = log.tail()
            self._list(segment)
            self._seal(segment, end, seq)

    def _run(self, interval: float | None) -> None:
        try:
            while not self._stopped:
                self._wake.wait(interval)
                if self._stopped:
                    return
                self._wake.clear()
                try:
                    if interval is None:
                        with self._mutex:
                            self._settle_intent()
                            self._seal_left()
                    elif self._idle():
                        self.settle()
                    else:
                        self.once()
                except DiskFull:
                    # journal.json could not be rewritten: no promise now, the next round tries again.
                    self._wake.wait(1.0)
        except JournalError:
            return  # The log is poisoned and tells every later caller why.
        except BaseException as error:
            self._log.poison(error)
            raise

    def _idle(self) -> bool:
        segment, end, _ = self._log.tail()
        return segment is self._state.segment and end <= self._state.seen

    def _once(self) -> None:
        self._settle_intent()
        self._seal_left()
        log = self._log
        segment, end, seq = log.tail()
        state = self._state
        if segment is not state.segment or end <= state.seen:
            return  # Rotated this very moment (the next round seals and goes on), or nothing is new.
        self._list(segment)
        self._guarded(lambda: self._sync(segment), "syncing the log")
        value = chain.extend(state.chain, (segment.read(state.done, end - state.done),))
        position = segment.index_of(end)
        with log.lock:
            now, at, next_seq = log.tail_locked()
            if now is not segment or at >= segment.seal_at:
                return  # The seal will promise these cells.
            mark = cell.pack_promise(
                cell.RECEIPT,
                next_seq,
                log.time_ns(),
                position,
                seq,
                value,
                salt=segment.header.salt,
                at=segment.index_of(at),
            )
            receipt = Receipt(seq - 1, value.hex(), position)
            # An interrupt between the store and this state would fork the chain; the intent tells which it was.
            self._intent = (at, mark, _State(segment, end, value, at + CELL, receipt, False))
            log.mark_locked(mark)
            self._settle_intent()

    def _settle_intent(self) -> None:
        if self._intent is not None:
            at, mark, state = self._intent
            if bytes(state.segment.read(at, CELL)) == mark:
                self._state = state
            self._intent = None

    def _seal_left(self) -> None:
        log = self._log
        while log.left:
            segment, end, seq = log.left[0]
            if self._state.segment is segment:
                self._list(segment)
                self._seal(segment, end, seq)
            segment.file.close()
            log.left.pop(0)

    def _seal(self, segment: LiveSegment, end: int, seq: int) -> None:
        self._settle_intent()
        state = self._state
        self._guarded(lambda: self._sync(segment), "syncing the log")
        value = chain.extend(state.chain, (segment.read(state.done, end - state.done),))
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

        def seal() -> None:
            segment.file.write(end, mark)
            segment.file.sync()
            segment.file.truncate(end + CELL)
            segment.file.sync()

        self._guarded(seal, "sealing a segment")
        following = self._log.following(segment)
        self._state = _State(
            following, CELL, chain.extend(value, (mark,)), CELL, Receipt(seq - 1, value.hex(), position), True
        )

    def _sync(self, segment: LiveSegment) -> None:
        wrong = segment.file.check(segment.header.size)
        if wrong is not None:
            raise OSError(0, f"{segment.path}: {wrong}")
        segment.file.sync()

    def _list(self, segment: LiveSegment) -> None:
        """A segment is listed before anything in it is promised."""
        ordinal = segment.header.ordinal
        if ordinal not in self.manifest.segments:
            manifest = self.manifest.with_segments((*self.manifest.segments, ordinal))
            self._guarded(lambda: manifest.write(self._log.storage), "listing a segment in journal.json")
            self.manifest = manifest

    def _guarded(self, action: object, doing: str) -> None:
        try:
            action()  # type: ignore[operator]
        except OSError as error:
            failed = failure(error, doing)
            if not no_space(error):
                self._log.poison(failed)
            raise failed from error
