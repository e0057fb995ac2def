"""Many rewards at once, past the lock as a single one is: their payload first, then the head, which publishes them.

The turn is held while the payload is written (`journal.turn`), so whoever else appends then queues at the lock. What an
interrupt may leave in between is told in `journal.tail`: the head is there whole, then all of them count, or none does.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

from journal import cell
from journal.appending import unknown_agent
from journal.cell import CELL
from journal.crc import crc32c
from journal.errors import EventRejected
from journal.live import PWRITE_FROM
from journal.rewarding import Rewarding

if TYPE_CHECKING:
    from journal.batch import Packed

_REWARDS: Final = cell.REWARDS
_pack_batch: Callable[..., bytes] = cell.BATCH.pack
_pack_cell: Callable[..., bytes] = cell.PUBLISH.pack


class Batching(Rewarding):
    """The log's end, and how all events come to stand there."""

    _batch: ModuleType
    """`journal.batch`, which needs numpy."""

    def rewards(self, agent: int, episodes: Any, steps: Any, values: Any, env_indices: Any = 0, flags: int = 0) -> int:
        """Record n rewards in one batch: arrays of shape (n,), or scalars that hold for all; `values` decides n.

        Of consecutive numbers, such as steps, a `range` is the quickest.
        Takes n seqs, returns the first (that the next would get, for n = 0). All of them survive the process when it
        returns. Raises as `reward` does; then none was recorded. More than `journal.batch.COUNT_MAX` (209,712) are
        recorded in several batches, each by that rule: interrupted between two, the first ones stay.
        """
        batch = self._batch
        usual = batch.usual(episodes, steps, env_indices, values)
        if usual is not None:
            return self.batch(agent, usual, flags)
        real = batch.as_values(values)
        count = len(real)
        if not count:
            self._usable()
            return self._seq
        columns: list[Any] = [
            batch.as_column(episodes, count, "episodes"),
            batch.as_column(steps, count, "steps"),
            batch.as_column(env_indices, count, "env_indices", batch.UINT32_MAX),
        ]
        if count <= batch.COUNT_MAX:
            return self.batch(agent, batch.pack(*columns, real), flags)
        first = None
        for start in range(0, count, batch.COUNT_MAX):
            part = slice(start, start + batch.COUNT_MAX)
            packed = batch.pack(*(c if isinstance(c, int) else c[part] for c in columns), real[part])
            seq = self.batch(agent, packed, flags)
            first = seq if first is None else first
        assert first is not None
        return first

    def batch(self, agent: int, packed: Packed, flags: int = 0) -> int:
        """As `rewards`, of one batch that the caller has packed, as `journal.batch` tells; it must hold a reward."""
        count, form, episode, step, env_index, payload = packed
        length = len(payload)
        extent = -(-length // 64)
        needed = 64 + 64 * extent
        turn = self._turn
        taken, turn.taken = turn.taken, True
        offset, seq = self._offset, self._seq
        if taken or offset + needed > self._limit:
            if not taken:
                taken, turn.taken = True, False
            where = agent, env_index, episode, step
            return self._append_cell(_REWARDS, payload, flags, form, *where, count, takes=count)
        try:
            if not 0 < agent <= self._names:
                raise EventRejected(unknown_agent(agent))
            salt, position = self._salt, self._shift + seq
            own = self._checked(payload, position, offset)
            pad = 64 * extent - length
            now = self.time_ns()
            body = _pack_batch(
                _REWARDS, extent, seq, now, pad, flags, form, own, agent, env_index, episode, step, count
            )
            crc = crc32c(body, salt) ^ position
            if length >= PWRITE_FROM:
                # Behind a payload that was written, the map would have to fault the head's page in first.
                write = self._segment.file.write
                write(offset + CELL, payload)
                write(offset, _pack_cell(crc, body))
            else:
                self._segment.write(offset + CELL, payload)
                self._put(self._buffer, offset, crc, body)
            self._offset = offset + needed
            self._seq = seq + count
            self._shift = position + extent + 1 - seq - count
        except BaseException as error:
            # Next to these stores CPython looks for no signal.
            self._interrupted, self._limit = (offset, seq, count, needed, ()), 0
            taken, turn.taken = True, False
            self._settle_reward(error)
            raise
        taken, turn.taken = True, False
        if self._always:
            self._reach(seq + count - 1)
        return seq
