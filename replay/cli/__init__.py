"""The command line `journal VERB DIR…`. Its verbs are thin, live in rooms by what they are for, and are listed here.

    states      what all events add up to
    proofs      what holds, and what was found instead
    events      one by one
    files       what lies where, and what is written
    disk        what a disk can do
    programs    processes of their own

How a verb ends is told in `replay.answers`; what is told is made in `documents`, how it looks in `render`. What takes
long to import is imported by the verb that needs it, so that `--help` is quick.
"""

from __future__ import annotations

import functools
import sys
import warnings
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any

import typer

from journal.errors import JournalError
from replay.answers import FINE, INTERRUPTED, complain, words
from replay.cli import disk, events, files, programs, proofs, states

app = typer.Typer(
    name="journal",
    help="What a training has recorded: is it whole, what is in it, where does it go on.",
    epilog="DIR is a journal, or a folder of journals. Exit codes: 0 fine, 1 findings, 2 could not run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

VERBS: tuple[Callable[..., int], ...] = (
    states.replay,
    states.runs,
    states.totals,
    states.trends,
    proofs.verify,
    proofs.compare,
    proofs.diverge,
    proofs.diff,
    files.info,
    events.dump,
    events.tail,
    files.compact,
    files.copy,
    files.export,
    files.import_,
    disk.bench,
)
"""In the order of `--help`; a verb has its function's name, less an underscore where Python has that word."""
PROGRAMS: tuple[Callable[[typer.Context], int], ...] = (programs.demo,)
"""Verbs that take their own options, and hand them on."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # A path need not be text in the terminal's encoding; it is shown as far as it is.
            stream.reconfigure(errors="backslashreplace")
    warnings.showwarning = _warn
    given = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = app(given or ["--help"], prog_name="journal", standalone_mode=False)
    except typer.Abort:
        return complain("interrupted", INTERRUPTED)
    except Exception as error:
        format_message = getattr(error, "format_message", None)  # Of the parser: the arguments are wrong.
        return complain(f"{format_message()} (journal --help tells more)" if format_message else repr(error))
    return code if isinstance(code, int) else FINE


def _warn(message: Warning | str, *_: object, **__: object) -> None:
    complain(str(message))


def _guarded(verb: Callable[..., int]) -> Callable[..., int]:
    """A verb whose errors are one line on standard error; it returns the exit code."""

    @functools.wraps(verb)
    def guarded(*arguments: Any, **options: Any) -> int:
        try:
            code = verb(*arguments, **options)
            sys.stdout.flush()
            return code
        except BrokenPipeError:
            # Whoever reads has gone, as `| head` does. What is still buffered has nowhere to go either.
            try:
                sys.stdout.close()
            except BrokenPipeError:
                pass
            return FINE
        except KeyboardInterrupt:
            return complain("interrupted", INTERRUPTED)
        except (JournalError, OSError) as error:
            return complain(words(error))
        except typer.BadParameter:
            raise
        except Exception as error:  # Not expected, and still no reason to show a stack to who only wants an answer.
            return complain(f"{type(error).__name__}: {error}; this is a bug in training-journal: report it, please")

    return guarded


for _verb in VERBS:
    app.command(_verb.__name__.rstrip("_"))(_guarded(_verb))
for _program in PROGRAMS:
    app.command(
        _program.__name__,
        context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []},
    )(_program)
