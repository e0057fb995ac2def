"""A small training that draws randomness from everywhere, for tests that stop it: run as a script, in its own process.

It dies by signal `--by` at step `--die-at` of its process, or raises there (`--by 0`).
"""

from __future__ import annotations

import argparse
import os
import random
import signal
from typing import Any

import numpy as np

import agents_adapter
from agents_adapter import Plan, Track

PLAN = Plan.from_list([("EURUSD", "H1", 20 * i, 20 * i + 20) for i in range(23)], seed=5)
EXAM = Plan.from_list([("EURUSD", "H1", 20 * i, 20 * i + 20) for i in range(4)], seed=6)


class Market:
    """A Gymnasium-like environment whose rewards come from a generator of its own that is seeded once."""

    def __init__(self) -> None:
        self._np_random: np.random.Generator | None = None
        self.left = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[float, dict[str, Any]]:
        if seed is not None or self._np_random is None:
            self._np_random = np.random.default_rng(seed)
        self.left = int(self._np_random.integers(5, 30))
        return 0.0, {}

    def step(self, action: float) -> tuple[float, float, bool, bool, dict[str, Any]]:
        assert self._np_random is not None
        self.left -= 1
        seen = float(self._np_random.normal())
        return seen, seen * action, self.left == 0, False, {}


class Learner:
    """Weights that every kind of generator has a part in."""

    def __init__(self, seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        self.w = np.zeros(5)
        self.rng = np.random.default_rng(seed)
        self.own = random.Random(seed)
        self.steps = 0

    def act(self, eps: float) -> float:
        noise = self.rng.normal() + random.gauss(0, 1) + np.random.standard_normal() + self.own.random()
        return float(self.w @ self.w * 1e-3 + eps * noise)

    def learn(self, reward: float) -> None:
        self.w[self.steps % 5] += 0.01 * reward
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        return {"w": self.w.copy(), "steps": self.steps}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.w[:] = state["w"]
        self.steps = state["steps"]


class Death:
    """Comes at one step of this process."""

    def __init__(self, at: int, by: int) -> None:
        self.left = at
        self.by = by

    def step(self) -> None:
        self.left -= 1
        if self.left == 0:
            if not self.by:
                raise RuntimeError("the training broke")
            os.kill(os.getpid(), self.by)


def planned(track: Track, learner: Learner, death: Death) -> None:
    """A pass, an evaluation inside each fifth episode, a second pass, and an examination."""
    track.vars["eps"] = 1.0
    for _ in range(2):
        for episode in track.episodes(PLAN):
            for _ in range(10):
                episode.step(walk(track, learner, death))
            track.vars["eps"] *= 0.97
            if episode.index % 5 == 4:
                for exam in track.evaluate(EXAM):
                    exam.step(walk(track, learner, death))
        learner.w *= 0.5
    for exam in track.evaluate(EXAM):
        exam.step(walk(track, learner, death))


def walk(track: Track, learner: Learner, death: Death) -> float:
    reward = learner.act(track.vars["eps"])
    learner.learn(reward)
    death.step()
    return reward


def wrapped(track: Track, learner: Learner, death: Death) -> None:
    """An environment that chooses its own episodes, seeded once before the loop."""
    env = track.wrap(Market())
    env.reset(seed=4)
    track.vars["eps"] = 1.0
    for _ in track.loop(31):
        env.reset()
        done = False
        while not done:
            _, reward, done, _, _ = env.step(learner.act(track.vars["eps"]))
            learner.learn(reward)
            death.step()
        track.vars["eps"] *= 0.97


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dir", required=True)
    parser.add_argument("--kind", default="planned", choices=("planned", "wrapped"))
    parser.add_argument("--die-at", type=int, default=0)
    parser.add_argument("--by", type=int, default=int(signal.SIGKILL))
    parser.add_argument("--every", type=int, default=4)
    options = parser.parse_args()
    # A shell starts what it puts in the background with Ctrl-C ignored; here it must arrive.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    death = Death(options.die_at, options.by)
    run = agents_adapter.start(options.dir, config={"kind": options.kind}, checkpoint_every=options.every)
    for name, seed in (("A", 1), ("B", 2)):
        learner = Learner(seed)
        track = run.agent(name, state={"learner": learner, "rng": learner.rng, "own": learner.own})
        {"planned": planned, "wrapped": wrapped}[options.kind](track, learner, death)
        print(name, learner.w.tobytes().hex(), learner.steps, flush=True)
    run.finish()


if __name__ == "__main__":
    main()
