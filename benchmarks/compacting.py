"""Does compaction keep up with a writer at full speed, and how many bytes does an event need afterwards?"""

from __future__ import annotations

import os
import tempfile
from typing import Any, Final

from benchmarks import training
from benchmarks.question import Answer, Effort, by_name
from journal.speed import levels
from journal.speed.rounds import Contender, measure
from replay.compaction import compact

WRITER: Final = "log.reward at full speed"
COMPACTION: Final = "compaction of what it wrote"
EVENTS: Final = 500_000
DENSE: Final = 4_000_000


def answer(directory: str, effort: Effort) -> Answer:
    """The ratio is of the time: compaction to writing the same events one by one."""
    found = Answer()
    with tempfile.TemporaryDirectory(dir=directory) as place:
        events = effort.events(EVENTS)
        turns = {"written": 0, "compacted": 0}

        def write(calls: int) -> None:
            turns["written"] += 1
            training.record(os.path.join(place, f"turn-{turns['written']}"), events, size=1)

        def compacted(calls: int) -> None:
            turns["compacted"] += 1
            compact(os.path.join(place, f"turn-{turns['compacted']}"))

        def written_before() -> None:
            if turns["compacted"] == turns["written"]:
                write(1)  # The rounds do not all begin with the writer.

        contenders = [
            Contender(WRITER, WRITER, write, events=events, most=1),
            Contender(COMPACTION, WRITER, compacted, events=events, most=1, before=written_before),
        ]
        figures = measure(contenders, rounds=effort.rounds)
        for one in figures:
            found.add(one, survives=None)
        found.value("compaction ÷ scalar writer", by_name(figures)[COMPACTION].wall_ratios)
        for kind in ("rounded", "random"):
            for size, number in ((1, events), (levels.BATCH, effort.events(DENSE))):
                row = _density(os.path.join(place, f"{kind}-{size}"), number, size, kind)
                found.rows.append(row)
                if size == 1:
                    found.value(f"bytes per event, {kind}", [row["bytes_per_event"]])
    return found


def _density(place: str, events: int, size: int, kind: training.Rewards) -> dict[str, Any]:
    training.record(place, events, size=size, kind=kind)
    done = compact(place)
    how = "single cells" if size == 1 else f"batches of {size:,}"
    rewards = "rounded to 1e-5" if kind == "rounded" else "random float64"
    return {
        "name": f"rewards {rewards}, {how}",
        "events": events,
        "bytes_per_event": done.bytes_after / events,
        "bytes_per_event_before": done.bytes_before / events,
    }
