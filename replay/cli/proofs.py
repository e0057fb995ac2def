"""Verbs that prove something, or say what they found instead."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from journal.errors import NotComparable
from replay.answers import FINDINGS, FINE, Reading, answer
from replay.cli.options import Dirs, Json, names

if TYPE_CHECKING:
    from replay import divergence
    from replay.many import Distinct
    from replay.state import State
    from replay.verify import Report


def verify(
    dirs: Dirs,
    deep: Annotated[bool, typer.Option("--deep", help="Also history, snapshots, checkpoints, every checksum.")] = False,
    expect: Annotated[
        str | None, typer.Option(metavar="SEQ:CHAIN", help="A noted receipt: was anything before it changed since?")
    ] = None,
    as_json: Json = False,
) -> int:
    """Is it clean, torn or corrupt, and where?"""
    from replay import render
    from replay.many import named, once
    from replay.promises import Head
    from replay.verify import Report
    from replay.verify import verify as verify_one

    try:
        noted = None if expect is None else Head.parse(expect)
    except ValueError as error:
        raise typer.BadParameter(f"--expect: {error}") from None
    if noted is not None and len(named(dirs).paths) > 1:
        raise typer.BadParameter("--expect proves the journal that the receipt was noted of: name one")
    reports: dict[str, Report] = {}

    def read(path: str) -> Report:
        with render.progress_bar(f"verifying {path}", quiet=as_json) as progress:
            reports[path] = verify_one(path, deep=deep, expect=noted, progress=progress)
        return reports[path]

    def distinct(found: dict[str, Report]) -> Distinct[Report]:
        counted = once(found)
        told = [(path, error) for path, error in counted.parted if found[path].status != "corrupt"]
        return counted._replace(parted=told)  # What is corrupt is a finding already.

    return answer(
        dirs,
        as_json,
        Reading(
            read=read,
            document=Report.as_document,
            show=render.show_verify,
            merge=lambda counted: _merged_reports(counted, reports),
            distinct=distinct,
            show_merged=render.show_merged_verify,
            code=lambda document: FINDINGS if document["status"] == "corrupt" else FINE,
        ),
    )


def compare(
    dirs: Dirs,
    agents: Annotated[str | None, typer.Option(metavar="A,B", help="Only these agents.")] = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="In this run; else each in its newest completed.")
    ] = None,
    any_order: Annotated[bool, typer.Option("--any-order", help="The same bars, in whatever order.")] = False,
    common: Annotated[bool, typer.Option("--common", help="Only the episodes that all of them saw.")] = False,
    tolerance: Annotated[
        float | None, typer.Option(metavar="X", help="The same after rounding to multiples of X, as recorded.")
    ] = None,
    metric: Annotated[
        str, typer.Option(metavar="NAME", help="What results are of: reward, or what episode.end was given.")
    ] = "reward",
    as_json: Json = False,
) -> int:
    """Did the agents see the same bars?

    Comparable, not comparable (exit 1), or not provable (exit 1), and the first differences. Only comparable agents
    have results: means, intervals, and who may be called better.
    """
    from replay import render
    from replay.compare import compare as compare_agents
    from replay.documents import compare_document, dropped_of
    from replay.loading import load
    from replay.many import distinct, named
    from replay.state import State

    several = named(dirs).several
    if tolerance is not None and not 0.0 < tolerance < math.inf:
        raise typer.BadParameter(f"--tolerance: {tolerance} is no step to round prices to: give one such as 0.0001")

    def together(states: State | dict[str, State]) -> dict[str, Any]:
        comparison = compare_agents(
            states, agents=names(agents), run=run, any_order=any_order, common=common, tolerance=tolerance
        )
        if comparison.verdict != "comparable":
            return compare_document(comparison)
        from replay.results import results, tried_in

        tried = tried_in([states] if isinstance(states, State) else states.values())
        return compare_document(comparison, results(comparison, tried, metric))

    def alone(state: State) -> dict[str, Any]:
        try:
            return {**together(state), "dropped": dropped_of(state)}
        except NotComparable as error:
            if not several:
                raise
            # The agents that were named are to be found in the journals together, not in each.
            return {**compare_document(compare_agents(State())), "reason": str(error)}

    return answer(
        dirs,
        as_json,
        Reading(
            read=lambda path: load(path, whole=True),
            document=alone,
            show=render.show_compare,
            merge=together,
            distinct=distinct,
            code=lambda document: FINE if document["verdict"] == "comparable" else FINDINGS,
        ),
    )


def diverge(dirs: Dirs, as_json: Json = False) -> int:
    """Was what was done again after a rewind the same as before?

    Exit 1 where a re-run episode has other rewards than its first run on the same bars, with the same seed, and where
    nobody can know, because history was dropped.
    """
    from replay import divergence, render
    from replay.documents import dropped_of
    from replay.loading import load

    def read(path: str) -> _Reruns:
        with render.progress_bar(f"comparing {path}", quiet=as_json, unit="events") as progress:
            state = load(path)
            return _Reruns(state, divergence.compared(state, progress))

    return answer(
        dirs,
        as_json,
        Reading(
            read=read,
            document=lambda found: {**found.report.as_document(), "dropped": dropped_of(found.state)},
            show=render.show_diverge,
            merge=lambda found: divergence.merged({path: one.report for path, one in found.items()}),
            distinct=_distinct_reruns,
            code=lambda document: FINDINGS if document["diverged"] or document["rewinds_dropped"] else FINE,
        ),
    )


def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="A journal.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another one.")],
    as_json: Json = False,
) -> int:
    """Are two journals the same training?

    Exit 1 where an episode has other rewards, seed or bars, where one of them has what the other lacks, and where
    nobody can know, because history was dropped.
    """
    from replay import differences, render
    from replay.documents import SCHEMA, dumps

    with render.progress_bar(f"comparing {one}", quiet=as_json, unit="events") as progress:
        document = differences.diff(one, other, progress=progress).as_document()
    document = {"a": one, "b": other, **document}
    if as_json:
        print(dumps({"schema": SCHEMA, **document}))
    else:
        render.show_diff(render.console(), document)
    return FINE if document["verdict"] == "equal" else FINDINGS


class _Reruns(NamedTuple):
    """What was done again in a journal, and the state that tells it from its copies."""

    state: State
    report: divergence.Report


def _distinct_reruns(found: dict[str, Any]) -> Distinct[Any]:
    from replay.many import Distinct, distinct

    counted = distinct({path: one.state for path, one in found.items()})
    return Distinct({path: found[path] for path in counted.states}, counted.copies, counted.parted)


def _merged_reports(counted: dict[str, Report], reports: dict[str, Report]) -> dict[str, Any]:
    """The worst of all, copies too; the events of each journal once."""
    order = ("clean", "torn", "corrupt")
    return {
        "status": max((report.status for report in reports.values()), key=order.index),
        "live": any(report.live for report in reports.values()),
        "events": sum(report.events for report in counted.values()),
        "journals": len(counted),
    }
