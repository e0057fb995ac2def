"""A run's log becomes history when it was asked for, and never at the run's cost."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest

import agents_adapter
import journal
import replay
from journal import EventRejected, JournalFailed
from journal.manifest import Manifest
from journal.storage.disk import DiskStorage

PLAN = [("EURUSD", "H1", 10 * i, 10 * i + 10, i) for i in range(5)]


def train(directory: Path, episodes: int = 3, **options: Any) -> None:
    with agents_adapter.start(directory, code="1", **options) as run:
        for episode in run.agent("PPO", stateless=True).episodes(PLAN[:episodes]):
            episode.step(1.0)


def compacted(directory: Path) -> int:
    """How many events are in history."""
    return Manifest.read(DiskStorage(directory)).base.seq


def test_nothing_is_compacted_unasked(tmp_path: Path) -> None:
    train(tmp_path)
    train(tmp_path)
    assert compacted(tmp_path) == 0


def test_at_the_end_of_a_completed_run(tmp_path: Path) -> None:
    train(tmp_path, compact="end")
    state = replay.load(tmp_path)
    assert compacted(tmp_path) == state.events > 0
    assert next(iter(state.runs.values())).status == "completed"
    assert not list((tmp_path / "segments").iterdir())
    train(tmp_path, compact="end")
    assert int(replay.load(tmp_path).totals.loc["PPO", "total_episodes"]) == 6


def test_not_at_the_end_of_one_that_was_cut_off(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path, code="1", compact="end") as run:
        run.agent("PPO", stateless=True)
        raise RuntimeError("cut off")
    assert compacted(tmp_path) == 0


def test_before_the_next_start(tmp_path: Path) -> None:
    train(tmp_path, compact="open")
    assert compacted(tmp_path) == 0, "there was nothing yet"
    before = replay.load(tmp_path).events
    run = agents_adapter.start(tmp_path, code="1", compact="open")
    assert compacted(tmp_path) == before
    run.finish()


def test_a_run_that_goes_on_from_history_is_the_same_run(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path, code="1") as run:
        first = run.id
        for episode in run.agent("PPO", stateless=True).episodes(PLAN):
            episode.step(1.0)
            if episode.index == 2:
                raise RuntimeError("cut off")
    with agents_adapter.start(tmp_path, code="1", compact="open") as run:
        assert run.id == first
        assert [
            episode.index for episode in run.agent("PPO", stateless=True).episodes(PLAN) if episode.step(1.0) is None
        ]
    assert int(replay.load(tmp_path).totals.loc["PPO", "total_episodes"]) == 5


@pytest.mark.parametrize("error", [JournalFailed("no space"), MemoryError(), ImportError("no pyarrow")])
@pytest.mark.parametrize("moment", ["end", "open"])
def test_where_it_fails_the_run_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, moment: str
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    train(tmp_path)
    monkeypatch.setattr("replay.compaction.compact", fail)
    with pytest.warns(RuntimeWarning, match="was not compacted.*nothing is lost") as told:
        train(tmp_path, compact=moment)
    assert len(told) == 1
    assert "\n" not in str(told[0].message)
    assert [run.status for run in replay.load(tmp_path).runs.values()] == ["completed"] * 2


def test_beside_another_writer_open_says_so_and_nothing_is_compacted(tmp_path: Path) -> None:
    train(tmp_path)
    with journal.open(tmp_path), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(journal.JournalLocked):
            agents_adapter.start(tmp_path, code="1", compact="open")
    assert compacted(tmp_path) == 0


def test_a_script_that_only_ends_is_compacted_too(tmp_path: Path) -> None:
    script = (
        "import sys, agents_adapter\n"
        "run = agents_adapter.start(sys.argv[1], code='1', compact='end')\n"
        "for episode in run.agent('PPO', {'x': 1}).episodes([('EURUSD', 'H1', 0, 9, 1)]):\n"
        "    episode.step(1.0)\n"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert compacted(tmp_path) == replay.load(tmp_path).events > 0


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EventRejected, match="compact is 'always'"):
        agents_adapter.start(tmp_path / "j", compact="always")  # type: ignore[arg-type]
    assert not (tmp_path / "j").exists()
