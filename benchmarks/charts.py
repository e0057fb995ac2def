"""Charts: what the tables say, as SVG. Drawn from answers only; the same answers give the same bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Final

from journal.speed.rounds import Survives

Answers = Mapping[str, Mapping[str, Any]]
Row = Mapping[str, Any]

OWN: Final = "#c2410c"
PEER: Final = "#8aa1b8"
LIMIT: Final = "#d9d9d9"
INK: Final = "#222222"
STYLE: Final = {
    "svg.hashsalt": "training-journal",
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.sans-serif": ["Helvetica", "Arial", "DejaVu Sans"],
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.edgecolor": "#999999",
    "text.color": INK,
    "xtick.color": "#555555",
    "ytick.color": INK,
}
COLOURS: Final = (
    "orange: training-journal · blue: its peers · grey: limits, which are no log · rates on a logarithmic scale"
)
CLASSES: Final[tuple[tuple[Survives, str], ...]] = (
    ("nothing", "may be lost when the process is killed"),
    ("kill -9", "survives kill -9 when the call returns"),
    ("power cut, a moment later", "and a power cut, after the next group commit"),
    ("power cut", "survives a power cut when the call returns"),
)


def drawn(found: Answers) -> Iterator[tuple[str, bytes]]:
    """(name, SVG) of each chart whose question is answered."""
    if "one-event" in found:
        single = rated(_once([*found["one-event"]["rows"], *found.get("synced", {}).get("rows", ())]))
        yield (
            "one-event",
            _svg(partial(_classes, rows=single), "One event at a time: events per second", len(single) + 5),
        )
        safe = quickest(single, "kill -9")
        bars = partial(_bars, rows=safe, value=_per_second, words=lambda row: f"{_per_second(row):,.0f}", log=True)
        yield "kill-safe", _svg(bars, "One event that survives kill -9 when the call returns: per second", len(safe))
    if "batches" in found:
        many = rated([row for row in found["batches"]["rows"] if "on end" not in row["name"]])
        yield (
            "batches",
            _svg(partial(_classes, rows=many), "4,096 rewards at a time: rewards per second", len(many) + 4),
        )
    if "cold-read" in found:
        read = sorted(found["cold-read"]["rows"], key=_per_second, reverse=True)
        bars = partial(_bars, rows=read, value=_per_second, words=_millions, log=True)
        yield "cold-read", _svg(bars, "Read cold to each agent's totals: events per second", len(read))
        sized = sorted(_sizes(found), key=_bytes)
        bars = partial(_bars, rows=sized, value=_bytes, words=lambda row: f"{_bytes(row):.1f}", log=False)
        yield "bytes", _svg(bars, "Bytes on disk per event", len(sized), COLOURS.rpartition(" · ")[0])
    age = found.get("billion") or found.get("age")
    if age is not None:
        title = "Opening a journal for writing, with resume points and a first append"
        yield "age", _svg(partial(_age, rows=age["rows"]), title, 8, "")


def _svg(draw: Callable[[Any], None], title: str, rows: int, caption: str = COLOURS) -> bytes:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8.4, 1.0 + 0.235 * rows), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        figure.suptitle(title, x=0.01, ha="left", fontweight="bold", fontsize=11)
        if caption:
            figure.supxlabel(caption, x=0.01, ha="left", fontsize=8, color="#555555")
        data = io.BytesIO()
        figure.savefig(data, format="svg", metadata={"Date": None}, facecolor="white")
    return data.getvalue()


def rated(rows: Sequence[Row]) -> list[Row]:
    """Rows whose events per second come from their ratios: those of different moments can be shown in one picture."""
    rates = {row["name"]: float(row["events_per_second"]) for row in rows if row["name"] == row["reference"]}
    return [
        {**row, "events_per_second": rates[row["reference"]] / row["wall_ratio"]}
        for row in rows
        if row["reference"] in rates
    ]


def quickest(rows: Sequence[Row], survives: Survives) -> list[Row]:
    """Of each peer the quickest mode of one class of safety, and the limits of that class."""
    best: dict[str, Row] = {}
    for row in sorted(rows, key=_per_second, reverse=True):
        if row["survives"] == survives:
            best.setdefault(row.get("peer") or row["name"], row)
    return list(best.values())


def _once(rows: Sequence[Row]) -> list[Row]:
    """A contender that two questions measured is shown once."""
    seen: dict[str, Row] = {}
    for row in rows:
        seen.setdefault(row["name"], row)
    return list(seen.values())


def _classes(axes: Any, rows: Sequence[Row]) -> None:
    """Bars by class of safety, the quickest on top."""
    place, labels, places = 0.0, [], []
    for survives, words in CLASSES:
        inside = sorted((row for row in rows if row["survives"] == survives), key=_per_second, reverse=True)
        if not inside:
            continue
        axes.text(0.0, place, words, transform=axes.get_yaxis_transform(), va="center", color="#555555", style="italic")
        place += 1
        for row in inside:
            lost = f", lost {row['lost']:,} of {row['acknowledged']:,}" if row.get("lost") else ""
            _bar(axes, place, row, _per_second(row), f"{_per_second(row):,.0f}{lost}")
            labels.append(_label(row))
            places.append(place)
            place += 1
        place += 0.4
    _finish(axes, places, labels)


def _bars(
    axes: Any, rows: Sequence[Row], value: Callable[[Row], float], words: Callable[[Row], str], log: bool
) -> None:
    for place, row in enumerate(rows):
        _bar(axes, float(place), row, value(row), words(row))
    _finish(axes, list(range(len(rows))), [_label(row) for row in rows], log=log)


def _own(row: Row) -> bool:
    return row.get("peer") == "training-journal" or row["name"].startswith("training-journal")


def _label(row: Row) -> str:
    name = str(row["name"])
    return f"training-journal: {name}" if _own(row) and not name.startswith("training-journal") else name


def _bar(axes: Any, place: float, row: Row, value: float, words: str) -> None:
    colour = LIMIT if row.get("limit") else OWN if _own(row) else PEER
    axes.barh(place, value, 0.72, color=colour)
    axes.annotate(words, (value, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8)


def _finish(axes: Any, places: Sequence[float], labels: Sequence[str], *, log: bool = True) -> None:
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(max(places) + 0.6, -0.6)
    if log:
        axes.set_xscale("log")
    low, high = axes.get_xlim()
    axes.set_xlim(low, high * (20 if log else 1.1))


def _age(axes: Any, rows: Sequence[Row]) -> None:
    events = [row["events"] for row in rows]
    milliseconds = [row["seconds"] * 1e3 for row in rows]
    axes.plot(events, milliseconds, "o-", color=OWN)
    for row, value in zip(rows, milliseconds, strict=True):
        label = f"{value:.1f} ms\n{row['bytes_read'] / 1e3:,.0f} kB read"
        axes.annotate(label, (row["events"], value), xytext=(0, 8), textcoords="offset points", ha="center", fontsize=8)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_ylim(min(milliseconds) / 4, max(milliseconds) * 8)
    axes.set_xlim(events[0] / 3, events[-1] * 3)
    axes.set_xlabel("events in the journal")
    axes.set_ylabel("milliseconds")


def _sizes(found: Answers) -> Iterator[Row]:
    yield from (row for row in found["cold-read"]["rows"] if row.get("bytes_per_event"))
    for row in found.get("compacting", {}).get("rows", ()):
        if row.get("bytes_per_event"):
            yield {**row, "name": f"training-journal: compacted, {row['name']}"}


def _per_second(row: Row) -> float:
    return float(row["events_per_second"])


def _millions(row: Row) -> str:
    return f"{_per_second(row) / 1e6:,.1f} M"


def _bytes(row: Row) -> float:
    return float(row["bytes_per_event"])
