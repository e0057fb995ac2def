"""Bare calls: the least that anybody could write by hand, without lock, clock, checksum or log: limits to measure by.

They write, so they are behind the door; nothing else here uses them. A file of bounded size is written over and over.
"""

from __future__ import annotations

import os
from struct import Struct
from typing import Final

from journal.storage import Buffer
from journal.storage.disk import DiskStorage

RECORD: Final = Struct("<QIIQQd24x")
"""What a hand-written log would keep of a reward, in 64 bytes as a cell: seq, agent, env, episode, step, value."""


class BareFile:
    """One file of `size` bytes in `storage`, all zero and with its blocks written, as a segment is; a context manager.

    Each call records one thing and is in the page cache (with `synced`, on disk) when it returns.
    """

    def __init__(self, storage: DiskStorage, path: str, size: int) -> None:
        self._file = storage.create(path, size)
        self._file.sync()  # The first sync of new blocks writes the file's metadata too: that is not what is asked.
        view = self._file.map()
        # Where a file system is not to be mapped, the limit of memory is a store into memory.
        self._view = memoryview(bytearray(size)) if view is None else view
        self._size = size
        self._at = 0

    def __enter__(self) -> BareFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._view = memoryview(b"")
        self._file.close()

    def store(self, agent: int, episode: int, step: int, value: float) -> None:
        """Pack a record into the mapped file: no system call."""
        at = self._at
        if at + RECORD.size > self._size:
            at = 0
        RECORD.pack_into(self._view, at, step, agent, 0, episode, step, value)
        self._at = at + RECORD.size

    def pwrite(self, agent: int, episode: int, step: int, value: float) -> None:
        """Pack a record, give it to the system, and wait until it is on disk."""
        self.pwrite_array(RECORD.pack(step, agent, 0, episode, step, value))

    def pwrite_array(self, data: Buffer) -> None:
        """Give the bytes to the system, and wait until they are on disk."""
        at, size = self._at, len(data)
        if at + size > self._size:
            at = 0
        self._file.write(at, data)
        self._file.sync()
        self._at = at + size


class GrowingFile:
    """A file that grows with each write, as one opened for appending does; a context manager."""

    def __init__(self, storage: DiskStorage, path: str) -> None:
        self._stream = storage.stream(path)
        self._fd = self._stream.fileno()

    def __enter__(self) -> GrowingFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()

    def records(self, agent: int, episode: int, steps: range, values: list[float]) -> None:
        """`struct` + `os.write`, once for each: the loop is here, so that not even a method is called in between."""
        fd, pack, write = self._fd, RECORD.pack, os.write
        for step, value in zip(steps, values, strict=False):
            write(fd, pack(step, agent, 0, episode, step, value))

    def write(self, data: Buffer) -> None:
        """One `os.write`."""
        os.write(self._fd, data)

    def sync(self) -> None:
        """`os.fdatasync`."""
        os.fdatasync(self._fd)

    def empty(self) -> None:
        """Begin anew."""
        os.ftruncate(self._fd, 0)
        os.lseek(self._fd, 0, os.SEEK_SET)
