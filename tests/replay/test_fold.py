"""The fold against a slow, obvious model, and the laws that replay rests on."""

from __future__ import annotations

import copy
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
import replay
from journal.storage.disk import DiskStorage
from replay.batch import Batch
from replay.scan import scan
from replay.state import State

sys.path.insert(0, str(Path(__file__).parent))
from model import AGENTS, Model, commands


def batches_of(directory: Path) -> list[Batch]:
    return list(scan(DiskStorage(directory)))


def fold_all(batches: list[Batch], state: State | None = None) -> State:
    state = State() if state is None else state
    for batch in batches:
        replay.fold(state, batch)
    return state


def cut_at(batches: list[Batch], at: int) -> tuple[list[Batch], list[Batch]]:
    head: list[Batch] = []
    tail: list[Batch] = []
    for batch in batches:
        inside = min(max(at - int(batch.seq[0]), 0), len(batch))
        head += [batch.cut(0, inside)] if inside else []
        tail += [batch.cut(inside, len(batch))] if inside < len(batch) else []
    return head, tail


def record(directory: Path, script: list[tuple[Any, ...]]) -> Model:
    model = Model()
    with journal.open(directory, sync="close") as log:
        for one in script:
            model.play(log, one)
    return model


@pytest.fixture
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return lambda: tmp_path_factory.mktemp("journal")


@given(script=commands)
@settings(max_examples=150, deadline=None)
def test_figures_equal_the_obvious_model(
    script: list[tuple[Any, ...]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    model = record(directory, script)
    state = fold_all(batches_of(directory))
    for name in AGENTS:
        agent = state.agents.get(name)
        for phase in ("train", "eval"):
            expected = model.expected(name, phase)
            for kind in ("effective", "spent"):
                if agent is None:
                    assert expected[kind] == (0, 0, Fraction(0), 0, 0)
                    continue
                found = getattr(agent, kind)[phase]
                exact = Fraction(found.reward.units, 1 << 1074)
                assert (
                    found.episodes,
                    found.steps,
                    exact,
                    found.nan_rewards,
                    found.infinite_rewards,
                ) == expected[kind], (name, phase, kind)


@given(script=commands, data=st.data())
@settings(max_examples=40, deadline=None)
def test_every_split_gives_the_same_state(
    script: list[tuple[Any, ...]], data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    directory = tmp_path_factory.mktemp("journal")
    record(directory, script)
    batches = batches_of(directory)
    whole = fold_all(batches)
    for at in range(whole.events + 1):
        head, tail = cut_at(batches, at)
        middle = fold_all(head)
        # Through a snapshot and back: the carried state is all there is.
        middle = State.from_payload(msgpack.unpackb(msgpack.packb(middle.to_payload()), strict_map_key=False))
        again = fold_all(tail, middle)
        assert again == whole, at
        assert list(again.agents) == list(whole.agents), "the order of agents is the order in which they appeared"


@given(scripts=st.tuples(commands, commands, commands))
@settings(max_examples=25, deadline=None)
def test_merge_is_associative(
    scripts: tuple[list[Any], list[Any], list[Any]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    states = []
    for script in scripts:
        directory = tmp_path_factory.mktemp("journal")
        record(directory, script)
        states.append(fold_all(batches_of(directory)))
    a, b, c = states
    before = copy.deepcopy(states)
    assert replay.merge(replay.merge(a, b), c) == replay.merge(a, replay.merge(b, c))
    assert states == before
    for name in AGENTS:
        total = sum(s.agents[name].spent["train"].steps for s in states if name in s.agents)
        merged = replay.merge(replay.merge(a, b), c).agents.get(name)
        assert (merged.spent["train"].steps if merged else 0) == total


def test_an_episodes_reward_is_the_callers_own_sum(tmp_path: Path) -> None:
    rewards = np.random.default_rng(5).normal(size=10_000).tolist()
    total = 0.0
    with journal.open(tmp_path / "j", sync="close") as log:
        log.append(journal.EpisodeStarted(agent="PPO", episode=0))
        for step, value in enumerate(rewards[:5000]):
            total += value
            log.reward(1, 0, step, value)
        log.rewards(1, 0, list(range(5000, 10_000)), rewards[5000:])
        for value in rewards[5000:]:
            total += value
        log.append(journal.EpisodeEnded(agent="PPO", episode=0, reason="terminated"))
    assert float(replay.load(tmp_path / "j").agents["PPO"].effective["train"].reward) == total
    assert total != float(np.sum(rewards)), "choose rewards for which the order matters"


def test_overlapping_sub_environments_count_time_once(tmp_path: Path) -> None:
    with journal.open(tmp_path / "j") as log:
        for env, (start, _) in enumerate([(10.0, 14.0), (11.0, 16.0)]):
            log.append(journal.EpisodeStarted(agent="A", episode=env, env_index=env, monotonic=start))
        for env, end in enumerate([14.0, 16.0]):
            log.append(journal.EpisodeEnded(agent="A", episode=env, env_index=env, reason="x", monotonic=end))
        log.append(journal.EpisodeStarted(agent="A", episode=2, monotonic=100.0))
        log.append(journal.EpisodeEnded(agent="A", episode=2, reason="x", monotonic=101.5))
    agent = replay.load(tmp_path / "j").agents["A"]
    assert agent.effective["train"].time_ns == 7_500_000_000
    assert agent.spent["train"].time_ns == 7_500_000_000


def test_interleaved_sub_environments_are_grouped(tmp_path: Path) -> None:
    """More environments than are walked one by one: the grouped path gives each its own sum."""
    count = 50
    values = np.random.default_rng(1).normal(size=(40, count))
    with journal.open(tmp_path / "j", sync="close") as log:
        agent = log.agent("A")
        for env in range(count):
            log.append(journal.EpisodeStarted(agent="A", episode=env, env_index=env))
        for step, row in enumerate(values):
            log.rewards(agent, np.arange(count), step, row, np.arange(count))
    found = replay.load(tmp_path / "j").agents["A"]
    for env in range(count):
        total = 0.0
        for value in values[:, env].tolist():
            total += value
        episode = found.open["train", env]
        assert (episode.reward, episode.steps) == (total, 40)


def test_at_a_seq_and_at_a_time(tmp_path: Path) -> None:
    """The clock goes back in the middle: the state before the first event whose running maximum exceeds the time."""

    class Clock:
        now = 1_000_000_000_000

        def time_ns(self) -> int:
            return self.now

        def monotonic(self) -> float:
            return 0.0

    clock = Clock()
    with journal.open(tmp_path / "j", clock=clock) as log:
        log.append(journal.EpisodeStarted(agent="A", episode=0))
        for step, jump in enumerate([5, 5, -20, 5, 30]):
            clock.now += jump * 1_000_000_000
            log.reward(1, 0, step, 1.0)

    def steps(at: Any) -> int:
        return replay.load(tmp_path / "j", at=at).agents["A"].spent["train"].steps

    assert [steps(seq) for seq in range(1, 7)] == [0, 1, 2, 3, 4, 5]
    from datetime import UTC, datetime

    assert steps(datetime.fromtimestamp(1006, UTC)) == 1
    assert steps(datetime.fromtimestamp(1010, UTC)) == 4
    assert steps(datetime.fromtimestamp(1100, UTC)) == 5
