"""What does `sync="always"` cost beside pwrite + fdatasync, and what do eight threads share?"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack

from benchmarks.beside import killed
from benchmarks.contenders import JOURNAL
from benchmarks.question import Answer, Effort, by_name
from journal.speed import levels
from journal.speed.rounds import measure


def answer(directory: str, effort: Effort) -> Answer:
    """Ratios to pwrite + fdatasync into a file whose blocks are written, the best that one could do by hand."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        contenders = list(levels.synced_events(place, stack))
        figures = measure(contenders, rounds=3 * effort.rounds, seconds=2 * effort.seconds)
    for one in figures:
        if one.name == levels.PWRITE:
            found.add(one, limit=True)
        elif one.name == levels.ALWAYS:
            lost = killed(JOURNAL.name, 'sync="always"', directory, effort, batches=False)
            found.add(one, peer=JOURNAL.name, mode='sync="always"', **lost)
        else:
            found.add(one, peer=JOURNAL.name, mode='sync="always", 8 threads')
    named = by_name(figures)
    alone, together = named[levels.ALWAYS], named[levels.ALWAYS_THREADS]
    found.value("always", alone.wall_ratios)
    found.value(
        "always, 8 threads ÷ one", [a / b for a, b in zip(alone.wall_ratios, together.wall_ratios, strict=True)]
    )
    return found
