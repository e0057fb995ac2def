"""Differences: are two journals the same training? What differs, named; what only one has; what nobody can know.

    runs in pairs      config, plans and how they ended, field by field
    episodes in pairs  the same entry, parameters, seed and bars? then the first step whose rewards differ in any bit
    the rest           agents, runs and episodes that only one of them has

What says nothing about the training is not compared: times, attempts, processes, checkpoint files. What a rewind
superseded does not count, so a training that was killed and resumed exactly is the same as one that was not.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

import msgpack

from replay.counterparts import Key, Pairing, RunPairs, Side, Told, Which
from replay.divergence import REWARDS_MAX, first_step, same_task
from replay.divergence import Run as Kept
from replay.documents import in_words
from replay.episodes import Episode
from replay.intervals import Intervals
from replay.loading import Place
from replay.progress import Progress, silent
from replay.seen import SeenBars
from replay.state import Run, State
from replay.totals import PHASES, Phase, Totals

Verdict = Literal["equal", "different", "not provable"]
Kind = Literal["rewards", "task", "unfinished"]

NAMED_MAX: Final = 20
"""How many differing episodes of an agent, phase and kind are named; the rest is counted."""
DEPTH_MAX: Final = 20
"""How deep a config is looked into; what lies deeper is compared as a whole."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What two runs were to do, or how they ended, where that differs; None: it is not there."""

    run_a: str | None
    run_b: str | None
    what: str
    a: Any
    b: Any

    def as_words(self) -> str:
        """One sentence."""
        runs = dict.fromkeys(run for run in (self.run_a, self.run_b) if run is not None)
        where = f"run {' and '.join(runs)}: " if runs else ""
        return f"{where}{self.what} is {in_words(self.a)} in A and {in_words(self.b)} in B"


@dataclass(frozen=True, slots=True)
class Finding:
    """An episode that is not the same in both."""

    kind: Kind
    """Other rewards; another seed, entry, other parameters or bars, so rewards say nothing; or the same as far as both
    went, and one of them went on."""
    agent: str
    phase: Phase
    episode: int
    run_a: str | None
    run_b: str | None
    what: str
    """What differs: reward; entry, seed, params or bars; the end in A or B."""
    step: int | None
    """The first one whose rewards differ; else None."""
    a: Any
    b: Any
    """Both values: a reward is None where the episode has no such step; of an unfinished one, how many steps it has."""
    seq_a: int
    seq_b: int
    """Where each began."""

    def as_words(self) -> str:
        """One sentence."""
        name = f"{self.agent}, {self.phase} episode {self.episode}"
        if self.kind == "task":
            return f"{name}: another one, {self.what} {in_words(self.a)} in A and {in_words(self.b)} in B"
        if self.kind == "unfinished":
            return f"{name}: no {self.what}; the same as far as both went, {self.a:,} steps in A and {self.b:,} in B"
        a, b = ("no more" if one is None else repr(one) for one in (self.a, self.b))
        return f"{name}: differs first at step {self.step}, where the reward is {a} in A and {b} in B"


