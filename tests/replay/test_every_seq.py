"""Time travel against a slow, obvious model: the state at every seq and every moment, however often agents went back.

Three agents and two teams save, retire, go back to newer and older checkpoints, again and again, also where everything
was compacted meanwhile, under a clock that jumps. The model folds nothing and keeps nothing: for each seq it tells the
whole story anew, from the list of what had happened up to there.
"""

from __future__ import annotations

import itertools
import sys
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
from journal.storage.memory import MemoryStorage
from replay.cli import main
from replay.compaction import compact
from replay.loading import load
from replay.state import State
from replay.totals import PHASES

sys.path.insert(0, str(Path(__file__).parent))
from model import figures

SECOND = 1_000_000_000
MEMBERS = {
    "A": ["A"],
    "B": ["B"],
    "C": ["C"],
    "two": ["A", "B"],
    "all": ["A", "B", "C"],
}
agents = st.sampled_from(["A", "B", "C"])
savers = st.sampled_from(list(MEMBERS))
values = st.lists(st.sampled_from([0.1, 0.2, -3.0, 1e16, float("nan"), float("inf")]), min_size=1, max_size=3)
envs = st.integers(0, 1)
turn = st.one_of(
    st.tuples(st.just("episode"), agents, st.sampled_from(PHASES), values),
    st.tuples(st.just("begin"), agents, envs),
    st.tuples(st.just("step"), agents, envs, values),
    st.tuples(st.just("batch"), agents, values),
    st.tuples(st.just("end"), agents, envs),
    st.tuples(st.just("save"), savers, st.booleans()),
    st.tuples(st.just("save"), savers, st.just(False)),
    st.tuples(st.just("rewind"), savers, st.integers(0, 3)),
    st.tuples(st.just("rewind"), savers, st.integers(0, 1)),
    st.tuples(st.just("jump"), st.sampled_from([-50, -1, 2, 100])),
)
Told = dict[str, Any]


class Clock:
    """Goes on by a second with each event, and jumps when told."""

    def __init__(self) -> None:
        self.seconds = 1_700_000_000

    def time_ns(self) -> int:
        return self.seconds * SECOND

    def monotonic(self) -> float:
        return 5.0


@dataclass
class Life:
    """What an agent has done, as the model tells it."""

    open: dict[tuple[str, int], dict[str, Any]] = field(default_factory=dict)
    ended: list[dict[str, Any]] = field(default_factory=list)
    spent: list[dict[str, Any]] = field(default_factory=list)
    saved: list[tuple[int, str, list[dict[str, Any]]]] = field(default_factory=list)
    rewinds: int = 0

    def next_episode(self, phase: str) -> int:
        return max((one["number"] + 1 for one in self.ended if one["phase"] == phase), default=0)

    def cut(self) -> None:
        self.spent += self.open.values()
        self.open.clear()

    def told(self) -> Told:
        """Effective and spent: (episodes, steps, exact reward, NaN, infinite)."""
        spent = [*self.spent, *self.open.values()]
        return {
            "effective": {phase: figures([e for e in self.ended if e["phase"] == phase], None) for phase in PHASES},
            "spent": {phase: figures([e for e in spent if e["phase"] == phase], None) for phase in PHASES},
            "next_episode": {phase: self.next_episode(phase) for phase in PHASES},
            "rewinds": self.rewinds,
            "checkpoints": [seq for seq, _, _ in self.saved],
            "open": {key: one["number"] for key, one in self.open.items()},
        }


class Story:
    """What happened, with seq and time; and what there is to say of it up to some seq."""

    def __init__(self) -> None:
        self.facts: list[tuple[int, int, tuple[Any, ...]]] = []

    def up_to(self, seq: int) -> dict[str, Life]:
        return self._tell(fact for at, _, fact in self.facts if at <= seq)

    def by(self, seconds: int) -> dict[str, Life]:
        newest = itertools.accumulate((time for _, time, _ in self.facts), max)
        return self._tell(fact for (_, _, fact), passed in zip(self.facts, newest, strict=True) if passed <= seconds)

    def _tell(self, facts: Any) -> dict[str, Life]:
        lives: dict[str, Life] = defaultdict(Life)
        for what, *rest in facts:
            if what == "cut":
                for life in lives.values():
                    life.cut()
            elif what == "start":
                agent, phase, env, number = rest
                lives[agent].open[phase, env] = {"number": number, "phase": phase, "rewards": []}
            elif what == "reward":
                agent, phase, env, value = rest
                lives[agent].open[phase, env]["rewards"].append(value)
            elif what == "end":
                agent, phase, env = rest
                episode = lives[agent].open.pop((phase, env))
                lives[agent].ended.append(episode)
                lives[agent].spent.append(episode)
            elif what == "save":
                seq, path, members, retired = rest
                for name in members:
                    kept = [one for one in lives[name].saved if one[1] not in retired]
                    lives[name].saved = [*kept, (seq, path, list(lives[name].ended))]
            elif what == "rewind":
                to_seq, members = rest
                for life in (lives[name] for name in members):
                    life.cut()
                    if any(seq == to_seq for seq, _, _ in life.saved):
                        life.saved = [one for one in life.saved if one[0] <= to_seq]
                        life.ended = list(life.saved[-1][2])
                        life.rewinds += 1
        return lives


