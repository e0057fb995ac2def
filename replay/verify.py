"""Verify: is what was promised still there, byte for byte? Reads everything, changes nothing.

    clean      all cells check
    torn       cells after the last promise do not check: never promised; the next open for writing discards them
    corrupt    promised bytes do not check, or files are missing: each finding says where and why

The chain covers every promised byte of the live log. `deep` goes on where the chain ends (`replay.deep`): history,
snapshots, checkpoints, and each cell's own checksum.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from journal import chain, segment
from journal.errors import CorruptJournal, HistoryDropped
from journal.manifest import PATH as MANIFEST_PATH
from journal.manifest import Manifest
from journal.recovery import QUARANTINE
from journal.sealed import sealed
from journal.storage import Storage
from journal.walk import Piece, Promise, Walk
from journal.writer import LOCK_PATH
from replay.deep import Contents
from replay.frames import dropped_document
from replay.loading import Place, storage_of
from replay.progress import Progress, silent
from replay.promises import Head, chain_after, heads_of, lost_heads
from replay.scan import Seen, dropped_words

Status = Literal["clean", "torn", "corrupt"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong. `seq` is the first event in doubt, `offset` counts bytes in `file`."""

    file: str
    offset: int
    seq: int
    reason: str


@dataclass(frozen=True, slots=True)
class TornTail:
    """What was never promised and does not check. `quarantine`: the files that earlier torn tails are kept in."""

    events: int = 0
    """Whole events in it, as far as they can be told."""
    bytes: int = 0
    reason: str | None = None
    quarantine: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """What `verify` found."""

    status: Status
    live: bool
    """A writer is at work: what does not check above the last promise is "not yet", never torn."""
    events: int
    """Events that check, history included; of a corrupt journal, those before the damaged file."""
    head: Head
    """The last promise."""
    findings: tuple[Finding, ...] = ()
    torn: TornTail = field(default_factory=TornTail)
    unread: tuple[str, ...] = ()
    """History files that only `deep` or `expect` reads: of them it was seen that they are there."""
    dropped: dict[str, Any] | None = None
    """What was dropped, and so can no longer be checked: the events up to `last_seq`, in these `files`; whether the
    snapshot is what they gave."""

    def as_document(self) -> dict[str, Any]:
        """The keys of `journal verify --json`."""
        return {**asdict(self), "head": self.head._asdict()}


def verify(
    place: Place, *, deep: bool = False, expect: tuple[int, str] | None = None, progress: Progress = silent
) -> Report:
    """Check the journal in `place`; beside a writer, what it has promised so far.

    `expect` is (seq, chain) of a receipt that was noted: unless exactly that was promised, and nothing before it was
    changed, cut or rolled back since, there is a finding; history and snapshots are looked at as by `deep`. Memory:
    three segments. Damage is in the report; raises `NotAJournal`, `UnsupportedFormat`, `JournalFailed` where a read
    fails, and `HistoryDropped` where `expect` lies in what was dropped.
    """
    storage = storage_of(place)
    passes = 0
    while True:
        try:
            seen = Seen.now(storage)
        except CorruptJournal as error:
            found = Finding(error.path, error.offset, error.seq, error.reason)
            torn = TornTail(quarantine=_quarantine(storage))
            return Report("corrupt", storage.locked(LOCK_PATH), 0, Head(-1, ""), (found,), torn)
        report = _Verification(storage, seen, deep, expect, progress).run()
        passes += 1
        if report.status == "clean" or not _has_moved(storage, seen, passes):
            return report


def _dropped(manifest: Manifest) -> dict[str, Any] | None:
    told = dropped_document(manifest)
    if told is None:
        return None
    files = [asdict(file) for drop in manifest.drops for file in drop.files]
    return {**told, "chain": manifest.drops[-1].chain.hex(), "files": files}


def _has_moved(storage: Storage, seen: Seen, passes: int) -> bool:
    try:
        return seen.has_moved(storage, passes)
    except CorruptJournal:
        return False


def _quarantine(storage: Storage) -> tuple[str, ...]:
    return tuple(f"{QUARANTINE}/{name}" for name in storage.list(QUARANTINE))


