"""`start` begins a run, goes on with one, or refuses with each difference; and what ends a run ends it for good."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter import Plan, Run, Track
from journal import EventRejected, JournalClosed, NotAJournal, ResumeImpossible

PLAN = Plan([("EURUSD", "H1", 10 * i, 10 * i + 10, i) for i in range(6)])


def steps(track: Track, plan: Plan = PLAN, until: int = 1 << 30) -> list[int]:
    """Walk the plan; the indices that were done."""
    done = []
    for episode in track.episodes(plan):
        if len(done) == until:
            raise RuntimeError("stopped here")
        episode.step(1.0)
        done.append(episode.index)
    return done


def stopped(directory: Path, until: int = 3, config: dict[str, Any] | None = None, **agent: Any) -> None:
    """An unfinished run, stopped in episode `until` by an exception; a checkpoint after each episode."""
    with (
        pytest.raises(RuntimeError, match="stopped here"),
        agents_adapter.start(directory, config, checkpoint_every=1, code="1") as run,
    ):
        steps(run.agent("PPO", **(agent or {"state": {"w": np.zeros(3)}})), until=until)


def files(directory: Path) -> dict[str, bytes]:
    """All but the note of who held the lock last."""
    found = (path for path in sorted(directory.rglob("*")) if path.is_file() and path.name != "writer.lock")
    return {str(path): path.read_bytes() for path in found}


def going_on(directory: Path, **given: Any) -> Run:
    return agents_adapter.start(directory, **{"code": "1", **given})


# -- new, resumed, refused ---------------------------------------------------------------------------------------------


def test_a_finished_run_is_followed_by_a_new_one_with_a_fresh_agent(tmp_path: Path) -> None:
    weights = np.zeros(3)
    with agents_adapter.start(tmp_path / "j") as first:
        track = first.agent("PPO", {"w": weights})
        assert steps(track) == [0, 1, 2, 3, 4, 5]
        weights += 7
    fresh = np.zeros(3)
    with agents_adapter.start(tmp_path / "j") as second:
        assert second.id != first.id
        track = second.agent("PPO", {"w": fresh})
        assert not fresh.any()
        assert [episode.number for episode in track.episodes(PLAN)] == [6, 7, 8, 9, 10, 11]
    totals = replay.load(tmp_path / "j").totals.loc["PPO"]
    assert (totals["total_episodes"], totals["runs"]) == (12, 2)


def test_continue_from_last_starts_a_new_run_with_the_last_weights(tmp_path: Path) -> None:
    with agents_adapter.start(tmp_path / "j") as run:
        weights = np.zeros(3)
        track = run.agent("PPO", {"w": weights})
        for episode in track.episodes(PLAN):
            weights += 1
            episode.step(1.0)
    weights = np.zeros(3)
    for again in (1, 2):
        with agents_adapter.start(tmp_path / "j", continue_from="last") as run:
            track = run.agent("PPO", {"w": weights})
            assert weights.tolist() == [6.0 * again] * 3
            for episode in track.episodes(PLAN):
                weights += 1
                episode.step(1.0)
        weights = np.zeros(3)
    state = replay.load(tmp_path / "j")
    assert state.agents["PPO"].effective["train"].episodes == 18


def test_continue_from_last_after_an_abandoned_run_supersedes_what_is_not_in_the_weights(tmp_path: Path) -> None:
    """And the new run walks its whole plan, though the old one had finished entries of it, also when it is resumed."""
    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path / "j", checkpoint_every=2) as run:
        steps(run.agent("PPO", state={"w": np.zeros(3)}), until=3)
    with (
        pytest.raises(RuntimeError),
        agents_adapter.start(tmp_path / "j", resume="never", continue_from="last", checkpoint_every=2) as run,
    ):
        assert steps(run.agent("PPO", state={"w": np.zeros(3)}), until=0) == []
    with agents_adapter.start(tmp_path / "j", resume="must") as run:
        assert steps(run.agent("PPO", state={"w": np.zeros(3)})) == [0, 1, 2, 3, 4, 5]
    agent = replay.load(tmp_path / "j").agents["PPO"]
    assert agent.effective["train"].episodes == 2 + 6
    assert agent.spent["train"].episodes == 4 + 1 + 6


def test_an_unfinished_run_goes_on_with_the_same_config_and_code(tmp_path: Path) -> None:
    config = {"lr": 0.1, "layers": (64, 64), "nan": float("nan"), "seed": np.int64(3)}
    stopped(tmp_path / "j", config=config)
    with going_on(tmp_path / "j", config=config) as run:
        assert steps(run.agent("PPO", {"w": np.zeros(3)})) == [3, 4, 5]
    assert replay.load(tmp_path / "j").totals.loc["PPO", "total_episodes"] == 6


def test_another_config_is_refused_field_by_field(tmp_path: Path) -> None:
    stopped(tmp_path / "j", config={"lr": 0.1, "net": {"layers": [64, 64], "act": "relu"}, "gone": 1})
    before = files(tmp_path / "j")
    with pytest.raises(ResumeImpossible) as refused:
        going_on(tmp_path / "j", config={"lr": 0.2, "net": {"layers": [64, 32], "act": "relu"}, "new": 2})
    for difference in (
        "config.lr was 0.1, is 0.2",
        "config.net.layers[1] was 64, is 32",
        "config.gone was 1, is (absent)",
        "config.new was (absent), is 2",
        "resume='never'",
    ):
        assert difference in str(refused.value)
    assert "act" not in str(refused.value)
    assert files(tmp_path / "j") == before


def test_another_script_is_refused_and_may_be_declared_the_same(tmp_path: Path) -> None:
    stopped(tmp_path / "j")
    with pytest.raises(ResumeImpossible, match=r"SHA-256 was 1, is 2.*code='1'"):
        going_on(tmp_path / "j", code="2")
    going_on(tmp_path / "j", code="1").end()


def test_another_plan_is_refused_entry_by_entry(tmp_path: Path) -> None:
    stopped(tmp_path / "j")
    other = Plan([*PLAN[:4], ("EURUSD", "H1", 41, 50, 4), ("GBPUSD", "H1", 50, 60, 5)])
    with pytest.raises(ResumeImpossible) as refused, going_on(tmp_path / "j") as run:
        steps(run.agent("PPO", {"w": np.zeros(3)}), other)
    assert "plan[4].start was 40, is 41" in str(refused.value)
    assert "plan[5].instrument was 'EURUSD', is 'GBPUSD'" in str(refused.value)
    assert "plan[3]" not in str(refused.value)


def test_another_plan_is_refused_without_a_checkpoint_too(tmp_path: Path) -> None:
    stopped(tmp_path / "j", stateless=True)
    other = Plan([*PLAN[:5], ("GBPUSD", "H1", 50, 60, 5)])
    with pytest.raises(ResumeImpossible, match=r"plan\[5\]\.instrument"), going_on(tmp_path / "j") as run:
        steps(run.agent("PPO", stateless=True), other)


def test_resume_must_refuses_a_new_run_and_never_refuses_to_go_on(tmp_path: Path) -> None:
    with pytest.raises(ResumeImpossible, match="holds no run"):
        agents_adapter.start(tmp_path / "j", resume="must")
    stopped(tmp_path / "j")
    first = next(iter(replay.load(tmp_path / "j").runs))
    with going_on(tmp_path / "j", resume="never") as run:
        assert run.id != first
        assert steps(run.agent("PPO", {"w": np.zeros(3)})) == [0, 1, 2, 3, 4, 5]
    with pytest.raises(ResumeImpossible, match="is completed"):
        going_on(tmp_path / "j", resume="must")


def test_a_vanished_process_is_noted_as_crashed_by_the_next_start(tmp_path: Path) -> None:
    script = "import os, sys, agents_adapter; agents_adapter.start(sys.argv[1], code='1'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "j")], check=False)
    going_on(tmp_path / "j").finish()
    run = next(iter(replay.load(tmp_path / "j").runs.values()))
    assert [attempt.status for attempt in run.attempts] == ["crashed", "completed"]
    assert (run.status, run.attempts[0].argv[-1]) == ("completed", str(tmp_path / "j"))


def test_a_second_start_in_one_process_ends_the_first_attempt(tmp_path: Path) -> None:
    """A notebook's cell that is run again."""
    first = agents_adapter.start(tmp_path / "j", code="1")
    track = first.agent("PPO", {"w": np.zeros(3)})
    next(track.episodes(PLAN)).step(1.0)
    second = agents_adapter.start(os.path.relpath(tmp_path / "j"), code="1")
    assert (second.id, second.attempt) == (first.id, 1)
    with pytest.raises(JournalClosed):
        first.agent("SAC", stateless=True)
    second.agent("PPO", {"w": np.zeros(3)})
    second.finish()
    run = replay.load(tmp_path / "j").runs[first.id]
    assert [attempt.status for attempt in run.attempts] == ["interrupted", "completed"]


