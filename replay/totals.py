"""Totals: what an agent has done, in numbers that add up: integers and exact sums, nothing rounded on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from replay.exact import ExactSum

Phase = Literal["train", "eval"]
PHASES: tuple[Phase, Phase] = ("train", "eval")


@dataclass(slots=True)
class Totals:
    """Counts of one agent in one phase."""

    episodes: int = 0
    steps: int = 0
    reward: ExactSum = field(default_factory=ExactSum)
    """Exact sum over episodes; an episode's own reward is the left-to-right float64 sum, as `total += r` gives."""
    nan_rewards: int = 0
    infinite_rewards: int = 0
    """NaN and infinite rewards are counted, never added."""
    time_ns: int = 0
    """Monotonic time inside episodes; sub-environments that ran at the same time count once."""

    def add_episode(self, steps: int, reward: float, nan_rewards: int, infinite_rewards: int) -> None:
        """Take in one episode."""
        self.episodes += 1
        self.add_steps(steps, reward, nan_rewards, infinite_rewards)

    def add_steps(self, steps: int, reward: float, nan_rewards: int, infinite_rewards: int) -> None:
        """Take in steps that are no whole episode."""
        self.steps += steps
        self.nan_rewards += nan_rewards
        self.infinite_rewards += infinite_rewards
        if math.isfinite(reward):
            self.reward.add(reward)
        else:
            self.infinite_rewards += 1  # Finite rewards whose sum is beyond float64.

    def __add__(self, other: Totals) -> Totals:
        return Totals(
            self.episodes + other.episodes,
            self.steps + other.steps,
            self.reward + other.reward,
            self.nan_rewards + other.nan_rewards,
            self.infinite_rewards + other.infinite_rewards,
            self.time_ns + other.time_ns,
        )

    def copy(self) -> Totals:
        """An independent copy."""
        return replace(self, reward=ExactSum(self.reward.units))

    def as_document(self) -> dict[str, Any]:
        """The keys of `journal totals --json`; seconds and a float64."""
        return {
            "total_episodes": self.episodes,
            "total_steps": self.steps,
            "total_reward": float(self.reward),
            "nan_rewards": self.nan_rewards,
            "infinite_rewards": self.infinite_rewards,
            "total_training_time": self.time_ns / 1e9,
        }

    def to_payload(self) -> list[Any]:
        """Itself as plain data; the exact sum in hexadecimal."""
        reward = f"{self.reward.units:x}"
        return [self.episodes, self.steps, reward, self.nan_rewards, self.infinite_rewards, self.time_ns]

    @classmethod
    def from_payload(cls, payload: Any) -> Totals:
        """What `to_payload` gave. Raises `ValueError` or `TypeError` for anything else."""
        episodes, steps, reward, nan_rewards, infinite_rewards, time_ns = payload
        return cls(
            int(episodes), int(steps), ExactSum(int(reward, 16)), int(nan_rewards), int(infinite_rewards), int(time_ns)
        )


def both() -> dict[Phase, Totals]:
    """Empty totals for each phase."""
    return {phase: Totals() for phase in PHASES}
