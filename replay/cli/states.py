"""Verbs that tell what all events add up to."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Annotated, Any

import typer

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
    from replay.documents import merged_runs, runs_document
    from replay.loading import load
    from replay.many import distinct

    def told(state: State) -> dict[str, Any]:
        return runs_document(state, live=_live(state))

    return answer(
        dirs,
        as_json,
        Reading(
            read=load,
            document=told,
            show=render.show_runs,
            merge=lambda states: merged_runs({path: told(state) for path, state in states.items()}),
            distinct=distinct,
        ),
    )


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


def trends(
    dirs: Dirs,
    agent: Annotated[str | None, typer.Option(metavar="NAME", help="Only this agent.")] = None,
    by: Annotated[str | None, typer.Option(metavar="run|instrument|day|life", help="A row for each of them.")] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="Of the episodes' ends, instead of the reward.")
    ] = "reward",
    at: At = None,
    parquet: Annotated[str | None, typer.Option(metavar="FILE", help="Write the rows to this file.")] = None,
    as_json: Json = False,
) -> int:
    """How many episodes in its life, and is it getting better?

    Of each agent, or by run, instrument, day or stretch of its life; what was superseded is counted apart.
    """
    from replay import render
    from replay.documents import trends_document
    from replay.exporting import opened
    from replay.loading import load, with_trends
    from replay.many import distinct, named
    from replay.rows import BY, rows, write_parquet
    from replay.state import State, merge

    if by is not None and by not in BY:
        raise typer.BadParameter(f"--by {by}: use {', '.join(BY)}")
    chosen = next(one for one in BY if one == (by or "life"))
    moment, several = when(at), named(dirs).several

    def check(state: State, where: str) -> None:
        if agent is not None and agent not in state.agents:
            known = ", ".join(state.agents) or "none"
            raise typer.BadParameter(f"agent {agent!r} is not in {where} (known: {known})")

    def alone(state: State) -> dict[str, Any]:
        if not several:
            check(state, "this journal")
        if parquet is not None and not several:
            write(state)
        return trends_document(state, chosen, metric, agent)

    def together(states: dict[str, State]) -> dict[str, Any]:
        merged = functools.reduce(merge, states.values(), State())
        check(merged, "these journals")
        if parquet is not None:
            write(merged)
        return trends_document(merged, chosen, metric, agent)

    def write(state: State) -> None:
        with opened(parquet, text=False) as stream:
            write_parquet(stream, [row for row in rows(state, chosen) if agent in (None, row["agent"])], chosen)

    return answer(
        dirs,
        as_json,
        Reading(
            read=lambda path: with_trends(load(path, moment)),
            document=alone,
            show=functools.partial(render.show_trends, by=by),
            merge=together,
            distinct=distinct,
        ),
    )


def _live(state: State) -> bool:
    from journal.writer import LOCK_PATH

    return state.storage is not None and state.storage.locked(LOCK_PATH)


def _merged_totals(states: dict[str, State]) -> dict[str, Any]:
    from replay.documents import merged_totals
    from replay.state import State, merge

    return merged_totals(functools.reduce(merge, states.values(), State()))
