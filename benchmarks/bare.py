"""The cells of an episode without a log around them: packed, checksummed, stored, and nothing that makes them safe.

No lock, no turn, no look at whether the segment is full, at what is open or at what Ctrl-C may leave: a bound of what
recording in Python can cost, as the calls of C are the same. Beside them the same calls in one loop, without a method.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from journal import cell, live, segment
from journal.cell import CELL
from journal.crc import crc32c
from journal.events import BarsSeen, EpisodeEnded, EpisodeStarted, payload_of
from journal.storage.disk import DiskStorage

SIZE: Final = 4 << 20
"""Bytes of the segment; it is written over and over."""
STARTED: Final = EpisodeStarted(agent="-", episode=0, seed=1 << 31, entry=7)
ENDED: Final = EpisodeEnded(agent="-", episode=0, reason="terminated")
SEEN: Final = BarsSeen(
    agent="-",
    episode=0,
    instrument="EURUSD",
    timeframe="H1",
    start=0,
    stop=240,
    content_hash=None,
    source="declared",
)
_END: Final = SIZE - (1 << 20)
"""Where it begins anew: behind it there is room for an episode."""
_SALT: Final = 0x5A17C0DE


class Bare:
    """Takes an episode's rewards as an `Episode` does; one for all episodes, none of which can be found again."""

    def __init__(self, made: live.LiveSegment) -> None:
        self._buffer, self._put, self._at = made.buffer, made.put, CELL
        self._common = cell.COMMON.pack(0, 1, 0, 7)
        self._seen = payload_of(SEEN)
        self._started = payload_of(STARTED)
        self._ended = payload_of(ENDED)

    def begin(self) -> Bare:
        """Store an episode's start, with its payload."""
        if self._at > _END:
            self._at = CELL
        self._store(cell.EPISODE_STARTED, self._started)
        return self

    def step(self, reward: float, terminated: bool = False, truncated: bool = False) -> None:
        """Store a reward, and where it is the last one the bars and the end."""
        at, put = self._at, self._put
        body = cell.STEP.pack(cell.REWARDED, at, time.time_ns(), self._common, at, reward)
        put(self._buffer, at, crc32c(body, _SALT) ^ at, body)
        self._at = at + CELL
        if terminated or truncated:
            self.end()

    def end(self) -> None:
        """Store the bars and the end, with their payloads."""
        self._store(cell.BARS_SEEN, self._seen)
        self._store(cell.EPISODE_ENDED, self._ended)

    def rewards(self, calls: int) -> None:
        """So many rewards in one loop."""
        buffer, put, pack, time_ns = self._buffer, self._put, cell.STEP.pack, time.time_ns
        at, kind, common = CELL, cell.REWARDED, self._common
        for step in range(calls):
            body = pack(kind, step, time_ns(), common, step, 0.5)
            put(buffer, at, crc32c(body, _SALT) ^ step, body)
            at = at + CELL if at < _END else CELL

    def batches(self, payload: bytes, calls: int) -> None:
        """So many batches of rewards, each a payload and its head, in one loop."""
        buffer, put, pack, time_ns = self._buffer, self._put, cell.BATCH.pack, time.time_ns
        at, size = CELL, len(payload)
        for step in range(calls):
            payload_crc = crc32c(payload, _SALT) ^ step
            body = pack(cell.REWARDS, size // CELL, step, time_ns(), 0, 0, 0, payload_crc, 1, 0, 7, step, 64)
            buffer[at + CELL : at + CELL + size] = payload
            put(buffer, at, crc32c(body, _SALT) ^ step, body)
            at = at + CELL + size if at < _END else CELL

    def vector_step(self, payload: bytes, starts: int, ends: int) -> None:
        """Store a batch of rewards, and so many starts before it and ends behind it, at once."""
        at = self._at if self._at < _END else CELL
        now, monotonic, size = time.time_ns(), time.monotonic(), len(payload)
        ended, parts = self._ended.ljust(CELL, b"\0"), []
        for _ in range(starts):
            body = cell.EPISODE.pack(cell.EPISODE_STARTED, at, now, 0, 0, 1, 0, 7, monotonic)
            parts.append(cell.PUBLISH.pack(crc32c(body, _SALT) ^ at, body))
        own = crc32c(payload, _SALT) ^ at
        body = cell.BATCH.pack(cell.REWARDS, -(-size // CELL), at, now, -size % CELL, 0, 21, own, 1, 0, 7, 0, 64)
        parts += cell.PUBLISH.pack(crc32c(body, _SALT) ^ at, body), payload, bytes(-size % CELL)
        own = crc32c(self._ended, _SALT)
        for _ in range(ends):
            body = cell.EPISODE.pack(cell.EPISODE_ENDED | 1 << 16, at, now, 0, own ^ at, 1, 0, 7, monotonic)
            parts += cell.PUBLISH.pack(crc32c(body, _SALT) ^ at, body), ended
        cells = b"".join(parts)
        self._at = at + len(cells)
        self._buffer[at : self._at] = cells

    def _store(self, kind: int, payload: bytes) -> None:
        at, length = self._at, len(payload)
        extent, pad = cell.extent_of(length)
        own = crc32c(payload, _SALT) ^ at
        body = cell.BODY.pack(kind, extent, at, time.time_ns(), pad, 0, 0, own, 1, 0, 7, 0, time.monotonic())
        self._buffer[at + CELL : at + CELL + length] = payload
        self._put(self._buffer, at, crc32c(body, _SALT) ^ at, body)
        self._at = at + CELL + extent * CELL


@contextmanager
def bare(directory: str) -> Iterator[Bare]:
    """With a segment in `directory`, as the log has them: mapped, its blocks written."""
    storage = DiskStorage(directory)
    storage.make_directory(segment.DIRECTORY)
    made = live.create(storage, segment.Header(bytes(16), 0, _SALT, SIZE, 0), gathered=False)
    if not made.mapped:  # Where a file system is not to be mapped, the limit of memory is a store into memory.
        made.buffer, made.put = memoryview(bytearray(SIZE)), cell.PUBLISH.pack_into
    one = Bare(made)
    try:
        yield one
    finally:
        one._buffer = None
        made.file.close()
