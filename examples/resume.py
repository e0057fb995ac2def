"""Exact resume: stopped at any moment and started again, this training ends with the same weights, bit by bit.

    python examples/resume.py --dir runs/whole                 # learns to the end, and prints a digest of its weights
    python examples/resume.py --dir runs/stopped --stop 1500   # kills itself (SIGKILL) at step 1500
    python examples/resume.py --dir runs/stopped               # goes on, and prints the same digest

A Q-learner with linear values trades a random walk, or the bars that --data and --symbol name. To go on exactly, four
things must come back, and each has its place: weights and the learner's generator in `state=`, its exploration rate in
`track.vars`; and what it draws from numpy's global generator needs nothing, that is in every checkpoint.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import signal

import numpy as np
from numpy.typing import NDArray

import agents_adapter
from agents_adapter import Bars, Plan, datasets

WINDOW = 4
RATE, DISCOUNT = 0.05, 0.9


def features(close: NDArray[np.float64], at: int) -> NDArray[np.float64]:
    """float64[WINDOW + 1]: the last returns in tenths of a percent, and a one."""
    returns = np.diff(np.log(close[at - WINDOW : at + 1])) * 1e3
    return np.append(returns, 1.0)


def train(directory: str, bars: Bars, stop: int) -> str:
    """Train to the end, or until step `stop` of this process; a digest of the weights."""
    plan = Plan.round_robin(bars, episode_bars=100, episodes=40, seed=2)
    weights, rng = np.zeros((2, WINDOW + 1)), np.random.default_rng(3)
    np.random.seed(4)
    steps = 0
    with agents_adapter.start(directory, config={"rate": RATE, "discount": DISCOUNT}, checkpoint_every=5) as run:
        track = run.agent("LinearQ", state={"weights": weights, "rng": rng})
        track.vars["epsilon"] = 1.0
        for episode in track.episodes(plan):
            shown = bars[episode.start : episode.stop]
            episode.observe(shown)
            seen = features(shown.close, WINDOW)
            for at in range(WINDOW + 1, len(shown)):
                explores = rng.random() < track.vars["epsilon"]
                action = int(np.random.randint(2)) if explores else int((weights @ seen).argmax())
                reward = float((2 * action - 1) * np.log(shown.close[at] / shown.close[at - 1]) * 1e3)
                then = features(shown.close, at)
                target = reward + DISCOUNT * float((weights @ then).max())
                weights[action] += RATE * (target - float(weights[action] @ seen)) * seen / float(seen @ seen)
                episode.step(reward)
                seen, steps = then, steps + 1
                if steps == stop:
                    os.kill(os.getpid(), signal.SIGKILL)
            track.vars["epsilon"] *= 0.9
        results = track.results
    print(f"{len(results)} episodes, reward {results['reward'].sum():+.3f}")
    return hashlib.sha256(weights.tobytes()).hexdigest()


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dir", required=True, help="the journal's directory; made if there is none")
    parser.add_argument("--stop", type=int, default=0, help="kill this process at that step of it")
    options, bars = datasets.parse(parser)
    print("weights", train(options.dir, bars or datasets.random_walk(2_000, seed=1), options.stop))


if __name__ == "__main__":
    main()
