"""The state: what replaying the log gives, and nothing else. There is no second truth.

    State ── runs ──── Run ── attempts, plans
       └──── agents ── Agent ── spent, and the lineage that leads to now: effective totals, progress, bars
                          └──── checkpoints, each with the lineage to go back to

`replay.fold` changes it, one batch of events at a time; this module only says what it is, how it is kept, and how
states of different journals add up.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from replay.intervals import Intervals
from replay.seen import SeenBars, SeenList
from replay.totals import PHASES, Phase, Totals, both
from replay.trends import Figures, Trends, of_phases

if TYPE_CHECKING:
    import pandas as pd

    from journal.storage import Storage
    from replay.outlook import Outlook
    from replay.resume import ResumePoint
    from replay.rows import By

_NUMBERS: Final = ("journal_id", "events", "last_seq", "last_time_ns")

EpisodeKey = tuple[Phase, int]
"""(phase, env_index)."""


@dataclass(slots=True)
class OpenEpisode:
    """An episode that has not ended: spent, not effective."""

    episode: int
    entry: int | None = None
    seed: Any = None
    """Whatever the caller gave."""
    started_ns: int = 0
    last_ns: int = 0
    """Time of its last event so far."""
    steps: int = 0
    reward: float = 0.0
    """Left-to-right sum of its finite rewards so far."""
    nan_rewards: int = 0
    infinite_rewards: int = 0
    bars: list[SeenBars] = field(default_factory=list)

    def figures(self) -> tuple[int, float, int, int]:
        """What `Totals.add_episode` takes."""
        return self.steps, self.reward, self.nan_rewards, self.infinite_rewards

    def count_in(self, trends: Trends, run: str | None, time_ns: int, metrics: Any = None) -> None:
        """Count it where it belongs: it ended, or was heard of last, at `time_ns`."""
        instruments = [seen.instrument for seen in self.bars]
        trends.add(self.episode, run or "", instruments, time_ns, Figures.of(*self.figures(), metrics))


class Active(NamedTuple):
    """The clock of a phase while episodes are open."""

    since: float
    """Monotonic seconds up to which time is counted."""
    wall_ns: int
    """The wall time of that moment."""
    open: int
    """How many episodes are open."""


@dataclass(slots=True)
class Lineage:
    """What a rewind sets back."""

    effective: dict[Phase, Totals] = field(default_factory=both)
    next_episode: dict[Phase, int] = field(default_factory=lambda: dict.fromkeys(PHASES, 0))
    finished: dict[Phase, Intervals] = field(default_factory=lambda: {phase: Intervals() for phase in PHASES})
    """The plan's entries that ended, in the current run."""
    bars: dict[str, int] = field(default_factory=dict)
    """How many of `Agent.bars["run/phase"]` count."""
    ended: dict[str, int] = field(default_factory=dict)
    """How many episodes ended in that "run/phase", whether they told their bars or not."""

    def copy(self) -> Lineage:
        """An independent copy."""
        return Lineage(
            {phase: totals.copy() for phase, totals in self.effective.items()},
            dict(self.next_episode),
            {phase: entries.copy() for phase, entries in self.finished.items()},
            dict(self.bars),
            dict(self.ended),
        )


@dataclass(slots=True)
class Checkpoint:
    """A saved state that can be gone back to. `seq` is its event's."""

    seq: int
    agent: str
    """Who saved it: the agent, or the team whose member it is."""
    path: str
    sha256: str
    size: int
    episode: int
    """The first train episode that is not in it."""
    time_ns: int
    run: str | None
    lineage: Lineage
    trends: dict[Phase, Trends] = field(default_factory=of_phases)
    """Of what led here from the checkpoint before."""


