"""The examples run, and do what their first lines say."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd

import replay
from agents_adapter import datasets
from agents_adapter.validation import COLUMNS

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(EXAMPLES / name), *words], capture_output=True, text=True, check=False)


def test_minimal_trains_its_plan(tmp_path: Path) -> None:
    done = example("minimal.py", "--dir", str(tmp_path / "j"))
    assert done.returncode == 0, done.stderr
    totals = replay.load(tmp_path / "j").totals.loc["LinearQ"]
    assert (totals["total_episodes"], totals["total_steps"]) == (20, 4800)


def test_every_example_takes_market_data_and_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    names = sorted(path.name for path in EXAMPLES.glob("*.py"))
    assert names
    bars = datasets.random_walk(5_000, seed=3)
    table = pd.DataFrame(bars.ohlcv, columns=COLUMNS, index=pd.DatetimeIndex(bars.time))
    table.to_csv(tmp_path / "GOLD_H1.csv", index_label="time")
    table.assign(low=-1.0).to_csv(tmp_path / "BAD_H1.csv", index_label="time")
    for name in names:
        done = example(name, "--dir", str(tmp_path / name), "--data", str(tmp_path), "--symbol", "GOLD")
        assert done.returncode == 0, done.stderr
        rows = [row for batch in replay.events(tmp_path / name) for row in batch.to_pylist()]
        assert {json.loads(row["fields"])["instrument"] for row in rows if row["kind"] == "BarsSeen"} == {"GOLD"}
        for symbol, said in (("BAD", "low not above 0 in 5,000 bars"), ("LEAD", "no LEAD among what is there")):
            done = example(name, "--dir", str(tmp_path / "none"), "--data", str(tmp_path), "--symbol", symbol)
            assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
            assert not (tmp_path / "none").exists()


def test_resume_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = example("resume.py", "--dir", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    stopped = example("resume.py", "--dir", str(tmp_path / "j"), "--stop", "1500")
    assert stopped.returncode == -signal.SIGKILL
    assert example("resume.py", "--dir", str(tmp_path / "j")).stdout == whole.stdout
