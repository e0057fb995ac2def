"""The README's example, on bars: a training that is recorded, and goes on where it was killed.

    python examples/minimal.py --dir runs/fx                                    # on a random walk
    python examples/minimal.py --dir runs/gold --data bars --symbol XAUUSD+     # on bars/XAUUSD+_H1_….csv

Press Ctrl-C or kill it, start it again; then ask `journal totals runs/fx`.
"""

import argparse

import numpy as np

import agents_adapter
from agents_adapter import Plan, datasets

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dir", required=True, help="the journal's directory; made if there is none")
options, bars = datasets.parse(parser)
bars = bars or datasets.random_walk(4800, seed=1)

plan = Plan.round_robin(bars, episode_bars=240, episodes=20, seed=7)
rng, weights = np.random.default_rng(7), np.zeros(8)
run = agents_adapter.start(options.dir, config={"lr": 0.01})
agent = run.agent("LinearQ", state={"weights": weights, "rng": rng})
for episode in agent.episodes(plan):
    shown = bars[episode.start : episode.stop]
    episode.observe(shown)
    for close in shown.close:
        weights += 0.01 * rng.normal(size=8)
        episode.step(reward=float(weights.sum() * close))
run.finish()
