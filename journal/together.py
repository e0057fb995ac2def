"""A step of many sub-environments as one append: the starts of episodes, a batch of rewards, the ends of episodes.

What an append costs is done once for all of them: one wait for the lock, one look at the clock, one store, one head
that publishes them. So all of them are there, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

from journal import cell
from journal.appending import unknown_agent
from journal.batching import Batching
from journal.cell import CELL
from journal.context import EPISODES_MAX, Changes, EpisodeKey
from journal.crc import crc32c
from journal.errors import EventRejected
from journal.events import EpisodeEnded, payload_of

_pack_episode: Callable[..., bytes] = cell.EPISODE.pack
_pack_batch: Callable[..., bytes] = cell.BATCH.pack
_pack_cell: Callable[..., bytes] = cell.PUBLISH.pack
_MASK: Final = 0xFFFFFFFF
_ZEROS: Final = bytes(CELL)
_END: Final = cell.EPISODE_ENDED | 1 << 16
"""Kind, and an extent of one cell."""


class Ending(NamedTuple):
    """How an episode ends, for the ends of many: made once, by `ending`."""

    payload: bytes
    pad: int
    padded: bytes
    """The payload and `pad` zeros: one cell."""


def ending(like: EpisodeEnded) -> Ending:
    """The end that is as `like`. Raises `EventRejected` where its reason and metrics take more than a cell."""
    payload = payload_of(like)
    if len(payload) > CELL:
        raise EventRejected(
            f"an end of many takes a cell, and this one takes {len(payload)} bytes: append it by itself"
        )
    return Ending(payload, CELL - len(payload), payload.ljust(CELL, b"\0"))


class Together(Batching):
    """The log's end, and how what a vector step gives comes to stand there."""

    def vector_step(
        self,
        agent: int,
        flags: int,
        count: int,
        form: int,
        episode: int,
        env_index: int,
        payload: bytes,
        numbers: Sequence[int],
        began: float,
        started: Sequence[int],
        ended: Sequence[int],
        how: Ending,
    ) -> int:
        """Append the starts of episodes, a batch of `count` rewards and the ends of episodes: all of them, or none.

        `agent` is the number that `agent()` gave, `flags` is 1 in the eval phase. The batch is one that the caller has
        packed, as `journal.batch` tells, of steps counted from 0. `started` and `ended` are sub-environments, counted
        from `env_index`, and `numbers` the episodes of all of them. Those that started did so at `began` (monotonic
        seconds); those that ended, perhaps some of them, end now, as `how` tells. Returns the seq of the first. Raises
        as `append` does.
        """
        extent = -(-len(payload) // CELL)
        needed = CELL * (len(started) + 1 + extent + 2 * len(ended))
        takes = len(started) + count + len(ended)
        opening: Changes = {}
        closing: list[EpisodeKey] = []
        with self.lock:
            if self._closed or self._failure is not None:
                self._refuse()
            _, offset, seq = self.tail_locked()
            if offset + needed > self._segment.limit:
                offset = self._room(needed)
            try:
                if not 0 < agent <= self._names:
                    raise EventRejected(unknown_agent(agent))
                context, salt, time_ns, phase = self.context, self._salt, self.time_ns(), flags & 1
                opened = context.episodes
                if len(opened) + len(started) > EPISODES_MAX:
                    places = [(numbers[i], env_index + i) for i in started]
                    context.refuse_contradiction(cell.EPISODE_STARTED, flags, agent, places)
                at = self._base + (offset >> 6)
                # Where a cell of one stands, and its seq, go up together.
                shift, told, parts = at - seq, flags << 8, []
                for number, i in enumerate(started, seq):
                    key, which = (agent, phase, env_index + i), numbers[i]
                    if key in opened:
                        context.refuse_contradiction(cell.EPISODE_STARTED, flags, agent, ((which, key[2]),))
                    body = _pack_episode(cell.EPISODE_STARTED, number, time_ns, told, 0, agent, key[2], which, began)
                    parts.append(_pack_cell(crc32c(body, salt) ^ number + shift & _MASK, body))
                    opening[key] = which
                number = seq + len(started)
                at = number + shift & _MASK
                payload_crc = crc32c(payload, salt) ^ at
                if 0xFF in payload[5::CELL]:
                    self._checked(payload, at, offset + CELL * len(started))
                pad = extent * CELL - len(payload)
                where = agent, env_index, episode, 0, count
                body = _pack_batch(cell.REWARDS, extent, number, time_ns, pad, flags, form, payload_crc, *where)
                parts += _pack_cell(crc32c(body, salt) ^ at, body), payload, _ZEROS[:pad]
                if ended:
                    first = number + count
                    shift, now = at + 1 + extent - 2 * first, self.monotonic()
                    told, crc, padded = how.pad | flags << 8, crc32c(how.payload, salt), how.padded
                    for number, i in enumerate(ended, first):
                        key, which, at = (agent, phase, env_index + i), numbers[i], 2 * number + shift & _MASK
                        if opened.get(key) != which != opening.get(key):
                            context.refuse_contradiction(cell.EPISODE_ENDED, flags, agent, ((which, key[2]),))
                        body = _pack_episode(_END, number, time_ns, told, crc ^ at, agent, key[2], which, now)
                        parts += _pack_cell(crc32c(body, salt) ^ at, body), padded
                        closing.append(key)
                # The first head, which publishes them all, comes last.
                head = parts[0]
                parts[0] = b""
                self._segment.write(offset + CELL, b"".join(parts))
                self._segment.write(offset, head)
                self._offset = offset + needed
                self._seq = seq + takes
                opened.update(opening)
                for key in closing:
                    del opened[key]
            except BaseException as error:
                self._interrupted = (offset, seq, takes, needed, ((opening, closing),))
                self._settle()
                self._explain(error)
                raise
            self._allow()
        if self._always:
            self._reach(seq + takes - 1)
        return seq
