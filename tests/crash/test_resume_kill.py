"""A training loop killed by SIGKILL at random moments loses nothing, and resumed it ends bit-equal to an uncut one.

Nothing: no event whose append had returned. Equal: episodes, steps, rewards, and the learned weights, bit for bit.
`JOURNAL_KILLS` is how many kills.
"""

from __future__ import annotations

import mmap
import os
import random
import signal
import struct
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter import Plan
from journal.storage.disk import DiskStorage

EPISODES, BARS, WIDTH = 60, 400, 16
_ACKED = struct.Struct("<Q")

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a forked child; this system has no fork"),
]


def train(directory: Path, shared: mmap.mmap | None) -> np.ndarray:
    """A learner whose every figure depends on all before: any lost, doubled or reordered step changes its weights."""
    plan = Plan.from_list([("X", "H1", i * BARS, (i + 1) * BARS) for i in range(EPISODES)], seed=3)
    rng, weights = np.random.default_rng(11), np.zeros(WIDTH)
    random.seed(5)
    run = agents_adapter.start(directory, config={"width": WIDTH}, checkpoint_every=2, code="train")
    agent = run.agent("LinearQ", state={"weights": weights, "rng": rng})
    agent.vars.setdefault("epsilon", 1.0)
    for episode in agent.episodes(plan):
        for _ in range(episode.start, episode.stop):
            features = rng.normal(size=WIDTH)
            explore = random.random() < agent.vars["epsilon"]
            reward = float(np.tanh(features @ weights)) + (0.1 if explore else 0.0)
            weights += 0.01 * (reward - weights.mean()) * features
            episode.step(reward)
            if shared is not None:
                # The next seq of the log: every event below it was appended, and append has returned.
                _ACKED.pack_into(shared, 0, run.log.next_seq)
        agent.vars["epsilon"] *= 0.97
    run.finish()
    return weights


def figures(directory: Path) -> tuple[object, ...]:
    agent = replay.load(directory).agents["LinearQ"]
    totals = agent.effective["train"]
    return totals.episodes, totals.steps, totals.reward, agent.next_episode["train"]


def final_weights(directory: Path) -> np.ndarray:
    """The weights in the last checkpoint, as the journal gives them back."""
    state = replay.load(directory)
    last = state.agents["LinearQ"].checkpoints[-1]
    content = agents_adapter.CheckpointStore(DiskStorage(directory)).load(last.path, last.sha256)
    return np.asarray(content["state"]["weights"])


def test_killed_at_random_moments_it_ends_bit_equal(tmp_path: Path, campaign: Any) -> None:
    wanted, choose = campaign.size("JOURNAL_KILLS", 20), campaign.random
    began = time.perf_counter()
    expected = train(tmp_path / "uncut", None)
    uncut_seconds = time.perf_counter() - began
    expected_figures = figures(tmp_path / "uncut")

    shared = mmap.mmap(-1, 64)
    kills = trainings = 0
    while kills < wanted:
        directory = tmp_path / f"cut-{trainings}"
        trainings += 1
        while True:
            _ACKED.pack_into(shared, 0, 0)
            pid = os.fork()
            if pid == 0:
                code = 1
                try:
                    train(directory, shared)
                    code = 0
                finally:
                    os._exit(code)
            # Several kills to a training: each attempt gets a random part of its time, start and end included.
            deadline = time.perf_counter() + choose.random() * uncut_seconds * (0.4 if kills < wanted else 9)
            killed = False
            while (done := os.waitpid(pid, os.WNOHANG)) == (0, 0):
                if time.perf_counter() >= deadline and kills < wanted:
                    os.kill(pid, signal.SIGKILL)
                    done = os.waitpid(pid, 0)
                    killed = os.WIFSIGNALED(done[1])
                    break
                time.sleep(0.0005)
            if not killed:
                assert done[1] == 0, "the training failed by itself"
                break
            kills += 1
            acked = _ACKED.unpack_from(shared, 0)[0]
            if (directory / "journal.json").exists():
                state = replay.load(directory)
                lost = acked - state.events
                assert lost <= 0, f"{lost} events lost whose append had returned"
                if any(run.status == "completed" for run in state.runs.values()):
                    break  # Killed behind its last event: started again, it would train anew.
        assert figures(directory) == expected_figures
        assert final_weights(directory).tobytes() == expected.tobytes()
        assert replay.verify(directory).status == "clean"
    campaign.report(kills=kills, trainings=trainings, lost=0, unequal=0)
