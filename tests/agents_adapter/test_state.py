"""An agent's state: what may be given, and a restore that is whole or changes nothing."""

from __future__ import annotations

import copy
import random
from collections import defaultdict, deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents_adapter import codec
from agents_adapter.state import AgentState
from journal.errors import EventRejected, ResumeImpossible


class Policy:
    """A learner with the usual two methods."""

    def __init__(self, weight: float = 0.0) -> None:
        self.weights = np.full(3, weight)

    def state_dict(self) -> dict[str, Any]:
        return {"weights": self.weights}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.weights[:] = state["weights"]


class Broken(Policy):
    def load_state_dict(self, state: dict[str, Any]) -> None:
        raise RuntimeError("Error(s) in loading:\n\tsize mismatch")


def saved(state: Any) -> Any:
    """`state` as a checkpoint gives it back."""
    return codec.decode(codec.encode(AgentState("PPO", state).capture()))


def agent(weight: float, seed: int) -> dict[str, Any]:
    return {
        "policy": Policy(weight),
        "w": np.full((2, 3), weight),
        "table": {(1, "long"): weight},
        "replay": deque([weight], maxlen=4),
        "visited": {weight},
        "layers": [np.full(2, weight), np.full(1, weight)],
        "nets": {"actor": Policy(weight), "critic": Policy(weight)},
        "pair": (Policy(weight), 3),
        "rng": np.random.default_rng(seed),
        "python": random.Random(seed),
        "eps": weight,
        "name": f"agent {seed}",
        "none": None if seed else 1,
    }


def test_everything_comes_back_and_keeps_its_identity() -> None:
    old, new = agent(0.5, seed=1), agent(0.0, seed=2)
    for state in (old["rng"], old["python"]):
        state.random()
    content = saved(old)
    references = dict(new)
    AgentState("PPO", new).restore(content)
    for key, value in references.items():
        if key not in ("eps", "name", "none"):
            assert new[key] is value, key
    assert codec.encode(AgentState("PPO", new).capture()) == codec.encode(AgentState("PPO", old).capture())
    assert new["rng"].random() == old["rng"].random() and new["python"].random() == old["python"].random()
    assert new["eps"] == 0.5 and new["name"] == "agent 1" and new["none"] is None


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.text(),
        st.one_of(
            st.integers(),
            st.floats(allow_nan=False),
            st.text(),
            st.dictionaries(st.tuples(st.integers()), st.floats(allow_nan=False)),
            st.lists(st.floats(width=16)).map(np.array),
        ),
    )
)
def test_any_dict_restores_over_a_changed_copy(state: dict[str, Any]) -> None:
    content = saved(state)
    other = copy.deepcopy(state)
    for key, value in other.items():
        if isinstance(value, np.ndarray):
            value[...] = 0
        elif isinstance(value, dict):
            value.clear()
        else:
            other[key] = None
    AgentState("PPO", other).restore(content)
    assert codec.encode(other) == codec.encode(state)


def test_one_object_or_generator_is_a_state_too() -> None:
    for old, new in ((Policy(2.0), Policy()), (np.random.default_rng(1), np.random.default_rng(2))):
        AgentState("PPO", new).restore(saved(old))
        assert codec.encode(saved(new)) == codec.encode(saved(old))


def test_a_table_that_grows_is_data() -> None:
    """A table is empty when a fresh agent begins, and its rows keep their identity where it is not."""
    content = saved({"q": {(0, 1): np.ones(2), (2, 3): np.ones(2)}, "d": defaultdict(float, {"a": 1.0})})
    fresh: dict[str, Any] = {"q": {}, "d": defaultdict(float)}
    AgentState("Q", fresh).restore(content)
    assert set(fresh["q"]) == {(0, 1), (2, 3)} and fresh["d"]["new"] == 0.0 and fresh["d"]["a"] == 1.0
    row = np.zeros(2)
    table = {(0, 1): row, (9, 9): np.zeros(2)}
    AgentState("Q", {"q": table, "d": defaultdict(float)}).restore(content)
    assert row.tolist() == [1, 1] and table[0, 1] is row and set(table) == {(0, 1), (2, 3)}


