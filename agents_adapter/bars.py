"""Bars: market data as arrays, checked once, and their identity, a hash of times and prices.

    bars = Bars.from_frame(frame, "EURUSD", "H1")     # any usual header names, a DatetimeIndex or a time column
    bars = Bars.read("EURUSD_H1.csv")                 # text or Parquet, MetaTrader exports too
    bars[0:240].close                                 # float64[240]; slices share memory
    bars.content_hash(0, 240)                         # 16 bytes: equal bars, equal hash, whatever the file is called

Times are nanoseconds since 1970, UTC; a time without a zone is taken as UTC.
"""

from __future__ import annotations

import hashlib
import os
import struct
from typing import TYPE_CHECKING, Final

import numpy as np

from agents_adapter.validation import COLUMNS, HERE, Origin, Prices, Times, findings, in_words, noted, refuse, when_of
from journal.errors import EventRejected
from journal.events import check_name, check_tolerance

if TYPE_CHECKING:
    import pandas as pd

_HASH_TAG: Final = b"training-journal bars 1"
_QUANTISED_TAG: Final = b"training-journal quantised bars 1"
_SLACK: Final = 1e-6
"""Of a step."""


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


def quantised_hash(times_ns: Times, ohlcv: Prices, tolerance: float) -> bytes:
    """16 bytes, equal where times are equal and OHLCV, rounded to multiples of `tolerance`, are.

    A value halfway between two multiples goes up; one that is a multiple itself stays what it is under any change of
    less than half of `tolerance`. Values that are nearer to each other than that can still lie on two sides of a
    halfway: then the hashes differ. Raises `EventRejected` as `content_hash` does, and for a bad tolerance.
    """
    content_hash(times_ns, ohlcv)  # Its shapes and dtypes are those of bars.
    check_tolerance(tolerance, "tolerance")
    # 1.00005 is not quite that in binary, so a decimal's halfway is met with some slack.
    steps = np.floor(ohlcv / tolerance + (0.5 + _SLACK))
    hasher = hashlib.blake2b(_QUANTISED_TAG, digest_size=16)
    hasher.update(struct.pack("<Qd", len(times_ns), tolerance))
    hasher.update(np.ascontiguousarray(times_ns, dtype="<i8").data)
    hasher.update(np.ascontiguousarray(steps, dtype="<f8").data)
    return hasher.digest()


class Bars:
    """Bars of one instrument and timeframe, read-only: `time` int64[n] in ns, `ohlcv` float64[n, 5], and its columns.

    The arrays given are copied. Raises `EventRejected`, naming all findings at once.
    """

    __slots__ = ("instrument", "ohlcv", "time", "timeframe")

    def __init__(self, instrument: str, timeframe: str, time: Times, ohlcv: Prices) -> None:
        time, ohlcv = np.array(time), np.array(ohlcv, order="C")
        content_hash(time, ohlcv)  # Its shapes and dtypes are those of bars.
        columns = dict(zip(COLUMNS, ohlcv.T, strict=True))
        refuse(instrument, timeframe, findings(time, columns, timeframe), time, HERE)
        self._set(instrument, timeframe, time, ohlcv)

    def _set(self, instrument: str, timeframe: str, time: Times, ohlcv: Prices) -> None:
        self.instrument = check_name(instrument, "instrument")
        self.timeframe = check_name(timeframe, "timeframe")
        time.flags.writeable = ohlcv.flags.writeable = False
        self.time, self.ohlcv = time, ohlcv

    @classmethod
    def read(cls, path: str | os.PathLike[str], instrument: str | None = None, timeframe: str | None = None) -> Bars:
        """The bars of a file: Parquet, or text with a header line, comma, semicolon or tab separated.

        Columns as in `from_frame`. Without `instrument` and `timeframe` the name must say them, as MetaTrader's do:
        `EURUSD_H1_201701012200_….csv`. Raises `EventRejected` where the content is not good, naming all findings with
        their lines, and `OSError` where the file cannot be read.
        """
        from agents_adapter import frames

        where = os.fspath(path)
        named = frames.named_by(where)
        instrument, timeframe = instrument or named[0], timeframe or named[1]
        if instrument is None or timeframe is None:
            raise EventRejected(f"{where}: its name tells no instrument and timeframe: give instrument=, timeframe=")
        frame, origin = frames.read(where)
        bars = cls.from_frame(frame, instrument, timeframe, origin)
        if len(bars) < 2:
            raise EventRejected(f"{where}: 1 bar is too short: give two or more, from which the timeframe can be seen")
        return bars

    @classmethod
    def from_frame(cls, frame: pd.DataFrame, instrument: str, timeframe: str, origin: Origin = HERE) -> Bars:
        """The bars of a DataFrame with open, high, low, close, and volume (0.0 where it has none).

        Headers in any case and order, also `<OPEN>`; tick volume is taken before real volume, which brokers leave 0.
        Times from a DatetimeIndex, or from time, date, datetime, timestamp as a column or text index, or date and time.
        Dotted dates are read as 2024.01.31 or 31.01.2024, numbers as s, ms, us or ns by their size. Rows may come
        newest first. `origin` tells findings where the rows come from. Raises `EventRejected` with all findings.
        """
        from agents_adapter import frames

        time, columns, found = frames.columns_of(frame)
        if time is not None and len(time) > 1 and (time[1:] < time[:-1]).all():
            time, columns = time[::-1], {name: column[::-1] for name, column in columns.items()}
            numbers = np.arange(len(time)) if origin.numbers is None else origin.numbers
            origin = origin._replace(numbers=numbers[::-1])
        refuse(instrument, timeframe, found + findings(time, columns, timeframe), time, origin)
        assert time is not None
        bars = object.__new__(cls)
        bars._set(instrument, timeframe, np.array(time), np.column_stack([columns[name] for name in COLUMNS]))
        return bars

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

    def quantised_hash(self, tolerance: float) -> bytes:
        """The identity of all these bars after rounding, 16 bytes; see the function of this name."""
        return quantised_hash(self.time, self.ohlcv, tolerance)

    def notes(self) -> list[str]:
        """What one should know of them though they are good, a line each: gaps, a price that stands still."""
        columns = dict(zip(COLUMNS, self.ohlcv.T, strict=True))
        return [
            f"{in_words(finding, self.time, HERE)}: {finding.do}"
            for finding in noted(self.time, columns, self.timeframe)
        ]

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
        span = f"from {when_of(self.time[0])} to {when_of(self.time[-1])}"
        return f"Bars({self.instrument} {self.timeframe}, {len(self):,} {span})"

    def _range(self, start: int, stop: int | None) -> tuple[int, int]:
        stop = len(self) if stop is None else stop
        if not 0 <= start < stop <= len(self):
            raise EventRejected(
                f"bars [{start}, {stop}) of {self.instrument} {self.timeframe}: it has bars 0 to {len(self)}, "
                "give start below stop within them"
            )
        return int(start), int(stop)
