"""A saved file is the old one or the new one, whole: whatever fails, wherever a process dies or the power is cut."""

from __future__ import annotations

import errno
import json
import os
import stat
import threading
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import journal
from agents_adapter import atomic_json, atomic_parquet, atomic_write
from agents_adapter.saving import backups, saved
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage

NAME = "results.json"
OLD, NEW = b"old" * 3000, b"new!" * 5000


def save(storage: Storage, data: bytes, keep: int = 0) -> None:
    with saved(storage, NAME, keep=keep) as file:
        for at in range(0, len(data), 7000):
            file.write(data[at : at + 7000])


def once_saved(keep: int) -> MemoryStorage:
    storage = MemoryStorage()
    save(storage, b"older", keep)
    save(storage, OLD, keep)
    return storage


def steps(keep: int) -> list[tuple[str, str]]:
    """The operations of one save over an old file."""
    faulty = FaultyStorage(once_saved(keep))
    save(faulty, NEW, keep)
    return faulty.operations


def others(storage: Storage) -> set[str]:
    return {name for name in storage.list("") if name != NAME and ".backup-" not in name}


@pytest.mark.parametrize("keep", [0, 1, 2])
def test_whichever_step_fails_it_is_the_old_or_the_new_one_and_no_draft_stays(keep: int) -> None:
    for nth, (kind, _) in enumerate(steps(keep), 1):
        faulty = FaultyStorage(once_saved(keep))
        faulty.fail(nth=nth, error=errno.EIO, tear=True)
        try:
            save(faulty, NEW, keep)
            expected = NEW  # What failed is not needed: looking for drafts, removing a backup too many.
        except journal.JournalFailed as error:
            assert "\n" not in str(error) and NAME in str(error)
            expected = NEW if "is the new one" in str(error) else OLD
            assert kind in CHANGES or kind in ("list", "size", "read")
        assert faulty.inner.read(NAME) == expected, (nth, kind)
        save(faulty.inner, NEW, keep)
        assert not others(faulty.inner), (nth, kind)
        if keep:
            saves = [faulty.inner.read(name) for name in faulty.inner.list("") if ".backup-" in name]
            assert len(saves) == keep and set(saves) <= {b"older", OLD, NEW}


@pytest.mark.parametrize("keep", [0, 2])
def test_killed_before_each_step_it_is_the_old_or_the_new_one_and_the_next_save_sweeps(keep: int) -> None:
    outcomes = set()
    for nth, (kind, path) in enumerate(steps(keep), 1):
        faulty = FaultyStorage(once_saved(keep))
        faulty.fail(nth=nth, kill=True, tear=True)
        with pytest.raises(Killed):
            save(faulty, NEW, keep)
        after = faulty.inner.kill()  # type: ignore[attr-defined]
        assert after.read(NAME) in (OLD, NEW), (nth, kind, path)
        outcomes |= {(after.read(NAME) == NEW, bool(others(after)))}
        save(after, NEW, keep)
        assert after.read(NAME) == NEW and not others(after)
    assert {(False, False), (False, True), (True, False)} <= outcomes


@pytest.mark.parametrize("keep", [0, 2])
def test_a_power_cut_at_each_step_leaves_the_old_or_the_new_one_and_a_mix_never(keep: int) -> None:
    count = len(steps(keep))
    seen = set()
    for nth in range(1, count + 1):
        faulty = FaultyStorage(once_saved(keep))
        faulty.fail(nth=nth, kill=True, tear=True)
        with pytest.raises(Killed):
            save(faulty, NEW, keep)
        for seed in range(20):
            after = faulty.inner.crash(Random(seed))  # type: ignore[attr-defined]
            seen.add(after.read(NAME))
            assert after.read(NAME) in (OLD, NEW), (nth, seed)
            kept = [after.read(name) for name in after.list("") if ".backup-" in name]
            assert set(kept) <= {b"older", OLD} and (not keep or b"older" in kept), (nth, seed)
            assert not keep or after.read(NAME) == OLD or OLD in kept, "the backup is durable before the new one"
            save(after, NEW, keep)
            assert not others(after)
    assert seen == {OLD, NEW}


