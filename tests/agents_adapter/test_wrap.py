"""A wrapped environment records what passes through it, changes nothing of it, and its randomness resumes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter import Bars, Plan, Run, Track
from journal import EventRejected, ResumeImpossible

PLAN = Plan([("EURUSD", "H1", 10 * i, 10 * i + 10, i) for i in range(3)])


class Short:
    """Ends after `length` steps, each rewarded 1.0; `values` is how many its step returns."""

    def __init__(self, length: int = 3, values: int = 5, **info: Any) -> None:
        self.length, self.values, self.info = length, values, info
        self.price = 1.25
        self.closed = False

    def reset(self, **given: Any) -> Any:
        self.at = 0
        return (0, {}) if self.values == 5 else 0

    def step(self, action: Any) -> Any:
        self.at += 1
        over = self.at >= self.length
        return (self.at, 1.0, over, False, self.info) if self.values == 5 else (self.at, 1.0, over, self.info)

    def close(self) -> None:
        self.closed = True


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1")
    yield run
    run.finish()


@pytest.fixture
def track(run: Run) -> Track:
    return run.agent("PPO", {})


def play(env: Any, steps: int) -> None:
    """The usual old loop: reset when done, and once more at the end."""
    env.reset()
    for _ in range(steps):
        values = env.step(0)
        if values[2] or (len(values) == 5 and values[3]):
            env.reset()


@pytest.mark.parametrize("values", [4, 5])
def test_episodes_and_rewards_are_recorded(values: int, track: Track) -> None:
    play(track.wrap(Short(values=values)), 6)
    results = track.results
    assert results["steps"].tolist() == [3, 3]
    assert results["reward"].tolist() == [3.0, 3.0]
    assert results["reason"].tolist() == ["terminated", "terminated"]


def test_a_time_limit_of_the_old_kind_truncates(track: Track) -> None:
    play(track.wrap(Short(values=4, **{"TimeLimit.truncated": True})), 3)
    assert track.results["reason"].tolist() == ["truncated"]


def test_results_pass_through_unchanged(track: Track) -> None:
    env, bare = track.wrap(Short(), phase="train"), Short()
    assert env.reset(seed=3) == bare.reset(seed=3)
    for _ in range(3):
        assert env.step(0) == bare.step(0)


def test_all_other_attributes_are_the_environments_own(track: Track) -> None:
    inner = Short()
    env = track.wrap(inner)
    assert env.price == 1.25
    env.price = 1.5
    assert inner.price == 1.5
    assert not hasattr(env, "nothing")
    with env:
        pass
    assert inner.closed


def test_a_reset_ends_the_episode_and_one_without_steps_is_none(run: Run, track: Track) -> None:
    env = track.wrap(Short(length=100))
    env.reset(seed=1)
    env.reset(seed=2)
    env.step(0)
    env.reset()
    run.finish()
    results = track.results
    assert results[["seed", "steps", "reason"]].to_numpy().tolist() == [[2, 1, "completed"]]


def test_a_seed_that_is_no_whole_number_is_the_environment_s_own_affair(run: Run, track: Track) -> None:
    env = track.wrap(Short(length=100))
    for seed in (np.array(3), np.int64(4), 5, -1, True, "x", [1], np.array([1]), np.array([1, 2]), np.array([])):
        env.reset(seed=seed)
        env.step(0)
    run.finish()
    assert track.results["seed"].dropna().tolist() == [3, 4, 5]


def test_a_step_without_a_reset_is_refused_before_the_environment_moves(track: Track) -> None:
    inner = Short(length=2)
    env = track.wrap(inner)
    with pytest.raises(EventRejected, match=r"reset\(\) first"):
        env.step(0)
    play(env, 0)
    env.step(0), env.step(0)
    with pytest.raises(EventRejected, match=r"reset\(\) first"):
        env.step(0)
    assert inner.at == 2


def test_what_is_no_environment_is_refused(track: Track) -> None:

    with pytest.raises(EventRejected, match="needs reset"):
        track.wrap(object())
    with pytest.raises(EventRejected, match="bars="):
        track.wrap(Short(), bars="EURUSD")  # type: ignore[arg-type]
    env = track.wrap(Short(values=5))
    env.reset()
    env.step = lambda action: (0, 1.0, False)
    with pytest.raises(EventRejected, match="3 values"):
        env.step(0)


def test_inside_a_plan_the_plan_starts_the_episodes(run: Run, track: Track) -> None:
    env = track.wrap(Short())
    for episode in track.episodes(PLAN):
        env.reset(seed=episode.seed)
        done = False
        while not done:
            _, _, done, _, _ = env.step(0)
        assert episode.ended
        env.reset()  # As loops do that reset when done.
        with pytest.raises(EventRejected):
            env.step(0)
    for episode in track.evaluate(PLAN[:1]):
        env.reset()
        env.step(0)
        assert episode.steps == 1
    assert track.results[["phase", "entry", "steps"]].to_numpy().tolist() == [
        ["train", 0, 3],
        ["train", 1, 3],
        ["train", 2, 3],
        ["eval", 0, 1],
    ]


def test_two_environments_of_one_agent_are_told_apart(run: Run, track: Track) -> None:
    one, other = track.wrap(Short()), track.wrap(Short())
    for env in (one, other):
        env.reset()
    for _ in range(3):
        one.step(0), other.step(0)
    assert track.results[["env_index", "episode", "steps"]].to_numpy().tolist() == [[0, 0, 3], [1, 1, 3]]


def test_bars_tells_what_the_environment_has_shown(run: Run, track: Track) -> None:
    import pandas as pd

    index = pd.date_range("2024-01-01", periods=30, freq="h")
    frame = pd.DataFrame({"open": 1.0, "high": 1.2, "low": 0.9, "close": 1.1}, index=index)
    asked = []

    def shown(env: Short) -> Any:
        asked.append(env.at)
        return (frame.iloc[5:15], "EURUSD", "H1") if len(asked) == 1 else Bars.from_frame(frame, "EURUSD", "H1")

    env = track.wrap(Short(), bars=shown)
    play(env, 6)
    first, second = replay.load(run.log.storage).agents["PPO"].bars[f"{run.id}/train"]
    assert asked == [3, 3]
    assert (first.source, first.stop - first.start, second.stop - second.start) == ("observed", 10, 30)
    assert first.content_hash == Bars.from_frame(frame, "EURUSD", "H1").content_hash(5, 15)


def test_checkpoints_lie_between_the_episodes_of_a_bare_loop(run: Run, track: Track) -> None:
    play(track.wrap(Short()), 15)
    episodes = [checkpoint.episode for checkpoint in replay.load(run.log.storage).agents["PPO"].checkpoints]
    assert episodes == [0, 2, 4]


# -- randomness --------------------------------------------------------------------------------------------------------


def random_walk(directory: Path, env: Any, until: int) -> list[float]:
    """Rewards and sampled actions of an environment that is seeded once, before the loop."""
    seen = []
    with agents_adapter.start(directory, checkpoint_every=1, code="1") as run:
        track = run.agent("PPO", {})
        env = track.wrap(env)
        env.reset(seed=4)
        env.action_space.seed(5)
        for i in track.loop(8):
            if i == until:
                raise RuntimeError("stopped here")
            observation, _ = env.reset()
            seen += [float(one) for one in observation]
            done = False
            while not done:
                action = env.action_space.sample()
                observation, _, terminated, truncated, _ = env.step(action)
                seen += [float(action), *(float(one) for one in observation)]
                done = terminated or truncated
    return seen


@pytest.mark.parametrize("name", ["CartPole-v1", "MountainCar-v0"])
def test_the_randomness_of_a_gymnasium_environment_resumes_exactly(name: str, tmp_path: Path) -> None:
    gymnasium = pytest.importorskip("gymnasium")

    def make() -> Any:
        return gymnasium.make(name, max_episode_steps=30)

    whole = random_walk(tmp_path / "whole", make(), 99)
    with pytest.raises(RuntimeError):
        random_walk(tmp_path / "j", make(), 5)
    rest = random_walk(tmp_path / "j", make(), 99)
    assert rest == whole[-len(rest) :]
    assert 0 < len(rest) < len(whole)


class Old(Short):
    """Generators as plain attributes, made when first needed, one of them in what is wrapped."""

    def __init__(self, inner: Any = None) -> None:
        super().__init__(values=4)
        self.env = inner
        self.rng = np.random.RandomState(3)

    def step(self, action: Any) -> Any:
        at, _, over, info = super().step(action)
        inner = self.env.rng.normal() if self.env is not None else 0.0
        return at, self.rng.normal() + inner, over, info


def one_episode(env: Any) -> None:
    """Without a reset behind it: there, a checkpoint may follow."""
    env.reset()
    for _ in range(3):
        env.step(0)


def old_rewards(directory: Path, env: Any, until: int) -> list[float]:
    with agents_adapter.start(directory, checkpoint_every=1, code="1") as run:
        track = run.agent("PPO", {})
        env = track.wrap(env)
        for i in track.loop(5):
            if i == until:
                raise RuntimeError("stopped here")
            one_episode(env)
        return [float(one) for one in track.results["reward"]]


def test_generators_that_are_attributes_of_the_environment_resume_exactly(tmp_path: Path) -> None:
    whole = old_rewards(tmp_path / "whole", Old(Old()), 99)
    with pytest.raises(RuntimeError):
        old_rewards(tmp_path / "j", Old(Old()), 2)
    assert old_rewards(tmp_path / "j", Old(Old()), 99) == whole


class Lazy(Short):
    """As Gymnasium does it: the generator is made at the first reset, unless it is there."""

    _np_random: np.random.Generator | None = None

    def __init__(self) -> None:
        super().__init__()
        self._np_random = None

    def reset(self, **given: Any) -> Any:
        self._np_random = self._np_random or np.random.default_rng(7)
        return super().reset()

    def step(self, action: Any) -> Any:
        at, _, over, cut, info = super().step(action)
        assert self._np_random is not None
        return at, self._np_random.normal(), over, cut, info


def lazy_rewards(directory: Path, until: int) -> list[float]:
    with agents_adapter.start(directory, checkpoint_every=1, code="1") as run:
        track, made = run.agent("PPO", {}), None
        for i in track.loop(5):
            made = made or Lazy()
            env = track.wrap(made)
            if i == until:
                raise RuntimeError("stopped here")
            one_episode(env)
        results = track.results
        assert results["env_index"].tolist() == [0] * 5
        return [float(one) for one in results["reward"]]


def test_an_environment_made_inside_the_loop_resumes_exactly_too(tmp_path: Path) -> None:
    whole = lazy_rewards(tmp_path / "whole", 99)
    with pytest.raises(RuntimeError):
        lazy_rewards(tmp_path / "j", 2)
    assert lazy_rewards(tmp_path / "j", 99) == whole


def test_an_environment_that_is_built_differently_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        old_rewards(tmp_path / "j", Old(Old()), 2)
    with pytest.raises(ResumeImpossible, match=r"no env\.env"):
        old_rewards(tmp_path / "j", Old(), 99)


class Drawing:
    """Draws its start from its own generator at each reset, and moves on from there for four steps."""

    def __init__(self) -> None:
        self.np_random = np.random.default_rng(4)

    def reset(self, **given: Any) -> Any:
        self.at, self.start = 0, float(self.np_random.normal())
        return self.start, {}

    def step(self, action: Any) -> Any:
        self.at += 1
        return self.start, self.start, self.at == 4, False, {}


def rollouts(directory: Path, stop_at: int | None, steps: int) -> float:
    """The usual shape of PPO: rollouts of fixed length, and a reset within them where an episode ends."""
    weights = np.zeros(1)
    with agents_adapter.start(directory, checkpoint_every=1, code="x") as run:
        track = run.agent("PPO", {"weights": weights})
        env = track.wrap(Drawing())
        env.reset()
        for rollout in track.loop(6):
            for _ in range(steps):
                _, reward, over, _, _ = env.step(0)
                weights += reward * (1 + rollout)
                if over:
                    env.reset()
            if rollout == stop_at:
                run.end()
                break
    return float(weights[0])


@pytest.mark.filterwarnings("ignore:PPO. no checkpoint")
@pytest.mark.parametrize("stop_at", [0, 2, 4])
def test_no_checkpoint_lies_between_a_reset_and_its_first_step(stop_at: int, tmp_path: Path) -> None:
    """The rollout ends right after the reset that drew the next start: resumed from there, it would be drawn again."""
    expected = rollouts(tmp_path / "uncut", None, 4)
    rollouts(tmp_path / "cut", stop_at, 4)
    assert rollouts(tmp_path / "cut", None, 4) == expected


def test_a_training_that_can_never_be_saved_is_told_so(tmp_path: Path) -> None:
    run = agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="x")
    track = run.agent("PPO", {"n": 0})
    env = track.wrap(Short(100))
    env.reset()
    with pytest.warns(RuntimeWarning, match="PPO: no checkpoint could be saved for 10") as told:
        for _ in track.loop(12):
            env.step(0)
    assert len(told) == 1
    run.end()


def test_a_wrapped_environment_is_one_to_gymnasium(track: Track) -> None:
    gymnasium = pytest.importorskip("gymnasium", reason="asks Gymnasium's own wrappers")
    env = gymnasium.wrappers.TimeLimit(track.wrap(gymnasium.make("CartPole-v1")), 3)
    env.reset(seed=1)
    for _ in range(3):
        env.step(0)
    assert track.open["train", 0].steps == 3
    assert isinstance(track.wrap(Short()), Short)
