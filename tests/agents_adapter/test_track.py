"""What a hand-written loop records through its track, when checkpoints are saved, and what is refused."""

from __future__ import annotations

import gc
import math
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import journal
import replay
from agents_adapter import Bars, Plan, Run, Track
from agents_adapter.episode import Episode
from journal import EventRejected, ResumeImpossible
from journal.storage.disk import DiskStorage
from replay.scan import scan

PLAN = Plan([("EURUSD", "H1", 10 * i, 10 * i + 10, i) for i in range(6)])
EXAM = Plan([("EURUSD", "H1", 0, 10, 7), ("EURUSD", "H1", 10, 20, 7)])
BARS = Bars("EURUSD", "H1", np.arange(60) * 3_600_000_000_000, np.repeat(1.5 + np.arange(60)[:, None], 5, axis=1))


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    run = agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1")
    yield run
    run.finish()


@pytest.fixture
def track(run: Run) -> Track:
    return run.agent("PPO", {"w": np.zeros(3)})


def told(run: Run) -> list[tuple[str, dict[str, Any]]]:
    """(kind, its fields and step's value) of every event so far, but for names and the start."""
    found = []
    for batch in scan(DiskStorage(run.log.storage.name)):
        for row in range(len(batch)):
            kind = journal.events.kind_name(int(batch.kind[row]))
            found.append((kind, batch.fields(row) | {"value": float(batch.value[row]), "step": int(batch.step[row])}))
    return [one for one in found if one[0] not in ("NameGiven", "RunStarted", "AttemptStarted")]


def kinds(run: Run) -> list[str]:
    return [kind for kind, _ in told(run)]


# -- episodes ----------------------------------------------------------------------------------------------------------


def test_an_episode_tells_what_the_plan_asks_for(run: Run) -> None:
    plan = Plan([{"instrument": "EURUSD", "timeframe": "H1", "start": 3, "stop": 9, "seed": 5, "params": {"fee": 0.1}}])
    for episode in run.agent("PPO", {}).episodes(plan):
        assert (episode.instrument, episode.timeframe, episode.start, episode.stop) == ("EURUSD", "H1", 3, 9)
        assert (episode.seed, episode.params, episode.number, episode.index) == (5, {"fee": 0.1}, 0, 0)


def test_an_episode_left_open_ends_with_the_next_one_and_the_last_with_the_loop(run: Run, track: Track) -> None:
    episodes = list(track.episodes(PLAN))
    assert all(episode.ended for episode in episodes)
    assert track.results["reason"].tolist() == ["completed"] * 6


@pytest.mark.parametrize(
    ("given", "reason"),
    [((True, False), "terminated"), ((False, True), "truncated"), ((np.True_, np.True_), "terminated")],
)
def test_a_step_that_is_the_last_ends_the_episode(given: tuple[Any, Any], reason: str, track: Track) -> None:
    for episode in track.episodes(PLAN):
        episode.step(1.0, *given)
        with pytest.raises(EventRejected, match="has ended"):
            episode.step(1.0)
        with pytest.raises(EventRejected, match="has ended"):
            episode.end()
        with pytest.raises(EventRejected, match="has ended"):
            episode.observe(BARS[episode.start : episode.stop])
    assert track.results["reason"].tolist() == [reason] * 6
    assert track.results["steps"].tolist() == [1] * 6


@pytest.mark.parametrize("reward", [None, "1", [1.0], np.ones(1), 1j, 2**53 + 1, 10**400], ids=repr)
def test_a_reward_that_is_no_number_is_refused_and_nothing_is_recorded(reward: Any, run: Run, track: Track) -> None:
    episode = next(track.episodes(PLAN))
    before = run.log.sync().seq
    with pytest.raises(EventRejected, match="reward"):
        episode.step(reward, terminated=True)
    assert run.log.sync().seq == before
    assert (episode.steps, episode.reward, episode.ended) == (0, 0.0, False)


@pytest.mark.parametrize("reward", [1, True, 2**53, np.float32(0.1), np.int64(-3), np.array(2.5), -0.0], ids=repr)
def test_a_reward_that_is_a_number_is_taken_exactly(reward: Any, run: Run, track: Track) -> None:
    episode = next(track.episodes(PLAN))
    episode.step(reward)
    assert told(run)[-1] == ("Rewarded", {"value": float(reward), "step": 0})
    assert episode.reward == float(reward)


def test_nan_and_infinite_rewards_are_recorded_and_not_added(run: Run, track: Track) -> None:
    episode = next(track.episodes(PLAN))
    for reward in (0.1, math.nan, 0.2, math.inf, -math.inf, 0.3):
        episode.step(reward)
    assert episode.reward == 0.1 + 0.2 + 0.3
    episode.end()
    totals = replay.load(run.log.storage).totals.loc["PPO"]
    assert (totals["nan_rewards"], totals["infinite_rewards"], totals["total_reward"]) == (1, 2, 0.1 + 0.2 + 0.3)
    assert track.results["reward"].tolist() == [episode.reward]


