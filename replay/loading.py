"""Loading: the state of a journal, from the newest good snapshot and the events after it."""

from __future__ import annotations

import os
import warnings
from datetime import datetime

import numpy as np

from journal import cell
from journal.early import early
from journal.errors import CorruptJournal, HistoryDropped, NotAJournal
from journal.manifest import Manifest
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.walk import opening_context
from replay.batch import FOLDED, unpack
from replay.fold import fold
from replay.runs import Runs
from replay.scan import check_kept, scan
from replay.state import State

Place = str | os.PathLike[str] | Storage
"""A journal: its directory, or a storage that holds it."""


def storage_of(place: Place) -> Storage:
    """The storage behind a path. Raises `NotAJournal` where the path is a file or nothing."""
    if not isinstance(place, (str, os.PathLike)):
        return place
    if not os.path.isdir(place):
        what = "a file, not a directory" if os.path.lexists(place) else "no such directory"
        raise NotAJournal(f"{os.fspath(place)}: {what}; give the directory of a journal")
    return DiskStorage(place)


def load(place: Place, at: int | datetime | None = None, *, whole: bool = False) -> State:
    """The state after event `at` (all events, if None), or before the first event later than the time `at`.

    A seq beyond the end gives the state at the end, with a warning.

    The bars that episodes have seen are read when somebody looks at them, and `CorruptJournal` is raised there if their
    snapshot is damaged; `whole`: they are checked now, and a damaged snapshot is passed over.

    A time is compared with the running maximum of the events' times, so a clock that went back does not matter; naive
    ones are local. Raises `NotAJournal`, `CorruptJournal`, `UnsupportedFormat`, `JournalFailed`, and `HistoryDropped`
    for a moment whose events were dropped.
    """
    storage = storage_of(place)
    try:
        return _load(storage, at, whole)
    except CorruptJournal as error:
        if whole or not error.path.startswith("snapshots"):
            raise
        return _load(storage, at, True)  # A rewind cut the bars of a snapshot that is damaged, or was just retired.


def _load(storage: Storage, at: int | datetime | None, whole: bool) -> State:
    manifest = Manifest.read(storage)
    until = at + 1 if isinstance(at, int) else None
    before_ns = round(at.timestamp() * 1e9) if isinstance(at, datetime) else None
    state = _start(storage, manifest, until, before_ns, whole)
    if state.events < manifest.kept_from:
        from replay.snapshot import foundation

        foundation(storage, manifest)
        check_kept(manifest, state.events)  # There is one, but the moment lies before it.
    if at is None and state.events == manifest.base.seq and not _take_early(storage, manifest, state):
        state = _start(storage, manifest, until, before_ns, whole)
    state.storage = storage
    if state.events == until:
        return state  # A snapshot tells all.
    for batch in scan(storage, since=state.events, until=until, columns=FOLDED):
        if before_ns is not None:
            running = np.maximum(np.maximum.accumulate(batch.time_ns), state.last_time_ns)
            stop = int(np.searchsorted(running, before_ns, side="right"))
            if stop < len(batch):
                fold(state, batch.cut(0, stop))
                break
        fold(state, batch)
        del batch  # Its memory is used again.
    if until is not None and state.events < until:
        told = f"the journal ends at seq {state.last_seq}, before {at}: this is its state at its end"
        warnings.warn(f"{storage.name}: {told}", RuntimeWarning, stacklevel=3)
    return state


def _take_early(storage: Storage, manifest: Manifest, state: State) -> bool:
    """Fold the sealed segments, each block before the promise that covers it is reached; all are checked at the end.

    False where `state` is of no use, because one did not check: a scan tells what is wrong.
    """
    try:
        for piece in early(storage, manifest):
            if cell.SEGMENT_OPENED in piece.kinds[:1]:
                runs = Runs(opening_context(piece))
            if len(piece.heads):
                fold(state, unpack(piece, runs))
    except Exception:
        # What bytes that nobody has vouched for yet make of a fold is no news: a scan tells what is wrong, if anything.
        return False
    return True


def with_trends(state: State) -> State:
    """The same state, with the trends of all its events.

    A snapshot that was made before there were trends has none; then everything is folded anew, from history, once.
    Where that was dropped, the state stays as it is: its trends begin at `trends_since`. Raises as `load` does.
    """
    if not state.trends_since or state.storage is None:
        return state
    whole = State(state.journal_id)
    try:
        for batch in scan(state.storage, until=state.events, columns=FOLDED):
            fold(whole, batch)
    except HistoryDropped:
        return state
    whole.storage = state.storage
    return whole


def _start(storage: Storage, manifest: Manifest, until: int | None, before_ns: int | None, whole: bool) -> State:
    """The state of the newest snapshot that may serve; an empty one where there is none."""
    if manifest.base.seq or storage.list("snapshots"):
        from replay.snapshot import newest

        state = newest(storage, manifest, until=until, before_ns=before_ns, whole=whole)
        if state is not None:
            return state
    return State(manifest.journal_id)
