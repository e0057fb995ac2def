"""A checkpoint that somebody else wrote, under a right SHA-256, with anything in any place: refused in words.

What an agent's own state may be, only the agent can tell (`test_state.py`); here it is a plain array.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter import CheckpointStore, Plan, rng
from journal import ResumeImpossible

PLAN = Plan([("EURUSD", "H1", 10 * i, 10 * i + 10, i) for i in range(4)])
ENVIRONMENT = ("environments", 0)
PASS = ("passes", 0)


class Env:
    """With a generator that is there from the beginning, and one that is made later."""

    def __init__(self) -> None:
        self.rng = np.random.default_rng(1)
        self.later: Any = None

    def reset(self, seed: int | None = None) -> tuple[int, dict[str, Any]]:
        self.later = self.later or np.random.default_rng(2)
        return 0, {}

    def step(self, action: Any) -> tuple[int, float, bool, bool, dict[str, Any]]:
        return 0, float(self.rng.random() + self.later.random()), True, False, {}


def train(directory: Path, episodes: int) -> None:
    with agents_adapter.start(directory, checkpoint_every=1, code="1") as run:
        track = run.agent("PPO", state={"w": np.zeros(3)})
        env = track.wrap(Env())
        for episode in track.episodes(PLAN):
            if episode.index == episodes:
                raise RuntimeError("stopped here")
            env.reset()
            env.step(0)


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    with pytest.raises(RuntimeError, match="stopped here"):
        train(tmp_path / "j", 2)
    return tmp_path / "j"


def going_on(directory: Path, monkeypatch: pytest.MonkeyPatch, content: Any) -> None:
    """Resume from this content, up to the first reset."""
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointStore, "load", lambda self, path, sha256: content)
        with agents_adapter.start(directory, checkpoint_every=1, code="1") as run:
            track = run.agent("PPO", state={"w": np.zeros(3)})
            env = track.wrap(Env())
            for _ in track.episodes(PLAN):
                env.reset()
                raise RuntimeError("stopped here")


@pytest.mark.parametrize(
    ("place", "value"),
    [
        *(((), value) for value in (None, [], "state vars environments passes rng", {"x": 1})),
        *((("vars",), value) for value in (None, "x", [1])),
        *((("environments",), value) for value in (None, 5, "x", {"x": 1}, np.zeros(2))),
        *((ENVIRONMENT, value) for value in (None, [], "x", {5: {}}, {"env.rng": 5}, {"env.nothing": {}})),
        ((*ENVIRONMENT, "env.rng"), {"rng": np.zeros(2), "state": 5}),
        ((*ENVIRONMENT, "env.rng", "state"), None),
        ((*ENVIRONMENT, "env.later", "rng"), "numpy os"),
        (ENVIRONMENT, {"env.step": {"rng": "numpy PCG64"}}),
        (ENVIRONMENT, {"env.__class__": {"rng": "numpy PCG64"}}),
        (ENVIRONMENT, {"env.__dict__": {"rng": "numpy PCG64"}}),
        *((("passes",), value) for value in (None, 5, "x", [5], [{}], [{"x": 1}])),
        *(((*PASS, name), value) for name, value in (("kind", "x"), ("who", 5), ("length", None), ("left", "x"))),
        *((("rng",), value) for value in (None, [], {}, {"python": 1, "numpy": None, "torch": None})),
        (("rng", "numpy"), {"bit_generator": "MT19937", "state": {"key": [1], "pos": 2**70}}),
    ],
    ids=str,
)
def test_what_is_no_checkpoint_is_refused_in_words(
    stopped: Path, monkeypatch: pytest.MonkeyPatch, place: tuple[Any, ...], value: Any
) -> None:
    """Most ended in a TypeError or an AttributeError, and a generator was put where a method is."""
    state = replay.load(stopped)
    saved = state.agents["PPO"].checkpoints[-1]
    content = inner = CheckpointStore(state.storage).load(saved.path, saved.sha256)  # type: ignore[arg-type]
    for key in place[:-1]:
        inner = inner[key]
    if place:
        inner[place[-1]] = value
    with pytest.raises(ResumeImpossible):
        going_on(stopped, monkeypatch, content if place else value)


def test_as_it_was_it_goes_on(stopped: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = replay.load(stopped)
    saved = state.agents["PPO"].checkpoints[-1]
    content = CheckpointStore(state.storage).load(saved.path, saved.sha256)  # type: ignore[arg-type]
    assert set(content["environments"][0]) == {"env.rng", "env.later"}
    with pytest.raises(RuntimeError, match="stopped here"):
        going_on(stopped, monkeypatch, content)


@pytest.mark.parametrize("words", [2**40, 2**20, 0, -1, "4", None])
def test_a_seed_sequence_of_any_size_takes_no_memory(words: Any) -> None:
    """Numpy makes room for as many words as it is told."""
    captured = rng.capture(np.random.default_rng(1))
    captured["seed_sequence"]["pool_size"] = words
    with pytest.raises(ResumeImpossible, match="cannot take the random state"):
        rng.restore(np.random.default_rng(2), captured)
