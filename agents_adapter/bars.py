"""Bars: market data as arrays, checked once, and their identity, a hash of times and prices.

    bars = Bars.from_frame(frame, "EURUSD", "H1")     # any usual header names, a DatetimeIndex or a time column
    bars = read_csv("EURUSD_H1.csv")                  # comma or tab separated, MetaTrader exports too
    bars[0:240].close                                 # float64[240]; slices share memory
    bars.content_hash(0, 240)                         # 16 bytes: equal bars, equal hash, whatever the file is called

Times are nanoseconds since 1970, UTC; a time without a zone is taken as UTC.
"""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

from journal.errors import EventRejected
from journal.events import check_name

if TYPE_CHECKING:
    import pandas as pd

Times = NDArray[np.int64]
Prices = NDArray[np.float64]

COLUMNS: Final = ("open", "high", "low", "close", "volume")
_PRICES: Final = COLUMNS[:4]
_HASH_TAG: Final = b"training-journal bars 1"


def content_hash(times_ns: Times, ohlcv: Prices) -> bytes:
    """16 bytes that identify bars by content: BLAKE2b over a version tag, their number, and the little-endian arrays.

    `times_ns` has shape (n,) and dtype int64, `ohlcv` shape (n, 5) and dtype float64. Raises `EventRejected` otherwise.
    """
    if times_ns.dtype != np.int64 or times_ns.ndim != 1:
        raise EventRejected(f"times_ns is {times_ns.dtype} of shape {times_ns.shape}: give int64 of shape (n,)")
    if ohlcv.dtype != np.float64 or ohlcv.shape != (len(times_ns), len(COLUMNS)):
        raise EventRejected(
            f"ohlcv is {ohlcv.dtype} of shape {ohlcv.shape}: give float64 of shape ({len(times_ns)}, 5), "
            "a row of open, high, low, close, volume for each time"
        )
    hasher = hashlib.blake2b(_HASH_TAG, digest_size=16)
    hasher.update(struct.pack("<Q", len(times_ns)))
    hasher.update(np.ascontiguousarray(times_ns, dtype="<i8").data)
    hasher.update(np.ascontiguousarray(ohlcv, dtype="<f8").data)
    return hasher.digest()


class Bars:
    """Bars of one instrument and timeframe, read-only: `time` int64[n] in ns, `ohlcv` float64[n, 5], and its columns.

    The arrays given are copied. Raises `EventRejected`, naming all findings at once.
    """

    __slots__ = ("instrument", "ohlcv", "time", "timeframe")

    def __init__(self, instrument: str, timeframe: str, time: Times, ohlcv: Prices) -> None:
        time, ohlcv = np.array(time), np.array(ohlcv, order="C")
        content_hash(time, ohlcv)  # Its shapes and dtypes are those of bars.
        refuse(instrument, timeframe, findings(time, dict(zip(COLUMNS, ohlcv.T, strict=True))), time)
        self._set(instrument, timeframe, time, ohlcv)

    def _set(self, instrument: str, timeframe: str, time: Times, ohlcv: Prices) -> None:
        self.instrument = check_name(instrument, "instrument")
        self.timeframe = check_name(timeframe, "timeframe")
        time.flags.writeable = ohlcv.flags.writeable = False
        self.time, self.ohlcv = time, ohlcv

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, instrument: str, timeframe: str) -> Bars:
        """The bars of a DataFrame with open, high, low, close, and volume (0.0 where it has none).

        Headers in any case and order, also `<OPEN>`; tick volume is taken before real volume, which brokers leave 0.
        Times from a DatetimeIndex, or from time, date, datetime, timestamp as a column or text index, or date and time.
        Dotted dates are read as 2024.01.31 or 31.01.2024, numbers as s, ms, us or ns by their size.
        """
        from agents_adapter import frames

        time, columns, found = frames.columns_of(frame)
        refuse(instrument, timeframe, found + findings(time, columns), time)
        assert time is not None
        return cls(instrument, timeframe, time, np.column_stack([columns[name] for name in COLUMNS]))

    def __len__(self) -> int:
        return len(self.time)

    def __getitem__(self, part: slice | int) -> Bars:
        """Bars [start, stop) as a view. Raises `EventRejected` where not all of them are there, or a step is given."""
        if not isinstance(part, slice) or part.step not in (None, 1):
            raise EventRejected(f"bars[{part!r:.60}]: give a range, bars[start:stop]")
        start, stop = self._range(0 if part.start is None else part.start, part.stop)
        view = object.__new__(Bars)
        view._set(self.instrument, self.timeframe, self.time[start:stop], self.ohlcv[start:stop])
        return view

    def content_hash(self, start: int = 0, stop: int | None = None) -> bytes:
        """The identity of bars [start, stop), 16 bytes. Raises `EventRejected` where not all of them are there."""
        start, stop = self._range(start, stop)
        return content_hash(self.time[start:stop], self.ohlcv[start:stop])

    @property
    def open(self) -> Prices:
        """float64[n]."""
        return self.ohlcv[:, 0]

    @property
    def high(self) -> Prices:
        """float64[n]."""
        return self.ohlcv[:, 1]

    @property
    def low(self) -> Prices:
        """float64[n]."""
        return self.ohlcv[:, 2]

    @property
    def close(self) -> Prices:
        """float64[n]."""
        return self.ohlcv[:, 3]

    @property
    def volume(self) -> Prices:
        """float64[n]."""
        return self.ohlcv[:, 4]

    def __repr__(self) -> str:
        span = f"from {_when(self.time[0])} to {_when(self.time[-1])}"
        return f"Bars({self.instrument} {self.timeframe}, {len(self):,} {span})"

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = len(self) if stop is None else stop
        if not 0 <= start < stop <= len(self):
            raise EventRejected(
                f"bars [{start}, {stop}) of {self.instrument} {self.timeframe}: it has bars 0 to {len(self)}, "
                "give start below stop within them"
            )
        return int(start), int(stop)