class Session:
    """One process that plays its turns into the log and into the story."""

    def __init__(self, log: journal.Log, story: Story, clock: Clock, number: int) -> None:
        self.log, self.story, self.clock = log, story, clock
        fields: dict[str, Any] = {"pid": 1, "argv": [], "cwd": "", "versions": {}}
        if not number:
            self._append(journal.RunStarted(run="r", config={}), "cut")
        self._append(journal.AttemptStarted(run="r", attempt=number, **fields), "cut")

    def play(self, what: str, *rest: Any) -> None:
        self.clock.seconds += 1
        getattr(self, f"_{what}")(*rest)

    def _append(self, event: journal.Event, *fact: Any) -> int:
        seq = self.log.append(event)
        self.story.facts.append((seq, self.clock.seconds, fact))
        return seq

    def _life(self, agent: str) -> Life:
        return self.story.up_to(1 << 60)[agent]

    def _episode(self, agent: str, phase: Any, rewards: list[float]) -> None:
        self._begin(agent, 0, phase)
        self._step(agent, 0, rewards, phase)
        self._end(agent, 0, phase)

    def _begin(self, agent: str, env: int, phase: Any = "train") -> None:
        life = self._life(agent)
        if (phase, env) not in life.open:
            number = max([life.next_episode(phase), *(one["number"] + 1 for one in life.open.values())])
            event = journal.EpisodeStarted(agent=agent, phase=phase, env_index=env, episode=number)
            self._append(event, "start", agent, phase, env, number)

    def _step(self, agent: str, env: int, rewards: list[float], phase: str = "train") -> None:
        episode = self._life(agent).open.get((phase, env))
        for step, value in enumerate(rewards if episode is not None else ()):
            assert episode is not None
            name, flags = self.log.agent(agent), int(phase == "eval")
            seq = self.log.reward(name, episode["number"], len(episode["rewards"]) + step, value, env, flags=flags)
            self.story.facts.append((seq, self.clock.seconds, ("reward", agent, phase, env, value)))

    def _batch(self, agent: str, rewards: list[float]) -> None:
        running = [(env, one["number"]) for (phase, env), one in self._life(agent).open.items() if phase == "train"]
        rows = [(env, number, value) for value in rewards for env, number in running]
        if rows:
            places, numbers, found = zip(*rows, strict=True)
            first = self.log.rewards(self.log.agent(agent), list(numbers), 7, list(found), list(places))
            for seq, (env, _, value) in enumerate(rows, first):
                self.story.facts.append((seq, self.clock.seconds, ("reward", agent, "train", env, value)))

    def _end(self, agent: str, env: int, phase: Any = "train") -> None:
        episode = self._life(agent).open.get((phase, env))
        if episode is not None:
            event = journal.EpisodeEnded(
                agent=agent, phase=phase, env_index=env, episode=episode["number"], reason="terminated"
            )
            self._append(event, "end", agent, phase, env)

    def _save(self, saver: str, retires: bool) -> None:
        """With `retires`, the oldest one that this saver has goes."""
        members = MEMBERS[saver]
        mine = [path for _, path, _ in self._life(members[0]).saved if path.startswith(f"checkpoints/{saver}-")]
        retired = mine[:1] if retires else []
        path = f"checkpoints/{saver}-{len(self.story.facts)}"
        event = journal.CheckpointSaved(
            agent=saver, episode=0, path=path, sha256="0" * 64, size=1, members=members, retired=retired or None
        )
        seq = self.log.append(event)
        self.story.facts.append((seq, self.clock.seconds, ("save", seq, path, members, retired)))

    def _rewind(self, saver: str, back: int) -> None:
        """To one of its checkpoints that its first member can still go back to: others may have left that lineage."""
        members = MEMBERS[saver]
        mine = [seq for seq, path, _ in self._life(members[0]).saved if path.startswith(f"checkpoints/{saver}-")]
        if len(mine) > back:
            to_seq = mine[-1 - back]
            self._append(journal.Rewound(agent=saver, to_seq=to_seq, members=members), "rewind", to_seq, members)

    def _jump(self, seconds: int) -> None:
        self.clock.seconds += seconds


def told(state: State) -> dict[str, Told]:
    def five(totals: Any) -> tuple[int, int, Fraction, int, int]:
        reward = Fraction(totals.reward.units, 1 << 1074)
        return totals.episodes, totals.steps, reward, totals.nan_rewards, totals.infinite_rewards

    return {
        name: {
            "effective": {phase: five(one.effective[phase]) for phase in PHASES},
            "spent": {phase: five(one.spent[phase]) for phase in PHASES},
            "next_episode": dict(one.next_episode),
            "rewinds": one.rewinds,
            "checkpoints": [checkpoint.seq for checkpoint in one.checkpoints],
            "open": {key: episode.episode for key, episode in one.open.items()},
        }
        for name, one in state.agents.items()
    }


