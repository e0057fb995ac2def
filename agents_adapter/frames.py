"""Tables as they come (DataFrames, CSV files) to the columns of bars: header names, dates, numbers. Needs pandas."""

from __future__ import annotations

import os
import re
from typing import Any, Final

import numpy as np
import pandas as pd

from agents_adapter.validation import COLUMNS, Finding, Origin, Prices, Times
from journal.errors import EventRejected

# In order of preference. MetaTrader's real volume comes last: most brokers leave it 0.
_HEADERS: Final[dict[str, tuple[str, ...]]] = {
    "open": ("open", "o"),
    "high": ("high", "h"),
    "low": ("low", "l"),
    "close": ("close", "c"),
    "volume": ("volume", "tick_volume", "tickvolume", "tickvol", "vol", "real_volume", "v"),
}
_TIME_HEADERS: Final = ("datetime", "timestamp", "time", "date")
_FILE_NAME: Final = re.compile(
    r"(?P<instrument>.+?)_(?P<timeframe>(?:MN|[MHDW])\d{1,3}|\d{1,3}(?:min|[mhdwHDWM])|Hourly|Daily|Weekly|Monthly)(?:_|\.|$)"
)
# Powers of ten that tell the unit of a time given as a number; seconds stay below 1e11 until the year 5138.
_UNITS: Final = ((1e11, "s"), (1e14, "ms"), (1e17, "us"), (np.inf, "ns"))


def columns_of(frame: pd.DataFrame) -> tuple[Times | None, dict[str, Prices], list[Finding]]:
    """(times, columns by name, findings); None or left out is what the table lacks or what is no time or number."""
    headers, found = _headers(frame)
    columns: dict[str, Prices] = {}
    for name in COLUMNS:
        header = next((headers[known] for known in _HEADERS[name] if known in headers), None)
        if header is not None:
            number, text = _numbers(frame.iloc[:, header], name)
            found += text
            if not text:
                columns[name] = number
        elif name == "volume":
            columns[name] = np.zeros(len(frame))
        else:
            there = ", ".join(map(str, frame.columns))[:200] or "none"
            found.append(Finding(f"no column {name!r} among {there}", "add or rename it"))
    time: Times | None = None
    try:
        time = _times(frame, headers)
    except (ValueError, TypeError, OverflowError) as error:
        found.append(Finding(str(error).splitlines()[0], "give ISO 8601, 2024.01.31, 31.01.2024, or a DatetimeIndex"))
    return time, columns, found


def named_by(path: str) -> tuple[str | None, str | None]:
    """(instrument, timeframe) as the file's name tells them: `XAUUSD_H1_202401020100_….csv`."""
    match = _FILE_NAME.match(os.path.basename(path))
    return (match["instrument"], match["timeframe"]) if match else (None, None)


