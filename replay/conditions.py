"""Conditions: what is to be equal besides the bars, as far as it was declared; and what each compared episode came to.

Declared are each episode's params (a plan's, such as its costs), and what a run's config holds under "conditions", such
as the reward function. Both are read from the journals only when the bars are the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby

from journal.manifest import Manifest
from replay.careers import Career
from replay.documents import in_words
from replay.outcomes import Outcome, outcomes
from replay.state import State
from replay.totals import PHASES, Phase

Outcomes = Mapping[Phase, Sequence[Outcome]]


class Unreadable(Exception):
    """The conditions of an episode are not in the journal any more; says of which."""


def outcomes_of(careers: Sequence[Career], states: Mapping[str, State]) -> dict[str, Outcomes]:
    """Agent → what its compared episodes came to, in the order of `shown`. One pass over each journal.

    Raises `Unreadable` where history was dropped.
    """
    told: dict[str, Outcomes] = {}
    for (path, run), members in groupby(sorted(careers, key=_place), key=_place):
        group = list(members)
        storage = states[path].storage
        assert storage is not None, "states of journals were read from somewhere"
        since = Manifest.read(storage).kept_from
        found = outcomes(storage, run or None, [career.name for career in group], since)
        told |= {career.agent: _compared(career, found[career.name]) for career in group}
    return told


def other_conditions(careers: Sequence[Career], phases: Iterable[Phase], told: Mapping[str, Outcomes]) -> Iterator[str]:
    """In words, for each career that was declared otherwise than the first one: the first difference."""
    first = careers[0]
    for other in careers[1:]:
        if other.conditions != first.conditions:
            mine, theirs = in_words(first.conditions), in_words(other.conditions)
            yield f"the run of {first.agent} declared {mine}, that of {other.agent} {theirs}"
        for phase in phases:
            pairs = zip(told[first.agent][phase], told[other.agent][phase], strict=True)
            for index, (one, against) in enumerate(pairs):
                if (one.episode.params or {}) != (against.episode.params or {}):
                    mine, theirs = in_words(one.episode.params), in_words(against.episode.params)
                    yield (
                        f"{phase} episode {index} (counted from 0) of {first.agent} had the params {mine}, that of "
                        f"{other.agent} {theirs}"
                    )
                    break


def _place(career: Career) -> tuple[str, str]:
    return career.path, career.run


def _compared(career: Career, found: Sequence[Outcome]) -> Outcomes:
    by_number = {(one.episode.phase, one.episode.number): one for one in found}
    try:
        return {phase: [by_number[phase, shown[0].episode] for shown in career.shown[phase]] for phase in PHASES}
    except KeyError as missing:
        phase, number = missing.args[0]
        raise Unreadable(
            f"{phase} episode {number} of {career.agent} was in history that is dropped: its conditions cannot be read"
        ) from None
