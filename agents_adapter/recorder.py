"""The recorder: where a loop's events go. Into the log; after a failure under `on_failure="warn"`, nowhere.

Recording stops for good at the first failure: a journal with a gap in its middle would tell a wrong story, one that
ends early can be resumed from its last checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Literal

import journal
from journal.batch import Packed
from journal.errors import JournalFailed

OnFailure = Literal["raise", "warn"]


class Recorder:
    """The log of one attempt, and what to do when it fails."""

    def __init__(self, log: journal.Log, on_failure: OnFailure) -> None:
        self.log = log
        self.failure: JournalFailed | None = None
        """Why nothing is recorded any more; always None where failures are raised."""
        self._forgiving = on_failure == "warn"
        self.reward: Callable[[int, int, int, float, int, int], object] = (
            self._forgiving_reward if self._forgiving else log.reward
        )
        """(agent's number, episode, step, value, env_index, flags), as `Log.reward`."""
        self.straight = None if self._forgiving else log
        """The log, where an episode's steps may go straight into it: a failure is theirs to raise."""

    def append(self, event: journal.Event) -> int:
        """Append one event; its seq, or -1 where nothing is recorded any more."""
        if self.failure is None:
            try:
                return self.log.append(event)
            except JournalFailed as error:
                self.failed(error)
        return -1

    def episodes(
        self, like: journal.Event, payload: bytes, agent: int, flags: int, places: Sequence[tuple[int, int]]
    ) -> None:
        """As `Log.episodes`."""
        if self.failure is None:
            try:
                self.log.episodes(like, payload, agent, flags, places)
            except JournalFailed as error:
                self.failed(error)

    def alike(self, like: journal.Event, payload: bytes, agent: int, flags: int, place: tuple[int, int]) -> None:
        """As `Log.alike`, of one event."""
        if self.failure is None:
            try:
                self.log.alike(like, payload, agent, flags, (place,))
            except JournalFailed as error:
                self.failed(error)

    def batch(self, agent: int, packed: Packed, flags: int) -> None:
        """As `Log.batch`."""
        if self.failure is None:
            try:
                self.log.batch(agent, packed, flags)
            except JournalFailed as error:
                self.failed(error)

    def agent(self, name: str) -> int:
        """The agent's number in this journal, or 0 where nothing is recorded any more."""
        if self.failure is None:
            try:
                return self.log.agent(name)
            except JournalFailed as error:
                self.failed(error)
        return 0

    def failed(self, error: JournalFailed) -> None:
        """Note that the journal failed: raise, or warn once and record no more."""
        if not self._forgiving:
            raise error
        if self.failure is None:
            self.failure = error
            warnings.warn(
                f"{self.log.storage.name}: the journal failed and the training goes on unrecorded: {error}; "
                "start again to resume from the last checkpoint",
                RuntimeWarning,
                stacklevel=2,
            )

    def _forgiving_reward(
        self, agent: int, episode: int, step: int, value: float, env_index: int = 0, flags: int = 0
    ) -> None:
        if self.failure is None:
            try:
                self.log.reward(agent, episode, step, value, env_index, flags)
            except JournalFailed as error:
                self.failed(error)
