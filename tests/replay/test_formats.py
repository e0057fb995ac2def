"""Journals of different format versions in one folder: each verb reads every older one, and of newer ones it says so.

`tests/golden` holds what was on people's disks: a log of format 1, and the same compacted when snapshots had format 1.
The same compacted today has snapshots of format 2. A newer log, snapshot or history is a line, and hides no other.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

import journal
import replay
from journal.errors import UnsupportedFormat
from replay import parquet, snapshot
from replay.compaction import compact

sys.path.insert(0, str(Path(__file__).parent))
from commands import READING, Run, document
from trainings import begin, newer, play, train

GOLDEN = Path(__file__).parents[1] / "golden"
OLD = {"log 1": GOLDEN / "v1", "snapshot 1": GOLDEN / "compacted-1"}
KNOWN = [*OLD, "snapshot 2"]
EVENTS = ("dump", "tail")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """One journal of each format that there ever was: the same events, so that the same is to be told of all."""
    for name, golden in OLD.items():
        shutil.copytree(golden, tmp_path / "all" / name)
    shutil.copytree(GOLDEN / "v1", tmp_path / "all" / "snapshot 2")
    compact(tmp_path / "all" / "snapshot 2")
    return tmp_path / "all"


@pytest.fixture
def with_newer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The same, beside what only a training-journal to come can read: a log, a snapshot, a history."""
    train(folder / "to come: log", ["DQN"])
    newer(folder / "to come: log")
    for name, module, version in (("snapshot", snapshot, 3), ("history", parquet, 2)):
        train(folder / f"to come: {name}", ["DQN"])
        monkeypatch.setattr(module, "FORMAT", version)
        if module is parquet:
            monkeypatch.setattr(parquet.open_checked, "__defaults__", (version,))
        compact(folder / f"to come: {name}")
        monkeypatch.undo()
    return folder


def told(run: Run, verb: str, place: Path) -> Any:
    """What it says of one journal, but for what is about its files."""
    if verb in EVENTS:
        code, out, err = run(verb, place, *(["-n", 1000] if verb == "tail" else []))
        assert (code, err) == (0, "")
        return out
    code, out, err = run(verb, place, "--json")
    assert (code, err) == (0 if verb != "compare" else 1, "")
    files = ("path", "files", "bytes", "compacted_events", "cells", "unread", "head")
    return {key: value for key, value in json.loads(out).items() if key not in files}


@pytest.mark.parametrize("verb", READING)
def test_each_verb_tells_the_same_whatever_the_format(run: Run, folder: Path, verb: str) -> None:
    expected = told(run, verb, folder / "log 1")
    assert expected
    for name in KNOWN:
        assert told(run, verb, folder / name) == expected, name


@pytest.mark.parametrize("form", ["csv", "jsonl", "json"])
def test_an_export_is_the_same_whatever_the_format(run: Run, folder: Path, form: str) -> None:
    exported = [run("export", folder / name, "--to", form) for name in KNOWN]
    assert exported[0][0] == 0 and exported[0][1]
    assert all(one == exported[0] for one in exported)


def test_what_is_followed_is_the_same_whatever_the_format(folder: Path) -> None:
    def rows(name: str, **options: Any) -> list[str]:
        return [str(row) for batch in replay.follow(folder / name, timeout=0, **options) for row in batch.to_pylist()]

    expected = rows("log 1")
    assert len(expected) == replay.load(folder / "log 1").events > 30
    for name in KNOWN:
        assert rows(name) == rows(name, durable=True) == expected, name
        assert rows(name, since=20) == expected[20:], name


@pytest.mark.parametrize("verb", READING)
def test_in_one_folder_they_are_one_journal(run: Run, folder: Path, verb: str) -> None:
    code, out, err = run(verb, folder, *([] if verb == "tail" else ["--json"]))
    assert (code in (0, 1), err) == (True, "")
    if verb in EVENTS:
        assert all(str(folder / name) in out for name in KNOWN)
        return
    found = json.loads(out)
    assert [Path(one["path"]).name for one in found["journals"]] == sorted(KNOWN) and found["errors"] == []
    assert len(found["merged"]["copies"]) == 2, "the same events in three formats are counted once"


STATE, WHOLE, EACH = {"log", "snapshot"}, {"log"}, {"log", "history"}
NEEDS = {
    **dict.fromkeys(("replay", "runs", "totals", "trends", "compare", "diverge"), STATE),
    **dict.fromkeys(("verify", "info"), WHOLE),
    **dict.fromkeys(("dump", "tail", "export"), EACH),
}
"""What of a newer format each verb has to say so of; it does not look at the rest."""


@pytest.mark.parametrize("verb", [*READING, "export"])
def test_a_newer_one_is_a_line_and_hides_no_other(run: Run, with_newer: Path, verb: str) -> None:
    more = {"export": ["--to", "csv"], "tail": ["-n", 1000]}.get(verb, [])
    code, out, err = run(verb, with_newer, *more)
    lines = err.splitlines()
    errors = [line for line in lines if "counted once" not in line]
    assert code == 2 and "Traceback" not in err and "bug" not in err
    assert {what for what in ("log", "snapshot", "history") if f"to come: {what}" in err} == NEEDS[verb]
    assert len(errors) == len(NEEDS[verb]) and all("upgrade" in line and "format" in line for line in errors)
    shown = KNOWN if verb != "export" else KNOWN[:1]
    assert all(str(with_newer / name) in out for name in shown)


@pytest.mark.parametrize("what", ["log", "snapshot", "history"])
def test_a_newer_one_alone_is_a_line(run: Run, with_newer: Path, what: str) -> None:
    place = with_newer / f"to come: {what}"
    for verb in [verb for verb, needs in NEEDS.items() if what in needs]:
        more = ["--to", "csv"] if verb == "export" else []
        code, _, err = run(verb, place, *more)
        assert code == 2 and err.count("\n") == 1 and "upgrade" in err, verb
    code, out, err = run("verify", place, "--deep")
    assert code == 2 and err.count("\n") == 1 and "upgrade" in err and "corrupt" not in out
    with pytest.raises(UnsupportedFormat, match="upgrade"):
        list(replay.follow(place, timeout=0)) if what != "snapshot" else replay.load(place)


def test_an_old_journal_goes_on_today(run: Run, folder: Path) -> None:
    """What is appended, compacted and told afterwards is the same in all: formats 1 and 2 lie side by side."""
    found = []
    for name in KNOWN:
        with journal.open(folder / name) as log:
            begin(log, "today")
            play(log, "PPO", [7], first=9)
        document(run, "compact", folder / name)
        agents = document(run, "trends", folder / name, "--by", "run")["agents"]
        rows = [
            (row["phase"], row["run"], row["total_episodes"], row["spent_total_steps"]) for row in agents["PPO"]["rows"]
        ]
        found.append((rows, agents["PPO"]["total_episodes"], replay.load(folder / name).events))
        assert replay.verify(folder / name).status == "clean"
    assert found[0] == found[1] == found[2] and ("train", "today", 1, 5) in found[0][0]
    names = sorted(path.name for path in (folder / "snapshot 1" / "snapshots").iterdir())
    formats = [b'"format":1' in (folder / "snapshot 1" / "snapshots" / name).read_bytes() for name in names]
    assert sorted(formats) == [False, True]
    older = replay.load(folder / "snapshot 1", at=37)
    assert older.last_seq == 37 and older.agents.keys() == replay.load(folder / "log 1", at=37).agents.keys()
