"""The suite: each question is answered with what it promises, results are dated and kept, goals go red where missed."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as command
from benchmarks import age, beside, charts, goals, memory, suite, tables, training
from benchmarks.fresh import Died, fresh
from benchmarks.question import Answer, Effort
from benchmarks.suite import QUESTIONS
from journal.speed import levels
from replay.compaction import compact

TINY = Effort(1, 0.001, 0.001, 1)
"""Of any question, as little as can be."""
README = (Path(suite.__file__).parent / "README.md").read_text(encoding="utf-8")


def promised(name: str) -> set[str]:
    return {goal.value for goal in goals.GOALS if goal.question == name}


@pytest.fixture
def no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peers have tests of their own, and take most of the time."""
    monkeypatch.setattr(beside, "PEERS", {})


@pytest.mark.parametrize("name", [name for name in QUESTIONS if name != "billion"])
def test_each_question_is_answered_and_leaves_nothing_behind(name: str, no_peers: None, tmp_path: Path) -> None:
    found = QUESTIONS[name].answer(str(tmp_path), TINY)
    assert promised(name) <= found.values.keys(), "what the goals ask for"
    assert found.rows and all(row["name"] for row in found.rows)
    assert not list(tmp_path.iterdir())
    for row in found.rows:
        if "wall_ratios" in row:
            assert row["wall_ratio"] > 0 and row["reference"] in {other["name"] for other in found.rows}
    assert tables.figures(name, {name: suite_answer(found)}).count("\n| ") >= len(found.rows)


def suite_answer(found: Answer) -> dict[str, Any]:
    machine = {"date": "d", "cores": 2, "cpu": "c", "system": "s", "python": "p", "file_system": "f", "mapped": True}
    return {"rows": found.rows, "skipped": found.skipped, "machine": {**machine, "load": 0.5}, "seconds": 1.0}


def test_what_is_read_and_compacted_was_really_written(tmp_path: Path) -> None:
    for size in (1, levels.BATCH):
        place = str(tmp_path / str(size))
        training.record(place, 20_000, size=size)
        import replay

        state = replay.load(place)
        assert sum(agent.effective["train"].steps for agent in state.agents.values()) == 20_000
        first = training.rewards("rounded", training.STEPS, 1)
        assert float(state.agents["1"].effective["train"].reward) == pytest.approx(float(first.sum()))
        assert compact(place).segments > 0
    assert len({float(training.rewards("random", 1, seed)[0]) for seed in range(9)}) == 9


def test_memory_is_what_a_process_really_took() -> None:
    before, most = memory.peak(_hold_64_mb)
    assert 60e6 < most - before < 90e6


def _hold_64_mb() -> None:
    held = b"x" * (64 << 20)
    time.sleep(0.1)
    assert held


def test_a_process_of_its_own_tells_its_error() -> None:
    assert fresh(divmod, 7, 2) == (3, 1)
    with pytest.raises(Died, match="ZeroDivisionError"):
        fresh(divmod, 7, 0)


# -- results ----------------------------------------------------------------------------------------------------------


def document(date: str, **values: float) -> dict[str, Any]:
    figures = {name: {"value": value, "low": value, "high": value} for name, value in values.items()}
    answers = {"one-event": {"values": figures, "rows": [], "skipped": []}}
    return {"schema": 1, "machine": {"date": date}, "questions": answers}


def test_results_are_dated_and_the_newest_answer_counts(tmp_path: Path) -> None:
    suite.save(document("2026-01-01", a=1.0), tmp_path)
    older = document("2026-01-02", a=2.0)
    older["questions"]["memory"] = {"values": {}, "rows": [{"name": "kept"}]}
    suite.save(older, tmp_path)
    path = suite.save(document("2026-01-02", a=3.0), tmp_path)
    assert path.name == "2026-01-02.json" and len(list(tmp_path.iterdir())) == 2
    found = suite.newest(tmp_path)
    assert found["one-event"]["values"]["a"]["value"] == 3.0
    assert found["memory"]["rows"] == [{"name": "kept"}], "of the same day, to another question"


def test_a_question_that_failed_hides_no_older_answer(tmp_path: Path) -> None:
    suite.save(document("2026-01-01", a=1.0), tmp_path)
    failed = document("2026-01-02")
    failed["questions"]["one-event"]["error"] = "no disk"
    suite.save(failed, tmp_path)
    assert suite.newest(tmp_path)["one-event"]["values"]["a"]["value"] == 1.0


