"""A clock that jumps back: it confuses nobody.

Events keep the order of their seqs, times are sought by their running maximum, and how long something took is told by
the clock that only grows.
"""

from __future__ import annotations

import itertools
import json
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import journal
import replay
from replay.compaction import compact

SECOND = 1_000_000_000


class Clock:
    """The wall clock goes where the test sets it; the other one grows, and begins anew when the machine does."""

    def __init__(self) -> None:
        self.wall = 1_700_000_000
        self.grown = 50.0

    def time_ns(self) -> int:
        return self.wall * SECOND

    def monotonic(self) -> float:
        return self.grown


def times(directory: Path) -> list[int]:
    return [round(one.timestamp()) for batch in replay.events(directory) for one in batch.column("time").to_pylist()]


def test_training_time_is_that_of_the_clock_that_only_grows(tmp_path: Path) -> None:
    clock = Clock()
    with journal.open(tmp_path / "j", clock=clock) as log:
        log.append(journal.EpisodeStarted(agent="A", episode=0))
        clock.wall -= 3600  # Summer time, or a server that sets the clock.
        clock.grown += 3
        log.reward(1, 0, 0, 1.0)
        log.append(journal.EpisodeEnded(agent="A", episode=0, reason="x"))
        first = clock.wall
    clock.grown = 0.0  # The machine was started again.
    clock.wall -= 3600
    with journal.open(tmp_path / "j", clock=clock) as log:
        log.append(journal.EpisodeStarted(agent="A", episode=1))
        clock.wall -= 60
        clock.grown += 0.25
        log.append(journal.EpisodeEnded(agent="A", episode=1, reason="x"))
    agent = replay.load(tmp_path / "j").agents["A"]
    assert agent.effective["train"].time_ns == agent.spent["train"].time_ns == 3.25 * SECOND
    assert agent.last_updated_ns == (first + 3600) * SECOND, "the newest time that was noted"
    assert times(tmp_path / "j") == [first + 3600] * 2 + [first] * 2 + [first - 3600, first - 3660]
    report = replay.verify(tmp_path / "j", deep=True)
    assert (report.status, report.events) == ("clean", 6)


ATTEMPT: dict[str, Any] = {"run": "r", "pid": 1, "argv": [], "cwd": "", "versions": {}}


def spent(directory: Path) -> tuple[int, float]:
    """(episodes, seconds) that `A` has spent."""
    agent = replay.load(directory).agents["A"]
    assert 0 <= agent.effective["train"].time_ns <= agent.spent["train"].time_ns
    return agent.spent["train"].episodes, agent.spent["train"].time_ns / SECOND


@pytest.mark.parametrize("jump", [-600, 600])
def test_episodes_that_broke_off_while_the_clock_jumped_took_no_less_than_nothing(tmp_path: Path, jump: int) -> None:
    """Nobody read the growing clock when their process died: what the wall clock says may be less than nothing."""
    clock = Clock()
    with journal.open(tmp_path / "j", clock=clock) as log:
        log.append(journal.RunStarted(run="r", config={}))
        log.append(journal.AttemptStarted(attempt=0, **ATTEMPT))
        log.append(journal.EpisodeStarted(agent="A", episode=0))
        log.append(journal.EpisodeStarted(agent="A", episode=1, env_index=1))
        clock.wall += jump
        clock.grown += 2
        log.append(journal.EpisodeEnded(agent="A", episode=1, env_index=1, reason="x"))
        log.append(journal.AttemptStarted(attempt=1, **ATTEMPT))
    assert spent(tmp_path / "j") == (2, 2.0)


def test_a_machine_started_again_in_the_middle_of_an_episode_takes_no_time_back(tmp_path: Path) -> None:
    """Its growing clock begins anew: below what was noted when the episode began."""
    clock = Clock()
    with journal.open(tmp_path / "j", clock=clock) as log:
        log.append(journal.EpisodeStarted(agent="A", episode=0))
    clock.grown = 0.0
    with journal.open(tmp_path / "j", clock=clock) as log:
        log.append(journal.EpisodeStarted(agent="A", episode=1, env_index=1))
        clock.grown += 2
        log.append(journal.EpisodeEnded(agent="A", episode=1, env_index=1, reason="x"))
    assert spent(tmp_path / "j") == (2, 2.0)


@pytest.mark.parametrize("compacted", [False, True])
def test_a_time_is_sought_by_the_running_maximum(tmp_path: Path, compacted: bool) -> None:
    """The state at a time is the one before the first event after which a later time had been seen."""
    rng, clock = random.Random(5), Clock()
    for _ in range(4):
        with journal.open(tmp_path / "j", clock=clock) as log:
            for _ in range(rng.randrange(3, 9)):
                clock.wall += rng.choice((1, 5, 0, -20, 7, 30, -3))
                log.reward(log.agent("A"), 0, 0, 1.0)
        if compacted:
            compact(tmp_path / "j")
        clock.wall -= 40
    noted = times(tmp_path / "j")
    assert noted != sorted(noted)
    newest = list(itertools.accumulate(noted, max))
    for moment in range(min(noted) - 1, max(noted) + 2):
        expected = sum(one <= moment for one in newest)
        state = replay.load(tmp_path / "j", at=datetime.fromtimestamp(moment, UTC))
        assert state.events == expected, moment


def test_the_command_line_seeks_a_time_the_same_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from replay.cli import main

    clock = Clock()
    with journal.open(tmp_path / "j", clock=clock) as log:
        for jump in (0, 10, 30, -100, 5, 200):  # A search that takes them for sorted ends elsewhere.
            clock.wall += jump
            log.append(journal.Custom(name="x"))
    moment = datetime.fromtimestamp(1_700_000_010, UTC).isoformat()
    assert main(["replay", str(tmp_path / "j"), "--at", moment, "--json"]) == 0
    told: Any = json.loads(capsys.readouterr().out)
    assert told["events"] == 2
