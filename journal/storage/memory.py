"""A file system in memory that can lose power: each file has live bytes and durable bytes, each name too.

    storage = MemoryStorage()
    log = journal.open("fx", storage=storage)
    ...
    after = storage.crash(random.Random(7))     # what a power cut at this moment leaves; the same seed, the same damage
    journal.open("fx", storage=after)

It believes of a disk what docs/guarantees.md does: a 512-byte sector is old or new, `sync` and `sync_directory` hold
what they say, and nothing else is ordered. What is left out: bits that rot, and reads that fail (`faulty` does those).
"""

from __future__ import annotations

import builtins
import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from threading import RLock
from typing import IO, Final, NamedTuple

from journal.storage import Buffer, LockHeld, Memory, inside
from journal.storage.stream import buffered

SECTOR: Final = 512
"""Bytes that a disk writes whole or not at all."""


@dataclass(eq=False, slots=True)
class _Node:
    """A file without its name. `live` may be longer than `size`: a mapped file cannot shrink in place."""

    live: bytearray = field(default_factory=bytearray)
    size: int = 0
    durable: bytes = b""

    def sync(self) -> None:
        self.durable = bytes(self.live[: self.size])

    def cut(self, rng: Random, odds: float) -> bytes:
        """The file after a power cut: the old size or the new one, and of each sector the old bytes or the new ones."""
        live = bytes(self.live[: self.size])
        if live == self.durable:
            return live
        size = len(live) if rng.random() < odds else len(self.durable)
        old, new = self.durable[:size].ljust(size, b"\0"), live[:size].ljust(size, b"\0")
        sectors = []
        for at in range(0, size, SECTOR):
            one, other = old[at : at + SECTOR], new[at : at + SECTOR]
            sectors.append(other if one != other and rng.random() < odds else one)
        return b"".join(sectors)


class _Change(NamedTuple):
    """A change of names that no `sync_directory` covers yet."""

    directory: str
    node: _Node
    source: str | None
    target: str | None

    def apply(self, names: dict[str, _Node]) -> None:
        if self.source is not None:
            names.pop(self.source, None)
        if self.target is not None:
            names[self.target] = self.node


class MemoryFile:
    """One open file, see `File`."""

    def __init__(self, storage: MemoryStorage, node: _Node) -> None:
        self._storage = storage
        self._node: _Node | None = node
        self._view: memoryview | None = None

    @property
    def _open(self) -> _Node:
        if self._node is None:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        return self._node

    def write(self, offset: int, data: Buffer) -> None:
        with self._storage.mutex:
            node, end = self._open, offset + len(data)
            if end > len(node.live):
                node.live.extend(bytes(end - len(node.live)))
            node.live[offset:end] = data
            node.size = max(node.size, end)

    def read(self, offset: int, length: int) -> bytes:
        with self._storage.mutex:
            return bytes(self._open.live[offset : min(offset + length, self._open.size)])

    def hasten(self, offset: int, length: int) -> None:
        """Nothing: what is not synced may survive or not, here as there."""

    def sync(self) -> None:
        with self._storage.mutex:
            self._open.sync()

    def truncate(self, size: int) -> None:
        with self._storage.mutex:
            node = self._open
            if size > len(node.live):
                node.live.extend(bytes(size - len(node.live)))
            low, high = sorted((size, node.size))
            node.live[low:high] = bytes(high - low)
            node.size = size

    def map(self) -> memoryview | None:
        with self._storage.mutex:
            if not self._storage.mappable or not self._open.size:
                return None
            if self._view is None:
                self._view = memoryview(self._open.live)
            return self._view

    def check(self, size: int) -> str | None:
        with self._storage.mutex:
            if not self._storage.has(self._open):
                return "the file was deleted while it was being written"
            if self._open.size != size:
                return f"the file has {self._open.size:,} bytes instead of {size:,}: somebody else changed it"
            return None

    def close(self) -> None:
        if self._view is not None:
            self._view.release()
        if self._node is not None:
            self._storage.drafts.discard(self._node)
        self._view = self._node = None


class MemoryLock:
    """The writer's lock of a tree in memory."""

    def __init__(self, release: Callable[[], None]) -> None:
        self._release = release

    def release(self) -> None:
        self._release()

    def drop(self) -> None:
        # A forked child has its own copy of the tree: nothing of the parent's can be released here.
        self._release()


