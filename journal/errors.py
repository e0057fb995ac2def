"""Every error the journal raises on purpose; anything else is a bug.

Split by who must act:

    JournalError
    ├── CorruptJournal      the disk is wrong: promised bytes do not check
    ├── JournalFailed       the system failed: an I/O error, a failed sync, a vanished file
    │   └── DiskFull        … no space: nothing is damaged, appending can succeed later
    ├── NotAJournal         the caller is wrong: this path holds no journal
    ├── JournalClosed       … the log was closed, or belongs to the parent process
    ├── EventRejected       … the event cannot be recorded as given
    ├── JournalLocked       … another process writes this journal
    ├── ReentrantCall       … a signal handler came in the middle of a call, and made another one
    ├── ResumeImpossible    … going on would not continue the same training
    ├── NotComparable       … the agents did not see the same bars
    ├── Diverged            … what was trained again after a resume is not what was trained before
    ├── HistoryDropped      … what is asked for needs events that were dropped on purpose
    └── UnsupportedFormat   the version is wrong: written by a newer training-journal

Every message is one line: what, where, what to do next.
"""

from __future__ import annotations


class JournalError(Exception):
    """Base of all errors raised by `journal`, `replay` and `agents_adapter`."""


class CorruptJournal(JournalError):
    """Bytes that were promised do not check. Nothing was changed on disk.

    `path` is relative to the journal, `offset` counts bytes in that file, `seq` is the number of the
    first event that is in doubt.
    """

    def __init__(self, path: str, offset: int, seq: int, reason: str) -> None:
        self.path, self.offset, self.seq, self.reason = path, offset, seq, reason
        super().__init__(
            f"{path}: {reason} (byte {offset}, seq {seq}); nothing was changed: "
            "restore this file from a copy, or read what precedes it with `journal dump --until`"
        )

    def __reduce__(self) -> tuple[object, ...]:
        return type(self), (self.path, self.offset, self.seq, self.reason)


class JournalFailed(JournalError):
    """The system failed. The writer makes no further promise; reopen the journal to recover."""


class DiskFull(JournalFailed):
    """No space is left for the next segment or file. Nothing was lost; free some space and try again."""


class NotAJournal(JournalError):
    """The path is not a journal directory."""


class JournalClosed(JournalError):
    """The log was closed, or this is a forked child of the process that opened it."""


class EventRejected(JournalError, ValueError):
    """The event cannot be recorded as it is; nothing was written."""


class JournalLocked(JournalError):
    """Another process holds the writer's lock; `pids` are the processes that do, where they can be seen."""

    def __init__(self, message: str, pids: tuple[int, ...] = ()) -> None:
        self.pids = pids
        super().__init__(message)


class ReentrantCall(JournalError, RuntimeError):
    """A signal handler or a destructor called in the middle of another call of the same thread.

    Nothing was done; but where an event was recorded and only `sync="always"` had to be refused, it says so.
    """


class ResumeImpossible(JournalError):
    """The run cannot be continued as asked; the message names the argument that differs or is missing."""


class NotComparable(JournalError):
    """The agents did not train on the same observed bars."""


class Diverged(JournalError):
    """An episode that was done again after a resume has other rewards than the first time."""


class HistoryDropped(JournalError):
    """It needs events that somebody dropped with `journal compact --drop-history`; the totals hold them."""


class UnsupportedFormat(JournalError):
    """The journal was written in a newer format; the message names both versions."""
