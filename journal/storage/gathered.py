"""A file whose writes wait in memory for its next sync, which gives the system all of them at once.

For `sync="always"`, where nobody is told of an event before it is synced: until then it need not survive the process.
One write then brings the events of all threads that came together, and the receipt of the sync before; and what is to
be hashed need not be read back.
"""

from __future__ import annotations

from operator import itemgetter
from typing import Final

from journal.storage import Buffer, File

_Part = tuple[int, bytes]
_offset: Final = itemgetter(0)
_NOTHING: Final[tuple[list[_Part], tuple[int, bytes] | None]] = ([], None)


class GatheredFile:
    """A `File` over another one; only `sync` makes what was written survive the process.

    Any thread may write and read while one syncs. Ctrl-C in a sync leaves what it did not write for the next one.
    """

    def __init__(self, inner: File) -> None:
        self._inner = inner
        self._parts: list[_Part] = []
        """What waits, oldest first."""
        self._joined = _NOTHING
        """What was joined last, and what that gave: a promise hashes and then writes the same."""

    def write(self, offset: int, data: Buffer) -> None:
        self._parts.append((offset, bytes(data)))

    def read(self, offset: int, length: int) -> bytes:
        # What waits is noted first: what a sync takes away behind that is in the file.
        parts = self._parts[:]
        whole = self._join(parts)
        if whole is not None:
            begin = offset - whole[0]
            if begin >= 0 and begin + length <= len(whole[1]):
                return whole[1][begin : begin + length]
        raw = bytearray(self._inner.read(offset, length))
        for at, data in parts:
            begin, end = max(at, offset), min(at + len(data), offset + len(raw))
            if begin < end:
                raw[begin - offset : end - offset] = data[begin - at : end - at]
        return bytes(raw)

    def hasten(self, offset: int, length: int) -> None:
        self._bring()
        self._inner.hasten(offset, length)

    def sync(self) -> None:
        self._bring()
        self._inner.sync()

    def truncate(self, size: int) -> None:
        self._inner.truncate(size)

    def map(self) -> memoryview | None:
        return None

    def check(self, size: int) -> str | None:
        return self._inner.check(size)

    def close(self) -> None:
        self._inner.close()

    def _bring(self) -> None:
        parts = self._parts[:]
        whole = self._join(parts)
        for offset, data in parts if whole is None else (whole,):
            self._inner.write(offset, data)
        del self._parts[: len(parts)]
        self._joined = _NOTHING

    def _join(self, parts: list[_Part]) -> tuple[int, bytes] | None:
        """(offset, bytes) of all of them, if they lie side by side, in whatever order they came."""
        joined, whole = self._joined
        if parts != joined:
            whole = _side_by_side(sorted(parts, key=_offset))
            self._joined = parts, whole
        return whole


def _side_by_side(parts: list[_Part]) -> tuple[int, bytes] | None:
    if not parts:
        return None
    at = begin = parts[0][0]
    for offset, data in parts:
        if offset != at:
            return None
        at += len(data)
    return begin, b"".join([data for _, data in parts])
