"""Measuring a disk: what is measured was really written, ratios are what they are called, and nothing stays behind."""

from __future__ import annotations

import math
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import journal
import replay
from journal.segment import SIZE_MAX
from journal.speed import levels
from journal.speed.disk import measure_disk
from journal.speed.machine import machine
from journal.speed.rounds import Contender, Figures, measure, ratios
from journal.storage.bare import RECORD, BareFile, GrowingFile
from journal.storage.disk import DiskStorage


def events_of(place: Path) -> tuple[int, float]:
    """How many rewards a fresh reader finds, and their sum, at whatever agent."""
    found = [
        (kind, value)
        for batch in replay.events(place)
        for kind, value in zip(batch["kind"].to_pylist(), batch["value"].to_pylist(), strict=True)
    ]
    rewards = [value for kind, value in found if kind == "Rewarded"]
    return len(rewards), math.fsum(rewards)


@pytest.mark.parametrize(
    ("folder", "name"),
    [("close", levels.KILL), ("group", levels.GROUP), ("always", levels.ALWAYS)],
)
def test_what_a_log_is_timed_with_is_in_it(folder: str, name: str, tmp_path: Path) -> None:
    with ExitStack() as stack:
        for make in (levels.single_events, levels.synced_events):
            for one in make(str(tmp_path), stack):
                if one.name == name:
                    one.run(7)
                    one.run(6)
    given = levels.values()
    count, total = events_of(tmp_path / folder)
    assert (count, total) == (13, pytest.approx(math.fsum(given[:7] + given[:6])))


def test_threads_together_append_all(tmp_path: Path) -> None:
    with ExitStack() as stack:
        (one,) = [one for one in levels.synced_events(str(tmp_path), stack) if one.name == levels.ALWAYS_THREADS]
        one.run(3)
        assert one.events == levels.THREADS
    assert events_of(tmp_path / "always")[0] == 3 * levels.THREADS


@pytest.mark.parametrize("size", [5, levels.BATCH])
def test_batches_are_in_the_log(size: int, tmp_path: Path) -> None:
    with journal.open(tmp_path) as log:
        levels.rewards(log, size)(3)
    count, total = events_of(tmp_path)
    assert (count, total) == (3 * size, pytest.approx(3 * math.fsum(levels.values()[:size])))


def test_every_batch_contender_appends_its_batches(tmp_path: Path) -> None:
    with ExitStack() as stack:
        for one in levels.batches(str(tmp_path), stack):
            assert isinstance(one.before, partial)
            one.before()
            logs = one.before.args[0]
            assert len(logs) == 4
            for log, sync in logs:
                assert log.tail()[0].header.size == SIZE_MAX, "measured is the log as it is after its first minute"
                assert log._spares._zeros, "it did not outrun the disk before"
                assert log.ready and not log.left, "what the last one left to its threads does not fall into this round"
                assert sync == "close" or log.promised.seq == log.next_seq - 1
            one.run(2)
    for folder in ("batches-close", "batches-group", "batches-synced"):
        with journal.open(tmp_path / folder) as log:
            batches, rest = divmod(log.promised.seq, levels.BATCH)
            assert rest == 0, "the agent's name is the first event"
            assert batches > 2 and (batches - 2) % levels._STRIDE == 0, "those that made the segments grow, and two"
    assert (tmp_path / "array").stat().st_size == 2 * levels.BATCH * 8


@pytest.mark.parametrize("sync", ["close", "group", "always"])
def test_a_log_rests_when_its_next_segment_is_ready_the_last_one_sealed_and_all_promised(
    sync: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But where only a close would promise it."""
    states = [(False, [], 9), (True, ["left"], 9), (True, [], 8), (True, [], 9)]
    looked = []

    class Working:
        next_seq = 10

        @property
        def ready(self) -> bool:
            looked.append(states.pop(0) if len(states) > 1 else states[0])
            return looked[-1][0]

        @property
        def left(self) -> list[str]:
            return looked[-1][1]

        @property
        def promised(self) -> Any:
            return SimpleNamespace(seq=looked[-1][2])

    log: Any = Working()
    levels.at_rest([(log, sync)])
    assert len(looked) == (3 if sync == "close" else 4)
    monkeypatch.setattr(levels, "PATIENCE", 0.01)
    states[:] = [(False, [], 9)]
    levels.at_rest([(log, sync)])  # Not for ever.


def test_the_limits_write_what_they_say(tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path)
    with GrowingFile(storage, "grows") as grows, BareFile(storage, "bare", 4 * RECORD.size) as bare:
        grows.records(1, 7, range(3), [0.5, -0.25, 1.5])
        for step in range(5):  # The fifth begins anew at the file's start.
            bare.pwrite(1, 7, step, step / 2)
        bare.store(1, 7, 5, 9.0)
    assert list(RECORD.iter_unpack((tmp_path / "grows").read_bytes())) == [
        (0, 1, 0, 7, 0, 0.5),
        (1, 1, 0, 7, 1, -0.25),
        (2, 1, 0, 7, 2, 1.5),
    ]
    assert [(step, value) for *_, step, value in RECORD.iter_unpack((tmp_path / "bare").read_bytes())] == [
        (4, 2.0),
        (5, 9.0),
        (2, 1.0),
        (3, 1.5),
    ]


def test_a_ratio_compares_with_the_reference_of_the_same_round() -> None:
    assert ratios([2.0, 9.0], [4.0, 3.0]) == (0.5, 3.0)
    assert ratios([1.0], [0.0]) == (1.0,)
    figures = Figures("journal", "by hand", "kill -9", 10, 60.0, 45.0, (0.5, 0.6, 9.0), (0.4, 0.5, 0.6))
    assert (figures.wall_ratio, figures.cpu_ratio) == (0.6, 0.5)
    assert figures.as_document()["events_per_second"] == pytest.approx(1e9 / 60)


def test_all_take_turns_and_only_the_work_is_measured() -> None:
    order: list[str] = []

    def note(name: str) -> Contender:
        return Contender(name, "a", lambda calls: order.append(name), most=1, before=lambda: order.append("before"))

    progress: list[tuple[int, int]] = []
    figures = measure([note("a"), note("b"), note("c")], rounds=3, progress=lambda *told: progress.append(told))
    worked = [name for name in order if name != "before"]
    assert worked[:3] == ["a", "b", "c"], "to find how many calls a round needs"
    assert worked[3:] == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
    assert [len(one.wall_ratios) for one in figures] == [3, 3, 3]
    assert progress[-1] == (12, 12)


def test_a_disk_is_measured_and_left_as_it_was(tmp_path: Path) -> None:
    found = measure_disk(str(tmp_path), seconds=0.1)
    assert not list(tmp_path.iterdir())
    rows = {row["name"]: row for row in found["levels"]}
    assert rows.keys() > levels.LIMITS
    assert {row["reference"] for row in rows.values()} == {
        name for name, row in rows.items() if row["reference"] == name
    }, "each is compared with a limit that is shown"
    assert {row["survives"] for row in rows.values() if not row["limit"]} == {
        "kill -9",
        "power cut, a moment later",
        "power cut",
    }
    assert all(row["events"] > 0 < row["wall_ratio"] for row in rows.values())


def test_where_too_little_is_free_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DiskStorage, "free", lambda self: 10)
    with pytest.raises(journal.JournalFailed, match="free some space"):
        measure_disk(str(tmp_path))
    assert not list(tmp_path.iterdir())


def test_the_machine_is_named(tmp_path: Path) -> None:
    assert {"date", "cpu", "cores", "system", "python", "libraries", "load", "file_system"} <= machine(
        str(tmp_path)
    ).keys()
