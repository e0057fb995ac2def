"""The one door to the operating system for everything durable: the whole need for a file system, as contracts.

A `Storage` is one directory tree. Paths are relative, with `/`, and never lead outside (`inside`). Three of them:

    disk      the real one
    memory    keeps live and durable bytes apart and can crash
    faulty    wraps another one and fails or tears its nth operation

    storage = DiskStorage("runs/fx")
    file = storage.create("segments/00000000.seg.tmp", size=1 << 20)
    file.write(0, header)               # in the page cache: survives the process
    file.sync()                         # the bytes survive a power cut
    storage.rename("segments/00000000.seg.tmp", "segments/00000000.seg")
    storage.sync_directory("segments")  # the name survives a power cut

What is believed of a file system: docs/guarantees.md, "Assumptions". Where the system fails, each method raises
`OSError`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from mmap import mmap
from typing import IO, Protocol

Buffer = bytes | bytearray | memoryview
Memory = bytearray | memoryview | mmap


class File(Protocol):
    """One open file."""

    def write(self, offset: int, data: Buffer) -> None:
        """Write all of `data` at `offset`; when it returns the bytes survive the process, not yet a power cut."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes from `offset`; fewer only where the file ends."""

    def hasten(self, offset: int, length: int) -> None:
        """These bytes are about to be synced: the disk may begin to write them. Promises nothing."""

    def sync(self) -> None:
        """When it returns, the file's bytes and size survive a power cut. Releases the GIL."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def map(self) -> memoryview | None:
        """The file's bytes as writable memory, or None where a store could fail later than `write` would.

        A store survives the process as a `write` does; `sync` makes it durable. Valid until `close`.
        """

    def check(self, size: int) -> str | None:
        """None if the file still has a name and `size` bytes, else what is wrong, in words."""

    def close(self) -> None:
        """Let go of file and map. Does not sync."""


class Lock(Protocol):
    """The writer's lock, held."""

    def release(self) -> None:
        """Let go; the file stays."""

    def drop(self) -> None:
        """In a forked child: close the inherited handle without releasing the parent's lock."""


class Storage(Protocol):
    """One directory tree."""

    @property
    def name(self) -> str:
        """How to call this tree in a message; the directory's path."""

    def exists(self, path: str) -> bool:
        """Is there a file or directory?"""

    def list(self, directory: str) -> list[str]:
        """The names in a directory, sorted; empty where there is no such directory."""

    def size(self, path: str) -> int:
        """The file's size in bytes."""

    def free(self) -> int:
        """How many bytes files may still take, as far as the file system tells: a quota it may not know."""

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        """Up to `length` bytes from `offset` (to the end, if None), by pread: a reader never maps."""

    def read_into(self, path: str, memory: Memory, offset: int = 0) -> int:
        """Read a file from `offset` on, as far as `memory` reaches; returns how many bytes that were."""

    def create(self, path: str, size: int = 0, *, zeros: bool = True) -> File:
        """A new private file of `size` bytes, all zero and with its space really reserved.

        `zeros` writes them (the first write to a block is then cheap); without, the space is only allocated (quick).
        An older file of that name is replaced: use temp names.
        """

    def open(self, path: str) -> File:
        """An existing file, for reading and writing."""

    def stream(self, path: str) -> IO[bytes]:
        """A new private file as a Python file object, for libraries that write by themselves; close syncs it."""

    def draft(self, path: str, target: str) -> File:
        """A new file that is to take the place of `target`: with its permissions; where there is none, the umask's.

        Until it is closed, also under another name, `sweep` knows that its process lives. `PermissionError` where
        `target` may not be written, another `OSError` where it is no file, or `path` is there.
        """

    def sweep(self, path: str) -> bool:
        """Remove a draft whose process is dead; False where it may live, and the draft stays."""

    def rename(self, source: str, target: str) -> None:
        """Atomically give `source` the name `target`; an older `target` is replaced."""

    def remove(self, path: str) -> None:
        """Remove a file."""

    def make_directory(self, path: str) -> None:
        """Make a private directory (and what leads to it), durably; fine if it exists."""

    def sync_directory(self, path: str) -> None:
        """When it returns, the names in this directory survive a power cut."""

    def lock(self, path: str) -> Lock:
        """Take the exclusive lock, or raise `LockHeld` at once."""

    def locked(self, path: str) -> bool:
        """Does a living process hold the lock? Does not disturb it."""


class LockHeld(OSError):
    """The lock is held by `pids` (as far as can be seen)."""

    def __init__(self, pids: tuple[int, ...], noted: str = "") -> None:
        self.pids, self.noted = pids, noted
        super().__init__(f"held by {pids}")


def inside(path: str) -> str:
    """`path` if it is relative and stays below the tree, else `ValueError`: for every path read from a journal."""
    parts = path.split("/")
    if not path or "\\" in path or "\0" in path or any(part in ("", ".", "..") for part in parts) or path[1:2] == ":":
        raise ValueError(f"path {path!r:.200} does not stay inside the journal")
    return path


def replace(storage: Storage, path: str, data: Buffer) -> None:
    """Make `data` the content of `path`, atomically: old or new, never between. Durable when it returns."""
    with replacing(storage, path) as stream:
        stream.write(data)


@contextmanager
def replacing(storage: Storage, path: str) -> Iterator[IO[bytes]]:
    """A stream whose bytes become the content of `path` when the block ends well: temp, fsync, rename, fsync.

    Where the block raises, or the system fails, the old file is untouched and the temp file is gone. Durable
    when the block has ended.
    """
    directory = path.rpartition("/")[0]
    temporary = f"{path}.tmp"
    stream = storage.stream(temporary)
    try:
        with stream:
            yield stream
        storage.rename(temporary, path)
    except BaseException:
        # Leaving the temp file behind is harmless (recovery removes it); hiding the first error is not.
        try:
            storage.remove(temporary)
        except OSError:
            pass
        raise
    storage.sync_directory(directory)
