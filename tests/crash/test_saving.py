"""Saving a file of one's own on a disk: killed in mid-write, no space, no permission. The old file is byte-equal."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_disk import PAGE, Disk

import journal
from agents_adapter import atomic_json, atomic_parquet, atomic_write
from agents_adapter.saving import backups

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.crash

SAVER = """
import sys
from agents_adapter import atomic_write

print("ready", flush=True)
for number in range(10**9):
    with atomic_write("results.bin", "wb", backups=2) as file:
        file.write(number.to_bytes(8, "little"))
        for _ in range(60):
            file.write(number.to_bytes(8, "little") * 4096)
    print(number, flush=True)
"""


def whole(data: bytes) -> int:
    """The number that one save wrote everywhere."""
    assert len(data) == 8 * (1 + 60 * 4096) and data == data[:8] * (len(data) // 8)
    return int.from_bytes(data[:8], "little")


def drafts(place: Path) -> list[str]:
    return [name for name in os.listdir(place) if name.startswith(".")]


def test_killed_in_mid_write_the_file_is_whole_and_the_next_save_sweeps(tmp_path: Path, campaign: Any) -> None:
    """SIGKILL at random moments of saves of 2 MB; `JOURNAL_KILLS` says how many."""
    kills = campaign.size("JOURNAL_KILLS", 15)
    left = 0
    with atomic_write(tmp_path / "results.bin", "wb") as file:
        file.write(bytes(8) * (1 + 60 * 4096))
    for _ in range(kills):
        process = subprocess.Popen(
            [sys.executable, "-c", SAVER],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        with process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            time.sleep(campaign.random.uniform(0.0, 0.15))
            process.kill()
            said = process.stdout.read().split()
        last = int(said[-1]) if said else -1
        left += len(drafts(tmp_path))
        number = whole((tmp_path / "results.bin").read_bytes())
        assert last == -1 or number in (last, last + 1), "what was said to be saved is there, or the one after it"
        for one in backups(tmp_path / "results.bin"):  # None yet, where the first save was killed.
            whole(one.read_bytes())
        with atomic_write(tmp_path / "results.bin", "wb", backups=2) as file:
            file.write(bytes(8) * (1 + 60 * 4096))
        assert drafts(tmp_path) == []
        assert len(backups(tmp_path / "results.bin")) <= 2
    assert left, "no kill fell into a save: nothing was tried"
    campaign.report(kills=kills, drafts_swept=left)


def test_a_draft_of_a_living_process_is_left_alone(tmp_path: Path) -> None:
    code = """
from agents_adapter import atomic_write
with atomic_write("a.txt") as file:
    file.write("theirs")
    file.flush()
    print("open", flush=True)
    input()
"""
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    with process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline() == "open\n"
        with atomic_write(tmp_path / "a.txt") as file:
            file.write("ours")
        assert (tmp_path / "a.txt").read_text() == "ours" and len(drafts(tmp_path)) == 1
        process.communicate("\n", timeout=60)
    assert process.returncode == 0
    assert (tmp_path / "a.txt").read_text() == "theirs" and drafts(tmp_path) == []


def digest(place: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in place.iterdir()}


@pytest.mark.parametrize("left", [0, PAGE, 20 * PAGE, 110 * PAGE])
def test_on_a_full_disk_the_old_files_are_byte_equal(disk: Disk, left: int) -> None:
    """From no space at all to space for the file and not for its backup."""
    place = disk.place / "own"

    def save(name: str, more: int) -> None:
        if name == "a.json":
            atomic_json(place / name, {"x": list(range(60_000)), "more": more}, backups=2)
        elif name == "b.parquet":
            atomic_parquet(place / name, {"x": np.random.default_rng(more).normal(size=50_000)}, backups=2)
        else:
            with atomic_write(place / name, backups=2) as file:
                file.write("c" * 400_000 + str(more))

    names = ("a.json", "b.parquet", "c.txt")
    for name in names:
        save(name, 1)
        save(name, 2)
    disk.fill(0)
    os.truncate(disk.ballast, disk.ballast.stat().st_size - left)  # Of a reserve for root nothing is left either.
    before = digest(place)
    for name in names:
        with pytest.raises(journal.DiskFull) as raised:
            save(name, 3)
        text = str(raised.value)
        assert "\n" not in text and f"no space left to save {place / name}" in text and "free some space" in text
        assert digest(place) == before, "the old file, its backup, and nothing else"
    disk.free()
    for name in names:
        save(name, 3)
        save(name, 4)
        assert len(backups(place / name)) == 2
    assert json.loads((place / "a.json").read_text())["more"] == 4


UNPRIVILEGED = """
import os, sys
import journal
from agents_adapter import atomic_json
if os.geteuid() == 0:  # Who may do everything is told nothing.
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    atomic_json(sys.argv[1], "new", backups=1)
except journal.JournalFailed as error:
    print(error)
    sys.exit(3)
"""


@pytest.mark.parametrize("locked", ["the directory", "the file", "the directory above"])
def test_without_permission_the_old_file_is_byte_equal(tmp_path: Path, locked: str) -> None:
    """A file that its owner made read-only is not replaced either, though a rename would be allowed to."""
    tmp_path.chmod(0o755)
    for above in tmp_path.parents[:2]:
        above.chmod(above.stat().st_mode | 0o011)
    place = tmp_path / "own"
    place.mkdir()
    path = place / "deeper" / "a.json" if locked == "the directory above" else place / "a.json"
    if path.parent == place:
        path.write_text('"old"')
        path.chmod(0o644 if locked == "the directory" else 0o444)
    place.chmod(0o777 if locked == "the file" else 0o555)
    try:
        done = subprocess.run(
            [sys.executable, "-c", UNPRIVILEGED, path],
            env=os.environ | {"PYTHONPATH": str(ROOT)}, cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    finally:
        place.chmod(0o755)
    assert done.returncode == 3, done
    assert done.stdout.count("\n") == 1 and f"saving {path} failed: Permission denied" in done.stdout
    assert sorted(os.listdir(place)) == (["a.json"] if path.parent == place else [])
    assert path.parent != place or path.read_text() == '"old"'
