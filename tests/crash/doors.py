"""What makes it cheap to damage each bit of a journal: nothing is done twice that must come to the same.

Who never looks at the damaged file is not asked again (`Watched`). What is in a Parquet file is learnt through one
door, `open_checked`: where it refuses two flipped bits in the same words, what follows is judged once (`Door`); what it
lets in is decoded once (`Once`). What is in a segment is learnt by a walk: where two flipped bits give the same cells,
the same promise, the same torn tail or the same refusal, what follows is judged once, and now and then again (`Walks`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

from journal.cell import CELL
from journal.errors import CorruptJournal, JournalError
from journal.manifest import Manifest
from journal.skipping import base_behind
from journal.storage.memory import MemoryStorage
from journal.walk import Walk
from replay import lossless, parquet, snapshot

OPENED = {"history": (lossless.SCHEMA,), "snapshots": (snapshot.SCHEMA, snapshot.FORMAT)}
"""What Parquet files are opened as."""


class Watched(MemoryStorage):
    """Notes whose content is asked for: all else could be other bytes, and whoever asked would not know."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.seen: set[str] = set()
        self.read_outside: set[str] = set()
        """What was read by others than `Door.open`."""

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        self.read_outside.add(path)
        return super().read(path, offset, length)

    def _find(self, path: str) -> Any:
        self.seen.add(path)
        return super()._find(path)

    def _change(self, node: Any, source: str | None, target: str | None) -> None:
        self.seen |= {path for path in (source, target) if path is not None}
        super()._change(node, source, target)


class Once:
    """A Parquet file that was found to be what was written; a row group of it is decoded once."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self.metadata = file.metadata
        self._groups: dict[Any, Any] = {}

    def read_row_group(self, number: int, columns: list[str], **options: Any) -> Any:
        key = number, *columns
        if key not in self._groups:
            self._groups[key] = self._file.read_row_group(number, columns=columns, **options)
        return self._groups[key]


class Door:
    """`open_checked`, in its place: it opens the same bytes once. And it knows how refusals ended."""

    def __init__(self) -> None:
        self._opened: dict[Any, Any] = {}
        self._ends: dict[Any, str] = {}

    def open(self, storage: Watched, path: str, seq: int, *rest: Any) -> Any:
        outside = set(storage.read_outside)
        try:
            key = path, seq, storage.read(path) if storage.exists(path) else b""
            if key not in self._opened:
                checked = parquet.open_checked(storage, path, seq, *rest)
                self._opened[key] = replace(checked, file=Once(checked.file))
            return self._opened[key]
        finally:
            storage.read_outside = outside

    def outcome(self, files: dict[str, bytes], path: str, judge: Callable[[], tuple[str, set[str]]]) -> str:
        """How a flipped bit of a Parquet file ends. `judge` tells that, and what was read by others than `open`."""
        storage = Watched()
        directory = path.partition("/")[0]
        storage.make_directory(directory)
        storage.create(path).write(0, files[path])
        try:
            parquet.open_checked(storage, path, 0, *OPENED[directory])
        except CorruptJournal as error:
            key = path, len(files[path]), error.offset, error.reason
            if key not in self._ends:
                end, read_outside = judge()
                assert path not in read_outside, "it was read without being checked"
                self._ends[key] = end
            return self._ends[key]
        return judge()[0]


class Walks:
    """What walks over a journal with one damaged segment came to, and how that ended."""

    AGAIN = 50
    """Each damage of this number is judged anew, to see that it ends as others did with the same walk."""

    def __init__(self, storage: MemoryStorage) -> None:
        self._storage = storage
        self._manifest = Manifest.read(storage)
        self._ends: dict[Any, str] = {}
        self.judged = 0

    def outcome(self, number: int, files: dict[str, bytes], path: str, judge: Callable[[], str]) -> str:
        """How a flipped bit of a segment ends, the `number`th of all damages."""
        key = self._key(files[path], path)
        if key not in self._ends or number % self.AGAIN == 0:
            self.judged += 1
            end = judge()
            assert self._ends.setdefault(key, end) == end, f"others with the same walk end {self._ends[key]}"
        return self._ends[key]

    def _key(self, damaged: bytes, path: str) -> Any:
        file, whole = self._storage.open(path), self._storage.read(path)
        file.write(0, damaged)
        try:
            begin = _told(lambda: base_behind(self._storage, self._manifest, self._manifest.base.seq))
            return begin, self._walked(self._manifest)
        finally:
            file.write(0, whole)

    def _walked(self, manifest: Manifest) -> Any:
        pieces: list[Any] = []
        try:
            walk = Walk(self._storage, manifest)
            for one in walk:
                cells = sha256(one.raw[: one.end * CELL]).digest()
                pieces.append((one.path, cells, one.end, one.sealed, one.verified, one.heads.tobytes()))
        except JournalError as error:
            return str(pieces), str(error)
        lists = [[one.path for one in walk.unsealed], [one.path for one in walk.excess], walk.empty, walk.leftover]
        return str((pieces, walk.position, walk.seq, walk.promise, walk.chain, walk.torn, lists))


def _told(call: Callable[[], Any]) -> str:
    try:
        return str(call())
    except JournalError as error:
        return str(error)
