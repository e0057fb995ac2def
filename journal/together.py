"""A step of many sub-environments as one append: the starts of episodes, a batch of rewards, the ends of episodes.

What an append costs is done once for all of them: one turn (`journal.turn`), one look at the clock, one store, one head
that publishes them. So all of them are there, or none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

from journal import cell
from journal.appending import unknown_agent
from journal.batching import Batching
from journal.cell import CELL
from journal.context import EPISODES_MAX, EpisodeKey
from journal.crc import crc32c
from journal.errors import EventRejected
from journal.events import EpisodeEnded, payload_of

_pack_episode: Callable[..., bytes] = cell.EPISODE.pack
_pack_batch: Callable[..., bytes] = cell.BATCH.pack
_pack_cell: Callable[..., bytes] = cell.PUBLISH.pack
_MASK: Final = 0xFFFFFFFF
_ZEROS: Final = bytes(CELL)
_START, _END, _REWARDS = cell.EPISODE_STARTED, cell.EPISODE_ENDED | 1 << 16, cell.REWARDS
"""Kinds, and an end's extent of one cell."""


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
    """The log's end, and how all events come to stand there."""

    def vector_step(
        self,
        agent: int,
        flags: int,
        count: int,
        form: int,
        episode: int,
        env_index: int,
        payload: bytes,
        keys: Sequence[EpisodeKey],
        numbers: Sequence[int],
        began: float,
        started: Sequence[int],
        ended: Sequence[int],
        how: Ending,
        *,
        locked: bool = False,
    ) -> int:
        """Append the starts of episodes, a batch of `count` rewards and the ends of episodes: all of them, or none.

        `agent` is the number that `agent()` gave, `flags` is 1 in the eval phase. The batch is one that the caller has
        packed, as `journal.batch` tells, of steps counted from 0. `started` and `ended` are sub-environments, counted
        from `env_index`; `keys` are the places of all of them in the log's context, `numbers` the episodes there. Those
        that started did so at `began` (monotonic seconds); those that ended, perhaps some of them, end now, as `how`
        tells. `locked`: the lock is held, and there is room. Returns the seq of the first. Raises as `append` does.
        """
        starts, ends, extent = len(started), len(ended), -(-len(payload) // CELL)
        needed = CELL * (starts + 1 + extent + 2 * ends)
        turn = self._turn
        if not locked:
            taken, turn.taken = turn.taken, True
            if taken or self._offset + needed > self._limit:
                if not taken:
                    taken, turn.taken = True, False
                where = episode, env_index, payload, keys, numbers
                return self._queued(needed, agent, flags, count, form, *where, began, started, ended, how)
        offset, seq = self._offset, self._seq
        following = seq + starts + count + ends
        try:
            if not 0 < agent <= self._names:
                raise EventRejected(unknown_agent(agent))
            opened, salt, time_ns = self.context.episodes, self._salt, self.time_ns()
            if len(opened) + starts > EPISODES_MAX:
                self.context.refuse_contradiction(
                    cell.EPISODE_STARTED, flags, agent, [(numbers[i], env_index + i) for i in started]
                )
            # Each cell's seq, and the low 32 bits of its position.
            number, at = seq, self._base + (offset >> 6) & _MASK
            told, parts = flags << 8, []
            for i in started:
                if keys[i] in opened:
                    self._refuse_change(cell.EPISODE_STARTED, keys[i], numbers[i])
                body = _pack_episode(_START, number, time_ns, told, 0, agent, env_index + i, numbers[i], began)
                parts.append(_pack_cell(crc32c(body, salt) ^ at, body))
                number, at = number + 1, at + 1 & _MASK
            own = crc32c(payload, salt) ^ at
            if 0xFF in payload[5::CELL]:
                self._checked(payload, at, offset + CELL * starts)
            pad = CELL * extent - len(payload)
            body = _pack_batch(
                _REWARDS, extent, number, time_ns, pad, flags, form, own, agent, env_index, episode, 0, count
            )
            parts += _pack_cell(crc32c(body, salt) ^ at, body), payload, _ZEROS[:pad]
            if ended:
                number, at, now = number + count, at + 1 + extent & _MASK, self.monotonic()
                told, crc, padded = how.pad | flags << 8, crc32c(how.payload, salt), how.padded
                for i in ended:
                    if opened.get(keys[i]) != numbers[i] and i not in started:
                        self._refuse_change(cell.EPISODE_ENDED, keys[i], numbers[i])
                    body = _pack_episode(_END, number, time_ns, told, crc ^ at, agent, env_index + i, numbers[i], now)
                    parts += _pack_cell(crc32c(body, salt) ^ at, body), padded
                    number, at = number + 1, at + 2 & _MASK
            head = parts[0]
            parts[0] = b""
            self._segment.publish(offset, head, b"".join(parts))
            self._offset = offset + needed
            self._seq = following
            self._shift = self._base + (offset + needed >> 6) - following
            for i in started:
                opened[keys[i]] = numbers[i]
            for i in ended:
                del opened[keys[i]]
        except BaseException as error:
            # Next to these stores CPython looks for no signal.
            changed = keys, numbers, started, ended
            self._interrupted, self._limit = (offset, seq, following - seq, needed, (changed,)), 0
            if locked:
                raise
            taken, turn.taken = True, False
            self._settle_reward(error)
            raise
        if locked:
            return seq
        taken, turn.taken = True, False
        if self._always:
            self._reach(following - 1)
        return seq

    def _queued(self, needed: int, *step: Any) -> int:
        """The same, for who did not find the way open: it queues at the lock, and makes room."""
        self.refuse_within()
        with self.lock:
            _held = self.lock
            self._usable()
            self.tail_locked()
            if self._offset + needed > self._segment.limit:
                self._room(needed)
            try:
                seq = self.vector_step(*step, locked=True)
            except BaseException as error:
                self._settle()
                self._explain(error)
                raise
            self._allow()
            following = self._seq
        del _held
        if self._always:
            self._reach(following - 1)
        return seq

    def _refuse_change(self, kind: int, key: EpisodeKey, number: int) -> None:
        agent, flags, env_index = key
        self.context.refuse_contradiction(kind, flags, agent, ((number, env_index),))
