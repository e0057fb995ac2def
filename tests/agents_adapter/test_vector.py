"""A vector environment records each sub-environment's episodes as if it were alone, whatever resets it by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter import Plan, Run, Track
from journal import EventRejected, JournalClosed, JournalFailed


class Clocks:
    """Sub-environment i ends every i + 2 steps, each rewarded i + the step in it; its rewards are one array, reused.

    `mode` is how it goes on: "NextStep", "SameStep", "Disabled", as Gymnasium tells it; None tells nothing. `values` is
    how many its step returns.
    """

    def __init__(self, count: int = 3, mode: str | None = "NextStep", values: int = 5) -> None:
        self.num_envs, self.values = count, values
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.mode = "SameStep" if values == 4 else mode or "NextStep"
        self.at = np.zeros(count, dtype=int)
        self.over = np.zeros(count, dtype=bool)
        self.rewards = np.zeros(count, dtype=np.float32)
        self.calls = 0

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        mask = (options or {}).pop("reset_mask", slice(None))
        self.at[mask], self.over[mask] = 0, False
        return self.at.copy(), {}

    def step(self, actions: Any) -> Any:
        self.calls += 1
        own = np.arange(self.num_envs)
        resetting = self.over if self.mode == "NextStep" else np.zeros(self.num_envs, dtype=bool)
        self.rewards[:] = np.where(resetting, 0.0, own + self.at)
        self.at = np.where(resetting, 0, self.at + 1)
        ended = self.at == own + 2
        # Where an episode ended by its time limit and where by itself: the odd and the even.
        terminated, truncated = ended & (own % 2 == 0), ended & (own % 2 == 1)
        if self.mode == "SameStep":
            self.at = np.where(ended, 0, self.at)
        else:
            self.over = ended
        infos = [{"TimeLimit.truncated": bool(one)} for one in truncated]
        observed = self.at.copy()
        if self.values == 4:
            return observed, self.rewards, ended, infos
        return observed, self.rewards, terminated, truncated, {}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1")
    yield run
    run.finish()


@pytest.fixture
def track(run: Run) -> Track:
    return run.agent("PPO", {})


def rows(track: Track) -> list[list[Any]]:
    """[env_index, steps, reward, reason] of each ended episode, by env_index."""
    results = track.results.sort_values(["env_index", "episode"], kind="stable")
    rows: list[list[Any]] = results[["env_index", "steps", "reward", "reason"]].to_numpy().tolist()
    return rows


TWO_EACH = [
    [0, 2, 1.0, "terminated"],
    [0, 2, 1.0, "terminated"],
    [1, 3, 6.0, "truncated"],
    [1, 3, 6.0, "truncated"],
]


@pytest.mark.parametrize(
    ("mode", "values", "steps"),
    [("NextStep", 5, 7), (None, 5, 7), ("SameStep", 5, 6), (None, 4, 6)],
)
def test_each_sub_environment_has_its_own_episodes(mode: str | None, values: int, steps: int, track: Track) -> None:
    """In next step's mode a reset takes a step of its own, which is none of any episode."""
    env = track.wrap(Clocks(2, mode, values))
    env.reset()
    for _ in range(steps):
        env.step(np.zeros(2))
    assert [row for row in rows(track) if row[0] == 1] == TWO_EACH[2:]
    assert [row for row in rows(track) if row[0] == 0][:2] == TWO_EACH[:2]


def test_where_the_caller_resets_the_others_go_on(track: Track) -> None:
    inner = Clocks(2, "Disabled")
    env = track.wrap(inner)
    env.reset()
    for _ in range(9):
        if inner.over.any():
            env.reset(options={"reset_mask": inner.over.copy()})
        env.step(np.zeros(2))
    assert rows(track) == [TWO_EACH[0]] * 4 + [TWO_EACH[2]] * 3


def test_who_is_over_is_not_stepped_where_the_caller_resets(track: Track) -> None:
    inner = Clocks(3, "Disabled")
    env = track.wrap(inner)
    env.reset()
    env.step(np.zeros(3)), env.step(np.zeros(3))
    with pytest.raises(EventRejected, match=r"sub-environments \[0\] .*reset\(\) first"):
        env.step(np.zeros(3))
    assert inner.calls == 2


