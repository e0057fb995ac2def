"""One segment while it is written, through a map or by pwrite: the same bytes, the same promise. And the next, ready.

A store into the map is in the kernel's page cache when it returns, as after pwrite, but costs no system call. Where
each event is synced before its caller goes on, writes are gathered until then.
"""

from __future__ import annotations

import errno
import warnings
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, Final

from journal import cell, segment
from journal.cell import CELL
from journal.errors import DiskFull, JournalFailed
from journal.storage import File, Storage
from journal.storage.gathered import GatheredFile
from journal.worker import Worker, wait

PWRITE_FROM: Final = 16 << 10
"""Bytes: a larger payload is written by pwrite also into a mapped segment; page faults cost more than the call."""
_RETRY: Final = 1.0
"""Seconds until a spare that could not be prepared is tried again."""
_POLL: Final = 0.05
"""Seconds between two looks for the spare: an interrupt may swallow the wake-up."""
_REST: Final = 16
"""A spare that lay ready for that many times what preparing it took: the writer does not outrun the disk any more."""
_SHARE: Final = 4
"""A segment takes at most this part of the free space, unless it is one of the smallest."""
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class LiveSegment:
    """A segment of this writer. `put(buffer, offset, crc, body)` publishes a cell at a byte offset of the file."""

    def __init__(self, file: File, header: segment.Header, *, gathered: bool) -> None:
        """`gathered`: nothing that is written need survive the process before the next sync."""
        self.file: File = GatheredFile(file) if gathered else file
        self.header = header
        self.path = segment.path_of(header.ordinal)
        self.limit = header.size - segment.RESERVE
        """Bytes that ordinary events may fill; behind it lie the reserve and the seal."""
        self.position = 0
        self._begun = 0
        view = self.file.map()
        self.mapped = view is not None
        self.buffer: Any = self.file if view is None else view
        self.put: Callable[[Any, int, int, bytes], None] = pwrite if view is None else cell.PUBLISH.pack_into

    @property
    def room(self) -> int:
        """Bytes of cells that fit before the reserve, in a new segment."""
        return self.limit - CELL

    @property
    def seal_at(self) -> int:
        """The last byte offset at which a cell other than the seal may end."""
        return self.header.size - CELL

    def begin(self, content: bytes, seq: int, position: int, time_ns: int) -> int:
        """Write the segment opened mark; returns the offset after it. Repeated after an interrupt, it starts anew."""
        mark = segment.opened(content, seq, time_ns, salt=self.header.salt, position=position)
        self.position = position
        self._begun, stale = len(mark), self._begun
        if stale > len(mark):
            self.write(CELL + len(mark), bytes(stale - len(mark)))
        self.write(CELL + CELL, mark[CELL:])
        self.write(CELL, mark[:CELL])
        return CELL + len(mark)

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`."""
        if self.mapped and len(data) < PWRITE_FROM:
            self.buffer[offset : offset + len(data)] = data
        else:
            self.file.write(offset, data)

    def hasten(self, offset: int, length: int) -> None:
        """A sync of these bytes is near. Not through a map: a page on its way to the disk has to be made writable."""
        if not self.mapped:
            self.file.hasten(offset, length)

    def publish(self, offset: int, head: bytes, behind: bytes) -> None:
        """Store what stands behind a head at `offset`, and then the head, which publishes all of it."""
        if self.mapped and len(behind) < PWRITE_FROM:
            start = offset + CELL
            self.buffer[start : start + len(behind)] = behind
            self.buffer[offset:start] = head
        else:
            # Behind what was written, the map would have to fault the head's page in first.
            self.file.write(offset + CELL, behind)
            self.file.write(offset, head)

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """The bytes written; the hash's source."""
        if self.mapped:
            return memoryview(self.buffer)[offset : offset + length]
        return self.file.read(offset, length)

    def index_of(self, offset: int) -> int:
        """The position of the cell at a byte offset."""
        return self.position + offset // CELL - 1


def pwrite(file: File, offset: int, crc: int, body: bytes) -> None:
    """Publish a cell by a write."""
    file.write(offset, cell.PUBLISH.pack(crc, body))


def create(storage: Storage, header: segment.Header, *, gathered: bool, zeros: bool = True) -> LiveSegment:
    """Make a segment's file: temp, space, header, fsync, rename, fsync directory. Raises `OSError`."""
    path = segment.path_of(header.ordinal)
    temporary = f"{path}.tmp"
    file = storage.create(temporary, header.size, zeros=zeros)
    try:
        file.write(0, header.pack())
        file.sync()
        storage.rename(temporary, path)
        storage.sync_directory(segment.DIRECTORY)
        return LiveSegment(file, header, gathered=gathered)
    except BaseException:
        file.close()
        _remove(storage, temporary)
        raise


def no_space(error: OSError) -> bool:
    """Is the disk (or the quota, or the inodes) full?"""
    return error.errno in _NO_SPACE


def by_system(error: BaseException) -> bool:
    """Did the system raise it? A signal's handler may raise `TimeoutError`, which is an `OSError` without a number."""
    return isinstance(error, OSError) and error.errno is not None


def failure(error: OSError, doing: str) -> JournalFailed:
    """The journal's error for a system's error."""
    if no_space(error):
        return DiskFull(f"no space left while {doing}: nothing recorded was lost; free some space and go on")
    return JournalFailed(
        f"{doing} failed: {error.strerror or error}; what was promised is safe, nothing more is promised: "
        "remove the cause and open the journal again"
    )


class Spares:
    """Keeps the next segment ready, in a thread of its own, so that a rotation needs no system call.

    The writer's side (`take`, `entered`) is called under the log's lock; Ctrl-C may interrupt it at any instant. While
    `_preparing` the spare is the thread's, else the writer's.
    """

    def __init__(
        self,
        storage: Storage,
        journal_id: bytes,
        ordinal: int,
        *,
        gathered: bool,
        clock: Callable[[], int],
        entropy: Callable[[int], bytes],
    ) -> None:
        self._storage = storage
        self._journal_id = journal_id
        self._ordinal = ordinal
        self._gathered = gathered
        self._clock = clock
        self._entropy = entropy
        self._size = segment.SIZE_MIN
        self._zeros = True
        """Write them, so that what is stored later costs less to sync; else space is only allocated, which is quick."""
        self._began = self._prepared = clock()
        """When the thread began with the last spare, and had it ready."""
        self._spare: LiveSegment | None = None
        self._error: OSError | None = None
        self._preparing = False
        self._warned = False
        self._stopped = False
        self._wanted: SimpleQueue[None] = SimpleQueue()
        self._ready: SimpleQueue[None] = SimpleQueue()
        self._worker = Worker("journal-spare", self._keep_ready)

    def start(self) -> None:
        """Begin to prepare."""
        self._worker.start()

    def take(self, needed: int) -> LiveSegment:
        """A segment with room for `needed` bytes of cells; the same again, until `entered` says that it is in use.

        Waits for the disk; raises `DiskFull` or `JournalFailed`.
        """
        if not self._preparing and self._clock() - self._prepared > _REST * (self._prepared - self._began):
            self._zeros = True
        while self._preparing and self._worker.running:
            if self._error is not None:
                raise failure(self._error, f"preparing segment {self._ordinal}") from self._error
            self._zeros = False  # The writer outruns the disk.
            wait(self._ready, _POLL)
        spare = self._spare
        if spare is not None and spare.room < needed:
            self._spare = None
            self._drop(spare)
        if self._spare is None:
            try:
                self._spare = self._make(needed)
            except OSError as error:
                raise failure(error, f"preparing segment {self._ordinal}") from error
        return self._spare

    def entered(self, taken: LiveSegment) -> None:
        """The writer goes on in `taken`: prepare the one after it. Safe to repeat."""
        if self._spare is taken:
            self._ordinal = taken.header.ordinal + 1
            self._size = min(2 * taken.header.size, segment.SIZE_MAX)
            self._preparing, self._spare = True, None
        self._wanted.put(None)

    def stop(self) -> None:
        """End the thread."""
        self._stopped = True
        self._wanted.put(None)
        self._worker.wait()

    def discard(self) -> None:
        """Remove the unused spare; the thread has ended."""
        spare, self._spare = self._spare, None
        if spare is not None:
            self._drop(spare)

    @property
    def running(self) -> bool:
        """Is the thread at work? Then a segment may still appear."""
        return self._worker.running

    @property
    def ready(self) -> bool:
        """Is the next segment at hand?"""
        return not self._preparing and self._spare is not None

    def abandon(self) -> None:
        """In a forked child: forget the spare; it is the parent's."""
        if self._spare is not None:
            self._spare.file.close()
            self._spare = None

    def _make(self, needed: int = 0) -> LiveSegment:
        smallest = CELL + needed + segment.RESERVE
        salt = int.from_bytes(self._entropy(4), "little")
        # Made ahead of need, it is not to take the room that a checkpoint or a snapshot may need before.
        share = self._storage.free() // _SHARE // segment.SIZE_MIN * segment.SIZE_MIN
        self._size = max(min(self._size, share), segment.SIZE_MIN)
        while True:
            size = max(self._size, smallest)
            header = segment.Header(self._journal_id, self._ordinal, salt, size, self._clock())
            try:
                return create(self._storage, header, gathered=self._gathered, zeros=self._zeros)
            except OSError as error:
                if not no_space(error) or size <= max(segment.SIZE_MIN, smallest):
                    raise
                self._size = segment.SIZE_MIN  # The rest of the disk may still hold a small one.

    def _drop(self, spare: LiveSegment) -> None:
        spare.file.close()
        _remove(self._storage, spare.path)

    def _keep_ready(self) -> None:
        while not self._stopped:
            if not self._preparing:
                wait(self._wanted, None)
                continue
            try:
                self._began = self._clock()
                self._spare, self._error = self._make(), None
                self._prepared = self._clock()
                self._preparing = False
                self._ready.put(None)
            except OSError as error:
                self._error = error
                self._ready.put(None)
                self._warn(error)
                wait(self._wanted, _RETRY)

    def _warn(self, error: OSError) -> None:
        if self._warned:
            return
        self._warned = True
        try:
            warnings.warn(
                f"{self._storage.name}: the next segment cannot be prepared ({error}); recording goes on in this one, "
                "and it is tried again each second: free some space",
                RuntimeWarning,
                stacklevel=2,
            )
        except RuntimeWarning:
            pass  # The user's filter makes it an error; in this thread there is nobody to catch it.


def _remove(storage: Storage, path: str) -> None:
    try:
        storage.remove(path)
    except OSError:
        pass  # Recovery removes spares and temp files; the first error is what counts.
