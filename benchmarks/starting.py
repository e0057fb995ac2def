"""What does starting cost: `import journal`, `journal --help`, and opening a log whose process died?"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from typing import Any, Final

import journal
from benchmarks.fresh import fresh
from benchmarks.question import Answer, Effort, say
from journal.chain import extend
from journal.segment import DIRECTORY
from journal.speed import levels
from journal.speed.rounds import ratios
from journal.storage.disk import DiskStorage

TAIL: Final = 32768
"""Batches: a gigabyte of log, of which nothing is compacted."""
PROGRAMS: Final = {
    "import numpy": "import numpy",
    "import journal": "import journal",
    "import typer": "import typer",
    "journal --help": "import replay.cli; replay.cli.main(['--help'])",
}
TIMED: Final = """
import time, os
wall, cpu = time.perf_counter_ns(), time.process_time_ns()
{program}
print('\\n', time.perf_counter_ns() - wall, time.process_time_ns() - cpu)
"""
CHUNK: Final = 1 << 20


def answer(directory: str, effort: Effort) -> Answer:
    """Ratios: to `import numpy`, to `import typer`, and to reading and hashing the same bytes."""
    found = Answer()
    turns = 3 * effort.rounds
    for code in PROGRAMS.values():
        _program(code)  # From here on, its files are in the page cache.
    times: dict[str, list[tuple[int, int]]] = {name: [] for name in PROGRAMS}
    for _ in range(turns):
        for name, code in PROGRAMS.items():
            times[name].append(_program(code))
    found.value("import journal ÷ import numpy", _rows(found, times, "import numpy", "import journal"))
    found.value("journal --help ÷ import typer", _rows(found, times, "import typer", "journal --help"))
    with tempfile.TemporaryDirectory(dir=directory) as place:
        say("  opening and recovering a log of which nothing is compacted")
        with journal.open(place, sync="close") as log:
            levels.rewards(log)(effort.events(TAIL))
        fresh(opened_and_dead, place)  # The first one finds it closed in order.
        names = "read and hash the log", "open and recover the log"
        recovering: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
        for _ in range(effort.rounds):
            recovering[names[0]].append(fresh(read_and_hashed, place))
            recovering[names[1]].append(fresh(opened_and_dead, place))
        found.value("open and recover ÷ read and hash", _rows(found, recovering, *names))
    return found


def _rows(found: Answer, times: dict[str, list[tuple[int, int]]], *names: str) -> tuple[float, ...]:
    """Rows for a reference and what is compared with it; the ratios of the latter."""
    last: tuple[float, ...] = ()
    for name in names:
        wall, cpu = zip(*times[name], strict=True)
        wall_reference, cpu_reference = zip(*times[names[0]], strict=True)
        last = ratios(wall, wall_reference)
        found.rows.append(
            {
                "name": name,
                "reference": names[0],
                "limit": name == names[0],
                "wall_ms": statistics.median(wall) / 1e6,
                "cpu_ms": statistics.median(cpu) / 1e6,
                "wall_ratio": statistics.median(last),
                "wall_ratios": last,
                "cpu_ratio": statistics.median(ratios(cpu, cpu_reference)),
            }
        )
    return last


def _program(code: str) -> tuple[int, int]:
    """(wall, CPU) nanoseconds that the code takes in a new interpreter, without the interpreter's own start.

    Compiled code is kept, as it is for everybody who starts a program twice; installed packages come with theirs.
    """
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(
        [sys.executable, "-c", TIMED.format(program=code)], capture_output=True, text=True, check=True, env=environment
    )
    wall, cpu = done.stdout.splitlines()[-1].split()
    return int(wall), int(cpu)


def read_and_hashed(place: str) -> tuple[int, int]:
    """In this process: read all segments and hash them, as the chain does."""
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    storage = DiskStorage(place)
    for name in storage.list(DIRECTORY):
        path = os.path.join(DIRECTORY, name)
        extend(b"", (storage.read(path, at, CHUNK) for at in range(0, storage.size(path), CHUNK)))
    return time.perf_counter_ns() - wall, time.process_time_ns() - cpu


def opened_and_dead(place: str) -> tuple[int, int]:
    """In this process: open, append, and be gone without closing, so that the next one recovers."""
    wall, cpu = time.perf_counter_ns(), time.process_time_ns()
    log: Any = journal.open(place, sync="close")
    took = time.perf_counter_ns() - wall, time.process_time_ns() - cpu
    for step in range(1000):
        log.reward(1, 0, step, 0.5)
    _abandoned.append(log)  # Neither closed nor collected: `fresh` ends the process as one that died ends.
    return took


_abandoned: list[Any] = []
