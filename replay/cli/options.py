"""Arguments and options that verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

Dirs = Annotated[list[str], typer.Argument(metavar="DIR", help="A journal, several, or a folder of journals.")]
Dir = Annotated[str, typer.Argument(metavar="DIR", help="A journal.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
At = Annotated[str | None, typer.Option("--at", metavar="SEQ|TIME", help="As of this event, or this time (ISO 8601).")]
Since = Annotated[str | None, typer.Option(metavar="SEQ|TIME", help="From here on.")]
Until = Annotated[str | None, typer.Option(metavar="SEQ|TIME", help="Up to here, exclusive.")]


def names(text: str | None) -> list[str] | None:
    """The names in `A,B`; None where the option was not given."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]
