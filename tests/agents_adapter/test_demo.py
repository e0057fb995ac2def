"""The demo: its market shows no future, its agents learn, its proof sees a single bit; and the story, in short."""

from __future__ import annotations

import importlib.util
import json
import math
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

import journal
from agents_adapter.bars import Bars
from agents_adapter.demo import __main__ as command
from agents_adapter.demo import market, proof, story
from agents_adapter.demo.attempt import DemoFailed, Learned, run_attempt
from agents_adapter.demo.learners import LEARNERS, Learner
from agents_adapter.demo.market import EPISODE_BARS, FEATURES, Market, load_bars

HOUR_NS = 3_600_000_000_000
STEPS = EPISODE_BARS - 25
W = Learned("w", 1)

real_bars = pytest.mark.skipif(
    importlib.util.find_spec("gym_anytrading") is None, reason="the extra [demo] is not installed"
)


@pytest.fixture(autouse=True)
def _subprocesses_find_the_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))


def some_bars(seed: int = 0, count: int = EPISODE_BARS) -> Bars:
    close = np.exp(np.random.default_rng(seed).normal(0.0, 0.001, count).cumsum())
    return Bars("EURUSD", "H1", HOUR_NS * np.arange(count), np.stack([close] * 4 + [np.ones(count)], axis=1))


def walk(shown: Bars, learner: Learner, seed: int, *, learn: bool) -> float:
    """One episode, acting as in training or as well as it can; the return."""
    trading = Market(shown, seed)
    seen, done, total = trading.observe(), False, 0.0
    while not done:
        action = learner.act(seen) if learn else learner.best(seen)
        then, reward, done = trading.step(action)
        if learn:
            learner.learn(seen, action, reward, then, done)
        seen = then
        total += reward
    return total


def test_holding_a_position_earns_the_log_return_less_one_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = some_bars()
    earned = 100.0 * math.log(shown.close[-1] / shown.close[24])
    for action, expected in ((0, -earned), (1, 0.0), (2, earned)):
        trading = Market(shown, seed=3)
        first_cost = abs(action - 1) * trading._cost[0]
        rewards = []
        done = False
        while not done:
            _, reward, done = trading.step(action)
            rewards.append(reward)
        assert len(rewards) == STEPS
        assert math.fsum(rewards) == pytest.approx(expected - first_cost, abs=1e-9)
        assert trading.trades == (action != 1)


def test_an_observation_knows_nothing_of_later_bars() -> None:
    shown = some_bars()
    ohlcv = shown.ohlcv.copy()
    changed_from = 200
    ohlcv[changed_from:] *= 1.5
    changed = Bars("EURUSD", "H1", shown.time, ohlcv)
    one, other = Market(shown, 1), Market(changed, 1)
    for bar in range(24, EPISODE_BARS - 1):
        same = np.array_equal(one.observe(), other.observe())
        assert same == (bar < changed_from) or bar >= changed_from + 24
        one.step(2)
        other.step(2)


def test_an_observation_tells_the_position_and_stays_small() -> None:
    trading = Market(some_bars(), 1)
    for action in (0, 1, 2):
        seen, _, _ = trading.step(action)
        assert seen.shape == (FEATURES,)
        assert seen[-2] == action - 1
        assert np.abs(seen).max() <= 1.0


@real_bars
def test_the_bars_are_the_year_2017_with_the_day_before_the_month() -> None:
    year = load_bars()
    assert len(year) == 6225
    first, last = (np.datetime64(int(year.time[i]), "ns") for i in (0, -1))
    assert (str(first)[:13], str(last)[:13]) == ("2017-01-01T22", "2017-12-29T21")
    assert "gym_anytrading" not in sys.modules


@real_bars
@pytest.mark.parametrize("name", LEARNERS)
def test_each_agent_learns_to_do_better_than_by_chance(name: str) -> None:
    year = load_bars()
    windows = [year[start : start + EPISODE_BARS] for start in range(0, 12 * EPISODE_BARS, EPISODE_BARS)]
    learner = LEARNERS[name](seed=1)
    first = sum(walk(window, learner, seed, learn=True) for seed, window in enumerate(windows))
    for number in range(1, 6):
        for seed, window in enumerate(windows):
            walk(window, learner, 100 * number + seed, learn=True)
    learned = sum(walk(window, learner, seed, learn=False) for seed, window in enumerate(windows))
    assert first < -5.0
    assert learned > 2.0


@pytest.mark.parametrize("name", LEARNERS)
def test_a_restored_agent_goes_on_as_the_one_that_was_saved(name: str) -> None:
    saved, restored = LEARNERS[name](seed=1), LEARNERS[name](seed=2)
    for seed in range(3):
        walk(some_bars(seed), saved, seed, learn=True)
    restored.load_state_dict(saved.state_dict())
    restored.rng.bit_generator.state = saved.rng.bit_generator.state
    for learner in (saved, restored):
        walk(some_bars(9), learner, 9, learn=True)
    assert np.array_equal(saved.weights, restored.weights)
    assert np.abs(saved.weights).max() > 0.0