@dataclass(slots=True)
class Row:
    """The episodes of one agent and phase, counted."""

    agent: str
    phase: Phase
    same: int = 0
    rewards: int = 0
    """With other rewards."""
    task: int = 0
    """With another seed, entry, other parameters or bars."""
    unfinished: int = 0
    """The same as far as both went, and one of them has no end."""
    only: dict[Which, Intervals] = field(default_factory=lambda: {"a": Intervals(), "b": Intervals()})
    """Numbers of those that only one of them has."""
    only_count: dict[Which, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    unreadable: dict[Which, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    """Those in its history that was dropped: they can no longer be compared."""
    unanswered: dict[Which, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    """Those that may answer to one in the other's dropped history."""
    told: dict[Which, int] = field(default_factory=lambda: {"a": 0, "b": 0})
    """Those that count and have ended, as they were read."""
    named: Counter[Kind] = field(default_factory=Counter)

    @property
    def differs(self) -> bool:
        """Is anything not the same?"""
        return bool(self.rewards or self.task or self.unfinished or any(self.only_count.values()))

    def as_document(self) -> dict[str, Any]:
        """A row of `journal diff --json`."""
        return {
            **{name: getattr(self, name) for name in ("agent", "phase", "same", "rewards", "task", "unfinished")},
            "only": dict(self.only_count),
            "numbers": {which: [[start, stop - 1] for start, stop in only.pairs] for which, only in self.only.items()},
            "unreadable": dict(self.unreadable),
            "unanswered": dict(self.unanswered),
        }


@dataclass(frozen=True, slots=True)
class Differences:
    """What `diff` found."""

    agents: Mapping[Which, Sequence[str]]
    """Those that only one of them has."""
    runs: Mapping[Which, Sequence[str]]
    """Those that only one of them has."""
    settings: Sequence[Setting]
    rows: Sequence[Row]
    dropped: Mapping[Which, int]
    """How many events each has no more, because they were dropped."""
    findings: Sequence[Finding]
    """The first of each agent, phase and kind, up to `NAMED_MAX`, in A's order."""

    @property
    def verdict(self) -> Verdict:
        """Not provable: nothing that can be read differs, and not all of it can be read."""
        if self.settings or any((*self.agents.values(), *self.runs.values())) or any(row.differs for row in self.rows):
            return "different"
        lost = any(count for row in self.rows for count in (*row.unreadable.values(), *row.unanswered.values()))
        return "not provable" if lost else "equal"

    def as_document(self) -> dict[str, Any]:
        """The keys of `journal diff --json`."""
        return {
            "verdict": self.verdict,
            "agents": {which: list(names) for which, names in self.agents.items()},
            "runs": {which: list(names) for which, names in self.runs.items()},
            "settings": [{**asdict(one), "words": one.as_words()} for one in self.settings],
            "episodes": [row.as_document() for row in self.rows],
            "dropped": dict(self.dropped),
            "findings": [{**asdict(one), "words": one.as_words()} for one in self.findings],
        }


def diff(a: Place, b: Place, *, progress: Progress = silent) -> Differences:
    """Are these two journals the same training? Live ones are read as far as they were when this was called.

    Reads each once, and what differs again. Memory: about 1 kB for each episode that waits for its counterpart, so
    little where both trained in the same order. Raises as `replay.load` does, naming the journal.
    """
    one, other = Side(a), Side(b)
    runs = RunPairs.of(one.state, other.state)
    found = _Comparing(Pairing(one, other, runs))
    found.pairing.read(found.pair, found.alone, progress)
    found.look()
    found.count_unreadable()
    return Differences(
        {"a": _missing(one.state, other.state), "b": _missing(other.state, one.state)},
        runs.only,
        [*settings(one.state, other.state, runs), *found.totals()],
        [found.rows[key] for key in sorted(found.rows, key=lambda key: (key[0], PHASES.index(key[1])))],
        {which: side.kept for which, side in found.pairing.sides.items()},
        sorted(found.findings, key=lambda finding: finding.seq_a),
    )


class _Comparing:
    """Takes in the pairs, and looks at the rewards of those that differ afterwards."""

    def __init__(self, pairing: Pairing) -> None:
        self.pairing = pairing
        self.rows: dict[tuple[str, Phase], Row] = {}
        self.findings: list[Finding] = []
        self._later: deque[tuple[Told, Told]] = deque()

    def pair(self, a: Told, b: Told) -> None:
        """Two episodes that answer to each other."""
        row = self._row(a.episode.agent, a.episode.phase)
        row.told["a"] += a.ended
        row.told["b"] += b.ended
        if not same_task(a.episode, b.episode):
            row.task += 1
            if _may_be_named(row, "task"):
                self.findings.append(_other_task(a.episode, b.episode))
        elif _goes_on(a, b):
            self._later.append((a, b))
        elif a.digest != b.digest or a.episode.steps != b.episode.steps:
            row.rewards += 1
            if _may_be_named(row, "rewards"):
                self._later.append((a, b))
        elif a.ended != b.ended:
            self._count_unfinished(row, a, b)
        else:
            row.same += 1

    def alone(self, which: Which, key: Key, told: Told) -> None:
        """One that only this journal has, unless the other had it before its history was dropped."""
        _, agent, phase, number = key
        row = self._row(agent, phase)
        row.told[which] += told.ended
        if self.pairing.dropped("b" if which == "a" else "a", key):
            row.unanswered[which] += 1
        else:
            row.only[which].add(number)
            row.only_count[which] += 1

    def look(self) -> None:
        """Read the rewards of the pairs that were laid aside, as many at a time as there is room for."""
        while self._later:
            group = [self._later.popleft()]
            held = _steps(group[0])
            while self._later and held + _steps(self._later[0]) <= REWARDS_MAX:
                group.append(self._later.popleft())
                held += _steps(group[-1])
            mine = self.pairing.sides["a"].rewards([a.episode.seq for a, _ in group])
            theirs = self.pairing.sides["b"].rewards([b.episode.seq for _, b in group])
            for a, b in group:
                self._look_at(a, b, mine[a.episode.seq], theirs[b.episode.seq])

    def _look_at(self, a: Told, b: Told, mine: Kept, theirs: Kept) -> None:
        row = self._row(a.episode.agent, a.episode.phase)
        step = first_step(mine, theirs)
        if step is None:
            self._count_unfinished(row, a, b)
            return
        if _goes_on(a, b):  # Not counted yet.
            row.rewards += 1
            if not _may_be_named(row, "rewards"):
                return
        values = mine.reward(step), theirs.reward(step)
        self.findings.append(_finding("rewards", a.episode, b.episode, "reward", step, *values))

    def _count_unfinished(self, row: Row, a: Told, b: Told) -> None:
        row.unfinished += 1
        if _may_be_named(row, "unfinished"):
            what = " and ".join(name for name, one in (("A", a), ("B", b)) if not one.ended)
            steps = a.episode.steps, b.episode.steps
            self.findings.append(_finding("unfinished", a.episode, b.episode, f"end in {what}", None, *steps))

    def count_unreadable(self) -> None:
        """Of the episodes that the totals hold, those that no history tells any more."""
        for which, side in self.pairing.sides.items():
            for name, agent in side.state.agents.items() if side.kept else ():
                for phase in PHASES:
                    count = agent.effective[phase].episodes
                    if count:
                        row = self._row(name, phase)
                        row.unreadable[which] = max(0, count - row.told[which])

    def totals(self) -> Iterator[Setting]:
        """Where episodes cannot be compared any more, at least the totals can."""
        for (name, phase), row in self.rows.items():
            agents = [side.state.agents.get(name) for side in self.pairing.sides.values()]
            if any(row.unreadable.values()) and all(agents):
                a, b = (_figures(agent.effective[phase]) for agent in agents if agent is not None)
                if a != b:
                    yield Setting(None, None, f"totals of {name}, {phase}", a, b)

    def _row(self, agent: str, phase: Phase) -> Row:
        return self.rows.setdefault((agent, phase), Row(agent, phase))


def _may_be_named(row: Row, kind: Kind) -> bool:
    row.named[kind] += 1
    return row.named[kind] <= NAMED_MAX


def _goes_on(a: Told, b: Told) -> bool:
    """Does one of them go on where the other has no end? Then they may differ before, and their digests do not say."""
    if a.episode.steps == b.episode.steps:
        return False
    return not min((a, b), key=lambda one: one.episode.steps).ended


def settings(a: State, b: State, runs: RunPairs) -> Iterator[Setting]:
    """What the runs that answer to each other were told otherwise: config, plans; and how they ended."""
    for mine, theirs in runs.both:
        one, other = a.runs[mine], b.runs[theirs]
        for what, left, right in _fields("", _told(one), _told(other), 0):
            yield Setting(mine, theirs, what, left, right)


def _told(run: Run) -> dict[str, Any]:
    plans = {f"plan of {name}": f"{plan.plan_hash} of {plan.length} episodes" for name, plan in run.plans.items()}
    return {"config": run.config, **plans, "status": run.status}


def _fields(what: str, a: Any, b: Any, depth: int) -> Iterator[tuple[str, Any, Any]]:
    """Where two values differ, by name; what one of them lacks is None."""
    if depth < DEPTH_MAX and isinstance(a, Mapping) and isinstance(b, Mapping):
        for name in dict.fromkeys((*a, *b)):
            yield from _fields(f"{what}.{name}" if what else str(name), a.get(name), b.get(name), depth + 1)
    elif msgpack.packb(a, default=repr) != msgpack.packb(b, default=repr):  # As bytes: a NaN is equal to itself.
        yield what, a, b


def _missing(state: State, other: State) -> list[str]:
    """The agents that only the first one has."""
    return [name for name in state.agents if name not in other.agents]


def _other_task(a: Episode, b: Episode) -> Finding:
    for what in ("entry", "seed", "params"):
        mine, theirs = getattr(a, what), getattr(b, what)
        if mine != theirs:
            return _finding("task", a, b, what, None, mine, theirs)
    return _finding("task", a, b, "bars", None, [_bars(one) for one in a.bars], [_bars(one) for one in b.bars])


def _finding(kind: Kind, a: Episode, b: Episode, what: str, step: int | None, mine: Any, theirs: Any) -> Finding:
    return Finding(kind, a.agent, a.phase, a.number, a.run, b.run, what, step, mine, theirs, a.seq, b.seq)


def _bars(seen: SeenBars) -> str:
    content = seen.source if seen.content_hash is None else seen.content_hash.hex()
    return f"{seen.instrument} {seen.timeframe} [{seen.start}, {seen.stop}) {content}"


def _figures(totals: Totals) -> str:
    odd = totals.nan_rewards + totals.infinite_rewards
    told = f"{totals.episodes} episodes, {totals.steps} steps, a reward of {float(totals.reward)!r}"
    return told + (f" and {odd} that are no number" if odd else "")


def _steps(pair: tuple[Told, Told]) -> int:
    return sum(one.episode.steps for one in pair)
