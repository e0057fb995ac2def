"""Are these bars of a market? Everything that is wrong with them, found at once: what, where, what to do.

What refuses data makes results of it worthless; what is only noted (`noted`: gaps, a price that stands still) happens
in good data too. A rule is a function over whole arrays; `RULES` and `NOTED` list them.

No validation library: those judge tables by column, and most rules here compare columns or rows with each other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from journal.errors import EventRejected

Times = NDArray[np.int64]
Prices = NDArray[np.float64]
Columns = Mapping[str, Prices]

COLUMNS: Final = ("open", "high", "low", "close", "volume")
_PRICES: Final = COLUMNS[:4]
_ENOUGH: Final = 50
"""Bars: fewer may stand still, or lie apart, by chance; a window of an environment is judged by the same rules."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with bars: what, what to do, in how many of them, the index of the first (None: no one bar)."""

    what: str
    do: str
    count: int = 0
    first: int | None = None


class Origin(NamedTuple):
    """Where bars come from, so that a finding says where to look."""

    path: str | None = None
    unit: str = "bar"
    """What people count there: lines of a text file, rows of a table."""
    numbers: NDArray[np.int64] | None = None
    """int64[n]: the number of each bar there; its index, if None."""

    def of(self, index: int) -> str:
        """The bar with this index in words: "line 1042"."""
        number = index if self.numbers is None or index >= len(self.numbers) else int(self.numbers[index])
        return f"{self.unit} {number:,}"


HERE: Final = Origin()
"""Bars that come from no file."""


class Length(NamedTuple):
    """How long a bar of a timeframe is, in nanoseconds: months differ, and so do days where clocks are changed."""

    least: int
    most: int


Rule = Callable[[Times | None, Columns, str], list[Finding]]
"""Judges times, columns and timeframe; what a table did not have is left out, and not to be judged."""