def test_metrics_of_an_end_are_results_and_a_bad_one_leaves_the_episode_open(run: Run, track: Track) -> None:
    walk = track.episodes(PLAN)
    episode = next(walk)
    before = run.log.sync().seq
    with pytest.raises(EventRejected):
        episode.end(trades=print)
    with pytest.raises(EventRejected):
        episode.end("")
    assert not episode.ended
    assert run.log.sync().seq == before
    episode.end("stopped out", pnl=np.float64(1.5), trades=3)
    row = track.results.iloc[0]
    assert (row["reason"], row["pnl"], row["trades"]) == ("stopped out", 1.5, 3)


def test_two_open_episodes_of_one_agent_are_refused(run: Run, track: Track) -> None:
    for episode in track.episodes(PLAN):
        with pytest.raises(EventRejected, match="in the middle"):
            next(track.episodes(PLAN))
        episode.step(1.0)  # The first one is as it was.
        break
    with pytest.raises(EventRejected, match="is open"):
        run.log.append(journal.EpisodeStarted(agent="PPO", episode=9))


@pytest.mark.parametrize(
    "plan", [[], [("EURUSD", "H1", 10, 10)], [("EURUSD", "H1", 10, 5)], "EURUSD", None, 7], ids=repr
)
def test_a_bad_plan_is_refused_when_it_is_given(plan: Any, run: Run, track: Track) -> None:
    before = run.log.sync().seq
    for walk in (track.episodes, track.evaluate):
        with pytest.raises(EventRejected):
            walk(plan)
    assert run.log.sync().seq == before


def test_evaluation_is_kept_apart(run: Run, track: Track) -> None:
    for episode in track.episodes(PLAN):
        episode.step(1.0)
        if episode.index == 1:
            assert [exam.number for exam in track.evaluate(EXAM)] == [0, 1]
    assert [exam.number for exam in track.evaluate(EXAM)] == [2, 3]
    agent = replay.load(run.log.storage).agents["PPO"]
    assert (agent.effective["train"].episodes, agent.effective["eval"].episodes) == (6, 4)


# -- bars --------------------------------------------------------------------------------------------------------------


def test_observed_bars_are_recorded_by_content_and_others_as_declared(run: Run, track: Track) -> None:
    for episode in track.episodes(PLAN[:2]):
        if episode.index == 0:
            episode.observe(BARS[episode.start : episode.stop])
    first, second = replay.load(run.log.storage).agents["PPO"].bars[f"{run.id}/train"]
    assert (first.source, first.start, first.stop, first.content_hash) == ("observed", 0, 10, BARS.content_hash(0, 10))
    assert (second.source, second.start, second.stop, second.content_hash) == ("declared", 10, 20, None)


def test_bars_that_are_not_the_plans_are_refused_unless_their_place_is_told(run: Run, track: Track) -> None:
    other = Bars("GBPUSD", "H1", BARS.time, BARS.ohlcv)
    walk = track.episodes(PLAN)
    next(walk)
    episode = next(walk)
    with pytest.raises(EventRejected, match=r"10 bars of EURUSD H1.*10 bars of GBPUSD H1"):
        episode.observe(other[10:20])
    with pytest.raises(EventRejected, match="15 bars"):
        episode.observe(BARS[5:20])
    episode.observe(BARS[5:20], start=5)
    episode.end()
    *_, seen = replay.load(run.log.storage).agents["PPO"].bars[f"{run.id}/train"]
    assert (seen.start, seen.stop, seen.source) == (5, 20, "observed")


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_checkpoints_lie_before_the_first_episode_every_n_and_at_the_end(run: Run, track: Track) -> None:
    for _ in track.episodes(PLAN[:5]):
        pass
    saved = [kind for kind in kinds(run) if kind in ("EpisodeStarted", "EpisodeEnded", "CheckpointSaved")]
    episode, checkpoint = ["EpisodeStarted", "EpisodeEnded"], ["CheckpointSaved"]
    assert saved == [*checkpoint, *episode * 2, *checkpoint, *episode * 2, *checkpoint, *episode, *checkpoint]


def test_no_checkpoint_lies_inside_an_episode_or_an_evaluation_within_one(run: Run, track: Track) -> None:
    for episode in track.episodes(PLAN):
        episode.step(1.0)
        if episode.index in (1, 3):
            episode.end()
        for _ in track.evaluate(EXAM):
            pass
    depth = 0
    position = []
    for kind, fields in told(run):
        depth += {"EpisodeStarted": 1, "EpisodeEnded": -1}.get(kind, 0)
        if kind == "CheckpointSaved":
            assert depth == 0
            position.append(fields["path"].split("-")[1])
    assert position == ["0", *"123456"]  # Each pass of the loop ends three episodes, one of them in training.


