"""Verbs that show events one by one."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import TYPE_CHECKING, Annotated

import typer

from replay.answers import FINE, complain_of, when
from replay.cli.options import Dirs, Json, Since, Until

if TYPE_CHECKING:
    from replay.lines import Line


def dump(
    dirs: Dirs,
    since: Since = None,
    until: Until = None,
    as_json: Json = False,
) -> int:
    """Every event and mark, one line each.

    Of a damaged journal, what precedes the damage.
    """
    from replay.dump import dump as dump_of
    from replay.listing import print_document, print_text
    from replay.many import named

    first, end = when(since), when(until)
    show = print_document if as_json else print_text
    return complain_of(show(named(dirs), lambda path: dump_of(path, since=first, until=end)))


def tail(
    dirs: Dirs,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many events.")] = 10,
    following: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what a training appends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> int:
    """The last events; -f follows a live run."""
    from replay.following import follow_batches
    from replay.lines import batch_lines
    from replay.listing import print_objects, print_text
    from replay.many import named
    from replay.tail import last

    journals = named(dirs)
    if following and len(journals.paths) > 1:
        raise typer.BadParameter("-f follows one journal: name one")
    show = print_objects if as_json else print_text

    def lines(path: str) -> Iterator[Line]:
        newest, since = last(path, count)
        for batch in chain(newest, follow_batches(path, since) if following else ()):
            yield from batch_lines(batch)

    try:
        return complain_of(show(journals, lines))
    except KeyboardInterrupt:
        if following:
            return FINE  # The way to end it.
        raise
