"""What an episode begins and ends with, past the lock as a reward is: its start; its end, and bars that come with it.

An episode of twenty steps is a start and an end, and a loop comes to them with cold caches: what can be known of them
before is in a `Fact`, and all that is unusual is left to `alike`, which queues at the lock (`journal.turn`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from journal import cell
from journal.appending import unknown_agent
from journal.cell import CELL
from journal.context import EPISODES_MAX
from journal.crc import crc32c
from journal.errors import EventRejected
from journal.events import BarsSeen, EpisodeEnded, EpisodeStarted, payload_of
from journal.live import PWRITE_FROM
from journal.together import Together

_STARTED: Final = cell.EPISODE_STARTED
_pack_episode: Callable[..., bytes] = cell.EPISODE.pack
_pack_cell: Callable[..., bytes] = cell.PUBLISH.pack


class Fact(NamedTuple):
    """An event of an episode, but for which; made by `fact`."""

    like: EpisodeStarted | BarsSeen | EpisodeEnded
    payload: bytes
    kind: int
    """And the extent."""
    pad: int
    padded: bytes
    """The payload and `pad` zeros."""
    stamped: bool
    """Does its cell tell the monotonic time?"""


def fact(like: EpisodeStarted | BarsSeen | EpisodeEnded, payload: bytes | None = None) -> Fact:
    """Of an event that is as `like`, whose `payload_of` the caller may have. Raises `EventRejected` as that does."""
    if payload is None:
        payload = payload_of(like)
    extent = -(-len(payload) // CELL)
    padded = payload.ljust(extent * CELL, b"\0")
    pad = len(padded) - len(payload)
    return Fact(like, payload, like.kind | extent << 16, pad, padded, type(like) is not BarsSeen)


class Episodes(Together):
    """The log's end, and how all events come to stand there."""

    def episode(
        self, told: Fact, agent: int, flags: int, episode: int, env_index: int, seen: Fact | None = None
    ) -> int:
        """Append the start of an episode or its end, with the bars that it has `seen` before that: both, or neither.

        Returns the seq of the first. All else as `alike`.
        """
        facts = (told,) if seen is None else (seen, told)
        takes = len(facts)
        needed = CELL * takes + len(told.padded) + (0 if seen is None else len(seen.padded))
        like, key = told.like, (agent, flags & 1, env_index)
        opened, starts = self.context.episodes, like.kind == _STARTED
        turn = self._turn
        taken, turn.taken = turn.taken, True
        offset, seq = self._offset, self._seq
        if taken or offset + needed > self._limit or needed >= PWRITE_FROM:
            if not taken:
                taken, turn.taken = True, False
            payload = None if seen is None else seen.payload
            return self.alike(like, told.payload, agent, flags, ((episode, env_index),), payload)
        try:
            if not 0 < agent <= self._names:
                raise EventRejected(unknown_agent(agent))
            if (key in opened or len(opened) >= EPISODES_MAX) if starts else opened.get(key) != episode:
                self.context.refuse_contradiction(like.kind, flags, agent, ((episode, env_index),))
            salt, at, number, where = self._salt, self._shift + seq, seq, offset
            time_ns, monotonic = self.time_ns(), self.monotonic()
            parts: list[bytes] = []
            for _, payload, kind, pad, padded, stamped in facts:
                own = 0
                if payload:
                    own = crc32c(payload, salt) ^ at
                    if 0xFF in payload[5::CELL]:
                        self._checked(payload, at, where)
                value = monotonic if stamped else 0.0
                body = _pack_episode(kind, number, time_ns, pad | flags << 8, own, agent, env_index, episode, value)
                parts += _pack_cell(crc32c(body, salt) ^ at, body), padded
                at, number, where = at + 1 + (kind >> 16), number + 1, where + CELL + len(padded)
            # The first head, which publishes all, comes last.
            head = parts[0]
            parts[0] = b""
            if needed > CELL:
                self._segment.write(offset + CELL, b"".join(parts))
            self._segment.write(offset, head)
            self._offset = offset + needed
            self._seq = number
            self._shift = at - number
            if starts:
                opened[key] = episode
            else:
                del opened[key]
        except BaseException as error:
            # Next to these stores CPython looks for no signal.
            changed = (key,), (episode,), (0,) if starts else (), () if starts else (0,)
            self._interrupted, self._limit = (offset, seq, takes, needed, (changed,)), 0
            taken, turn.taken = True, False
            self._settle_reward(error)
            raise
        taken, turn.taken = True, False
        if self._always:
            self._reach(number - 1)
        return seq
