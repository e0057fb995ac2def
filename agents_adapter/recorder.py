"""The recorder: where a loop's events go. Into the log; after a failure under `on_failure="warn"`, nowhere.

Recording stops for good at the first failure: a journal with a gap in its middle would tell a wrong story, one that
ends early can be resumed from its last checkpoint.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Literal, ParamSpec

import journal
from journal.errors import JournalFailed

OnFailure = Literal["raise", "warn"]
Arguments = ParamSpec("Arguments")


class Recorder:
    """The log of one attempt, and what to do when it fails."""

    def __init__(self, log: journal.Log, on_failure: OnFailure) -> None:
        self.log = log
        self.failure: JournalFailed | None = None
        """Why nothing is recorded any more; always None where failures are raised."""
        self._forgiving = on_failure == "warn"
        self.straight = None if self._forgiving else log
        """The log, where an episode's steps may go straight into it: a failure is theirs to raise."""
        self.reward = self._forgiven(log.reward)
        self.alike = self._forgiven(log.alike)
        self.episode = self._forgiven(log.episode)
        self.vector_step = self._forgiven(log.vector_step)
        """As those of `Log`; what they return is nothing to build upon."""

    def append(self, event: journal.Event) -> int:
        """Append one event; its seq, or -1 where nothing is recorded any more."""
        if self.failure is None:
            try:
                return self.log.append(event)
            except JournalFailed as error:
                self.failed(error)
        return -1

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

    def _forgiven(self, record: Callable[Arguments, object]) -> Callable[Arguments, object]:
        """`record`, whose failures are raised or told once."""
        if not self._forgiving:
            return record

        def recorded(*given: Arguments.args, **named: Arguments.kwargs) -> None:
            if self.failure is None:
                try:
                    record(*given, **named)
                except JournalFailed as error:
                    self.failed(error)

        return recorded
