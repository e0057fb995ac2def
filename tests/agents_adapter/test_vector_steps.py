"""A vector environment's step is one append: its starts, its rewards, its ends; and what each of them tells."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import journal
import replay
from agents_adapter import Run, Track
from journal import EventRejected

Event = tuple[str, int, int, Any]
"""Kind, env_index, episode; the step of a reward, the reason of an end."""


class Told:
    """Sub-environments that end as they are told: for each step those that terminated, and that were truncated."""

    def __init__(self, mode: str, ends: list[tuple[str, str]], rewards: Any = np.float64) -> None:
        self.num_envs, self.metadata = len(ends[0][0]), {"autoreset_mode": mode}
        self.ends, self.rewards = iter(ends), rewards
        self.fails = False

    def reset(self, **given: Any) -> Any:
        return 0, {}

    def step(self, actions: Any) -> Any:
        if self.fails:
            raise RuntimeError("the simulator")
        terminated, truncated = (np.array([char == "x" for char in one]) for one in next(self.ends))
        return 0, np.arange(self.num_envs).astype(self.rewards), terminated, truncated, {}


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = agents_adapter.start(tmp_path / "j", checkpoint_every=4, code="1")
    yield run
    run.finish()


@pytest.fixture
def track(run: Run) -> Track:
    return run.agent("PPO", {})


def events(run: Run) -> list[dict[str, Any]]:
    return [one for batch in replay.events(run.log.storage.name) for one in batch.to_pylist()]


def told(run: Run) -> list[Event]:
    """What a reader finds beside the living run."""
    found: list[Event] = []
    for one in events(run):
        place = one["kind"], one["env_index"], one["episode"]
        if one["kind"] == "EpisodeEnded":
            found.append((*place, json.loads(one["fields"])["reason"]))
        elif one["kind"] in ("EpisodeStarted", "Rewarded"):
            found.append((*place, one["step"]))
    return found


def rows(track: Track) -> list[list[Any]]:
    """[env_index, steps, reward, reason] of each ended episode, by env_index."""
    results = track.results.sort_values(["env_index", "episode"], kind="stable")
    rows: list[list[Any]] = results[["env_index", "steps", "reward", "reason"]].to_numpy().tolist()
    return rows


def test_all_of_a_step_is_there_when_it_returns_and_it_was_one_append(run: Run, track: Track) -> None:
    appends: list[int] = []
    record = run.recorder.vector_step
    run.recorder.vector_step = lambda *given: appends.append(run.log.next_seq) or record(*given)
    env = track.wrap(Told("NextStep", [("x..", "..."), ("...", "..."), ("..x", "..."), (".x.", "...")]))
    env.reset()
    assert told(run) == [], "a reset that no step follows is no episode"
    first = run.log.next_seq
    expected: list[Event] = [("EpisodeStarted", i, i, 0) for i in range(3)]
    expected += [*(("Rewarded", i, i, 0) for i in range(3)), ("EpisodeEnded", 0, 0, "terminated")]
    env.step(0)
    assert told(run) == expected
    expected += [("Rewarded", i, i, 1) for i in (1, 2)]  # The first one is reset.
    env.step(0)
    assert told(run) == expected
    expected += [("EpisodeStarted", 0, 3, 0), ("Rewarded", 0, 3, 0), *(("Rewarded", i, i, 2) for i in (1, 2))]
    expected += [("EpisodeEnded", 2, 2, "terminated")]
    env.step(0)
    assert told(run) == expected
    expected += [("Rewarded", 0, 3, 1), ("Rewarded", 1, 1, 3), ("EpisodeEnded", 1, 1, "terminated")]
    env.step(0)
    assert told(run) == expected
    assert appends == [first, first + 7, first + 9, first + 14]


@pytest.mark.parametrize("seed", [None, 7])
def test_what_an_append_was_given_stays_as_it_was(run: Run, track: Track, seed: int | None) -> None:
    """Where it is interrupted, and what settles it too, the log takes it in when the next step has begun already."""
    given: list[tuple[Any, ...]] = []
    record = run.recorder.vector_step
    run.recorder.vector_step = lambda *told: given.append((*told, list(told[8]))) or record(*told)
    env = track.wrap(Told("SameStep", [("x.x", "...")] * 3))
    for _ in range(3):
        env.reset(seed=seed)
        env.step(0)
    assert len({tuple(one[-1]) for one in given}) == 3
    for *_, numbers, _began, _started, _ended, _how, before in given:
        assert list(numbers) == before


def test_an_episode_that_begins_and_ends_in_a_step_is_one(run: Run, track: Track) -> None:
    env = track.wrap(Told("SameStep", [("xx", "..")] * 2))
    env.reset()
    env.step(0), env.step(0)
    assert rows(track) == [[0, 1, 0.0, "terminated"]] * 2 + [[1, 1, 1.0, "terminated"]] * 2
    assert [one[0] for one in told(run)] == [
        kind for kind in ("EpisodeStarted", "Rewarded", "EpisodeEnded") * 2 for _ in range(2)
    ]


def test_ends_of_both_kinds_in_a_step_are_told_apart(track: Track) -> None:
    """Where both are true it is over by itself."""
    env = track.wrap(Told("SameStep", [("x..x.", ".x.xx"), ("xxxxx", "....."), (".....", "xxxxx")]))
    env.reset()
    for _ in range(3):
        env.step(0)
    last = [[1, "terminated"], [1, "truncated"]]
    assert [[row[1], row[3]] for row in rows(track)] == [
        *[[1, "terminated"], *last],
        *[[1, "truncated"], *last],
        *[[2, "terminated"], [1, "truncated"]],
        *[[1, "terminated"], *last],
        *[[1, "truncated"], *last],
    ]


def test_ends_of_one_kind_are_part_of_the_step_s_append(
    run: Run, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all are cut off by a limit of steps."""
    env = track.wrap(Told("SameStep", [("...", ".xx"), (".x.", "...")]))
    env.reset()
    monkeypatch.setattr(run.recorder, "alike", None)
    env.step(0), env.step(0)
    assert [row[3] for row in rows(track)] == ["truncated", "terminated", "truncated"]


