"""Are the goals met? Ratios of a run are held against what was wanted of them: `make bench-check`.

    python -m benchmarks.goals [RESULTS.json]       0: all are met      1: one is missed, or was not measured

Without a file, the newest answer to each question counts.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

from benchmarks.suite import RESULTS, answers, newest


@dataclass(frozen=True, slots=True)
class Goal:
    """What a value of a question should be."""

    what: str
    question: str
    value: str
    bound: float
    stretch: float | None = None
    unit: str = "×"
    least: bool = False
    """More is better."""

    def met(self, value: float, bound: float | None) -> bool:
        """Is the value on the right side?"""
        return bound is not None and (value >= bound if self.least else value <= bound)

    def wanted(self, bound: float | None) -> str:
        """In words."""
        return "" if bound is None else f"{'≥' if self.least else '≤'} {bound:g} {self.unit}".strip()


GOALS: Final = (
    Goal("one event, safe from kill -9, to struct + os.write", "one-event", "one event", 0.6, 0.45),
    Goal("the same with group commit every 50 ms", "one-event", "one event, group commit", 0.75, 0.55),
    Goal("pause of the caller under group commit, p99.9", "pause", "pause p99.9, ms", 0.2, None, "ms"),
    Goal("batch of 4,096 into ready segments, to one array write", "batches", "batch", 1.25, 1.0),
    Goal("batches for 1 GB on end, to array writes", "batches", "batch, 1 GB on end", 2.5, 1.5),
    Goal('batch under sync="always", to array pwrite + fdatasync', "batches", "batch, sync for each", 1.3, 1.1),
    Goal('sync="always", to pwrite + fdatasync', "synced", "always", 1.15),
    Goal("8 threads together, to one", "synced", "always, 8 threads ÷ one", 2.5, 4.0, "×", True),
    Goal("replay from batches", "cold-read", "replay of batches, M events/s", 40, 80, "M events/s", True),
    Goal("replay from single cells", "cold-read", "replay of single cells, M events/s", 15, 25, "M events/s", True),
    Goal("replay from history", "cold-read", "replay of history, M events/s", 60, 120, "M events/s", True),
    Goal("speed of verify, to the hash alone", "verifying", "verify, speed ÷ hash alone", 0.8, None, "×", True),
    Goal("time of compaction, to the scalar writer", "compacting", "compaction ÷ scalar writer", 1.0),
    Goal("bytes per event, rewards rounded to 1e-5", "compacting", "bytes per event, rounded", 6, None, "B"),
    Goal("bytes per event, random float64", "compacting", "bytes per event, random", 11, None, "B"),
    Goal("memory of the writer", "memory", "writer, MB", 40, None, "MB"),
    Goal("memory of replay", "memory", "replay, MB", 300, None, "MB"),
    Goal("memory of verify", "memory", "verify, MB", 300, None, "MB"),
    Goal("memory of compaction", "memory", "compact, MB", 300, None, "MB"),
    Goal("import journal, to import numpy", "starting", "import journal ÷ import numpy", 0.5),
    Goal("journal --help, to import typer", "starting", "journal --help ÷ import typer", 3.0),
    Goal("open and recover 1 GB, to reading and hashing", "starting", "open and recover ÷ read and hash", 3.0),
    Goal("recording CartPole, random actions, a direct call", "loops", "CartPole, a direct call, %", 12, 6, "%"),
    Goal("recording a native vector CartPole of 64", "loops", "vector CartPole, %", 5, 2, "%"),
    Goal("recording a LinearQ loop in numpy", "loops", "LinearQ, %", 3, 1, "%"),
)

Verdict = Literal["stretch", "met", "missed", "not measured"]


def verdicts(found: Mapping[str, Mapping[str, Any]]) -> list[tuple[Goal, dict[str, float] | None, Verdict]]:
    """Each goal with its value and whether that is enough."""
    rows: list[tuple[Goal, dict[str, float] | None, Verdict]] = []
    for goal in GOALS:
        value = found.get(goal.question, {}).get("values", {}).get(goal.value)
        if value is None:
            rows.append((goal, None, "not measured"))
        elif goal.met(value["value"], goal.stretch):
            rows.append((goal, value, "stretch"))
        else:
            rows.append((goal, value, "met" if goal.met(value["value"], goal.bound) else "missed"))
    return rows


def spread(value: Mapping[str, float] | None, unit: str) -> str:
    """A value with the range of its rounds."""
    if value is None:
        return "–"
    text = f"{value['value']:.3g} {unit}"
    return text if value["low"] == value["high"] else f"{text} ({value['low']:.3g} – {value['high']:.3g})"


def main(arguments: Sequence[str]) -> int:
    """Print each goal; the exit code."""
    try:
        found = answers(Path(arguments[0])) if arguments else newest()
    except (OSError, ValueError) as error:
        print(f"goals: {error}", file=sys.stderr)
        return 2
    if not found:
        print(f"goals: no results in {RESULTS.name}/: make bench", file=sys.stderr)
        return 2
    rows = verdicts(found)
    for goal, value, verdict in rows:
        print(f"{verdict:13}{goal.what:56}{spread(value, goal.unit):34}{goal.wanted(goal.bound)}")
    missed = sum(verdict in ("missed", "not measured") for _, _, verdict in rows)
    print(f"{len(rows) - missed} of {len(rows)} goals are met")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