def test_one_json_document_names_the_machine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["verifying", "--quick", "--json", "--directory", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["schema"] == 1 and found["questions"].keys() == {"verifying"}
    assert {"cpu", "cores", "system", "python", "libraries", "load", "file_system"} <= found["machine"].keys()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("given", [["no-such-question"], ["--quick", "--save"]])
def test_what_makes_no_sense_is_refused(given: list[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(given)


# -- goals ------------------------------------------------------------------------------------------------------------


def met_by(goal: goals.Goal) -> float:
    return goal.bound * (2 if goal.least else 0.5)


def all_met() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for goal in goals.GOALS:
        value = met_by(goal)
        answer = found.setdefault(goal.question, {"values": {}, "rows": [], "skipped": []})
        answer["values"][goal.value] = {"value": value, "low": value, "high": value}
    return found


def check(found: Mapping[str, Any], tmp_path: Path) -> int:
    path = tmp_path / "results.json"
    path.write_text(json.dumps({"schema": 1, "questions": found}))
    return goals.main([str(path)])


def test_where_all_goals_are_met_it_is_green(tmp_path: Path) -> None:
    assert check(all_met(), tmp_path) == 0


@pytest.mark.parametrize("goal", goals.GOALS, ids=lambda goal: goal.value)
def test_one_missed_goal_is_red(goal: goals.Goal, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = all_met()
    found[goal.question]["values"][goal.value]["value"] = goal.bound * (0.9 if goal.least else 1.1)
    assert check(found, tmp_path) == 1
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("missed")]
    assert goal.what in line
    del found[goal.question]["values"][goal.value]
    assert check(found, tmp_path) == 1, "what was not measured is not met"


def test_no_results_or_other_files_cannot_be_checked(tmp_path: Path) -> None:
    assert goals.main([str(tmp_path / "nowhere.json")]) == 2
    (tmp_path / "other.json").write_text("[]")
    assert goals.main([str(tmp_path / "other.json")]) == 2


# -- what is shown ----------------------------------------------------------------------------------------------------


def row(name: str, **more: Any) -> dict[str, Any]:
    figures = {"wall_ns": 100.0, "cpu_ns": 90.0, "wall_ratio": 0.5, "cpu_ratio": 0.4, "wall_ratios": [0.4, 0.5, 0.7]}
    return {"name": name, "reference": "limit", "events_per_second": 1e7, **figures, **more}


def test_tables_are_put_between_their_marks_and_nowhere_else() -> None:
    found = {"synced": suite_answer(Answer([row("journal"), row("limit", limit=True)]))}
    text = "before\n<!-- figures: synced -->\nold\n<!-- end -->\nafter\n"
    filled = tables.fill(text, found)
    assert "old" not in filled and filled.startswith("before\n") and filled.endswith("<!-- end -->\nafter\n")
    assert "**0.50** (0.40 – 0.70)" in filled
    assert tables.fill(filled, found) == filled
    assert "Not measured yet" in tables.fill(text, {})


def test_the_readme_has_a_place_for_every_question() -> None:
    assert {mark[1] for mark in tables.MARK.findall(README)} == {"goals", *QUESTIONS}


def test_classes_of_safety_are_not_mixed() -> None:
    rows = [
        row("always", survives="power cut", reference="other"),
        row("slow", survives="kill -9", wall_ratio=3.0),
        row("quick", survives="kill -9"),
        row("loses", survives="nothing", wall_ratio=0.1),
    ]
    assert [one["name"] for one in tables.by_safety(rows)] == ["loses", "quick", "slow", "always"]


def test_rates_in_one_picture_come_from_ratios() -> None:
    limit = row("limit", events_per_second=1000.0, wall_ratio=1.0)
    rated = charts.rated([limit, row("twice as quick", events_per_second=5.0), row("of another", reference="absent")])
    assert [(one["name"], one["events_per_second"]) for one in rated] == [("limit", 1000.0), ("twice as quick", 2000.0)]


def test_the_quickest_mode_of_each_peer_that_is_safe() -> None:
    rows = [
        row("a, slow", survives="kill -9", peer="a", events_per_second=1.0),
        row("a, quick", survives="kill -9", peer="a", events_per_second=3.0),
        row("b", survives="kill -9", peer="b", events_per_second=2.0),
        row("a, quickest, unsafe", survives="nothing", peer="a", events_per_second=9.0),
    ]
    assert [one["name"] for one in charts.quickest(rows, "kill -9")] == ["a, quick", "b"]


def test_every_chart_is_drawn_and_the_same_answers_draw_the_same() -> None:
    pytest.importorskip("matplotlib", reason="it draws the charts")
    limit = row("limit", survives="kill -9", limit=True, bytes_per_event=8.0)
    own = row("training-journal, x", survives="kill -9", peer="training-journal", bytes_per_event=4.0, lost=1)
    rows = [limit, {**own, "acknowledged": 10}]
    aged = [{"events": 10**n, "seconds": 0.01 * n, "bytes_read": 1000} for n in (5, 6)]
    found = {name: {"rows": rows} for name in ("one-event", "batches", "cold-read")} | {"age": {"rows": aged}}
    drawn = dict(charts.drawn(found))
    assert drawn.keys() == {"one-event", "kill-safe", "batches", "cold-read", "bytes", "age"}
    assert drawn == dict(charts.drawn(found))
    texts = "".join(ET.fromstring(drawn["one-event"]).itertext())
    assert "training-journal, x" in texts and "lost 1 of 10" in texts


def test_the_readme_shows_the_charts_that_are_drawn() -> None:
    for name in ("one-event", "batches", "cold-read", "bytes", "age"):
        assert f"(charts/{name}.svg)" in README
    front = (Path(suite.__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    assert "(benchmarks/charts/kill-safe.svg)" in front and "(benchmarks/charts/age.svg)" in front


def test_age_grows_a_real_journal_and_tells_each_size(tmp_path: Path) -> None:
    first, second = age.measure(str(tmp_path / "journal"), [2000, 6000], steps=500, rounds=1, session=age.SESSION)
    assert (first.episodes, second.episodes, first.ratio) == (4, 12, 1.0)
    assert 6000 < second.events < 6200
    assert first.rss > 0 < second.compact_rss
