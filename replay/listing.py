"""Listing: the lines of one journal or of several, printed as they are read: a log of any size can be listed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from journal.errors import JournalError
from replay.answers import words
from replay.documents import SCHEMA, dumps
from replay.lines import Line
from replay.many import Named

Read = Callable[[str], Iterable[Line]]
Errors = list[tuple[str, JournalError | OSError]]
"""Path and error of what could not be read to its end."""


def print_text(journals: Named, read: Read) -> Errors:
    """One line of text each; of several journals, under their paths."""
    errors: Errors = []
    for path in journals.paths:
        if journals.several:
            print(path)
        for line in _readable(path, read(path), errors):
            print(line.as_text())
    return errors


def print_objects(journals: Named, read: Read) -> Errors:
    """One JSON object per line, as soon as it is there; with its path where there are several journals."""
    errors: Errors = []
    for path in journals.paths:
        place = {"path": path} if journals.several else {}
        for line in _readable(path, read(path), errors):
            print(dumps({"schema": SCHEMA, **place, **line.as_document()}, indent=None), flush=True)
    return errors


def print_document(journals: Named, read: Read) -> Errors:
    """One JSON document with the lines under `cells`. It is whole, also where a journal cannot be read to its end.

    Raises where of a single journal nothing can be read; then nothing was printed.
    """
    errors: Errors = []
    if not journals.several:
        path = journals.paths[0]
        lines = iter(read(path))
        first = next(lines, None)
        print(f'{{"schema": {SCHEMA}, "path": {json.dumps(path)}, "cells": [', end="")
        _print_cells(_readable(path, chain([] if first is None else [first], lines), errors))
        print("]}")
        return errors
    print(f'{{"schema": {SCHEMA}, "journals": [', end="")
    for number, path in enumerate(journals.paths):
        print(f'{"," if number else ""}\n{{"path": {json.dumps(path)}, "cells": [', end="")
        _print_cells(_readable(path, read(path), errors))
        print("]}", end="")
    told = [{"path": path, "error": words(error)} for path, error in errors]
    print(f'], "merged": {{}}, "errors": {json.dumps(told)}}}')
    return errors


def _print_cells(lines: Iterable[Line]) -> None:
    for number, line in enumerate(lines):
        print(f"{',' if number else ''}\n{dumps(line.as_document(), indent=None)}", end="")


def _readable(path: str, lines: Iterable[Line], errors: Errors) -> Iterator[Line]:
    """The lines up to the first error, which is noted."""
    try:
        yield from lines
    except (JournalError, OSError) as error:
        errors.append((path, error))
