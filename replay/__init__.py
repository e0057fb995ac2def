"""training-journal, reading: state is what replaying the log gives, and there is no second truth.

    import replay

    state = replay.load("runs/fx")
    state.totals                         # pandas DataFrame: cumulative totals per agent
    state.resume("PPO")                  # where PPO goes on
    replay.verify("runs/fx").status      # "clean", "torn" or "corrupt"
    replay.diverge("runs/fx").findings   # what was done again after a rewind, and differs
    replay.diff("runs/one", "runs/other").verdict   # "equal", "different" or "not provable"
    for batch in replay.events("runs/fx"):
        ...                              # pyarrow.RecordBatch, one row per event
    for batch in replay.follow("runs/fx"):
        ...                              # the same, and on with what a training appends

Nothing here writes a segment; `journal` does.
"""

import sys
from types import ModuleType as _Module
from typing import TYPE_CHECKING, Any

import journal

if getattr(journal, "__distribution__", None) != "training-journal":
    raise ImportError(
        f"the package `journal` in {journal.__file__} is not training-journal's: rename it, or take it off sys.path"
    )

if TYPE_CHECKING:
    from replay.differences import diff
    from replay.divergence import diverge
    from replay.fold import fold
    from replay.following import follow
    from replay.loading import load
    from replay.query import events
    from replay.resume import ResumePoint
    from replay.state import State, merge
    from replay.verify import Report, verify

__distribution__ = "training-journal"

__all__ = ["Report", "ResumePoint", "State", "diff", "diverge", "events", "fold", "follow", "load", "merge", "verify"]


def __getattr__(name: str) -> Any:
    """All of it is imported when any of it is first asked for: `journal --help` needs nothing of it, and no numpy."""
    if name not in __all__:
        raise AttributeError(f"module 'replay' has no attribute {name!r}")
    from replay.differences import diff
    from replay.divergence import diverge
    from replay.fold import fold
    from replay.following import follow
    from replay.loading import load
    from replay.query import events
    from replay.resume import ResumePoint
    from replay.state import State, merge
    from replay.verify import Report, verify

    globals().update(Report=Report, ResumePoint=ResumePoint, State=State, diff=diff, diverge=diverge)
    globals().update(events=events, fold=fold, follow=follow, load=load, merge=merge, verify=verify)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


class _Package(_Module):
    """Python notes each imported module in its package, under its name. `fold` and `verify` are functions there."""

    def __setattr__(self, name: str, value: Any) -> None:
        public = isinstance(value, _Module) and name in __all__
        super().__setattr__(name, getattr(value, name) if public else value)


sys.modules[__name__].__class__ = _Package