def test_shards_are_journals_of_their_own(tmp_path: Path) -> None:
    runs = [agents_adapter.start(tmp_path / "all", shard=name) for name in ("sac-1", "sac-2")]
    for run in runs:
        run.finish()
    assert sorted(os.listdir(tmp_path / "all")) == ["sac-1", "sac-2"]
    agents_adapter.start(tmp_path / "one").finish()
    with pytest.raises(NotAJournal, match="is a journal itself"):
        agents_adapter.start(tmp_path / "one", shard="sac-1")
    with pytest.raises(EventRejected):
        agents_adapter.start(tmp_path / "all", shard="a/b")


# -- agents ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["", "a/b", " a", "..", "a\n", None, 7])
def test_a_bad_name_is_refused(name: Any, tmp_path: Path) -> None:
    with agents_adapter.start(tmp_path / "j") as run:
        events = run.log.sync().seq
        with pytest.raises(EventRejected):
            run.agent(name, stateless=True)
        with pytest.raises(EventRejected):
            run.team(name, {"a": {}})
        assert run.log.sync().seq == events


def test_one_name_twice_is_refused_and_replicates_are_apart(tmp_path: Path) -> None:
    with agents_adapter.start(tmp_path / "j") as run:
        run.agent("PPO", {})
        with pytest.raises(EventRejected, match="'PPO' is in this run already"):
            run.agent("PPO", {})
        assert run.agent("PPO", {}, replicate=1).name == "PPO#1"
        with pytest.raises(EventRejected):
            run.agent("PPO", {}, replicate=-1)
        run.team("pair", {"a": {}, "b": {}})
        for taken in ("a", "pair"):
            with pytest.raises(EventRejected):
                run.agent(taken, {})
        with pytest.raises(EventRejected):
            run.team("pair 2", {"b": {}})


