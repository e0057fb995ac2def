"""The README's example: a training that is recorded, and goes on where it was killed.

    python examples/minimal.py --dir runs/fx

Press Ctrl-C or kill it, start it again; then ask `journal totals runs/fx`.
"""

import argparse

import numpy as np

import agents_adapter
from agents_adapter import Plan

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--dir", required=True, help="the journal's directory; made if there is none")
options = parser.parse_args()

plan = Plan.from_list([("EURUSD", "H1", i * 240, i * 240 + 240) for i in range(20)], seed=7)
rng, weights = np.random.default_rng(7), np.zeros(8)
run = agents_adapter.start(options.dir, config={"lr": 0.01})
agent = run.agent("LinearQ", state={"weights": weights, "rng": rng})
for episode in agent.episodes(plan):
    for _ in range(episode.start, episode.stop):
        weights += 0.01 * rng.normal(size=8)
        episode.step(reward=float(weights.sum()))
run.finish()
