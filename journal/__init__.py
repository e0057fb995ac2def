"""training-journal, the log: an append-only, crash-proof journal of agent training.

    import journal

    with journal.open("runs/fx") as log:
        log.append(journal.EpisodeStarted(agent="PPO", episode=0, seed=7))
        ppo = log.agent("PPO")
        log.reward(ppo, 0, 0, 1.5)          # survives kill -9 when it returns
        receipt = log.sync()                # survives a power cut when it returns

Reading is in `replay`, recording a training loop in `agents_adapter`.
"""

from typing import TYPE_CHECKING, Any

from journal.errors import (
    CorruptJournal,
    DiskFull,
    Diverged,
    EventRejected,
    HistoryDropped,
    JournalClosed,
    JournalError,
    JournalFailed,
    JournalLocked,
    NotAJournal,
    NotComparable,
    ReentrantCall,
    ResumeImpossible,
    UnsupportedFormat,
)
from journal.events import (
    AttemptEnded,
    AttemptStarted,
    BarsSeen,
    CheckpointSaved,
    Custom,
    EpisodeEnded,
    EpisodeStarted,
    Event,
    MetricLogged,
    NameGiven,
    PlanRecorded,
    Rewarded,
    Rewound,
    RunEnded,
    RunStarted,
)

if TYPE_CHECKING:
    from journal.commit import Receipt
    from journal.opening import open_log as open
    from journal.writer import Log

__version__ = "0.1.0"
__distribution__ = "training-journal"
"""How `replay` and `agents_adapter` know this package from another one of the same name."""

__all__ = [
    "AttemptEnded",
    "AttemptStarted",
    "BarsSeen",
    "CheckpointSaved",
    "CorruptJournal",
    "Custom",
    "DiskFull",
    "Diverged",
    "EpisodeEnded",
    "EpisodeStarted",
    "Event",
    "EventRejected",
    "HistoryDropped",
    "JournalClosed",
    "JournalError",
    "JournalFailed",
    "JournalLocked",
    "Log",
    "MetricLogged",
    "NameGiven",
    "NotAJournal",
    "NotComparable",
    "PlanRecorded",
    "Receipt",
    "ReentrantCall",
    "ResumeImpossible",
    "Rewarded",
    "Rewound",
    "RunEnded",
    "RunStarted",
    "UnsupportedFormat",
    "open",
]

_WRITING = ("Log", "Receipt", "open")
"""Imported when first asked for: who only builds or reads events needs none of the writer."""


def __getattr__(name: str) -> Any:
    if name not in _WRITING:
        raise AttributeError(f"module 'journal' has no attribute {name!r}")
    from journal.commit import Receipt
    from journal.opening import open_log
    from journal.writer import Log

    globals().update(Log=Log, Receipt=Receipt, open=open_log)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_WRITING})
