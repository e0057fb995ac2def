"""The watch: a resumed training that is not the one that was cut off is told so at its first wrong episode."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import journal
import replay
from agents_adapter import Plan, watch
from replay.divergence import diverge

PLAN = Plan.from_list([("EURUSD", "H1", 10 * i, 10 * i + 10, 7, {"sizes": (1, 2)}) for i in range(8)])


class Cut(Exception):
    """The training breaks off."""


class Learner:
    """Draws from `rng`, which is a part of its state where `exact`, and nobody's where not."""

    def __init__(self, exact: bool) -> None:
        self.rng = np.random.default_rng(1)
        self.unseeded = None if exact else np.random.default_rng()

    def reward(self) -> float:
        drawn = float(self.rng.normal())
        return drawn if self.unseeded is None else drawn + float(self.unseeded.normal())


def train(directory: Path, *, exact: bool, cut: int | None = None, names: tuple[str, ...] = ("A",), **how: Any) -> None:
    """Eight episodes of five steps, a checkpoint after every third; breaks off at step `cut` of this attempt."""
    run = agents_adapter.start(directory, checkpoint_every=3, code="x", **how)
    left = cut
    try:
        for name in names:
            learner = Learner(exact)
            track = run.agent(name, state={"rng": learner.rng})
            for episode in track.episodes(PLAN):
                for _ in range(5):
                    episode.step(learner.reward())
                    left = None if left is None else left - 1
                    if left == 0:
                        raise Cut
        run.finish()
    except BaseException:
        run.end()
        raise


def cut_and_resumed(directory: Path, *, exact: bool, cuts: tuple[int, ...] = (27,), **how: Any) -> list[str]:
    """The training, cut off and resumed; what it warned of."""
    for cut in cuts:
        with pytest.raises(Cut):
            train(directory, exact=exact, cut=cut, **how)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        train(directory, exact=exact, **how)
    return [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)]


@pytest.mark.parametrize("cuts", [(27,), (24, 14, 3), (1,)])
def test_an_exact_training_is_silent(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    assert cut_and_resumed(tmp_path / "j", exact=True, cuts=cuts) == []
    report = diverge(tmp_path / "j")
    assert report.compared >= len(cuts) and report.diverged == report.other == 0


def test_an_unseeded_generator_is_caught_at_the_first_episode(tmp_path: Path) -> None:
    (warned,) = cut_and_resumed(tmp_path / "j", exact=False)
    report = diverge(tmp_path / "j")
    # Cut in the third step of episode 5; episodes 3, 4 and a part of 5 came after the checkpoint.
    assert (report.compared, report.diverged, report.other) == (3, 3, 0)
    assert report.findings[0].as_words() in warned and "episode 3" in warned and "step 0" in warned
    assert replay.load(tmp_path / "j").agents["A"].effective["train"].episodes == 8


def test_each_agent_is_told_once(tmp_path: Path) -> None:
    warned = cut_and_resumed(tmp_path / "j", exact=False, cuts=(40 + 27,), names=("A", "B"))
    assert len(warned) == 1 and "B, train episode 3" in warned[0], "A was through, and did nothing again"


def test_raise_stops_the_training_after_the_episode_is_recorded(tmp_path: Path) -> None:
    with pytest.raises(journal.Diverged, match="A, train episode 3: its re-run differs first at step 0"):
        cut_and_resumed(tmp_path / "j", exact=False, on_divergence="raise")
    state = replay.load(tmp_path / "j")
    (run,) = state.runs.values()
    assert (run.status, run.attempts[-1].status) == ("unfinished", "failed")
    assert state.agents["A"].effective["train"].episodes == 4
    with pytest.raises(journal.Diverged):
        train(tmp_path / "j", exact=False, on_divergence="raise")
    train(tmp_path / "j", exact=False, on_divergence="ignore")


def test_ignore_says_nothing(tmp_path: Path) -> None:
    assert cut_and_resumed(tmp_path / "j", exact=False, on_divergence="ignore") == []
    assert diverge(tmp_path / "j").diverged == 3


def test_another_word_is_refused(tmp_path: Path) -> None:
    with pytest.raises(journal.EventRejected, match="on_divergence is 'print'"):
        agents_adapter.start(tmp_path / "j", on_divergence="print")  # type: ignore[arg-type]


def test_what_there_is_no_room_for_is_left_to_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "REWARDS_MAX", 0)
    assert cut_and_resumed(tmp_path / "j", exact=False) == []
    assert diverge(tmp_path / "j").diverged == 3