def test_a_learner_without_a_state_is_recorded_and_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path / "j", code="1") as run:
        steps(run.agent("PPO"), until=2)
    assert replay.load(tmp_path / "j").totals.loc["PPO", "total_episodes"] == 2
    run = going_on(tmp_path / "j")
    with pytest.raises(ResumeImpossible, match="state="):
        run.agent("PPO")
    with pytest.raises(ResumeImpossible, match="no good checkpoint"):
        run.agent("PPO", {"w": np.zeros(3)})
    assert steps(run.agent("SAC", {})) == [0, 1, 2, 3, 4, 5]  # It had not begun: there is nothing to lose.
    run.end()


def test_leaving_out_the_state_of_an_agent_that_had_one_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path / "j")
    with pytest.warns(RuntimeWarning, match="stays unfinished"), going_on(tmp_path / "j") as run:
        with pytest.raises(ResumeImpossible, match="state="):
            run.agent("PPO")
        with pytest.raises(ResumeImpossible, match="state="):
            run.agent("PPO", stateless=True)
    assert next(iter(replay.load(tmp_path / "j").runs.values())).status == "unfinished"


def test_stateless_work_does_only_what_is_not_finished(tmp_path: Path) -> None:
    stopped(tmp_path / "j", stateless=True)
    with going_on(tmp_path / "j") as run:
        assert steps(run.agent("PPO", stateless=True)) == [3, 4, 5]
    agent = replay.load(tmp_path / "j").agents["PPO"]
    assert (agent.effective["train"].episodes, agent.spent["train"].episodes) == (6, 7)


