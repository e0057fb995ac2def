"""Snapshots: the state as of one seq, so that loading need not fold the whole history. Never a second truth.

    snapshots/<last seq>.parquet      one row per agent: its cumulative totals, for any tool that reads Parquet

The rest of the state is in the file's metadata, with the place in the log where it holds and the SHA-256 of each
history file that it was folded from. The bars that episodes have seen, which only `journal compare` looks at, are set
apart in blocks (`replay.seen`), each with its SHA-256 in the state: a snapshot is opened without reading them. One
that is damaged or lost costs time, not data: an older one serves, or history.
"""

from __future__ import annotations

import base64
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any, Final

import msgpack
import numpy as np
import pyarrow as pa
import zstandard

from journal.errors import CorruptJournal, JournalFailed
from journal.manifest import Base, Manifest
from journal.storage import Storage
from replay.arrow import numbers, texts
from replay.frames import totals_row
from replay.parquet import Checked, Writer, open_checked, reading
from replay.seen import ROWS, Block, Place, SeenList
from replay.state import State

DIRECTORY: Final = "snapshots"
FORMAT: Final = 2
"""Version of the columns and the document. In 1 the bars were lines in the state; it is read, and never written."""
STATE_MAX: Final = 1 << 30
"""Bytes of an unpacked state; more is neither written nor unpacked."""
_NAME: Final = re.compile(r"(0|[1-9][0-9]{0,18})\.parquet")


def _figures(prefix: str) -> list[pa.Field]:
    return [
        pa.field(f"{prefix}total_episodes", pa.int64(), nullable=False),
        pa.field(f"{prefix}total_steps", pa.int64(), nullable=False),
        pa.field(f"{prefix}total_reward", pa.float64(), nullable=False),
        pa.field(f"{prefix}nan_rewards", pa.int64(), nullable=False),
        pa.field(f"{prefix}infinite_rewards", pa.int64(), nullable=False),
        pa.field(f"{prefix}total_training_time", pa.float64(), nullable=False),
    ]


SCHEMA: Final = pa.schema(
    [
        pa.field("agent", pa.string(), nullable=False),
        *_figures(""),
        pa.field("runs", pa.int64(), nullable=False),
        pa.field("attempts", pa.int64(), nullable=False),
        pa.field("rewinds", pa.int64(), nullable=False),
        pa.field("last_updated", pa.timestamp("ns", tz="UTC")),
        *_figures("spent_"),
        *_figures("eval_"),
    ]
)
"""Effective totals of phase train; `spent_…` what was computed, superseded work included; `eval_…` phase eval. Training
time is in seconds."""


@dataclass(frozen=True, slots=True)
class HistoryNote:
    """A history file that the state was folded from, as it was then."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What a snapshot file holds."""

    path: str
    state: State
    base: Base
    """Where the log goes on; `base.seq` is the number of the next event."""
    history: tuple[HistoryNote, ...]


def path_of(last: int) -> str:
    """`snapshots/<last seq>.parquet`."""
    return f"{DIRECTORY}/{last}.parquet"


def twin_of(last: int) -> str:
    """`snapshots/twin/<last seq>.parquet`: the second copy of a snapshot that no history can make anew."""
    return f"{DIRECTORY}/twin/{last}.parquet"


def seqs(storage: Storage) -> list[int]:
    """The last seqs of all snapshots, by their names, newest first."""
    matches = (_NAME.fullmatch(name) for name in storage.list(DIRECTORY))
    return sorted((int(match[1]) for match in matches if match), reverse=True)


@contextmanager
def _fitting() -> Iterator[None]:
    try:
        yield
    except OverflowError as error:
        raise JournalFailed(f"the state does not fit a snapshot: {error}; the segments stay as they are") from error


def packed(state: State, note: Callable[[Block], list[Any]] = lambda block: [block.count, block.sha256]) -> bytes:
    """The whole state as msgpack: equal bytes, equal states, NaN included. `note` tells what stands for a block.

    Raises `JournalFailed` where it holds a number of more than 64 bits, which no honest log gives.
    """
    with _fitting():
        return bytes(msgpack.packb(state.to_payload(lambda seen: [note(block) for block in seen.blocks()])))


