"""The verb about a disk: how fast a journal is written there."""

from __future__ import annotations

from typing import Annotated

import typer

from replay.answers import FINE
from replay.cli.options import Json


def bench(
    directory: Annotated[str, typer.Argument(metavar="DIR", help="A folder on the disk to measure (here).")] = ".",
    as_json: Json = False,
) -> int:
    """How fast is a journal written on this disk?

    Each level of safety with the limits beside it, in 20 s. Writes below DIR, and removes what it wrote.
    """
    # The log measures itself, a layer below: nothing here writes.
    from journal.speed.disk import measure_disk
    from replay import render
    from replay.documents import SCHEMA, dumps

    with render.progress_bar(f"measuring {directory}", quiet=as_json, unit="contenders") as progress:
        document = measure_disk(directory, progress=progress)
    if as_json:
        print(dumps({"schema": SCHEMA, "path": directory, **document}))
    else:
        render.show_bench(render.console(), document)
    return FINE