def test_who_was_never_reset_is_not_stepped_where_the_first_reset_left_it_out(track: Track) -> None:
    """The step would not reset it, and its rewards would be recorded nowhere."""
    inner = Clocks(3, "SameStep")
    env = track.wrap(inner)
    env.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(EventRejected, match=r"sub-environments \[1\] .*reset\(\) first"):
        env.step(np.zeros(3))
    assert inner.calls == 0
    env.reset(options={"reset_mask": np.array([False, True, False])})
    for _ in range(4):
        env.step(np.zeros(3))
    assert [row[:2] for row in rows(track)] == [[0, 2], [0, 2], [1, 3], [2, 4]]


def test_where_a_first_step_tells_that_steps_reset_all_of_it_was_to_be_reset(track: Track) -> None:
    env = track.wrap(Clocks(3, None, 4))
    env.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(EventRejected, match="steps before all of it was reset"):
        env.step(np.zeros(3))


def test_a_step_before_any_reset_is_refused_before_the_environment_moves(track: Track) -> None:
    inner = Clocks()
    with pytest.raises(EventRejected, match=r"reset\(\) first"):
        track.wrap(inner).step(np.zeros(3))
    assert inner.calls == 0


def test_a_vector_step_is_one_batch_and_numbers_are_never_given_twice(run: Run, track: Track) -> None:
    env = track.wrap(Clocks(3))
    env.reset(seed=5)
    for _ in range(20):
        env.step(np.zeros(3))
    env.reset()
    run.finish()
    events = [one for batch in replay.events(run.log.storage.name) for one in batch.to_pylist()]
    rewarded = [one for one in events if one["kind"] == "Rewarded"]
    # Steps that were resets are none: of 20, sub-environment i spent one in i + 3.
    assert len(rewarded) == sum(20 - 20 // (i + 3) for i in range(3))
    for number in {one["episode"] for one in rewarded}:
        steps = [one["step"] for one in rewarded if one["episode"] == number]
        assert steps == list(range(len(steps)))
    started = [one["episode"] for one in events if one["kind"] == "EpisodeStarted"]
    assert started == list(range(len(started)))
    totals = replay.load(run.log.storage).totals.loc["PPO"]
    assert totals["total_steps"] == len(rewarded)
    assert totals["total_reward"] == sum(one["value"] for one in rewarded)


def test_rewards_that_the_environment_changes_later_stay_as_they_were(track: Track) -> None:
    inner = Clocks(2, "SameStep")
    env = track.wrap(inner)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(2))
        inner.rewards[:] = 99.0
    assert rows(track) == [TWO_EACH[0], TWO_EACH[2]]


def test_side_by_side_is_training_once(run: Run, track: Track) -> None:
    """Training time of overlapping sub-environments counts once, not once for each of them."""
    env = track.wrap(Clocks(50, "SameStep"))
    env.reset()
    for _ in range(60):
        env.step(np.zeros(50))
    results = track.results
    seconds = replay.load(run.log.storage).totals.loc["PPO", "total_training_time"]
    assert 0 < seconds <= results["seconds"].sum() / 10


def test_results_and_all_other_attributes_are_the_environments_own(track: Track) -> None:
    inner, bare = Clocks(2), Clocks(2)
    env = track.wrap(inner)
    assert env.num_envs == 2 and env.metadata is inner.metadata and isinstance(env, Clocks)
    assert repr(env.reset(seed=3)) == repr(bare.reset(seed=3))
    for _ in range(7):
        assert repr(env.step(np.zeros(2))) == repr(bare.step(np.zeros(2)))
    env.price = 1.5
    assert inner.price == 1.5  # type: ignore[attr-defined]


@pytest.mark.parametrize("seeds", [list, tuple, np.array])
def test_a_reset_of_all_ends_what_is_open_and_one_without_steps_is_no_episode(
    seeds: Any, run: Run, track: Track
) -> None:
    env = track.wrap(Clocks(2, "SameStep"))
    env.reset(seed=[7, None])
    env.reset(seed=seeds([8, 9]))
    env.step(np.zeros(2))
    env.reset()
    run.finish()
    assert track.results[["env_index", "seed", "steps", "reason"]].to_numpy().tolist() == [
        [0, 8, 1, "completed"],
        [1, 9, 1, "completed"],
    ]


