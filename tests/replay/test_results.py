"""Results: only of comparable agents, of evaluation where there is one, and with the words that belong to them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import journal
import replay
from journal.errors import NotComparable
from replay.compare import compare
from replay.results import algorithm_of, results, tried_in

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run
from trainings import begin, end, see


def episode(log: journal.Log, agent: str, number: int, reward: float, phase: Any = "train", **metrics: Any) -> None:
    log.append(journal.EpisodeStarted(agent=agent, episode=number, phase=phase))
    see(log, agent, number, 10 * number, phase)
    for step, value in enumerate((0.25, reward - 0.25)):
        log.reward(log.agent(agent), number, step, value, flags=int(phase == "eval"))
    log.append(
        journal.EpisodeEnded(agent=agent, episode=number, phase=phase, reason="terminated", metrics=metrics or None)
    )


def trained(place: Path, agents: dict[str, float], phases: Sequence[str] = ("train",), episodes: int = 8) -> Path:
    """Each agent earns its own, in every episode a little more."""
    with journal.open(place) as log:
        begin(log)
        for agent, own in agents.items():
            for phase in phases:
                for number in range(episodes):
                    episode(log, agent, number, own + number / 8, phase, pnl=-own, note="text", ratio=float("nan"))
        end(log)
    return place


def replicates(**own: float) -> dict[str, float]:
    """Six of each algorithm; the seed changes a little."""
    return {f"{name}#{seed}" if seed else name: value + seed / 64 for name, value in own.items() for seed in range(6)}


def found(place: Path, metric: str = "reward", **options: Any) -> Any:
    state = replay.load(place)
    return results(compare(state, **options), tried_in([state]), metric)


def test_replicates_are_one_algorithm(tmp_path: Path) -> None:
    one = found(trained(tmp_path / "j", replicates(PPO=2.0, SAC=1.0)))
    assert [(standing.agent, standing.replicates) for standing in one.standings] == [("PPO", 6), ("SAC", 6)]
    assert one.standings[0].mean == pytest.approx(2.0 + 3.5 / 8 + 2.5 / 64)
    (contest,) = one.contests
    assert (contest.agent, contest.other, contest.better) == ("PPO", "SAC", "PPO")
    assert contest.difference.value == pytest.approx(1.0) and contest.p == pytest.approx(2 / 924)
    assert any("at most 5% of such comparisons" in note for note in one.notes)


def test_under_five_replicates_it_describes(tmp_path: Path) -> None:
    one = found(trained(tmp_path / "j", {"PPO": 9.0, "PPO#1": 9.0, "SAC": 1.0}))
    assert one.contests[0].better is None and one.contests[0].p is None
    assert (
        "under five replicates (PPO 2, SAC 1): this describes these policies on these bars; nobody is called better"
        in one.notes
    )


@pytest.mark.parametrize("agents", [replicates(PPO=2.0), replicates(PPO=2.0, SAC=1.0)])
def test_replicates_of_one_agent_are_described_alone(run: Run, tmp_path: Path, agents: dict[str, float]) -> None:
    place = trained(tmp_path / "j", agents)
    names = [name for name in agents if name.startswith("PPO")]
    code, out, err = run("compare", place, "--agents", ",".join(names))
    assert (code, err) == (0, "") and "6 agents saw the same bars" in out and "1 is compared" in out
    assert "interquartile mean" in out and "pair" not in out and "of equals" not in out
    one = found(place, agents=names)
    assert [standing.agent for standing in one.standings] == ["PPO"] and one.contests == ()


def test_of_evaluation_where_there_is_one(tmp_path: Path) -> None:
    one = found(trained(tmp_path / "train", {"PPO": 1.0, "SAC": 2.0}))
    assert one.phase == "train" and one.notes[0].startswith("training returns, with exploration")
    one = found(trained(tmp_path / "both", {"PPO": 1.0, "SAC": 2.0}, ("train", "eval")))
    assert one.phase == "eval" and not any("exploration" in note for note in one.notes)


def test_by_a_metric_of_the_episodes_end(tmp_path: Path) -> None:
    place = trained(tmp_path / "j", {"PPO": 1.0, "SAC": 2.0})
    assert [standing.mean for standing in found(place, "pnl").standings] == [-1.0, -2.0]
    for metric, said in (("drawdown", "has none"), ("note", "is 'text'"), ("ratio", "is nan")):
        with pytest.raises(NotComparable, match=f"{said} in train episode 0 of PPO.*there: reward, pnl, note, ratio"):
            found(place, metric)


def test_how_many_were_tried_is_said(tmp_path: Path) -> None:
    place = trained(tmp_path / "j", {"PPO": 1.0, "SAC": 2.0, "DQN": 3.0, "DQN#1": 3.0})
    one = found(place, agents=["PPO", "SAC"])
    assert one.tried == 3
    assert "3 agents were tried in these journals, 2 are compared: the best of many looks good by luck" in one.notes


def test_without_proof_there_are_none(tmp_path: Path) -> None:
    with journal.open(tmp_path / "j") as log:
        begin(log)
        episode(log, "PPO", 0, 1.0)
        episode(log, "SAC", 1, 5.0)
        end(log)
    with pytest.raises(NotComparable, match="no results of agents that are not comparable"):
        found(tmp_path / "j")


def test_a_rewind_takes_results_back(tmp_path: Path) -> None:
    """What was superseded is not a result; what was done again is."""
    with journal.open(tmp_path / "j") as log:
        begin(log)
        for agent in ("PPO", "SAC"):
            episode(log, agent, 0, 1.0)
            seq = log.append(journal.CheckpointSaved(agent=agent, episode=1, path="p", sha256="0" * 64, size=1))
            if agent == "SAC":
                episode(log, agent, 1, 50.0)
                log.append(journal.Rewound(agent=agent, to_seq=seq, path="p"))
            episode(log, agent, 1, 3.0)
        end(log)
    assert [standing.mean for standing in found(tmp_path / "j").standings] == [2.0, 2.0]


def test_names_of_replicates() -> None:
    assert [algorithm_of(name) for name in ("PPO", "PPO#3", "C#", "a#b", "a#b#12")] == [
        "PPO",
        "PPO",
        "C#",
        "a#b",
        "a#b",
    ]


def test_the_command_line(run: Run, tmp_path: Path) -> None:
    place = trained(tmp_path / "j", replicates(PPO=2.0, SAC=1.0))
    code, out, _ = run("compare", place)
    assert code == 0 and "PPO − SAC" in out and "interquartile mean" in out
    code, out, _ = run("compare", place, "--metric", "pnl", "--json")
    document = json.loads(out)
    assert code == 0 and document["results"]["metric"] == "pnl"
    assert document["results"]["contests"][0]["better"] == "SAC"
    code, _, err = run("compare", place, "--metric", "sharpe")
    assert code == 2 and "take another metric (there: reward, pnl, note, ratio)" in err
    other = trained(tmp_path / "k", {"PPO": 1.0, "SAC": 1.0}, episodes=3)
    code, out, _ = run("compare", other, "--agents", "PPO", "--json")
    assert code == 1 and json.loads(out)["results"] is None
    code, out, _ = run("compare", place, other, "--common", "--agents", "PPO,SAC", "--json")
    assert json.loads(out)["merged"]["episodes"] == 3
