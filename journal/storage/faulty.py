"""Any storage, but its nth operation fails, tears or is where the process dies.

    faulty = FaultyStorage(MemoryStorage())
    log = journal.open("fx", storage=faulty)
    faulty.fail("sync", error=errno.EIO)                # the next sync fails
    faulty.fail("write", nth=3, tear=True)              # the third write from now stores only some of its sectors
    faulty.fail("rename", kill=True)                    # the process dies before the next rename, and does nothing more

`operations` is what was done, in order, so that a test can count them and try every one.
"""

from __future__ import annotations

import builtins
import errno
import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from threading import Lock as Mutex
from typing import IO, Final
from weakref import WeakSet

from journal.storage import Buffer, File, Lock, Memory, Storage
from journal.storage.memory import SECTOR
from journal.storage.stream import buffered

KINDS: Final = frozenset(
    {
        *("list", "size", "read", "create", "open", "rename", "remove", "make_directory", "sync_directory", "lock"),
        *("write", "sync", "truncate", "map"),
    }
)
"""Names of the operations that can fail; `stream`: create, write, sync; `draft`: create; `sweep`: remove."""
CHANGES: Final = KINDS - {"list", "size", "read", "open", "map"}
"""Those that change something: where a kill can matter."""


class Killed(BaseException):
    """The process died here, as far as the storage can play it. Not an `Exception`: nobody may handle it."""


@dataclass(slots=True)
class _Fault:
    kinds: frozenset[str]
    path: str
    nth: int
    times: int
    error: int
    tear: bool
    kill: bool

    def strikes(self, kind: str, path: str) -> bool:
        if kind not in self.kinds or not fnmatchcase(path, self.path):
            return False
        self.nth -= 1
        return -self.times < self.nth <= 0


class FaultyStorage:
    """`inner` with faults; see the module. Without any it is `inner`, counted."""

    def __init__(self, inner: Storage) -> None:
        self.inner = inner
        self.operations: builtins.list[tuple[str, str]] = []
        self._faults: builtins.list[_Fault] = []
        self._files: WeakSet[FaultyFile] = WeakSet()
        self._dead = False
        self._mutex = Mutex()

    def fail(
        self,
        *kinds: str,
        path: str = "*",
        nth: int = 1,
        times: int = 1,
        error: int = errno.EIO,
        tear: bool = False,
        kill: bool = False,
    ) -> None:
        """Let the `nth` operation from now on fail, of these kinds (none given: any) on `path` (a pattern).

        Those that follow it fail as well, `times` in all. `tear`: a write stores the first half of its sectors before.
        `kill`: `Killed` instead of an `OSError`, now and for every later operation.
        """
        unknown = set(kinds) - KINDS
        if unknown:
            raise ValueError(f"no such operations: {sorted(unknown)}")
        self._faults.append(_Fault(frozenset(kinds) or KINDS, path, nth, times, error, tear, kill))

    def heal(self) -> None:
        """No more faults."""
        self._faults.clear()
        self._dead = False

    def strike(self, kind: str, path: str, tear: Callable[[], None] | None = None) -> None:
        """Count an operation and raise its fault, if one strikes; `tear` does half of it before."""
        with self._mutex:
            if self._dead:
                raise Killed(f"{kind} {path}: the process is dead")
            self.operations.append((kind, path))
            struck = [fault for fault in self._faults if fault.strikes(kind, path)]
            if not struck:
                return
            self._dead = struck[0].kill
        if struck[0].tear and tear is not None:
            tear()
        if struck[0].kill:
            raise Killed(f"{kind} {path}")
        raise OSError(struck[0].error, f"{os.strerror(struck[0].error)} (injected)", path)

    # -- Storage -----------------------------------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return self.inner.name

    def exists(self, path: str) -> bool:
        return self.inner.exists(path)

    def list(self, directory: str) -> builtins.list[str]:
        self.strike("list", directory)
        return self.inner.list(directory)

    def size(self, path: str) -> int:
        self.strike("size", path)
        return self.inner.size(path)

    def free(self) -> int:
        return self.inner.free()

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        self.strike("read", path)
        return self.inner.read(path, offset, length)

    def read_into(self, path: str, memory: Memory, offset: int = 0) -> int:
        self.strike("read", path)
        return self.inner.read_into(path, memory, offset)

    def create(self, path: str, size: int = 0, *, zeros: bool = True) -> FaultyFile:
        self.strike("create", path)
        return self._opened(self.inner.create(path, size, zeros=zeros), path)

    def open(self, path: str) -> FaultyFile:
        self.strike("open", path)
        return self._opened(self.inner.open(path), path)

    def stream(self, path: str) -> IO[bytes]:
        return buffered(self.create(path))

    def draft(self, path: str, target: str) -> FaultyFile:
        self.strike("create", path)
        return self._opened(self.inner.draft(path, target), path)

    def sweep(self, path: str) -> bool:
        self.strike("remove", path)
        return self.inner.sweep(path)

    def rename(self, source: str, target: str) -> None:
        self.strike("rename", target)
        self.inner.rename(source, target)
        for file in list(self._files):
            if file.path == source:
                file.path = target

    def remove(self, path: str) -> None:
        self.strike("remove", path)
        self.inner.remove(path)

    def make_directory(self, path: str) -> None:
        self.strike("make_directory", path)
        self.inner.make_directory(path)

    def sync_directory(self, path: str) -> None:
        self.strike("sync_directory", path)
        self.inner.sync_directory(path)

    def lock(self, path: str) -> Lock:
        self.strike("lock", path)
        return self.inner.lock(path)

    def locked(self, path: str) -> bool:
        return self.inner.locked(path)

    def _opened(self, inner: File, path: str) -> FaultyFile:
        file = FaultyFile(self, inner, path)
        self._files.add(file)
        return file


class FaultyFile:
    """One open file, see `File`; `path` follows a rename. Stores into its map are not operations: they cannot fail."""

    def __init__(self, storage: FaultyStorage, inner: File, path: str) -> None:
        self._storage = storage
        self._inner = inner
        self.path = path

    def write(self, offset: int, data: Buffer) -> None:
        def tear() -> None:
            half = (offset + len(data) // 2) // SECTOR * SECTOR - offset
            self._inner.write(offset, bytes(data)[: max(0, half)])

        self._storage.strike("write", self.path, tear)
        self._inner.write(offset, data)

    def read(self, offset: int, length: int) -> bytes:
        self._storage.strike("read", self.path)
        return self._inner.read(offset, length)

    def hasten(self, offset: int, length: int) -> None:
        self._inner.hasten(offset, length)

    def sync(self) -> None:
        self._storage.strike("sync", self.path)
        self._inner.sync()

    def truncate(self, size: int) -> None:
        self._storage.strike("truncate", self.path)
        self._inner.truncate(size)

    def map(self) -> memoryview | None:
        self._storage.strike("map", self.path)
        return self._inner.map()

    def check(self, size: int) -> str | None:
        return self._inner.check(size)

    def close(self) -> None:
        self._inner.close()