def write(stream: IO[bytes], state: State, base: Base, history: list[HistoryNote]) -> tuple[int, str]:
    """Write the snapshot of `state`, which holds before `base`. Returns (size in bytes, SHA-256).

    Raises `JournalFailed` where the state is larger than `STATE_MAX`, and as `packed` does.
    """
    with Writer(stream, SCHEMA) as file:
        with _fitting():
            file.write(_table(state))

        def apart(block: Block) -> list[Any]:
            data = block.packed()
            return [block.count, block.sha256, file.set_apart(data), len(data)]

        raw = packed(state, apart)
        if len(raw) > STATE_MAX:
            raise JournalFailed(
                f"the state has {len(raw):,} bytes, a snapshot holds {STATE_MAX:,}: go on in a new journal; this one "
                "stays readable as it is"
            )
        return file.close(
            {
                "format": FORMAT,
                "journal": state.journal_id.hex(),
                "base": base.as_payload(),
                "history": [{"path": one.path, "size": one.size, "sha256": one.sha256} for one in history],
                "state": {
                    "size": len(raw),
                    "zstd": base64.b64encode(zstandard.ZstdCompressor(level=3).compress(raw)).decode(),
                },
            }
        )


def _table(state: State) -> pa.Table:
    rows = [totals_row(agent) for agent in state.agents.values()]
    updated = np.array([agent.last_updated_ns for agent in state.agents.values()], dtype=np.int64)
    columns = {
        "agent": texts(state.agents),
        "last_updated": numbers(updated, SCHEMA.field("last_updated").type, updated != 0),
    }
    for field in SCHEMA:
        if field.name not in columns:
            kind = np.int64 if field.type == pa.int64() else np.float64
            columns[field.name] = numbers(np.array([row[field.name] for row in rows], dtype=kind))
    return pa.Table.from_arrays([columns[name] for name in SCHEMA.names], schema=SCHEMA)


def read(storage: Storage, path: str, *, whole: bool = False) -> Snapshot:
    """The snapshot in this file, every byte of it checked; the bars, as long as nobody looks, only if `whole`.

    Raises `CorruptJournal` (its `seq` is the snapshot's last), `UnsupportedFormat`, `JournalFailed`. Memory: at most
    `STATE_MAX` beside what the file itself takes.
    """
    match = _NAME.fullmatch(path.rpartition("/")[2])
    seq = int(match[1]) if match else 0
    checked = open_checked(storage, path, seq, SCHEMA, FORMAT)
    with reading(path, seq):
        found = _unpack(storage, path, checked)
    for agent in found.state.agents.values() if whole else ():
        for seen in agent.bars.values():
            seen.check()
    return found


def read_at(
    storage: Storage, manifest: Manifest, last: int | None = None, *, path: str | None = None, whole: bool = False
) -> Snapshot:
    """The snapshot at `last` (None: where the live log begins), if it is one of this journal. Raises as `read` does.

    `path` is the file, where it has not the name of one.
    """
    if last is None:
        last = manifest.base.seq - 1
    found = read(storage, path or path_of(last), whole=whole)
    base = found.base
    if found.state.journal_id != manifest.journal_id:
        raise CorruptJournal(found.path, 0, last, "this snapshot belongs to another journal")
    if base.seq != last + 1:
        raise CorruptJournal(found.path, 0, last, f"it holds the state before seq {base.seq}, its name says otherwise")
    chains = {manifest.base.seq: manifest.base.chain} | {drop.last + 1: drop.chain for drop in manifest.drops[-1:]}
    if base.chain != chains.get(base.seq, base.chain):
        raise CorruptJournal(found.path, 0, last, "it is of another course of this journal: the chain does not match")
    return found


