"""A training stopped at any moment, and started again until it is through, ends bit-equal to one never stopped.

Compared are weights, episodes, steps, rewards and vars; the randomness comes from Python's and numpy's global
generators, from own ones, and from an environment's.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import replay
from agents_adapter import conformance
from replay.divergence import diverge

SCRIPT = Path(__file__).with_name("training.py")
KILLS = int(os.environ.get("JOURNAL_KILLS", "0"))
KINDS = ("planned", "wrapped")


def train(directory: Path, kind: str, die_at: int = 0, by: int = signal.SIGKILL) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, str(SCRIPT), "--dir", str(directory), "--kind", kind]
    words += ["--die-at", str(die_at), "--by", str(int(by))]
    return subprocess.run(words, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Path, str]]:
    """Each kind of training, uninterrupted: its journal, and the weights it printed."""
    done = {}
    for kind in KINDS:
        directory = tmp_path_factory.mktemp(kind) / "whole"
        finished = train(directory, kind)
        assert finished.returncode == 0, finished.stderr
        done[kind] = (directory, finished.stdout)
    return done


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("by", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, 0], ids=str)
def test_stopped_twice_and_resumed(kind: str, by: int, whole: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    directory, printed = whole[kind]
    for die_at in (233, 307):
        stopped = train(tmp_path / "j", kind, die_at, by)
        assert stopped.returncode != 0
    finished = train(tmp_path / "j", kind)
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == printed
    report = diverge(tmp_path / "j")
    assert report.compared and not report.diverged and "differs first" not in finished.stderr
    assert conformance.differences(directory, tmp_path / "j") == []
    expected = {0: "failed", signal.SIGKILL: "crashed"}.get(by, "interrupted")
    run = next(iter(replay.load(tmp_path / "j").runs.values()))
    assert [attempt.status for attempt in run.attempts] == [expected, expected, "completed"]


@pytest.mark.crash
@pytest.mark.parametrize("kind", KINDS)
def test_killed_at_random_moments(kind: str, whole: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    directory, printed = whole[kind]
    draw = random.Random(f"{kind} 1")
    kills = trainings = 0
    while kills < max(KILLS, 6):
        trainings += 1
        place = tmp_path / str(trainings)
        while (stopped := train(place, kind, draw.randint(1, 450))).returncode == -signal.SIGKILL:
            kills += 1
        assert stopped.returncode == 0, stopped.stderr
        assert stopped.stdout == printed
        assert conformance.differences(directory, place) == []


@pytest.mark.crash
def test_the_suite_for_adapters_passes_an_exact_training(tmp_path: Path) -> None:
    report = conformance.check([sys.executable, str(SCRIPT), "--dir", "{dir}"], tmp_path, kills=max(KILLS, 3), seed=3)
    assert report.kills >= 3
    assert report.differences == []


def test_the_suite_for_adapters_sees_another_training(whole: dict[str, tuple[Path, str]], tmp_path: Path) -> None:
    assert train(tmp_path / "j", "planned").returncode == 0
    assert conformance.differences(whole["planned"][0], tmp_path / "j") == []
    found = conformance.differences(whole["planned"][0], whole["wrapped"][0])
    assert any("A: episode" in one for one in found)


def test_the_suite_for_adapters_names_a_command_that_fails_by_itself(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no such option"):
        conformance.check([sys.executable, "-c", "raise SystemExit('no such option')"], tmp_path)
