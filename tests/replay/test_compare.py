"""Compare: proved by content, refuted by content, or neither said; never comparable because something is absent."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import journal
import replay
from replay.compare import Comparison, compare

sys.path.insert(0, str(Path(__file__).parent))
from trainings import begin, content, end, play, save, see, train


def compared(directory: Path, record: Callable[[journal.Log], None], **options: object) -> Comparison:
    with journal.open(directory) as log:
        record(log)
    return compare(replay.load(directory), **options)  # type: ignore[arg-type]


def one_run(*plays: Callable[[journal.Log], None]) -> Callable[[journal.Log], None]:
    def record(log: journal.Log) -> None:
        begin(log)
        for one in plays:
            one(log)
        end(log)

    return record


def test_the_same_bars_are_comparable(tmp_path: Path) -> None:
    train(tmp_path / "j", ("PPO", "SAC", "LinearQ"))
    found = compare(replay.load(tmp_path / "j"))
    assert (found.verdict, dict(found.episodes), found.differences) == ("comparable", {"train": 3}, ())
    assert [career.agent for career in found.careers] == ["PPO", "SAC", "LinearQ"]


def test_other_bars_are_not_comparable_and_the_first_difference_is_named(tmp_path: Path) -> None:
    found = compared(
        tmp_path / "j", one_run(lambda log: play(log, "PPO", [0, 10, 20]), lambda log: play(log, "SAC", [0, 11, 21]))
    )
    assert found.verdict == "not comparable" and "[11, 21)" in found.reason
    first = found.differences[0].as_document()
    assert (first["phase"], first["index"], first["agent"], first["start"]) == ("train", 1, "PPO", 10)
    assert (first["other"]["agent"], first["other"]["start"], first["other"]["episode"]) == ("SAC", 11, 1)
    assert first["content_hash"] != first["other"]["content_hash"]


def test_the_order_counts(tmp_path: Path) -> None:
    found = compared(
        tmp_path / "j", one_run(lambda log: play(log, "PPO", [0, 10]), lambda log: play(log, "SAC", [10, 0]))
    )
    assert found.verdict == "not comparable" and len(found.differences) == 2


def test_the_same_place_with_other_content_is_not_comparable(tmp_path: Path) -> None:
    """Names and indices lie; the hash of the prices does not."""

    def shifted(log: journal.Log) -> None:
        log.append(journal.EpisodeStarted(agent="SAC", episode=0))
        log.append(
            journal.BarsSeen(
                agent="SAC",
                episode=0,
                instrument="EURUSD",
                timeframe="1h",
                start=0,
                stop=10,
                content_hash=bytes(16),
                source="observed",
            )
        )
        log.append(journal.EpisodeEnded(agent="SAC", episode=0, reason="terminated"))

    found = compared(tmp_path / "j", one_run(lambda log: play(log, "PPO", [0]), shifted))
    assert found.verdict == "not comparable"


def test_an_episode_more_is_not_comparable(tmp_path: Path) -> None:
    found = compared(tmp_path / "j", one_run(lambda log: play(log, "PPO", [0, 10]), lambda log: play(log, "SAC", [0])))
    assert found.verdict == "not comparable" and "PPO 2, SAC 1" in found.reason
    assert found.differences[0].other is None and found.differences[0].index == 1


def test_an_agent_without_episodes_is_not_passed_over(tmp_path: Path) -> None:
    found = compared(tmp_path / "j", one_run(lambda log: play(log, "PPO", [0]), lambda log: save_only(log)))
    assert found.verdict == "not comparable" and "SAC 0" in found.reason


def save_only(log: journal.Log) -> None:
    log.append(journal.MetricLogged(agent="SAC", metric="loss", step=0, value=1.0))


@pytest.mark.parametrize("which", ["both", "one"])
def test_declared_bars_prove_nothing(tmp_path: Path, which: str) -> None:
    found = compared(
        tmp_path / "j",
        one_run(
            lambda log: play(log, "PPO", [0, 10], source="declared"),
            lambda log: play(log, "SAC", [0, 10], source="declared" if which == "both" else "observed"),
        ),
    )
    assert found.verdict == "not provable" and "only declared" in found.reason and not found.differences


def test_a_hash_that_was_only_declared_proves_nothing(tmp_path: Path) -> None:
    """Also one that is equal: nobody has looked at the bars."""

    def record(log: journal.Log) -> None:
        play(log, "PPO", [0])
        log.append(journal.EpisodeStarted(agent="SAC", episode=0))
        log.append(
            journal.BarsSeen(
                agent="SAC",
                episode=0,
                instrument="EURUSD",
                timeframe="1h",
                start=0,
                stop=10,
                content_hash=content(0),
                source="declared",
            )
        )
        log.append(journal.EpisodeEnded(agent="SAC", episode=0, reason="terminated"))

    assert compared(tmp_path / "j", one_run(record)).verdict == "not provable"


@pytest.mark.parametrize("starts", [[0, None, 20], [None, None, None]])
def test_an_episode_without_bars_proves_nothing(tmp_path: Path, starts: list[int | None]) -> None:
    found = compared(
        tmp_path / "j", one_run(lambda log: play(log, "PPO", starts), lambda log: play(log, "SAC", starts))
    )
    assert found.verdict == "not provable" and "did not tell" in found.reason


def test_a_refutation_outweighs_a_missing_proof(tmp_path: Path) -> None:
    found = compared(
        tmp_path / "j",
        one_run(
            lambda log: play(log, "PPO", [0, 10]),
            lambda log: play(log, "SAC", [1, 11]),
            lambda log: play(log, "LinearQ", [0, None]),
        ),
    )
    assert found.verdict == "not comparable"


@pytest.mark.parametrize("agents", [(), ("PPO",)])
def test_it_takes_two(tmp_path: Path, agents: tuple[str, ...]) -> None:
    train(tmp_path / "j", agents)
    assert compare(replay.load(tmp_path / "j")).verdict == "not provable"


def test_nothing_ended_is_not_provable(tmp_path: Path) -> None:
    def only_begun(log: journal.Log) -> None:
        for agent in ("PPO", "SAC"):
            log.append(journal.EpisodeStarted(agent=agent, episode=0))
            see(log, agent, 0, 0)

    assert compared(tmp_path / "j", one_run(only_begun)).verdict == "not provable"


def test_evaluation_is_compared_apart(tmp_path: Path) -> None:
    def same_training(log: journal.Log) -> None:
        for agent in ("PPO", "SAC"):
            play(log, agent, [0, 10])

    same = compared(
        tmp_path / "same",
        one_run(
            same_training,
            lambda log: play(log, "PPO", [90], phase="eval"),
            lambda log: play(log, "SAC", [90], phase="eval"),
        ),
    )
    assert (same.verdict, dict(same.episodes)) == ("comparable", {"train": 2, "eval": 1})
    other = compared(
        tmp_path / "other",
        one_run(
            same_training,
            lambda log: play(log, "PPO", [90], phase="eval"),
            lambda log: play(log, "SAC", [91], phase="eval"),
        ),
    )
    assert other.verdict == "not comparable" and other.differences[0].phase == "eval"
    one = compared(tmp_path / "one", one_run(same_training, lambda log: play(log, "PPO", [90], phase="eval")))
    assert one.verdict == "not comparable" and "different numbers of eval episodes" in one.reason


def test_what_a_rewind_superseded_does_not_count(tmp_path: Path) -> None:
    def rewound(log: journal.Log) -> None:
        play(log, "PPO", [0])
        save(log, "PPO", 1)
        seq = log.sync().seq
        play(log, "PPO", [77], first=1)
        log.append(journal.Rewound(agent="PPO", to_seq=seq))
        play(log, "PPO", [10], first=1)
        play(log, "SAC", [0, 10])

    found = compared(tmp_path / "j", one_run(rewound))
    assert (found.verdict, dict(found.episodes)) == ("comparable", {"train": 2})


def test_sub_environments_may_end_their_episodes_in_any_order(tmp_path: Path) -> None:
    def interleaved(agent: str, order: tuple[int, int]) -> Callable[[journal.Log], None]:
        def record(log: journal.Log) -> None:
            for env in (0, 1):
                log.append(journal.EpisodeStarted(agent=agent, episode=env, env_index=env))
                log.append(
                    journal.BarsSeen(
                        agent=agent,
                        episode=env,
                        env_index=env,
                        instrument="EURUSD",
                        timeframe="1h",
                        start=env,
                        stop=env + 9,
                        content_hash=bytes([env] * 16),
                        source="observed",
                    )
                )
            for env in order:
                log.append(journal.EpisodeEnded(agent=agent, episode=env, env_index=env, reason="terminated"))

        return record

    found = compared(tmp_path / "j", one_run(interleaved("PPO", (0, 1)), interleaved("SAC", (1, 0))))
    assert found.verdict == "comparable"


# -- which run ---------------------------------------------------------------------------------------------------------


def two_runs(log: journal.Log) -> None:
    """A completed run on the same bars, then one in the middle, on others."""
    begin(log, "r1")
    play(log, "PPO", [0])
    play(log, "SAC", [0])
    end(log, "r1")
    begin(log, "r2")
    play(log, "PPO", [50], first=1)
    play(log, "SAC", [60], first=1)


def test_the_newest_completed_run_is_compared(tmp_path: Path) -> None:
    found = compared(tmp_path / "j", two_runs)
    assert found.verdict == "comparable"
    assert {(career.run, career.status) for career in found.careers} == {("r1", "completed")}


def test_another_run_can_be_asked_for(tmp_path: Path) -> None:
    found = compared(tmp_path / "j", two_runs, run="r2")
    assert found.verdict == "not comparable" and "no run of PPO, SAC is completed" in found.reason


def test_agents_trained_one_after_another_are_compared(tmp_path: Path) -> None:
    def in_runs_of_their_own(log: journal.Log) -> None:
        for run, agent in (("r1", "PPO"), ("r2", "SAC")):
            begin(log, run)
            play(log, agent, [0, 10])
            end(log, run)

    assert compared(tmp_path / "j", in_runs_of_their_own).verdict == "comparable"


def test_only_the_agents_that_are_asked_for(tmp_path: Path) -> None:
    def record(log: journal.Log) -> None:
        begin(log)
        for agent, start in (("PPO", 0), ("SAC", 5), ("LinearQ", 0)):
            play(log, agent, [start])
        end(log)

    assert compared(tmp_path / "j", record).verdict == "not comparable"
    assert compare(replay.load(tmp_path / "j"), agents=["LinearQ", "PPO"]).verdict == "comparable"


@pytest.mark.parametrize("options", [{"agents": ["PPO", "Nobody"]}, {"run": "r9"}])
def test_an_unknown_name_is_refused(tmp_path: Path, options: dict[str, object]) -> None:
    train(tmp_path / "j")
    with pytest.raises(journal.NotComparable, match="known: "):
        compare(replay.load(tmp_path / "j"), **options)  # type: ignore[arg-type]


def test_agents_of_several_journals_are_compared(tmp_path: Path) -> None:
    train(tmp_path / "ppo", ("PPO",))
    train(tmp_path / "sac", ("SAC",))
    train(tmp_path / "other", ("SAC",), (0, 10, 21))
    states = {name: replay.load(tmp_path / name) for name in ("ppo", "sac", "other")}
    assert compare({name: states[name] for name in ("ppo", "sac")}).verdict == "comparable"
    found = compare(states)
    assert found.verdict == "not comparable"
    assert [career.agent for career in found.careers] == ["PPO", "sac:SAC", "other:SAC"]


def test_compaction_changes_nothing(tmp_path: Path) -> None:
    from replay.compaction import compact

    with journal.open(tmp_path / "j") as log:
        two_runs(log)
    before = compare(replay.load(tmp_path / "j"), run="r2")
    compact(tmp_path / "j")
    assert compare(replay.load(tmp_path / "j"), run="r2") == before


# -- options -----------------------------------------------------------------------------------------------------------


def test_in_any_order_the_same_bars_are_comparable(tmp_path: Path) -> None:
    record = one_run(lambda log: play(log, "PPO", [0, 10, 10]), lambda log: play(log, "SAC", [10, 0, 10]))
    assert compared(tmp_path / "j", record).verdict == "not comparable"
    state = replay.load(tmp_path / "j")
    found = compare(state, any_order=True)
    assert (found.verdict, dict(found.episodes)) == ("comparable", {"train": 3})
    for _, outcomes in found.outcomes.items():
        starts = [outcome.episode.bars[0].start for outcome in outcomes["train"]]
        assert sorted(starts) == [0, 10, 10] and starts[1] == 10, "paired by what was shown"


def test_in_any_order_as_often_is_asked(tmp_path: Path) -> None:
    record = one_run(lambda log: play(log, "PPO", [0, 10, 10]), lambda log: play(log, "SAC", [10, 0, 0]))
    assert compared(tmp_path / "j", record, any_order=True).verdict == "not comparable"


def test_only_what_they_have_in_common(tmp_path: Path) -> None:
    """One agent was stopped early and had one episode of its own; the count of what is left is said."""
    record = one_run(lambda log: play(log, "PPO", [0, 10, 20, 30]), lambda log: play(log, "SAC", [0, 99, 20]))
    assert compared(tmp_path / "j", record).verdict == "not comparable"
    found = compare(replay.load(tmp_path / "j"), common=True)
    assert (found.verdict, dict(found.episodes)) == ("comparable", {"train": 2})
    assert "in 2 train episodes; only what they have in common is compared, of PPO 4, SAC 3 train" in found.reason
    assert [one.episode.number for one in found.outcomes["PPO"]["train"]] == [0, 2]


def test_in_common_the_order_still_counts(tmp_path: Path) -> None:
    record = one_run(lambda log: play(log, "PPO", [0, 10, 20]), lambda log: play(log, "SAC", [10, 0]))
    assert compared(tmp_path / "j", record, common=True).verdict == "not comparable"
    assert compare(replay.load(tmp_path / "j"), common=True, any_order=True).verdict == "comparable"


def test_in_common_as_often_as_both_have_it(tmp_path: Path) -> None:
    record = one_run(lambda log: play(log, "PPO", [0, 10, 10, 10]), lambda log: play(log, "SAC", [0, 10, 10]))
    found = compared(tmp_path / "j", record, common=True)
    assert (found.verdict, dict(found.episodes)) == ("comparable", {"train": 3})


def test_nothing_in_common_proves_nothing(tmp_path: Path) -> None:
    record = one_run(lambda log: play(log, "PPO", [0]), lambda log: play(log, "SAC", [10]))
    assert compared(tmp_path / "j", record, common=True).verdict == "not provable"
    declared = one_run(
        lambda log: play(log, "PPO", [0], source="declared"), lambda log: play(log, "SAC", [0], source="declared")
    )
    assert compared(tmp_path / "declared", declared, common=True).verdict == "not provable"


# -- conditions --------------------------------------------------------------------------------------------------------


def told(log: journal.Log, agent: str, params: dict[str, object] | None) -> None:
    log.append(journal.EpisodeStarted(agent=agent, episode=0, params=params))
    see(log, agent, 0, 5)
    log.append(journal.EpisodeEnded(agent=agent, episode=0, reason="terminated"))


def test_other_costs_are_other_conditions(tmp_path: Path) -> None:
    """The same bars, but one agent traded for nothing."""
    record = one_run(lambda log: told(log, "PPO", {"fee": 0.001}), lambda log: told(log, "SAC", {"fee": 0.0}))
    found = compared(tmp_path / "j", record)
    assert found.verdict == "not comparable" and not found.outcomes
    assert (
        'train episode 0 (counted from 0) of PPO had the params {"fee": 0.001}, that of SAC {"fee": 0.0}'
        in found.reason
    )
    same = one_run(lambda log: told(log, "PPO", {"fee": 0.001}), lambda log: told(log, "SAC", {"fee": 0.001}))
    assert compared(tmp_path / "same", same).verdict == "comparable"
    none = one_run(lambda log: told(log, "PPO", None), lambda log: told(log, "SAC", {}))
    assert compared(tmp_path / "none", none).verdict == "comparable"


def test_runs_that_declared_other_conditions_are_not_comparable(tmp_path: Path) -> None:
    """Two journals, the same bars, another reward function; what else their configs hold does not matter."""
    for name, conditions, agent in (("a", {"reward": "log-return"}, "PPO"), ("b", {"reward": "sharpe"}, "SAC")):
        with journal.open(tmp_path / name) as log:
            log.append(journal.RunStarted(run="r", config={"lr": len(name), "conditions": conditions}))
            play(log, agent, [0, 10])
            log.append(journal.RunEnded(run="r"))
    states = {name: replay.load(tmp_path / name) for name in ("a", "b")}
    found = compare(states)
    assert found.verdict == "not comparable"
    assert 'the run of PPO declared {"reward": "log-return"}, that of SAC {"reward": "sharpe"}' in found.reason
