"""Small trainings, recorded by hand, for what reads journals; and ways to damage what was recorded."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import journal
from journal import cell, chain, segment
from journal.cell import CELL
from journal.crc import crc32c
from journal.events import Phase
from journal.manifest import Manifest
from journal.storage import replace
from journal.storage.disk import DiskStorage
from replay.compaction import compact

STEPS = 5
Source = Literal["observed", "declared"]


def content(start: int) -> bytes:
    """The content hash of the bars that begin at `start`."""
    return hashlib.blake2b(f"EURUSD {start}".encode(), digest_size=16).digest()


def begin(log: journal.Log, run: str = "r1", attempt: int = 0) -> None:
    """A run (at its first attempt) and an attempt of it."""
    if attempt == 0:
        log.append(journal.RunStarted(run=run, config={"lr": 0.1}))
    log.append(
        journal.AttemptStarted(
            run=run, attempt=attempt, pid=42, argv=["train.py", "--fast run"], cwd="/somewhere", versions={}
        )
    )


def end(log: journal.Log, run: str = "r1", attempt: int = 0) -> None:
    """The attempt and the run are completed."""
    log.append(journal.AttemptEnded(run=run, attempt=attempt, status="completed"))
    log.append(journal.RunEnded(run=run))


def play(
    log: journal.Log,
    agent: str,
    starts: Sequence[int | None],
    *,
    first: int = 0,
    phase: Phase = "train",
    source: Source = "observed",
) -> None:
    """One episode per start, of five steps of reward 1, on the bars that begin there; None: it tells no bars."""
    eval_flag = int(phase == "eval")
    for number, start in enumerate(starts, first):
        log.append(journal.EpisodeStarted(agent=agent, episode=number, entry=number, phase=phase))
        if start is not None:
            see(log, agent, number, start, phase, source)
        for step in range(STEPS):
            log.reward(log.agent(agent), number, step, 1.0, flags=eval_flag)
        log.append(journal.EpisodeEnded(agent=agent, episode=number, phase=phase, reason="terminated"))


def see(
    log: journal.Log, agent: str, episode: int, start: int, phase: Phase = "train", source: Source = "observed"
) -> None:
    """An open episode tells its bars."""
    log.append(
        journal.BarsSeen(
            agent=agent,
            episode=episode,
            phase=phase,
            instrument="EURUSD",
            timeframe="1h",
            start=start,
            stop=start + 10,
            content_hash=content(start) if source == "observed" else None,
            source=source,
        )
    )


def save(log: journal.Log, agent: str, episode: int, retired: list[str] | None = None) -> str:
    """A checkpoint: its file, then its event; returns its path."""
    path, data = f"checkpoints/{agent}-{episode}", f"{agent} after {episode}".encode()
    log.storage.make_directory("checkpoints")
    replace(log.storage, path, data)
    log.append(
        journal.CheckpointSaved(
            agent=agent,
            episode=episode,
            path=path,
            sha256=hashlib.sha256(data).hexdigest(),
            size=len(data),
            retired=retired,
        )
    )
    return path


def train(
    directory: Path, agents: Sequence[str] = ("PPO", "SAC"), starts: Sequence[int] = (0, 10, 20)
) -> journal.Receipt:
    """A completed run of these agents on the same bars, each with two checkpoints; the receipt before it was closed."""
    with journal.open(directory) as log:
        begin(log)
        for agent in agents:
            save(log, agent, 0)
            play(log, agent, starts)
            save(log, agent, len(starts))
        end(log)
        return log.sync()


@contextmanager
def training(directory: Path) -> Iterator[journal.Log]:
    """A log that promises only when it is asked to."""
    with journal.open(directory, sync_interval=1000) as log:
        begin(log)
        yield log


def killed(source: Path, target: Path) -> Path:
    """What a process that is killed now would leave."""
    # The next segment is being prepared meanwhile; its temp file comes and goes.
    return shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.tmp"))


def flip(path: Path, offset: int) -> None:
    """One bit of a file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def segments(directory: Path) -> list[Path]:
    """Its segments, in order."""
    return sorted((directory / "segments").iterdir())


def rewards_at(path: Path) -> list[int]:
    """Byte offsets of the single rewards in a segment."""
    data = path.read_bytes()
    return [
        at for at in range(CELL, len(data), CELL) if int.from_bytes(data[at + 4 : at + 6], "little") == cell.REWARDED
    ]


def remake(directory: Path, at: int, new: bytes, *, checksum: bool) -> None:
    """Change the cell at a byte offset of a journal with one sealed segment and no receipt, and cover it up.

    Seal and chain are made anew, and with `checksum` also the cell's own crc.
    """
    storage = DiskStorage(directory)
    journal_id = Manifest.read(storage).journal_id
    (path,) = segments(directory)
    data = bytearray(path.read_bytes())
    header = segment.Header.parse(bytes(data), str(path))
    assert not isinstance(header, str)
    data[at : at + len(new)] = new
    if checksum:
        start = at // CELL * CELL
        crc = cell.checksum(bytes(data[start + 4 : start + CELL]), header.salt, start // CELL - 1)
        data[start : start + 4] = crc.to_bytes(4, "little")
    value = chain.extend(chain.genesis(journal_id), (bytes(data[CELL:-CELL]),))
    _, kind, extent, seq, time_ns, position, events, _ = (0, *cell.PROMISE.unpack(data[-CELL + 4 :]))
    assert (kind, extent) == (cell.SEGMENT_SEALED, 0)
    data[-CELL:] = cell.pack_promise(kind, seq, time_ns, position, events, value, salt=header.salt, at=position)
    path.write_bytes(data)


def newer(directory: Path) -> None:
    """Make it a journal of a format that does not exist yet."""
    path = directory / "journal.json"
    document = json.loads(path.read_text()) | {"format": 2}
    del document["crc32c"]
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    path.write_text(json.dumps(document | {"crc32c": f"{crc32c(canonical):08x}"}))


def compacted(directory: Path) -> journal.Receipt:
    """Two history files, two snapshots, and live segments behind them."""
    receipt = train(directory)
    compact(directory)
    with journal.open(directory) as log:
        play(log, "PPO", [30], first=3)
    compact(directory)
    with journal.open(directory) as log:
        play(log, "PPO", [40], first=4)
    return receipt


class Retiring(DiskStorage):
    """Beside the reader a compaction is at its last step: a file is taken away just before it is looked at."""

    def __init__(self, place: Path, retired: str) -> None:
        super().__init__(place)
        self._retired = retired

    def _place(self, path: str) -> Any:
        if path == self._retired:
            (Path(self.root) / path).unlink(missing_ok=True)
        return super()._place(path)
