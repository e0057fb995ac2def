"""The writer: `append` packs a cell straight into the mapped segment, with no system call.

So the event is in the kernel's page cache, and survives the death of the process, when `append` returns. How a cell
comes to stand there: `journal.rewarding` for a reward, `journal.batching` for many, `journal.appending` for all else.
Where it goes, and what an interrupt may leave there, is told in `journal.tail`; how it comes to survive a power cut, in
`journal.commit`.
"""

from __future__ import annotations

import atexit
import os
import weakref
from collections.abc import Callable
from operator import index
from threading import Lock as Mutex
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self

from journal import cell, events
from journal.commit import Commit, Receipt
from journal.episodes import Episodes
from journal.errors import EventRejected, JournalError
from journal.events import Event
from journal.live import LiveSegment, Spares, failure
from journal.manifest import PATH as MANIFEST_PATH
from journal.manifest import Manifest
from journal.segment import DIRECTORY, path_of
from journal.storage import Lock, Storage
from journal.tail import Clock
from journal.turn import Turn

if TYPE_CHECKING:
    from journal.recovery import Recovered

Sync = Literal["group", "always", "close"]
LOCK_PATH = "writer.lock"

_OPENED: weakref.WeakSet[Log] = weakref.WeakSet()


class Log(Episodes):
    """An open journal, for writing. Made by `journal.open`; a context manager, that closes.

    Thread-safe. After a failed write or sync every call raises `JournalFailed`: open the journal again to recover.
    """

    recovered: Recovered

    def __init__(
        self,
        storage: Storage,
        lock: Lock,
        sync: Sync,
        sync_interval: float,
        clock: Clock,
        entropy: Callable[[int], bytes],
    ) -> None:
        # They need numpy, which `import journal` does not; and Ctrl-C is not to fall into an import in `rewards`.
        from journal import batch
        from journal.recovery import recover

        self._batch = batch

        if storage.exists(MANIFEST_PATH) or storage.list(DIRECTORY):
            manifest = Manifest.read(storage)
        else:
            storage.make_directory(DIRECTORY)
            manifest = Manifest.new(entropy(16))
            manifest.write(storage)
        self.recovered, manifest, base = recover(storage, manifest, clock.time_ns())
        if not storage.exists(DIRECTORY):  # Nothing is to be in it, and what copies files may leave out empty folders.
            storage.make_directory(DIRECTORY)
        self.journal_id = manifest.journal_id
        self._file_lock = lock
        self._closing = Mutex()
        self._always = sync == "always"
        self._seq_opened = base.seq
        spares = Spares(
            storage, manifest.journal_id, base.ordinal, gathered=self._always, clock=clock.time_ns, entropy=entropy
        )
        super().__init__(storage, spares, base, clock)
        self._commit = Commit(self, manifest, base)
        try:
            spares.start()
            self._commit.start(None if sync == "close" else sync_interval)
        except BaseException:
            self._closed = True
            self._let_go()
            raise
        _OPENED.add(self)

    # -- appending ---------------------------------------------------------------------------------------------------

    def append(self, event: Event) -> int:
        """Record one event. Returns its seq; it survives the process from then on (`sync="always"`: a power cut).

        Raises `EventRejected` for one that contradicts the log (a second open episode of one sub-environment, the end
        of an episode that is not open), else as `reward` does; then nothing was recorded, but perhaps a new name. Only
        where `sync="always"` could not keep its promise (`JournalFailed`), recovery may find the event.
        """
        if type(event) is events.NameGiven or events.REGISTRY.get(getattr(event, "kind", 0)) is not type(event):
            raise EventRejected(f"{event!r:.80} cannot be appended: give an event of `journal` (names: log.agent)")
        payload = events.payload_of(event)
        agent = getattr(event, "agent", None)
        number = 0 if agent is None else self.agent(agent)
        form = self._number(event.metric) if isinstance(event, events.MetricLogged) else 0
        flags = cell.EVAL if getattr(event, "phase", "train") == "eval" else 0
        value = getattr(event, "value", 0.0)
        if isinstance(event, (events.EpisodeStarted, events.EpisodeEnded)):
            value = self.monotonic() if event.monotonic is None else event.monotonic
        return self._append_cell(
            event.kind,
            payload,
            flags,
            form,
            number,
            index(getattr(event, "env_index", 0)),
            index(getattr(event, "episode", 0)),
            index(getattr(event, "step", 0)),
            value,
            event=event,
        )

    def agent(self, name: str) -> int:
        """The number of an agent in this journal, for `reward` and `rewards`; a new name gets one.

        Raises `EventRejected` for what cannot be a name.
        """
        return self._number(name)

    def _number(self, name: Any) -> int:
        number = self.context.numbers.get(name) if isinstance(name, str) else None
        while number is None:
            events.check_name(name, "name")
            if self.context.full:
                raise EventRejected(
                    f"the journal has {len(self.context.names):,} names already, no place for {name!r:.80}: "
                    "log many numbers under one metric name, or begin a new journal"
                )
            given = events.NameGiven(name=name, number=len(self.context.names) + 1)
            self._append_cell(given.kind, events.payload_of(given), event=given)
            number = self.context.numbers.get(name)
        return number

    # -- promises ----------------------------------------------------------------------------------------------------

    def sync(self) -> Receipt:
        """Promise everything appended before: events and receipt survive a power cut when it returns.

        Raises `JournalClosed`, `JournalFailed`, `DiskFull`, `ReentrantCall`; then nothing new is promised.
        """
        self._usable()
        self._commit.refuse_within()
        _, _, seq = self.tail()
        self._commit.reach(seq - 1)
        return self._commit.settle()

    @property
    def next_seq(self) -> int:
        """The seq that the next event gets: all below it were appended, over the journal's whole life."""
        return self._seq

    @property
    def promised(self) -> Receipt:
        """The last promise made, without forcing one."""
        return self._commit.receipt

    @property
    def closed(self) -> bool:
        """Was it closed?"""
        return self._closed

    @property
    def mapped(self) -> bool:
        """Are events stored through a map (else by pwrite)?"""
        return self._segment.mapped

    @property
    def ready(self) -> bool:
        """Is the next segment ready, so that no event waits for it?"""
        return self._spares.ready

    def close(self) -> None:
        """Promise everything, seal the segment, let go of the lock. Closing twice is fine.

        Raises `JournalFailed` where the last sync fails; then the journal is to be recovered by opening it again.
        `ReentrantCall`, by a signal handler in the middle of another call: then it is not closed.
        """
        self.refuse_within(self._closing)
        self._commit.refuse_within()
        with self._closing:
            _held = self._closing
            if self not in _OPENED:
                return  # Closed to the end. An interrupt may cut that short: then it is done again.
            try:
                if not self._closed:
                    segment, seq = self._end()
                    self._stop()
                    self.raise_failure()
                    if seq == self._seq_opened:
                        self._discard(segment)
                    else:
                        self._commit.close()
            except BaseException as error:
                if self._closed:
                    self.poison(error)  # Whoever still waits for a promise gets none.
                raise
            finally:
                if self._closed:
                    self._let_go()

    def _end(self) -> tuple[LiveSegment, int]:
        """Nothing is appended from now on: the segment and the seq that would have come next."""
        with self.lock:
            _held = self.lock
            segment, _, seq = self.tail_locked()
            self._closed = True
        return segment, seq

    def _stop(self) -> None:
        """End the threads, whatever interrupts: a segment made without the lock could replace another writer's."""
        interrupt: BaseException | None = None
        while self._commit.running or self._spares.running:
            try:
                self._commit.stop()
                self._spares.stop()
            except BaseException as error:
                interrupt = error
        self._spares.discard()
        if interrupt is not None:
            raise interrupt

    def _discard(self, segment: LiveSegment) -> None:
        """Nothing was appended: leave no trace."""
        manifest = self._commit.manifest
        try:
            if segment.header.ordinal in manifest.segments:
                left = (ordinal for ordinal in manifest.segments if ordinal != segment.header.ordinal)
                manifest.with_segments(tuple(left)).write(self.storage)
            # The spare behind it goes first, also for a power cut: a gap in the sequence would look like a loss.
            self.storage.sync_directory(DIRECTORY)
            if not self.storage.exists(path_of(segment.header.ordinal + 1)):
                self.storage.remove(segment.path)  # Else the next open removes both.
        except OSError as error:
            raise failure(error, f"closing {self.storage.name}") from error

    def _let_go(self) -> None:
        """In this order: without the lock no thread may be at work, and what was not let go can still be closed."""
        self._stop()
        self._commit.at_rest(self._release)
        _OPENED.discard(self)

    def _release(self) -> None:
        self._file_lock.release()
        self._close_files()

    def _forked(self) -> None:
        """In a forked child: the log is the parent's. Drop lock and map at once."""
        self.lock, self._closing, self._turn = Mutex(), Mutex(), Turn()
        self._closed, self._limit = True, 0
        self._file_lock.drop()
        self._spares.abandon()
        self._close_files()
        _OPENED.discard(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except JournalError:
            if error is None:
                raise


def _close_all() -> None:
    for log in list(_OPENED):
        try:
            log.close()
        except JournalError:
            pass  # The process ends; what was promised is on disk and recovery does the rest.


def _fork_all() -> None:
    for log in list(_OPENED):
        log._forked()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fork_all)
