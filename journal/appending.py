"""Appending under the lock: one event with its payload, or several that are alike, published by one cell.

A payload is stored before its head, several events before the first one's head: until that one is there, zeros stand
where a reader looks, and an exception in between (Ctrl-C) leaves all or nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from journal import cell, events
from journal.cell import CELL
from journal.commit import Commit
from journal.crc import crc32c
from journal.errors import DiskFull, EventRejected
from journal.events import Event
from journal.live import PWRITE_FROM, pwrite
from journal.reentrant import RECORDED
from journal.tail import Tail

_CLOSING: Final = frozenset({cell.ATTEMPT_ENDED, cell.RUN_ENDED, cell.EPISODE_ENDED})
"""Kinds that may use a segment's reserve, so that a full disk does not keep a run from ending properly."""

_pack_body: Callable[..., bytes] = cell.BODY.pack
_pack_batch: Callable[..., bytes] = cell.BATCH.pack
_pack_cell: Callable[..., bytes] = cell.PUBLISH.pack


class Appending(Tail):
    """The log's end, and how all events but single rewards come to stand there."""

    _commit: Commit
    _always: bool

    def _append_cell(
        self,
        kind: int,
        payload: bytes,
        flags: int = 0,
        form: int = 0,
        agent: int = 0,
        env_index: int = 0,
        episode: int = 0,
        step: int = 0,
        value: float = 0.0,
        *,
        takes: int = 1,
        event: Event | None = None,
    ) -> int:
        length = len(payload)
        extent, pad = cell.extent_of(length)
        needed = CELL + extent * CELL
        self.refuse_within()
        with self.lock:
            _held = self.lock
            self._usable()
            # Settled first: what an interrupted append did is part of what this one may contradict.
            _, offset, seq = self.tail_locked()
            if isinstance(event, events.NameGiven) and event.number != len(self.context.names) + 1:
                return self._seq  # Another thread was quicker, and has taken this number.
            self.context.refuse_contradiction(kind, flags, agent, ((episode, env_index),))
            if offset + needed > self._segment.limit:
                offset = self._room(needed, closing=kind in _CLOSING)
            try:
                if agent > self._names or (kind in (cell.REWARDED, cell.REWARDS) and agent < 1):
                    raise EventRejected(unknown_agent(agent))
                position = self._base + (offset >> 6)
                payload_crc = self._checked(payload, position, offset) if length else 0
                body = (_pack_batch if kind == cell.REWARDS else _pack_body)(
                    kind,
                    extent,
                    seq,
                    self.time_ns(),
                    pad,
                    flags,
                    form,
                    payload_crc,
                    agent,
                    env_index,
                    episode,
                    step,
                    value,
                )
                if length:
                    self._segment.write(offset + CELL, payload)
                # Behind a payload that was written, the map would have to fault the head's page in first.
                put, buffer = (pwrite, self._segment.file) if length >= PWRITE_FROM else (self._put, self._buffer)
                put(buffer, offset, cell.checksum(body, self._salt, position), body)
                self._offset = offset + needed
                self._seq = seq + takes
                if event is not None:
                    self._take_in(event, flags, agent, env_index, episode)
            except BaseException as error:
                taken = () if event is None else ((event, flags, agent, env_index, episode),)
                self._interrupted = (offset, seq, takes, needed, taken)
                self._settle()
                self._explain(error)
                raise
            self._allow()
        del _held
        if self._always:
            self._reach(seq + takes - 1)
        return seq

    def alike(
        self,
        like: Event,
        payload: bytes,
        agent: int,
        flags: int,
        places: Sequence[tuple[int, int]],
        seen: bytes | None = None,
    ) -> int:
        """Append events that are as `like` but for (episode, env_index), in `places`: all of them, or none.

        As `append`, for a caller that has `payload_of` them already: they are checked against the log, not by
        themselves. `agent` is the number that `agent()` gave, `flags` is 1 in the eval phase; an env_index stands in
        `places` once. `monotonic` is stamped. `seen` is the payload of a BarsSeen for each of them to come with; these
        stand before the others. Returns the seq of the first.
        """
        kind, count = like.kind, len(places)
        facts = ((kind, payload),) if seen is None else ((cell.BARS_SEEN, seen), (kind, payload))
        size = 0
        for _, content in facts:
            size += CELL + (len(content) + CELL - 1 & -CELL)
        needed = size * count
        self.refuse_within()
        with self.lock:
            _held = self.lock
            self._usable()
            _, offset, seq = self.tail_locked()
            self.context.refuse_contradiction(kind, flags, agent, places)
            if offset + needed > self._segment.limit:
                offset = self._room(needed, closing=kind in _CLOSING)
            # Made before: where an interrupt is dealt with, a call would give the next one its chance.
            takes = count * len(facts)
            taken = tuple([(like, flags, agent, env_index, episode) for episode, env_index in places])
            try:
                if not 0 < agent <= self._names:
                    raise EventRejected(unknown_agent(agent))
                salt, base, time_ns, monotonic = self._salt, self._base, self.time_ns(), self.monotonic()
                at, number = offset, seq
                parts: list[bytes] = []
                for which, content in facts:
                    value = 0.0 if which == cell.BARS_SEEN else monotonic
                    extent = pad = own = content_crc = 0
                    padded, forged = b"", False
                    if content:
                        extent, pad = cell.extent_of(len(content))
                        padded = content.ljust(extent * CELL, b"\0")
                        content_crc, forged = crc32c(content, salt), 0xFF in content[5::CELL]
                    for episode, env_index in places:
                        position = base + (at >> 6) & 0xFFFFFFFF
                        if content:
                            if forged:
                                self._checked(content, position, at)
                            own = content_crc ^ position
                        body = _pack_body(
                            which, extent, number, time_ns, pad, flags, 0, own, agent, env_index, episode, 0, value
                        )
                        parts += _pack_cell(crc32c(body, salt) ^ position, body), padded
                        at, number = at + CELL + len(padded), number + 1
                # The first head, which publishes them all, comes last.
                head = parts[0]
                if needed > CELL:
                    parts[0] = b""
                    self._segment.write(offset + CELL, b"".join(parts))
                self._segment.write(offset, head)
                self._offset = offset + needed
                self._seq = number
                self.context.take_in(kind, flags, agent, places)
            except BaseException as error:
                self._interrupted = (offset, seq, takes, needed, taken)
                self._settle()
                self._explain(error)
                raise
            self._allow()
        del _held
        if self._always:
            self._reach(number - 1)
        return seq

    def _checked(self, payload: bytes, position: int, offset: int) -> int:
        """The payload's crc. Raises `EventRejected` where it holds what recovery would take for a promise."""
        found = cell.forged(payload, self._salt, position, (offset >> 6) - 1, self._commit.receipt.position)
        if found is not None:
            raise EventRejected(f"byte {found} of the payload begins a forged promise of this log: save it as a file")
        return crc32c(payload, self._salt) ^ (position & 0xFFFFFFFF)

    def _reach(self, seq: int) -> None:
        self._commit.refuse_within(RECORDED)
        try:
            self._commit.reach(seq)
        except DiskFull as error:
            # The event is in the log and cannot be promised: the caller must not append it again.
            self.poison(error)
            raise self._failed() from error


def unknown_agent(agent: object) -> str:
    """What is said of a number that is no agent's."""
    return f"agent is {agent!r:.80}: give the number that log.agent(name) returned"
