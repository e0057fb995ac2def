"""Two journals of the same training are equal, whenever and however they were recorded; else what differs is named."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
from journal.storage.memory import MemoryStorage
from replay import differences
from replay.compaction import compact
from replay.differences import Differences, Finding, Row, diff

sys.path.insert(0, str(Path(__file__).parent))
from test_divergence import OTHER_NAN, back, checkpoint, episode
from trainings import begin, end


def recorded(*episodes: dict[str, Any], run: str = "r1", ended: bool = True) -> MemoryStorage:
    """A run of these episodes."""
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        begin(log, run)
        for one in episodes:
            episode(log, **one)
        if ended:
            end(log, run)
    return storage


def row_of(found: Differences, agent: str = "PPO", phase: str = "train") -> Row:
    (row,) = [row for row in found.rows if (row.agent, row.phase) == (agent, phase)]
    return row


def one_finding(found: Differences) -> Finding:
    (finding,) = found.findings
    return finding


# -- what is equal -----------------------------------------------------------------------------------------------------


def test_the_same_training_recorded_twice_is_equal() -> None:
    one, other = (
        recorded({"rewards": [1.0, nan]}, {"rewards": [0.0, 2.0], "number": 1}, run=run)
        for run, nan in (("monday", math.nan), ("tuesday", OTHER_NAN))
    )
    found = diff(one, other)
    assert found.verdict == "equal" and not found.findings and not found.settings
    assert row_of(found).same == 2


def test_one_that_went_back_and_did_it_again_is_equal_to_one_that_was_never_cut() -> None:
    resumed = MemoryStorage()
    with journal.open("j", storage=resumed) as log:
        begin(log)
        episode(log, [1.0])
        to = checkpoint(log)
        episode(log, [9.0], number=1)
        episode(log, [2.0], number=2, ended=False)
        begin(log, attempt=1)
        back(log, to)
        episode(log, [2.0, 3.0], number=1)
        end(log, attempt=1)
    found = diff(resumed, recorded({"rewards": [1.0]}, {"rewards": [2.0, 3.0], "number": 1}))
    assert found.verdict == "equal" and row_of(found).same == 2


def test_an_episode_that_a_checkpoint_cut_in_two_does_not_count_after_the_rewind() -> None:
    """Of a vector environment: it began before the checkpoint, and ended after it."""
    cut = MemoryStorage()
    with journal.open("j", storage=cut) as log:
        begin(log)
        log.append(journal.EpisodeStarted(agent="PPO", episode=0, entry=0, seed=7))
        to = checkpoint(log)
        log.reward(log.agent("PPO"), 0, 0, 9.0)
        log.append(journal.EpisodeEnded(agent="PPO", episode=0, reason="terminated"))
        back(log, to)
        episode(log, [1.0])
        end(log)
    found = diff(cut, recorded({"rewards": [1.0]}))
    assert found.verdict == "equal" and row_of(found).same == 1


def test_agents_may_take_turns_in_another_order() -> None:
    episodes = [{"rewards": [1.0, 2.0], "agent": agent} for agent in ("A", "B", "C")]
    assert diff(recorded(*episodes), recorded(*reversed(episodes))).verdict == "equal"


# -- what differs ------------------------------------------------------------------------------------------------------


def test_another_reward_is_named_with_agent_episode_step_and_both_values() -> None:
    one = recorded({"rewards": [0.5]}, {"rewards": [1.0, 2.0, 3.0], "number": 1})
    other = recorded({"rewards": [0.5]}, {"rewards": [1.0, 2.5, 3.5], "number": 1}, run="r9")
    found = diff(one, other)
    finding = one_finding(found)
    assert (finding.kind, finding.agent, finding.phase, finding.episode) == ("rewards", "PPO", "train", 1)
    assert (finding.run_a, finding.run_b, finding.step, finding.a, finding.b) == ("r1", "r9", 1, 2.0, 2.5)
    assert (row_of(found).same, row_of(found).rewards, found.verdict) == (1, 1, "different")
    assert finding.as_words() == (
        "PPO, train episode 1: differs first at step 1, where the reward is 2.0 in A and 2.5 in B"
    )


@pytest.mark.parametrize(
    ("a", "b", "kind", "step", "values"),
    [
        ([1.0, 2.0], [1.0], "rewards", 1, (2.0, None)),
        ([0.0], [-0.0], "rewards", 0, (0.0, -0.0)),
        ([1.0, 2.0, None], [1.0, 2.0, 3.0], "unfinished", None, (2, 3)),
        ([1.0, 2.0, 3.0], [1.0, None], "unfinished", None, (3, 1)),
        ([1.0, 2.0, None], [1.0, 2.0], "unfinished", None, (2, 2)),
        ([9.0, None], [1.0, 2.0], "rewards", 0, (9.0, 1.0)),
        ([1.0, 2.0, 9.0, None], [1.0, 2.0], "rewards", 2, (9.0, None)),
        ([9.0, 2.0, None], [1.0, 2.0, None], "rewards", 0, (9.0, 1.0)),
        ([1.0, None], [1.0, None], None, None, None),
    ],
)
def test_what_has_no_end_counts_as_far_as_it_went(a: Any, b: Any, kind: Any, step: Any, values: Any) -> None:
    """None at the end: it was cut off there."""
    one, other = (
        recorded({"rewards": [r for r in rewards if r is not None], "ended": rewards[-1] is not None}, ended=False)
        for rewards in (a, b)
    )
    found = diff(one, other)
    if kind is None:
        assert (found.verdict, row_of(found).same) == ("equal", 1)
        return
    finding = one_finding(found)
    assert (finding.kind, finding.step) == (kind, step) and repr((finding.a, finding.b)) == repr(values)
    assert (row_of(found).rewards, row_of(found).unfinished) == (int(kind == "rewards"), int(kind == "unfinished"))


@pytest.mark.parametrize(("changed", "what"), [({"seed": 8}, "seed"), ({"start": 20}, "bars")])
def test_another_seed_or_other_bars_are_another_task(changed: dict[str, Any], what: str) -> None:
    found = diff(recorded({"rewards": [1.0]}), recorded({"rewards": [2.0], **changed}))
    finding = one_finding(found)
    assert (finding.kind, finding.what, finding.step) == ("task", what, None)
    assert (row_of(found).task, row_of(found).rewards, found.verdict) == (1, 0, "different")
    assert what in finding.as_words() and "in A and" in finding.as_words()


def test_what_only_one_of_them_has_is_told() -> None:
    one = recorded(*({"rewards": [1.0], "number": n} for n in range(6)), {"rewards": [1.0], "agent": "SAC"})
    other = MemoryStorage()
    with journal.open("j", storage=other) as log:
        begin(log, "r1")
        for number in (0, 1, 3):
            episode(log, [1.0], number=number)
        end(log, "r1")
        begin(log, "r2")
        episode(log, [1.0], agent="LinearQ")
        end(log, "r2")
    found = diff(one, other)
    assert found.verdict == "different" and not found.findings and not found.settings
    assert (found.agents, found.runs) == ({"a": ["SAC"], "b": ["LinearQ"]}, {"a": (), "b": ("r2",)})
    assert (row_of(found).same, row_of(found).only_count) == (3, {"a": 3, "b": 0})
    assert row_of(found).only["a"].pairs == [[2, 3], [4, 6]]
    assert row_of(found, "SAC").only_count == {"a": 1, "b": 0}
    assert row_of(found, "LinearQ").only_count == {"a": 0, "b": 1}


def test_another_config_plan_or_end_is_named_field_by_field() -> None:
    storages = []
    for rate, length, status in ((0.1, 5, True), (0.2, 6, False)):
        storage = MemoryStorage()
        with journal.open("j", storage=storage) as log:
            config = {"conditions": {"cost": rate, "same": math.nan}, "net": [1, 2]}
            log.append(journal.RunStarted(run=str(rate), config=config | ({"more": 1} if status else {})))
            log.append(journal.PlanRecorded(agent="PPO", plan_hash="ab" * 16, length=length, entries=[]))
            if status:
                log.append(journal.RunEnded(run=str(rate)))
        storages.append(storage)
    found = diff(*storages)
    assert [(one.what, one.a, one.b) for one in found.settings] == [
        ("config.conditions.cost", 0.1, 0.2),
        ("config.more", 1, None),
        ("plan of PPO/train", f"{'ab' * 16} of 5 episodes", f"{'ab' * 16} of 6 episodes"),
        ("status", "completed", "unfinished"),
    ]
    assert found.settings[0].as_words() == "run 0.1 and 0.2: config.conditions.cost is 0.1 in A and 0.2 in B"


def test_only_the_first_are_named_and_all_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there is room for the rewards of one pair at a time."""
    monkeypatch.setattr(differences, "REWARDS_MAX", 3)
    one, other = (
        recorded(*({"rewards": [1.0, value], "number": n, "agent": agent} for n in range(30) for agent in "AB"))
        for value in (1.0, 2.0)
    )
    found = diff(one, other)
    assert {row_of(found, agent).rewards for agent in "AB"} == {30}
    assert [(one.agent, one.episode) for one in found.findings] == [
        (agent, n) for n in range(differences.NAMED_MAX) for agent in "AB"
    ]
    assert {(one.step, one.a, one.b) for one in found.findings} == {(1, 1.0, 2.0)}