@pytest.mark.parametrize("most", [1, 2, 3])
def test_of_very_many_ends_and_starts_some_are_appended_by_themselves(
    most: int, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends = [("xxxx.", "....."), ("....x", "....."), ("x.x.x", ".x.x."), (".....", "xxxxx")]
    whole, parts = (track.wrap(Told("SameStep", ends)) for _ in range(2))
    whole.reset(), parts.reset()
    for _ in ends:
        whole.step(0)
    monkeypatch.setattr("agents_adapter.vector.TOGETHER_MAX", most)
    for _ in ends:
        parts.step(0)
    found = [row[1:] for row in rows(track)]
    assert len(found) == 2 * (4 + 1 + 5 + 5)
    assert found[: len(found) // 2] == found[len(found) // 2 :]


def test_a_step_that_fails_begins_nothing_and_the_next_one_does(run: Run, track: Track) -> None:
    inner = Told("NextStep", [("...", "...")])
    env = track.wrap(inner)
    env.reset()
    inner.fails = True
    with pytest.raises(RuntimeError, match="simulator"):
        env.step(0)
    assert told(run) == []
    inner.fails = False
    env.step(0)
    assert [one[:3] for one in told(run)] == [(kind, i, i) for kind in ("EpisodeStarted", "Rewarded") for i in range(3)]


def test_a_reset_after_a_step_that_failed_ends_nothing(run: Run, track: Track) -> None:
    inner = Told("NextStep", [("x..", "...")] + [("...", "...")] * 2)
    env = track.wrap(inner)
    env.reset()
    env.step(0), env.step(0)
    inner.fails = True
    with pytest.raises(RuntimeError, match="simulator"):
        env.step(0)
    env.reset()
    assert [row[:2] + row[3:] for row in rows(track)] == [
        [0, 1, "terminated"],
        [1, 2, "completed"],
        [2, 2, "completed"],
    ]


def test_of_a_step_that_found_no_space_nothing_is_remembered(
    run: Run, track: Track, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even of those that would have begun and ended in it, each in its own way."""
    env = track.wrap(Told("SameStep", [("x..", ".x."), ("...", "...")]))
    env.reset()

    def full(*_arguments: Any) -> None:
        raise journal.DiskFull("no space")

    with monkeypatch.context() as patch:
        patch.setattr(run.log, "_room", full)
        patch.setattr(run.log._segment, "limit", 0)
        run.log.tail()
        patch.setattr(run.log, "_limit", 0)
        with pytest.raises(journal.DiskFull):
            env.step(0)
    assert told(run) == []
    env.step(0)
    assert [one[:3] for one in told(run)] == [(kind, i, i) for kind in ("EpisodeStarted", "Rewarded") for i in range(3)]


@pytest.mark.parametrize("kind", [np.float64, np.float32, np.float16, np.int64, np.uint8, bool, list])
def test_rewards_are_recorded_as_they_are_whatever_holds_them(kind: Any, track: Track) -> None:
    inner = Told("NextStep", [("...", "...")] * 2, np.float64 if kind is list else kind)
    if kind is list:
        plain = inner.step
        inner.step = lambda actions: tuple(  # type: ignore[method-assign]
            one.tolist() if isinstance(one, np.ndarray) else one for one in plain(actions)
        )
    env = track.wrap(inner)
    env.reset()
    env.step(0), env.step(0)
    env.reset()
    given = np.arange(3).astype(inner.rewards).tolist()
    assert [row[2] for row in rows(track)] == [2.0 * one for one in given]


@pytest.mark.parametrize("kind", [bool, np.uint8, np.int64, np.float64, list])
def test_ends_are_understood_whatever_holds_them(kind: Any, track: Track) -> None:
    inner = Told("SameStep", [(".x.", "x.."), ("..x", "...")])
    plain = inner.step

    def step(actions: Any) -> Any:
        seen, rewards, *ends, info = plain(actions)
        return seen, rewards, *((one.tolist() if kind is list else one.astype(kind)) for one in ends), info

    inner.step = step  # type: ignore[method-assign]
    env = track.wrap(inner)
    env.reset()
    env.step(0), env.step(0)
    assert [[row[0], row[1], row[3]] for row in rows(track)] == [
        [0, 1, "truncated"],
        [1, 1, "terminated"],
        [2, 2, "terminated"],
    ]


@pytest.mark.parametrize("wrong", [0, 1, 2])
@pytest.mark.parametrize("shape", [(2,), (3, 1), (1, 3), ()])
def test_arrays_of_another_shape_are_refused(wrong: int, shape: tuple[int, ...], run: Run, track: Track) -> None:
    inner = Told("SameStep", [("...", "...")])
    given = [np.ones(3), np.zeros(3, bool), np.zeros(3, bool)]
    given[wrong] = np.zeros(shape, given[wrong].dtype)
    inner.step = lambda actions: (0, *given, {})  # type: ignore[method-assign]
    env = track.wrap(inner)
    env.reset()
    with pytest.raises(EventRejected, match="shape"):
        env.step(0)
    assert told(run) == []


def test_who_asks_for_an_open_episode_of_many_finds_it(run: Run, track: Track) -> None:
    """Its number is what a metric is logged under; the run's end ends it, with the steps that it had."""
    env = track.wrap(Told("NextStep", [("x..", "...")] + [("...", "...")] * 3))
    env.reset()
    env.step(0), env.step(0), env.step(0)
    track.log({"loss": 0.5})
    assert set(track.open) == {("train", 0)}, "the others are only numbers"
    env.step(0)
    run.finish()
    assert [row[:2] + row[3:] for row in rows(track)] == [
        [0, 1, "terminated"],
        [0, 2, "completed"],
        [1, 4, "completed"],
        [2, 4, "completed"],
    ]
    assert [one["step"] for one in events(run) if one["kind"] == "MetricLogged"] == [3]
    assert not track.open


def test_an_episode_of_a_plan_ends_the_one_that_is_open_in_its_place(track: Track) -> None:
    env = track.wrap(Told("NextStep", [("..", "..")]))
    env.reset()
    env.step(0)
    for episode in track.episodes([("EURUSD", "H1", 0, 10)]):
        assert [row[:2] + row[3:] for row in rows(track)] == [[0, 1, "completed"]]
        episode.step(1.0)


def test_in_the_other_phase_it_is_another_episode(run: Run, track: Track) -> None:
    """Asked for an episode of training, an environment for evaluation has none."""
    exam = track.wrap(Told("NextStep", [("...", "...")]), phase="eval")
    exam.reset()
    exam.step(0)
    track.log({"loss": 0.5})
    assert not track.open
    assert track.opened(("eval", 2)) is not None and track.opened(("eval", 3)) is None


def test_a_run_in_the_middle_of_episodes_is_not_over(track: Track) -> None:
    env = track.wrap(Told("NextStep", [("...", "...")]))
    for _ in track.loop(1):
        pass
    assert track.saver.over
    env.reset()
    env.step(0)
    assert not track.saver.over


def test_the_ends_in_steps_count_towards_the_next_checkpoint(run: Run, track: Track) -> None:
    """Of four: two are those that a step ended, two those that a reset ended."""
    env = track.wrap(Told("SameStep", [("x.", "..")] * 2))
    for saved in (1, 1, 2):
        env.reset()
        assert len(replay.load(run.log.storage).agents["PPO"].checkpoints) == saved
        if saved == 1:
            env.step(0)


def test_where_each_start_seeds_the_generators_each_of_many_does(tmp_path: Path) -> None:
    drawn: list[list[float]] = [[], []]
    for attempt in (0, 1):
        with agents_adapter.start(tmp_path / str(attempt), seeding="episode", code="1") as run:
            env = run.agent("PPO", {}).wrap(Told("SameStep", [("xx", "..")] * 2))
            for _ in range(2):
                env.reset()
                np.random.random(attempt)
                env.step(0)
                drawn[attempt].append(np.random.random())
    assert drawn[0] == drawn[1]
