"""One reward, straight into the mapped segment: the only event that is appended without the lock.

    Log.reward(agent, episode, step, value)    any reward
    Steps.step(reward)                         an episode's next one: what its rewards have in common is packed once

Two functions, as a call costs a tenth of an append; a test holds them to be the same, statement by statement, from
taking the turn to giving it back (`journal.turn`). What an interrupt may leave in between is told in `journal.tail`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from journal import cell
from journal.appending import Appending, unknown_agent
from journal.crc import crc32c
from journal.errors import EventRejected
from journal.events import as_reward
from journal.turn import Turn

if TYPE_CHECKING:
    from journal.writer import Log

_REWARDED: Final = cell.REWARDED
_pack_reward: Callable[..., bytes] = cell.REWARD.pack
_pack_step: Callable[..., bytes] = cell.STEP.pack


class Rewarding(Appending):
    """The log's end, and how all events come to stand there."""

    def reward(self, agent: int, episode: int, step: int, value: float, env_index: int = 0, flags: int = 0) -> int:
        """Record one reward: one cell. Returns its seq; the event survives the process from then on.

        `agent` is the number that `agent()` gave; `flags` is 1 in the eval phase. Which values are taken is told at
        `journal.events.as_reward`. Raises `EventRejected`, `JournalClosed`, `JournalFailed`, `DiskFull`,
        `ReentrantCall`; then nothing was recorded (the last one says so where `sync="always"` was what it refused).
        """
        if type(value) is not float:
            value = as_reward(value)
        log = self
        turn = log._turn
        taken, turn.taken = turn.taken, True
        offset, seq = log._offset, log._seq
        if taken or offset >= log._limit:
            if not taken:
                taken, turn.taken = True, False
            return log._append_cell(_REWARDED, b"", flags, 0, agent, env_index, episode, step, value)
        try:
            if not 0 < agent <= log._names:
                raise EventRejected(unknown_agent(agent))
            # By local names: CPython is slow to call as a method what is a built-in function in an instance.
            time_ns, put = log.time_ns, log._put
            body = _pack_reward(_REWARDED, seq, time_ns(), flags, agent, env_index, episode, step, value)
            put(log._buffer, offset, crc32c(body, log._salt) ^ log._shift + seq, body)
            log._offset = offset + 64
            log._seq = seq + 1
        except BaseException as error:
            # Next to these stores CPython looks for no signal.
            log._interrupted, log._limit = (offset, seq, 1, cell.CELL, ()), 0
            taken, turn.taken = True, False
            log._settle_reward(error)
            raise
        taken, turn.taken = True, False
        if log._always:
            log._reach(seq)
        return seq

    def _settle_reward(self, error: BaseException) -> None:
        """An append of a reward raised `error`, and has noted that it did."""
        self.tail()
        self._explain(error)


class _Shut:
    """Takes a log's place where rewards do not go straight into it."""

    _turn, _offset, _seq, _limit = Turn(), 0, 0, 0


_SHUT: Any = _Shut()


class Steps:
    """The rewards of one episode, step after step, and what they come to: what an episode of any kind builds upon."""

    __slots__ = ("_agent", "_common", "_flags", "_log", "_record", "env_index", "number", "reward", "steps")

    _log: Log
    _common: bytes
    """What its cells have in common, once the way into the log is open."""

    def __init__(
        self,
        record: Callable[[int, int, int, float, int, int], object],
        agent: int,
        number: int,
        place: int,
        flags: int,
    ) -> None:
        """`record` takes the rewards, as `Log.reward`, where and as long as they do not go straight into the log."""
        self._record = record
        self._agent = agent
        self._flags = flags
        self._log = _SHUT
        self.env_index = place
        self.number = number
        """Counts the agent's episodes in this phase, over its whole life."""
        self.steps = 0
        self.reward = 0.0
        """Sum of the rewards so far, left to right; NaN and infinite ones are recorded and not added."""

    def step(self, reward: float, terminated: bool = False, truncated: bool = False) -> None:
        """Record one step's reward; it survives the process when this returns. Ends the episode where told so.

        Which rewards are taken: `journal.events.as_reward`. Raises `EventRejected` (also after the episode's end),
        `JournalClosed` (after the run's), `JournalFailed`; then nothing was recorded. What its end raises, such as of
        bars that are not the plan's, it raises behind the reward.
        """
        if type(reward) is not float:
            reward = as_reward(reward)
        # Asked once, before anything is recorded: it may be no truth.
        reason = "terminated" if terminated else "truncated" if truncated else ""
        log = self._log
        turn = log._turn
        taken, turn.taken = turn.taken, True
        offset, seq = log._offset, log._seq
        if taken or offset >= log._limit:
            if not taken:
                taken, turn.taken = True, False
            self._record(self._agent, self.number, self.steps, reward, self.env_index, self._flags)
        else:
            try:
                time_ns, put = log.time_ns, log._put
                body = _pack_step(_REWARDED, seq, time_ns(), self._common, self.steps, reward)
                put(log._buffer, offset, crc32c(body, log._salt) ^ log._shift + seq, body)
                log._offset = offset + 64
                log._seq = seq + 1
            except BaseException as error:
                log._interrupted, log._limit = (offset, seq, 1, cell.CELL, ()), 0
                taken, turn.taken = True, False
                log._settle_reward(error)
                raise
            taken, turn.taken = True, False
        self.steps += 1
        if reward - reward == 0.0:
            self.reward += reward
        if reason:
            self.end(reason)

    def end(self, reason: str = "completed") -> None:
        """Record the end."""
        raise NotImplementedError

    def over(self, refuse: Callable[[int, int, int, float, int, int], object]) -> None:
        """Its end is recorded: `refuse` takes what comes after it."""
        # Not a method of its own: with that it would wait for the garbage collector.
        self._log, self._record = _SHUT, refuse

    def straight(self, log: Log | None) -> None:
        """Open the way into `log`, in which the episode's start is recorded; shut it (None)."""
        if log is None or log._always:  # There each waits for the disk, and `Log.reward` sees to that.
            self._log = _SHUT
        else:
            self._common = cell.COMMON.pack(self._flags, self._agent, self.env_index, self.number)
            self._log = log
