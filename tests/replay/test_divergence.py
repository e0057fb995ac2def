"""Divergence: a re-run after a rewind is what the first run was, or the first step that differs is named."""

from __future__ import annotations

import math
import struct
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
import replay
from journal.storage import Storage
from journal.storage.memory import MemoryStorage
from replay import divergence
from replay.compaction import compact
from replay.divergence import diverge

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run, document
from trainings import begin, end, save

OTHER_NAN = struct.unpack("<d", bytes.fromhex("efbeaddeedfef8ff"))[0]


def episode(
    log: journal.Log,
    rewards: list[float],
    *,
    agent: str = "PPO",
    number: int = 0,
    seed: int | None = 7,
    start: int = 0,
    phase: Any = "train",
    ended: bool = True,
    env: int = 0,
) -> None:
    """One episode with these rewards, on the bars that begin at `start`; not `ended`: it was cut off there."""
    log.append(journal.EpisodeStarted(agent=agent, episode=number, entry=number, seed=seed, phase=phase, env_index=env))
    for step, value in enumerate(rewards):
        log.reward(log.agent(agent), number, step, value, env, flags=int(phase == "eval"))
    if ended:
        log.append(
            journal.BarsSeen(
                agent=agent,
                episode=number,
                phase=phase,
                env_index=env,
                instrument="EURUSD",
                timeframe="1h",
                start=start,
                stop=start + 10,
                content_hash=bytes([start]) * 16,
                source="observed",
            )
        )
        log.append(journal.EpisodeEnded(agent=agent, episode=number, phase=phase, env_index=env, reason="terminated"))


def checkpoint(log: journal.Log, agent: str = "PPO", members: list[str] | None = None) -> int:
    """A checkpoint; its seq."""
    return log.append(
        journal.CheckpointSaved(agent=agent, episode=0, path="checkpoints/x", sha256="0" * 64, size=1, members=members)
    )


def back(log: journal.Log, to: int, agent: str = "PPO", members: list[str] | None = None) -> None:
    """A rewind to the checkpoint of this seq."""
    log.append(journal.Rewound(agent=agent, to_seq=to, members=members))


def twice(first: dict[str, Any], again: dict[str, Any]) -> divergence.Report:
    """An episode, a rewind, the episode again."""
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        begin(log)
        to = checkpoint(log)
        episode(log, **first)
        back(log, to)
        episode(log, **again)
        end(log)
    return diverge(storage)


def test_another_reward_is_named_with_agent_episode_step_and_both_values() -> None:
    report = twice({"rewards": [1.0, 2.0, 3.0], "number": 4}, {"rewards": [1.0, 2.5, 3.5], "number": 4})
    (found,) = report.findings
    assert (found.agent, found.phase, found.episode, found.run) == ("PPO", "train", 4, "r1")
    assert (found.step, found.before, found.now) == (1, 2.0, 2.5)
    assert found.before_seq < found.now_seq
    assert (report.rewinds, report.compared, report.diverged, report.other) == (1, 1, 1, 0)
    assert "PPO, train episode 4" in found.as_words() and "step 1" in found.as_words()


