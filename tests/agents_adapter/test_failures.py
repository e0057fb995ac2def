"""Bad arguments of `start`, calls after a run's end, and a journal that fails: each a clear error, or one warning."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import journal
import replay
from agents_adapter import Plan
from journal import EventRejected, JournalClosed, JournalFailed, JournalLocked, NotAJournal
from journal.storage.disk import DiskStorage

PLAN = Plan([("EURUSD", "H1", 10 * i, 10 * i + 10, i) for i in range(6)])


class Environment:
    def reset(self) -> tuple[int, dict[str, Any]]:
        return 0, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, 1.0, False, False, {}


@pytest.mark.parametrize(
    "given",
    [
        {"resume": "maybe"},
        {"on_failure": "ignore"},
        {"seeding": "always"},
        {"continue_from": "first"},
        {"checkpoint_every": 0},
        {"checkpoint_every": 2.5},
        {"keep": 0},
        {"code": 5},
        {"config": [1]},
        {"config": {"f": print}},
        {"shard": ""},
    ],
    ids=str,
)
def test_a_bad_argument_is_refused_before_anything_is_made(given: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(EventRejected):
        agents_adapter.start(tmp_path / "j", **given)
    assert not (tmp_path / "j").exists()


def test_a_file_for_a_directory_and_a_second_process_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAJournal):
        agents_adapter.start(tmp_path / "file")
    with journal.open(tmp_path / "j"), pytest.raises(JournalLocked):
        agents_adapter.start(tmp_path / "j")


def test_after_finish_everything_is_refused(tmp_path: Path) -> None:
    run = agents_adapter.start(tmp_path / "j")
    track = run.agent("PPO", {})
    walk = track.episodes(PLAN)
    episode = next(walk)
    env = track.wrap(Environment())
    env.reset()
    run.finish()
    run.finish()
    for call in (
        lambda: episode.step(1.0),
        lambda: episode.end(),
        lambda: track.log({"loss": 1.0}),
        lambda: track.episodes(PLAN),
        lambda: track.evaluate(PLAN),
        lambda: next(walk),
        lambda: next(track.loop(3)),
        lambda: env.step(0),
        lambda: env.reset(),
        lambda: track.wrap(Environment()),
        lambda: run.agent("SAC", {}),
    ):
        with pytest.raises(JournalClosed):
            call()  # type: ignore[no-untyped-call]
    assert replay.load(tmp_path / "j").totals.loc["PPO", "total_episodes"] == 1


def test_a_failing_journal_raises_or_warns_once_and_trains_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise OSError(5, "Input/output error")

    run = agents_adapter.start(tmp_path / "j", on_failure="warn", checkpoint_every=1, code="1")
    track = run.agent("PPO", {"w": np.zeros(3)})
    done = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for episode in track.episodes(PLAN):
            if episode.index == 3:
                run.log.poison(OSError(5, "Input/output error"))
            episode.step(1.0)
            track.log({"loss": 1.0})
            done.append(episode.index)
        run.agent("SAC", {"w": 1})
        run.finish()
    assert done == [0, 1, 2, 3, 4, 5]
    assert [str(one.message) for one in caught if "unrecorded" in str(one.message)][1:] == []
    assert len(caught) == 1
    with agents_adapter.start(tmp_path / "j", code="1") as run:
        done = [episode.index for episode in run.agent("PPO", {"w": np.zeros(3)}).episodes(PLAN)]
        assert done == [3, 4, 5]
        monkeypatch.setattr(DiskStorage, "rename", fail)
        with pytest.raises(JournalFailed):
            next(run.agent("SAC", {"w": 1}).episodes(PLAN))
        monkeypatch.undo()