class _Verification:
    """One pass over a journal; damage becomes findings and, where it can, the pass goes on behind it."""

    def __init__(
        self, storage: Storage, seen: Seen, deep: bool, expect: tuple[int, str] | None, progress: Progress
    ) -> None:
        self._storage = storage
        self._manifest, self._live = seen
        self._expect = None if expect is None else Head(expect[0], expect[1].lower())
        self._deep = deep
        self._findings: list[Finding] = []
        self._seen: set[Head] = set()
        """The promises that end where the expected one does."""
        self._unread: tuple[str, ...] = ()
        self._progress = progress
        self._done = self._total = 0

    def run(self) -> Report:
        whole = self._deep or self._expect is not None  # What was changed before a receipt may be in a snapshot alone.
        contents = Contents(self._storage, self._manifest, live=self._live) if whole else None
        walk: Walk | None = None
        genesis = chain.genesis(self._manifest.journal_id)
        start: bytes | None = genesis
        self._see(Head(-1, genesis.hex()))
        if self._manifest.drops:
            start = self._manifest.drops[-1].chain
            self._see(Head(self._manifest.kept_from - 1, start.hex()))
        if contents is not None:
            contents.begin(self._found)
        begins, sealing = self._manifest.base, None
        if not self._deep and self._expect is None:
            self._total = sum(self._size(segment.path_of(ordinal)) for ordinal in self._manifest.segments)
            for one in sealed(self._storage, self._manifest):
                begins, sealing = one.base, one.promise
                self._advance(one.size)
        try:
            walk = Walk(self._storage, replace(self._manifest, base=begins), live=self._live, ahead=True)
            for piece in self._pieces(walk):
                if self._expect is not None:
                    for head in (*heads_of(piece), *lost_heads(piece, self._expect.seq, start)):
                        self._see(head)
                    start = chain_after(piece) if piece.sealed else None
                if contents is not None:
                    contents.take(piece, self._found)
        except CorruptJournal as error:
            self._found(error)
        if contents is not None and self._deep:
            contents.finish(self._found)
        promise = Promise(begins.position, begins.seq, begins.chain) if walk is None else walk.promise
        if sealing is not None and promise.position == begins.position:
            promise = sealing  # Behind that seal nothing is promised yet.
        if self._expect is not None:
            self._judge(self._expect, promise)
        torn = walk.torn if walk is not None else None
        kept = _quarantine(self._storage)
        return Report(
            "corrupt" if self._findings else "clean" if torn is None else "torn",
            self._live,
            begins.seq if walk is None else walk.seq,
            Head.of(promise),
            tuple(self._findings),
            TornTail(quarantine=kept) if torn is None else TornTail(torn.events, torn.bytes, torn.reason, kept),
            self._unread,
            _dropped(self._manifest),
        )

    def _pieces(self, walk: Walk) -> Iterator[Piece]:
        """The live segments, and before them, where asked for, the compacted ones, made again."""
        self._total = self._done + sum(self._size(segment.path_of(ordinal)) for ordinal in walk.ordinals)
        if self._manifest.base.seq:
            from replay.history import spans  # It needs pyarrow.

            compacted = [span.path for span in spans(self._storage, self._manifest)]
            if self._deep or self._expect is not None:
                yield from self._compacted(compacted)
            else:
                self._unread = tuple(compacted)
        for piece in walk:
            yield piece
            self._advance(piece.size)

    def _compacted(self, paths: list[str]) -> Iterator[Piece]:
        from replay.history import pieces

        sizes = {path: self._size(path) for path in paths}
        self._total += sum(sizes.values())
        drops = self._manifest.drops
        value: bytes | None = drops[-1].chain if drops else chain.genesis(self._manifest.journal_id)
        for path in paths:
            piece: Piece | None = None
            try:
                for piece in pieces(self._storage, path, value):
                    yield replace(piece, path=path)
                value = None if piece is None else chain_after(piece)
            except CorruptJournal as error:
                self._found(error)
                value = None  # What comes next is checked from where it says that it begins.
            self._advance(sizes[path])
        if value is not None and value != self._manifest.base.chain:
            reason = "history does not lead to where the live log begins: files were replaced"
            self._found(CorruptJournal(MANIFEST_PATH, 0, self._manifest.base.seq, reason))

    def _judge(self, expect: Head, promise: Promise) -> None:
        """A finding, unless exactly `expect` was promised, and was reached without one."""
        if expect in self._seen:
            return
        if 0 <= expect.seq < self._manifest.kept_from:
            raise HistoryDropped(
                f"the receipt for seq {expect.seq} can no longer be checked: {dropped_words(self._manifest)}; a later "
                "receipt proves what is kept"
            )
        if self._seen:
            reason = (
                "the chain is another one than that of the noted receipt: something before it was changed, "
                "or the receipt is another journal's"
            )
        elif promise.events - 1 < expect.seq:
            reason = (
                f"the journal ends at seq {promise.events - 1}, before the noted receipt: it was cut or rolled back"
            )
        else:
            reason = "no promise ends there: this receipt is another journal's, or its segments could not be read"
        self._found(CorruptJournal(MANIFEST_PATH, 0, max(expect.seq, 0), reason))

    def _found(self, error: CorruptJournal) -> None:
        self._findings.append(Finding(error.path, error.offset, error.seq, error.reason))

    def _see(self, head: Head) -> None:
        if self._expect is not None and head.seq == self._expect.seq:
            self._seen.add(head)

    def _size(self, path: str) -> int:
        """Bytes, for the progress; none where a compaction has just taken the file away: reading it tells."""
        try:
            return self._storage.size(path)
        except FileNotFoundError:
            return 0

    def _advance(self, count: int) -> None:
        self._done += count
        self._progress(self._done, self._total)
