"""The writer: `append` packs a cell straight into the mapped segment, so the event is in the kernel's page cache, and
survives the death of the process, when `append` returns. With no system call.

What an interrupt (Ctrl-C) may leave behind is settled in one place, `Log._unwind`: the whole event, counted, or zeros.
"""

from __future__ import annotations

import atexit
import os
import struct
import time
import weakref
from collections.abc import Callable
from threading import Lock as Mutex
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

from crc32c import crc32c

from journal import cell, events, live
from journal.cell import CELL
from journal.commit import Commit, Receipt
from journal.context import Context
from journal.errors import EventRejected, JournalClosed, JournalError, JournalFailed, JournalLocked, NotAJournal
from journal.events import Event
from journal.manifest import PATH as MANIFEST_PATH
from journal.manifest import Manifest
from journal.storage import Lock, LockHeld, Storage

if TYPE_CHECKING:
    from journal.recovery import Recovered

Sync = Literal["group", "always", "close"]
LOCK_PATH = "writer.lock"

# Kinds that may use a segment's reserve, so that a full disk does not keep a run from ending properly.
_CLOSING = frozenset({cell.ATTEMPT_ENDED, cell.RUN_ENDED, cell.EPISODE_ENDED})
_OPENED: weakref.WeakSet[Log] = weakref.WeakSet()


class Clock(Protocol):
    """What the journal asks the time of; the module `time` is one."""

    def time_ns(self) -> int:
        """Wall time in nanoseconds since 1970; may jump."""

    def monotonic(self) -> float:
        """Seconds that only grow, from any start."""


def open_log(
    directory: str | os.PathLike[str],
    *,
    sync: Sync = "group",
    sync_interval: float = 0.05,
    storage: Storage | None = None,
    clock: Clock = time,
) -> Log:
    """Open the journal in `directory` for writing, making it if there is none, and recover it if it was not closed.

    `sync="group"`: every event survives the process at once, and a power cut after `sync_interval` seconds;
    `"always"`: each append returns when its event survives a power cut; `"close"`: synced at `sync()` and `close()`.
    What recovery found is in `Log.recovered`.

    Raises `JournalLocked` (another process writes it), `CorruptJournal`, `UnsupportedFormat`, `NotAJournal` (the path
    holds something else), `JournalFailed` and its child `DiskFull`. Where it raises, nothing was lost or half-changed.
    """
    if sync not in ("group", "always", "close"):
        raise ValueError(f"sync is {sync!r}: use 'group', 'always' or 'close'")
    if not sync_interval > 0:
        raise ValueError(f"sync_interval is {sync_interval!r}: give seconds, more than 0")
    from journal.storage.disk import DiskStorage

    if storage is None:
        if os.path.lexists(directory) and not os.path.isdir(directory):
            raise NotAJournal(f"{os.fspath(directory)}: a file, not a directory; give the directory of a journal")
        storage = DiskStorage(directory)
    try:
        _prepare(storage)
        lock = storage.lock(LOCK_PATH)
    except LockHeld as held:
        who = ", ".join(str(pid) for pid in held.pids) or "unknown"
        raise JournalLocked(
            f"{storage.name}: process {who} writes this journal; wait for it, stop it, or use another directory", held.pids
        ) from None
    except OSError as error:
        raise live.failure(error, f"opening {storage.name}") from error
    try:
        return Log(storage, lock, sync, sync_interval, clock)
    except BaseException as error:
        lock.release()
        if isinstance(error, OSError):
            raise live.failure(error, f"opening {storage.name}") from error
        raise


def _prepare(storage: Storage) -> None:
    """Refuse a directory that holds something else before anything is made in it."""
    if not storage.exists(MANIFEST_PATH):
        names = set(storage.list(""))
        strange = names - {LOCK_PATH, "segments", MANIFEST_PATH + ".tmp"}
        if strange:
            raise NotAJournal(
                f"{storage.name}: not a journal, and not empty ({', '.join(sorted(strange)[:3])} …); "
                "give a new or empty directory"
            )
    storage.make_directory("")


