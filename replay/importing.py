"""Importing: exported events as a new journal, in which every event has the seq, the time and the content that it had.

What it takes is an export of all events with all columns. What it makes has an id and a chain of its own: it states
what the export said, not that nobody changed that. Checkpoints are files, no events: they are not in it, so its totals,
runs and comparisons are as before, and no training goes on from it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

import journal
from journal.errors import EventRejected, JournalFailed, JournalLocked, NotAJournal
from journal.importing import Rows, Then, append_rows
from journal.live import by_system, failure
from journal.manifest import PATH as MANIFEST_PATH
from journal.segment import DIRECTORY
from journal.storage.disk import DiskStorage
from journal.writer import LOCK_PATH
from replay import forms
from replay.exporting import beside
from replay.many import UNFINISHED
from replay.progress import Progress, silent
from replay.promises import Head


class Imported(NamedTuple):
    """What is in the new journal; durable."""

    target: str
    events: int
    head: Head


def import_events(
    source: str | os.PathLike[str], target: str | os.PathLike[str], progress: Progress = silent
) -> Imported:
    """Make a new journal in `target`, a new or empty directory, of the file `source` (Parquet, CSV or JSON lines).

    The directory gets its name when everything is promised. Raises `NotAJournal` where the target is taken or the
    source is no such file, `EventRejected` for an event that is missing or cannot be, `JournalFailed` (`DiskFull`).
    """
    source, target = os.fspath(source), os.fspath(target)
    if os.path.lexists(target) and (not os.path.isdir(target) or os.listdir(target)):
        raise NotAJournal(f"{target}: it is there already, and not empty; give a new or empty directory")
    folder, name = beside(target)
    clock = Then()
    try:
        _clear(folder, name + UNFINISHED)
        try:
            with journal.open(os.path.join(folder.root, name + UNFINISHED), sync="close", clock=clock) as log:
                for rows in _read(source, progress):
                    append_rows(log, clock, rows)
                if not log.next_seq:
                    raise NotAJournal(f"{source}: there is no event in it")
                receipt = log.sync()
            folder.rename(name + UNFINISHED, name)
        except BaseException:
            _clear(folder, name + UNFINISHED)
            raise
        folder.sync_directory("")
    except OSError as error:
        if not by_system(error):
            raise
        raise failure(error, f"importing into {target}") from error
    events = receipt.seq + 1
    return Imported(target, events, Head(receipt.seq, receipt.chain))


def _clear(folder: DiskStorage, name: str) -> None:
    """Take away what an import that was cut off has left."""
    if not folder.exists(name):
        return
    if folder.locked(f"{name}/{LOCK_PATH}"):
        raise JournalLocked(
            f"{folder.root}/{name}: another process imports there; wait for it, or give another directory"
        )
    strange = set(folder.list(name)) - {MANIFEST_PATH, f"{MANIFEST_PATH}.tmp", LOCK_PATH, DIRECTORY}
    if strange:
        what = ", ".join(sorted(strange)[:3])
        raise NotAJournal(f"{folder.root}/{name}: not left by an import ({what}); remove it, or give another directory")
    for directory in (f"{name}/{DIRECTORY}", name):
        for one in folder.list(directory):
            if one != DIRECTORY:
                folder.remove(f"{directory}/{one}")
        if folder.exists(directory):
            folder.remove_directory(directory)


def _read(source: str, progress: Progress) -> Iterator[Rows]:
    try:
        for rows in forms.read(source, progress):
            yield _rows(rows)
    except FileNotFoundError:
        raise NotAJournal(f"{source}: no such file; give one that `journal export` wrote") from None
    except IsADirectoryError:
        raise NotAJournal(f"{source}: a directory; give a file that `journal export` wrote") from None
    except (EventRejected, JournalFailed, NotAJournal):
        raise
    except OSError as error:
        if error.errno is not None:
            raise JournalFailed(f"{source} could not be read: {error.strerror}: check the disk") from error
        raise NotAJournal(f"{source}: cannot be read as an export: {error}") from error
    except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
        raise NotAJournal(f"{source}: cannot be read as an export: {error}") from error


def _rows(rows: pa.Table) -> Rows:
    columns: dict[str, NDArray[Any]] = {}
    for name in forms.NEEDED:
        if name != "payload":
            if rows[name].null_count:
                raise ValueError(f"column {name} has rows without a value")
            columns[name] = rows[name].combine_chunks().to_numpy(zero_copy_only=False)
    payload = rows["payload"].combine_chunks()
    at = np.flatnonzero(payload.is_valid().to_numpy(zero_copy_only=False)).tolist()
    return Rows(
        seq=columns["seq"],
        time_ns=columns["time"].view(np.int64),
        kind=columns["code"],
        flags=columns["flags"],
        form=columns["form"],
        agent=columns["agent_number"],
        env_index=columns["env_index"],
        episode=columns["episode"],
        step=columns["step"],
        value=columns["value"],
        payloads=dict(zip(at, payload.drop_null().to_pylist(), strict=True)),
    )