def write_journal(place: Path, rewards: list[float], *, again: int = 0) -> Path:
    """One agent's one episode; with `again`, the last so many of its steps were taken twice."""
    with journal.open(place) as log:
        log.append(journal.RunStarted(run="one", config={}))
        log.append(journal.AttemptStarted(run="one", attempt=0, pid=1, argv=[], cwd="", versions={}))
        saved = log.append(journal.CheckpointSaved(agent="Q", episode=0, path="checkpoints/q", sha256="0" * 64, size=1))
        agent = log.agent("Q")
        if again:
            log.append(journal.EpisodeStarted(agent="Q", episode=0))
            for step, reward in enumerate(rewards[:again]):
                log.reward(agent, 0, step, reward + 1.0)
            log.append(journal.Rewound(agent="Q", to_seq=saved))
        log.append(journal.EpisodeStarted(agent="Q", episode=0))
        for step, reward in enumerate(rewards):
            log.reward(agent, 0, step, reward)
        log.append(journal.EpisodeEnded(agent="Q", episode=0, reason="completed"))
    return place


def test_the_proof_sees_the_last_bit_of_one_reward(tmp_path: Path) -> None:
    rewards = [0.1, 0.2, 0.3]
    one = proof.careers(write_journal(tmp_path / "one", rewards), {"Q": W}, 1)
    same = proof.careers(write_journal(tmp_path / "same", rewards), {"Q": W}, 1)
    rewards[0] = math.nextafter(rewards[0], 0.0)
    other = proof.careers(write_journal(tmp_path / "other", rewards), {"Q": W}, 1)
    assert one["Q"].differences(same["Q"]) == []
    assert "rewards" in one["Q"].differences(other["Q"])
    assert not proof.is_beginning(tmp_path / "one", tmp_path / "other")
    weights = proof.careers(tmp_path / "one", {"Q": Learned("v", 1)}, 1)
    assert one["Q"].differences(weights["Q"]) == ["learned"]


def test_the_proof_leaves_out_what_was_superseded(tmp_path: Path) -> None:
    rewards = [0.1, 0.2, 0.3]
    one = proof.careers(write_journal(tmp_path / "one", rewards), {}, 1)
    twice = proof.careers(write_journal(tmp_path / "twice", rewards, again=2), {}, 1)
    assert one == twice
    assert not proof.is_beginning(tmp_path / "twice", tmp_path / "one")


def test_the_killed_journal_is_the_beginning_of_the_whole(tmp_path: Path) -> None:
    write_journal(tmp_path / "whole", [0.1, 0.2, 0.3])
    write_journal(tmp_path / "part", [0.1, 0.2])
    assert proof.is_beginning(tmp_path / "part", tmp_path / "whole")
    assert not proof.is_beginning(tmp_path / "whole", tmp_path / "part")


@real_bars
def test_a_training_that_outruns_its_kill_is_no_demo(tmp_path: Path) -> None:
    with pytest.raises(DemoFailed, match="ended with 0 instead of -9"):
        run_attempt(tmp_path / "journal", 1, stop=(10_000, signal.SIGKILL))


@real_bars
def test_the_story_ends_equal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert story.tell(str(tmp_path), as_json=True, passes=3) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["findings"] == []
    assert document["verdict"] == "equal"
    assert document["uninterrupted"] == document["interrupted"]
    assert set(document["interrupted"]) == set(LEARNERS)
    assert {life["episodes"] for life in document["interrupted"].values()} == {36}
    assert [attempt["ended_by"] for attempt in document["attempts"]] == [None, "SIGKILL", "SIGINT", None]
    assert 0 < document["redone_episodes"] < 40
    told = {entry["verb"]: entry for entry in document["verbs"]}
    assert all(entry["exit_code"] == 0 for entry in document["verbs"])
    assert told["compare"]["document"]["verdict"] == "comparable"
    run = told["runs"]["document"]["runs"][0]
    assert run["status"] == "completed"
    assert [attempt["status"] for attempt in run["attempts"]] == ["crashed", "interrupted", "completed"]
    assert len({tuple(life["learned"]) for life in document["interrupted"].values()}) == 3


def test_without_the_bars_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(market.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert command.main() == 2
    assert 'pip install "training-journal[demo]"' in capsys.readouterr().err


@real_bars
def test_a_directory_with_something_in_it_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "notes").write_text("mine")
    monkeypatch.setattr(sys, "argv", ["demo", "--dir", str(tmp_path)])
    assert command.main() == 2
    assert "not an empty directory" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes"]
