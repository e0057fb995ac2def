"""`journal.json`: format version, journal id, live segments, and where the live log begins.

It is the only file that names others. It is rewritten atomically at each rotation and compaction, carries a checksum of
its own, and a segment is listed before anything in it is promised.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any, Final

from journal import chain as chains
from journal import segment
from journal.context import Context
from journal.crc import crc32c
from journal.errors import CorruptJournal, JournalFailed, NotAJournal, UnsupportedFormat
from journal.events import INTEGER_MAX
from journal.storage import Storage
from journal.storage import replace as replace_file

PATH: Final = "journal.json"
SIZE_MAX: Final = 64 << 20
"""Bytes: a larger `journal.json` is refused unread."""

_BEYOND: Final = {"ordinal": 99_000_000, "position": 1 << 62, "seq": 1 << 62}
"""Where no log ever begins: what goes on from below there still fits the names of its files, and 63 bits."""
_ID_LENGTH: Final = 16
"""Bytes of a journal's id."""


@dataclass(frozen=True, slots=True)
class Base:
    """Where the live log begins: after the last compacted cell (or at the journal's first)."""

    ordinal: int
    position: int
    seq: int
    chain: bytes
    context: Context = field(default_factory=Context)

    def as_payload(self) -> dict[str, Any]:
        """Itself as what JSON holds."""
        return {
            "ordinal": self.ordinal,
            "position": self.position,
            "seq": self.seq,
            "chain": self.chain.hex(),
            "context": self.context.as_payload(),
        }

    @classmethod
    def from_payload(cls, payload: Any) -> Base:
        """The base that `as_payload` gave. Raises `KeyError`, `TypeError` or `ValueError` where it is none."""
        ordinal, position, seq = (payload[name] for name in _BEYOND)
        if any(type(payload[name]) is not int or not 0 <= payload[name] < beyond for name, beyond in _BEYOND.items()):
            raise ValueError(f"the log does not begin at segment {ordinal!r:.30}, {position!r:.30}, {seq!r:.30}")
        value = bytes.fromhex(payload["chain"])
        if len(value) != chains.CHAIN_LENGTH:
            raise ValueError(f"its chain has {len(value)} bytes")
        return cls(ordinal, position, seq, value, Context.from_payload(payload["context"]))


