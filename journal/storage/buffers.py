"""Memory to read files into: anonymous, never of a file, and used again."""

from __future__ import annotations

import mmap
from contextlib import suppress
from typing import Final

from journal.storage import Storage

_ROOM: Final = 32 << 20
"""Bytes that each has at least, for segments grow up to that: only those that are written to take memory."""


class Buffers:
    """Memory to read files into, used again when nobody looks at it any more: fresh memory costs as much as reading."""

    def __init__(self) -> None:
        self._all: list[mmap.mmap] = []

    def read(self, storage: Storage, path: str, limit: int) -> memoryview:
        """Up to `limit` bytes of a file, read-only. Raises as `Storage.read` does."""
        size = min(storage.size(path), limit)
        memory = self._free(size)
        with memoryview(memory)[:size] as target:
            end = storage.read_into(path, target)
        return memoryview(memory)[:end].toreadonly()

    def _free(self, size: int) -> mmap.mmap:
        for memory in [*self._all]:
            if not _in_use(memory):
                if len(memory) >= size:
                    return memory
                self._all.remove(memory)
        made = _made(max(size, _ROOM))
        if hasattr(mmap, "MADV_HUGEPAGE"):  # On Linux, where it can be told whether anybody looks at it.
            self._all.append(made)
        return made


def room(size: int) -> memoryview:
    """So many bytes to read into, for one who reads into them again and again."""
    return memoryview(_made(size))[:size]


def _made(size: int) -> mmap.mmap:
    made = mmap.mmap(-1, max(size, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # A kernel may do without.
            made.madvise(mmap.MADV_HUGEPAGE)
    return made


def _in_use(memory: mmap.mmap) -> bool:
    """Is there a view of it? Python refuses to change the length of such a one, also to what it is."""
    try:
        memory.resize(len(memory))
    except BufferError:
        return True
    return False
