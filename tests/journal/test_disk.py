"""The real storage asks the system for every durability that it promises; only a power cut would show it otherwise."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from journal.storage import disk, replace


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was synced, in order: the files by their content at that moment, "directory" for one."""
    seen: list[str] = []
    plain = os.fsync
    monkeypatch.setattr(disk, "_sync_data", lambda fd: seen.append(Path(f"/proc/self/fd/{fd}").read_text()))
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append("directory"), plain(fd))[1])
    return seen


def test_a_files_sync_and_a_streams_close_reach_the_system(tmp_path: Path, synced: list[str]) -> None:
    storage = disk.DiskStorage(tmp_path)
    file = storage.create("a")
    file.write(0, b"cells")
    file.sync()
    file.close()
    assert synced == ["cells"]
    stream = storage.stream("b")
    stream.write(b"whole")
    stream.close()
    assert synced == ["cells", "whole"]
    storage.sync_directory("")
    assert synced == ["cells", "whole", "directory"]


def test_a_replaced_file_is_synced_before_its_name(tmp_path: Path, synced: list[str]) -> None:
    replace(disk.DiskStorage(tmp_path), "state", b"new")
    assert synced == ["new", "directory"]
    assert (tmp_path / "state").read_bytes() == b"new"
