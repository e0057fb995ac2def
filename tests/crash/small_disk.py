"""A small file system of its own, which can be filled to the last byte or to the last inode, and freed again."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

PAGE = 4096
SIZE = 12 << 20


class Disk:
    """A small file system, and what takes its space."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.ballast = place / "ballast"

    def fill(self, left: int) -> None:
        """Leave `left` bytes; what is taken already stays taken."""
        with self.ballast.open("ab", buffering=0) as file:
            space = os.statvfs(self.place)
            with contextlib.suppress(OSError):
                os.posix_fallocate(file.fileno(), file.tell(), max(1, space.f_bavail * space.f_frsize - left))
            with contextlib.suppress(OSError):
                while left < PAGE:
                    file.write(bytes(PAGE))

    def take_names(self, left: int) -> None:
        """Leave `left` inodes."""
        self.ballast.mkdir()
        with contextlib.suppress(OSError):
            for number in range(max(0, os.statvfs(self.place).f_favail - left)):
                (self.ballast / str(number)).touch()

    def free(self) -> None:
        shutil.rmtree(self.ballast) if self.ballast.is_dir() else self.ballast.unlink(missing_ok=True)


@contextlib.contextmanager
def mounted(place: Path, *arguments: object) -> Iterator[Disk]:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system needs root")
    place.mkdir()
    done = subprocess.run(["mount", *map(str, arguments), place], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"it cannot be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        if subprocess.run(["umount", place], capture_output=True).returncode:
            subprocess.run(["umount", "-l", place], check=True)


def image(path: Path, size: int, *command: str) -> Path:
    if shutil.which(command[0]) is None:
        pytest.skip(f"there is no {command[0]}")
    with path.open("wb") as file:
        file.truncate(size)
    subprocess.run([*command, path], check=True, capture_output=True)
    return path


@pytest.fixture(params=["tmpfs", "ext4"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Disk]:
    if request.param == "tmpfs":
        arguments: tuple[object, ...] = ("-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs")
    else:
        arguments = ("-o", "loop", image(tmp_path / "image", SIZE + (8 << 20), "mkfs.ext4", "-q", "-F", "-b", "4096"))
    with mounted(tmp_path / "small", *arguments) as small:
        yield small


@pytest.fixture
def few_names(tmp_path: Path) -> Iterator[Disk]:
    """Room for bytes, but not for many files."""
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=64m,nr_inodes=80", "tmpfs") as small:
        yield small
