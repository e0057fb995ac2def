"""A folder of journals, some of them copies and some bad: each verb tells what all of them hold together.

A copy counts once, one that went on by itself does not count, and a bad one is told in a line and hides no other.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

import journal
import replay
from journal.storage.disk import DiskStorage
from replay.many import once

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run, document
from trainings import begin, flip, newer, play, rewards_at, segments, train

EVENTS = ["dump", "tail"]
"""They list one journal after the other, each under its path: there is nothing to add up."""
MERGING = ["replay", "runs", "totals", "trends", "verify", "compare", "diverge", "info"]


def harm(place: Path) -> Path:
    flip(segments(place)[0], rewards_at(segments(place)[0])[0])
    return place


@pytest.fixture
def good(tmp_path: Path, run: Run) -> Path:
    """`a`, whose copy is behind it; `b`; and in a folder of its own an exact copy of `b`."""
    folder = tmp_path / "runs"
    train(folder / "a")
    assert run("copy", folder / "a", folder / "a copy")[0] == 0
    with journal.open(folder / "a") as log:
        begin(log, "r2")
        play(log, "PPO", [30], first=3)
    train(folder / "b", ["SAC"])
    (folder / "deep").mkdir()
    shutil.copytree(folder / "b", folder / "deep" / "b copy")
    return folder


@pytest.fixture
def mixed(good: Path) -> Path:
    """The same, beside one of a format to come and one that is damaged."""
    train(good / "newer", ["DQN"])
    newer(good / "newer")
    train(good / "worn", ["DQN"])
    harm(good / "worn")
    return good


def names(folder: Path, told: list[dict[str, Any]]) -> list[str]:
    return [Path(one["path"]).relative_to(folder).as_posix() for one in told]


def expect_merged(folder: Path, verb: str, merged: dict[str, Any]) -> None:
    copies = {Path(one["path"]).name: Path(one["of"]).name for one in merged["copies"]}
    assert copies == {"a copy": "a", "b copy": "b"}
    events = replay.load(folder / "a").events + replay.load(folder / "b").events
    if verb in ("totals", "replay", "trends"):
        found = {name: one["total_episodes"] for name, one in merged["agents"].items()}
        assert found == {"PPO": 4, "SAC": 6} and merged["events"] == events and merged["runs"] == 2
    elif verb == "runs":
        assert [one["id"] for one in merged["runs"]] == ["r1", "r2", "r1"]
        assert names(folder, merged["runs"]) == ["a", "a", "b"]
        assert (merged["journals"], merged["events"], merged["live"]) == (2, events, False)
    elif verb == "info":
        assert (merged["journals"], merged["events"], merged["compacted_events"]) == (2, events, 0)
        assert merged["bytes"] == sum(size_of(folder / path) for path in ("a", "a copy", "b", "deep/b copy"))
    elif verb == "compare":
        assert merged["verdict"] == "comparable"
        assert merged["agents"] == ["PPO", f"{folder / 'a'}:SAC", f"{folder / 'b'}:SAC"], "a copy is no other learner"
    elif verb == "diverge":
        assert (merged["rewinds"], merged["diverged"]) == (0, 0)


def size_of(place: Path) -> int:
    return sum(file.stat().st_size for folder in ("segments", "checkpoints") for file in (place / folder).iterdir())


@pytest.mark.parametrize("verb", MERGING)
def test_together_each_journal_counts_once(run: Run, good: Path, verb: str) -> None:
    found = document(run, verb, good)
    assert names(good, found["journals"]) == ["a", "a copy", "b", "deep/b copy"] and found["errors"] == []
    expect_merged(good, verb, found["merged"])
    code, out, err = run(verb, good)
    assert (code, err) == (0, "")
    assert "all together" in out and f"counted once: {good / 'a copy'} is a copy of {good / 'a'}" in out


@pytest.mark.parametrize("verb", MERGING)
def test_bad_ones_are_told_and_hide_no_other(run: Run, mixed: Path, verb: str) -> None:
    code, out, err = run(verb, mixed, "--json")
    found = json.loads(out)
    damaged = [] if verb == "verify" else ["worn"]
    assert code == 2 and err.count("\n") == 1 + len(damaged) and "upgrade" in err
    assert names(mixed, found["errors"]) == ["newer", *damaged]
    assert names(mixed, found["journals"])[:4] == ["a", "a copy", "b", "deep/b copy"]
    expect_merged(mixed, verb, found["merged"])
    if verb == "verify":
        assert names(mixed, found["journals"])[4:] == ["worn"] and found["merged"]["status"] == "corrupt"
    code, out, err = run(verb, mixed)
    assert code == 2 and str(mixed / "b") in out and "all together" in out and err.count("\n") == 1 + len(damaged)


def test_runs_of_all_stand_in_one_table_by_their_beginnings(run: Run, good: Path) -> None:
    together = run("runs", good)[1].partition("all together")[2]
    assert together.count("run ") == 3
    assert together.index("r2") < together.index(f"in {good / 'b'}") and f"in {good / 'a'}" in together


def test_verify_counts_a_copy_once_but_sees_its_damage(run: Run, good: Path) -> None:
    merged = document(run, "verify", good)["merged"]
    events = replay.load(good / "a").events + replay.load(good / "b").events
    assert (merged["status"], merged["events"], merged["journals"]) == ("clean", events, 2)
    harm(good / "a copy")
    merged = document(run, "verify", good, code=1)["merged"]
    assert (merged["status"], merged["events"], merged["journals"]) == ("corrupt", events, 2)


def test_a_noted_receipt_is_one_journal_s(run: Run, good: Path) -> None:
    head = document(run, "verify", good / "b")["head"]
    receipt = f"{head['seq']}:{head['chain']}"
    assert run("verify", good / "b", "--expect", receipt)[0] == 0
    code, out, err = run("verify", good, "--expect", receipt)
    assert (code, out, err.count("\n")) == (2, "", 1) and "name one" in err


@pytest.mark.parametrize("verb", EVENTS)
def test_events_are_listed_journal_by_journal(run: Run, mixed: Path, verb: str) -> None:
    code, out, err = run(verb, mixed)
    assert code == 2 and err.count("\n") == 2 and "upgrade" in err and "worn" in err
    places = [line for line in out.splitlines() if line.startswith(str(mixed))]
    assert places == [str(mixed / one) for one in ("a", "a copy", "b", "deep/b copy", "newer", "worn")]
    code, out, err = run("tail", mixed, "-f")
    assert (code, out, err.count("\n")) == (2, "", 1) and "name one" in err


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_an_export_holds_each_event_once(run: Run, mixed: Path, tmp_path: Path, form: str) -> None:
    output = tmp_path / "out"
    code, out, err = run("export", mixed, "--to", form, "--output", output, "--columns", "seq", "--json")
    told = json.loads(out)
    assert code == 2 and err.count("\n") == 2 and "upgrade" in err and "worn" in err
    assert {Path(one["path"]).name: Path(one["of"]).name for one in told["copies"]} == {"a copy": "a", "b copy": "b"}
    if form == "parquet":
        rows = pq.read_table(output).to_pylist()
    elif form == "jsonl":
        rows = [json.loads(line) for line in output.read_text().splitlines()]
    else:
        rows = list(csv.DictReader(io.StringIO(output.read_text())))
    found = [(row["path"], int(row["seq"])) for row in rows if "worn" not in row["path"]]
    wanted = [(str(mixed / one), seq) for one in "ab" for seq in range(replay.load(mixed / one).events)]
    assert found == wanted and told["events"] == len(rows)
    code, out, err = run("export", mixed, "--to", form, "--output", output, "--columns", "seq")
    assert code == 2 and f"counted once: {mixed / 'a copy'} is a copy of {mixed / 'a'}" in err


def test_exported_totals_hold_each_journal_once(run: Run, mixed: Path) -> None:
    code, out, err = run("export", mixed, "--to", "json")
    stats = json.loads(out)["agent_cumulative_stats"]
    assert code == 2 and {name: one["total_episodes"] for name, one in stats.items()} == {"PPO": 4, "SAC": 6}
    assert "counted once" in err and "upgrade" in err and "worn" in err


def test_a_copy_that_went_on_by_itself_is_told_and_left_out(run: Run, good: Path) -> None:
    with journal.open(good / "a copy") as log:
        begin(log, "another r2")
    for verb in MERGING:
        code, out, err = run(verb, good, "--json")
        found = json.loads(out)
        assert code == 2 and err.count("\n") == 1 and "went on by itself" in err, verb
        assert names(good, found["errors"]) == ["a copy"] and len(found["journals"]) == 4
        assert [Path(one["path"]).name for one in found["merged"]["copies"]] == ["b copy"]


def test_of_copies_a_readable_one_counts_and_else_the_first(good: Path) -> None:
    values = dict.fromkeys(map(str, (good / "a", good / "a copy", good / "b")), "anything")
    harm(good / "a")
    found = once(values)
    assert list(found.states) == [str(good / "a copy"), str(good / "b")]
    assert [path for path, _ in found.parted] == [str(good / "a")]
    harm(good / "a copy")
    found = once(values)
    assert list(found.states) == [str(good / "a"), str(good / "b")]
    assert [path for path, _ in found.parted] == [str(good / "a copy")]


def test_a_folder_that_cannot_be_looked_into_is_told(run: Run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Journals may lie in it. Who is root may look into all, so it is the system that says no."""
    (good / "shut").mkdir()
    (good / "lost+found").mkdir()
    look = os.scandir

    def shut(place: Any) -> Any:
        if Path(place).name in ("shut", "lost+found"):
            raise PermissionError(13, "Permission denied", str(place))
        return look(place)

    monkeypatch.setattr(os, "scandir", shut)
    monkeypatch.setattr(DiskStorage, "exists", lambda *_: shut(good / "shut"))
    for verb in MERGING:
        code, out, err = run(verb, good, "--json")
        found = json.loads(out)
        assert code == 2 and err.count("\n") == 1 and str(good / "shut") in err, verb
        assert names(good, found["errors"]) == ["shut"] and len(found["journals"]) == 4


def test_trends_of_an_agent_that_no_journal_knows_are_one_line(run: Run, good: Path) -> None:
    code, out, err = run("trends", good, "--agent", "Nobody")
    assert (code, out, err.count("\n")) == (2, "", 1) and "known: PPO, SAC" in err
    assert document(run, "trends", good, "--agent", "PPO")["merged"]["agents"].keys() == {"PPO"}


def test_what_fails_while_it_is_told_hides_no_other(run: Run, good: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state could be read; the checkpoints that it names cannot."""
    from replay import documents

    resume = documents.replay_document

    def fails(state: Any, **options: Any) -> Any:
        if state.storage.root == str(good / "b"):
            raise OSError(5, "Input/output error", "checkpoints/SAC-3")
        return resume(state, **options)

    monkeypatch.setattr(documents, "replay_document", fails)
    code, out, err = run("replay", good, "--json")
    assert code == 2 and err.count("\n") == 1 and "Input/output error" in err
    assert names(good, json.loads(out)["journals"]) == ["a", "a copy", "deep/b copy"]
