"""The real file system: pread, pwrite, fdatasync, rename, flock, and a map where reserved space is really reserved."""

from __future__ import annotations

import errno
import fcntl
import io
import mmap
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import IO, Final

from journal.storage import Buffer, Memory, inside
from journal.storage.lock import DiskLock, take
from journal.storage.names import DIRECTORY, make_root, open_name, permissions, sync_directory
from journal.storage.status import Asked, asking

# A store into a mapped page must never need a block that is not there: the kernel would answer with SIGBUS. XFS and
# btrfs are left out on purpose: after a reflink copy of the file (cp does one), a store needs a new block.
_MAPPABLE: Final = frozenset({"ext2", "ext3", "ext4", "tmpfs"})
_NETWORKED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "sshfs"})
_ZEROS: Final = bytes(1 << 16)
"""Written at once. Linux keeps what one write brought together: a store into a map, then synced, writes all of that."""
_ADVICE: Final = getattr(os, "POSIX_FADV_DONTNEED", None)

if sys.platform == "darwin":

    def _sync_data(fd: int) -> None:
        """On macOS fsync leaves the bytes in the drive's cache; F_FULLFSYNC does not."""
        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
else:
    _sync_data = os.fdatasync


class DiskFile:
    """One open file, see `File`."""

    def __init__(self, fd: int, size: int, mappable: bool) -> None:
        self._fd = fd
        self._size = size
        self._mappable = mappable
        self._map: mmap.mmap | None = None
        self._view: memoryview | None = None
        self._asked: Asked | None = None

    def write(self, offset: int, data: Buffer) -> None:
        written = os.pwrite(self._fd, data, offset)
        if written < len(data):  # Rarely: the disk is full, or a signal came in between.
            self.write(offset + written, memoryview(data)[written:])

    def read(self, offset: int, length: int) -> bytes:
        return _read(self._fd, offset, length)

    def hasten(self, offset: int, length: int) -> None:
        # Of less than a page none is dropped from memory: all that is left of this advice is that writing begins, of
        # what Linux keeps together. The sync then waits for the rest of it.
        if _ADVICE is None:
            return
        try:
            for at in range(offset // len(_ZEROS) * len(_ZEROS), offset + length, len(_ZEROS)):
                os.posix_fadvise(self._fd, at, 1, _ADVICE)
        except OSError:
            pass  # The sync will tell.

    def sync(self) -> None:
        _sync_data(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def map(self) -> memoryview | None:
        if not self._mappable or not self._size:
            return None
        if self._view is None:
            try:
                self._map = mmap.mmap(self._fd, self._size)
            except OSError:
                return None  # Too many maps, or no address space left: `write` needs neither.
            self._view = memoryview(self._map)
        return self._view

    def check(self, size: int) -> str | None:
        if self._asked is None:
            self._asked = asking(self._fd)
        names, length = self._asked()
        if not names:
            return "the file was deleted while it was being written"
        if length != size:
            return f"the file has {length:,} bytes instead of {size:,}: somebody else changed it"
        return None

    def close(self) -> None:
        try:
            if self._view is not None:
                self._view.release()
            if self._map is not None:
                self._map.close()
        except BufferError:
            # A slice is still in somebody's hands (another thread hashes it); the map goes when that does.
            pass
        self._view = self._map = self._asked = None
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class _SyncedStream(io.BufferedWriter):
    """A file object whose close syncs first, so that a rename after it is safe."""

    def close(self) -> None:
        if not self.closed:
            try:
                self.flush()
                _sync_data(self.fileno())
            finally:
                super().close()


class DiskStorage:
    """The directory `root`, see `Storage`. Files are made with mode 0600, directories with 0700.

    A path is walked from the root's handle, name by name, and no link on it is followed: none that is planted in a
    journal leads out of it. While the lock is held the root is the directory that was locked, also where somebody
    renames that one and another takes its place.
    """

    def __init__(self, root: str | os.PathLike[str], *, private: bool = True) -> None:
        """Not `private`: where `root` has to be made, with what the umask leaves."""
        self._mode = 0o700 if private else 0o777
        self.root = os.path.abspath(os.fspath(root))
        self._locked_root = -1
        self._durable: set[str] = set()
        """Directories whose names this storage has synced."""
        self._mappable: bool | None = None

    @property
    def name(self) -> str:
        return self.root

    @contextmanager
    def _directory(self, path: str) -> Iterator[int]:
        """A handle of a directory of the tree."""
        names = inside(path).split("/") if path else ()
        fd = os.dup(self._locked_root) if self._locked_root >= 0 else os.open(self.root, DIRECTORY)
        try:
            for name in names:
                above, fd = fd, open_name(name, DIRECTORY, fd)
                os.close(above)
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _place(self, path: str) -> Iterator[tuple[int, str]]:
        """(handle of the directory that a file is in, the file's name there)."""
        above, _, name = inside(path).rpartition("/")
        with self._directory(above) as directory:
            yield directory, name

    def _opened(self, path: str, flags: int) -> int:
        with self._place(path) as (directory, name):
            return open_name(name, flags, directory)

    def exists(self, path: str) -> bool:
        try:
            if not path:
                return os.path.isdir(self.root)
            with self._place(path) as (directory, name):
                os.stat(name, dir_fd=directory, follow_symlinks=False)
            return True
        except (FileNotFoundError, NotADirectoryError):
            return False

    def list(self, directory: str) -> list[str]:
        try:
            with self._directory(directory) as fd:
                return sorted(os.listdir(fd))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        with self._place(path) as (directory, name):
            return os.stat(name, dir_fd=directory, follow_symlinks=False).st_size

    def free(self) -> int:
        with self._directory("") as root:
            space = os.fstatvfs(root)
        return space.f_bavail * space.f_frsize

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        fd = self._opened(path, os.O_RDONLY)
        try:
            # Bounded by the file, not only by the caller: a pread allocates all that it is asked for.
            rest = max(0, os.fstat(fd).st_size - offset)
            return _read(fd, offset, rest if length is None else min(rest, length))
        finally:
            os.close(fd)

    def read_into(self, path: str, memory: Memory, offset: int = 0) -> int:
        view = memoryview(memory)
        fd = self._opened(path, os.O_RDONLY)
        try:
            end = 0
            while end < len(view) and (count := os.preadv(fd, (view[end:],), offset + end)):
                end += count
            return end
        finally:
            os.close(fd)

    def create(self, path: str, size: int = 0, *, zeros: bool = True) -> DiskFile:
        fd = self._opened(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            if size:
                _reserve(fd, size, zeros)
            return DiskFile(fd, size, self.mappable)
        except BaseException:
            # Half a file on a full disk would keep the space that others need.
            os.close(fd)
            self.remove(path)
            raise

    def open(self, path: str) -> DiskFile:
        fd = self._opened(path, os.O_RDWR)
        return DiskFile(fd, os.fstat(fd).st_size, self.mappable)

    def stream(self, path: str) -> IO[bytes]:
        return _SyncedStream(io.FileIO(self._opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), "w"))

    def draft(self, path: str, target: str) -> DiskFile:
        with self._place(path) as (directory, name), self._place(target) as (beyond, old):
            kept = permissions(old, beyond)
            while True:
                # Nobody else may read what is to be private, not even for an instant.
                mode = 0o666 if kept is None else 0o600
                fd = open_name(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, directory, mode)
                try:
                    with suppress(OSError):  # Where nothing can be locked, nothing is swept.
                        fcntl.flock(fd, fcntl.LOCK_EX)
                    status = os.fstat(fd)
                    if not status.st_nlink:  # Swept before it was locked.
                        os.close(fd)
                        continue
                    if kept is not None and kept != stat.S_IMODE(status.st_mode):
                        os.fchmod(fd, kept)
                    return DiskFile(fd, 0, mappable=False)
                except BaseException:
                    os.close(fd)
                    os.unlink(name, dir_fd=directory)
                    raise

    def sweep(self, path: str) -> bool:
        fd = self._opened(path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.remove(path)
        except BlockingIOError:
            return False
        finally:
            os.close(fd)
        return True

    def rename(self, source: str, target: str) -> None:
        with self._place(source) as (above, name), self._place(target) as (beyond, another):
            os.replace(name, another, src_dir_fd=above, dst_dir_fd=beyond)

    def remove(self, path: str) -> None:
        with self._place(path) as (directory, name):
            os.unlink(name, dir_fd=directory)

    def remove_directory(self, path: str) -> None:
        """Remove an empty directory below the tree's own."""
        with self._place(path) as (directory, name):
            os.rmdir(name, dir_fd=directory)

    def make_directory(self, path: str) -> None:
        if path in self._durable and self.exists(path):
            return
        if self._locked_root < 0:
            make_root(self.root, self._mode)
        above = ""
        for name in inside(path).split("/") if path else ():
            with self._directory(above) as directory:
                try:
                    os.mkdir(name, 0o700, dir_fd=directory)
                except FileExistsError:
                    os.close(open_name(name, DIRECTORY, directory))
                # Also where it exists: whoever made it may have died before this.
                sync_directory(directory)
            above = f"{above}/{name}" if above else name
        self._durable.add(path)

    def sync_directory(self, path: str) -> None:
        with self._directory(path) as fd:
            sync_directory(fd)

    def lock(self, path: str) -> DiskLock:
        with self._directory("") as root:
            fd = self._opened(path, os.O_RDWR | os.O_CREAT)
            try:
                take(fd)
                self._locked_root = os.dup(root)
            except BaseException:
                os.close(fd)
                raise
        return DiskLock(fd, self._unlocked)

    def _unlocked(self) -> None:
        fd, self._locked_root = self._locked_root, -1
        self._durable.clear()
        os.close(fd)

    def locked(self, path: str) -> bool:
        try:
            fd = self._opened(path, os.O_RDONLY)
        except OSError:
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
        finally:
            os.close(fd)
        return False

    @property
    def mappable(self) -> bool:
        """May segments be written through a map here?"""
        if self._mappable is None:
            self._mappable = self.file_system in _MAPPABLE
        return self._mappable

    @property
    def networked(self) -> bool:
        """Is this a network file system, whose locks and syncs promise less?"""
        return self.file_system in _NETWORKED

    @property
    def file_system(self) -> str:
        """The type of the file system that holds the journal, such as "ext4"; "unknown" where it cannot be told."""
        try:
            with self._directory("") as root:
                device = os.fstat(root).st_dev
            number = f"{os.major(device)}:{os.minor(device)}"
            with open("/proc/self/mountinfo", encoding="utf-8", errors="replace") as mounts:
                for line in mounts:
                    left, _, right = line.partition(" - ")
                    if left.split()[2] == number:
                        return right.split()[0]
        except (OSError, IndexError):
            pass
        return "unknown"


def _read(fd: int, offset: int, length: int) -> bytes:
    """All of the range that the file has: one pread may return less than asked."""
    data = os.pread(fd, length, offset)
    if len(data) == length or not data:
        return data
    parts = [data]
    while data:
        length -= len(data)
        offset += len(data)
        data = os.pread(fd, length, offset) if length else b""
        parts.append(data)
    return b"".join(parts)


def _reserve(fd: int, size: int, zeros: bool) -> None:
    if not zeros:
        try:
            os.posix_fallocate(fd, 0, size)
            return
        except (AttributeError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
                raise
    offset = 0
    while offset < size:
        offset += os.pwrite(fd, memoryview(_ZEROS)[: size - offset], offset)