def test_a_restore_that_gets_another_shape_is_refused_and_nothing_is_recorded(tmp_path: Path) -> None:
    stopped(tmp_path / "j")
    with going_on(tmp_path / "j") as run:
        events = run.log.sync().seq
        with pytest.raises(ResumeImpossible, match=r"shape \(4,\)"):
            run.agent("PPO", {"w": np.zeros(4)})
        assert run.log.sync().seq == events
        assert steps(run.agent("PPO", {"w": np.zeros(3)})) == [3, 4, 5]


def test_a_restore_that_raises_never_gives_a_fresh_agent(tmp_path: Path) -> None:
    def restore(state: Any) -> None:
        raise KeyError("optimizer")

    stopped(tmp_path / "j", save=lambda: {"w": 1}, restore=restore)
    with pytest.raises(ResumeImpossible, match="KeyError"), going_on(tmp_path / "j") as run:
        run.agent("PPO", save=lambda: {"w": 1}, restore=restore)


def test_an_altered_checkpoint_is_passed_over_and_with_none_left_it_is_refused(tmp_path: Path) -> None:
    stopped(tmp_path / "j", until=4)
    checkpoints = replay.load(tmp_path / "j").agents["PPO"].checkpoints
    newest = tmp_path / "j" / checkpoints[-1].path
    newest.write_bytes(newest.read_bytes()[:-1] + b"!")
    with pytest.raises(RuntimeError), going_on(tmp_path / "j", checkpoint_every=100) as run:
        assert steps(run.agent("PPO", {"w": np.zeros(3)}), until=0) == []
    with going_on(tmp_path / "j", on_divergence="ignore") as run:
        track = run.agent("PPO", {"w": np.zeros(3)})
        assert next(track.episodes(PLAN)).index == 3
    stopped(tmp_path / "k", until=4)
    for checkpoint in (tmp_path / "k" / "checkpoints").iterdir():
        checkpoint.write_bytes(b"?")
    with pytest.raises(ResumeImpossible, match="no good checkpoint"), going_on(tmp_path / "k") as run:
        run.agent("PPO", {"w": np.zeros(3)})


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_save_that_raises_leaves_the_older_checkpoint_and_no_event(
    error: type[BaseException], tmp_path: Path
) -> None:
    calls = []

    def save() -> dict[str, int]:
        calls.append(1)
        if len(calls) == 3:
            raise error("the weights cannot be read")
        return {"calls": len(calls)}

    with (
        pytest.raises(error, match="the weights"),
        agents_adapter.start(tmp_path / "j", checkpoint_every=1, code="1") as run,
    ):
        steps(run.agent("PPO", save=save, restore=lambda state: None))
    assert len(replay.load(tmp_path / "j").agents["PPO"].checkpoints) == 2
    with going_on(tmp_path / "j") as run:
        assert steps(run.agent("PPO", save=save, restore=lambda state: None)) == [1, 2, 3, 4, 5]


def test_a_last_save_that_raises_ends_the_attempt_as_failed(tmp_path: Path) -> None:
    broken = {"w": 1, "f": None}
    with pytest.raises(EventRejected, match=r"state\['f'\]"), agents_adapter.start(tmp_path / "j", code="1") as run:
        for episode in run.agent("PPO", broken).episodes(PLAN):
            episode.step(1.0)
            broken["f"] = print  # type: ignore[assignment]
            break
    run_state = next(iter(replay.load(tmp_path / "j").runs.values()))
    assert (run_state.status, run_state.attempts[0].status) == ("unfinished", "failed")


