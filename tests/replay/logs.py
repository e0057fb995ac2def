"""Small journals in memory, with everything in them that could get lost on the way, and ways to look at all of it."""

from __future__ import annotations

import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import journal
from journal import cell, segment
from journal.manifest import Base, Manifest
from journal.storage import Storage
from journal.storage.memory import MemoryStorage
from journal.walk import Walk, context_after
from replay import history, packing
from replay.loading import load
from replay.query import events
from replay.state import State

sys.path.insert(0, str(Path(__file__).parent))
from model import Model

QUIET_NAN = struct.unpack("<d", bytes.fromhex("010000000000f87f"))[0]
SIGNED_NAN = struct.unpack("<d", bytes.fromhex("efbeaddeedfef8ff"))[0]
REWARD = ("reward", "PPO", "train", 0, 1.5)
EPISODE = [("start", "PPO", "train", 0), REWARD, ("checkpoint", "PPO"), REWARD, ("end", "PPO", "train", 0)]
DIRECTORIES = ("", "segments", "history", "snapshots", "snapshots/twin", "quarantine", "checkpoints")


def record(storage: Storage, script: list[tuple[Any, ...]], model: Model | None = None) -> Model:
    """One session: the script's events. What was open before belonged to another process."""
    model = Model() if model is None else model
    model.open.clear()
    with journal.open("a journal", sync="close", storage=storage) as log:
        for number, one in enumerate(script):
            model.play(log, one)
            if number % 7 == 6:
                log.sync()
    return model


def record_everything(storage: Storage) -> None:
    """One session with each kind of cell: all batch forms, odd values, unknown kinds, marks in every place."""
    with journal.open("a journal", sync="close", storage=storage) as log:
        log.append(journal.RunStarted(run="first", config={"lr": 0.1, "nested": {"b": b"\0\xff", "none": None}}))
        log.append(journal.AttemptStarted(run="first", attempt=1, pid=7, argv=["x"], cwd="x", versions={}))
        log.append(journal.EpisodeStarted(agent="PPO", episode=0, seed=7, entry=3, monotonic=-0.0))
        ppo = log.agent("PPO")
        for step, value in enumerate((1.5, -0.0, QUIET_NAN, SIGNED_NAN, float("inf"), float("-inf"), 5e-324)):
            log.reward(ppo, 0, step, value)
        log.sync()
        log.sync()
        log.reward(ppo, 2**64 - 1, 2**64 - 1, 0.1, 2**32 - 1, flags=0xFF)
        values = np.array([0.5, QUIET_NAN, SIGNED_NAN, 0.1, 0.2])
        log.rewards(ppo, 0, 7, values)
        log.rewards(ppo, 0, np.arange(5), values, np.array([4, 2, 9, 9, 0]))
        log.rewards(ppo, np.array([3, 9, 3, 4, 5]), np.array([7, 7, 8, 8, 9]), values, np.arange(5))
        log.rewards(ppo, 0, 0, values[:1])
        log.sync()
        log._append_cell(77, b"no msgpack \xc1", flags=0xF0, form=9, agent=ppo, env_index=3, step=4, value=SIGNED_NAN)
        log._append_cell(78, bytes(64), episode=2**64 - 1)
        log._append_cell(cell.REWARDS, b"", agent=ppo, takes=0, value=0)
        log.append(journal.MetricLogged(agent="PPO", metric="loss", step=3, value=float("nan")))
        log.append(journal.Custom(name="big", data=bytes(range(256)) * 300))
        log.append(journal.EpisodeEnded(agent="PPO", episode=0, reason="terminated", metrics={"pnl": 1.0}))
        log.sync()
        log.append(journal.RunEnded(run="first"))


def add_segment_without_events(storage: Storage) -> None:
    """A sealed segment that holds nothing but its marks."""
    manifest = Manifest.read(storage)
    walk = Walk(storage, manifest).run()
    ordinal = manifest.base.ordinal + len(manifest.segments)
    header = segment.Header(manifest.journal_id, ordinal, 99, 1 << 20, 1)
    opened = segment.opened(segment.content_of(walk.context()), walk.seq, 2, salt=99, position=walk.position)
    chain = journal.chain.extend(walk.chain, (opened,))
    at = walk.position + len(opened) // cell.CELL
    seal = cell.pack_promise(cell.SEGMENT_SEALED, walk.seq, 3, at, walk.seq, chain, salt=99, at=at)
    with storage.stream(segment.path_of(ordinal)) as stream:
        stream.write(header.pack() + opened + seal)
    storage.sync_directory("segments")
    manifest.with_segments((*manifest.segments, ordinal)).write(storage)


def write_history(storage: Storage, path: str | None = None) -> str:
    """All that is in the live log as one history file, under its own name or `path`."""
    manifest = Manifest.read(storage)
    storage.make_directory("history")
    walk = Walk(storage, manifest)
    with (
        storage.stream("history/new") as stream,
        packing.HistoryWriter(stream, manifest.journal_id, manifest.base) as writer,
    ):
        for piece in walk:
            writer.add(piece, storage.read(piece.path, 0, 64))
        writer.close(Base(piece.header.ordinal + 1, walk.position, walk.seq, walk.chain, context_after(piece)))
    path = history.Span(manifest.base.seq, walk.seq - 1).path if path is None else path
    storage.rename("history/new", path)
    return path


def segments(storage: Storage) -> list[bytes]:
    """The bytes of all segments."""
    return [storage.read(f"segments/{name}") for name in storage.list("segments")]


def image(storage: Storage) -> dict[str, bytes]:
    """Every file and its bytes; the lock's note is for people."""
    return {
        f"{directory}/{name}": storage.read(f"{directory}/{name}".lstrip("/"))
        for directory in DIRECTORIES
        for name in storage.list(directory)
        if f"{directory}/{name}".lstrip("/") not in (*DIRECTORIES, "writer.lock")
    }


def table(storage: Storage) -> pa.Table:
    """All events."""
    return pa.Table.from_batches(list(events(storage))).unify_dictionaries().combine_chunks()


def same_events(one: pa.Table, other: pa.Table) -> bool:
    """Are these the same rows, NaN bits included? Dictionaries may be in another order."""
    return one.num_rows == other.num_rows and all(
        np.array_equal(one["value"].to_numpy().view("u8"), other["value"].to_numpy().view("u8"))
        if name == "value"
        else one[name].to_pylist() == other[name].to_pylist()
        for name in one.column_names
    )


def whole_state(storage: Storage, at: int | None = None) -> State:
    """The state, loaded without any warning. Compared as a whole, whatever the order of its agents."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return load(storage, at=at)


def flip(storage: Storage, path: str, bit: int) -> None:
    """Turn one bit of a file."""
    file = storage.open(path)
    byte = file.read(bit // 8, 1)[0]
    file.write(bit // 8, bytes([byte ^ 1 << bit % 8]))
    file.close()


def fresh() -> MemoryStorage:
    """An empty disk."""
    return MemoryStorage()