@pytest.mark.parametrize(
    ("first", "again", "step", "values"),
    [
        ({"rewards": [1.0, 2.0]}, {"rewards": [1.0, 2.0]}, None, None),
        ({"rewards": [math.nan]}, {"rewards": [OTHER_NAN]}, None, None),
        ({"rewards": [math.inf, 5.0]}, {"rewards": [-math.inf, 5.0]}, 0, (math.inf, -math.inf)),
        ({"rewards": [0.0]}, {"rewards": [-0.0]}, 0, (0.0, -0.0)),
        ({"rewards": [0.1 + 0.2]}, {"rewards": [0.3]}, 0, (0.1 + 0.2, 0.3)),
        ({"rewards": [1.0], "ended": False}, {"rewards": [1.0, 2.0, 3.0]}, None, None),
        ({"rewards": [1.0, 9.0], "ended": False}, {"rewards": [1.0, 2.0, 3.0]}, 1, (9.0, 2.0)),
        ({"rewards": [1.0, 2.0]}, {"rewards": [1.0], "ended": False}, None, None),
        ({"rewards": [1.0, 2.0]}, {"rewards": [1.0]}, 1, (2.0, None)),
        ({"rewards": [1.0]}, {"rewards": [1.0, 2.0]}, 1, (1.0, 2.0)),
        ({"rewards": [1.0, 2.0], "ended": False}, {"rewards": [1.0]}, 1, (2.0, None)),
        ({"rewards": [], "ended": False}, {"rewards": []}, None, None),
        ({"rewards": [1.0], "phase": "eval"}, {"rewards": [2.0], "phase": "eval"}, 0, (1.0, 2.0)),
        ({"rewards": [1.0], "env": 3}, {"rewards": [2.0], "env": 3}, 0, (1.0, 2.0)),
    ],
)
def test_bits_are_compared_as_far_as_both_went(first: Any, again: Any, step: int | None, values: Any) -> None:
    report = twice(first, again)
    assert report.compared == 1
    if step is None:
        assert report.findings == ()
        return
    (found,) = report.findings
    assert found.step == step
    if values == (1.0, 2.0) and step == 1:
        values = (None, 2.0)
    assert struct.pack("<2d", *(math.pi if one is None else one for one in (found.before, found.now))) == struct.pack(
        "<2d", *(math.pi if one is None else one for one in values)
    )


@pytest.mark.parametrize("changed", [{"seed": 8}, {"start": 20}])
def test_other_bars_or_another_seed_are_another_episode(changed: dict[str, int]) -> None:
    report = twice({"rewards": [1.0]}, {"rewards": [2.0], **changed})
    assert (report.compared, report.other, report.diverged) == (0, 1, 0)


def test_an_attempt_cut_off_at_the_last_step_does_not_hide_where_the_first_run_ended() -> None:
    """2 steps and the end, then the same 2 and cut off, then 3."""
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        begin(log)
        to = checkpoint(log)
        for rewards, ended in (([1.0, 2.0], True), ([1.0, 2.0], False), ([1.0, 2.0, 3.0], True)):
            episode(log, rewards, ended=ended)
            back(log, to)
    (found,) = diverge(storage).findings
    assert (found.step, found.before, found.now) == (2, None, 3.0)


def test_several_short_attempts_hide_nothing() -> None:
    """10 steps, then 2, then 10 others of which the first 2 are the same: held against the longest that agrees."""
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        begin(log)
        to = checkpoint(log)
        for rewards in ([1.0] * 10, [1.0] * 2, [1.0] * 5 + [2.0] * 5):
            episode(log, rewards, ended=False)
            back(log, to)
        episode(log, [1.0] * 5 + [2.0] * 5)
    (found,) = diverge(storage).findings
    assert (found.step, found.before, found.now) == (5, 1.0, 2.0)


def test_only_what_the_rewind_superseded_is_a_first_run() -> None:
    """An agent that never went back, a rewind to the newest checkpoint, and another run's episode of that number."""
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        begin(log)
        checkpoint(log, "SAC")
        episode(log, [1.0], agent="SAC")
        episode(log, [1.0])
        to = checkpoint(log)
        episode(log, [2.0], number=1)
        back(log, to)
        episode(log, [2.0], number=1)
        end(log)
        begin(log, "r2")
        episode(log, [5.0], number=1)
        episode(log, [5.0], agent="SAC")
        end(log, "r2")
    report = diverge(storage)
    assert (report.compared, report.diverged) == (1, 0)


def test_a_team_goes_back_together(tmp_path: Path) -> None:
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        begin(log)
        to = checkpoint(log, "both", ["A", "B"])
        for values in ((1.0, 1.0), (1.0, 2.0)):
            for agent, value in zip("AB", values, strict=True):
                episode(log, [value], agent=agent)
            back(log, to, "both", ["A", "B"])
    (found,) = diverge(storage).findings
    assert found.agent == "B"