def test_functions_are_called_with_what_was_saved() -> None:
    got = []
    functions = AgentState("Q", save=lambda: {"a": (1, 2)}, restore=got.append)
    functions.restore(functions.capture())
    assert got == [{"a": (1, 2)}]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("there", "what"),
    [
        ({"w": np.zeros((3, 2))}, r"state\['w'\] has shape \(2, 3\).*shape \(3, 2\)"),
        ({"w": np.zeros((2, 3), np.float32)}, "float64.*float32"),
        ({"w": 3.0}, "an array, in the checkpoint it is a float"),
        ({"w": np.zeros(())}, r"shape \(\)"),
        ({"layers": [np.zeros(2)]}, r"state\['layers'\] has 2 items, in the checkpoint 1"),
        ({"layers": [np.zeros(2), np.zeros(5)]}, r"state\['layers'\]\[1\] has shape"),
        ({"rng": np.random.Generator(np.random.MT19937(1))}, "PCG64.*MT19937"),
        ({"rng": 7}, "in the checkpoint it is none"),
        ({"policy": np.zeros(3)}, "an object with load_state_dict, in the checkpoint it is a ndarray"),
        ({"table": [1]}, "a dict, in the checkpoint it is a list"),
        ({"eps": np.zeros(3)}, "a float, in the checkpoint it is a ndarray"),
        ({"nets": {"actor": Policy()}}, r"state\['nets'\] has other keys.*'critic' only here"),
        ({"pair": (Policy(), 4)}, r"state\['pair'\]\[1\], in a tuple, is 3, in the checkpoint 4"),
        ({"new": 1}, "'new' only in the checkpoint"),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(there: dict[str, Any], what: str) -> None:
    content = saved(agent(0.5, seed=1) | there)
    here = agent(0.0, seed=2)
    before = codec.encode(AgentState("PPO", here).capture())
    for call in (AgentState("PPO", here).check, AgentState("PPO", here).restore):
        with pytest.raises(ResumeImpossible, match=what) as caught:
            call(content)
        assert "'PPO'" in str(caught.value) and "\n" not in str(caught.value)
    assert codec.encode(AgentState("PPO", here).capture()) == before


def test_keys_only_here_are_named_with_those_only_there() -> None:
    with pytest.raises(ResumeImpossible, match="'b' only here and 'a' only in the checkpoint"):
        AgentState("PPO", {"b": 1}).restore({"a": 1})


def test_a_read_only_array_is_refused() -> None:
    array = np.zeros(3)
    array.flags.writeable = False
    with pytest.raises(ResumeImpossible, match="read-only"):
        AgentState("PPO", {"w": array, "eps": 0.1}).restore({"w": np.ones(3), "eps": 0.2})


def test_a_load_that_raises_says_what_was_loaded_before_and_assigns_nothing() -> None:
    here = {"first": Policy(), "second": Broken(), "w": np.zeros(2)}
    content = saved({"first": Policy(1.0), "second": Policy(1.0), "w": np.ones(2)})
    with pytest.raises(
        ResumeImpossible, match=r"second.*size mismatch.*\['first'\]\.load_state_dict had been"
    ) as caught:
        AgentState("PPO", here).restore(content)
    assert isinstance(caught.value.__cause__, RuntimeError) and "\n" not in str(caught.value)
    assert here["w"].tolist() == [0, 0]


def test_a_restore_function_that_raises_is_told() -> None:
    def restore(content: Any) -> None:
        raise KeyError("w")

    with pytest.raises(ResumeImpossible, match="restore raised KeyError"):
        AgentState("PPO", save=dict, restore=restore).restore({})


def test_an_interrupt_passes_through_a_load() -> None:
    class Slow(Policy):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        AgentState("PPO", Slow()).restore({"weights": np.zeros(3)})


def test_what_save_raises_passes_through() -> None:
    def save() -> Any:
        raise RuntimeError("no state yet")

    with pytest.raises(RuntimeError, match="no state yet"):
        AgentState("PPO", save=save, restore=print).capture()


def test_an_agent_without_a_state_never_goes_on_untrained() -> None:
    nothing = AgentState("PPO")
    assert not nothing.resumable and nothing.capture() is None
    with pytest.raises(ResumeImpossible, match="add state="):
        nothing.restore(None)
    with pytest.raises(ResumeImpossible, match="without a state"):
        AgentState("PPO", {"w": 1}).restore(None)
    with pytest.raises(ResumeImpossible, match="stateless now"):
        AgentState("PPO", stateless=True).restore({"w": 1})
    AgentState("PPO", stateless=True).restore(None)


@pytest.mark.parametrize(
    ("given_", "what"),
    [
        ({"state": 3}, "state= of agent 'PPO' is 3"),
        ({"state": "weights.pt"}, "give an object with state_dict"),
        ({"state": object()}, "state= of agent"),
        ({"state": []}, "state= of agent"),
        ({"save": dict}, "save= but no restore="),
        ({"restore": print}, "restore= but no save="),
        ({"state": {}, "stateless": True}, "more than one"),
        ({"state": {}, "save": dict, "restore": print}, "more than one"),
    ],
)
def test_what_is_no_state_is_refused_at_once(given_: dict[str, Any], what: str) -> None:
    with pytest.raises(EventRejected, match=what):
        AgentState("PPO", **given_)


def test_objects_that_come_later_are_refused_at_the_save() -> None:
    """A fresh process could not give them back: its list would be empty."""
    state: dict[str, Any] = {"pool": [], "opt": None}
    one = AgentState("PPO", state)
    one.capture()
    state["pool"].append(Policy())
    with pytest.raises(EventRejected, match=r"state\['pool'\]\[0\] came since run.agent"):
        one.capture()