# -- against an obvious model ------------------------------------------------------------------------------------------

turn = st.one_of(
    st.tuples(st.just("episode"), st.lists(st.sampled_from([0.0, 1.0]), max_size=3), st.booleans()),
    st.tuples(st.just("checkpoint")),
    st.tuples(st.just("rewind"), st.integers(0, 2)),
)


def obvious(turns: list[Any], log: journal.Log) -> dict[int, list[Any]]:
    """Plays them; number → rewards of each episode that counts, with its end, by keeping everything."""
    begin(log)
    count: dict[int, list[Any]] = {}
    cut: dict[int, list[Any]] = {}
    saved = [(checkpoint(log), dict(count))]
    for attempt, one in enumerate(turns, 1):
        if one[0] == "episode":
            number = len(count)
            episode(log, one[1], number=number, ended=one[2])
            cut = {}
            if one[2]:
                count[number] = [*one[1], "end"]
            else:
                begin(log, attempt=attempt)
                cut[number] = list(one[1])
        elif one[0] == "checkpoint":
            saved.append((checkpoint(log), dict(count)))
        else:
            del saved[len(saved) - min(one[1], len(saved) - 1) :]
            back(log, saved[-1][0])
            count, cut = dict(saved[-1][1]), {}
    return count | cut


def expected(a: dict[int, list[Any]], b: dict[int, list[Any]]) -> dict[str, Any]:
    """What `diff` is to find."""
    steps, unfinished, same = {}, set(), 0
    for number in a.keys() & b.keys():
        differing = [i for i, (x, y) in enumerate(zip(a[number], b[number], strict=False)) if x != y]
        if differing:
            steps[number] = differing[0]
        elif a[number] == b[number]:
            same += 1
        else:
            unfinished.add(number)
    return {"steps": steps, "unfinished": unfinished, "same": same, "a": a.keys() - b.keys(), "b": b.keys() - a.keys()}


