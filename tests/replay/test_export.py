"""Exports: what a journal holds, for other tools; and an import, which makes the same events of it again."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

import journal
import replay
from journal.importing import Then
from journal.storage.disk import DiskStorage
from replay import forms, table
from replay.compaction import compact
from replay.exporting import export_events
from replay.importing import import_events
from replay.loading import load
from replay.snapshot import packed

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run, document, process
from logs import record_everything, same_events
from trainings import flip, segments, train

FORMS = ["parquet", "csv", "jsonl"]


def rows_of(place: Path) -> pa.Table:
    batches = list(replay.events(place, columns=table.EXACT.names))
    return pa.Table.from_batches(batches).unify_dictionaries().combine_chunks()


def whole_state(place: Path) -> bytes:
    """All of it but for whose it is."""
    state = load(place)
    state.journal_id = bytes(16)
    return packed(state)


# -- there and back ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_what_was_exported_and_imported_is_the_same_events_and_totals(form: Any, tmp_path: Path) -> None:
    storage = DiskStorage(tmp_path / "j")
    record_everything(storage)
    train(tmp_path / "j")
    compact(tmp_path / "j")
    train(tmp_path / "j", agents=["PPO"])
    export_events([str(tmp_path / "j")], form, str(tmp_path / "file"), None)
    done = import_events(tmp_path / "file", tmp_path / "again")
    before, after = rows_of(tmp_path / "j"), rows_of(tmp_path / "again")
    assert same_events(before, after)
    assert whole_state(tmp_path / "j") == whole_state(tmp_path / "again")
    report = replay.verify(tmp_path / "again", deep=False, expect=done.head)
    assert (report.status, report.events) == ("clean", before.num_rows)
    assert done.events == before.num_rows
    assert load(tmp_path / "again").journal_id != load(tmp_path / "j").journal_id


def test_rewards_of_one_moment_are_a_batch_again(tmp_path: Path) -> None:
    with journal.open(tmp_path / "j", sync="close") as log:
        ppo = log.agent("PPO")
        log.rewards(ppo, 0, np.arange(100_000), np.arange(100_000) / 3)
    export_events([str(tmp_path / "j")], "parquet", str(tmp_path / "file"), None)
    import_events(tmp_path / "file", tmp_path / "again")
    size = sum(path.stat().st_size for path in segments(tmp_path / "again"))
    assert size < 100_000 * 10
    assert same_events(rows_of(tmp_path / "j"), rows_of(tmp_path / "again"))


def test_what_one_moment_holds_stays_whose_it_was(tmp_path: Path) -> None:
    """Rewards of two agents, in both phases, all at one time: neighbours that are no batch."""
    with journal.open(tmp_path / "j", sync="close", clock=Then(5)) as log:
        for number in range(200):
            agent = log.agent("PPO" if number // 50 % 2 else "SAC")
            log.reward(agent, 0, number, number / 7, number % 3, flags=number // 100)
    export_events([str(tmp_path / "j")], "jsonl", str(tmp_path / "file"), None)
    import_events(tmp_path / "file", tmp_path / "again")
    assert same_events(rows_of(tmp_path / "j"), rows_of(tmp_path / "again"))


def test_a_training_goes_on_in_an_import_as_anew(tmp_path: Path) -> None:
    train(tmp_path / "j")
    export_events([str(tmp_path / "j")], "csv", str(tmp_path / "file"), None)
    import_events(tmp_path / "file", tmp_path / "again")
    train(tmp_path / "again")
    assert load(tmp_path / "again").agents["PPO"].effective["train"].episodes == 6


# -- what others read --------------------------------------------------------------------------------------------------


def test_other_tools_read_the_three_forms(place: Path, run: Run, tmp_path: Path) -> None:
    for form in FORMS:
        assert run("export", place, "--to", form, "--output", tmp_path / form)[0] == 0
    parquet = pq.read_table(tmp_path / "parquet")
    csv = pa_csv.read_csv(tmp_path / "csv")
    lines = [json.loads(line) for line in (tmp_path / "jsonl").read_text().splitlines()]
    expected = rows_of(place)
    assert parquet.select(expected.column_names).to_pylist() == expected.to_pylist()
    for name in ("seq", "agent", "kind", "value"):
        wanted = [value or None for value in expected[name].to_pylist()]
        assert [value or None for value in csv[name].to_pylist()] == wanted
        assert [line[name] or None for line in lines] == wanted
    assert next(line["fields"] for line in lines if line["kind"] == "EpisodeEnded") == {"reason": "terminated"}


def test_what_is_not_finite_is_null_in_json(tmp_path: Path, run: Run) -> None:
    with journal.open(tmp_path / "j") as log:
        for step, value in enumerate((float("nan"), float("inf"), -0.0)):
            log.reward(log.agent("PPO"), 0, step, value)
    out = run("export", tmp_path / "j", "--to", "jsonl", "--kinds", "Rewarded", "--columns", "value")[1]
    lines = [json.loads(line, parse_constant=pytest.fail) for line in out.splitlines()]
    assert [line["value"] for line in lines] == [None, None, 0]
    assert [line[forms.BITS][:4] for line in lines] == ["7ff8", "7ff0", "8000"]


def test_totals_as_one_json_document(place: Path, run: Run) -> None:
    code, out, _ = run("export", place, "--to", "json")
    stats = json.loads(out)["agent_cumulative_stats"]
    assert code == 0 and set(stats) == {"PPO", "SAC"}
    totals = document(run, "totals", place)["agents"]["PPO"]
    for key in ("total_episodes", "total_training_time", "runs", "last_updated"):
        assert stats["PPO"][key] == totals[key]


def test_only_what_is_asked_for(place: Path, run: Run) -> None:
    out = run("export", place, "--to", "csv", "--columns", "seq,value", "--agents", "SAC", "--kinds", "Rewarded")[1]
    assert out.splitlines()[0] == '"seq","value","value_bits"' and len(out.splitlines()) == 16
    out = run("export", place, "--to", "csv", "--columns", "seq", "--since", 3, "--until", 5)[1]
    assert out.split() == ['"seq"', "3", "4"]


def test_several_journals_in_one_table(tmp_path: Path, place: Path, run: Run) -> None:
    train(tmp_path / "other", agents=["DQN"])
    code, out, err = run("export", place, tmp_path / "other", "--to", "csv", "--kinds", "RunEnded", "--columns", "seq")
    assert (code, err) == (0, "")
    assert [line.split(",")[0] for line in out.splitlines()] == ['"path"', f'"{place}"', f'"{tmp_path / "other"}"']
    flip(segments(tmp_path / "other")[0], 200)
    code, out, err = run("export", tmp_path, "--to", "json")
    assert code == 2 and "other" in err and err.count("\n") == 1
    assert set(json.loads(out)["agent_cumulative_stats"]) == {"PPO", "SAC"}, "a bad one hides no other"
    code, out, err = run("export", tmp_path, "--to", "csv", "--kinds", "RunEnded")
    assert code == 2 and len(out.splitlines()) == 2


# -- the file ----------------------------------------------------------------------------------------------------------


def test_a_file_gets_its_content_at_once_or_stays_as_it_was(place: Path, run: Run, tmp_path: Path) -> None:
    target = tmp_path / "12-30 out.csv"
    target.write_text("before")
    flip(segments(place)[0], segments(place)[0].stat().st_size - 70)
    code, out, err = run("export", place, "--to", "csv", "--output", target)
    assert (code, out) == (2, "") and err.count("\n") == 1
    assert target.read_text() == "before" and sorted(path.name for path in tmp_path.iterdir()) == [target.name, "j"]
    flip(segments(place)[0], segments(place)[0].stat().st_size - 70)
    assert document(run, "export", place, "--to", "csv", "--output", target)["events"] == 58
    assert target.read_text().count("\n") == 59


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--to", "xml"], "'xml' is no form of export"),
        (["--to", "csv", "--columns", "reward"], "no column 'reward'"),
        (["--to", "csv", "--kinds", "Reward"], "no kind 'Reward'"),
        (["--to", "csv", "--json"], "--output"),
        (["--to", "json", "--agents", "A"], "totals"),
        (["--to", "csv", "--since", "yesterday"], "neither a seq nor a time"),
        (["--to", "csv", "--output", "{place}/segments/x"], "lies inside the journal"),
        (["--to", "csv", "--output", "{place}/.."], "a directory"),
        (["--to", "csv", "--output", "{place}.d/x"], "No such file"),
        (["--to", "csv", "--output", "{place}/../c:30"], "does not begin like a drive"),
    ],
)
def test_what_makes_no_sense_is_one_line(place: Path, run: Run, arguments: list[str], words: str) -> None:
    code, out, err = run("export", place, *(one.format(place=place) for one in arguments))
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1


def test_a_reader_that_goes_away_is_no_error(place: Path) -> None:
    with process("export", place, "--to", "jsonl") as exporting:
        assert exporting.stdout is not None and exporting.stderr is not None
        exporting.stdout.readline()
        exporting.stdout.close()
        assert exporting.stderr.read() == ""
    assert exporting.returncode == 0


# -- imports that cannot be --------------------------------------------------------------------------------------------


def exported(place: Path, *, form: Any = "jsonl") -> Path:
    target = place.parent / f"file.{form}"
    export_events([str(place)], form, str(target), None)
    return target


def changed(path: Path, number: int, **fields: Any) -> None:
    """One line of a JSON lines file, with other fields; None takes the line away."""
    lines = path.read_text().splitlines()
    lines[number : number + 1] = [json.dumps(json.loads(lines[number]) | fields)] if fields else []
    path.write_text("\n".join(lines) + "\n")


@pytest.mark.parametrize(
    ("line", "fields", "words"),
    [
        (7, {}, "event 8 stands where 7 should"),
        (0, {}, "event 1 stands where 0 should"),
        (57, {"seq": 3}, "event 3 stands where 57 should"),
        (7, {"seq": -1}, "cannot be read as an export"),
        (7, {"time": "noon"}, "cannot be read as an export"),
        (7, {"step": None}, "step has rows without a value"),
        (0, {"payload": "c1"}, "event 0 cannot be imported"),
        (0, {"payload": "zz"}, "cannot be read as an export"),
        (2, {"payload": "80"}, "event 2 cannot be imported: NameGiven"),
        (11, {"episode": 5}, "event 11 cannot be imported: episode 5 of PPO"),
        (7, {"agent_number": 9}, "log.agent(name)"),
        (7, {"code": 0xFFFF}, "event 7 cannot be imported: its kind is 65535"),
        (7, {"code": 0}, "event 7 cannot be imported: its kind is 0"),
    ],
)
def test_what_cannot_be_an_event_is_named_and_leaves_nothing(
    place: Path, run: Run, line: int, fields: Any, words: str
) -> None:
    source = exported(place)
    changed(source, line, **fields)
    code, out, err = run("import", source, place.parent / "again")
    assert (code, out) == (2, "") and words in err and err.count("\n") == 1, err
    assert sorted(path.name for path in place.parent.iterdir()) == ["file.jsonl", "j"]


@pytest.mark.parametrize("content", [b"", b"hello\n", b"{\n", b"PAR1", b"PAR1" + bytes(50) + b"PAR1", b"\0\xff" * 99])
def test_what_is_no_export_is_said_so(tmp_path: Path, run: Run, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    code, out, err = run("import", tmp_path / "file", tmp_path / "again")
    assert (code, out) == (2, "") and "file: " in err and err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_taken_target_and_a_missing_source(place: Path, run: Run) -> None:
    source = exported(place, form="csv")
    for target, what in ((place, "not empty"), (source, "not empty")):
        code, _, err = run("import", source, target)
        assert code == 2 and what in err
    code, _, err = run("import", place.parent / "nothing", place.parent / "again")
    assert code == 2 and "no such file" in err
    (place.parent / "again").mkdir()
    assert document(run, "import", source, place.parent / "again")["events"] == 58


def test_what_a_killed_import_left_is_no_journal_and_is_made_anew(place: Path, run: Run) -> None:
    source = exported(place, form="parquet")
    left = place.parent / "again.importing"
    with journal.open(left) as log:
        log.append(journal.Custom(name="half"))
    assert len(document(run, "totals", place.parent)["journals"]) == 1
    assert run("import", source, place.parent / "again")[0] == 0
    assert not left.exists() and load(place.parent / "again").events == 58
    shutil.rmtree(place.parent / "again")
    left.mkdir()
    (left / "mine.txt").write_text("keep me")
    code, _, err = run("import", source, place.parent / "again")
    assert code == 2 and "not left by an import" in err and (left / "mine.txt").exists()