def test_what_was_saved_survives_a_power_cut_when_the_block_has_ended() -> None:
    for seed in range(20):
        storage = MemoryStorage()
        save(storage, OLD)
        assert storage.crash(Random(seed)).read(NAME) == OLD
        save(storage, NEW, keep=1)
        after = storage.crash(Random(seed))
        assert after.read(NAME) == NEW and after.read(f"{NAME}.backup-1") == OLD


def test_a_full_disk_is_said_and_an_error_of_the_block_is_its_own() -> None:
    faulty = FaultyStorage(once_saved(0))
    faulty.fail("write", error=errno.ENOSPC)
    with pytest.raises(journal.DiskFull, match=r"no space left to save memory/results.json: it is as it was; free"):
        save(faulty, NEW)
    for error in (KeyboardInterrupt(), OSError(errno.EIO, "of something else"), ValueError("mine")):
        with pytest.raises(type(error)) as raised, saved(faulty, NAME) as file:
            file.write(b"half")
            raise error
        assert raised.value is error
        assert faulty.inner.read(NAME) == OLD and not others(faulty.inner)


# -- on a disk ---------------------------------------------------------------------------------------------------------


def test_json_parquet_text_and_bytes_come_back(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "é"], "n": np.float32(1.5), "i": np.int64(3), "v": np.arange(3), 7: {"x": ()}}
    atomic_json(tmp_path / "r.json", value)
    assert json.loads((tmp_path / "r.json").read_text()) == {
        "a": [1, 2.5, None, True, "é"], "n": 1.5, "i": 3, "v": [0, 1, 2], "7": {"x": []},
    }  # fmt: skip
    frame = pd.DataFrame({"x": [1.5, 2.5], "name": ["a", "b"]}, index=[3, 4])
    atomic_parquet(tmp_path / "r.parquet", frame)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "r.parquet"), frame)
    for table in (pa.table({"x": [1]}), {"x": [1]}):
        atomic_parquet(tmp_path / "r.parquet", table)
        assert pq.read_table(tmp_path / "r.parquet").to_pydict() == {"x": [1]}
    with atomic_write(tmp_path / "run:1.txt") as text:
        text.write("é\r\n")
    assert (tmp_path / "run:1.txt").read_bytes() == "é\r\n".encode()
    with atomic_write(tmp_path / "w.npz", "wb") as file:
        np.savez(file, w=np.arange(5))
        file.close()  # As some libraries do.
    assert np.load(tmp_path / "w.npz")["w"].tolist() == [0, 1, 2, 3, 4]
    assert sorted(os.listdir(tmp_path)) == ["r.json", "r.parquet", "run:1.txt", "w.npz"]


