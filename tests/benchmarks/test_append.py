"""The benchmark runs, appends what it says it measures, and its figures are what they are called."""

from __future__ import annotations

import json
import os
from contextlib import ExitStack
from pathlib import Path

import pytest

import journal
from benchmarks import append


def test_every_contender_writes_all_of_its_events(tmp_path: Path) -> None:
    with ExitStack() as stack:
        entrants = append.contenders(str(tmp_path), stack)
        figures = append.measure(entrants, rounds=2, events=1000)
        sizes = [os.path.getsize(tmp_path / name) for name in ("one", "array")]
    batches = max(1, 10 * 1000 // append.BATCH)
    assert sizes == [3 * 1000 * 64, 3 * batches * append.BATCH * 8]
    for name, events in (("close", 3000), ("group", 3000), ("batches", 3 * batches * append.BATCH)):
        with journal.open(tmp_path / name) as log:
            assert log.promised.seq + 1 == events + 1, "the rewards, and the agent's name"
    assert [len(one.wall_ratios) for one in figures] == [2] * len(entrants)


def test_a_ratio_compares_rounds_with_the_reference_of_the_same_round() -> None:
    assert append._ratios([2.0, 9.0], [4.0, 3.0]) == (0.5, 3.0)
    figures = [
        append.Figures("by hand", "by hand", 100.0, 90.0, (1.0, 1.0, 1.0), (1.0, 1.0, 1.0)),
        append.Figures("journal", "by hand", 60.0, 45.0, (0.5, 0.6, 9.0), (0.4, 0.5, 0.6)),
    ]
    assert append.document({}, figures)["contenders"][1]["wall_ratio"] == 0.6


def test_one_json_document_names_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append.main(["--json", "--rounds", "1", "--events", "500", "--directory", str(tmp_path)])
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    assert {"cpu", "cores", "file_system", "python"} <= document["machine"].keys()
    assert len(document["contenders"]) == 5
    assert not list(tmp_path.iterdir()), "it cleans up"


def test_the_table_names_each_contender(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    append.main(["--rounds", "1", "--events", "500", "--directory", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "struct + os.write" in printed and 'log.reward, sync="group"' in printed