def test_the_newest_checkpoints_stay(tmp_path: Path) -> None:
    with agents_adapter.start(tmp_path / "j", checkpoint_every=1, keep=2) as run:
        list(run.agent("PPO", {}).episodes(PLAN))
    assert len(list((tmp_path / "j" / "checkpoints").iterdir())) == 2


def test_an_agent_that_saves_nothing_has_no_checkpoints(tmp_path: Path) -> None:
    with agents_adapter.start(tmp_path / "j") as run:
        list(run.agent("hold", stateless=True).episodes(PLAN))
        list(run.agent("unknown").episodes(PLAN))
    assert not (tmp_path / "j" / "checkpoints").exists() or not list((tmp_path / "j" / "checkpoints").iterdir())


# -- passes and loops --------------------------------------------------------------------------------------------------


def test_a_loop_that_is_left_early_is_over_and_the_next_one_starts_anew(tmp_path: Path) -> None:
    def train(run: Run, die: bool) -> list[list[int]]:
        track = run.agent("PPO", {})
        done: list[list[int]] = [[], [], []]
        for episode in track.episodes(PLAN):
            done[0].append(episode.index)
            if episode.index == 2:
                break
        for episode in track.episodes(PLAN):
            done[1].append(episode.index)
            if die and episode.index == 3:
                raise RuntimeError("stopped here")
        for episode in track.evaluate(EXAM):
            done[2].append(episode.index)
        return done

    with (
        pytest.raises(RuntimeError),
        agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1") as run,
    ):
        train(run, die=True)
    with agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1") as run:
        assert train(run, die=False) == [[], [3, 4, 5], [0, 1]]


def test_other_passes_than_before_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path / "j", code="1") as run:
        track = run.agent("PPO", {})
        list(track.episodes(PLAN))
        for _ in track.evaluate(EXAM):
            raise RuntimeError
    with agents_adapter.start(tmp_path / "j", code="1") as run:
        track = run.agent("PPO", {})
        with pytest.raises(ResumeImpossible, match=r"was episodes\(\), is evaluate\(\)"):
            next(track.evaluate(EXAM))
        assert list(track.episodes(PLAN)) == []


def test_a_loop_resumes_and_needs_a_state(tmp_path: Path) -> None:
    def train(run: Run, until: int) -> list[int]:
        done = []
        for i in run.agent("PPO", {}).loop(8):
            if i == until:
                raise RuntimeError("stopped here")
            done.append(i)
        return done

    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1") as run:
        train(run, 5)
    with agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1") as run:
        assert train(run, 99) == [4, 5, 6, 7]
        for track in (run.agent("a", stateless=True), run.agent("b")):
            with pytest.raises(EventRejected, match="state="):
                next(track.loop(3))
        with pytest.raises(EventRejected):
            run.agent("c", {}).loop(-1)


def test_the_scripts_own_preparations_are_undone_where_the_loop_goes_on(tmp_path: Path) -> None:
    """A first epsilon, or weights drawn after run.agent, must not spoil an exact resume."""

    def train(run: Run, until: int) -> tuple[list[float], dict[str, Any]]:
        state = {"w": np.zeros(2), "rng": np.random.default_rng(1)}
        track = run.agent("PPO", state)
        track.vars["eps"] = 1.0
        state["w"] += state["rng"].normal(size=2)
        drawn = []
        for episode in track.episodes(PLAN):
            if episode.index == until:
                raise RuntimeError("stopped here")
            drawn.append(state["rng"].random())
            state["w"] += drawn[-1]
            track.vars["eps"] *= 0.5
        return drawn, {"w": state["w"].tolist(), **track.vars}

    with agents_adapter.start(tmp_path / "whole") as run:
        drawn, whole = train(run, 99)
    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1") as run:
        train(run, 3)
    with agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1") as run:
        assert train(run, 99) == (drawn[2:], whole)


# -- metrics, results, seeds, plans ------------------------------------------------------------------------------------


def test_numbers_are_logged_at_a_step_or_at_the_episode(run: Run, track: Track) -> None:
    for episode in track.episodes(PLAN[:2]):
        track.log({"loss": 0.5, "eps": np.float32(0.25)}, step=77)
        track.log({"loss": 0.25})
        episode.step(1.0)
    found = [(fields["step"], fields["value"]) for kind, fields in told(run) if kind == "MetricLogged"]
    assert found == [(77, 0.5), (77, 0.25), (0, 0.25), (77, 0.5), (77, 0.25), (1, 0.25)]


