"""The contract of `journal.storage`: every storage keeps it, so that what is tested in memory holds on a disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from journal.storage import LockHeld, Storage, inside, replace, replacing
from journal.storage.disk import DiskStorage
from journal.storage.faulty import FaultyStorage, Killed
from journal.storage.memory import MemoryStorage


@pytest.fixture(params=["disk", "memory", "memory, not mappable", "faulty without faults"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    made: dict[str, Callable[[], Storage]] = {
        "disk": lambda: DiskStorage(tmp_path / "tree"),
        "memory": MemoryStorage,
        "memory, not mappable": lambda: MemoryStorage(mappable=False),
        "faulty without faults": lambda: FaultyStorage(MemoryStorage()),
    }
    storage = made[request.param]()
    storage.make_directory("")
    return storage


def test_a_new_file_is_zero_and_has_its_size(storage: Storage) -> None:
    for zeros in (True, False):
        file = storage.create("a", 1000, zeros=zeros)
        assert file.read(0, 2000) == bytes(1000)
        assert storage.size("a") == 1000
        assert file.check(1000) is None
        file.close()


def test_bytes_written_are_read_by_everybody_at_once(storage: Storage) -> None:
    file = storage.create("a", 100)
    file.write(10, b"hello")
    file.write(98, memoryview(b"beyond the end"))
    file.hasten(10, 102)
    assert file.read(10, 5) == storage.read("a", 10, 5) == b"hello"
    assert storage.size("a") == 112 and storage.read("a", 98) == b"beyond the end"
    assert storage.read("a", 500) == storage.read("a", 500, 7) == b""
    assert storage.read("a", 110, 1000) == b"nd"
    memory = bytearray(b"x" * 120)
    assert storage.read_into("a", memory) == 112 and memory == storage.read("a") + b"x" * 8
    again = storage.open("a")
    assert again.read(10, 5) == b"hello"
    again.close()
    file.sync()
    file.close()


def test_truncate_cuts_and_what_grows_again_is_zero(storage: Storage) -> None:
    file = storage.create("a", 4)
    file.write(0, b"abcd")
    file.truncate(2)
    assert storage.read("a") == b"ab"
    file.truncate(4)
    assert storage.read("a") == b"ab\0\0"
    file.close()


def test_a_store_into_the_map_is_a_write(storage: Storage) -> None:
    file = storage.create("a", 4096)
    view = file.map()
    if view is None:
        pytest.skip("this storage does not map")
    view[10:15] = b"store"
    assert storage.read("a", 10, 5) == file.read(10, 5) == b"store"
    file.write(20, b"write")
    assert bytes(view[20:25]) == b"write"
    file.truncate(2048)
    assert storage.size("a") == 2048
    piece = view[0:10]
    file.close()  # Also while somebody still holds a slice.
    piece.release()


def test_an_empty_file_has_no_map(storage: Storage) -> None:
    file = storage.create("a")
    assert file.map() is None
    file.close()


def test_a_closed_file_refuses(storage: Storage) -> None:
    file = storage.create("a", 10)
    file.close()
    file.close()
    for action in (lambda: file.write(0, b"x"), lambda: file.sync(), lambda: file.truncate(0), lambda: file.read(0, 1)):
        with pytest.raises((OSError, ValueError), match="descriptor"):
            action()


def test_check_tells_a_deleted_and_a_changed_file(storage: Storage) -> None:
    file = storage.create("a", 10)
    assert file.check(10) is None
    assert "11 bytes" in str(storage_change(storage, file, 11))
    storage.rename("a", "b")
    assert file.check(11) is None
    storage.remove("b")
    assert "deleted" in str(file.check(11))
    file.close()


def storage_change(storage: Storage, file: object, size: int) -> str | None:
    other = storage.open("a")
    other.truncate(size)
    other.close()
    return file.check(10)  # type: ignore[attr-defined, no-any-return]


def test_rename_replaces_and_an_open_file_goes_with_its_name(storage: Storage) -> None:
    replace(storage, "old", b"old")
    file = storage.create("new.tmp")
    file.write(0, b"new")
    storage.rename("new.tmp", "old")
    file.write(3, b"er")
    file.close()
    assert storage.read("old") == b"newer"
    assert storage.list("") == ["old"]


def test_directories_and_lists(storage: Storage) -> None:
    assert storage.list("segments") == []
    storage.make_directory("segments")
    storage.make_directory("segments")
    storage.make_directory("a/b/c")
    replace(storage, "segments/2", b"")
    replace(storage, "segments/1", b"")
    assert storage.list("segments") == ["1", "2"]
    assert storage.list("") == ["a", "segments"]
    assert storage.list("a") == ["b"]
    assert storage.exists("a/b") and storage.exists("segments/1") and not storage.exists("segments/3")
    storage.remove("segments/1")
    assert storage.list("segments") == ["2"]
    storage.sync_directory("segments")
    with pytest.raises(OSError):
        storage.make_directory("segments/2")
    with pytest.raises(NotADirectoryError):
        storage.list("segments/2")


@pytest.mark.parametrize("action", ["read", "size", "open", "remove", "rename", "sync_directory"])
def test_what_is_not_there_is_an_os_error(storage: Storage, action: str) -> None:
    with pytest.raises(FileNotFoundError):
        getattr(storage, action)(*("absent", "other")[: 2 if action == "rename" else 1])
    with pytest.raises(FileNotFoundError):
        storage.create("absent/file")


def test_a_directory_is_not_read(storage: Storage) -> None:
    storage.make_directory("d")
    with pytest.raises(IsADirectoryError):
        storage.read("d")


@pytest.mark.parametrize("path", ["", "/etc/passwd", "../x", "a/../b", "a//b", "./a", "a\\b", "c:x", "a\0b", "a/"])
def test_no_path_leads_outside(storage: Storage, path: str) -> None:
    with pytest.raises(ValueError, match="does not stay inside"):
        inside(path)
    if path:
        with pytest.raises(ValueError, match="does not stay inside"):
            storage.create(path)


def test_one_lock_at_a_time(storage: Storage) -> None:
    assert not storage.locked("writer.lock")
    lock = storage.lock("writer.lock")
    assert storage.locked("writer.lock")
    with pytest.raises(LockHeld) as held:
        storage.lock("writer.lock")
    assert held.value.pids == (os.getpid(),)
    lock.release()
    lock.release()
    assert not storage.locked("writer.lock")
    storage.lock("writer.lock").release()
    assert storage.exists("writer.lock")


def test_replace_is_all_or_nothing(storage: Storage) -> None:
    storage.make_directory("d")
    replace(storage, "d/a", b"one")
    replace(storage, "d/a", memoryview(b"two"))
    with pytest.raises(RuntimeError, match="half-way"), replacing(storage, "d/a") as stream:
        stream.write(b"three")
        raise RuntimeError("half-way")
    assert storage.read("d/a") == b"two"
    assert storage.list("d") == ["a"]


def test_a_stream_can_seek_as_libraries_do(storage: Storage) -> None:
    with replacing(storage, "a") as stream:
        stream.write(b"....")
        at = stream.tell()
        stream.write(b"tail")
        stream.seek(0)
        stream.write(b"head")
        stream.seek(0, 2)
        assert (at, stream.tell()) == (4, 8)
    assert storage.read("a") == b"headtail"


def test_files_and_directories_are_private(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "x" / "y")
    storage.make_directory("d")
    replace(storage, "d/a", b"secret")
    storage.create("b", 1).close()
    storage.lock("writer.lock").release()
    for path in ("d/a", "b", "writer.lock"):
        assert (tmp_path / "x" / "y" / path).stat().st_mode & 0o777 == 0o600
    for directory in ("x", "x/y", "x/y/d"):
        assert (tmp_path / directory).stat().st_mode & 0o777 == 0o700


def test_no_link_leads_out_of_the_tree(tmp_path: Path) -> None:
    (tmp_path / "outside").write_bytes(b"secret")
    storage = DiskStorage(tmp_path / "tree")
    storage.make_directory("")
    (tmp_path / "tree" / "link").symlink_to(tmp_path / "outside")
    for action in (storage.read, storage.open, storage.create, storage.stream, storage.lock):
        with pytest.raises(OSError):
            action("link")
    assert (tmp_path / "outside").read_bytes() == b"secret"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "file").write_bytes(b"secret")
    (tmp_path / "tree" / "d").symlink_to(tmp_path / "elsewhere")
    actions: list[Callable[[str], object]] = [
        *(storage.read, storage.open, storage.create, storage.stream, storage.lock, storage.remove),
        *(storage.size, storage.exists, storage.make_directory, lambda path: storage.rename(path, "mine")),
        lambda path: storage.list("d"),
        lambda path: storage.sync_directory("d"),
        lambda path: storage.make_directory("d"),
    ]
    for act in actions:
        with pytest.raises(OSError, match="d is a link, and a journal follows none"):
            act("d/file")
    assert [path.read_bytes() for path in (tmp_path / "elsewhere").iterdir()] == [b"secret"]


def test_a_create_that_fails_leaves_no_file_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a spare on a full disk would keep the space that others need."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "full")

    storage = DiskStorage(tmp_path)
    monkeypatch.setattr(os, "pwrite", full)
    monkeypatch.setattr(os, "posix_fallocate", full)
    for zeros in (True, False):
        with pytest.raises(OSError):
            storage.create("a", 1 << 20, zeros=zeros)
        assert storage.list("") == []


# -- a power cut, in memory ------------------------------------------------------------------------------------------


def outcomes(storage: MemoryStorage, path: str, count: int = 60) -> set[bytes | None]:
    found: set[bytes | None] = set()
    for seed in range(count):
        after = storage.crash(Random(seed))
        found.add(after.read(path) if after.exists(path) else None)
    return found


def test_what_was_synced_survives_every_cut() -> None:
    storage = MemoryStorage()
    file = storage.create("a", 4)
    file.write(0, b"sync")
    file.sync()
    storage.sync_directory("")
    assert outcomes(storage, "a") == {b"sync"}


def test_a_name_survives_only_its_directorys_sync_and_bytes_only_the_files() -> None:
    storage = MemoryStorage()
    file = storage.create("a")
    file.write(0, b"x")
    file.sync()
    assert outcomes(storage, "a") == {None, b"x"}
    storage.sync_directory("")
    file.write(0, b"y")
    assert outcomes(storage, "a") == {b"x", b"y"}


def test_sectors_survive_one_by_one_and_never_by_halves() -> None:
    storage = MemoryStorage()
    file = storage.create("a", 1024)
    file.sync()
    storage.sync_directory("")
    file.write(0, b"A" * 512 + b"B" * 512)
    zero, one, two = bytes(512), b"A" * 512, b"B" * 512
    assert outcomes(storage, "a") == {zero + zero, one + zero, zero + two, one + two}


def test_sizes_survive_or_not() -> None:
    storage = MemoryStorage()
    file = storage.create("a", 4)
    file.sync()
    storage.sync_directory("")
    file.truncate(2)
    assert {len(found or b"") for found in outcomes(storage, "a")} == {2, 4}


def test_a_rename_is_done_or_not_done() -> None:
    storage = MemoryStorage()
    replace(storage, "a", b"old")
    file = storage.create("a.tmp")
    file.write(0, b"new")
    file.sync()
    storage.rename("a.tmp", "a")
    assert outcomes(storage, "a") == {b"old", b"new"}
    storage.sync_directory("")
    assert outcomes(storage, "a") == {b"new"}


def test_a_removed_file_may_come_back_until_the_directory_is_synced() -> None:
    storage = MemoryStorage()
    replace(storage, "a", b"x")
    storage.remove("a")
    assert outcomes(storage, "a") == {None, b"x"}
    storage.sync_directory("")
    assert outcomes(storage, "a") == {None}


def test_replace_survives_every_cut_of_its_steps() -> None:
    """Killed before each of its operations and then cut: old or new, never between, and new once it has returned."""
    for nth in range(1, 30):
        faulty = FaultyStorage(MemoryStorage())
        replace(faulty, "a", b"old" * 400)
        faulty.fail(nth=nth, kill=True)
        done = True
        try:
            replace(faulty, "a", b"new" * 500)
        except Killed:
            done = False
        inner = faulty.inner
        assert isinstance(inner, MemoryStorage)
        assert outcomes(inner, "a") <= ({b"new" * 500} if done else {b"old" * 400, b"new" * 500})
        if done:
            return
    raise AssertionError("replace never ended")


def test_a_kill_keeps_what_a_cut_does_not() -> None:
    storage = MemoryStorage()
    file = storage.create("a", 4)
    lock = storage.lock("writer.lock")
    file.write(0, b"live")
    after = storage.kill()
    assert after.read("a") == b"live"
    assert not after.locked("writer.lock")
    assert outcomes(after, "a") >= {None}
    after.open("a").write(0, b"else")
    assert storage.read("a") == b"live"
    assert storage.locked("writer.lock")
    lock.release()


def test_writeback_only_adds_to_what_survives() -> None:
    storage = MemoryStorage()
    file = storage.create("a", 2048)
    file.sync()
    storage.sync_directory("")
    file.write(0, b"1" * 2048)
    storage.writeback(Random(1))
    file.write(0, b"2" * 2048)
    sectors = {bytes(found[at : at + 1]) for found in outcomes(storage, "a") if found for at in range(0, 2048, 512)}
    assert sectors == {b"\0", b"1", b"2"}


# -- faults ----------------------------------------------------------------------------------------------------------


def test_the_nth_operation_fails_and_only_that() -> None:
    faulty = FaultyStorage(MemoryStorage())
    file = faulty.create("a", 8)
    faulty.fail("write", nth=2, error=errno.ENOSPC)
    file.write(0, b"1")
    with pytest.raises(OSError) as caught:
        file.write(0, b"2")
    assert caught.value.errno == errno.ENOSPC
    file.write(4, b"3")
    assert faulty.read("a") == b"1\0\0\x003\0\0\0"


def test_faults_keep_to_their_path_and_times() -> None:
    faulty = FaultyStorage(MemoryStorage())
    one, other = faulty.create("one"), faulty.create("other")
    faulty.fail("sync", path="o*r", times=2)
    one.sync()
    for _ in range(2):
        with pytest.raises(OSError):
            other.sync()
    other.sync()
    faulty.fail("sync")
    faulty.heal()
    one.sync()


def test_a_torn_write_stores_whole_sectors() -> None:
    faulty = FaultyStorage(MemoryStorage())
    file = faulty.create("a", 4096)
    faulty.fail("write", tear=True, times=2)
    with pytest.raises(OSError):
        file.write(100, b"x" * 2000)
    assert faulty.read("a") == (bytes(100) + b"x" * 924).ljust(4096, b"\0")
    with pytest.raises(OSError):
        file.write(2048, b"y" * 64)
    assert b"y" not in faulty.read("a")


def test_a_killed_process_does_nothing_more() -> None:
    faulty = FaultyStorage(MemoryStorage())
    file = faulty.create("a", 4)
    faulty.fail("sync", kill=True)
    file.write(0, b"x")
    for action in (file.sync, file.sync, lambda: faulty.remove("a"), lambda: faulty.list("")):
        with pytest.raises(Killed):
            action()
    assert faulty.inner.read("a") == b"x\0\0\0"


def test_an_unknown_operation_is_refused() -> None:
    with pytest.raises(ValueError, match="no such operations"):
        FaultyStorage(MemoryStorage()).fail("fsync")


def test_a_draft_stays_while_it_is_open_and_takes_the_place_of_a_file_only(storage: Storage) -> None:
    draft = storage.draft("a.tmp", "a")
    assert not storage.sweep("a.tmp")
    storage.rename("a.tmp", "a")
    assert not storage.sweep("a")
    draft.close()
    storage.draft("b.tmp", "a").close()
    assert storage.sweep("b.tmp")
    with pytest.raises(FileNotFoundError):
        storage.sweep("b.tmp")
    storage.make_directory("d")
    with pytest.raises(IsADirectoryError):
        storage.draft("d.tmp", "d")
    with pytest.raises(FileExistsError):
        storage.draft("a", "b")
    assert storage.list("") == ["a", "d"]
