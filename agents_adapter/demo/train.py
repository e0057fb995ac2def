"""The training that the demo kills: three agents, one after the other, on one fixed plan of episodes.

It is an ordinary script; what makes its training survive are the calls on `run`, `track` and `episode`. Try it alone:
start it, press Ctrl-C or kill it, start it again with the same words.

    python -m agents_adapter.demo.train runs/fx
"""

from __future__ import annotations

import argparse
import hashlib
import signal

import agents_adapter
from agents_adapter import Episode, Plan, Track
from agents_adapter.bars import Bars
from agents_adapter.demo.learners import LEARNERS, Learner
from agents_adapter.demo.market import EPISODE_BARS, Market, load_bars

PASSES = 15
SEED = 2017


def train(directory: str, passes: int = PASSES) -> None:
    """Train all agents, or go on with it; the journal is in `directory`."""
    year = load_bars()
    windows = len(year) // EPISODE_BARS
    plan = Plan.round_robin(year, EPISODE_BARS, passes * windows, seed=SEED)
    exam = Plan.round_robin(year, EPISODE_BARS, seed=SEED + 1)
    config = {"passes": passes, "seed": SEED, "agents": list(LEARNERS)}
    with agents_adapter.start(directory, config=config) as run:
        for number, (name, make_learner) in enumerate(LEARNERS.items()):
            learner = make_learner(SEED + number)
            track = run.agent(name, state={"learner": learner, "rng": learner.rng})
            _learn(track, learner, year, plan)
            _examine(track, learner, year, exam)
            weights = hashlib.sha256(learner.weights.tobytes()).hexdigest()
            print("learned", name, weights, track.vars["won"], flush=True)


def _learn(track: Track, learner: Learner, year: Bars, plan: Plan) -> None:
    for episode in track.episodes(plan):
        market = _open_market(episode, year)
        seen, done = market.observe(), False
        while not done:
            action = learner.act(seen)
            then, reward, done = market.step(action)
            learner.learn(seen, action, reward, then, done)
            episode.step(reward)
            seen = then
        episode.end("truncated", trades=market.trades)
        won = track.vars["won"] = track.vars.get("won", 0) + (episode.reward > 0.0)
        print(f"episode {track.name} {episode.number + 1}/{len(plan)} {episode.reward:+.2f} % won {won}", flush=True)


def _examine(track: Track, learner: Learner, year: Bars, exam: Plan) -> None:
    """One more pass over the year without learning or exploring, recorded apart from the training."""
    for episode in track.evaluate(exam):
        market = _open_market(episode, year)
        seen, done = market.observe(), False
        while not done:
            seen, reward, done = market.step(learner.best(seen))
            episode.step(reward)
        episode.end("truncated", trades=market.trades)


def _open_market(episode: Episode, year: Bars) -> Market:
    shown = year[episode.start : episode.stop]
    episode.observe(shown)
    return Market(shown, episode.seed)


def main() -> int:
    """The command line; 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(prog="python -m agents_adapter.demo.train", description=__doc__)
    parser.add_argument("directory", help="the journal: new, or one to go on with")
    parser.add_argument("--passes", type=int, default=PASSES, help="how often each agent trades the year")
    options = parser.parse_args()
    # A shell starts what it puts in the background with Ctrl-C ignored; here it must arrive.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        train(options.directory, options.passes)
    except KeyboardInterrupt:
        print("stopped; the same command goes on", flush=True)
        return 128 + signal.SIGINT
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
