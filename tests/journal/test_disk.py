"""The real storage asks the system for every durability that it promises; only a power cut would show it otherwise."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import journal
from journal import segment
from journal.storage import disk, replace
from journal.walk import Walk
from replay.scan import scan


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


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The directories that were synced, by name, in order."""
    seen: list[str] = []
    plain = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (seen.append(Path(f"/proc/self/fd/{fd}").readlink().name), plain(fd)))
    return seen


def test_a_directory_that_exists_is_synced_too_for_its_maker_may_have_died(tmp_path: Path, named: list[str]) -> None:
    """Killed between mkdir and the sync of the directory above, somebody leaves a name that a power cut may take."""
    here = tmp_path.name
    (tmp_path / "a").mkdir()
    storage = disk.DiskStorage(tmp_path / "a" / "b" / "c")
    storage.make_directory("")
    assert named == [here, "a", "b"]
    (tmp_path / "a" / "b" / "c" / "d").mkdir()
    storage.make_directory("d/e")
    assert named[3:] == ["b", "c", "d"]
    storage.make_directory("d/e")
    assert len(named) == 6, "what this storage has synced stays synced"
    (tmp_path / "a" / "b" / "c" / "d" / "e").rmdir()
    storage.make_directory("d/e")
    assert named[6:] == ["b", "c", "d"]
    assert storage.exists("d/e")
    storage.lock("writer.lock").release()
    storage.make_directory("d/e")
    assert len(named) == 12, "without the lock it may be another tree by now"


# -- the directory changes under its writer ----------------------------------------------------------------------------


