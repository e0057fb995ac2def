"""Compare: did these agents train on the same bars? Proved by content, episode by episode, or not said.

    not comparable   two agents saw different bars, or a different number of episodes, or under other declared
                     conditions: the first differences are named
    not provable     nothing differs, but some bars were only declared, or never told: absence proves nothing
    comparable       every episode of every agent is observed, and the contents are the same, in the same order

Each agent is taken over its newest completed run (its newest one, where none is completed). The phases are compared
apart; eval counts wherever any of the agents was evaluated.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

from journal.errors import NotComparable
from replay.careers import Career, Shown, career_of, content_of, in_any_order, in_common, in_steps, observed
from replay.conditions import Outcomes, Unreadable, other_conditions, outcomes_of
from replay.seen import SeenBars
from replay.state import State
from replay.totals import PHASES, Phase

Verdict = Literal["comparable", "not comparable", "not provable"]
DIFFERENCES_MAX: Final = 10
"""How many differences are named for each pair of agents and phase; the rest seldom tells more."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The `index`th episodes of two agents; None where one has no such episode, or its bars are not known."""

    phase: Phase
    index: int
    agent: str
    bars: SeenBars | None
    other_agent: str
    other: SeenBars | None

    def as_document(self) -> dict[str, Any]:
        """The keys of `differences[]` in `journal compare --json`; hashes in hexadecimal."""
        return {
            "phase": self.phase,
            "index": self.index,
            **_bars_document(self.agent, self.bars),
            "other": _bars_document(self.other_agent, self.other),
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """The verdict, and what it rests on. `episodes` is the number that all agents have, in each compared phase."""

    verdict: Verdict
    reason: str
    careers: tuple[Career, ...]
    episodes: Mapping[Phase, int]
    differences: tuple[Difference, ...]
    tolerance: float | None = None
    """The bars are compared after rounding to multiples of this; None: as they are."""
    outcomes: Mapping[str, Outcomes] = field(default_factory=dict)
    """Of comparable agents: what each compared episode came to, in the same order for all."""


def compare(
    states: State | Mapping[str, State],
    *,
    agents: Sequence[str] | None = None,
    run: str | None = None,
    any_order: bool = False,
    common: bool = False,
    tolerance: float | None = None,
) -> Comparison:
    """Compare `agents` (all, if None) of one journal, or of several, given as path → state.

    `run`: over this one, not over each agent's newest completed. `any_order`: the same bars, in whatever order.
    `common`: over the episodes whose observed bars all of them saw, and the reason says how many those are.
    `tolerance`: bars are the same where they are after rounding to multiples of it; only hashes that were recorded with
    that very tolerance count. Where the
    bars are the same, the journals are read again for the conditions that were declared: each episode's params, and
    what the run's config holds under "conditions" (costs, the reward function). Raises `NotComparable` for a name that
    is not there, and what reading a journal raises.
    """
    several = {"": states} if isinstance(states, State) else states
    known = dict.fromkeys(name for state in several.values() for name in state.agents)
    runs = dict.fromkeys(name for state in several.values() for name in state.runs)
    _check_known("agent", agents or (), known)
    _check_known("run", () if run is None else (run,), runs)
    found = [
        career_of(state, state.agents[name], run, path)
        for name in (known if agents is None else dict.fromkeys(agents))
        for path, state in several.items()
        if name in state.agents and (run is None or run in state.agents[name].runs)
    ]
    names = [career.agent for career in found]
    # The same name in two journals is two learners.
    careers = [
        career if names.count(career.agent) == 1 else replace(career, agent=f"{career.path}:{career.agent}")
        for career in found
    ]
    total = {career.agent: career.ended for career in careers}
    if tolerance is not None:
        careers = [in_steps(career, tolerance) for career in careers]
    if common:
        careers = in_common(careers)
    if any_order:
        careers = [in_any_order(career) for career in careers]
    comparison = _judge(careers, tolerance)
    if common and comparison.verdict == "comparable":
        comparison = replace(comparison, reason=f"{comparison.reason}; {_of_all(comparison.episodes, total)}")
    return comparison if comparison.verdict != "comparable" else _with_conditions(comparison, several)


def _with_conditions(comparison: Comparison, states: Mapping[str, State]) -> Comparison:
    """The same with outcomes, or not comparable where the declared conditions differ."""
    try:
        told = outcomes_of(comparison.careers, states)
    except Unreadable as error:
        return replace(comparison, verdict="not provable", reason=f"the bars are the same, but {error}")
    differences = list(other_conditions(comparison.careers, comparison.episodes, told))
    if differences:
        reason = f"the bars are the same, but the declared conditions differ: {'; '.join(differences)}"
        return replace(comparison, verdict="not comparable", reason=reason)
    return replace(comparison, outcomes=told)


def _of_all(episodes: Mapping[Phase, int], total: Mapping[str, Mapping[Phase, int]]) -> str:
    told = (
        f"of {', '.join(f'{agent} {ended[phase]:,}' for agent, ended in total.items())} {phase} episodes"
        for phase in episodes
    )
    return f"only what they have in common is compared, {' and '.join(told)}"


def _check_known(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise NotComparable(f"{what} {name!r} is not in this journal (known: {', '.join(known) or 'none'})")


def _judge(careers: Sequence[Career], tolerance: float | None) -> Comparison:
    phases = [phase for phase in PHASES if any(career.ended[phase] for career in careers)]
    episodes = {phase: min(career.ended[phase] for career in careers) for phase in phases}
    differences: list[Difference] = []
    unproved: list[str] = []
    unequal: list[str] = []
    for phase in phases:
        counts = {career.agent: career.ended[phase] for career in careers}
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{agent} {count:,}" for agent, count in counts.items())
            unequal.append(f"the agents have different numbers of {phase} episodes ({told})")
        unproved += [text for career in careers if (text := _unproved(career, phase, tolerance)) is not None]
        for other in careers[1:]:
            differences += _differences(careers[0], other, phase)
    if len(careers) < 2:
        verdict, reason = "not provable", f"a comparison takes two agents, here {_are(len(careers))}"
    elif differences or unequal:
        verdict, reason = "not comparable", "; ".join([*unequal, *_told(differences)])
    elif not phases:
        verdict, reason = "not provable", "no episode has ended, so no bars are proved"
    elif unproved:
        verdict, reason = "not provable", "; ".join(unproved)
    else:
        verdict = "comparable"
        told = " and ".join(f"{count:,} {phase}" for phase, count in episodes.items())
        how = "by content" if tolerance is None else f"after rounding to multiples of {tolerance:g}"
        reason = f"{len(careers)} agents saw the same bars, {how}, in {told} episodes"
    unfinished = [career.agent for career in careers if career.status != "completed"]
    if unfinished and len(careers) > 1:
        reason += f" (no run of {', '.join(unfinished)} is completed; the newest one was taken)"
    return Comparison(verdict, reason, tuple(careers), episodes, tuple(differences), tolerance)  # type: ignore[arg-type]


def _unproved(career: Career, phase: Phase, tolerance: float | None) -> str | None:
    """Why the bars of this agent prove nothing; None where every episode was observed, and hashed as is asked."""
    total = career.ended[phase]
    silent = total - len(career.shown[phase])
    if silent:
        return f"{silent:,} of {total:,} {phase} episodes of {career.agent} did not tell their bars"
    claimed = [shown for shown in career.shown[phase] if not observed(shown)]
    if claimed and all(bars.source == "observed" for shown in claimed for bars in shown):
        return (
            f"{career.agent} recorded no hash of tolerance {tolerance:g} in {len(claimed):,} of {total:,} {phase} "
            f"episodes, first in episode {claimed[0][0].episode}: record it with start(…, tolerance={tolerance:g})"
        )
    if claimed:
        return (
            f"{career.agent} only declared its bars in {len(claimed):,} of {total:,} {phase} episodes, first in "
            f"episode {claimed[0][0].episode}: record observed bars (track.wrap(env, bars=…) or episode.observe)"
        )
    return None


def _differences(one: Career, other: Career, phase: Phase) -> list[Difference]:
    mine, theirs = one.shown[phase], other.shown[phase]
    if len(mine) != one.ended[phase] or len(theirs) != other.ended[phase]:
        return []  # Which episodes are silent is not known, so the others cannot be laid side by side.
    found: list[Difference] = []
    for index in range(max(len(mine), len(theirs))):
        if len(found) == DIFFERENCES_MAX:
            break
        shown = mine[index] if index < len(mine) else ()
        against = theirs[index] if index < len(theirs) else ()
        if shown and against and not (observed(shown) and observed(against)):
            continue
        if content_of(shown) != content_of(against):
            found.append(_difference(phase, index, one.agent, shown, other.agent, against))
    return found


def _difference(phase: Phase, index: int, agent: str, shown: Shown, other: str, against: Shown) -> Difference:
    at = 0
    while at < min(len(shown), len(against)) and shown[at].content_hash == against[at].content_hash:
        at += 1
    return Difference(
        phase,
        index,
        agent,
        shown[at] if at < len(shown) else None,
        other,
        against[at] if at < len(against) else None,
    )


def _told(differences: Sequence[Difference]) -> list[str]:
    if not differences:
        return []
    first = differences[0]
    return [
        f"{first.phase} episode {first.index} (counted from 0) differs first: "
        f"{_words(first.agent, first.bars)}, {_words(first.other_agent, first.other)}"
    ]


def _words(agent: str, bars: SeenBars | None) -> str:
    if bars is None:
        return f"{agent} saw no bars there"
    content = bars.content_hash.hex()[:8] if bars.content_hash else "unknown"
    return f"{agent} saw {bars.instrument} {bars.timeframe} [{bars.start}, {bars.stop}) of content {content}"


def _are(count: int) -> str:
    return "is one" if count == 1 else "is none"


def _bars_document(agent: str, bars: SeenBars | None) -> dict[str, Any]:
    if bars is None:
        empty = ("episode", "instrument", "timeframe", "start", "stop", "content_hash", "source")
        return {"agent": agent, **dict.fromkeys(empty)}
    document = {
        "agent": agent,
        **bars._asdict(),
        "content_hash": bars.content_hash.hex() if bars.content_hash else None,
    }
    for other in ("entry", "tolerance", "quantised_hash"):
        document.pop(other)
    return document