def newest(
    storage: Storage,
    manifest: Manifest,
    until: int | None = None,
    before_ns: int | None = None,
    *,
    whole: bool = False,
) -> State | None:
    """The state of the newest snapshot that may serve; None where there is none: fold history from its beginning.

    `until`: it holds no event from this seq on; `before_ns`: none later than this time; `whole`: as in `read`. A
    damaged snapshot is passed over, with a warning that names it. Raises `JournalFailed` where a read fails,
    `UnsupportedFormat` for a newer one.
    """
    founding = manifest.kept_from - 1
    candidates = {(last, path_of(last)) for last in (*seqs(storage), *([founding] if manifest.drops else []))}
    candidates |= {(founding, twin_of(founding))} if manifest.drops else set()
    for last, path in sorted(candidates, key=lambda one: (-one[0], len(one[1]))):
        # Above the base lies what a killed compaction left, or a log that was set back: the segments tell better. What
        # is older than what was dropped leads nowhere.
        if not founding <= last < manifest.base.seq or (until is not None and last >= until):
            continue
        try:
            state = read_at(storage, manifest, last, path=path, whole=whole).state
        except CorruptJournal as error:
            warnings.warn(
                f"{storage.name}: {error.path}: {error.reason}; it was passed over and the state computed from other "
                "files: `journal compact` makes it anew",
                RuntimeWarning,
                stacklevel=2,
            )
            continue
        if before_ns is None or state.last_time_ns <= before_ns:
            return state
    return None


def foundation(storage: Storage, manifest: Manifest) -> Snapshot:
    """The snapshot that what was not dropped builds on: it or its twin, whichever is good, every byte of it checked.

    Raises `CorruptJournal` where neither is: the state before that place is lost.
    """
    last = manifest.kept_from - 1
    try:
        return read_at(storage, manifest, last, whole=True)
    except CorruptJournal as first:
        try:
            return read_at(storage, manifest, last, path=twin_of(last), whole=True)
        except CorruptJournal as second:
            reason = (
                f"{first.reason}; so is its twin {second.path} ({second.reason}), and the history below was dropped"
            )
            raise CorruptJournal(first.path, 0, last, reason) from None


def _unpack(storage: Storage, path: str, checked: Checked) -> Snapshot:
    document = checked.document
    size = document["state"]["size"]
    if not 0 <= size <= STATE_MAX:
        raise ValueError(f"its state claims {size} bytes")
    frame = base64.b64decode(document["state"]["zstd"])
    try:
        # The frame says it too, and what it says is what gets allocated.
        if zstandard.frame_content_size(frame) != size:
            raise ValueError("its state has another size than it says")
        raw = zstandard.ZstdDecompressor().decompress(frame)
        payload = msgpack.unpackb(raw, strict_map_key=False)
        if document["format"] == 1:
            state = State.from_payload(payload)
        else:
            state = State.from_payload(payload, lambda notes: _blocks(storage, path, checked.size, notes))
    except (zstandard.ZstdError, msgpack.UnpackException) as error:
        raise ValueError(f"its state cannot be unpacked: {error}") from error
    base = Base.from_payload(document["base"])
    if state.journal_id.hex() != document["journal"] or state.events != base.seq:
        raise ValueError("its state is not the one that it says")
    history = tuple(HistoryNote(one["path"], one["size"], one["sha256"]) for one in document["history"])
    if any((type(one.path), type(one.size), type(one.sha256)) != (str, int, str) for one in history):
        raise ValueError("it notes history files that make no sense")
    return Snapshot(path, state, base, history)


def _blocks(storage: Storage, path: str, size: int, notes: list[list[Any]]) -> SeenList:
    """The blocks that lie where these notes say. Raises `ValueError` where that cannot be."""
    blocks = []
    for count, sha256, offset, length in notes:
        if type(sha256) is not bytes or any(type(one) is not int for one in (count, offset, length)):
            raise ValueError("it notes bars that make no sense")
        if not (0 < count <= ROWS and 0 <= offset <= offset + length <= size):
            raise ValueError("it notes bars that are not in it")
        blocks.append(Block(count, sha256, Place(storage, path, offset, length)))
    if any(block.count != ROWS for block in blocks[:-1]):
        raise ValueError("it notes bars in blocks that are not full")
    return SeenList(blocks=blocks)