def test_a_team_is_watched_member_by_member(tmp_path: Path) -> None:
    def attempt(cut: int | None) -> None:
        run = agents_adapter.start(tmp_path / "j", checkpoint_every=3, code="x")
        good, bad = Learner(exact=True), Learner(exact=False)
        team = run.team("both", {"good": {"rng": good.rng}, "bad": {"rng": bad.rng}})
        try:
            for number, pair in enumerate(team.episodes(PLAN)):
                for episode, learner in zip(pair, (good, bad), strict=True):
                    episode.step(learner.reward())
                if number == cut:
                    raise Cut
            run.finish()
        except Cut:
            run.end()

    attempt(4)
    with pytest.warns(RuntimeWarning, match="bad, train episode 3") as caught:
        attempt(None)
    assert len(caught) == 1
    assert {one.agent for one in diverge(tmp_path / "j").findings} == {"bad"}


def test_a_wrapped_environment_without_a_plan(tmp_path: Path) -> None:
    """Its generator is a part of the checkpoint; one that it makes at each reset is not."""

    class Market:
        def __init__(self, exact: bool) -> None:
            self.exact = exact
            self.rng = np.random.default_rng(4)

        def reset(self) -> tuple[float, dict[str, Any]]:
            if not self.exact:
                self.rng = np.random.default_rng()
            self.left = 4
            return 0.0, {}

        def step(self, action: Any) -> tuple[float, float, bool, bool, dict[str, Any]]:
            self.left -= 1
            return 0.0, float(self.rng.normal()), self.left == 0, False, {}

    def attempt(exact: bool, cut: int | None) -> None:
        run = agents_adapter.start(tmp_path / str(exact), checkpoint_every=3, code="x")
        track = run.agent("A", state={"w": np.zeros(1)})
        env = track.wrap(Market(exact))
        for number in track.loop(8):
            env.reset()
            done = False
            while not done:
                _, _, done, _, _ = env.step(0)
            if number == cut:
                run.end()
                return
        run.finish()

    for exact in (True, False):
        attempt(exact, 4)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            attempt(exact, None)
        assert ["step 0" in str(one.message) for one in caught] == ([] if exact else [True])


def test_each_sub_environment_is_watched(tmp_path: Path) -> None:
    class Markets:
        num_envs = 3

        def __init__(self, wrong: float) -> None:
            self.wrong = wrong
            self.step_number = 0

        def reset(self, **given: Any) -> Any:
            self.step_number = 0
            return np.zeros(3), {}

        def step(self, actions: Any) -> Any:
            self.step_number += 1
            rewards = np.arange(3.0) + self.step_number
            rewards[1] += self.wrong * (self.step_number == 2)
            ended = np.full(3, self.step_number == 4)
            return np.zeros(3), rewards, ended, np.zeros(3, bool), {}

    def attempt(wrong: float, cut: int | None) -> None:
        run = agents_adapter.start(tmp_path / "j", checkpoint_every=9, code="x")
        track = run.agent("A", state={"w": np.zeros(1)})
        env = track.wrap(Markets(wrong))
        for number in track.loop(4):
            env.reset()
            for _ in range(4):
                env.step(np.zeros(3))
            if number == cut:
                run.end()
                return
        run.finish()

    attempt(0.0, 1)
    attempt(0.0, 1)
    with pytest.warns(RuntimeWarning, match="train episode 1: its re-run differs first at step 1, where") as caught:
        attempt(0.5, None)
    assert len(caught) == 1


def test_trainings_of_other_times_are_equal_where_they_are_exact(tmp_path: Path) -> None:
    """One that was killed and resumed is the one that never was; an unseeded generator is caught at its first step."""
    train(tmp_path / "whole", exact=True)
    cut_and_resumed(tmp_path / "resumed", exact=True, cuts=(24, 14, 3))
    found = replay.diff(tmp_path / "whole", tmp_path / "resumed")
    assert found.verdict == "equal" and [row.same for row in found.rows] == [8]
    train(tmp_path / "unseeded", exact=False)
    found = replay.diff(tmp_path / "whole", tmp_path / "unseeded")
    first = found.findings[0]
    assert (found.verdict, [row.rewards for row in found.rows]) == ("different", [8])
    assert (first.kind, first.agent, first.episode, first.step) == ("rewards", "A", 0, 0) and first.a != first.b