def test_a_team_has_one_checkpoint_and_one_rewind(tmp_path: Path) -> None:
    def members() -> dict[str, Any]:
        return {"maker": {"w": np.zeros(2)}, "taker": {"w": np.zeros(3)}}

    def play(run: Run, until: int) -> tuple[list[int], dict[str, Any]]:
        states = members()
        team = run.team("pair", states)
        done = []
        for maker, taker in team.episodes(PLAN):
            if len(done) == until:
                raise RuntimeError("stopped here")
            states["maker"]["w"] += 1
            states["taker"]["w"] += 2
            maker.step(1.0)
            taker.step(-1.0)
            done.append(maker.index)
        return done, states

    with pytest.raises(RuntimeError), agents_adapter.start(tmp_path / "j", checkpoint_every=2, code="1") as run:
        play(run, 5)
    with pytest.raises(ResumeImpossible, match="was saved by pair"), going_on(tmp_path / "j") as run:
        run.agent("maker", {"w": np.zeros(2)})
    with going_on(tmp_path / "j", checkpoint_every=2) as run:
        done, states = play(run, 99)
    assert done == [4, 5]
    assert (states["maker"]["w"].tolist(), states["taker"]["w"].tolist()) == ([6, 6], [12, 12, 12])
    state = replay.load(tmp_path / "j")
    for name in ("maker", "taker"):
        assert state.agents[name].effective["train"].episodes == 6
        assert state.agents[name].checkpoints[-1].agent == "pair"


def test_checkpoints_that_no_resume_needs_are_swept_at_the_start(tmp_path: Path) -> None:
    """A save cut off between its file and its event leaves a file that nothing names."""
    run = agents_adapter.start(tmp_path / "j", code="x")
    for episode in run.agent("A", state={"n": 1}).episodes(Plan([("X", "H1", 0, 5, seed) for seed in range(4)])):
        episode.step(1.0)
        if episode.index == 2:
            break
    run.end()
    files = tmp_path / "j" / "checkpoints"
    named = {Path(one.path).name for one in replay.load(tmp_path / "j").agents["A"].checkpoints}
    (files / "A-2-0123456789abcdef.ckpt").write_bytes(b"half")
    (files / "plan-kept.json").write_bytes(b"{}")
    run = agents_adapter.start(tmp_path / "j", code="x")
    assert {path.name for path in files.iterdir()} == named | {"plan-kept.json"}
    run.end()


def test_a_run_is_not_completed_without_all_of_its_agents(tmp_path: Path) -> None:
    plan = Plan([("X", "H1", 0, 5, seed) for seed in range(3)])
    run = agents_adapter.start(tmp_path / "j", code="x")
    for name in ("A", "B"):
        for episode in run.agent(name, {"n": 1}).episodes(plan):
            episode.step(1.0)
            break
    run.end()
    run = agents_adapter.start(tmp_path / "j", code="x")
    for episode in run.agent("A", {"n": 1}).episodes(plan):
        episode.step(1.0)
    with pytest.warns(RuntimeWarning, match="stays unfinished.*has not taken up B"):
        run.finish()
    found = next(iter(replay.load(tmp_path / "j").runs.values()))
    assert (found.status, found.attempts[-1].status) == ("unfinished", "interrupted")


def test_agents_may_be_trained_in_threads(tmp_path: Path) -> None:
    """Six at once, each saving after every episode: retention is shared, and stays right."""
    plan = Plan([("X", "H1", 0, 5, seed) for seed in range(25)])
    run = agents_adapter.start(tmp_path / "j", checkpoint_every=1, keep=1, code="x")
    tracks = [run.agent(f"A{number}", {"n": number}) for number in range(6)]
    failed: list[BaseException] = []

    def train(track: agents_adapter.Track) -> None:
        try:
            for episode in track.episodes(plan):
                episode.step(1.0)
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=train, args=(track,)) for track in tracks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    run.finish()
    assert not failed
    state = replay.load(tmp_path / "j")
    assert [agent.effective["train"].episodes for agent in state.agents.values()] == [25] * 6
    named = {one.path for agent in state.agents.values() for one in agent.checkpoints}
    assert {f"checkpoints/{path.name}" for path in (tmp_path / "j" / "checkpoints").iterdir()} == named
