"""What does one event cost beside struct + os.write?

    python benchmarks/append.py [--json] [--rounds 5] [--events 200000] [--directory DIR]

One event at a time: `log.reward`, which survives `kill -9` when it returns, beside the least that anybody could write
by hand: a `struct` packed into 64 bytes and given to `os.write`, without lock, clock or checksum. And 4,096 rewards at
a time: `log.rewards` beside one `os.write` of the same float64 array.

All contenders run in each round, each round beginning with another one, and a contender is compared with the reference
of the same round; the median of the rounds counts, their spread tells how quiet the machine was. Ratios count, times do
not: machines differ. CPU time is of the whole process, the journal's own threads included. The references never sync;
the journal does.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from struct import Struct
from typing import Any, Final

import numpy as np

import journal
from journal.storage.disk import DiskStorage

BATCH: Final = 4096
RECORD: Final = Struct("<QIIQQd24x")
"""What a hand-written log would keep of a reward, in 64 bytes as a cell: seq, agent, env, episode, step, value."""

Run = Callable[[int], None]
"""Appends that many rewards."""


@dataclass(frozen=True, slots=True)
class Contender:
    """One way to record rewards; `reference` is the name of the one it is compared with."""

    name: str
    reference: str
    run: Run


@dataclass(frozen=True, slots=True)
class Figures:
    """Of one contender: nanoseconds per event (median round), and its ratios to the reference, one per round."""

    name: str
    reference: str
    wall_ns: float
    cpu_ns: float
    wall_ratios: tuple[float, ...]
    cpu_ratios: tuple[float, ...]


def contenders(directory: str, stack: ExitStack) -> list[Contender]:
    """All of them, each with a file or journal of its own in `directory`, open until `stack` is closed."""
    storage = DiskStorage(directory)
    write_one = _struct_and_write(stack.enter_context(storage.stream("one")).fileno())
    write_array = _array_and_write(stack.enter_context(storage.stream("array")).fileno())
    closing = stack.enter_context(journal.open(os.path.join(directory, "close"), sync="close"))
    group = stack.enter_context(journal.open(os.path.join(directory, "group"), sync="group"))
    batches = stack.enter_context(journal.open(os.path.join(directory, "batches"), sync="group"))
    one, array = "struct + os.write", f"os.write of {BATCH:,} float64"
    return [
        Contender(one, one, write_one),
        Contender('log.reward, sync="close"', one, _rewards_one_by_one(closing)),
        Contender('log.reward, sync="group"', one, _rewards_one_by_one(group)),
        Contender(array, array, write_array),
        Contender(f'log.rewards of {BATCH:,}, sync="group"', array, _rewards_in_batches(batches)),
    ]


def _struct_and_write(fd: int) -> Run:
    def run(events: int) -> None:
        pack, write = RECORD.pack, os.write
        for step in range(events):
            write(fd, pack(step, 1, 0, 0, step, 0.5))

    return run


def _rewards_one_by_one(log: journal.Log) -> Run:
    agent = log.agent("PPO")

    def run(events: int) -> None:
        reward = log.reward
        for step in range(events):
            reward(agent, 0, step, 0.5)

    return run


def _array_and_write(fd: int) -> Run:
    values = np.linspace(-1.0, 1.0, BATCH)

    def run(events: int) -> None:
        for _ in range(events // BATCH):
            os.write(fd, values.data)

    return run


def _rewards_in_batches(log: journal.Log) -> Run:
    agent = log.agent("PPO")
    values, steps = np.linspace(-1.0, 1.0, BATCH), np.arange(BATCH)

    def run(events: int) -> None:
        for _ in range(events // BATCH):
            log.rewards(agent, 0, steps, values)

    return run


def measure(entrants: Sequence[Contender], *, rounds: int, events: int) -> list[Figures]:
    """Every contender once per round, after one that does not count; those with batches append 10 times `events`."""
    wall: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    cpu: dict[str, list[float]] = {entrant.name: [] for entrant in entrants}
    for turn in range(rounds + 1):
        first = turn % len(entrants)
        for entrant in (*entrants[first:], *entrants[:first]):
            count = events if entrant.reference == entrants[0].name else max(1, 10 * events // BATCH) * BATCH
            wall_start, cpu_start = time.perf_counter_ns(), time.process_time_ns()
            entrant.run(count)
            wall_end, cpu_end = time.perf_counter_ns(), time.process_time_ns()
            if turn:
                wall[entrant.name].append((wall_end - wall_start) / count)
                cpu[entrant.name].append((cpu_end - cpu_start) / count)
    return [
        Figures(
            entrant.name,
            entrant.reference,
            statistics.median(wall[entrant.name]),
            statistics.median(cpu[entrant.name]),
            _ratios(wall[entrant.name], wall[entrant.reference]),
            _ratios(cpu[entrant.name], cpu[entrant.reference]),
        )
        for entrant in entrants
    ]


def _ratios(mine: Sequence[float], reference: Sequence[float]) -> tuple[float, ...]:
    return tuple(a / b for a, b in zip(mine, reference, strict=True))


def machine(directory: str) -> dict[str, Any]:
    """What the figures depend on."""
    storage = DiskStorage(directory)
    return {
        "date": time.strftime("%Y-%m-%d"),
        "cpu": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "training_journal": journal.__version__,
        "file_system": storage.file_system,
        "mapped": storage.mappable,
    }


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as lines:
            for line in lines:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass  # Not Linux.
    return platform.processor() or platform.machine()


def table(about: dict[str, Any], figures: Sequence[Figures]) -> str:
    """The figures for people: the median of each ratio, and in brackets its least and greatest round."""
    mapped = "mapped" if about["mapped"] else "pwrite"
    lines = [
        f"{about['date']} · {about['cores']} × {about['cpu']} · {about['system']} · Python {about['python']} · "
        f"{about['file_system']}, {mapped}",
        "",
        f"{'':40}{'ns/event':>10}{'CPU ns':>10}   {'time ratio':22}{'CPU ratio':22}",
    ]
    for one in figures:
        reference = one.name == one.reference
        if reference and one is not figures[0]:
            lines.append("")
        wall, cpu = ("1", "1") if reference else (_spread(one.wall_ratios), _spread(one.cpu_ratios))
        lines.append(f"{one.name:40}{one.wall_ns:10,.1f}{one.cpu_ns:10,.1f}   {wall:22}{cpu:22}".rstrip())
    return "\n".join(lines)


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f}  ({min(ratios):.2f} … {max(ratios):.2f})"


def document(about: dict[str, Any], figures: Sequence[Figures]) -> dict[str, Any]:
    """The figures for programs."""
    return {
        "schema": 1,
        "machine": about,
        "contenders": [
            {
                "name": one.name,
                "reference": one.reference,
                "wall_ns": one.wall_ns,
                "cpu_ns": one.cpu_ns,
                "wall_ratio": statistics.median(one.wall_ratios),
                "cpu_ratio": statistics.median(one.cpu_ratios),
                "wall_ratios": one.wall_ratios,
                "cpu_ratios": one.cpu_ratios,
            }
            for one in figures
        ],
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description="What does one event cost beside struct + os.write?")
    parser.add_argument("--json", action="store_true", help="one document instead of a table")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count (5)")
    parser.add_argument("--events", type=int, default=200_000, help="events per contender and round (200,000)")
    parser.add_argument("--directory", default=".", help="where to write: its file system is what is measured (here)")
    options = parser.parse_args(arguments)
    if options.rounds < 1 or options.events < 1:
        parser.error("--rounds and --events are 1 or more")
    with tempfile.TemporaryDirectory(prefix=".benchmark-", dir=options.directory) as directory, ExitStack() as stack:
        about = machine(directory)
        figures = measure(contenders(directory, stack), rounds=options.rounds, events=options.events)
    print(json.dumps(document(about, figures), indent=2) if options.json else table(about, figures))


if __name__ == "__main__":
    main()
