"""Divergence: is what was done again after a rewind what was done the first time, reward by reward?

    first run      steps 0 … 412, cut off by a kill           superseded
    re-run         steps 0 … 999                               must begin with the same 412 rewards, bit for bit

A training that resumes exactly repeats itself; one that draws from a generator that nobody restored does not, and its
totals are those of no training that ever was. Compared are episodes of the same number, entry, seed and bars.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from journal import segment
from journal.errors import CorruptJournal
from journal.events import unpack
from journal.manifest import Manifest
from journal.storage import Storage
from replay.episodes import Episode, Episodes, rewind_of
from replay.loading import Place, load, storage_of
from replay.progress import Progress, silent
from replay.scan import scan
from replay.state import State
from replay.totals import Phase

Rewards = NDArray[np.float64]
Name = tuple[str | None, str, Phase, int]

REWARDS_MAX: Final = 1 << 24
"""How many superseded rewards are held at a time (128 MB); what is beyond is compared in one more pass."""
FINDINGS_MAX: Final = 1000
"""How many are named; the rest is counted."""
_COUNTS: Final = ("rewinds", "rewinds_dropped", "compared", "other", "diverged")


@dataclass(frozen=True, slots=True)
class Divergence:
    """A re-run episode and the first step at which it is not what it was."""

    agent: str
    phase: Phase
    episode: int
    env_index: int
    run: str | None
    step: int
    before: float | None
    """The reward of the first run; None where that had ended before this step."""
    now: float | None
    """The reward of the re-run; None where that had."""
    before_seq: int
    """Where the first run's episode began."""
    now_seq: int

    def as_words(self) -> str:
        """One sentence."""
        before, now = ("no more" if one is None else repr(one) for one in (self.before, self.now))
        return (
            f"{self.agent}, {self.phase} episode {self.episode}: its re-run differs first at step {self.step}, where "
            f"the reward was {before} and is {now}"
        )


@dataclass(frozen=True, slots=True)
class Report:
    """What `diverge` found."""

    rewinds: int
    rewinds_dropped: int
    """Of them, those that went back into history that was dropped: what they did again can no longer be compared."""
    compared: int
    """Re-run episodes that were held against what they were before."""
    other: int
    """Re-runs on other bars, or with another seed: of them the rewards say nothing."""
    diverged: int
    findings: tuple[Divergence, ...] = ()
    """The first ones, in the order in which they were done again."""

    def as_document(self) -> dict[str, Any]:
        """The keys of `journal diverge --json`."""
        return {**asdict(self), "findings": [{**asdict(one), "words": one.as_words()} for one in self.findings]}


def merged(reports: Mapping[str, Report]) -> dict[str, Any]:
    """Several journals together, by path; each agent of each is named with it."""
    return {
        **{name: sum(getattr(one, name) for one in reports.values()) for name in _COUNTS},
        "findings": [
            {"path": path, **found} for path, one in reports.items() for found in one.as_document()["findings"]
        ],
    }


def diverge(place: Place, *, progress: Progress = silent) -> Report:
    """Compare every episode that was done again after a rewind with its first run.

    Reads from the first checkpoint that was gone back to; nothing where no agent ever went back. Where history was
    dropped, `Report.rewinds_dropped` says of how many rewinds nothing is known any more. Memory: `REWARDS_MAX` rewards,
    and the longest superseded episode. Raises as `replay.load` does.
    """
    return compared(load(storage_of(place)), progress)


def compared(state: State, progress: Progress = silent) -> Report:
    """`diverge`, of the journal that this state was read from, up to it."""
    storage = state.storage
    assert storage is not None, "states of journals were read from somewhere"
    rewinds = sum(agent.rewinds for agent in state.agents.values())
    if not rewinds:
        return Report(0, 0, 0, 0, 0)
    kept = Manifest.read(storage).kept_from
    windows = windows_of(storage, kept, state.events)
    dropped = windows.count_before(kept)
    if kept:
        dropped += sum(agent.rewinds for agent in load(storage, kept - 1).agents.values())
    done: set[Name] = set()
    count = other = diverged = 0
    findings: list[Divergence] = []
    while windows.start is not None:
        reruns = Reruns(windows, done=done, rewards_max=REWARDS_MAX)
        for batch in scan(storage, since=max(windows.start, kept), until=state.events):
            reruns.take(batch)
            progress(int(batch.seq[-1]) + 1, state.events)
        reruns.finish()
        count, other, diverged = count + reruns.compared, other + reruns.other, diverged + reruns.diverged
        findings += reruns.findings
        done |= reruns.taken
        if not reruns.passed_over:
            break
    findings.sort(key=lambda one: one.now_seq)
    return Report(rewinds, dropped, count, other, diverged, tuple(findings[:FINDINGS_MAX]))


