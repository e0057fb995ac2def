"""Tables: answers as Markdown, put between the marks of README.md. Nothing there is typed by hand.

<!-- figures: one-event -->   …   <!-- end -->        the question's table, with machine and date
<!-- figures: goals -->                                each goal and what was found
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from itertools import groupby
from typing import Any, Final, get_args

from benchmarks.goals import spread, verdicts
from benchmarks.suite import machine_line
from journal.speed.rounds import Survives

Row = Mapping[str, Any]
MARK: Final = re.compile(r"(<!-- figures: ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _ratio(row: Row) -> str:
    if row["name"] == row["reference"]:
        return "1"
    low, high = min(row["wall_ratios"]), max(row["wall_ratios"])
    return f"**{_short(row['wall_ratio'])}** ({_short(low)} – {_short(high)})"


def _short(number: float) -> str:
    return f"{number:.2f}" if number < 10 else f"{number:,.0f}"


COLUMNS: Final[tuple[tuple[str, str, Callable[[Row], str]], ...]] = (
    ("survives", "survives", lambda row: row["survives"]),
    ("lost, of acknowledged", "lost", lambda row: f"{row['lost']:,} of {row['acknowledged']:,}"),
    ("events", "megabytes", lambda row: f"{row['events']:,}"),
    ("events", "ratio", lambda row: f"{row['events']:,}"),
    ("M events/s", "events_per_second", lambda row: f"{row['events_per_second'] / 1e6:,.2f}"),
    ("ms", "wall_ms", lambda row: f"{row['wall_ms']:,.1f}"),
    ("CPU ms", "cpu_ms", lambda row: f"{row['cpu_ms']:,.1f}"),
    ("µs", "wall_us", lambda row: f"{row['wall_us']:,.1f}"),
    ("CPU µs", "cpu_us", lambda row: f"{row['cpu_us']:,.1f}"),
    ("ns/event", "wall_ns", lambda row: f"{row['wall_ns']:,.1f}"),
    ("CPU ns", "cpu_ns", lambda row: f"{row['cpu_ns']:,.1f}"),
    ("time ratio", "wall_ratios", _ratio),
    ("CPU ratio", "cpu_ratio", lambda row: "1" if row["name"] == row["reference"] else _short(row["cpu_ratio"])),
    ("to", "wall_ratios", lambda row: "" if row["name"] == row["reference"] else row["reference"]),
    ("bytes/event", "bytes_per_event", lambda row: f"{row['bytes_per_event']:.2f}"),
    ("bytes/event before", "bytes_per_event_before", lambda row: f"{row['bytes_per_event_before']:.1f}"),
    ("MB, anonymous", "megabytes", lambda row: f"{row['megabytes']:.1f}"),
    ("calls", "p50", lambda row: f"{row['calls']:,}"),
    ("p50 µs", "p50", lambda row: f"{row['p50']:.2f}"),
    ("p99 µs", "p99", lambda row: f"{row['p99']:.2f}"),
    ("p99.9 µs", "p99.9", lambda row: f"{row['p99.9']:.2f}"),
    ("max µs", "max", lambda row: f"{row['max']:,.0f}"),
    ("open + append, ms", "ratio", lambda row: f"{row['seconds'] * 1e3:.1f}"),
    ("ratio", "ratio", lambda row: f"{row['ratio']:.2f}"),
    ("bytes on disk per event", "ratio", lambda row: f"{row['bytes'] / row['events']:.2f}"),
    ("kB read", "ratio", lambda row: f"{row['bytes_read'] / 1e3:,.0f}"),
    ("memory, MB", "ratio", lambda row: f"{row['rss'] / 1e6:.0f}"),
)
"""Heading, the key that a row must have, and how the cell is written."""


def table(rows: Sequence[Row]) -> str:
    """Rows as Markdown, with the columns that any of them has."""
    shown = [column for column in COLUMNS if any(row.get(column[1]) is not None for row in rows)]
    lines = [
        "| | " + " | ".join(heading for heading, _, _ in shown) + " |",
        "| --- |"
        + "".join(" --- |" if key == "survives" or heading == "to" else " ---: |" for heading, key, _ in shown),
    ]
    for row in rows:
        name = f"*{row['name']}*" if row.get("limit") else row["name"]
        if row.get("peer") == "training-journal" or row["name"].startswith("training-journal"):
            name = f"**{name}**"
        cells = [write(row) if row.get(key) is not None else "" for _, key, write in shown]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def by_safety(rows: Sequence[Row]) -> list[Row]:
    """The safest last, the quickest of each class first."""
    order = get_args(Survives)
    return sorted(rows, key=lambda row: (order.index(row["survives"]), row["reference"], row["wall_ratio"]))


def figures(name: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """What stands between the marks of that name."""
    if name == "goals":
        lines = ["| | goal | stretch | found | |", "| --- | ---: | ---: | ---: | --- |"]
        for goal, value, verdict in verdicts(found):
            told = {"missed": "**missed**", "not measured": "**not measured**"}.get(verdict, verdict)
            limits = f"{goal.wanted(goal.bound)} | {goal.wanted(goal.stretch)}"
            lines.append(f"| {goal.what} | {limits} | {spread(value, goal.unit)} | {told} |")
        return "\n".join(lines)
    if name not in found:
        return "Not measured yet: `make bench`."
    answer = found[name]
    rows = answer["rows"]
    parts = [table(list(alike)) for _, alike in groupby(rows, key=lambda row: row.get("wall_ns") is None)]
    if rows and all(row.get("survives") for row in rows):
        parts = [table([{**row, "events_per_second": None} for row in by_safety(rows)])]
    parts += [f"Skipped: {one['name']} ({one['reason']})." for one in answer["skipped"]]
    parts.append(f"<sub>{machine_line(answer)} · {answer['seconds']:,.0f} s</sub>")
    return "\n\n".join(parts)


def fill(text: str, found: Mapping[str, Mapping[str, Any]]) -> str:
    """The document with all its figures made anew."""
    return MARK.sub(lambda match: f"{match[1]}\n{figures(match[2], found)}\n\n{match[3]}", text)
