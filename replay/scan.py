"""Scan: the events of a journal in seq order, from history and segments alike, in bounded memory.

Beside a writer it is a consistent prefix of the log. A file that compaction takes away while it is read is not an
error: the journal is listed again and the scan goes on from its seq.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Final, NamedTuple, Self, TypeVar

from journal.ahead import ahead
from journal.errors import CorruptJournal, HistoryDropped
from journal.manifest import Manifest
from journal.skipping import base_behind
from journal.storage import Storage
from journal.storage.buffers import Buffers
from journal.walk import Walk
from journal.writer import LOCK_PATH
from replay.batch import Batch, unpacked

Read = TypeVar("Read")

_PASSES: Final = 4
"""How often damage is looked at again beside a writer that comes, rotates and goes."""


def scan(
    storage: Storage, *, since: int = 0, until: int | None = None, columns: Collection[str] | None = None
) -> Iterator[Batch]:
    """Batches of the events with since ≤ seq < until (to the end, if None).

    `columns`: only these are asked of a batch, so that the others need not be unpacked from history. Memory: two
    segments (one is looked at, one read ahead), or three row groups of history and two files of it.

    Raises `CorruptJournal` at the first damage of what was promised (everything before it has been yielded),
    `HistoryDropped`, `NotAJournal`, `UnsupportedFormat`, `JournalFailed`.
    """

    def once(seen: Seen, following: int) -> Iterator[tuple[int, Batch]]:
        for batch in _pass(storage, seen, following, until, columns):
            yield int(batch.at("seq", len(batch) - 1)) + 1, batch
            del batch  # Let go of before the next one is asked for, here and below: its memory is used again.

    return passes(storage, since, once)


def passes(storage: Storage, since: int, once: Callable[[Seen, int], Iterator[tuple[int, Read]]]) -> Iterator[Read]:
    """What `once` reads from seq `since` on; it is called again where files went away beside it.

    `once` yields what it reads with the seq that comes next: from there it goes on.
    """
    following = since
    number = 0
    while True:
        seen = Seen.now(storage)
        try:
            for reached, read in once(seen, following):
                yield read
                following = reached
                del read
            return
        except CorruptJournal:
            number += 1
            if not seen.has_moved(storage, number):
                raise


class Seen(NamedTuple):
    """What a reader began with. Where that has changed meanwhile, what looks like damage is looked at anew."""

    manifest: Manifest
    live: bool
    """Is a writer at work?"""

    @classmethod
    def now(cls, storage: Storage) -> Self:
        """As it is now. Raises as `Manifest.read` does."""
        # In this order: a writer that opens in between is seen.
        manifest = Manifest.read(storage)
        return cls(manifest, storage.locked(LOCK_PATH))

    def has_moved(self, storage: Storage, passes: int) -> bool:
        """Has a compaction taken files away, or (for a few passes) a writer opened, rotated or closed?"""
        now = Seen.now(storage)
        return now.manifest.base != self.manifest.base or (passes < _PASSES and now != self)


def _pass(
    storage: Storage, seen: Seen, since: int, until: int | None, columns: Collection[str] | None
) -> Iterator[Batch]:
    for batch in _everything(storage, seen, since, columns):
        if not len(batch):
            continue
        first = int(batch.at("seq", 0))
        if until is not None and first >= until:
            return
        start = max(0, since - first)
        stop = len(batch) if until is None else min(len(batch), until - first)
        if start < stop:
            yield batch.cut(start, stop)
        del batch


def kept(storage: Storage, since: int = 0) -> int:
    """`since`; or, with a warning that says so, where what was not dropped begins."""
    manifest = Manifest.read(storage)
    if since >= manifest.kept_from:
        return since
    warnings.warn(
        f"{storage.name}: {dropped_words(manifest)}; what is read begins with {manifest.kept_from}",
        RuntimeWarning,
        stacklevel=3,
    )
    return manifest.kept_from


def check_kept(manifest: Manifest, since: int) -> None:
    """Raises `HistoryDropped` where event `since` was."""
    if since < manifest.kept_from:
        raise HistoryDropped(
            f"event {since} is needed, and {dropped_words(manifest)}: ask for what comes after them (--since, --at), "
            "or look into a copy that was made before"
        )


def dropped_words(manifest: Manifest) -> str:
    """What was dropped, and when, for people."""
    last = manifest.drops[-1]
    when = datetime.fromtimestamp(last.time_ns / 1e9, UTC).date()
    return f"the events 0 to {last.last} were dropped on {when}"


def _everything(storage: Storage, seen: Seen, since: int, columns: Collection[str] | None) -> Iterator[Batch]:
    manifest = seen.manifest
    check_kept(manifest, since)
    if since < manifest.base.seq:
        from replay.groups import read  # It needs pyarrow.

        yield from read(storage, manifest, since, columns)
    yield from live_log(storage, seen, since)


def live_log(storage: Storage, seen: Seen, since: int) -> Iterator[Batch]:
    """Batches of the live log from `since` on, or a little before it. Segments that end before `since` are not read."""
    manifest = replace(seen.manifest, base=base_behind(storage, seen.manifest, since))
    walk = Walk(storage, manifest, live=seen.live, buffers=Buffers())
    # A thread reads and checks the next segment, while what comes out of this one is folded.
    for piece in ahead(walk) if len(walk.ordinals) > 1 else walk:
        if piece.seq + piece.events > since:
            for part, batch in unpacked(piece):
                yield batch
                del part, batch
        del piece