@dataclass(slots=True)
class Agent:
    """One agent, over its whole life in this journal."""

    name: str
    lineage: Lineage = field(default_factory=Lineage)
    spent_closed: dict[Phase, Totals] = field(default_factory=both)
    """Everything computed in episodes that ended or were cut off; `spent` adds the open ones."""
    open: dict[EpisodeKey, OpenEpisode] = field(default_factory=dict)
    strays: dict[Phase, OpenEpisode] = field(default_factory=dict)
    """Rewards outside any open episode: spent, never effective."""
    active: dict[Phase, Active] = field(default_factory=dict)
    """The clock of each phase that has open episodes."""
    checkpoints: list[Checkpoint] = field(default_factory=list)
    """Of the current lineage, oldest first, without those whose files are retired."""
    bars: dict[str, SeenList] = field(default_factory=dict)
    """"run/phase" → what the ended episodes have seen, in order; "/phase" outside any run."""
    trends: dict[Phase, Trends] = field(default_factory=of_phases)
    """Of what was done since the last checkpoint."""
    superseded: dict[Phase, Trends] = field(default_factory=of_phases)
    """Of what was spent and is not effective: before a rewind, or cut off."""
    runs: list[str] = field(default_factory=list)
    attempts: int = 0
    last_attempt: str | None = None
    rewinds: int = 0
    last_updated_ns: int = 0
    """Latest time of any event of this agent; 0 for none."""

    @property
    def effective(self) -> dict[Phase, Totals]:
        """Totals of the lineage that leads to now; may fall at a rewind."""
        return self.lineage.effective

    @property
    def next_episode(self) -> dict[Phase, int]:
        """The number that the next episode of each phase gets."""
        return self.lineage.next_episode

    @property
    def finished(self) -> dict[Phase, Intervals]:
        """The plan's entries that ended, in the current run."""
        return self.lineage.finished

    @property
    def spent(self) -> dict[Phase, Totals]:
        """Totals of all that was computed, superseded and open episodes included; never falls."""
        totals = {phase: totals.copy() for phase, totals in self.spent_closed.items()}
        for (phase, _), episode in self.open.items():
            totals[phase].add_episode(*episode.figures())
        for phase, stray in self.strays.items():
            totals[phase].add_steps(*stray.figures())
        return totals

    def effective_trends(self, phase: Phase) -> Trends:
        """Of the lineage that leads to now."""
        trends = Trends()
        for part in (*(checkpoint.trends for checkpoint in self.checkpoints), self.trends):
            trends.merge(part[phase])
        return trends

    def spent_trends(self, phase: Phase, run: str | None) -> Trends:
        """Of all that was computed; open episodes count in `run`, which is the current one."""
        trends = self.effective_trends(phase)
        trends.merge(self.superseded_trends(phase, run))
        return trends

    def metrics(self, phase: Phase) -> set[str]:
        """The names of what its ended, effective episodes were measured by."""
        return {name for row in self.effective_trends(phase).life.values() for name in row.metrics}

    def superseded_trends(self, phase: Phase, run: str | None) -> Trends:
        """Of what is spent and not effective, open episodes included."""
        trends = Trends()
        trends.merge(self.superseded[phase])
        for (one, _), episode in self.open.items():
            if one == phase:
                episode.count_in(trends, run, episode.last_ns)
        return trends


@dataclass(slots=True)
class Plan:
    """The plan that an agent follows in a run and phase, as recorded."""

    plan_hash: str
    length: int
    entries: list[dict[str, Any]] | None
    path: str | None


@dataclass(slots=True)
class Attempt:
    """One process's part of a run."""

    number: int
    pid: int
    argv: list[str]
    cwd: str
    code: str | None
    git_commit: str | None
    git_dirty: bool | None
    versions: dict[str, str]
    host: str
    started_ns: int
    status: str = "running"
    """running, completed, interrupted, failed or crashed; "running" may also be a crash not yet noticed."""
    ended_ns: int | None = None
    error: str | None = None


@dataclass(slots=True)
class Run:
    """One training, over its attempts."""

    id: str
    config: dict[str, Any]
    started_ns: int
    status: str = "unfinished"
    ended_ns: int | None = None
    attempts: list[Attempt] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)
    plans: dict[str, Plan] = field(default_factory=dict)
    """"agent/phase" → plan."""