def windows_of(storage: Storage, since: int, until: int) -> Windows:
    """What the rewinds with since ≤ seq < until superseded. Raises `CorruptJournal` for one that makes no sense."""
    from replay.query import events  # It needs pyarrow.

    windows = Windows()
    for rows in events(storage, kinds="Rewound", columns=["seq", "agent", "payload"], since=since, until=until):
        for row in rows.to_pylist():
            try:
                fields = unpack(row["payload"]) if row["payload"] else {}
                windows.add(*rewind_of(fields if isinstance(fields, dict) else {}, row["agent"] or "#0"), row["seq"])
            except (TypeError, ValueError) as error:
                where = "history" if row["seq"] < Manifest.read(storage).base.seq else segment.DIRECTORY
                reason = f"the Rewound of seq {row['seq']} makes no sense: {error}"
                raise CorruptJournal(where, 0, row["seq"], reason) from error
    return windows


class Windows:
    """Which of an agent's episodes a rewind superseded: those that began between its checkpoint and itself."""

    def __init__(self) -> None:
        self._ends: dict[str, list[tuple[int, int]]] = {}
        self._targets: list[int] = []
        """Of each rewind of each agent: the checkpoint's seq."""

    @property
    def start(self) -> int | None:
        """The first seq that may lie in one; None where there is none."""
        return min((low + 1 for found in self._ends.values() for low, _ in found), default=None)

    def add(self, agents: Iterable[str], to_seq: int, seq: int) -> None:
        """A rewind; in the order of their seqs."""
        for agent in agents:
            self._targets.append(to_seq)
            found = self._ends.setdefault(agent, [])
            while found and found[-1][0] >= to_seq:
                found.pop()  # It lies inside this one.
            found.append((to_seq, seq))

    def count_before(self, seq: int) -> int:
        """How many of the rewinds may have superseded something before event `seq`."""
        return sum(to_seq + 1 < seq for to_seq in self._targets)

    def target_before(self, agent: str, seq: int) -> int | None:
        """The checkpoint before event `seq` that a rewind took this agent back to; None where none did."""
        return next((low for low, _ in self._ends.get(agent, ()) if low < seq), None)

    def hold(self, agent: str, seq: int) -> bool:
        """Did a rewind supersede what this agent began at `seq`?"""
        found = self._ends.get(agent, [])
        at = bisect_left(found, seq, key=lambda one: one[1])
        return at < len(found) and found[at][0] < seq


@dataclass(slots=True)
class Run:
    """One run of an episode, with its rewards."""

    episode: Episode
    parts: list[Rewards] = field(default_factory=list)

    @property
    def rewards(self) -> Rewards:
        """All of them so far."""
        if len(self.parts) != 1:
            self.parts = [np.concatenate(self.parts) if self.parts else np.empty(0)]
        return self.parts[0]

    def reward(self, step: int) -> float | None:
        """That of this step; None where it has no such step."""
        return float(self.rewards[step]) if step < len(self.rewards) else None

    @property
    def ended(self) -> bool:
        """Did it end, or was it cut off?"""
        return self.episode.reason is not None