def read_csv(path: str | os.PathLike[str], instrument: str | None = None, timeframe: str | None = None) -> Bars:
    """The bars of a file with a header line; comma, semicolon or tab separated. Columns as in `Bars.from_frame`.

    Without `instrument` and `timeframe` the name must say them, as MetaTrader's do: `EURUSD_H1_201701012200_….csv`.
    Raises `EventRejected` where the content is not good, `OSError` where the file cannot be read.
    """
    from agents_adapter import frames

    named = frames.named_by(os.fspath(path))
    instrument, timeframe = instrument or named[0], timeframe or named[1]
    if instrument is None or timeframe is None:
        raise EventRejected(
            f"{os.fspath(path)}: its name tells no instrument and timeframe: give instrument=, timeframe="
        )
    return Bars.from_frame(frames.read(path), instrument, timeframe)


# -- validation --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with bars: what, in how many of them, and the index of the first (None where no bar is meant)."""

    what: str
    count: int = 0
    first: int | None = None


Columns = Mapping[str, Prices]
Check = Callable[[Times | None, Columns], list[Finding]]
"""A rule over times and columns; what a table did not have is left out, and not to be judged."""


def findings(time: Times | None, columns: Columns) -> list[Finding]:
    """Everything that `CHECKS` find; empty for good bars."""
    return [finding for check in CHECKS for finding in check(time, columns)]


def refuse(instrument: str, timeframe: str, found: list[Finding], time: Times | None) -> None:
    """Raises `EventRejected` with all of `found` in one line, if there are any."""
    if not found:
        return
    told = []
    for finding in found:
        where = ""
        if finding.first is not None:
            when = f", {_when(time[finding.first])}" if time is not None and finding.first < len(time) else ""
            where = f" in {finding.count:,} bar{'s' * (finding.count != 1)} (first: bar {finding.first}{when})"
        told.append(finding.what + where)
    raise EventRejected(f"bars of {instrument} {timeframe} are not good: {'; '.join(told)}: mend the data")


def _no_bars(time: Times | None, columns: Columns) -> list[Finding]:
    return [Finding("there are none")] if time is not None and not len(time) else []


def _times(time: Times | None, columns: Columns) -> list[Finding]:
    if time is None:
        return []
    steps = np.concatenate(([1], np.diff(time)))
    return _where(steps == 0, "the time of the bar before") + _where(steps < 0, "a time before the bar before")


def _numbers(time: Times | None, columns: Columns) -> list[Finding]:
    found = []
    for name, column in columns.items():
        found += _where(np.isnan(column), f"{name} NaN")
        found += _where(np.isinf(column), f"{name} infinite")
        if name in _PRICES:
            found += _where(column <= 0, f"{name} not above 0")
        else:
            found += _where(column < 0, f"{name} below 0")
    return found


def _high_low(time: Times | None, columns: Columns) -> list[Finding]:
    if "high" not in columns or "low" not in columns:
        return []
    return _where(columns["high"] < columns["low"], "high below low")


CHECKS: Final[tuple[Check, ...]] = (_no_bars, _times, _numbers, _high_low)


def _where(bad: NDArray[np.bool_], what: str) -> list[Finding]:
    indices = np.flatnonzero(bad)
    return [Finding(what, len(indices), int(indices[0]))] if len(indices) else []


def _when(time_ns: np.int64) -> str:
    return str(np.datetime64(int(time_ns), "ns"))[:19]
