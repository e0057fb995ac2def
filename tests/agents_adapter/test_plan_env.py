"""PlanEnv: whoever owns the loop, the environment's resets follow the plan, and go on with it after a kill."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter import Plan, PlanEnv, Track
from agents_adapter.conformance import differences
from journal import EventRejected, ResumeImpossible

PLAN = Plan([("EURUSD", "H1", 10 * i, 10 * i + 2 + i % 3, 100 + i, {"cost": i}) for i in range(5)])


class Market:
    """An episode is as long as its range of bars; what each reset was given is kept."""

    def __init__(self) -> None:
        self.given: list[dict[str, Any]] = []
        self.np_random = np.random.default_rng(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        assert options is not None
        self.given.append({"seed": seed, **options})
        if seed is not None:
            self.np_random = np.random.default_rng(seed)
        self.left = options["stop"] - options["start"]
        return 0.0, {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return 0.0, float(self.np_random.normal()), self.left == 0, False, {}


def framework(env: Any, steps: int) -> None:
    """A framework's loop: it resets where it likes, and once more behind the last step."""
    env.reset(seed=0)
    env.reset()
    for _ in range(steps):
        *_, terminated, truncated, _ = env.step(0)
        if terminated or truncated:
            env.reset()


def entries(track: Track) -> list[list[Any]]:
    found: list[list[Any]] = track.results[["entry", "seed", "steps"]].to_numpy().tolist()
    return found


def test_wrapped_and_recorded_it_is_still_the_environment_to_a_framework(tmp_path: Path) -> None:
    """Stable-Baselines3 asks whether it was given a gymnasium.Env."""
    with agents_adapter.start(tmp_path / "x", code="c") as run:
        env = run.agent("PPO", stateless=True).wrap(PlanEnv(Market(), PLAN))
        assert isinstance(env, Market) and not isinstance(env, dict)
        framework(env, 3)


def test_resets_take_seed_and_options_of_the_entries_in_turn() -> None:
    inner = Market()
    env = PlanEnv(inner, PLAN)
    env.reset(options={"render": True, "start": 7})
    env.step(0)
    env.reset(seed=9)
    first = {"instrument": "EURUSD", "timeframe": "H1", "start": 0, "stop": 2, "cost": 0}
    second = {"instrument": "EURUSD", "timeframe": "H1", "start": 10, "stop": 13, "cost": 1}
    assert inner.given == [{**first, "seed": 100, "render": True}, {**second, "seed": 101}]
    assert (env.plan_position, env.plan_entry, env.plan) == (1, PLAN[1], PLAN)


def test_an_entry_is_spent_by_a_step_not_by_a_reset() -> None:
    inner = Market()
    framework(PlanEnv(inner, PLAN), 5)
    assert [one["start"] for one in inner.given] == [0, 0, 10, 20]


def test_behind_the_last_entry_the_plan_begins_anew() -> None:
    inner = Market()
    env = PlanEnv(inner, PLAN)
    for number in range(7):
        assert env.plan_over == (number >= 6), "over is known after the reset behind the last episode"
        env.reset()
        env.step(0)
    assert [one["start"] for one in inner.given] == [0, 10, 20, 30, 40, 0, 10]


def test_the_callers_seed_holds_where_the_entry_has_none() -> None:
    inner = Market()
    PlanEnv(inner, [("EURUSD", "H1", 0, 5)]).reset(seed=8)
    assert inner.given[0]["seed"] == 8


def test_an_environment_that_resets_in_its_own_way_is_told_how() -> None:
    class Own:
        def reset(self, start_bar: int) -> int:
            return start_bar

        def step(self, action: Any) -> Any:
            return 0, 1.0, False, {}

    env = PlanEnv(Own(), PLAN, how=lambda env, entry: env.reset(start_bar=entry.start))
    assert env.reset(seed=1) == 0
    env.step(0)
    assert env.reset() == 10


@pytest.mark.parametrize("part", [3, (0,), (2, 2), (-1, 2), (0, 6), (0.5, 2)])
def test_a_part_that_is_none_is_refused(part: Any) -> None:
    with pytest.raises(EventRejected, match="part"):
        PlanEnv(Market(), PLAN, part=part)


def test_recorded_the_episodes_are_the_plans(tmp_path: Path) -> None:
    with agents_adapter.start(tmp_path / "j", code="1") as run:
        track = run.agent("PPO", {})
        framework(track.wrap(PlanEnv(Market(), PLAN)), 9)
        assert entries(track) == [[0, 100, 2], [1, 101, 3], [2, 102, 4]]
    state = replay.load(str(tmp_path / "j"))
    seen = state.agents["PPO"].bars[f"{run.id}/train"]
    assert [(one.source, one.start, one.stop) for one in seen] == [
        ("declared", 0, 2),
        ("declared", 10, 13),
        ("declared", 20, 24),
    ]
    assert state.runs[run.id].plans["PPO/train"].plan_hash == PLAN.hash


