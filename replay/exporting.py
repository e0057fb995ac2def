"""Exporting: what a journal holds, for other tools: its events as Parquet, CSV or JSON lines, or its totals as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import IO, TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from journal.errors import JournalError, NotAJournal
from journal.manifest import PATH as MANIFEST_PATH
from journal.storage import inside, replacing
from journal.storage.disk import DiskStorage
from replay.documents import dumps
from replay.frames import totals_document
from replay.loading import load
from replay.many import Distinct, distinct, once, read_each
from replay.state import State, merge

if TYPE_CHECKING:
    import pyarrow as pa

Form = Literal["parquet", "csv", "jsonl", "json"]
FORMS: Final[tuple[Form, ...]] = get_args(Form)
_STATS: Final = (
    *("total_episodes", "total_steps", "total_reward", "total_training_time"),
    *("runs", "attempts", "last_updated"),
)

Errors = Sequence[tuple[str, Exception]]
"""Path and error of what could not be read to its end."""


class Exported(NamedTuple):
    """What was written."""

    written: int
    """Events; agents, where it is totals."""
    errors: Errors
    """Of several journals, those that could not be read to their end, of which what precedes the damage is written; and
    those that share their beginning with another one, which are left out."""
    copies: Mapping[str, str]
    """Of several journals: path of a copy, which is left out → path of the one that is written."""


def export_events(
    paths: Sequence[str], form: Form, output: str | None, columns: Sequence[str] | None, **chosen: Any
) -> Exported:
    """Write the events of these journals, one after the other; of several, `path` says whose each one is.

    Of a journal and its copies the longest is written, so that nothing is counted twice.

    `chosen` are the arguments of `replay.events` that choose some. All events of one journal, with all columns (None),
    can be imported again. Raises as `replay.events` and `opened` do.
    """
    import pyarrow as pa

    from replay import forms, table
    from replay.query import events

    several = len(paths) > 1
    found = once(dict.fromkeys(paths)) if several else Distinct(dict.fromkeys(paths), {}, [])
    wanted = table.EXACT.names if columns is None else columns
    errors: list[tuple[str, Exception]] = [*found.parted]
    readers: dict[str, Iterator[pa.RecordBatch]] = {}
    for path in found.states:  # What makes no sense is refused before a file.
        try:
            readers[path] = events(path, columns=wanted, **chosen)
        except (JournalError, OSError) as error:
            if not several:
                raise
            errors.append((path, error))
    schema = table.select(wanted)
    if several:
        schema = schema.insert(0, pa.field(forms.PATH, pa.dictionary(pa.int32(), pa.string()), nullable=False))

    def rows() -> Iterator[pa.RecordBatch]:
        for path, reader in readers.items():
            try:
                for batch in reader:
                    yield forms.with_path(batch, path, schema) if several else batch
            except (JournalError, OSError) as error:
                if not several:
                    raise
                errors.append((path, error))

    with opened(output, text=form != "parquet") as stream:
        return Exported(forms.WRITERS[form](rows(), schema, stream), errors, found.copies)


def export_totals(paths: Sequence[str], output: str | None) -> Exported:
    """Write the cumulative totals of each agent in these journals together, each journal once: effective, phase train.

    Raises as `replay.load` and `opened` do.
    """
    if len(paths) == 1:
        state, errors, copies = load(paths[0]), list[tuple[str, Exception]](), dict[str, str]()
    else:
        outcomes = read_each(paths, load)
        found = distinct({one.path: one.value for one in outcomes if one.value is not None})
        state, copies = reduce(merge, found.states.values(), State()), found.copies
        errors = [*((one.path, one.error) for one in outcomes if one.error is not None), *found.parted]
    stats = {}
    for name, agent in state.agents.items():
        totals = totals_document(agent)
        stats[name] = {key: totals[key] for key in _STATS}
    with opened(output, text=True) as stream:
        stream.write(dumps({"agent_cumulative_stats": stats}).encode() + b"\n")
    return Exported(len(stats), errors, copies)


@contextmanager
def opened(output: str | None, *, text: bool) -> Iterator[IO[bytes]]:
    """Where to write: the file `output`, which gets its content at once, when all of it is durable; or standard output.

    Raises `NotAJournal` where the file would lie in a journal, or bytes that are no text would go to a terminal.
    """
    if output is None:
        if not text and sys.stdout.isatty():
            raise NotAJournal("Parquet is nothing for a terminal: give --output FILE")
        sys.stdout.flush()
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    storage, name = beside(output)
    within = storage.root
    while within != os.path.dirname(within):
        if os.path.lexists(os.path.join(within, MANIFEST_PATH)):
            raise NotAJournal(f"{output}: lies inside the journal {within}; give a file outside of it")
        within = os.path.dirname(within)
    if os.path.isdir(output):
        raise NotAJournal(f"{output}: a directory; give the name of a file")
    with replacing(storage, name) as stream:
        yield stream


def beside(path: str) -> tuple[DiskStorage, str]:
    """(the directory that a path lies in, its name there). Raises `NotAJournal` for a name that cannot be given."""
    above, name = os.path.split(os.path.abspath(path))
    try:
        return DiskStorage(os.path.realpath(above)), inside(name)
    except ValueError:
        raise NotAJournal(f"{path}: give a name without '\\' that does not begin like a drive, 'c:'") from None
