"""Verbs about the files of a journal: what lies where, and what is written."""

from __future__ import annotations

from typing import Annotated

import typer

from replay.answers import FINDINGS, FINE, Reading, answer
from replay.cli.options import Dir, Dirs, Json


def info(dirs: Dirs, as_json: Json = False) -> int:
    """What lies where, and how it is written."""
    from replay import render
    from replay.info import info as info_of

    return answer(dirs, as_json, Reading(info_of, lambda document: document, render.show_info))


def compact(
    dirs: Dirs,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell what would be done.")] = False,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="How many snapshots stay.")] = 2,
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
            return compact_one(path, dry_run=dry_run, keep=keep, progress=progress)

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
