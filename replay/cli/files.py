"""Verbs about the files of a journal: what lies where, and what is written."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from replay.answers import FINDINGS, FINE, Reading, answer, complain, complain_of, when
from replay.cli.options import Dir, Dirs, Json, Since, Until, names


def info(dirs: Dirs, as_json: Json = False) -> int:
    """What lies where, and how it is written."""
    from replay import render
    from replay.info import info as info_of
    from replay.info import merged
    from replay.many import once

    found: dict[str, dict[str, Any]] = {}

    def read(path: str) -> dict[str, Any]:
        found[path] = info_of(path)
        return found[path]

    return answer(
        dirs,
        as_json,
        Reading(
            read=read,
            document=lambda document: document,
            show=render.show_info,
            merge=lambda counted: merged(counted, found),
            show_merged=render.show_merged_info,
            distinct=once,
        ),
    )


def compact(
    dirs: Dirs,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="How many snapshots stay.")] = 2,
    drop_history: Annotated[
        bool, typer.Option("--drop-history", help="Then drop history, for good: only the totals stay.")
    ] = False,
    as_json: Json = False,
) -> int:
    """Turn the log into Parquet.

    Sealed segments become history, which loses nothing, and a snapshot of the totals.
    """
    from replay import render
    from replay.compaction import Compacted
    from replay.compaction import compact as compact_one
    from replay.documents import compact_document

    def read(path: str) -> Compacted:
        with render.progress_bar(f"compacting {path}", quiet=as_json) as progress:
            return compact_one(path, dry_run=dry_run, keep=keep, drop_history=drop_history, progress=progress)

    return answer(
        dirs, as_json, Reading(read, lambda done: compact_document(done, dry_run=dry_run), render.show_compact)
    )


def copy(
    source: Dir,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A new or empty directory.")],
    as_json: Json = False,
) -> int:
    """Copy a journal, also one being written.

    What it has promised so far, sealed: the copy is a journal of its own.
    """
    from replay import render
    from replay.copying import copy as copy_one
    from replay.documents import SCHEMA, copy_document, dumps

    with render.progress_bar(f"copying {source}", quiet=as_json) as progress:
        document = copy_document(copy_one(source, target, progress=progress))
    if as_json:
        print(dumps({"schema": SCHEMA, "path": source, **document}))
    else:
        render.show_copy(render.console(), document)
    return FINDINGS if document["damaged"] else FINE


def export(
    dirs: Dirs,
    to: Annotated[str, typer.Option(metavar="FORM", help="parquet, csv, jsonl (events), or json (totals).")],
    output: Annotated[str | None, typer.Option(metavar="FILE", help="Else standard output.")] = None,
    columns: Annotated[str | None, typer.Option(metavar="A,B", help="Only these columns.")] = None,
    agents: Annotated[str | None, typer.Option(metavar="A,B", help="Only these agents.")] = None,
    kinds: Annotated[str | None, typer.Option(metavar="A,B", help="Only these kinds of events.")] = None,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> int:
    """Events or totals for other tools.

    All events with all columns can be imported again. The file gets its content at once, when all of it is there.
    """
    from replay.documents import SCHEMA, dumps
    from replay.exporting import FORMS, export_events, export_totals
    from replay.many import named

    form = next((form for form in FORMS if form == to), None)
    if form is None:
        raise typer.BadParameter(f"--to: {to!r} is no form of export: there are {', '.join(FORMS)}")
    if as_json and output is None:
        raise typer.BadParameter("--json tells what was written: give --output FILE with it")
    paths = named(dirs).paths
    chosen = {"agents": names(agents), "kinds": names(kinds), "since": when(since), "until": when(until)}
    if form != "json":
        try:
            done = export_events(paths, form, output, names(columns), **chosen)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None
    elif columns is None and all(one is None for one in chosen.values()):
        done = export_totals(paths, output)
    else:
        raise typer.BadParameter("--to json exports totals: no columns, agents, kinds or range of it can be chosen")
    what = "agents" if form == "json" else "events"
    if as_json:
        copies = [{"path": path, "of": of} for path, of in done.copies.items()]
        told = {"paths": list(paths), "to": to, "output": output, what: done.written, "copies": copies}
        print(dumps({"schema": SCHEMA, **told}))
    elif output is not None:
        print(f"{done.written:,} {what} are in {output}")
    for path, of in () if as_json else done.copies.items():
        complain(f"counted once: {path} is a copy of {of}")
    return complain_of(done.errors)


def import_(
    source: Annotated[
        str, typer.Argument(metavar="FILE", help="What `journal export` wrote: Parquet, CSV, JSON lines.")
    ],
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A new or empty directory.")],
    as_json: Json = False,
) -> int:
    """Exported events as a new journal.

    Each event has the seq, time and content that it had. Checkpoints are no events: no training goes on from it.
    """
    from replay import render
    from replay.documents import SCHEMA, dumps
    from replay.importing import import_events

    with render.progress_bar(f"importing {source}", quiet=as_json) as progress:
        done = import_events(source, target, progress)
    if as_json:
        print(dumps({"schema": SCHEMA, "path": source, **done._asdict()}))
    else:
        print(f"{done.events:,} events are in {done.target}\n  promised up to {done.head.seq}:{done.head.chain}")
    return FINE
