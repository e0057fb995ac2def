"""Verbs that tell what all events add up to."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from replay.answers import Reading, answer, when
from replay.cli.options import At, Dirs, Json

if TYPE_CHECKING:
    from replay.state import State


def replay(dirs: Dirs, at: At = None, as_json: Json = False) -> int:
    """The state: runs, agents, resume points.

    What counts of each agent, from which checkpoint it goes on, what will be done again, and how to go on.
    """
    from replay import render
    from replay.documents import replay_document
    from replay.loading import load
    from replay.many import distinct

    moment = when(at)
    return answer(
        dirs,
        as_json,
        Reading(
            read=lambda path: load(path, moment),
            document=lambda state: replay_document(state, live=_live(state), past=at is not None),
            show=render.show_replay,
            merge=_merged_totals,
            show_merged=render.show_totals,
            distinct=distinct,
        ),
    )


def runs(dirs: Dirs, as_json: Json = False) -> int:
    """Runs and attempts, and how each ended."""
    from replay import render
    from replay.documents import runs_document
    from replay.loading import load

    return answer(dirs, as_json, Reading(load, lambda state: runs_document(state, live=_live(state)), render.show_runs))


def totals(dirs: Dirs, at: At = None, as_json: Json = False) -> int:
    """Cumulative totals of each agent."""
    from replay import render
    from replay.documents import totals_of
    from replay.loading import load
    from replay.many import distinct

    moment = when(at)
    return answer(
        dirs,
        as_json,
        Reading(lambda path: load(path, moment), totals_of, render.show_totals, _merged_totals, distinct=distinct),
    )


def _live(state: State) -> bool:
    from journal.writer import LOCK_PATH

    return state.storage is not None and state.storage.locked(LOCK_PATH)


def _merged_totals(states: dict[str, State]) -> dict[str, Any]:
    from replay.documents import merged_totals
    from replay.state import State, merge

    return merged_totals(functools.reduce(merge, states.values(), State()))