def test_env_indices_go_on_behind_those_of_other_environments(track: Track) -> None:
    one, other = track.wrap(Clocks(2, "SameStep")), track.wrap(Clocks(2, "SameStep"))
    for env in (one, other):
        env.reset()
    for _ in range(3):
        one.step(np.zeros(2)), other.step(np.zeros(2))
    assert sorted(track.results["env_index"]) == [0, 1, 2, 3]


def test_what_a_vector_step_cannot_be_is_refused_in_a_line(track: Track) -> None:
    inner = Clocks(3)
    env = track.wrap(inner)
    env.reset()
    for given, told in (
        ((0, np.ones(2), np.zeros(2), np.zeros(2), {}), r"shape \(2,\)"),
        ((0, np.ones((3, 1)), np.zeros(3), np.zeros(3), {}), r"shape \(3, 1\)"),
        ((0, ["a", "b", "c"], np.zeros(3), np.zeros(3), {}), "dtype"),
        ((0, np.ones(3), np.zeros(3), False, {}), r"shape \(\)"),
        ((0, np.ones(3)), "2 values"),
    ):
        inner.step = lambda actions, given=given: given  # type: ignore[method-assign, misc]
        with pytest.raises(EventRejected, match=told):
            env.step(np.zeros(3))
    assert track.results.empty


def test_inside_a_walk_of_one_episode_at_a_time_it_is_refused(track: Track) -> None:
    env, exam = track.wrap(Clocks()), track.wrap(Clocks(2, "SameStep"), phase="eval")
    plan = Plan([("EURUSD", "H1", 0, 10)])
    env.reset()
    for _ in track.episodes(plan):
        with pytest.raises(EventRejected, match="PlanEnv"):
            env.step(np.zeros(3))
        with pytest.raises(EventRejected, match="PlanEnv"):
            env.reset()
        exam.reset()  # The other phase is a place of its own.
        for _ in range(3):
            exam.step(np.zeros(2))
    assert track.results["phase"].tolist() == ["eval", "eval", "train"]


def test_halves_of_a_step_are_recorded_as_a_whole_one(track: Track) -> None:
    """As Stable-Baselines3's wrappers call them, past `step`."""

    class Halved(Clocks):
        def step_async(self, actions: Any) -> None:
            self.actions = actions

        def step_wait(self) -> Any:
            return super().step(self.actions)

    env = track.wrap(Halved(2, None, 4))
    env.reset()
    for _ in range(6):
        env.step_async(np.zeros(2))
        env.step_wait()
    assert [row for row in rows(track) if row[0] == 1] == TWO_EACH[2:]


def test_bars_are_asked_for_by_the_number_of_the_sub_environment(run: Run, track: Track) -> None:
    import pandas as pd

    index = pd.date_range("2024-01-01", periods=30, freq="h")
    frame = pd.DataFrame({"open": 1.0, "high": 1.2, "low": 0.9, "close": 1.1}, index=index)
    asked = []

    def shown(env: Clocks, number: int) -> Any:
        asked.append((number, int(env.at[number])))
        return frame.iloc[: 10 + number], "EURUSD", "H1"

    env = track.wrap(Clocks(2), bars=shown)
    env.reset()
    for _ in range(3):
        env.step(np.zeros(2))
    seen = replay.load(run.log.storage).agents["PPO"].bars[f"{run.id}/train"]
    assert asked == [(0, 2), (1, 3)], "asked at the end, before the reset"
    assert [(one.source, one.stop) for one in seen] == [("observed", 10), ("observed", 11)]
    with pytest.raises(EventRejected, match="within the step"):
        track.wrap(Clocks(2, "SameStep"), bars=shown)


def test_after_the_runs_end_nothing_is_recorded(run: Run, track: Track) -> None:
    env = track.wrap(Clocks(2, "SameStep"))
    env.reset()
    env.step(np.zeros(2))
    run.finish()
    with pytest.raises(JournalClosed):
        env.step(np.zeros(2))
    with pytest.raises(JournalClosed):
        env.reset()