def test_one_bad_number_and_none_is_logged(run: Run, track: Track) -> None:
    before = run.log.sync().seq
    for metrics in ({"loss": 0.5, "name": "x"}, {"loss": 0.5, "a/b": 1.0}, {"loss": None}, [("loss", 1.0)]):
        with pytest.raises(EventRejected):
            track.log(metrics)  # type: ignore[arg-type]
    with pytest.raises(EventRejected):
        track.log({"loss": 0.5}, step=-1)
    assert run.log.sync().seq == before


def test_results_are_of_the_whole_run_and_without_what_was_superseded(tmp_path: Path) -> None:
    for attempt in range(2):
        run = agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1", on_divergence="ignore")
        track = run.agent("PPO", {})
        for episode in track.episodes(PLAN):
            episode.step(float(10 * attempt + episode.index))
            episode.step(0.5)
            if attempt == 0 and episode.index == 3:
                run.end()
                break
    results = track.results
    assert results["episode"].tolist() == [0, 1, 2, 3, 4, 5]
    assert results["reward"].tolist() == [0.5, 1.5, 12.5, 13.5, 14.5, 15.5]
    assert results["entry"].tolist() == [0, 1, 2, 3, 4, 5]
    assert (results["seconds"] >= 0).all()
    run.finish()
    totals = replay.load(tmp_path / "j").totals.loc["PPO"]
    assert (totals["total_episodes"], totals["total_reward"]) == (len(results), results["reward"].sum())


def test_nothing_is_seeded_unless_asked_for(tmp_path: Path) -> None:
    def draws(**given: Any) -> list[tuple[float, float]]:
        random.seed(3)
        np.random.seed(3)
        drawn = []
        with agents_adapter.start(tmp_path / str(given), **given) as run:
            for _ in run.agent("PPO", {}).episodes(PLAN):
                drawn.append((random.random(), float(np.random.random())))
        return drawn

    drawn = draws()
    random.seed(3)
    np.random.seed(3)
    assert drawn == [(random.random(), float(np.random.random())) for _ in PLAN]
    seeded = draws(seeding="episode")
    random.seed(PLAN[4].seed)
    assert seeded[4][0] == random.random()
    assert len(set(seeded)) == len(seeded)


def test_a_plan_is_recorded_once_and_a_large_one_as_a_file(tmp_path: Path) -> None:
    large = Plan([("EURUSD", "H1", i, i + 10, None, {"note": "x" * 2000}) for i in range(2200)])
    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path / "j", code="1") as run:
        track = run.agent("PPO", {})
        for _ in range(2):
            assert len(list(track.episodes(PLAN))) == 6
        for episode in track.episodes(large):
            if episode.index == 15:
                raise RuntimeError("stopped here")
    state = replay.load(tmp_path / "j")
    recorded = state.runs[run.id].plans["PPO/train"]
    assert (recorded.plan_hash, recorded.length, recorded.entries) == (large.hash, 2200, None)
    assert recorded.path is not None and (tmp_path / "j" / recorded.path).read_bytes() == large.canonical
    other = Plan([*large[:2199], ("EURUSD", "H1", 5, 10)])
    with agents_adapter.start(tmp_path / "j", code="1") as run:
        track = run.agent("PPO", {})
        for _ in range(2):
            assert list(track.episodes(PLAN)) == []
        with pytest.raises(ResumeImpossible, match=r"plan\[2199\].start was 2199, is 5"):
            next(track.episodes(other))


def test_a_part_of_the_planned_bars_proves_nothing_and_is_refused(tmp_path: Path) -> None:
    """One bar shown to all, and the rest of the episode anything: that must not be comparable."""
    import pandas as pd

    times = pd.date_range("2020-01-01", periods=40, freq="h", tz="UTC")
    frame = pd.DataFrame(dict.fromkeys(("open", "high", "low", "close"), 1.0), index=times)
    bars = agents_adapter.Bars.from_frame(frame, "EURUSD", "H1")
    run = agents_adapter.start(tmp_path / "j")
    for episode in run.agent("PPO", {}).episodes(Plan([("EURUSD", "H1", 10, 20)])):
        for start, stop in ((10, 11), (12, 30), (0, 19)):
            with pytest.raises(EventRejected, match="planned on bars 10 to 20"):
                episode.observe(bars[start:stop], start=start)
        episode.observe(bars[5:20], start=5)  # With a look-back.
    run.finish()


def test_an_ended_episode_is_gone_with_its_last_name(track: Track) -> None:
    """Left to the garbage collector, hundreds of them lie in memory, and each next one is made in cold memory."""
    gc.collect()
    gc.disable()
    try:
        for episode in track.episodes(PLAN):
            episode.step(1.0, terminated=True)
        del episode
        assert not [one for one in gc.get_objects() if type(one) is Episode and one._track is track]
    finally:
        gc.enable()
