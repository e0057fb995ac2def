"""One segment while it is written: through a map or by pwrite, the same bytes and the same promise; and the next, ready.

A store into the map is in the kernel's page cache when it returns, as after pwrite, but costs no system call.
"""

from __future__ import annotations

import errno
import os
import threading
import warnings
from collections.abc import Callable
from typing import Any, Final

from journal import cell, segment
from journal.cell import CELL
from journal.context import Context
from journal.errors import DiskFull, JournalFailed
from journal.storage import File, Storage

_PWRITE_FROM: Final = 16 << 10
"""Bytes: a larger payload is written by pwrite also where the segment is mapped; page faults cost more than the call."""
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class LiveSegment:
    """A segment of this writer. `put(buffer, offset, crc, body)` publishes one cell; `offset` counts bytes of the file."""

    def __init__(self, file: File, header: segment.Header, *, mapped: bool) -> None:
        self.file = file
        self.header = header
        self.path = segment.path_of(header.ordinal)
        self.position = 0
        self.end = 0
        """Bytes of the file up to which it was filled; set when the writer has gone on to the next."""
        view = file.map() if mapped else None
        self.mapped = view is not None
        self.buffer: Any = file if view is None else view
        self.put: Callable[[Any, int, int, bytes], None] = _pwrite_cell if view is None else cell.PUBLISH.pack_into

    @property
    def limit(self) -> int:
        """Bytes that ordinary events may fill; behind it lie the reserve and the seal."""
        return self.header.size - segment.RESERVE

    @property
    def seal_at(self) -> int:
        """The last byte offset at which a cell other than the seal may end."""
        return self.header.size - CELL

    def begin(self, context: Context, seq: int, position: int, time_ns: int) -> int:
        """Write the segment opened mark; returns the offset after it. Repeated after an interrupt, it starts anew."""
        self.position = position
        mark = segment.opened(context, seq, time_ns, salt=self.header.salt, position=position)
        self.write(CELL + CELL, mark[CELL:])
        self.write(CELL, mark[:CELL])
        return CELL + len(mark)

    def write(self, offset: int, data: bytes) -> None:
        """Store `data` at `offset`."""
        if self.mapped and len(data) < _PWRITE_FROM:
            self.buffer[offset : offset + len(data)] = data
        else:
            self.file.write(offset, data)

    def read(self, offset: int, length: int) -> bytes | memoryview:
        """The bytes written; the hash's source."""
        if self.mapped:
            return memoryview(self.buffer)[offset : offset + length]
        return self.file.read(offset, length)

    def index_of(self, offset: int) -> int:
        """The position of the cell at a byte offset."""
        return self.position + offset // CELL - 1


def _pwrite_cell(file: File, offset: int, crc: int, body: bytes) -> None:
    file.write(offset, cell.PUBLISH.pack(crc, body))


def create(storage: Storage, header: segment.Header, *, mapped: bool, zeros: bool = True) -> LiveSegment:
    """Make a segment's file: temp, space, header, fsync, rename, fsync directory. Raises `OSError`."""
    path = segment.path_of(header.ordinal)
    temporary = f"{path}.tmp"
    file = storage.create(temporary, header.size, zeros=zeros)
    try:
        file.write(0, header.pack())
        file.sync()
        storage.rename(temporary, path)
        storage.sync_directory(segment.DIRECTORY)
        return LiveSegment(file, header, mapped=mapped)
    except BaseException:
        file.close()
        _remove(storage, temporary)
        raise


def no_space(error: OSError) -> bool:
    """Is the disk (or the quota, or the inodes) full?"""
    return error.errno in _NO_SPACE


def failure(error: OSError, doing: str) -> JournalFailed:
    """The journal's error for a system's error."""
    if no_space(error):
        return DiskFull(f"no space left while {doing}: nothing recorded was lost; free some space and go on")
    return JournalFailed(
        f"{doing} failed: {error.strerror or error}; what was promised is safe, nothing more is promised: "
        "mend the disk and open the journal again"
    )


class Spares:
    """Keeps the next segment ready, in a thread of its own, so that a rotation needs no system call."""

    def __init__(
        self, storage: Storage, journal_id: bytes, ordinal: int, *, mapped: bool, clock: Callable[[], int]
    ) -> None:
        self._storage = storage
        self._journal_id = journal_id
        self._ordinal = ordinal
        self._mapped = mapped
        self._clock = clock
        self._size = segment.SIZE_MIN
        self._zeros = True
        self._spare: LiveSegment | None = None
        self._error: OSError | None = None
        self._warned = False
        self._stopped = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def take(self, needed: int) -> LiveSegment:
        """A segment with room for `needed` bytes of cells. Waits for the disk; raises `DiskFull` or `JournalFailed`."""
        with self._changed:
            if self._thread is not None:
                if self._spare is None and self._error is None:
                    self._zeros = False  # The writer outruns the disk: from here on, only allocate.
                while self._spare is None and self._error is None:
                    self._changed.wait()
            spare, self._spare = self._spare, None
            if spare is not None and spare.limit - needed < 2 * CELL + CELL * cell.EXTENT_MAX // 64:
                if spare.limit < needed + (1 << 16):
                    self._drop(spare)
                    spare = None
            if spare is None:
                if self._error is not None:
                    raise failure(self._error, f"preparing segment {self._ordinal}")
                spare = self._make(needed)
            self._ordinal = spare.header.ordinal + 1
            self._size = min(max(self._size, 1) * 2, segment.SIZE_MAX)
            if self._thread is None and not self._stopped:
                self._thread = threading.Thread(target=self._keep_ready, name="journal-spare", daemon=True)
                self._thread.start()
            self._changed.notify_all()
            return spare

    def stop(self) -> None:
        """End the thread and remove the unused spare."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        if self._spare is not None:
            self._drop(self._spare)
            self._spare = None

    def abandon(self) -> None:
        """In a forked child: forget the spare; it is the parent's."""
        self._stopped = True
        if self._spare is not None:
            self._spare.file.close()
            self._spare = None

    def _make(self, needed: int = 0) -> LiveSegment:
        size = max(self._size, -(-(needed + segment.RESERVE + (1 << 17)) // CELL) * CELL)
        header = segment.Header(
            self._journal_id, self._ordinal, int.from_bytes(os.urandom(4), "little"), size, self._clock()
        )
        try:
            return create(self._storage, header, mapped=self._mapped, zeros=self._zeros)
        except OSError as error:
            raise failure(error, f"preparing segment {self._ordinal}") from error

    def _drop(self, spare: LiveSegment) -> None:
        spare.file.close()
        _remove(self._storage, spare.path)

    def _keep_ready(self) -> None:
        while True:
            with self._changed:
                while self._spare is not None and not self._stopped:
                    self._changed.wait()
                if self._stopped:
                    return
            try:
                spare, error = self._make(), None
            except JournalFailed as failed:
                spare, error = None, failed.__cause__
            with self._changed:
                self._spare = spare
                self._error = error if isinstance(error, OSError) else None
                self._changed.notify_all()
                if error is not None:
                    if not self._warned:
                        self._warned = True
                        warnings.warn(
                            f"{self._storage.name}: the next segment cannot be prepared ({error}); recording goes on "
                            "in this one, and it is tried again each second: free some space",
                            RuntimeWarning,
                            stacklevel=2,
                        )
                    self._changed.wait(1.0)


def _remove(storage: Storage, path: str) -> None:
    try:
        storage.remove(path)
    except OSError:
        pass  # Recovery removes spares and temp files; the first error is what counts.
