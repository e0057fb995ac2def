"""The command line `journal VERB DIR…`: its verbs. Each is thin, and ends as `replay.answers` says.

What is told is made in `documents`, how it looks in `render`. What takes long to import is imported by the verb that
needs it, so that `--help` is quick.
"""

from __future__ import annotations

import functools
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from io import TextIOWrapper
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from journal.errors import JournalError, NotComparable
from replay.answers import (
    FINDINGS,
    FINE,
    INTERRUPTED,
    Reading,
    answer,
    complain,
    complain_of,
    when,
    words,
)

if TYPE_CHECKING:
    from replay.lines import Line
    from replay.state import State
    from replay.verify import Report

app = typer.Typer(
    name="journal",
    help="What a training has recorded: is it whole, what is in it, where does it go on.",
    epilog="DIR is a journal, or a folder of journals. Exit codes: 0 fine, 1 findings, 2 could not run.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

Dirs = Annotated[list[str], typer.Argument(metavar="DIR", help="A journal, several, or a folder of journals.")]
Dir = Annotated[str, typer.Argument(metavar="DIR", help="A journal.")]
Json = Annotated[bool, typer.Option("--json", help="One JSON document on standard output.")]
At = Annotated[str | None, typer.Option("--at", metavar="SEQ|TIME", help="As of this event, or this time (ISO 8601).")]


def verb(function: Callable[..., int]) -> Callable[..., int]:
    """A verb whose errors are one line on standard error; it returns the exit code."""

    @functools.wraps(function)
    def guarded(*arguments: Any, **options: Any) -> int:
        try:
            code = function(*arguments, **options)
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

    return app.command(function.__name__.rstrip("_"))(guarded)


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


# -- verbs that read ---------------------------------------------------------------------------------------------------


@verb
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


@verb
def runs(dirs: Dirs, as_json: Json = False) -> int:
    """Runs and attempts, and how each ended."""
    from replay import render
    from replay.documents import runs_document
    from replay.loading import load

    return answer(dirs, as_json, Reading(load, lambda state: runs_document(state, live=_live(state)), render.show_runs))


@verb
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


@verb
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
    from replay.promises import Head
    from replay.verify import Report
    from replay.verify import verify as verify_one

    try:
        noted = None if expect is None else Head.parse(expect)
    except ValueError as error:
        raise typer.BadParameter(f"--expect: {error}") from None

    def read(path: str) -> Report:
        with render.progress_bar(f"verifying {path}", quiet=as_json) as progress:
            return verify_one(path, deep=deep, expect=noted, progress=progress)

    return answer(
        dirs,
        as_json,
        Reading(
            read=read,
            document=Report.as_document,
            show=render.show_verify,
            merge=_merged_reports,
            show_merged=render.show_merged_verify,
            code=lambda document: FINDINGS if document["status"] == "corrupt" else FINE,
        ),
    )


@verb
def compare(
    dirs: Dirs,
    agents: Annotated[str | None, typer.Option(metavar="A,B", help="Only these agents.")] = None,
    run: Annotated[
        str | None, typer.Option(metavar="RUN", help="In this run; else each in its newest completed.")
    ] = None,
    as_json: Json = False,
) -> int:
    """Did the agents see the same bars?

    Comparable, not comparable (exit 1), or not provable (exit 1), and the first differences.
    """
    from replay import render
    from replay.compare import compare as compare_agents
    from replay.documents import compare_document
    from replay.loading import load
    from replay.many import named
    from replay.state import State

    names = None if agents is None else [name.strip() for name in agents.split(",") if name.strip()]
    several = named(dirs).several

    def together(states: State | dict[str, State]) -> dict[str, Any]:
        return compare_document(compare_agents(states, agents=names, run=run))

    def alone(state: State) -> dict[str, Any]:
        try:
            return together(state)
        except NotComparable as error:
            if not several:
                raise
            # The agents that were named are to be found in the journals together, not in each.
            return {**compare_document(compare_agents(State())), "reason": str(error)}

    return answer(
        dirs,
        as_json,
        Reading(
            read=load,
            document=alone,
            show=render.show_compare,
            merge=together,
            code=lambda document: FINE if document["verdict"] == "comparable" else FINDINGS,
        ),
    )


@verb
def info(dirs: Dirs, as_json: Json = False) -> int:
    """What lies where, and how it is written."""
    from replay import render
    from replay.info import info as info_of

    return answer(dirs, as_json, Reading(info_of, lambda document: document, render.show_info))


@verb
def dump(
    dirs: Dirs,
    since: Annotated[str | None, typer.Option(metavar="SEQ|TIME", help="From here on.")] = None,
    until: Annotated[str | None, typer.Option(metavar="SEQ|TIME", help="Up to here, exclusive.")] = None,
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


@verb
def tail(
    dirs: Dirs,
    count: Annotated[int, typer.Option("-n", "--lines", min=0, help="How many events.")] = 10,
    following: Annotated[bool, typer.Option("-f", "--follow", help="Go on with what a training appends.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> int:
    """The last events; -f follows a live run."""
    from replay.lines import batch_lines
    from replay.listing import print_objects, print_text
    from replay.many import named
    from replay.tail import follow, last

    journals = named(dirs)
    if following and len(journals.paths) > 1:
        raise typer.BadParameter("-f follows one journal: name one")
    show = print_objects if as_json else print_text

    def lines(path: str) -> Iterator[Line]:
        newest, since = last(path, count)
        for batch in chain(newest, follow(path, since) if following else ()):
            yield from batch_lines(batch)

    try:
        return complain_of(show(journals, lines))
    except KeyboardInterrupt:
        if following:
            return FINE  # The way to end it.
        raise


# -- verbs that write --------------------------------------------------------------------------------------------------


@verb
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


@verb
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


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []})
def demo(context: typer.Context) -> int:
    """Train, kill, resume, and lose nothing.

    Three agents learn on real bars; its own options: --dir DIR, --keep, --json.
    """
    # A process of its own: the demo records with the adapter, which is a layer above this one.
    process = subprocess.Popen([sys.executable, "-m", "agents_adapter.demo", *context.args])
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue  # It got the same signal, and ends by itself.
        return code if code >= 0 else 128 - code


# -- what several journals are together --------------------------------------------------------------------------------


def _live(state: State) -> bool:
    from journal.writer import LOCK_PATH

    return state.storage is not None and state.storage.locked(LOCK_PATH)


def _merged_totals(states: dict[str, State]) -> dict[str, Any]:
    from replay.documents import merged_totals
    from replay.state import State, merge

    return merged_totals(functools.reduce(merge, states.values(), State()))


def _merged_reports(reports: dict[str, Report]) -> dict[str, Any]:
    order = ("clean", "torn", "corrupt")
    return {
        "status": max((report.status for report in reports.values()), key=order.index),
        "live": any(report.live for report in reports.values()),
        "events": sum(report.events for report in reports.values()),
        "journals": len(reports),
    }
