"""What recovery does, and in which order: each step is durable before what rests on it is begun.

The power cuts of other files show what the order is for; here the steps are written down, so that none goes unnoticed.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import journal
from journal import recovery
from journal.cell import CELL
from journal.manifest import Base, Drop, Manifest
from journal.recovery import recover
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("small_segments")
FIRST, SECOND, THIRD = (f"segments/0000000{ordinal}.seg" for ordinal in range(3))
LISTING = [
    *(("create", "journal.json.tmp"), ("write", "journal.json.tmp"), ("sync", "journal.json.tmp")),
    *(("rename", "journal.json"), ("sync_directory", "")),
]


def keeping(path: str) -> list[tuple[str, str]]:
    """A torn tail as evidence, durable with its name."""
    temporary = f"{path}.tmp"
    begun = [("make_directory", "quarantine"), ("create", temporary), ("write", temporary), ("sync", temporary)]
    return [*begun, ("rename", path), ("sync_directory", "quarantine")]


def sealing(path: str) -> list[tuple[str, str]]:
    """Only behind a seal that is on disk is the file cut: cut first, it would be neither whole nor sealed."""
    return [("write", path), ("sync", path), ("truncate", path), ("sync", path)]


def unsealed_and_torn(clock: Any) -> MemoryStorage:
    """Two segments that nobody sealed, the second torn, and a third that goes with its torn tail."""
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log.append(journal.Custom(name="promised"))
    log.sync()
    with log._commit._mutex:
        while len(log.left) < 2:
            log.append(journal.Custom(name="x"))
        dead = storage.kill()
    log.close()
    torn = list(Walk(dead))[1]
    dead.open(torn.path).write(torn.offset(torn.end - 1) + 5, b"!!!")
    for name in dead.list("segments"):  # The spare, if it was ready.
        if name > "00000002.seg":
            dead.remove(f"segments/{name}")
    return dead


def steps(storage: Storage) -> list[tuple[str, str]]:
    """What a recovery changes and syncs, in order."""
    faulty = FaultyStorage(storage)
    recover(faulty, Manifest.read(faulty), 7)
    return [one for one in faulty.operations if one[0] in CHANGES]


def closed(clock: Any) -> MemoryStorage:
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        log.append(journal.Custom(name="x"))
    return storage


def test_evidence_then_syncs_then_the_list_then_removals_then_seals(clock: Any) -> None:
    storage = unsealed_and_torn(clock)
    piece = list(Walk(storage))[1]
    assert steps(storage) == [
        *keeping(f"quarantine/00000001-{piece.end}"),
        *keeping("quarantine/00000002-0"),
        *(("sync", FIRST), ("sync", SECOND), ("sync_directory", "segments")),
        *LISTING,
        *(("remove", THIRD), ("sync_directory", "segments")),
        *sealing(FIRST),
        *sealing(SECOND),
    ]


def test_a_clean_journal_costs_two_syncs(clock: Any) -> None:
    """The last seal, and the list: both may be in the page cache only."""
    storage = closed(clock)
    assert steps(storage) == [("sync", FIRST), ("sync_directory", "")]


def test_a_seal_is_cut_free_and_then_temp_files_go(clock: Any) -> None:
    """The truncate behind the seal did not happen."""
    storage = closed(clock)
    storage.open(FIRST).truncate(4096)
    for path in ("journal.json.tmp", "segments/00000001.seg.tmp", "history/0-1.parquet.tmp", "snapshots/twin/x.tmp"):
        storage.make_directory(path.rpartition("/")[0])
        storage.create(path).close()
    assert steps(storage) == [
        *(("sync", FIRST), ("sync_directory", ""), ("truncate", FIRST), ("sync", FIRST)),
        *(("remove", "journal.json.tmp"), ("remove", "segments/00000001.seg.tmp")),
        *(("remove", "history/0-1.parquet.tmp"), ("remove", "snapshots/twin/x.tmp")),
    ]
    walk = Walk(storage).run()
    assert walk.last is not None and storage.size(FIRST) == walk.last.end * CELL + CELL


def test_evidence_that_is_there_is_not_kept_twice(clock: Any) -> None:
    """Killed behind it, recovery finds its own copy; other bytes from the same place get a name of their own."""
    storage = unsealed_and_torn(clock)
    faulty = FaultyStorage(storage)
    faulty.fail("sync", path="segments/*", kill=True)
    with pytest.raises(Killed):
        recover(faulty, Manifest.read(faulty), 7)
    kept = storage.list("quarantine")
    assert len(kept) == 2
    other = storage.kill()
    recover(storage, Manifest.read(storage), 7)
    assert storage.list("quarantine") == kept
    less, more = b"\0", b"\xff" * 8
    for olds in ([less], [more], [less, more]):
        again = other.kill()
        names = [f"quarantine/{kept[0]}{end}" for end in ("", ".1", ".2")]
        for name, content in zip(names, olds, strict=False):
            again.create(name).write(0, content)
        found = recover(again, Manifest.read(again), 7)[0]
        assert found.quarantined == (names[len(olds)], f"quarantine/{kept[1]}")
        assert [again.read(name) for name in names[: len(olds)]] == olds


@pytest.mark.parametrize("excess", [False, True])
def test_no_file_stays_open(clock: Any, tmp_path: Path, excess: bool) -> None:
    """Neither where it ends well nor where a step of a seal, a cut or a sync fails."""
    start = closed(clock) if excess else unsealed_and_torn(clock)
    if excess:
        start.open(FIRST).truncate(4096)
    for nth in range(1, 20):
        root = tmp_path / str(nth)
        (root / "segments").mkdir(parents=True)
        for path in ("journal.json", *(f"segments/{name}" for name in start.list("segments"))):
            (root / path).write_bytes(start.read(path))
        faulty = FaultyStorage(DiskStorage(root))
        faulty.fail("write", "sync", "truncate", path="segments/*", nth=nth)
        before = os.listdir("/proc/self/fd")
        try:
            recover(faulty, Manifest.read(faulty), 7)
        except journal.JournalFailed:
            assert len(os.listdir("/proc/self/fd")) == len(before), nth
        else:
            assert len(os.listdir("/proc/self/fd")) == len(before) and nth > (3 if excess else 10)
            return
    raise AssertionError("recovery never ended")


@pytest.mark.parametrize(
    ("names", "kept_from", "end", "whole"),
    [
        ([], 0, 0, True),
        ([], 0, 10, False),
        (["0-9"], 0, 10, True),
        (["0-4", "5-9"], 0, 10, True),
        (["0-0", "1-9"], 0, 10, True),
        (["5-9"], 5, 10, True),
        (["5-9"], 0, 10, False),
        (["0-4"], 0, 10, False),
        (["0-3", "5-9"], 0, 10, False),
        (["0-8"], 0, 10, False),
        (["0-10"], 0, 10, False),
        (["0-9"], 5, 10, False),  # It reaches into what was dropped: no file of this journal's.
        (["10-9"], 0, 10, False),
        (["12-9", "0-8"], 0, 10, False),
        (["0-9.tmp"], 0, 10, False),
    ],
)
def test_segments_are_leftovers_only_where_history_has_a_file_for_every_event(
    names: list[str], kept_from: int, end: int, whole: bool
) -> None:
    storage = MemoryStorage()
    storage.make_directory("history")
    for name in names:
        storage.create(f"history/{name}" if "." in name else f"history/{name}.parquet").close()
    drops = (Drop(0, kept_from - 1, bytes(24), 1, ()),) if kept_from else ()
    manifest = replace(Manifest.new(bytes(16)), base=Base(1, 0, end, bytes(24)), drops=drops)
    assert recovery._in_history(storage, manifest) == whole


def test_zeros_are_no_evidence_but_what_lies_behind_them_is(clock: Any) -> None:
    """The second segment never reached the disk; the third did."""
    storage = unsealed_and_torn(clock)
    storage.open(SECOND).write(0, bytes(storage.size(SECOND)))
    found = recover(storage, Manifest.read(storage), 7)[0]
    assert found.quarantined == ("quarantine/00000002-0",) and storage.list("quarantine") == ["00000002-0"]
    assert storage.list("segments") == ["00000000.seg"]