def told(found: Differences) -> dict[str, Any]:
    row = row_of(found) if found.rows else Row("PPO", "train")
    named = {kind: {one.episode: one.step for one in found.findings if one.kind == kind} for kind in KINDS}
    assert not named["task"] and (len(named["rewards"]), len(named["unfinished"])) == (row.rewards, row.unfinished)
    return {
        "steps": named["rewards"],
        "unfinished": set(named["unfinished"]),
        "same": row.same,
        "a": set(row.only["a"]),
        "b": set(row.only["b"]),
    }


KINDS = ("rewards", "task", "unfinished")
turns = st.lists(turn, max_size=12)


@settings(max_examples=60, deadline=None)
@given(one=turns, other=turns, room=st.sampled_from([1, 1 << 24]), data=st.data())
def test_every_difference_and_nothing_else(one: list[Any], other: list[Any], room: int, data: st.DataObject) -> None:
    """From the log and from history, with room for few rewards at a time; what was dropped is never only in one."""
    storages, counting = [], []
    for script in (one, other):
        storage = MemoryStorage()
        with journal.open("j", sync="close", storage=storage) as log:
            counting.append(obvious(script, log))
        storages.append(storage)
    whole, differences.REWARDS_MAX = differences.REWARDS_MAX, room
    try:
        answer = expected(*counting)
        assert told(diff(*storages)) == answer
        equal = counting[0] == counting[1]
        assert (diff(*storages).verdict == "equal") == equal
        which = data.draw(st.integers(0, 1))
        compact(storages[which])
        assert told(diff(*storages)) == answer
        compact(storages[which], drop_history=True)
        gone = {number for number, rewards in counting[which].items() if rewards[-1:] == ["end"]}
        with journal.open("j", sync="close", storage=storages[which]) as log:
            episode(log, [5.0], number=1000)
        row = row_of(diff(*storages))
        me, them = ("a", "b") if which == 0 else ("b", "a")
        assert (row.unreadable[me], row.unreadable[them]) == (len(gone), 0)  # type: ignore[index]
        assert set(row.only[me]) == {1000} and not set(row.only[them]) & gone  # type: ignore[index]
    finally:
        differences.REWARDS_MAX = whole
