"""The track: one agent's part of a run. Loops ask it for episodes; it knows which of them are still to be done."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np

from agents_adapter import passes
from agents_adapter.environments import Environments
from agents_adapter.episode import Episode, begin
from agents_adapter.plan import Plan
from agents_adapter.proxy import as_seed
from agents_adapter.vector import RecordedVector, SubEnvironments
from agents_adapter.wrap import RecordedEnvironment, Shown
from journal.errors import EventRejected, JournalClosed
from journal.events import MetricLogged, Phase, check_count
from replay.intervals import Intervals
from replay.state import Lineage
from replay.totals import PHASES

if TYPE_CHECKING:
    import pandas as pd

    from agents_adapter.entry import PlanEntry
    from agents_adapter.plan_env import PlanEnv
    from agents_adapter.run import Run
    from agents_adapter.saver import Saver

Key = tuple[Phase, int]
"""Phase and env_index: a place where one episode can be open."""
OtherBars = Literal["raise", "warn"]
"""What happens where an episode observes bars that are not its plan's."""
AnyPlan = Plan | Iterable[Any]
"""A plan, or a list of what `Plan` takes."""


class Track:
    """One agent in a run. Made by `run.agent`; the members of a team are tracks too."""

    saver: Saver

    def __init__(self, run: Run, name: str) -> None:
        self._run = run
        self.name = name
        """The agent's name in the journal: "PPO", or "PPO#1" for its replicate 1."""
        self.recorder = run.recorder
        self.number = run.recorder.agent(name)
        """The name's number in this journal."""
        self.open: dict[Key, Episode] = {}
        """(phase, env_index) → its open episode; of vector environments only those that are episodes by themselves."""
        self.vectors: list[SubEnvironments] = []
        self.resets: set[Key] = set()
        """Wrapped environments that were reset and not stepped since; vector environments that were reset."""
        self.next_number: dict[Phase, int] = dict.fromkeys(PHASES, 0)
        self.finished: dict[Phase, Intervals] = {phase: Intervals() for phase in PHASES}
        """Entries that earlier attempts of this run have finished."""
        self.environments = Environments()
        self.other_bars: OtherBars = "raise"
        self.tolerance = run.tolerance
        """Bars are hashed after rounding to multiples of it, too; None: only as they are."""
        self._vars: dict[str, Any] = {}

    @property
    def vars(self) -> dict[str, Any]:
        """Loop state that resumes with the agent (epsilon, a best score, …): numbers, text, arrays, lists, dicts."""
        return self._vars

    # -- loops -------------------------------------------------------------------------------------------------------

    def episodes(self, plan: AnyPlan, *, other_bars: OtherBars = "raise") -> Iterator[Episode]:
        """The plan's episodes that are still to be done, in its order; phase train.

        An episode that observes bars which are not the plan's raises `EventRejected` there; with `other_bars="warn"` it
        is recorded as it was and warned of.

        Saves checkpoint 0 before the first one, then every `checkpoint_every` ended episodes, and at the end. An
        episode that the loop's body left open ends ("completed") when the next one is asked for. Raises
        `EventRejected` for a bad plan or inside another such loop of this agent, `ResumeImpossible` for another plan
        than the one that was begun, `JournalClosed`, `JournalFailed`, and what saving the agent raises.
        """
        return self._walk(plan, "train", other_bars)

    def evaluate(self, plan: AnyPlan, *, other_bars: OtherBars = "raise") -> Iterator[Episode]:
        """The same in phase eval: totals and comparisons keep it apart."""
        return self._walk(plan, "eval", other_bars)

    def loop(self, n: int) -> Iterator[int]:
        """`range(n)` that goes on where the journal ends: progress that is not a plan's episodes.

        A checkpoint is saved before the first iteration, after every `checkpoint_every` iterations or episodes ended in
        them, and at the end. Raises as `episodes`, and `EventRejected` for an agent without a state to resume.
        """
        check_count(n, "loop(n)")
        return passes.count(self.saver, self, int(n))

    def wrap(self, env: Any, bars: Shown | None = None, *, phase: Phase = "train") -> Any:
        """The environment, recording: each reset starts an episode, each step records its reward.

        For Gymnasium's five values and the older four (`agents_adapter.wrap`), and for vector environments
        (`agents_adapter.vector`). `bars` tells what an environment that chooses its own bars has shown: called with
        `env` (of a vector environment: and the number of the sub-environment) at an episode's end, it returns Bars or
        (DataFrame, instrument, timeframe). The generators in `env` travel in the checkpoints. Raises `EventRejected`
        for what is no environment, and `ResumeImpossible` where it is another than in the checkpoint.
        """
        self.check_open()
        if bars is not None and not callable(bars):
            raise EventRejected("bars= is a function: given the environment, it returns the bars of the episode")
        recorded = RecordedEnvironment if getattr(env, "num_envs", None) is None else RecordedVector
        return recorded(env, self, bars, phase)

    def log(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Record numbers beside the rewards, at `step`: whatever the caller counts; the episode's number, if None.

        All of them or, where one is no number (`EventRejected`), none.
        """
        self.check_open()
        phase: Phase = self.planned or "train"
        if step is None:
            opened = self.opened((phase, 0))
            step = self.next_number[phase] if opened is None else opened.number
        if not isinstance(metrics, Mapping):
            raise EventRejected(f"log() takes a dict of numbers, this is {metrics!r:.80}")
        events = [
            MetricLogged(agent=self.name, metric=name, step=step, value=value, phase=phase)
            for name, value in metrics.items()
        ]
        for event in events:
            self.recorder.append(event)

    @property
    def results(self) -> pd.DataFrame:
        """One row per ended, effective episode of the run, all attempts; columns: `agents_adapter.results`."""
        from agents_adapter.results import episodes_frame

        return episodes_frame(self._run.log.storage, self._run.id, self.name)

    # -- for the other modules ---------------------------------------------------------------------------------------

    @property
    def planned(self) -> Phase | None:
        """The phase of the plan that is walked now; None outside."""
        walking = self.saver.walking
        if walking is None or walking.current.kind == "loop" or self not in walking.tracks:
            return None
        return walking.current.phase

    def place(self, lineage: Lineage, *, resumed: bool) -> None:
        """Go on with the numbers of `lineage`, and in a resumed run with what it has finished."""
        self.next_number = dict(lineage.next_episode)
        if resumed:
            self.finished = {phase: entries.copy() for phase, entries in lineage.finished.items()}

    def check_open(self) -> None:
        """Raises `JournalClosed` after the run's end."""
        self._run.check_open()

    def opened(self, place: Key) -> Episode | None:
        """The episode that is open there, also in a vector environment."""
        if place not in self.open:
            for vector in self.vectors:
                vector.tell(place)
        return self.open.get(place)

    def all_open(self) -> list[Episode]:
        """All open episodes, also those in vector environments."""
        for vector in self.vectors:
            vector.tell()
        return list(self.open.values())

    @property
    def watched(self) -> bool:
        """Is what is done again compared with the first time?"""
        return bool(self._run.watch.before)

    @property
    def seeds_episodes(self) -> bool:
        """Does each start of an episode seed the global generators?"""
        return self._run.seeding == "episode"

    def start_episode(
        self,
        phase: Phase,
        *,
        env_index: int = 0,
        entry: PlanEntry | None = None,
        index: int | None = None,
        position: int | None = None,
        seed: int | None = None,
    ) -> Episode:
        """Record the start of the next episode. One that is still open there is ended first."""
        self._run.check_open()
        before = self.open.get((phase, env_index))
        if before is None and self.vectors:
            before = self.opened((phase, env_index))
        if before is not None:
            before.end()
        number = self.next_number[phase]
        episode = Episode(self, number, phase, env_index, entry, index, position, seed)
        episode.begin()
        self._begun(episode)
        return episode

    def start_episodes(self, phase: Phase, env_indices: Iterable[int]) -> list[Episode]:
        """The same for sub-environments in each of which none is open; without seeds, they are recorded at once."""
        self.check_open()
        number = self.next_number[phase]
        started = [Episode(self, number + more, phase, place) for more, place in enumerate(env_indices)]
        begin(started)
        for episode in started:
            self._begun(episode)
        return started

    def _begun(self, episode: Episode) -> None:
        """Its start is recorded."""
        run = self._run
        self.open[episode.phase, episode.env_index] = episode
        self.next_number[episode.phase] = episode.number + 1
        if run.seeding == "episode":
            _seed_global(episode.number if episode.seed is None else episode.seed)
        if run.watch.before:
            run.watch.begun(self.name, (episode,))

    def ended(self, episodes: Sequence[Episode]) -> None:
        """Their ends are recorded."""
        for episode in episodes:
            self.open.pop((episode.phase, episode.env_index), None)
        if self.saver.saves:
            self.saver.episodes_ended(self, len(episodes))
        if self._run.watch.before:
            self._run.watch.ended(self.name, episodes)

    def refuse(self, agent: int, number: int, *reward: object) -> NoReturn:
        """What is asked of an episode that has ended, with the arguments of `Log.reward`: raises."""
        who = f"episode {number} of {self.name}"
        if self.recorder.log.closed:
            raise JournalClosed(f"{who}: the run has ended; start the next one with agents_adapter.start")
        raise EventRejected(f"{who} has ended: nothing can follow it; go on with the next episode")

    def start_followed(self, place: Key, follows: PlanEnv, seed: Any) -> Episode:
        """The same, of the entry that a PlanEnv was reset to; `seed` was the caller's."""
        entry, position = follows.plan_entry, follows.plan_position
        return self.start_episode(
            place[0],
            env_index=place[1],
            entry=entry,
            index=position % len(follows.plan),
            position=position,
            seed=as_seed(seed),
        )

    def before_reset(self, places: Iterable[Key], ending: Iterable[Episode]) -> None:
        """Wrapped environments are about to be reset: `ending` end, and a checkpoint may be saved.

        `places` are those of which nothing is left from before.
        """
        self.check_open()
        moved = self.saver.moved()
        for episode in ending:
            episode.end()
        if self.planned is None:
            self.saver.between(self, places, moved)

    def deviates(self, told: str) -> None:
        """An episode was shown other bars than planned: raises `EventRejected`, or warns, as the walk was begun."""
        if self.other_bars == "raise":
            raise EventRejected(told)
        warnings.warn(f"{self._run.log.storage.name}: {told}", RuntimeWarning, stacklevel=4)

    def _walk(self, plan: AnyPlan, phase: Phase, other_bars: OtherBars) -> Iterator[Episode]:
        self.check_open()
        begin_walk((self,), other_bars)
        return map(itemgetter(0), passes.walk(self.saver, (self,), as_plan(plan), phase))

    def __repr__(self) -> str:
        return f"<Track {self.name} of run {self._run.id}>"


class Team:
    """Agents that are saved and go back together: one checkpoint, one rewind. Made by `run.team`.

    `team["buyer"]` is a member's track.
    """

    def __init__(self, saver: Saver, tracks: tuple[Track, ...]) -> None:
        self.name = saver.name
        self.tracks = tracks
        self._saver = saver

    def __getitem__(self, name: str) -> Track:
        return {track.name: track for track in self.tracks}[name]

    def episodes(self, plan: AnyPlan, *, other_bars: OtherBars = "raise") -> Iterator[tuple[Episode, ...]]:
        """As `Track.episodes`: for each entry a tuple, one episode per member, in their order."""
        self.tracks[0].check_open()
        begin_walk(self.tracks, other_bars)
        return passes.walk(self._saver, self.tracks, as_plan(plan), "train")

    def evaluate(self, plan: AnyPlan, *, other_bars: OtherBars = "raise") -> Iterator[tuple[Episode, ...]]:
        """The same in phase eval."""
        self.tracks[0].check_open()
        begin_walk(self.tracks, other_bars)
        return passes.walk(self._saver, self.tracks, as_plan(plan), "eval")


def begin_walk(tracks: Iterable[Track], other_bars: OtherBars) -> None:
    """Note what is to happen to other bars than the plan's. Raises `EventRejected` for another word."""
    if other_bars not in ("raise", "warn"):
        raise EventRejected(f"other_bars is {other_bars!r:.60}: use 'raise' or 'warn'")
    for track in tracks:
        track.other_bars = other_bars


def as_plan(plan: AnyPlan) -> Plan:
    """`plan`, or the plan of these entries. Raises `EventRejected`, also where it is empty."""
    return plan if isinstance(plan, Plan) else Plan(plan)


def _seed_global(seed: int) -> None:
    random.seed(seed)
    np.random.seed(np.random.SeedSequence(seed).generate_state(8))