def test_a_failed_journal_lets_the_training_go_on_where_that_is_wanted(tmp_path: Path) -> None:
    run = agents_adapter.start(tmp_path / "j", on_failure="warn", code="1")
    track = run.agent("PPO", {})
    inner = Clocks(2)
    env = track.wrap(inner)
    env.reset()
    env.step(np.zeros(2))
    run.log.poison(JournalFailed("the disk is gone"))
    with pytest.warns(RuntimeWarning, match="unrecorded"):
        env.step(np.zeros(2))
    for _ in range(10):
        env.step(np.zeros(2))
    assert inner.calls == 12
    run.end()


# -- Gymnasium's own ---------------------------------------------------------------------------------------------------


def make(kind: str, count: int = 3, limit: int = 12) -> Any:
    gymnasium = pytest.importorskip("gymnasium", reason="runs Gymnasium's vector environments")
    name, _, mode = kind.partition(" ")
    if name == "native":
        return gymnasium.make_vec(
            "CartPole-v1", count, vectorization_mode="vector_entry_point", max_episode_steps=limit
        )
    envs = [lambda: gymnasium.make("CartPole-v1", max_episode_steps=limit) for _ in range(count)]
    vector = gymnasium.vector.SyncVectorEnv if name == "sync" else gymnasium.vector.AsyncVectorEnv
    return vector(envs, autoreset_mode=mode or "NextStep")


def bare_episodes(env: Any, steps: int, next_step: bool) -> list[list[float]]:
    """[length, return] of each ended episode, counted by hand, by sub-environment."""
    env.reset(seed=3)
    env.action_space.seed(4)
    open_: list[list[float]] = [[] for _ in range(env.num_envs)]
    resetting = [False] * env.num_envs
    found: list[list[list[float]]] = [[] for _ in range(env.num_envs)]
    for _ in range(steps):
        _, rewards, terminated, truncated, _ = env.step(env.action_space.sample())
        for i in range(env.num_envs):
            if resetting[i]:
                resetting[i] = False
                continue
            open_[i].append(float(rewards[i]))
            if terminated[i] or truncated[i]:
                found[i].append([i, len(open_[i]), sum(open_[i])])
                open_[i], resetting[i] = [], next_step
    env.close()
    return [row for rows in found for row in rows]


@pytest.mark.parametrize("kind", ["native", "sync", "sync SameStep", "async", "async SameStep"])
def test_episodes_are_those_that_one_counts_by_hand(kind: str, track: Track) -> None:
    expected = bare_episodes(make(kind), 60, "SameStep" not in kind)
    env = track.wrap(make(kind))
    bare_episodes(env, 60, "SameStep" not in kind)
    assert [row[:3] for row in rows(track)] == expected
    assert len(expected) > 6 and {row[3] for row in rows(track)} == {"terminated", "truncated"}


def test_seeds_are_those_that_each_sub_environment_got(track: Track) -> None:
    """Gymnasium gives each of its sub-environments a seed one higher; a native one has a single generator."""
    for kind in ("sync SameStep", "native"):
        env = track.wrap(make(kind))
        env.reset(seed=20)
        for _ in range(30):
            env.step(env.action_space.sample())
    firsts = track.results.drop_duplicates("env_index").sort_values("env_index")
    assert firsts["seed"].tolist() == [20, 21, 22, 20, 20, 20]
    assert track.results["seed"].isna().any(), "only the first episode after a reset has its seed"


def test_an_end_told_again_at_the_reset_is_no_second_end(track: Track) -> None:
    env = track.wrap(Echo())
    env.reset()
    for _ in range(6):
        env.step(np.zeros(2))
    assert track.results["steps"].tolist() == [1, 1] * 3


class Echo:
    """Each first step ends an episode; the step that resets it says so once more."""

    num_envs = 2

    def reset(self, **given: Any) -> Any:
        return np.zeros(2), {}

    def step(self, actions: Any) -> Any:
        return np.zeros(2), np.ones(2), np.ones(2, bool), np.zeros(2, bool), {}


def test_a_wrapped_vector_environment_is_one_to_gymnasium(track: Track) -> None:
    gymnasium = pytest.importorskip("gymnasium", reason="asks Gymnasium's own wrappers")
    env = gymnasium.wrappers.vector.RecordEpisodeStatistics(track.wrap(make("sync")))
    env.reset(seed=1)
    for _ in range(30):
        env.step(env.action_space.sample())
    assert sorted(track.results["steps"]) == sorted(env.length_queue)


# -- plans -------------------------------------------------------------------------------------------------------------
