"""training-journal, reading: state is what replaying the log gives, and there is no second truth.

    import replay

    state = replay.load("runs/fx")
    state.totals                         # pandas DataFrame: cumulative totals per agent
    state.resume("PPO")                  # where PPO goes on
    replay.verify("runs/fx").status      # "clean", "torn" or "corrupt"
    replay.diverge("runs/fx").findings   # what was done again after a rewind, and differs
    for batch in replay.events("runs/fx"):
        ...                              # pyarrow.RecordBatch, one row per event
    for batch in replay.follow("runs/fx"):
        ...                              # the same, and on with what a training appends

Nothing here writes a segment; `journal` does.
"""

import journal

if getattr(journal, "__distribution__", None) != "training-journal":
    raise ImportError(
        f"the package `journal` in {journal.__file__} is not training-journal's: rename it, or take it off sys.path"
    )

from replay.divergence import diverge
from replay.fold import fold
from replay.following import follow
from replay.loading import load
from replay.query import events
from replay.resume import ResumePoint
from replay.state import State, merge
from replay.verify import Report, verify

__distribution__ = "training-journal"

__all__ = ["Report", "ResumePoint", "State", "diverge", "events", "fold", "follow", "load", "merge", "verify"]