def test_sub_environments_that_take_turns() -> None:
    """Reward batches of a vector environment: each sub-environment is an episode of its own."""
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        begin(log)
        to = checkpoint(log)
        for values in ([[0.0, 1.0, 2.0]] * 4, [[0.0, 1.0, 2.0]] * 3 + [[0.0, 1.5, 2.0]]):
            for env in range(3):
                log.append(journal.EpisodeStarted(agent="PPO", episode=env, env_index=env))
            for step, row in enumerate(values):
                log.rewards(log.agent("PPO"), [0, 1, 2], step, row, [0, 1, 2])
            back(log, to)
    report = diverge(storage)
    (found,) = report.findings
    assert (report.compared, found.env_index, found.step, found.before, found.now) == (3, 1, 3, 1.0, 1.5)


# -- against an obvious model ------------------------------------------------------------------------------------------

turn = st.one_of(
    st.tuples(st.just("episode"), st.lists(st.sampled_from([0.0, 1.0, math.nan]), max_size=3), st.booleans()),
    st.tuples(st.just("checkpoint")),
    st.tuples(st.just("rewind"), st.integers(0, 2)),
)


def obvious(turns: list[Any], log: journal.Log) -> list[tuple[int, int]]:
    """Plays them; (episode, step) of each divergence, by keeping everything."""
    saved, number, before, found = [(checkpoint(log), 0)], 0, dict[int, Any](), []
    doing: dict[int, list[Any]] = {}
    for one in turns:
        if one[0] == "episode":
            rewards, ended = one[1], one[2]
            episode(log, rewards, number=number, ended=ended)
            now = [*map(str, rewards), *(["end"] if ended else [])]
            known = before.get(number)
            if known is not None:
                steps = [step for step, (a, b) in enumerate(zip(known, now, strict=False)) if a != b]
                found += [(number, steps[0])] if steps else []
                if not steps and len(known) > len(now):
                    now = known
            doing[number] = now
            number += ended
            if not ended:
                one = ("rewind", 0)
        if one[0] == "checkpoint":
            saved.append((checkpoint(log), number))
        elif one[0] == "rewind":
            del saved[len(saved) - min(one[1], len(saved) - 1) :]
            seq, at = saved[-1]
            back(log, seq)
            before |= {key: doing.pop(key) for key in list(doing) if key >= at}
            number = at
    return found


@settings(max_examples=60, deadline=None)
@given(turns=st.lists(turn, max_size=25), room=st.integers(1, 8), when=st.integers(0, 30))
def test_every_divergence_and_nothing_else(turns: list[Any], room: int, when: int) -> None:
    """With room for few rewards at a time, so that it takes several passes; also from history."""
    storage = MemoryStorage()
    with journal.open("j", sync="close", storage=storage) as log:
        begin(log)
        expected = obvious(turns, log)
    assert told(storage) == expected
    whole, divergence.REWARDS_MAX = divergence.REWARDS_MAX, room
    try:
        compact(storage)
        assert told(storage) == expected
    finally:
        divergence.REWARDS_MAX = whole


def told(storage: Storage) -> list[tuple[int, int]]:
    return [(one.episode, one.step) for one in diverge(storage).findings]


# -- the command line --------------------------------------------------------------------------------------------------


def diverged(directory: Path, values: tuple[float, float]) -> None:
    with journal.open(directory) as log:
        begin(log)
        save(log, "PPO", 0)
        to = log.append(journal.Custom(name="note")) - 1
        for value in values:
            episode(log, [1.0, value])
            back(log, to)


