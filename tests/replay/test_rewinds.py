"""Rewinds, many and of several agents, and compactions between them: what counts and what was spent, now and then."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from journal.storage.memory import MemoryStorage
from replay.compaction import compact
from replay.loading import load
from replay.state import State
from replay.totals import PHASES

sys.path.insert(0, str(Path(__file__).parent))
from logs import EPISODE, fresh, record
from model import AGENTS, Model, commands

agents = st.sampled_from(AGENTS)
turn = st.one_of(
    st.tuples(st.just("episode"), agents, st.floats(-5, 5)),
    st.tuples(st.just("checkpoint"), agents),
    st.tuples(st.just("rewind"), agents, st.integers(0, 3)),
)
"""Most turns lead somewhere: an episode, a checkpoint, or a way back of up to three checkpoints."""


def script_of(turns: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    script: list[tuple[Any, ...]] = []
    for one in turns:
        if one[0] == "episode":
            _, agent, value = one
            reward = ("reward", agent, "train", 0, value)
            script += [("start", agent, "train", 0), reward, reward, ("end", agent, "train", 0)]
        else:
            script.append(one)
    return script


def figures(state: State) -> dict[tuple[str, str], Any]:
    found = {}
    for name in AGENTS:
        for phase in PHASES:
            agent = state.agents.get(name)
            if agent is not None:
                totals = {"effective": agent.effective[phase], "spent": agent.spent[phase]}
                found[name, phase] = {
                    key: (
                        one.episodes,
                        one.steps,
                        Fraction(one.reward.units, 1 << 1074),
                        one.nan_rewards,
                        one.infinite_rewards,
                    )
                    for key, one in totals.items()
                }
    return found


def expected(model: Model, state: State) -> dict[tuple[str, str], Any]:
    return {(name, phase): model.expected(name, phase) for name in AGENTS if name in state.agents for phase in PHASES}


def cut_off(model: Model) -> None:
    """A process that ended has left nothing open."""
    model._cut(None)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.lists(turn, max_size=14), commands.map(lambda some: some[:10]), st.booleans()),
        min_size=1,
        max_size=5,
    )
)
def test_what_counts_and_what_was_spent_at_every_session(sessions: list[tuple[list[Any], list[Any], bool]]) -> None:
    """Against the obvious model, at the end of each session and, afterwards, as it was back then."""
    storage, model = fresh(), Model()
    then: list[tuple[int, dict[tuple[str, str], Any]]] = []
    for turns, anything, compacts in sessions:
        record(storage, [("run", False), *script_of(turns), *anything, ("run", True), ("run", True)], model)
        cut_off(model)
        if compacts:
            compact(storage)
        state = load(storage)
        if state.events:
            told = figures(state)
            assert told == expected(model, state)
            then.append((state.last_seq, told))
    for last, told in then:
        assert figures(load(storage, at=last)) == told
    compact(storage, keep=1)
    for last, told in then:
        assert figures(load(storage, at=last)) == told, "also from history, below the only snapshot"


def test_a_rewind_to_a_checkpoint_that_was_compacted() -> None:
    """The lineage to go back to comes from the snapshot."""
    storage = fresh()
    model = record(storage, [*EPISODE, *EPISODE])
    seq = load(storage).last_seq
    before = load(storage).agents["PPO"].effective["train"].episodes
    compact(storage)
    record(storage, [*EPISODE, ("rewind", "PPO", 2)], model)
    agent = load(storage).agents["PPO"]
    assert (before, agent.effective["train"].episodes, agent.spent["train"].episodes) == (2, 0, 3)
    assert load(storage, at=seq).agents["PPO"].effective["train"].episodes == 2, "before the rewind"
    compact(storage)
    assert load(storage).agents["PPO"].effective["train"].episodes == 0
    assert load(storage, at=seq).agents["PPO"].effective["train"].episodes == 2


def test_the_same_checkpoint_twice_and_then_an_older_one() -> None:
    storage = MemoryStorage()
    save, episode = ("checkpoint", "PPO"), script_of([("episode", "PPO", 1.0)])
    model = record(storage, [*episode, save, *episode, save])
    counts = []
    for back in (0, 0, 1):
        record(storage, [*episode, ("rewind", "PPO", back)], model)
        compact(storage)
        agent = load(storage).agents["PPO"]
        counts.append((agent.effective["train"].episodes, agent.spent["train"].episodes, agent.rewinds))
    assert counts == [(2, 3, 1), (2, 4, 2), (1, 5, 3)]
