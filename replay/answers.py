"""Answers: how every verb of the command line ends. One document, or words for people; an exit code; one line of error.

0  fine      1  findings: corrupt, not comparable, not provable      2  could not run      130  interrupted
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from journal.errors import JournalError

if TYPE_CHECKING:
    from rich.console import Console

    from replay.many import Distinct

FINE, FINDINGS, COULD_NOT_RUN, INTERRUPTED = 0, 1, 2, 130


class Reading(NamedTuple):
    """What a reading verb does with each journal, and with all of them together."""

    read: Callable[[str], Any]
    document: Callable[[Any], dict[str, Any]]
    show: Callable[[Console, dict[str, Any]], None]
    merge: Callable[[dict[str, Any]], dict[str, Any]] = lambda values: {}
    """What was read of each path → the document of all together; empty where that would say nothing."""
    show_merged: Callable[[Console, dict[str, Any]], None] | None = None
    """`show`, if None."""
    distinct: Callable[[dict[str, Any]], Distinct[Any]] | None = None
    """What leaves copies out before they are merged, where they would count twice."""
    code: Callable[[dict[str, Any]], int] = lambda document: FINE
    """The exit code of a document: a journal's, or the merged one."""


def answer(places: Sequence[str], as_json: bool, reading: Reading) -> int:
    """Read the journals that were named and print what was found."""
    from replay.documents import SCHEMA, dumps
    from replay.many import named, read_each
    from replay.render import console, show_dropped

    paths, several = named(places)
    if not several:
        document = reading.document(reading.read(paths[0]))
        if as_json:
            print(dumps({"schema": SCHEMA, "path": paths[0], **document}))
        else:
            out = console()
            reading.show(out, document)
            show_dropped(out, document)
        return reading.code(document)

    def read(path: str) -> tuple[Any, dict[str, Any]]:
        value = reading.read(path)
        return value, reading.document(value)

    outcomes = read_each(paths, read)
    values: dict[str, Any] = {one.path: one.value[0] for one in outcomes if one.value is not None}
    documents = {one.path: one.value[1] for one in outcomes if one.value is not None}
    errors = [(one.path, one.error) for one in outcomes if one.error is not None]
    copies: dict[str, str] = {}
    if reading.distinct is not None:
        values, copies, parted = reading.distinct(values)
        errors += parted
    merged = reading.merge(values) if values else {}
    if copies:
        merged["copies"] = [{"path": path, "of": of} for path, of in copies.items()]
    if as_json:
        journals = [{"path": path, **document} for path, document in documents.items()]
        told = [{"path": path, "error": words(error)} for path, error in errors]
        print(dumps({"schema": SCHEMA, "journals": journals, "merged": merged, "errors": told}))
    else:
        out = console()
        for path, document in documents.items():
            out.print(path, style="bold", soft_wrap=True)
            reading.show(out, document)
            show_dropped(out, document)
        if merged:
            out.print("all together", style="bold")
            (reading.show_merged or reading.show)(out, merged)
            for path, of in copies.items():
                out.print(f"counted once: {path} is a copy of {of}", soft_wrap=True)
    if errors:
        return complain_of(errors)
    return max(map(reading.code, [merged] if merged else documents.values()))


def complain_of(errors: Sequence[tuple[str, Exception]]) -> int:
    """One line for each journal that could not be read; returns the exit code."""
    for path, error in errors:
        told = words(error)
        complain(told if path in told else f"{path}: {told}")
    return COULD_NOT_RUN if errors else FINE


def complain(message: str, code: int = COULD_NOT_RUN) -> int:
    """One line on standard error; returns the exit code."""
    print(f"journal: {_one_line(message)}", file=sys.stderr)
    return code


def words(error: Exception) -> str:
    """An error as one sentence: what, where, what to do next."""
    if isinstance(error, JournalError) or not isinstance(error, OSError):
        return str(error)
    what = error.strerror or str(error) or type(error).__name__
    place = f"{error.filename}: " if error.filename else ""
    advice = "; check who owns it" if isinstance(error, PermissionError) else ""
    return f"{place}{what}{advice}"


def _one_line(text: str) -> str:
    return "".join(one if one.isprintable() else " " for one in text)


def when(text: str | None) -> int | datetime | None:
    """A seq, or a time as ISO 8601 (local, where it names no zone). Raises `typer.BadParameter` for anything else."""
    if text is None:
        return None
    if text.isdecimal() and len(text) < 20:
        return int(text)
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is neither a seq nor a time such as 2026-01-31T12:00:00Z") from None
