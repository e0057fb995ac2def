"""What does one event cost that survives `kill -9` when the call returns, beside the limits and the peers?"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from typing import Final

from benchmarks.beside import ask_peers, journal_mode, killed
from benchmarks.contenders import JOURNAL
from benchmarks.fresh import fresh
from benchmarks.question import Answer, Effort, by_name
from journal.speed import levels
from journal.speed.rounds import Figures, measure

ROUNDS: Final = 3
"""Times the rounds of the others: these few contenders decide."""


def answer(directory: str, effort: Effort) -> Answer:
    """Ratios to `struct` + `os.write` (to pwrite + fdatasync, where an event survives a power cut)."""
    found = Answer()
    figures = fresh(own, directory, effort)
    for one in figures:
        if one.name in levels.LIMITS:
            found.add(one, limit=True)
        else:
            mode = journal_mode(one.name)
            found.add(
                one,
                peer=JOURNAL.name,
                mode=mode,
                **killed(JOURNAL.name, mode, directory, effort, batches=False),
            )
    named = by_name(figures)
    found.value("one event", named[levels.KILL].wall_ratios)
    found.value("one event, CPU", named[levels.KILL].cpu_ratios)
    found.value("one event, group commit", named[levels.GROUP].wall_ratios)
    ask_peers(found, directory, effort, batches=False)
    return found


def own(directory: str, effort: Effort) -> list[Figures]:
    """The journal and the limits, in this process."""
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        return measure(list(levels.single_events(place, stack)), rounds=ROUNDS * effort.rounds, seconds=effort.seconds)
