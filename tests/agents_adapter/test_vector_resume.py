"""A vector environment's training, cut off and started again: exactly, where each rollout begins with a reset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter.conformance import differences
from journal import ResumeImpossible


def make(kind: str, count: int = 3, limit: int = 12) -> Any:
    gymnasium = pytest.importorskip("gymnasium", reason="runs Gymnasium's vector environments")
    name, _, mode = kind.partition(" ")
    if name == "native":
        return gymnasium.make_vec(
            "CartPole-v1", count, vectorization_mode="vector_entry_point", max_episode_steps=limit
        )
    envs = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=limit) for _ in range(count)]
    vector = gymnasium.vector.SyncVectorEnv if name == "sync" else gymnasium.vector.AsyncVectorEnv
    return vector(envs, autoreset_mode=mode or "NextStep")


class Endless:
    """Sub-environments whose episodes never end by themselves."""

    num_envs = 2

    def reset(self, **given: Any) -> Any:
        return np.zeros(2), {}

    def step(self, actions: Any) -> Any:
        return np.zeros(2), np.ones(2), np.zeros(2, bool), np.zeros(2, bool), {}


def rollouts(directory: Path, env: Any, until: int, *, resets: bool = True) -> list[float]:
    """Rollouts of fixed length; each begins with a reset, or goes on where the last one ended."""
    weights = np.zeros(2)
    with agents_adapter.start(directory, checkpoint_every=2, code="1") as run:
        track = run.agent("PPO", {"weights": weights})
        env = track.wrap(env)
        env.reset(seed=4)
        env.action_space.seed(5)
        for i in track.loop(9):
            if i == until:
                raise RuntimeError("stopped here")
            weights *= 0.9  # Before the reset: it is done once, also where the checkpoint is saved at that reset.
            observed = env.reset()[0] if resets else np.zeros((3, 4))
            for _ in range(7):
                weights += observed[:, :2].sum(axis=0) * (1 + i)
                observed, rewards, *_ = env.step(env.action_space.sample())
                weights += rewards.sum()
        env.close()
    return [float(one) for one in weights]


def saved_at(directory: Path) -> list[int]:
    return [one.episode for one in replay.load(str(directory)).agents["PPO"].checkpoints]


@pytest.mark.parametrize("kind", ["native", "sync", "sync SameStep", "async"])
def test_rollouts_that_begin_with_a_reset_resume_exactly(kind: str, tmp_path: Path) -> None:
    """A rollout's end cuts episodes short. What a checkpoint needs is taken there, and saved when the reset comes."""
    whole = rollouts(tmp_path / "whole", make(kind), 99)
    with pytest.raises(RuntimeError):
        rollouts(tmp_path / "j", make(kind), 7)
    assert len(saved_at(tmp_path / "j")) == 3, "checkpoint 0, then of rollouts 2, 4 and 6: the newest three"
    assert rollouts(tmp_path / "j", make(kind), 99) == whole
    assert not differences(tmp_path / "whole", tmp_path / "j")


@pytest.mark.filterwarnings("ignore:PPO. no checkpoint")
def test_rollouts_that_go_on_without_a_reset_start_again_from_the_beginning(tmp_path: Path) -> None:
    """Nothing pretends: where the middle of an episode cannot be brought back, the resume does all of it again."""
    whole = rollouts(tmp_path / "whole", make("native"), 99, resets=False)
    with pytest.raises(RuntimeError):
        rollouts(tmp_path / "j", make("native"), 7, resets=False)
    assert saved_at(tmp_path / "j") == [0]
    assert rollouts(tmp_path / "j", make("native"), 99, resets=False) == whole


def test_another_number_of_processes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError):
        rollouts(tmp_path / "j", make("async"), 3)
    with pytest.raises(ResumeImpossible, match="3 processes"):
        rollouts(tmp_path / "j", make("async", 2), 99)


def test_a_reset_kept_for_one_environment_is_not_saved_by_that_of_another(tmp_path: Path) -> None:
    """The evaluation's reset comes first in each iteration; the training environment goes on from its own."""
    run = agents_adapter.start(tmp_path / "j", checkpoint_every=1, code="1")
    track = run.agent("PPO", {"n": 0})
    env, exam = track.wrap(Endless()), track.wrap(Endless(), phase="eval")
    env.reset()
    for _ in track.loop(3):
        exam.reset()
        env.step(np.zeros(2))
    run.end()
    assert saved_at(tmp_path / "j") == [0]