def expect(state: State, lives: dict[str, Life], moment: object) -> None:
    found = told(state)
    for name, life in lives.items():
        assert found[name] == life.told(), (moment, name)
    assert all(found[name] == Life().told() for name in found.keys() - lives.keys()), (moment, "named, and idle")


def record(storage: MemoryStorage, sessions: list[tuple[list[tuple[Any, ...]], int]]) -> Story:
    """Each session is a process of its own; what it leaves is compacted, of which so many snapshots stay (0: not)."""
    story, clock = Story(), Clock()
    for number, (turns, keep) in enumerate(sessions):
        with journal.open("a journal", sync="close", storage=storage, clock=clock) as log:
            session = Session(log, story, clock, number)
            for one in turns:
                session.play(*one)
        if keep:
            compact(storage, keep=keep)
    return story


def expect_at_every_seq_and_moment(storage: MemoryStorage, story: Story) -> None:
    last = load(storage).last_seq
    assert last == story.facts[-1][0]
    for seq in range(-1, last + 1):
        state = load(storage, at=seq)
        assert state.last_seq == seq
        expect(state, story.up_to(seq), seq)
    times = {time for _, time, _ in story.facts}
    for seconds in sorted(times | {time - 1 for time in times}):
        expect(load(storage, at=datetime.fromtimestamp(seconds, UTC)), story.by(seconds), seconds)
    with pytest.warns(RuntimeWarning, match=f"ends at seq {last}"):
        beyond = load(storage, at=last + 7)
    assert beyond == load(storage) == load(storage, at=datetime(2999, 1, 1, tzinfo=UTC))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.lists(turn, max_size=12), st.integers(0, 2)), min_size=1, max_size=4))
def test_the_state_at_every_seq_and_moment_is_the_model_s(sessions: list[tuple[list[tuple[Any, ...]], int]]) -> None:
    storage = MemoryStorage()
    expect_at_every_seq_and_moment(storage, record(storage, sessions))


EPISODE = ("episode", "A", "train", [0.1, 0.2])
SHARED = [EPISODE, ("episode", "B", "train", [5.0]), ("save", "two", False)]
BOTH = [one for agent in "AB" for one in (("begin", agent, 1), ("step", agent, 1, [3.0]))]
LONG = [
    ([("save", "two", False), *SHARED, *SHARED, ("begin", "A", 1), ("step", "A", 1, [1.0])], 1),
    ([("rewind", "two", 0), *SHARED, *BOTH, ("rewind", "two", 0), EPISODE, ("rewind", "two", 2)], 2),
    ([*SHARED, ("jump", -50), ("save", "A", False), EPISODE, ("rewind", "A", 0), EPISODE, ("rewind", "two", 1)], 1),
    (
        [
            ("episode", "B", "eval", [2.0]),
            ("rewind", "two", 1),
            ("episode", "C", "train", [1.0]),
            ("save", "two", True),
        ],
        0,
    ),
]
"""Teams that go back to newer and older checkpoints, across compactions, with an episode cut and an agent ahead."""


def test_many_rewinds_of_teams_and_members_over_compactions() -> None:
    storage = MemoryStorage()
    story = record(storage, LONG)
    lives = story.up_to(1 << 60)
    assert (lives["A"].rewinds, lives["B"].rewinds) >= (5, 4)
    expect_at_every_seq_and_moment(storage, story)
    compact(storage, keep=1)
    expect_at_every_seq_and_moment(storage, story)


def test_the_command_line_says_the_same_at_every_seq(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`journal replay --at` and `journal totals --at`; beyond the end they tell the end, and say so."""
    import json

    story, clock = Story(), Clock()
    with journal.open(tmp_path / "j", sync="close", clock=clock) as log:
        session = Session(log, story, clock, 0)
        for one in [one for turns, _ in LONG[:2] for one in turns]:
            session.play(*one)
    compact(tmp_path / "j")
    last = story.facts[-1][0]
    for seq in range(last + 1):
        found = {}
        for verb in ("replay", "totals"):
            assert main([verb, str(tmp_path / "j"), "--at", str(seq), "--json"]) == 0
            found[verb] = json.loads(capsys.readouterr().out)
            assert found[verb]["last_seq"] == seq
        for name, life in story.up_to(seq).items():
            assert found["replay"]["agents"][name]["episodes"] == {
                phase: life.told()["effective"][phase][0] for phase in PHASES
            }
            assert found["replay"]["agents"][name]["rewinds"] == life.rewinds
            told_of = found["totals"]["agents"][name]
            assert told_of["total_episodes"] == life.told()["effective"]["train"][0]
            assert told_of["spent"]["total_steps"] == life.told()["spent"]["train"][1]
    for verb in ("replay", "totals", "trends"):
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            assert main([verb, str(tmp_path / "j"), "--at", str(last + 1), "--json"]) == 0
        said = capsys.readouterr()
        assert said.err.count("\n") == 1 and f"ends at seq {last}" in said.err
        assert json.loads(said.out)["last_seq"] == last
