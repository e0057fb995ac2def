"""Any `File` as a Python file object for writing, for libraries that write by themselves."""

from __future__ import annotations

import io
from typing import IO, Protocol, cast

from journal.storage import Buffer, File


class Writable(Protocol):
    """What a stream needs of a file."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`."""


class _Stream(io.RawIOBase):
    def __init__(self, file: Writable, owned: File | None) -> None:
        self._file = file
        self._owned = owned
        self._at = self._end = 0

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = offset + (0, self._at, self._end)[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: Buffer) -> int:  # type: ignore[override]
        length = memoryview(data).nbytes
        self._file.write(self._at, bytes(data))
        self._at += length
        self._end = max(self._end, self._at)
        return length

    def close(self) -> None:
        if not self.closed:
            try:
                super().close()
                if self._owned is not None:
                    self._owned.sync()
            finally:
                if self._owned is not None:
                    self._owned.close()


def buffered(file: File) -> IO[bytes]:
    """A buffered stream; close syncs and closes the file."""
    return io.BufferedWriter(cast(io.RawIOBase, _Stream(file, file)))


def lent(file: Writable) -> IO[bytes]:
    """The same; its close leaves the file open, and unsynced."""
    return io.BufferedWriter(cast(io.RawIOBase, _Stream(file, None)))