CYCLE: list[Any] = []
CYCLE.append(CYCLE)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": {"b": [1, float("nan")]}}, r"it\['a'\]\['b'\]\[1\] is nan"),
        ({"a": np.array([1.0, np.inf])}, r"it\['a'\]\[1\] is inf"),
        ({"a": {1, 2}}, r"it\['a'\] is of type set"),
        ({"a": b"x"}, "of type bytes"),
        ({1: 1, "1": 2}, "is there twice"),
        ({(1, 2): 1}, r"the key \(1, 2\)"),
        (object(), "it is of type object"),
        (CYCLE, "holds itself"),
    ],
)
def test_what_json_does_not_hold_is_an_error_before_anything_is_touched(
    value: Any, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    atomic_json(tmp_path / NAME, "old")
    monkeypatch.setattr(DiskStorage, "draft", None)
    with pytest.raises(journal.EventRejected, match=told) as raised:
        atomic_json(tmp_path / NAME, value)
    assert "\n" not in str(raised.value)
    assert (tmp_path / NAME).read_text() == '"old"\n'


@pytest.mark.parametrize(
    "table",
    [
        {"a": [1, "x"]},
        {"a": [1], "b": [1, 2]},
        3,
        pd.DataFrame({"a": [1, "x", object()]}),
        pa.table({"s": pa.array([{}], pa.struct([]))}),
    ],
)
def test_what_parquet_does_not_hold_is_an_error_and_the_old_file_stays(table: Any, tmp_path: Path) -> None:
    atomic_parquet(tmp_path / "t.parquet", {"x": [1]})
    with pytest.raises(journal.EventRejected, match="no table that Parquet holds") as raised:
        atomic_parquet(tmp_path / "t.parquet", table)
    assert "\n" not in str(raised.value)
    assert pq.read_table(tmp_path / "t.parquet").to_pydict() == {"x": [1]}
    assert os.listdir(tmp_path) == ["t.parquet"]


@pytest.mark.parametrize(
    ("path", "options", "told"),
    [
        ("x.json", {"mode": "a"}, "mode is 'a'"),
        ("x.json", {"backups": -1}, "backups"),
        (3, {}, "path is 3"),
        ("a\0b", {}, "cannot be saved"),
    ],
)
def test_bad_arguments_are_refused(path: Any, options: Any, told: str) -> None:
    with pytest.raises(journal.EventRejected, match=told):
        atomic_write(path, **options)


def test_the_newest_backups_stay_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / NAME
    for number in range(13):
        atomic_json(path, number, backups=3)
    assert [one.name for one in backups(path)] == [f"{NAME}.backup-{number}" for number in (10, 11, 12)]
    assert [json.loads(one.read_text()) for one in backups(path)] == [9, 10, 11]
    with atomic_write(path, "wb", backups=3) as file:
        file.write(backups(path)[-1].read_bytes())
    assert json.loads(path.read_text()) == 11 and len(backups(path)) == 3
    atomic_json(path, 5)
    assert len(backups(path)) == 3, "without backups= none is made, and none removed"
    (tmp_path / "deep" / "er" / f"{NAME}.backup-new").touch()
    assert len(backups(path)) == 3


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o666, 0o755])
def test_the_old_files_permissions_stay_and_a_new_one_has_the_umasks(tmp_path: Path, mode: int) -> None:
    before = os.umask(0o027)
    try:
        atomic_json(tmp_path / "new" / NAME, 1)
        assert stat.S_IMODE((tmp_path / "new" / NAME).stat().st_mode) == 0o640
        assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o750
        (tmp_path / NAME).touch()
        (tmp_path / NAME).chmod(mode)
        atomic_json(tmp_path / NAME, 1, backups=1)
    finally:
        os.umask(before)
    assert {stat.S_IMODE(one.stat().st_mode) for one in tmp_path.glob(f"{NAME}*")} == {mode}


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "latest").symlink_to("runs/7.json")
    for value in (1, 2):  # First it leads to nothing.
        atomic_json(tmp_path / "latest", value, backups=1)
        assert json.loads((tmp_path / "runs" / "7.json").read_text()) == value
    assert (tmp_path / "latest").is_symlink()
    assert sorted(os.listdir(tmp_path / "runs")) == ["7.json", "7.json.backup-1"]
    assert backups(tmp_path / "latest") == [tmp_path.resolve() / "runs" / "7.json.backup-1"]
    (tmp_path / "round").symlink_to("round")
    with pytest.raises(journal.JournalFailed, match="no regular file"):
        atomic_json(tmp_path / "round", 1)


@pytest.mark.parametrize("name", ["directory", "fifo"])
def test_what_is_no_file_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(journal.JournalFailed, match=f"{name} failed"):
        atomic_json(tmp_path / name, 1)
    assert sorted(os.listdir(tmp_path)) == ["directory", "fifo"]


def test_saves_side_by_side_do_not_mix_and_leave_one_of_them(tmp_path: Path) -> None:
    """Also a draft in the hands of somebody who is alive is never swept, by whomever."""
    failures: list[BaseException] = []

    def write(letter: str) -> None:
        try:
            for _ in range(30):
                with atomic_write(tmp_path / NAME) as file:
                    file.write(letter * 50_000)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(letter,)) for letter in "abcd"]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        if (tmp_path / NAME).exists():
            text = (tmp_path / NAME).read_text()
            assert len(text) == 50_000 and len(set(text)) == 1
    assert not failures
    assert os.listdir(tmp_path) == [NAME]


def test_a_block_inside_a_block_saves_both(tmp_path: Path) -> None:
    with atomic_write(tmp_path / NAME) as outer:
        outer.write("outer")
        with atomic_write(tmp_path / NAME) as inner:
            inner.write("inner")
        assert (tmp_path / NAME).read_text() == "inner"
    assert (tmp_path / NAME).read_text() == "outer"
