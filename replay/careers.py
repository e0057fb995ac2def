"""Careers: what each agent did in the run that is compared, and which part of it is laid beside the others'."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from replay.seen import SeenBars
from replay.state import Agent, State
from replay.totals import PHASES, Phase

Shown = tuple[SeenBars, ...]
"""The bars of one episode, in the order they were seen."""


@dataclass(frozen=True, slots=True)
class Career:
    """What one agent did in the run that is compared."""

    agent: str
    run: str
    """The run's id; "" for episodes outside any run."""
    status: str
    """The run's: completed or unfinished."""
    ended: Mapping[Phase, int]
    """Effective episodes."""
    shown: Mapping[Phase, Sequence[Shown]]
    """The bars of those that told them, in the order of their numbers."""
    path: str
    """The journal's, where several are compared."""
    name: str
    """The agent's, in its journal."""
    conditions: Any
    """What its run's config holds under "conditions"."""


def career_of(state: State, agent: Agent, run: str | None, path: str) -> Career:
    """What `agent` did in `run`; None: in its newest completed one, or its newest."""
    if run is None:
        own = [one for one in agent.runs if one in state.runs]
        completed = [one for one in own if state.runs[one].status == "completed"]
        run = (completed or own or [""])[-1]
    shown = {}
    for phase in PHASES:
        # Sub-environments end their episodes in an order of chance; the numbers are the order they began in.
        bars = sorted(agent.bars.get(f"{run}/{phase}", []), key=lambda one: one.episode)
        shown[phase] = [tuple(seen) for _, seen in groupby(bars, key=lambda one: one.episode)]
    ended = {phase: agent.lineage.ended.get(f"{run}/{phase}", 0) for phase in PHASES}
    status = state.runs[run].status if run else "unfinished"
    config = state.runs[run].config if run else None
    conditions = config.get("conditions") if isinstance(config, Mapping) else None
    return Career(agent.name, run, status, ended, shown, path, agent.name, conditions)


def in_common(careers: Sequence[Career]) -> list[Career]:
    """Only the episodes whose observed bars all careers have, as often as each has them."""
    kept: list[dict[Phase, Sequence[Shown]]] = [{} for _ in careers]
    for phase in PHASES:
        counts = [Counter(content_of(shown) for shown in one.shown[phase] if observed(shown)) for one in careers]
        shared = Counter(counts[0]) if counts else Counter()
        for count in counts[1:]:
            shared &= count
        for career, into in zip(careers, kept, strict=True):
            left = Counter(shared)
            chosen = []
            for shown in career.shown[phase]:
                if observed(shown) and left[content_of(shown)]:
                    left[content_of(shown)] -= 1
                    chosen.append(shown)
            into[phase] = chosen
    return [
        replace(career, shown=shown, ended={phase: len(shown[phase]) for phase in PHASES})
        for career, shown in zip(careers, kept, strict=True)
    ]


def in_steps(career: Career, tolerance: float) -> Career:
    """The same, with the hashes that were recorded after rounding to multiples of `tolerance`, where there are any."""

    def coarse(bars: SeenBars) -> SeenBars:
        return bars._replace(content_hash=bars.quantised_hash if bars.tolerance == tolerance else None)

    return replace(
        career, shown={phase: [tuple(map(coarse, one)) for one in shown] for phase, shown in career.shown.items()}
    )


def in_any_order(career: Career) -> Career:
    """Its episodes ordered by what they showed; those that told nothing for certain stay where they are."""
    return replace(
        career,
        shown={
            phase: sorted(shown, key=content_of) if all(map(observed, shown)) else shown
            for phase, shown in career.shown.items()
        },
    )


def observed(shown: Shown) -> bool:
    """Were all these bars hashed where they were shown?"""
    return all(bars.source == "observed" and bars.content_hash is not None for bars in shown)


def content_of(shown: Shown) -> tuple[bytes, ...]:
    """What they are, whatever they are called; of declared ones nothing is known."""
    return tuple(bars.content_hash or b"" for bars in shown)