class Log:
    """An open journal, for writing. Made by `journal.open`; a context manager, that closes.

    Thread-safe. After a failed write or sync every call raises `JournalFailed`: open the journal again to recover.
    """

    recovered: Recovered

    def __init__(self, storage: Storage, lock: Lock, sync: Sync, sync_interval: float, clock: Clock) -> None:
        from journal.recovery import recover  # It needs numpy, which `import journal` does not.

        self.storage = storage
        self._file_lock = lock
        self.time_ns = clock.time_ns
        self._monotonic = clock.monotonic
        if storage.exists(MANIFEST_PATH) or storage.list("segments"):
            manifest = Manifest.read(storage)
        else:
            storage.make_directory("segments")
            manifest = Manifest.new(os.urandom(16))
            manifest.write(storage)
        self.recovered, manifest, base = recover(storage, manifest, clock.time_ns())
        self.journal_id = manifest.journal_id
        self.context: Context = base.context
        self._always = sync == "always"
        self._spares = live.Spares(
            storage, manifest.journal_id, base.ordinal, mapped=not self._always, clock=clock.time_ns
        )
        self.lock = Mutex()
        self._failure: BaseException | None = None
        self._closed = False
        self._switch: tuple[live.LiveSegment, int] | None = None
        self.left: list[tuple[live.LiveSegment, int, int]] = []
        """Segments that were filled and wait for their seal: (segment, its end in bytes, the next seq), oldest first."""
        self._seq = self._seq_opened = base.seq
        self._names = len(self.context.names)
        segment = self._spares.take(0)
        self._segment = segment
        self._load(segment, segment.begin(self.context, base.seq, base.position, clock.time_ns()))
        receipt = Receipt(base.seq - 1, base.chain.hex(), base.position)
        self._commit = Commit(self, manifest, segment, base.chain, receipt)
        self._commit.start(None if sync == "close" else sync_interval)
        _OPENED.add(self)

    # -- appending ---------------------------------------------------------------------------------------------------

    def reward(
        self,
        agent: int,
        episode: int,
        step: int,
        value: float,
        env_index: int = 0,
        flags: int = 0,
    ) -> int:
        """Record one reward: one cell. Returns its seq; the event survives the process from then on.

        `agent` is the number that `agent()` gave; `flags` is 1 in the eval phase. Which values are taken is told at
        `journal.events.as_reward`. Raises `EventRejected`, `JournalClosed`, `JournalFailed`, `DiskFull`; then nothing
        was recorded.
        """
        if type(value) is not float:
            value = events.as_reward(value)
        with self.lock:
            offset = self._offset
            if offset >= self._limit:
                offset = self._room(CELL)
            seq = self._seq
            try:
                if not 0 < agent <= self._names:
                    raise EventRejected(_unknown_agent(agent))
                body = _pack_body(
                    cell.REWARDED, 0, seq, self.time_ns(), 0, flags, 0, 0, agent, env_index, episode, step, value
                )
                self._put(
                    self._buffer, offset, crc32c(body, self._salt) ^ ((self._base + (offset >> 6)) & 0xFFFFFFFF), body
                )
                self._offset = offset + 64
                self._seq = seq + 1
            except BaseException as error:
                self._unwind(error, offset, seq, 1, CELL)
                raise
        if self._always:
            self._reach(offset + CELL)
        return seq

    def rewards(
        self,
        agent: int,
        episodes: Any,
        steps: Any,
        values: Any,
        env_indices: Any = 0,
        flags: int = 0,
    ) -> int:
        """Record n rewards in one batch: arrays of shape (n,), or scalars that hold for all; `values` decides n.

        Takes n seqs, returns the first. All of them survive the process when it returns, or none was recorded.
        Raises as `reward` does.
        """
        from journal import batch

        real = batch.as_values(values)
        count = len(real)
        if not count:
            return self._seq
        columns = [
            batch.as_column(given, count, what)
            for given, what in ((episodes, "episodes"), (steps, "steps"), (env_indices, "env_indices"))
        ]
        first = None
        for start in range(0, count, batch.COUNT_MAX):
            stop = start + batch.COUNT_MAX
            part = [c if isinstance(c, int) else c[start:stop] for c in columns]
            packed = batch.pack(part[0], part[1], part[2], real[start:stop])
            seq = self._append_cell(
                cell.REWARDS,
                packed.payload,
                flags=flags,
                form=packed.form,
                agent=agent,
                env_index=packed.env_index,
                episode=packed.episode,
                step=packed.step,
                # The count takes the place of the value: the same 8 bytes.
                value=_as_double(packed.count),
                takes=packed.count,
            )
            first = seq if first is None else first
        assert first is not None
        return first

    def append(self, event: Event) -> int:
        """Record one event. Returns its seq; the event survives the process from then on (`sync="always"`: a power cut).

        Raises `EventRejected` for one that contradicts the log (a second open episode of one sub-environment, the end of
        an episode that is not open), else as `reward` does; then nothing was recorded.
        """
        number = 0 if getattr(event, "agent", None) is None else self.agent(event.agent)  # type: ignore[attr-defined]
        form = self._number(event.metric) if isinstance(event, events.MetricLogged) else 0
        if form > 0xFFFF:
            raise EventRejected("the journal has 65,535 names already: log more than one number under one metric name")
        payload = events.payload_of(event)
        flags = cell.EVAL if getattr(event, "phase", "train") == "eval" else 0
        value = getattr(event, "value", 0.0)
        if isinstance(event, (events.EpisodeStarted, events.EpisodeEnded)):
            value = self._monotonic() if event.monotonic is None else event.monotonic
        return self._append_cell(
            event.kind,
            payload,
            flags=flags,
            form=form,
            agent=number,
            env_index=getattr(event, "env_index", 0),
            episode=getattr(event, "episode", 0),
            step=getattr(event, "step", 0),
            value=value,
            event=event,
        )

    def agent(self, name: str) -> int:
        """The number of an agent in this journal, for `reward` and `rewards`; a new name gets one.

        Raises `EventRejected` for what cannot be a name.
        """
        return self._number(name)

    def _number(self, name: str) -> int:
        number = self.context.numbers.get(name)
        if number is not None:
            return number
        events.check_name(name, "name")
        given = events.NameGiven(name=name, number=len(self.context.names) + 1)
        self._append_cell(given.kind, events.payload_of(given), event=given)
        return self.context.numbers[name]

    def _append_cell(
        self,
        kind: int,
        payload: bytes,
        *,
        flags: int = 0,
        form: int = 0,
        agent: int = 0,
        env_index: int = 0,
        episode: int = 0,
        step: int = 0,
        value: float = 0.0,
        takes: int = 1,
        event: Event | None = None,
    ) -> int:
        length = len(payload)
        extent, pad = cell.extent_of(length)
        needed = CELL + extent * CELL
        with self.lock:
            if isinstance(event, events.NameGiven) and event.name in self.context.numbers:
                return self._seq  # Another thread was quicker.
            self._contradiction(event, kind, flags, agent, env_index, episode)
            offset = self._offset
            if offset >= self._limit or offset + needed > self._segment.limit:
                offset = self._room(needed, closing=kind in _CLOSING)
            seq = self._seq
            try:
                if agent > self._names or (kind == cell.REWARDS and agent < 1):
                    raise EventRejected(_unknown_agent(agent))
                position = self._base + (offset >> 6)
                payload_crc = cell.checksum(payload, self._salt, position) if length else 0
                body = _pack_body(
                    kind,
                    extent,
                    seq,
                    self.time_ns(),
                    pad,
                    flags,
                    form,
                    payload_crc,
                    agent,
                    env_index,
                    episode,
                    step,
                    value,
                )
                if length:
                    self._segment.write(offset + CELL, payload)
                self._put(self._buffer, offset, cell.checksum(body, self._salt, position), body)
                self._offset = offset + needed
                self._seq = seq + takes
                self._took_in(event, flags, agent, env_index, episode)
            except BaseException as error:
                if self._unwind(error, offset, seq, takes, needed):
                    self._took_in(event, flags, agent, env_index, episode)
                raise
        if self._always:
            self._reach(offset + needed)
        return seq

    def _contradiction(
        self, event: Event | None, kind: int, flags: int, agent: int, env_index: int, episode: int
    ) -> None:
        if kind not in (cell.EPISODE_STARTED, cell.EPISODE_ENDED):
            return
        open_episode = self.context.episodes.get((agent, flags & 1, env_index))
        who = f"{self.context.name(agent)}, env {env_index}"
        if kind == cell.EPISODE_STARTED and open_episode is not None:
            raise EventRejected(
                f"episode {episode} of {who} cannot start: episode {open_episode} is open there; end it first"
            )
        if kind == cell.EPISODE_ENDED and open_episode != episode:
            what = "no episode is open" if open_episode is None else f"episode {open_episode} is the open one"
            raise EventRejected(f"episode {episode} of {who} cannot end: {what} there")

    def _took_in(self, event: Event | None, flags: int, agent: int, env_index: int, episode: int) -> None:
        """The context follows what is in the log. Doing it twice changes nothing."""
        if event is not None:
            fields = {name: getattr(event, name, None) for name in ("name", "run", "attempt", "members")}
            self.context.apply(event.kind, flags, agent, env_index, episode, fields)
            self._names = len(self.context.names)

    def _unwind(self, error: BaseException, offset: int, seq: int, takes: int, needed: int) -> bool:
        """An append was interrupted: count the event if its cell is there whole, else leave zeros. Was it counted?

        A further Ctrl-C in here is dropped: the first one is on its way to the caller already.
        """
        while True:
            try:
                if self._failure is not None or self._closed:
                    return False
                raw = bytes(self._segment.read(offset, CELL))
                crc = int.from_bytes(raw[:4], "little")
                if any(raw) and crc == cell.checksum(raw[4:], self._salt, self._base + (offset >> 6)):
                    self._offset = offset + needed
                    self._seq = seq + takes
                    return True
                self._segment.write(offset, bytes(needed))
                self._offset = offset
                self._seq = seq
                break
            except KeyboardInterrupt:
                continue
            except OSError as failed:
                self.poison(failed)
                break
        if isinstance(error, (struct.error, TypeError, OverflowError)):
            raise EventRejected(
                f"the event does not fit a cell: {error}; agent, episode, step and env_index are integers of 0 or more"
            ) from error
        if isinstance(error, OSError):
            self.poison(error)
            raise live.failure(error, "writing to the log") from error
        return False

    # -- segments ----------------------------------------------------------------------------------------------------

    def _room(self, needed: int, *, closing: bool = False) -> int:
        """Make room for `needed` bytes of cells; returns the offset. The lock is held."""
        self._usable()
        if self._switch is not None:
            self._enter()
        if self._offset + needed <= self._segment.limit:
            return self._offset
        try:
            spare = self._spares.take(needed)
        except JournalFailed as error:
            if closing and self._offset + needed <= self._segment.seal_at:
                return self._offset  # What the reserve is for.
            if not isinstance(error, live.DiskFull):
                self.poison(error)
            raise
        # The seal of the segment we leave takes the cell at `_offset`; the next one begins behind it.
        following = self._segment.index_of(self._offset) + 1
        self._switch = (spare, spare.begin(self.context, self._seq, following, self.time_ns()))
        self._enter()
        return self._offset

    def _enter(self) -> None:
        """Go on in the segment that `_switch` names. Safe to repeat after an interrupt in its middle."""
        assert self._switch is not None
        segment, start = self._switch
        self._limit = 0  # Until all below is set, every append comes through `_room`.
        if self._segment is not segment:
            if not any(left is self._segment for left, _, _ in self.left):
                self.left.append((self._segment, self._offset, self._seq))
            self._segment = segment
        self._load(segment, start)
        self._switch = None
        self._commit.rotated()

    def _load(self, segment: live.LiveSegment, offset: int) -> None:
        """Unpack what the fast path needs; `_limit` last."""
        self._buffer = segment.buffer
        self._put = segment.put
        self._salt = segment.header.salt
        self._base = segment.position - 1
        self._offset = offset
        self._limit = segment.limit

    # -- promises ----------------------------------------------------------------------------------------------------

    def sync(self) -> Receipt:
        """Promise everything appended before: events and receipt survive a power cut when it returns."""
        self._usable()
        with self.lock:
            segment, offset, seq = self.tail_locked()
        position = segment.index_of(offset)
        while self._commit.receipt.seq < seq - 1:
            self._commit.reach(position)
        receipt = self._commit.settle()
        self._usable()
        return receipt

    @property
    def promised(self) -> Receipt:
        """The last promise made, without forcing one."""
        return self._commit.receipt

    def _reach(self, offset: int) -> None:
        with self.lock:
            self._usable()
        self._commit.reach(self._base + (offset >> 6))
        self._usable()

    # -- for Commit --------------------------------------------------------------------------------------------------

    def tail(self) -> tuple[live.LiveSegment, int, int]:
        """(segment, its end in bytes, next seq), as of now."""
        with self.lock:
            return self.tail_locked()

    def tail_locked(self) -> tuple[live.LiveSegment, int, int]:
        """The same, for who holds the lock."""
        if self._switch is not None:
            self._enter()
        return self._segment, self._offset, self._seq

    def mark_locked(self, mark: bytes) -> None:
        """Append a receipt; the lock is held and there is room."""
        offset, seq = self._offset, self._seq
        try:
            self._segment.write(offset, mark)
            self._offset = offset + CELL
        except BaseException as error:
            self._unwind(error, offset, seq, 0, CELL)
            raise

    def following(self, segment: live.LiveSegment) -> live.LiveSegment:
        """The segment that was entered after this one; itself, for the last."""
        order = [left for left, _, _ in self.left] + [self._segment]
        return order[min(order.index(segment) + 1, len(order) - 1)]

    def poison(self, error: BaseException) -> None:
        """Something failed that cannot be taken back: from now on every call raises `JournalFailed`."""
        if self._failure is None:
            self._failure = error
        self._limit = -1

    # -- the end -----------------------------------------------------------------------------------------------------

    def _usable(self) -> None:
        if self._closed:
            raise JournalClosed(f"{self.storage.name}: this log is closed; open the journal again")
        if self._failure is not None:
            if isinstance(self._failure, JournalError):
                raise self._failure
            raise JournalFailed(
                f"{self.storage.name}: the log failed ({self._failure!r}); what was promised is safe: "
                "open the journal again"
            ) from self._failure

    @property
    def closed(self) -> bool:
        """Was it closed?"""
        return self._closed

    @property
    def mapped(self) -> bool:
        """Are events stored through a map (else by pwrite)?"""
        return self._segment.mapped

    def close(self) -> None:
        """Promise everything, seal the segment, let go of the lock. Closing twice is fine.

        Raises `JournalFailed` where the last sync fails; then the journal is to be recovered by opening it again.
        """
        if self._closed:
            return
        try:
            self._commit.stop()
            self._spares.stop()
            if self._failure is None:
                with self.lock:
                    segment, _, seq = self.tail_locked()
                    self._limit = -1
                if seq == self._seq_opened:
                    self._discard(segment)
                else:
                    self._commit.close()
            self._usable()
        finally:
            self._let_go()

    def _discard(self, segment: live.LiveSegment) -> None:
        """Nothing was appended: leave no trace."""
        listed = tuple(o for o in self._commit.manifest.segments if o != segment.header.ordinal)
        try:
            if listed != self._commit.manifest.segments:
                self._commit.manifest.with_segments(listed).write(self.storage)
            self.storage.remove(segment.path)
        except OSError as error:
            raise live.failure(error, f"closing {self.storage.name}") from error

    def _let_go(self) -> None:
        self._closed = True
        self._limit = -1
        _OPENED.discard(self)
        for segment in [*(left for left, _, _ in self.left), self._segment]:
            segment.file.close()
        self._file_lock.release()

    def _forked(self) -> None:
        """In a forked child: the log is the parent's. Drop lock and map at once."""
        self.lock = Mutex()
        self._closed = True
        self._limit = -1
        self._file_lock.drop()
        self._spares.abandon()
        for segment in [*(left for left, _, _ in self.left), self._segment]:
            segment.file.close()
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


def _unknown_agent(agent: object) -> str:
    return f"agent is {agent!r:.80}: give the number that log.agent(name) returned"


def _as_double(count: int) -> float:
    return float(struct.unpack("<d", struct.pack("<Q", count))[0])


_pack_body: Callable[..., bytes] = cell.BODY.pack


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