def read(path: str) -> tuple[pd.DataFrame, Origin]:
    """The table in a file, and where its rows stand there. Text: every cell as text; the first line names the columns.

    Raises `EventRejected` where it holds no table, `OSError` where it cannot be read.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(4096)
    except FileNotFoundError:
        raise FileNotFoundError(f"{path}: there is no such file: give the path of a file of bars") from None
    if start[:4] == b"PAR1":
        return _read_parquet(path)
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    line = start.decode(encoding, "replace").split("\n", 1)[0]
    separator = max("\t;,", key=line.count)
    try:
        # MetaTrader ends each line with a separator, which must not make the first column an index.
        frame = pd.read_csv(path, sep=separator, encoding=encoding, index_col=False, dtype=str, skip_blank_lines=False)
    except (ValueError, UnicodeError) as error:
        raise EventRejected(f"{path}: no table of bars: {str(error).splitlines()[0]}: {_TABLE}") from error
    frame = frame.dropna(how="all")  # Blank lines; they count all the same.
    return frame, Origin(path, "line", frame.index.to_numpy(dtype=np.int64) + 2)


_TABLE: Final = "give a file with a header line, or a Parquet file, of times and prices"


def _read_parquet(path: str) -> tuple[pd.DataFrame, Origin]:
    import pyarrow as pa

    try:
        return pd.read_parquet(path), Origin(path, "row")
    except (pa.ArrowException, ValueError) as error:
        raise EventRejected(f"{path}: no table of bars: {str(error).splitlines()[0]}: {_TABLE}") from error


def _headers(frame: pd.DataFrame) -> tuple[dict[str, int], list[Finding]]:
    """Column numbers by plain header: `<TICKVOL>` is `tickvol`, `Tick Volume` is `tick_volume`."""
    headers: dict[str, int] = {}
    found = []
    for number, header in enumerate(frame.columns):
        plain = str(header).strip().strip("<>").strip().lower().replace(" ", "_")
        if plain in headers and any(plain in known for known in (*_HEADERS.values(), _TIME_HEADERS)):
            found.append(Finding(f"two columns {plain!r}", "drop one of them"))
        headers.setdefault(plain, number)
    return headers, found


def _numbers(column: Any, name: str) -> tuple[Prices, list[Finding]]:
    """float64 of each cell, NaN where it is empty; text is read as Python does, to the nearest number."""
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_complex_dtype(column.dtype):
        return column.to_numpy(dtype=np.float64, na_value=np.nan), []
    missing = column.isna().tolist()
    numbers = [np.nan if empty else _number(cell) for cell, empty in zip(column.tolist(), missing, strict=True)]
    text = [row for row, number in enumerate(numbers) if number is None]
    if text:
        what = f"{name} not a number ({column.iloc[text[0]]!r:.30})"
        return np.empty(0), [Finding(what, "mend or drop these rows", len(text), text[0])]
    return np.array(numbers, dtype=np.float64), []


def _number(cell: Any) -> float | None:
    try:
        return None if "_" in str(cell) else float(cell)
    except (ValueError, TypeError):
        return None


def _times(frame: pd.DataFrame, headers: dict[str, int]) -> Times:
    """Nanoseconds. Raises `ValueError` in words where there are none, or they do not read."""
    if isinstance(frame.index, pd.DatetimeIndex):
        return _nanoseconds(frame.index)
    if "date" in headers and "time" in headers:
        date, clock = (frame.iloc[:, headers[name]].astype(str) for name in ("date", "time"))
        return _nanoseconds(_read_text(date.str.strip() + " " + clock.str.strip()))
    header = next((headers[name] for name in _TIME_HEADERS if name in headers), None)
    column = frame.iloc[:, header] if header is not None else frame.index.to_series()
    if pd.api.types.is_datetime64_any_dtype(column.dtype):
        return _nanoseconds(pd.DatetimeIndex(column))
    if header is None and pd.api.types.is_numeric_dtype(column.dtype):
        raise ValueError("no time: neither a DatetimeIndex nor a column time, date, datetime or timestamp")
    if not pd.api.types.is_numeric_dtype(column.dtype):
        column = column.astype(str).str.strip()
        if not column.str.fullmatch(r"\d{9,19}", na=False).all():
            return _nanoseconds(_read_text(column))
        column = column.astype(np.int64)
    return _read_numbers(column)


def _read_numbers(column: pd.Series[Any]) -> Times:
    largest = float(column.abs().max()) if len(column) else 0.0
    unit: Any = next(unit for limit, unit in _UNITS if largest < limit)
    return _nanoseconds(pd.DatetimeIndex(pd.to_datetime(column, unit=unit)))


def _read_text(column: pd.Series[str]) -> pd.DatetimeIndex:
    # In dotted dates the day comes first, everywhere; with slashes nobody can tell, so they are refused.
    for dotted, year, month, day, rest in (
        (r"\d{4}\.\d\d\.\d\d", slice(0, 4), slice(5, 7), slice(8, 10), slice(10, None)),
        (r"\d\d\.\d\d\.\d{4}", slice(6, 10), slice(3, 5), slice(0, 2), slice(10, None)),
    ):
        matches = column.str.match(dotted, na=False)
        iso = column.str[year] + "-" + column.str[month] + "-" + column.str[day] + column.str[rest]
        column = column.mask(matches, iso)
    times = pd.to_datetime(column, format="ISO8601", errors="coerce", utc=True)
    if times.isna().any():  # CryptoDataDownload writes hours so.
        times = times.fillna(pd.to_datetime(column, format="%Y-%m-%d %I-%p", errors="coerce", utc=True))
    bad = np.flatnonzero(times.isna().to_numpy())
    if len(bad):
        first = int(bad[0])
        raise ValueError(
            f"no time that can be read in {len(bad):,} bars (first: bar {first}, {column.iloc[first]!r:.40})"
        )
    return pd.DatetimeIndex(times)


def _nanoseconds(index: pd.DatetimeIndex) -> Times:
    if index.hasnans:
        raise ValueError("a time is missing (NaT)")
    if index.tz is not None:
        index = index.tz_convert("UTC")
    return np.asarray(index.as_unit("ns").asi8, dtype=np.int64)