def test_a_framework_and_a_loop_of_ones_own_see_the_same(tmp_path: Path) -> None:
    """What PlanEnv records compares with what `track.episodes` records: the same plan, the same entries."""
    with agents_adapter.start(tmp_path / "j", code="1") as run:
        framework(run.agent("A", {}).wrap(PlanEnv(Market(), PLAN)), 16)
        for episode in run.agent("B", {}).episodes(PLAN):
            for _ in range(episode.stop - episode.start):
                episode.step(1.0)
    found = replay.load(str(tmp_path / "j"))
    seen = [
        [(one.instrument, one.start, one.stop) for one in found.agents[name].bars[f"{run.id}/train"]] for name in "AB"
    ]
    assert seen[0][:5] == seen[1]


def training(directory: Path, plan: Plan, stop_at: int, *, learns: bool = True) -> list[list[Any]]:
    """A framework's loop that is cut off after `stop_at` steps of this process."""
    state = {"n": np.zeros(1)} if learns else None
    with agents_adapter.start(directory, checkpoint_every=1, code="1") as run:
        track = run.agent("PPO", state, stateless=not learns)
        env = track.wrap(PlanEnv(Market(), plan))
        env.reset()
        steps = 0
        while not env.plan_over:
            if steps == stop_at:
                raise RuntimeError("stopped here")
            *_, terminated, _, _ = env.step(0)
            steps += 1
            if terminated:
                env.reset()
        return entries(track)


@pytest.mark.parametrize("learns", [True, False])
@pytest.mark.parametrize("stop_at", [0, 1, 2, 3, 7, 13])
def test_resumed_it_goes_on_with_the_entry_that_was_cut(stop_at: int, learns: bool, tmp_path: Path) -> None:
    whole = training(tmp_path / "whole", PLAN, 99, learns=learns)
    with pytest.raises(RuntimeError):
        training(tmp_path / "j", PLAN, stop_at, learns=learns)
    assert training(tmp_path / "j", PLAN, 99, learns=learns) == whole
    assert [row[0] for row in whole] == [0, 1, 2, 3, 4]
    assert not differences(tmp_path / "whole", tmp_path / "j")


def test_another_plan_than_the_one_that_was_begun_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        training(tmp_path / "j", PLAN, 7)
    with pytest.raises(ResumeImpossible, match=r"plan\[4\]\.seed was 104, is 7"):
        training(tmp_path / "j", Plan([*PLAN[:4], ("EURUSD", "H1", 40, 43, 7, {"cost": 4})]), 99)


def test_a_phase_is_walked_or_followed_not_both(tmp_path: Path) -> None:
    with agents_adapter.start(tmp_path / "j", code="1") as run:
        walks, follows, one = run.agent("A", {}), run.agent("B", {}), run.agent("C", {})
        list(walks.episodes(PLAN))
        with pytest.raises(EventRejected, match="either walks plans"):
            walks.wrap(PlanEnv(Market(), PLAN))
        walks.wrap(PlanEnv(Market(), PLAN), phase="eval")
        follows.wrap(PlanEnv(Market(), PLAN))
        follows.wrap(PlanEnv(Market(), PLAN))
        with pytest.raises(EventRejected, match="either walks plans"):
            follows.wrap(PlanEnv(Market(), PLAN[:3]))
        with pytest.raises(EventRejected, match="either walks plans"):
            list(follows.episodes(PLAN))
        env = one.wrap(PlanEnv(Market(), PLAN))
        for _ in one.evaluate(PLAN[:1]):
            env.reset()
            with pytest.raises(EventRejected, match="PlanEnv inside"):
                env.step(0)


def test_it_is_found_beneath_gymnasiums_wrappers(tmp_path: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium", reason="asks Gymnasium's own wrappers")

    class Real(gymnasium.Env):  # type: ignore[misc, name-defined]
        action_space = gymnasium.spaces.Discrete(2)
        observation_space = gymnasium.spaces.Box(-1, 1)

        def reset(self, *, seed: Any = None, options: Any = None) -> Any:
            super().reset(seed=seed)
            return np.zeros(1, np.float32), {}

        def step(self, action: Any) -> Any:
            return np.zeros(1, np.float32), 1.0, False, False, {}

    with agents_adapter.start(tmp_path / "j", code="1") as run:
        track = run.agent("PPO", {})
        env = gymnasium.wrappers.TimeLimit(PlanEnv(Real(), PLAN), 3)
        framework(track.wrap(env), 9)
        assert entries(track) == [[0, 100, 3], [1, 101, 3], [2, 102, 3]]
