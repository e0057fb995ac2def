"""Compaction around a run: when its log becomes history, and why that never costs the run itself.

    "manual"   only by `journal compact`: the default, for compaction takes seconds and hundreds of megabytes, which a
               training should not spend unasked
    "end"      when the run has completed: nobody waits for it any more, and the next start is quick
    "open"     before the next start: for trainings that are always cut off and never complete

Never beside a running training: both happen while this process writes nothing.
"""

from __future__ import annotations

import warnings
from contextlib import nullcontext
from importlib import import_module
from typing import Final, Literal

from journal.errors import JournalLocked, NotAJournal
from replay.loading import Place
from replay.progress import silent

Compact = Literal["end", "open", "manual"]
MOMENTS: Final = ("end", "open", "manual")


def prepare() -> None:
    """Import now what cannot be imported while the program exits, where a run may end: what starts threads."""
    import_module("concurrent.futures.thread")  # pyarrow imports it, by way of pandas.


def compact_if_possible(place: Place, name: str, *, quiet: bool = False) -> None:
    """Compact the journal; what goes wrong is one warning, for nothing is lost and the next time does it.

    On a terminal a bar on standard error shows how far it is, unless `quiet`.
    """
    try:
        from replay.compaction import compact  # It needs pyarrow.
        from replay.render import progress_bar

        bar = nullcontext(silent) if quiet else progress_bar(f"compacting {name}", quiet=False)
        with bar as progress:
            compact(place, progress=progress)
    except (NotAJournal, JournalLocked):
        return  # Not made yet, or somebody else writes it: opening it says so.
    except Exception as error:
        reason = str(error) or type(error).__name__
        warnings.warn(
            f"{name} was not compacted: {reason}; nothing is lost: `journal compact {name}` tries again",
            RuntimeWarning,
            stacklevel=2,
        )
