"""Sub-environments side by side that each follow their part of one plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

import agents_adapter
import replay
from agents_adapter import Plan, PlanEnv


class Barred:
    """One environment of bars: an episode is as long as its entry; what it was shown is kept."""

    def __init__(self) -> None:
        self.shown: list[tuple[int, int]] = []

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        self.left = options["stop"] - options["start"]
        self.shown.append((options["start"], seed))
        return 0, {}

    def step(self, action: Any) -> Any:
        self.left -= 1
        return 0, 1.0, self.left == 0, False, {}


class Together:
    """Sub-environments of one process, in next step's mode."""

    metadata = {"autoreset_mode": "NextStep"}  # noqa: RUF012

    def __init__(self, envs: list[Any]) -> None:
        self.envs, self.num_envs = envs, len(envs)
        self.over = [False] * len(envs)

    def reset(self, **given: Any) -> Any:
        for env in self.envs:
            env.reset()
        self.over = [False] * self.num_envs
        return 0, {}

    def step(self, actions: Any) -> Any:
        both = zip(self.envs, self.over, strict=True)
        found = [(env.reset(), 0.0, False)[1:] if over else env.step(0)[1:3] for env, over in both]
        self.over = [over for _, over in found]
        return 0, np.array([reward for reward, _ in found]), np.array(self.over), np.zeros(self.num_envs, bool), {}


def test_side_by_side_each_sub_environment_follows_its_part_of_the_plan(tmp_path: Path) -> None:
    run = agents_adapter.start(tmp_path / "j", code="1")
    track = run.agent("PPO", {})
    plan = Plan([("EURUSD", "H1", 10 * i, 10 * i + 2 + i, i) for i in range(5)])
    bare = [Barred(), Barred()]
    env = track.wrap(Together([PlanEnv(one, plan, part=(i, 2)) for i, one in enumerate(bare)]))
    env.reset()
    for _ in range(11):
        env.step(np.zeros(2))
    results = track.results.sort_values("entry")
    assert results[["env_index", "entry", "seed", "steps"]].to_numpy().tolist() == [
        [0, 0, 0, 2],
        [1, 1, 1, 3],
        [0, 2, 2, 4],
        [1, 3, 3, 5],
    ]
    assert bare[0].shown == [(0, 0), (20, 2), (40, 4)]
    assert replay.load(run.log.storage).runs[run.id].plans["PPO/train"].plan_hash == plan.hash
    run.finish()