@dataclass(slots=True)
class State:
    """All of it. Made empty; `replay.load` gives the one of a journal."""

    journal_id: bytes = b""
    events: int = 0
    last_seq: int = -1
    last_time_ns: int = 0
    """The largest time of any event: a clock that went back does not take it back."""
    current_run: str | None = None
    trends_since: int = 0
    """From which event on trends were counted; more than 0 where the snapshot was made before there were any."""
    runs: dict[str, Run] = field(default_factory=dict)
    agents: dict[str, Agent] = field(default_factory=dict)
    storage: Storage | None = field(default=None, compare=False, repr=False)
    """Where it was read from; what `resume` needs to check the checkpoint files."""

    @property
    def totals(self) -> pd.DataFrame:
        """Cumulative totals, effective, phase train: one row per agent, index `agent`."""
        from replay.frames import totals_frame

        return totals_frame(self)

    @property
    def by_run(self) -> pd.DataFrame:
        """Trends: one row per agent, phase and run; columns: `replay.rows`."""
        return self._trends("run")

    @property
    def by_instrument(self) -> pd.DataFrame:
        """Trends: one row per agent, phase and instrument."""
        return self._trends("instrument")

    @property
    def by_day(self) -> pd.DataFrame:
        """Trends: one row per agent, phase and day (UTC) on which episodes ended."""
        return self._trends("day")

    @property
    def by_life(self) -> pd.DataFrame:
        """Trends: one row per agent, phase and stretch of its life, at most 64 of equal length."""
        return self._trends("life")

    def _trends(self, by: By) -> pd.DataFrame:
        from replay.rows import frame

        return frame(self, by)

    def trend(self, agent: str, metric: str = "reward", phase: Phase = "train") -> Outlook:
        """Is this agent getting better? Printed, it says so in words. Raises `KeyError` for an unknown agent."""
        from replay.loading import with_trends
        from replay.outlook import outlook

        return outlook(agent, phase, with_trends(self).agents[agent].effective_trends(phase), metric)

    def resume(self, agent: str) -> ResumePoint:
        """Where this agent goes on. Raises `ResumeImpossible` for an agent that the journal does not know."""
        from replay.resume import resume_point

        return resume_point(self, agent)

    def copy(self) -> State:
        """An independent copy."""
        twin = copy.deepcopy(
            State(
                self.journal_id,
                self.events,
                self.last_seq,
                self.last_time_ns,
                self.current_run,
                self.trends_since,
                self.runs,
                self.agents,
            )
        )
        twin.storage = self.storage
        return twin

    def to_payload(self, seen: Callable[[SeenList], Any] = list) -> dict[str, Any]:
        """Itself as plain data for msgpack: numbers, text, bytes, lists, dicts. Lossless.

        `seen` gives what stands for an agent's bars of a run and phase; all of their lines, if it is not given.
        """
        from replay.payload import plain

        return {
            name: plain(getattr(self, name), seen)
            for name in (*_NUMBERS, "current_run", "trends_since", "runs", "agents")
        }

    @classmethod
    def from_payload(cls, payload: Any, seen: Callable[[Any], SeenList] | None = None) -> State:
        """What `to_payload` gave; `seen` takes back what its one gave. Raises `ValueError` where the data are none."""
        from replay.payload import agent_of, lines, run_of

        try:
            journal_id = payload["journal_id"]
            if not isinstance(journal_id, bytes):  # bytes(n) would be n zeros, and room for them.
                raise TypeError(f"journal_id is {journal_id!r:.80}")
            return cls(
                journal_id,
                int(payload["events"]),
                int(payload["last_seq"]),
                int(payload["last_time_ns"]),
                _text(payload["current_run"]),
                int(payload.get("trends_since", payload["events"])),
                {name: run_of(run) for name, run in payload["runs"].items()},
                {name: agent_of(agent, seen or lines) for name, agent in payload["agents"].items()},
            )
        except (KeyError, TypeError, AttributeError, IndexError, OverflowError) as error:
            raise ValueError(f"no state: {error!r}") from error


def _text(value: Any) -> str | None:
    if not isinstance(value, (str, type(None))):
        raise TypeError(f"current_run is {value!r:.80}")
    return value


def without_trends(state: State) -> State:
    """A copy that can be held against one whose snapshot was made before there were trends."""
    twin = state.copy()
    twin.trends_since = 0
    for agent in twin.agents.values():
        agent.trends, agent.superseded = of_phases(), of_phases()
        for checkpoint in agent.checkpoints:
            checkpoint.trends = of_phases()
    return twin


def merge(one: State, other: State) -> State:
    """The totals of two journals together. Associative, so many machines may fold in parallel.

    Runs and bars stay apart by their ids; what belongs to one journal only (checkpoints, open episodes, the next
    episode's number) is not carried over, and the open episodes' figures are in `spent`.
    """
    merged = State(
        b"",
        one.events + other.events,
        max(one.last_seq, other.last_seq),
        max(one.last_time_ns, other.last_time_ns),
        trends_since=max(one.trends_since, other.trends_since),
    )
    for state in (one, other):
        for name, run in state.runs.items():
            merged.runs[name] = copy.deepcopy(run)
        for name, agent in state.agents.items():
            into = merged.agents.setdefault(name, Agent(name))
            spent = agent.spent
            for phase in PHASES:
                into.lineage.effective[phase] = into.lineage.effective[phase] + agent.effective[phase]
                into.spent_closed[phase] = into.spent_closed[phase] + spent[phase]
                into.trends[phase].merge(agent.effective_trends(phase))
                into.superseded[phase].merge(agent.superseded_trends(phase, state.current_run))
            for key, seen in agent.bars.items():
                if key in into.bars:
                    into.bars[key].extend(seen)
                else:
                    into.bars[key] = seen.copy()
                into.lineage.bars[key] = len(into.bars[key])
            for key, count in agent.lineage.ended.items():
                into.lineage.ended[key] = into.lineage.ended.get(key, 0) + count
            into.runs += [run for run in agent.runs if run not in into.runs]
            into.attempts += agent.attempts
            into.rewinds += agent.rewinds
            into.last_updated_ns = max(into.last_updated_ns, agent.last_updated_ns)
    return merged