@dataclass(frozen=True, slots=True)
class DroppedFile:
    """A history file that is no more, as it was."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Drop:
    """History that was dropped because somebody asked for it: the events [first, last], and what held them."""

    first: int
    last: int
    chain: bytes
    """Behind the last of them: what is kept goes on from here."""
    time_ns: int
    files: tuple[DroppedFile, ...]

    def as_payload(self) -> dict[str, Any]:
        """Itself as what JSON holds."""
        files = [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in self.files]
        return {
            "first": self.first,
            "last": self.last,
            "chain": self.chain.hex(),
            "time_ns": self.time_ns,
            "files": files,
        }

    @classmethod
    def from_payload(cls, payload: Any) -> Drop:
        """The drop that `as_payload` gave. Raises `KeyError`, `TypeError` or `ValueError` where it is none."""
        first, last, time_ns = (payload[name] for name in ("first", "last", "time_ns"))
        if any(type(one) is not int for one in (first, last, time_ns)) or not 0 <= first <= last <= INTEGER_MAX:
            raise ValueError(f"it notes that events {first!r:.30} to {last!r:.30} were dropped")
        if not -INTEGER_MAX <= time_ns <= INTEGER_MAX:
            raise ValueError(f"it notes that history was dropped at the time {time_ns!r:.30}")
        files = tuple(DroppedFile(one["path"], one["size"], one["sha256"]) for one in payload["files"])
        if any((type(one.path), type(one.size), type(one.sha256)) != (str, int, str) for one in files):
            raise ValueError("it notes dropped files that make no sense")
        return cls(first, last, bytes.fromhex(payload["chain"]), time_ns, files)


@dataclass(frozen=True, slots=True)
class Manifest:
    """The content of `journal.json`; `segments` are the ordinals that must be there."""

    journal_id: bytes
    base: Base
    segments: tuple[int, ...] = ()
    drops: tuple[Drop, ...] = ()
    """In order; without gap from event 0 on."""

    @property
    def kept_from(self) -> int:
        """The first event that was not dropped."""
        return self.drops[-1].last + 1 if self.drops else 0

    @classmethod
    def new(cls, journal_id: bytes) -> Manifest:
        """An empty journal's."""
        return cls(journal_id, Base(0, 0, 0, chains.genesis(journal_id)))

    def with_segments(self, ordinals: tuple[int, ...]) -> Manifest:
        """The same, listing other segments."""
        return replace(self, segments=ordinals)

    def write(self, storage: Storage) -> None:
        """Replace `journal.json`, atomically; durable when it returns."""
        document: dict[str, Any] = {
            "format": segment.FORMAT,
            "journal": self.journal_id.hex(),
            "base": self.base.as_payload(),
            "segments": [segment.path_of(ordinal) for ordinal in self.segments],
        }
        if self.drops:
            document["dropped"] = [one.as_payload() for one in self.drops]
        document["crc32c"] = f"{crc32c(_canonical(document)):08x}"
        replace_file(storage, PATH, json.dumps(document, indent=2).encode() + b"\n")

    @classmethod
    def read(cls, storage: Storage) -> Manifest:
        """The manifest of the journal in `storage`.

        Raises `NotAJournal` where there is none, `UnsupportedFormat` for a newer one, `CorruptJournal` for a damaged
        one, `JournalFailed` where the system cannot read it.
        """
        try:
            # In one go: beside a writer, the next look may find another file under this name.
            raw = storage.read(PATH, 0, SIZE_MAX + 1)
        except (FileNotFoundError, NotADirectoryError):
            for directory in (segment.DIRECTORY, "history", "snapshots"):
                if storage.exists(directory) and storage.list(directory):
                    raise CorruptJournal(PATH, 0, 0, f"journal.json is missing, and {directory}/ is here") from None
            raise NotAJournal(
                f"{storage.name}: {'not a journal' if storage.exists('') else 'no such directory'}; "
                "give a directory that holds a journal.json"
            ) from None
        except OSError as error:
            raise JournalFailed(
                f"{storage.name}/{PATH} could not be read: {error.strerror or error}; nothing was changed: check the "
                "disk and who may read it"
            ) from error
        try:
            if len(raw) > SIZE_MAX:
                raise ValueError("it is too large")
            document = json.loads(raw)
            version = document["format"]
            crc = document.pop("crc32c")
            # First, as every format keeps it: one flipped bit is no newer format.
            if crc != f"{crc32c(_canonical(document)):08x}":
                raise ValueError("its checksum does not match")
            if isinstance(version, int) and version > segment.FORMAT:
                raise UnsupportedFormat(
                    f"{storage.name}: written in format {version}, this training-journal reads format "
                    f"{segment.FORMAT}: upgrade it"
                )
            return cls._from(document)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptJournal(PATH, 0, 0, f"journal.json is damaged: {error}") from error

    @classmethod
    def _from(cls, document: dict[str, Any]) -> Manifest:
        base = Base.from_payload(document["base"])
        ordinals = []
        for path in document["segments"]:
            directory, _, name = path.rpartition("/")
            ordinal = segment.ordinal_of(name)
            if directory != segment.DIRECTORY or ordinal is None:
                raise ValueError(f"it lists {path!r:.80} as a segment")
            ordinals.append(ordinal)
        if ordinals and ordinals != list(range(base.ordinal, base.ordinal + len(ordinals))):
            raise ValueError("its segments are not in sequence")
        drops = tuple(map(Drop.from_payload, document.get("dropped", ())))
        following = 0
        for one in drops:
            if one.first != following:
                raise ValueError(f"what it says was dropped does not begin with event {following}")
            following = one.last + 1
        if following > base.seq:
            raise ValueError("it notes dropped events that are in the live log")
        journal_id = bytes.fromhex(document["journal"])
        if len(journal_id) != _ID_LENGTH:
            raise ValueError(f"its id has {len(journal_id)} bytes")
        return cls(journal_id, base, tuple(ordinals), drops)


def _canonical(document: dict[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
