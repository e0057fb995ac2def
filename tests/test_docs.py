"""The documents are held against the code: what they show runs, what they count is counted, what exists is named."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import journal
from journal import arrays, cell, errors, events

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
FORMAT = (ROOT / "docs" / "format.md").read_text()
GUARANTEES = (ROOT / "docs" / "guarantees.md").read_text()


def block(text: str, label: str) -> str:
    """The code block after `<!-- label -->`."""
    found = re.search(rf"<!-- {label} -->\n```\w*\n(.*?)```", text, re.DOTALL)
    assert found, f"no block {label!r}"
    return found[1]


def test_the_readmes_example_runs_and_resumes(tmp_path: Path) -> None:
    code = block(README, "example")
    assert len([line for line in code.splitlines() if line.strip()]) == 12
    script = tmp_path / "train.py"
    script.write_text(code)
    for expected in (20, 40):  # The second time the run is complete, so another one begins.
        subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=60)
        import replay

        totals = replay.load(tmp_path / "runs" / "fx").totals.loc["LinearQ"]
        assert totals.total_episodes == expected
        assert totals.total_steps == expected * 240


def test_the_vector_loop_of_the_adapters_runs_as_shown(tmp_path: Path) -> None:
    pytest.importorskip("gymnasium", reason="the example is one of Gymnasium's")
    script = tmp_path / "train.py"
    script.write_text(block((ROOT / "docs" / "adapters.md").read_text(), "example"))
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=60)
    import replay

    agent = replay.load(tmp_path / "runs" / "vector").agents["Random"]
    assert agent.next_episode["train"] >= 4 * 20 and len(agent.checkpoints) == 3


def test_what_replaces_a_persistence_manager_runs_as_shown(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "saving.md").read_text()
    labels = ("training", "latest", "results", "backups")
    assert text.count("```python") == len(labels), "each block is run"
    script = tmp_path / "train.py"
    script.write_text("\n".join(block(text, label) for label in labels))
    for started in (1, 2):
        done = subprocess.run(
            [sys.executable, str(script)], cwd=tmp_path, check=True, timeout=60, capture_output=True, text=True
        )
        lines = done.stdout.splitlines()
        assert lines[0] == str(6 * started) and (tmp_path / "runs" / "fx" / lines[1]).is_file()
        # A start makes three saves, of which the first has nothing to keep.
        assert [line.split()[0] for line in lines[2:]] == [
            f"summary.json.backup-{number}" for number in ((1,) if started == 1 else (2, 3, 4))
        ]
    assert json.loads((tmp_path / "results" / "summary.json").read_text())["episodes"] == 6
    import pandas as pd

    assert len(pd.read_parquet(tmp_path / "results" / "episodes.parquet")) == 6
    assert (np.load(tmp_path / "results" / "weights.npy") > 1.4).all()
    names = {"summary.json", "episodes.parquet", "report.txt", "weights.npy"}
    assert {path.name for path in (tmp_path / "results").iterdir() if ".backup-" not in path.name} == names


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the journal runs/fx: two compactions, agent A in two episodes of rewards 1.5 and 2.5."""
    from replay.compaction import compact

    folder = tmp_path_factory.mktemp("compacted")
    for episode in range(2):
        with journal.open(folder / "runs" / "fx") as log:
            log.append(journal.EpisodeStarted(agent="A", episode=episode))
            log.rewards(1, episode, list(range(10)), [1.5 + episode] * 10)
            log.append(journal.EpisodeEnded(agent="A", episode=episode, reason="terminated"))
        compact(folder / "runs" / "fx")
    return folder


@pytest.mark.parametrize(
    ("label", "needs", "shown"),
    [
        ("pandas", "pandas", r"A +0 +15.0\n +1 +25.0\n.*agent\nA +2\n"),
        ("duckdb", "duckdb", r"A +│ +0 +│ +15.0 │\n│ A +│ +1 +│ +25.0 │.*│ A +│ +2 │"),
        ("polars", "polars", r"A +┆ 0 +┆ 15.0 +│\n│ A +┆ 1 +┆ 25.0 +│.*│ A +┆ 2 +│"),
        ("query", "pyarrow", r"^10\n$"),
    ],
)
def test_history_and_snapshots_are_read_as_the_document_shows(
    label: str, needs: str, shown: str, compacted: Path
) -> None:
    pytest.importorskip(needs, reason="the tool whose use is shown")
    script = compacted / f"read_{label}.py"
    script.write_text(block((ROOT / "docs" / "parquet.md").read_text(), label))
    done = subprocess.run(
        [sys.executable, str(script)], cwd=compacted, check=True, timeout=60, capture_output=True, text=True
    )
    assert re.search(shown, done.stdout, re.DOTALL), done.stdout


def test_every_column_of_history_is_in_the_document(compacted: Path) -> None:
    import pyarrow.parquet as pq

    text = (ROOT / "docs" / "parquet.md").read_text()
    columns = pq.read_schema(next((compacted / "runs" / "fx" / "history").iterdir())).names
    assert [name for name in columns if f"`{name}`" not in text] == []