class Reruns(Episodes):
    """Holds the rewards of superseded episodes until these are done again, and compares.

    What a re-run agrees with is held as long as it is the longer one, so that several short attempts hide nothing.
    """

    def __init__(self, windows: Windows, *, done: Iterable[Name] = (), rewards_max: int = REWARDS_MAX) -> None:
        super().__init__()
        self._windows = windows
        self._done = frozenset(done)
        self._rewards_max = rewards_max
        self._rewards_held = 0
        self._running: dict[Name, Run] = {}
        self._current: dict[Name, Run] = {}
        """Done, and going to be superseded."""
        self.held: dict[Name, Run] = {}
        """Superseded, and not done again yet."""
        self.taken: set[Name] = set()
        """The episodes that this pass has seen to."""
        self.passed_over: set[Name] = set()
        """Those for which there was no room."""
        self.compared = self.other = self.diverged = 0
        self.findings: list[Divergence] = []

    def opened(self, episode: Episode) -> None:
        """Keep it in mind if it will be superseded, or was."""
        name = episode.name
        if name not in self.taken and self._windows.hold(episode.agent, episode.seq):
            if name in self._done or name in self.passed_over:
                return
            if self._rewards_held >= self._rewards_max:
                self.passed_over.add(name)
                return
            self.taken.add(name)
        if name in self.taken:
            self._running[name] = Run(episode)

    def rewarded(self, episode: Episode, values: Rewards) -> None:
        """More of it."""
        run = self._running.get(episode.name)
        if run is not None and run.episode is episode:
            run.parts.append(values)

    def closed(self, episode: Episode) -> None:
        """Compare it, if it was done before; keep it, if it will be superseded."""
        run = self._running.pop(episode.name, None)
        if run is None or run.episode is not episode:
            return
        before, kept = self.held.pop(episode.name, None), run
        if before is not None:
            self._rewards_held -= len(before.rewards)
            kept = self._compare(before, run)
        if self._windows.hold(episode.agent, episode.seq):
            self._rewards_held += len(kept.rewards)
            self._current[episode.name] = kept

    def rewound(self, agents: list[str], to_seq: int, seq: int) -> None:
        """From now on they may do it again; what came before the checkpoint will not be, until a later rewind."""
        for name in [name for name in self._current if name[1] in agents]:
            self.held[name] = self._current.pop(name)

    def finish(self) -> None:
        """What is still open is compared as far as it goes."""
        for episode in list(self.open.values()):
            self.closed(episode)

    def _compare(self, before: Run, now: Run) -> Run:
        """Note what is found; returns what further re-runs are to be held against."""
        if not same_task(before.episode, now.episode):
            self.other += 1
            return now
        self.compared += 1
        found = difference(before, now)
        if found is None:
            return max(now, before, key=lambda one: (len(one.rewards), one.ended))
        self.diverged += 1
        if len(self.findings) < FINDINGS_MAX:
            self.findings.append(found)
        return now


def same_task(one: Episode, other: Episode) -> bool:
    """The same entry, parameters, seed and bars? Bars that one of them had no time to tell are taken for the same."""
    if (one.entry, one.seed, one.params) != (other.entry, other.seed, other.params):
        return False
    return not (one.bars and other.bars) or _content(one) == _content(other)


def _content(episode: Episode) -> Sequence[tuple[Any, ...]]:
    return [(bars.instrument, bars.timeframe, bars.start, bars.stop, bars.content_hash) for bars in episode.bars]


def difference(before: Run, now: Run) -> Divergence | None:
    """How a re-run differs from the first run, if it does."""
    at = first_step(before, now)
    if at is None:
        return None
    episode = now.episode
    return Divergence(
        episode.agent,
        episode.phase,
        episode.number,
        episode.env_index,
        episode.run,
        at,
        before.reward(at),
        now.reward(at),
        before.episode.seq,
        episode.seq,
    )


def first_step(one: Run, other: Run) -> int | None:
    """The first step at which two runs of an episode differ; one that was cut off counts as far as it went."""
    at = first_difference(one.rewards, other.rewards)
    lengths = len(one.rewards), len(other.rewards)
    if at is None and lengths[0] != lengths[1]:
        shorter = one if lengths[0] < lengths[1] else other
        at = min(lengths) if shorter.ended else None
    return at


def first_difference(one: Rewards, other: Rewards) -> int | None:
    """The first index at which the bits differ, as far as both go; any NaN equals any other."""
    common = min(len(one), len(other))
    left, right = one[:common], other[:common]
    unequal = (left.view(np.uint64) != right.view(np.uint64)) & ~(np.isnan(left) & np.isnan(right))
    return int(unequal.argmax()) if unequal.any() else None
