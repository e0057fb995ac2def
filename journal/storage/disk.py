"""The real file system: pread, pwrite, fdatasync, rename, flock, and a map where reserved space is really reserved."""

from __future__ import annotations

import errno
import fcntl
import io
import json
import mmap
import os
import socket
import sys
import time
from typing import IO, Final

from journal.storage import Buffer, LockHeld, inside

# A store into a mapped page must never need a block that is not there: the kernel would answer with SIGBUS. XFS and
# btrfs are left out on purpose: after a reflink copy of the file (cp does one), a store needs a new block.
_MAPPABLE: Final = frozenset({"ext2", "ext3", "ext4", "tmpfs"})
_NETWORKED: Final = frozenset({"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "lustre", "sshfs"})
_ZEROS: Final = bytes(1 << 20)
_LOCK_PATIENCE: Final = 0.2
"""Seconds to wait for a lock: a reader that only looks may hold it for an instant."""

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

    def write(self, offset: int, data: Buffer) -> None:
        view = memoryview(data)
        while len(view):
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def read(self, offset: int, length: int) -> bytes:
        return _read(self._fd, offset, length)

    def sync(self) -> None:
        _sync_data(self._fd)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def map(self) -> memoryview | None:
        if not self._mappable or not self._size:
            return None
        if self._view is None:
            self._map = mmap.mmap(self._fd, self._size)
            self._view = memoryview(self._map)
        return self._view

    def check(self, size: int) -> str | None:
        status = os.fstat(self._fd)
        if status.st_nlink == 0:
            return "the file was deleted while it was being written"
        if status.st_size != size:
            return f"the file has {status.st_size:,} bytes instead of {size:,}: somebody else changed it"
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
        self._view = self._map = None
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


class DiskLock:
    """flock on `writer.lock`; the file notes who holds it, for people."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def release(self) -> None:
        if self._fd >= 0:
            # A child that was forked without telling Python still has the handle: closing ours would not unlock.
            fcntl.flock(self._fd, fcntl.LOCK_UN)
        self.drop()

    def drop(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)


class DiskStorage:
    """The directory `root`, see `Storage`. Files are made with mode 0600, directories with 0700."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = os.path.abspath(os.fspath(root))
        self._mappable: bool | None = None

    @property
    def name(self) -> str:
        return self.root

    def _path(self, path: str) -> str:
        return os.path.join(self.root, inside(path)) if path else self.root

    def exists(self, path: str) -> bool:
        return os.path.lexists(self._path(path))

    def list(self, directory: str) -> list[str]:
        try:
            return sorted(os.listdir(self._path(directory)))
        except FileNotFoundError:
            return []

    def size(self, path: str) -> int:
        return os.stat(self._path(path)).st_size

    def free(self) -> int:
        space = os.statvfs(self._path(""))
        return space.f_bavail * space.f_frsize

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        # O_NOFOLLOW: a link planted in a journal does not lead the reader out of it.
        fd = os.open(self._path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            # Bounded by the file, not only by the caller: a pread allocates all that it is asked for.
            rest = max(0, os.fstat(fd).st_size - offset)
            return _read(fd, offset, rest if length is None else min(rest, length))
        finally:
            os.close(fd)

    def create(self, path: str, size: int = 0, *, zeros: bool = True) -> DiskFile:
        fd = os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if size:
                _reserve(fd, size, zeros)
            return DiskFile(fd, size, self.mappable)
        except BaseException:
            # Half a file on a full disk would keep the space that others need.
            os.close(fd)
            os.unlink(self._path(path))
            raise

    def open(self, path: str) -> DiskFile:
        fd = os.open(self._path(path), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        return DiskFile(fd, os.fstat(fd).st_size, self.mappable)

    def stream(self, path: str) -> IO[bytes]:
        fd = os.open(self._path(path), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        return _SyncedStream(io.FileIO(fd, "w"))

    def rename(self, source: str, target: str) -> None:
        os.replace(self._path(source), self._path(target))

    def remove(self, path: str) -> None:
        os.unlink(self._path(path))

    def make_directory(self, path: str) -> None:
        full = self._path(path)
        missing = []
        while not os.path.isdir(full):
            missing.append(full)
            parent = os.path.dirname(full)
            if parent == full:
                break
            full = parent
        for directory in reversed(missing):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            _sync_directory(os.path.dirname(directory))

    def sync_directory(self, path: str) -> None:
        _sync_directory(self._path(path))

    def lock(self, path: str) -> DiskLock:
        fd = os.open(self._path(path), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        deadline = time.monotonic() + _LOCK_PATIENCE
        while True:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.01)
                    continue
                noted = os.pread(fd, 4096, 0).decode("utf-8", "replace").strip()
                holders = _holders(os.fstat(fd))
                os.close(fd)
                raise LockHeld(holders or _noted_pid(noted), noted) from None
            except BaseException:
                os.close(fd)
                raise
        note = json.dumps({"pid": os.getpid(), "host": socket.gethostname(), "since": time.time()})
        try:
            os.ftruncate(fd, 0)
            os.pwrite(fd, note.encode() + b"\n", 0)
        except OSError:
            # The note is for people; the lock is the flock. A full disk must not keep a journal from being opened.
            pass
        return DiskLock(fd)

    def locked(self, path: str) -> bool:
        try:
            fd = os.open(self._path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
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
            device = os.stat(self.root).st_dev
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


def _sync_directory(full: str) -> None:
    fd = os.open(full, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems know no sync of a directory and say so; they keep names by other means.
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(fd)


def _holders(status: os.stat_result) -> tuple[int, ...]:
    """The other processes that have this file open, as far as /proc shows them."""
    pids = set()
    for process in _entries("/proc"):
        if process.isdigit() and int(process) != os.getpid():
            for handle in _entries(f"/proc/{process}/fd"):
                try:
                    if os.path.samestat(os.stat(f"/proc/{process}/fd/{handle}"), status):
                        pids.add(int(process))
                except OSError:
                    continue
    return tuple(sorted(pids))


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _noted_pid(noted: str) -> tuple[int, ...]:
    try:
        return (int(json.loads(noted)["pid"]),)
    except (ValueError, KeyError, TypeError):
        return ()