LOOP = """
import gymnasium, numpy, sys
import agents_adapter
class Policy:
    def __init__(self): self.weights = numpy.zeros(4)
    def act(self, obs): return int(obs @ self.weights > 0)
    def learn(self, obs, reward): self.weights += 0.01 * reward * obs
    def state_dict(self): return {"weights": self.weights.copy()}
    def load_state_dict(self, state): self.weights = state["weights"]
policy = Policy()
env = gymnasium.make("CartPole-v1")
env.reset(seed=3)
"""


@pytest.mark.parametrize(("label", "most"), [("record", 3), ("resume", 10)])
def test_the_readmes_diffs_are_as_short_as_promised_and_run(label: str, most: int, tmp_path: Path) -> None:
    pytest.importorskip("gymnasium", reason="the shown loop is a Gymnasium loop")
    lines = block(README, f"diff: {label}").splitlines()
    added = [line[1:] for line in lines if line.startswith("+")]
    removed = [line[1:] for line in lines if line.startswith("-")]
    assert len(added) <= most
    if label == "record":
        assert not removed, "recording changes and re-indents no line"
    for line in removed:  # A changed line stays where it was, at its depth.
        depth = len(line) - len(line.lstrip())
        assert any(len(one) - len(one.lstrip()) == depth for one in added)
    script = tmp_path / "loop.py"
    script.write_text(LOOP + "\n".join(line[1:] for line in lines if line[:1] in "+ "))
    subprocess.run([sys.executable, str(script)], cwd=tmp_path, check=True, timeout=120)
    import replay

    assert replay.load(tmp_path / "runs" / "mine").agents["LinearQ"].effective["train"].episodes >= 99


def test_the_cell_in_hex_is_a_real_one() -> None:
    shown = bytes.fromhex(block(FORMAT, "cell"))
    made = cell.pack_head(
        cell.REWARDED, 3, 1_700_000_000_000_000_000, salt=0x00C0FFEE, at=5, agent=1, episode=0, step=2, value=1.5
    )
    assert shown == made


def test_the_table_of_the_cell_has_the_dtypes_fields_in_order() -> None:
    table = FORMAT.split("## A cell")[1].split("The payload has exactly")[0]
    rows = re.findall(r"^\| (\w[\w ]*) \| (\w+) \|", table, re.MULTILINE)
    sizes = {"u8": 1, "u16": 2, "u32": 4, "u64": 8, "i64": 8, "float64": 8}
    offset = 0
    for name, kind in [(name, kind) for name, kind in rows if kind in sizes]:
        field = name.strip().replace(" ", "_")
        dtype, at = arrays.CELL_DTYPE.fields[field][:2]  # type: ignore[index]
        assert (at, np.dtype(dtype).itemsize) == (offset, sizes[kind]), field
        offset += sizes[kind]
    assert offset == cell.CELL


def test_every_kind_with_its_number_and_fields_is_in_the_format() -> None:
    for kind, event in events.REGISTRY.items():
        row = re.search(rf"^\| {kind} \| (\w+) \| (.*) \|$", FORMAT, re.MULTILINE)
        assert row and row[1] == event.__name__, event
        stated = set() if row[2] == "none" else set(row[2].split(", "))
        assert stated == {name for name, _ in events._PAYLOAD_FIELDS[kind]}, event
    assert re.search(rf"^\| {cell.REWARDS} \| reward batch", FORMAT, re.MULTILINE)
    for mark in (cell.RECEIPT, cell.SEGMENT_OPENED, cell.SEGMENT_SEALED):
        assert f"0x{mark:04X}" in FORMAT


def test_every_test_that_the_guarantees_name_exists() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)(?:::\w+)?`", GUARANTEES))
    assert len(named) > 8
    missing = [path for path in named if not (ROOT / path).is_file()]
    assert not missing
    for path, test in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", GUARANTEES):
        assert f"def {test}" in (ROOT / path).read_text(), test


def test_every_verb_and_error_is_in_the_documents() -> None:
    texts = README + "".join(path.read_text() for path in (ROOT / "docs").glob("*.md"))
    from replay.cli import app

    verbs = {command.name or command.callback.__name__ for command in app.registered_commands}  # type: ignore[union-attr]
    assert len(verbs) >= 10
    assert [verb for verb in verbs if f"journal {verb}" not in texts] == []
    names = [name for name in dir(errors) if name != "JournalError" and isinstance(getattr(errors, name), type)]
    own = [name for name in names if issubclass(getattr(errors, name), journal.JournalError)]
    assert [name for name in own if name not in texts] == []


def test_every_module_is_in_the_architecture() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    for package in ("journal", "replay", "agents_adapter"):
        section = text.split(f"## {package}:")[1].split("\n## ")[0]
        named = set(re.findall(r"`(\w+)`", section))
        places = [
            path for path in (ROOT / package).iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
        ]
        modules = {path.stem for path in places if not path.stem.startswith("_")}
        assert modules <= named, (package, modules - named)