def test_the_verb_names_what_differs_and_exits_1(run: Run, tmp_path: Path) -> None:
    diverged(tmp_path / "folder" / "a", (2.0, 3.0))
    diverged(tmp_path / "folder" / "b", (math.nan, math.nan))
    found = document(run, "diverge", tmp_path / "folder" / "a", code=1)
    (one,) = found["findings"]
    assert (one["agent"], one["episode"], one["step"], one["before"], one["now"]) == ("PPO", 0, 1, 2.0, 3.0)
    code, out, _ = run("diverge", tmp_path / "folder" / "a")
    assert code == 1 and "step 1, where the reward was 2.0 and is 3.0" in out
    assert document(run, "diverge", tmp_path / "folder" / "b")["compared"] == 1
    assert "each as before" in run("diverge", tmp_path / "folder" / "b")[1]
    merged = document(run, "diverge", tmp_path / "folder", code=1)["merged"]
    assert (merged["compared"], merged["diverged"], merged["findings"][0]["path"]) == (
        2,
        1,
        str(tmp_path / "folder" / "a"),
    )


def test_of_dropped_history_it_says_that_nothing_can_be_compared(run: Run, tmp_path: Path) -> None:
    place = tmp_path / "j"
    diverged(place, (2.0, 3.0))
    document(run, "compact", place, "--drop-history")
    found = document(run, "diverge", place, code=1)
    assert (found["rewinds"], found["rewinds_dropped"], found["compared"], found["diverged"]) == (2, 2, 0, 0)
    assert found["dropped"]["events"]
    code, out, _ = run("diverge", place)
    assert code == 1 and "not provable" in out and "can no longer be compared" in out and "as before" not in out
    with journal.open(place) as log:
        begin(log, "r2")
        save(log, "PPO", 0)
        to = log.append(journal.Custom(name="note")) - 1
        for _ in range(2):
            episode(log, [4.0], number=1)
            back(log, to)
        old = replay.load(place).agents["PPO"].checkpoints[0].seq
        back(log, old)
    found = document(run, "diverge", place, code=1)
    assert (found["rewinds"], found["rewinds_dropped"], found["compared"], found["diverged"]) == (5, 3, 1, 0)
    assert "3 of the rewinds went back into events that were dropped" in run("diverge", place)[1]
    merged = document(run, "diverge", tmp_path, code=1)["merged"]
    assert (merged["rewinds_dropped"], merged["diverged"]) == (3, 0)


def test_history_that_was_dropped_before_anybody_went_back_hides_nothing(run: Run, place: Path) -> None:
    document(run, "compact", place, "--drop-history")
    with journal.open(place) as log:
        begin(log, "r2")
        save(log, "PPO", 3)
        to = log.append(journal.Custom(name="note")) - 1
        for _ in range(2):
            episode(log, [4.0], number=3)
            back(log, to)
    found = document(run, "diverge", place)
    assert (found["rewinds"], found["rewinds_dropped"], found["compared"]) == (2, 0, 1)


def test_a_copy_counts_once(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    diverged(folder / "a", (2.0, 3.0))
    run("copy", folder / "a", folder / "b")
    diverged(folder / "c", (4.0, 5.0))
    with journal.open(folder / "b") as log:
        log.append(journal.Custom(name="it went on"))
    found = document(run, "diverge", folder, code=1)
    merged = found["merged"]
    assert [one["diverged"] for one in found["journals"]] == [1, 1, 1]
    assert (merged["rewinds"], merged["compared"], merged["diverged"]) == (4, 2, 2)
    assert [one["path"] for one in merged["findings"]] == [str(folder / "b"), str(folder / "c")]
    assert merged["copies"] == [{"path": str(folder / "a"), "of": str(folder / "b")}]
    assert f"counted once: {folder / 'a'} is a copy of {folder / 'b'}" in run("diverge", folder)[1]


def test_it_is_one_line_of_python(tmp_path: Path) -> None:
    diverged(tmp_path / "j", (2.0, 3.0))
    (found,) = replay.diverge(tmp_path / "j").findings
    assert (found.before, found.now) == (2.0, 3.0)


def test_a_journal_without_rewinds_has_nothing_to_compare(run: Run, place: Path) -> None:
    assert document(run, "diverge", place) | {"path": ""} == {
        "schema": 1,
        "path": "",
        "rewinds": 0,
        "rewinds_dropped": 0,
        "dropped": None,
        "compared": 0,
        "other": 0,
        "diverged": 0,
        "findings": [],
    }
    assert "nothing was done twice" in run("diverge", place)[1]