class MemoryStorage:
    """One directory tree, see `Storage`. `mappable` says whether `map` gives the live bytes or None. Thread-safe."""

    def __init__(self, name: str = "memory", *, mappable: bool = True) -> None:
        self.name = name
        self.mappable = mappable
        self.mutex = RLock()
        self._names: dict[str, _Node] = {}
        self._durable: dict[str, _Node] = {}
        self._changes: list[_Change] = []
        self._directories = {""}
        self._locks: set[str] = set()
        self.drafts: set[_Node] = set()
        """Those that are open."""

    # -- what happens to a machine -----------------------------------------------------------------------------------

    def crash(self, rng: Random) -> MemoryStorage:
        """The tree after a power cut at this moment; this one is left as it is.

        Of each unsynced sector, each file's size and each change of names that no `sync_directory` covers, `rng`
        decides whether it had reached the disk. Locks are free.
        """
        with self.mutex:
            odds = rng.choice((0.0, 0.1, 0.5, 0.9, 1.0))
            after = MemoryStorage(self.name, mappable=self.mappable)
            after._directories = set(self._directories)
            names = dict(self._durable)
            for change in self._changes:
                if rng.random() < odds:
                    change.apply(names)
            cut: dict[_Node, _Node] = {}
            for path, node in names.items():
                if node not in cut:
                    data = node.cut(rng, odds)
                    cut[node] = _Node(bytearray(data), len(data), data)
                after._names[path] = cut[node]
            after._durable = dict(after._names)
            return after

    def kill(self) -> MemoryStorage:
        """The tree after the death of its process: all live bytes are there, as durable as before; locks are free."""
        with self.mutex:
            after = MemoryStorage(self.name, mappable=self.mappable)
            after._directories = set(self._directories)
            nodes = {*self._names.values(), *self._durable.values(), *(change.node for change in self._changes)}
            copies = {node: _Node(bytearray(node.live[: node.size]), node.size, node.durable) for node in nodes}
            after._names = {path: copies[node] for path, node in self._names.items()}
            after._durable = {path: copies[node] for path, node in self._durable.items()}
            after._changes = [change._replace(node=copies[change.node]) for change in self._changes]
            return after

    def writeback(self, rng: Random) -> None:
        """What a kernel does at any time: some unsynced sectors, and all names of some directories, reach the disk."""
        with self.mutex:
            for node in dict.fromkeys((*self._names.values(), *self._durable.values())):
                node.durable = node.cut(rng, 0.5)
            for directory in sorted({change.directory for change in self._changes}):
                if rng.random() < 0.5:
                    self.sync_directory(directory)

    def has(self, node: _Node) -> bool:
        """Has this file still a name?"""
        return any(node is other for other in self._names.values())

    # -- Storage -----------------------------------------------------------------------------------------------------

    def exists(self, path: str) -> bool:
        with self.mutex:
            return path in self._directories or inside(path) in self._names

    def list(self, directory: str) -> builtins.list[str]:
        prefix = f"{inside(directory)}/" if directory else ""
        with self.mutex:
            if directory in self._names:
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), directory)
            below = [
                path.removeprefix(prefix) for path in (*self._names, *self._directories) if path.startswith(prefix)
            ]
            return sorted(name for name in below if name and "/" not in name)

    def size(self, path: str) -> int:
        with self.mutex:
            return self._find(path).size

    def free(self) -> int:
        return sys.maxsize

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        with self.mutex:
            node = self._find(path)
            end = node.size if length is None else min(node.size, offset + length)
            return bytes(node.live[offset:end])

    def read_into(self, path: str, memory: Memory, offset: int = 0) -> int:
        data = self.read(path, offset, len(memory))
        memoryview(memory)[: len(data)] = data
        return len(data)

    def create(self, path: str, size: int = 0, *, zeros: bool = True) -> MemoryFile:
        with self.mutex:
            node = _Node(bytearray(size), size)
            self._change(node, None, path)
            return MemoryFile(self, node)

    def open(self, path: str) -> MemoryFile:
        with self.mutex:
            return MemoryFile(self, self._find(path))

    def stream(self, path: str) -> IO[bytes]:
        return buffered(self.create(path))

    def draft(self, path: str, target: str) -> MemoryFile:
        with self.mutex:
            if target in self._directories:
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), target)
            if path in self._names:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
            file = self.create(path)
            self.drafts.add(self._find(path))
            return file

    def sweep(self, path: str) -> bool:
        with self.mutex:
            if self._find(path) in self.drafts:
                return False
            self.remove(path)
            return True

    def rename(self, source: str, target: str) -> None:
        with self.mutex:
            self._change(self._find(source), source, target)

    def remove(self, path: str) -> None:
        with self.mutex:
            self._change(self._find(path), path, None)

    def make_directory(self, path: str) -> None:
        with self.mutex:
            parts = inside(path).split("/") if path else []
            for depth in range(1, len(parts) + 1):
                directory = "/".join(parts[:depth])
                if directory in self._names:
                    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), directory)
                self._directories.add(directory)

    def sync_directory(self, path: str) -> None:
        with self.mutex:
            self._need(path)
            for change in self._changes:
                if change.directory == path:
                    change.apply(self._durable)
            self._changes = [change for change in self._changes if change.directory != path]

    def lock(self, path: str) -> MemoryLock:
        with self.mutex:
            if path in self._locks:
                raise LockHeld((os.getpid(),))
            if inside(path) not in self._names:
                self.create(path).close()
            self._locks.add(path)
            return MemoryLock(lambda: self._locks.discard(path))

    def locked(self, path: str) -> bool:
        return path in self._locks

    def _find(self, path: str) -> _Node:
        node = self._names.get(inside(path))
        if node is not None:
            return node
        code = errno.EISDIR if path in self._directories else errno.ENOENT
        raise OSError(code, os.strerror(code), path)

    def _need(self, directory: str) -> None:
        if directory not in self._directories:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), directory)

    def _change(self, node: _Node, source: str | None, target: str | None) -> None:
        path = source if target is None else inside(target)
        assert path is not None
        directory = path.rpartition("/")[0]
        self._need(directory)
        if path in self._directories:
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        change = _Change(directory, node, source, target)
        change.apply(self._names)
        self._changes.append(change)