def findings(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    """Everything that refuses these bars; empty for good ones."""
    return [finding for rule in RULES for finding in rule(time, columns, timeframe)]


def noted(time: Times, columns: Columns, timeframe: str) -> list[Finding]:
    """What one should know of good bars."""
    return [finding for rule in NOTED for finding in rule(time, columns, timeframe)]


def refuse(instrument: str, timeframe: str, found: list[Finding], time: Times | None, origin: Origin) -> None:
    """Raises `EventRejected` with all of `found` in one line, if there are any."""
    if found:
        where = f" ({origin.path})" if origin.path else ""
        told = "; ".join(f"{in_words(finding, time, origin)}: {finding.do}" for finding in found)
        raise EventRejected(f"bars of {instrument} {timeframe}{where} are not good: {told}")


def in_words(finding: Finding, time: Times | None, origin: Origin) -> str:
    """What was found and where, without what to do."""
    if finding.first is None:
        return finding.what
    when = f", {when_of(time[finding.first])}" if time is not None and finding.first < len(time) else ""
    bars = f"{finding.count:,} bar{'s' * (finding.count != 1)}"
    return f"{finding.what} in {bars} (first: {origin.of(finding.first)}{when})"


def when_of(time_ns: np.int64) -> str:
    """A time to the second, UTC."""
    return str(np.datetime64(int(time_ns), "ns"))[:19]


def length_of(timeframe: str) -> Length | None:
    """How long a bar is: `M15`, `H4`, `D1`, `W1`, `MN1` (MetaTrader), `15min`, `4h`, `1d`, `1w`, `1M`, or a word.

    None for a name that tells nothing; then nobody can say whether rows keep to it.
    """
    name = _WORDS.get(timeframe.lower(), timeframe)
    match = _METATRADER.fullmatch(name)
    if match is not None:
        unit, count = match[1], int(match[2])
    else:
        match = _USUAL.fullmatch(name)
        if match is None:
            return None
        unit, count = _UNITS[match[2] if match[2] == "M" else match[2].lower()], int(match[1])
    if not count:
        return None
    if unit == "MN":
        return Length(28 * count * _DAY - _HOUR, 31 * count * _DAY + _HOUR)
    exact = count * {"M": _MINUTE, "H": _HOUR, "D": _DAY, "W": 7 * _DAY}[unit]
    slack = _HOUR if unit in "DW" else 0
    return Length(exact - slack, exact + slack)


_MINUTE: Final = 60 * 10**9
_HOUR: Final = 60 * _MINUTE
_DAY: Final = 24 * _HOUR
_WORDS: Final = {"hourly": "H1", "daily": "D1", "weekly": "W1", "monthly": "MN1"}
_METATRADER: Final = re.compile(r"(MN|[MHDW])(\d{1,4})")
_USUAL: Final = re.compile(r"(\d{1,4})(M|m|[Mm]in|T|[Hh]|[Dd]|[Ww])")
_UNITS: Final = {"M": "MN", "m": "M", "min": "M", "t": "M", "h": "H", "d": "D", "w": "W"}


# -- what refuses ------------------------------------------------------------------------------------------------------


def _no_bars(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    return [Finding("there are none", "give a table with rows")] if time is not None and not len(time) else []


def _order(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    if time is None:
        return []
    steps = np.concatenate(([1], np.diff(time)))
    return [
        *_where(steps == 0, "the time of the bar before", "keep one of the two"),
        *_where(steps < 0, "a time before the bar before", "sort the rows by time"),
    ]


def _spacing(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    """Rows that are closer than a bar is long never are bars of it; rows that mostly lie farther apart are others."""
    length = length_of(timeframe)
    if time is None or length is None or len(time) < 2:
        return []
    steps = np.diff(time)
    advice = "name the timeframe that the rows have"
    close = _where(np.concatenate(([False], (steps > 0) & (steps < length.least))), "", advice)
    if close:
        return [
            Finding(f"only {_span(int(steps[steps > 0].min()))} after the bar before, less than {timeframe}",
                    advice, close[0].count, close[0].first)
        ]  # fmt: skip
    if len(time) >= _ENOUGH and float(np.mean(steps > length.most)) > 0.5:
        apart = _span(int(np.median(steps)))
        return [Finding(f"most rows lie {apart} apart, longer than {timeframe}", advice)]
    return []


def _numbers(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    found = []
    for name, column in columns.items():
        found += _where(np.isnan(column), f"{name} NaN", "fill it or drop these rows")
        found += _where(np.isinf(column), f"{name} infinite", "mend or drop these rows")
        if name in _PRICES:
            found += _where(column <= 0, f"{name} not above 0", "mend or drop these rows")
        else:
            found += _where(column < 0, f"{name} below 0", "mend or drop these rows")
    return found


def _high_low(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    if "high" not in columns or "low" not in columns:
        return []
    high, low = columns["high"], columns["low"]
    found = _where(high < low, "high below low", "look whether the two columns are swapped")
    for name in ("open", "close"):
        if name in columns:
            outside = (low <= high) & ((columns[name] < low) | (columns[name] > high))
            found += _where(outside, f"{name} outside of low to high", "mend or drop these rows")
    return found


def _constant(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    prices = [columns[name] for name in _PRICES if name in columns]
    if len(prices) < len(_PRICES) or len(prices[0]) < _ENOUGH:
        return []
    first = prices[0][0]
    if not all(bool((column == first).all()) for column in prices):
        return []
    return [Finding(f"every price is {first:g}", "give data of a market that moves")]


RULES: Final[tuple[Rule, ...]] = (_no_bars, _order, _spacing, _numbers, _high_low, _constant)


# -- what is only noted ------------------------------------------------------------------------------------------------


def _gaps(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    length = length_of(timeframe)
    if time is None or length is None or len(time) < 2:
        return []
    steps = np.diff(time)
    gaps = np.flatnonzero(steps > length.most)
    if not len(gaps):
        return []
    widest = int(gaps[np.argmax(steps[gaps])])
    one, span = len(gaps) == 1, _span(int(steps[widest]))
    what = f"{len(gaps):,} gap{'' if one else 's'}, the widest {span} before {when_of(time[widest + 1])}"
    return [Finding(what, "markets close; where this one was open, get the missing rows")]


def _still(time: Times | None, columns: Columns, timeframe: str) -> list[Finding]:
    """A feed that has stopped repeats its last price."""
    close = columns["close"]
    if len(close) < _ENOUGH:
        return []
    prices = np.column_stack([columns[name] for name in _PRICES])
    still = np.concatenate(
        ([False], (prices[1:] == prices[:-1]).all(axis=1) & (prices[1:].min(1) == prices[1:].max(1)))
    )
    edges = np.flatnonzero(np.diff(np.concatenate(([False], still, [False])).astype(np.int8)))
    runs = [(int(start), int(stop)) for start, stop in edges.reshape(-1, 2) if stop - start >= _ENOUGH]
    if not runs:
        return []
    count = sum(stop - start for start, stop in runs)
    return [
        Finding(
            "the same price as before, many times in a row,", "look whether the feed had stopped", count, runs[0][0]
        )
    ]


NOTED: Final[tuple[Rule, ...]] = (_gaps, _still)


def _where(bad: NDArray[np.bool_], what: str, do: str) -> list[Finding]:
    indices = np.flatnonzero(bad)
    return [Finding(what, do, len(indices), int(indices[0]))] if len(indices) else []


def _span(nanoseconds: int) -> str:
    seconds = nanoseconds // 10**9
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= size:
            return f"{seconds / size:.4g} {unit}{'s' * (seconds != size)}"
    return f"{nanoseconds / 1e9:g} seconds"
