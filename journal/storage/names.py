"""Files and directories by their names: no link is followed, and a new name is synced before anything builds on it."""

from __future__ import annotations

import errno
import os
import stat
from typing import Final

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
"""How a directory is opened."""


def permissions(name: str, directory: int) -> int | None:
    """Those of a file that may be written; None where there is none."""
    try:
        status = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), name)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", name)
    if not os.access(name, os.W_OK, dir_fd=directory):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), name)
    return status.st_mode & 0o777


def open_name(name: str, flags: int, directory: int, mode: int = 0o600) -> int:
    """A handle of what has this name in a directory, unless that is a link. A pipe keeps nobody waiting."""
    try:
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, mode, dir_fd=directory)
    except OSError as error:
        # Which error a link gives depends on the flags and the system.
        if error.errno in (errno.ELOOP, errno.ENOTDIR, errno.EMLINK) and _is_link(name, directory):
            why = f"{name} is a link, and a journal follows none: put there what it leads to"
            raise OSError(errno.ELOOP, why, name) from None
        raise


def _is_link(name: str, directory: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode)


def make_root(root: str, mode: int) -> None:
    """Make a directory and what leads to it. Each name is synced before the next is made below it.

    So of a process that died here at most the last directory that exists is not synced: it is where we begin.
    """
    missing = []
    there = os.path.realpath(root)
    while not os.path.isdir(there):
        missing.append(there)
        there = os.path.dirname(there)
    try:
        _sync_name(there)
    except PermissionError:
        pass  # Its parent may not be read, so it is not ours, and was not made here.
    for directory in reversed(missing):
        try:
            os.mkdir(directory, mode)
        except FileExistsError:
            if not os.path.isdir(directory):
                raise
        _sync_name(directory)


def _sync_name(path: str) -> None:
    fd = os.open(os.path.dirname(path), DIRECTORY)
    try:
        sync_directory(fd)
    finally:
        os.close(fd)


def sync_directory(fd: int) -> None:
    """When it returns, the names in this directory survive a power cut."""
    try:
        os.fsync(fd)
    except OSError as error:
        # Some file systems know no sync of a directory and say so; they keep names by other means.
        if error.errno != errno.EINVAL:
            raise
