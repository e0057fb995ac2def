"""The examples run, and do what their first lines say."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import replay

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name: str, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, str(EXAMPLES / name), *words], capture_output=True, text=True, check=False)


def test_minimal_trains_its_plan(tmp_path: Path) -> None:
    done = example("minimal.py", "--dir", str(tmp_path / "j"))
    assert done.returncode == 0, done.stderr
    totals = replay.load(tmp_path / "j").totals.loc["LinearQ"]
    assert (totals["total_episodes"], totals["total_steps"]) == (20, 4800)


def test_resume_ends_with_the_same_weights(tmp_path: Path) -> None:
    whole = example("resume.py", "--dir", str(tmp_path / "whole"))
    assert whole.returncode == 0, whole.stderr
    stopped = example("resume.py", "--dir", str(tmp_path / "j"), "--stop", "1500")
    assert stopped.returncode == -signal.SIGKILL
    assert example("resume.py", "--dir", str(tmp_path / "j")).stdout == whole.stdout