def test_a_journal_renamed_under_its_writer_stays_its_own(
    tmp_path: Path, small_segments: int, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer begins a journal at the old path: neither puts a file, a segment or a removal into the other's."""
    place, moved = tmp_path / "x", tmp_path / "moved"
    with journal.open(place) as first:
        one = first.agent("first")
        place.rename(moved)
        with journal.open(place) as second:
            other = second.agent("second")
            for step in range(400):
                first.reward(one, 0, step, 1.0)
                second.reward(other, 0, step, 2.0)
            replace(first.storage, "note", b"first")
            first.sync()
            second.sync()
        assert len(first.left) < 5, "its segments are sealed where they are"
    assert not (place / "note").exists() and (moved / "note").read_bytes() == b"first"
    for directory, name, value in ((moved, "first", 1.0), (place, "second", 2.0)):
        storage = disk.DiskStorage(directory)
        events = events_of(storage)
        assert [one.kind for one in events] == ["NameGiven"] + ["Rewarded"] * 400, name
        walk = Walk(storage).run()
        assert walk.promise.events == 401 and not walk.unsealed
        assert {event.value for event in events[1:]} == {value}
    journal.open(moved).close()


# -- links -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("directory", ["segments", "checkpoints", "history", "snapshots", "quarantine"])
def test_a_directory_that_became_a_link_is_refused_and_not_written_through(tmp_path: Path, directory: str) -> None:
    with journal.open(tmp_path / "x") as log:
        log.append(journal.Custom(name="x"))
    inside, outside = tmp_path / "x" / directory, tmp_path / "outside"
    inside.mkdir(exist_ok=True)
    (inside / "unfinished.tmp").write_bytes(b"kept")
    inside.rename(outside)
    inside.symlink_to(outside)
    before = {path.name: path.read_bytes() for path in outside.iterdir()}
    with pytest.raises(journal.JournalFailed, match=f"{directory} is a link, and a journal follows none") as refused:
        journal.open(tmp_path / "x")
    assert "\n" not in str(refused.value)
    assert {path.name: path.read_bytes() for path in outside.iterdir()} == before
    inside.unlink()
    outside.rename(inside)
    with journal.open(tmp_path / "x") as log:
        assert log.next_seq == 1


def test_a_journal_that_lies_behind_a_link_is_one(tmp_path: Path) -> None:
    """The link to the journal's own directory is the user's, who knows where it leads."""
    (tmp_path / "large").mkdir()
    (tmp_path / "x").symlink_to(tmp_path / "large")
    with journal.open(tmp_path / "x") as log:
        log.append(journal.Custom(name="x"))
    assert (tmp_path / "large" / segment.path_of(0)).exists()


def test_where_no_map_is_to_be_had_segments_are_written_by_pwrite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process may have so many maps and no more, and only so much address space."""
    plain = mmap.mmap

    def refused(fd: int, size: int, **options: int) -> mmap.mmap:
        if fd == -1:  # Memory without a file, which reading asks for.
            return plain(fd, size, **options)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", refused)
    with journal.open(tmp_path) as log:
        agent = log.agent("PPO")
        for step in range(9):
            log.reward(agent, 0, step, 0.5)
        assert not log.tail()[0].mapped
    assert [batch.seq[-1] for batch in scan(disk.DiskStorage(tmp_path))] == [9]


def test_looking_after_a_file_before_its_sync_does_not_ask_for_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who asks makes the next write take a time of its own (Linux 6.13), and its sync wait for one write more."""
    file = disk.DiskStorage(tmp_path).create("a", 10)
    with monkeypatch.context() as patch:
        for name in ("fstat", "stat", "lstat"):
            patch.setattr(os, name, lambda *_, **__: pytest.fail("it asks"))
        assert file.check(10) is None
        assert "10 bytes instead of 11" in str(file.check(11))
    (tmp_path / "a").unlink()
    assert "deleted" in str(file.check(10))
    file.close()


def test_what_is_to_be_synced_soon_is_begun_piece_by_piece_and_nothing_else_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One byte of each piece that Linux keeps together, so that no page falls out of memory."""
    asked: list[tuple[int, int, int]] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda fd, *what: asked.append(what))
    piece, file = 1 << 16, disk.DiskStorage(tmp_path).create("a", 1 << 18)
    for offset, length, begun in (
        (0, 1, [0]),
        (64, 0, [0]),
        (piece - 1, 1, [0]),
        (piece - 1, 2, [0, piece]),
        (piece, piece, [piece]),
        (100, 2 * piece, [0, piece, 2 * piece]),
    ):
        file.hasten(offset, length)
        assert asked == [(at, 1, os.POSIX_FADV_DONTNEED) for at in begun], (offset, length)
        asked.clear()

    def refused(*_: int) -> None:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    monkeypatch.setattr(os, "posix_fadvise", refused)
    file.hasten(0, 10)
    monkeypatch.setattr(disk, "_ADVICE", None)  # A system that knows no such advice.
    monkeypatch.delattr(os, "posix_fadvise")
    file.hasten(0, 10)
    file.close()


def test_a_file_that_has_another_name_left_is_not_deleted(tmp_path: Path) -> None:
    """Also where the kernel has only forgotten the one that it was opened by, as network file systems and FUSE do."""
    file = disk.DiskStorage(tmp_path).create("a", 10)
    os.link(tmp_path / "a", tmp_path / "b")
    (tmp_path / "a").unlink()
    assert file.check(10) is None
    (tmp_path / "b").unlink()
    assert "deleted" in str(file.check(10))
    file.close()


class Library:
    """A C library whose statx, if it has one, notes what it is asked and refuses."""

    def __init__(self, asked: list[Any] | None) -> None:
        if asked is not None:
            self.statx = lambda *arguments: (asked.append(arguments[1:-1]), -1)[1]


@pytest.mark.parametrize("old", [False, True])
def test_where_statx_is_not_to_be_had_a_deleted_and_a_cut_file_are_noticed_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: bool
) -> None:
    """An old C library; a kernel that does not know it, or a sandbox that does not let it through."""
    asked = list[Any]()
    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library(None if old else asked))
    file = disk.DiskStorage(tmp_path).create("a", 10)
    assert file.check(10) is None
    assert "10 bytes instead of 11" in str(file.check(11))
    (tmp_path / "a").unlink()
    assert "deleted" in str(file.check(10))
    names_and_bytes = 0x4 | 0x200
    assert asked == ([] if old else [(b"", 0x1000, names_and_bytes)] * 3), "no times"
    file.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        file.check(10)


@pytest.mark.parametrize("platform", ["darwin", "zos"])
def test_on_another_system_python_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, platform: str) -> None:
    """A function of that name may be another one there."""
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: pytest.fail("the C library"))
    file = disk.DiskStorage(tmp_path).create("a", 10)
    assert file.check(10) is None and "10 bytes" in str(file.check(11))
    file.close()


def test_where_the_c_library_cannot_be_opened_python_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def static(name: None) -> None:
        raise OSError(errno.ENOENT, "no dynamic loading")

    monkeypatch.setattr(ctypes, "CDLL", static)
    file = disk.DiskStorage(tmp_path).create("a", 10)
    assert file.check(10) is None and "10 bytes" in str(file.check(11))
    file.close()


@pytest.mark.parametrize("path", ["segments/00000000.seg", "journal.json", "writer.lock"])
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(tmp_path: Path, path: str) -> None:
    """Who opened it waited for somebody to write into it, for ever."""
    with journal.open(tmp_path) as log:
        log.append(journal.Custom(name="x"))
    (tmp_path / path).unlink()
    os.mkfifo(tmp_path / path)
    done = subprocess.run(
        [sys.executable, "-m", "replay", "verify", tmp_path], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == (0 if path == "writer.lock" else 2), done.stderr
    assert len(done.stderr.splitlines()) == (0 if path == "writer.lock" else 1)
