"""Bars: read from whatever people have, refused with everything that is wrong, and identified by content."""

from __future__ import annotations

import hashlib
import importlib.util
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents_adapter.bars import Bars, content_hash
from journal.errors import EventRejected

HOUR = 3_600_000_000_000
START = 1_483_308_000_000_000_000
"""2017-01-01 22:00 UTC in nanoseconds."""


def frame(length: int = 5, **columns: Any) -> pd.DataFrame:
    """Good bars under plain names with a DatetimeIndex; `columns` replaces some."""
    close = 1.0 + np.arange(length) / 100
    content = {
        "open": close,
        "high": close + 0.1,
        "low": close - 0.1,
        "close": close,
        "volume": np.arange(length) * 1.0,
    }
    index = pd.DatetimeIndex(pd.to_datetime(START + np.arange(length) * HOUR))
    return pd.DataFrame(content | columns, index=index)


def as_text(table: pd.DataFrame, form: str) -> list[str]:
    assert isinstance(table.index, pd.DatetimeIndex)
    return [str(when) for when in table.index.strftime(form)]


GOOD = Bars.from_frame(frame(), "EURUSD", "H1")


def variants() -> dict[str, pd.DataFrame]:
    """The same bars as different people have them."""
    good = frame()
    plain = good.reset_index(drop=True)
    seconds = (START + np.arange(5) * HOUR) // 10**9
    metatrader = plain.rename(columns=lambda c: {"volume": "<TICKVOL>"}.get(c, f"<{c.upper()}>"))
    metatrader = metatrader.assign(**{"<VOL>": 0, "<SPREAD>": 7})
    metatrader.insert(0, "<TIME>", as_text(good, "%H:%M:%S"))
    metatrader.insert(0, "<DATE>", as_text(good, "%Y.%m.%d"))
    return {
        "index": good,
        "seconds index": good.set_index(good.index.as_unit("s")),  # type: ignore[attr-defined]
        "zone": good.tz_localize("UTC").tz_convert("Asia/Tokyo"),
        "title case, other order": good[["close", "volume", "low", "open", "high"]].rename(columns=str.title),
        "spaces": good.rename(columns=lambda c: f" {c} "),
        "one letter": good.rename(columns=lambda c: c[0].upper()),
        "iso column": plain.assign(Date=as_text(good, "%Y-%m-%dT%H:%M:%S")),
        "newest first": good.iloc[::-1],
        "hours of the day": plain.assign(Date=as_text(good, "%Y-%m-%d %I-%p")),
        "object dtype": good.astype(object),
        "clocks change": plain.assign(time=as_text(good.tz_localize("UTC"), "%Y-%m-%dT%H:%M:%S%z")),
        "day first": plain.assign(Time=as_text(good, "%d.%m.%Y %H:%M:%S.000")),
        "text index": good.set_index(pd.Index(as_text(good, "%d.%m.%Y %H:%M:%S.000"), name="Time")),
        "zone in text": plain.assign(datetime=as_text(good, "%Y-%m-%d %H:%M:%S+00:00")),
        "timestamp column": plain.assign(timestamp=good.index),
        "s": plain.assign(time=seconds),
        "ms": plain.assign(time=seconds * 1000),
        "us": plain.assign(time=seconds * 10**6),
        "ns": plain.assign(time=seconds * 10**9),
        "metatrader": metatrader,
        "python metatrader": plain.rename(columns={"volume": "tick_volume"}).assign(
            time=seconds, real_volume=0, spread=1
        ),
        "text numbers": good.assign(open=[str(x) for x in good.open]),
        "more columns": good.assign(**{"Adj Close": 1.0, "note": "x"}),
    }


@pytest.mark.parametrize("name", variants())
def test_the_same_bars_in_any_form_are_the_same(name: str) -> None:
    bars = Bars.from_frame(variants()[name], "EURUSD", "H1")
    assert bars.time.tolist() == [START + n * HOUR for n in range(5)]
    assert bars.ohlcv.tolist() == GOOD.ohlcv.tolist()
    assert bars.content_hash() == GOOD.content_hash()


def test_without_volume_it_is_zero() -> None:
    assert Bars.from_frame(frame().drop(columns="volume"), "EURUSD", "H1").volume.tolist() == [0.0] * 5


def test_columns_are_what_they_are_called() -> None:
    given = frame()
    for name in ("open", "high", "low", "close", "volume"):
        assert getattr(GOOD, name).tolist() == given[name].tolist()
        assert getattr(GOOD, name).dtype == np.float64


def test_bars_are_read_only_and_keep_a_copy() -> None:
    time, ohlcv = GOOD.time.copy(), GOOD.ohlcv.copy()
    bars = Bars("EURUSD", "H1", time, ohlcv)
    ohlcv[:] = 7
    time[:] = 0
    assert bars.content_hash() == GOOD.content_hash()
    with pytest.raises(ValueError, match="read-only"):
        bars.close[0] = 1.0


# -- identity ----------------------------------------------------------------------------------------------------------


def test_the_hash_is_what_it_is_said_to_be() -> None:
    expected = hashlib.blake2b(b"training-journal bars 1" + struct.pack("<Q", 2), digest_size=16)
    expected.update(struct.pack("<2q", START, START + HOUR))
    expected.update(GOOD.ohlcv[:2].tobytes())
    assert GOOD.content_hash(0, 2) == expected.digest() == GOOD[:2].content_hash()
    assert content_hash(GOOD.time[:2], GOOD.ohlcv[:2]) == expected.digest()


def test_any_changed_bit_of_any_bar_changes_the_hash() -> None:
    seen = {GOOD.content_hash()}
    for row in range(5):
        for column in range(5):
            ohlcv = GOOD.ohlcv.copy()
            ohlcv[row, column] = np.nextafter(ohlcv[row, column], 9)
            seen.add(content_hash(GOOD.time, ohlcv))
        time = GOOD.time.copy()
        time[row] += 1
        seen.add(content_hash(time, GOOD.ohlcv))
    assert len(seen) == 31


def test_the_hash_hangs_on_content_not_on_name_or_place() -> None:
    other = Bars("Other", "M1", GOOD.time[1:], GOOD.ohlcv[1:])
    assert other.content_hash() == GOOD.content_hash(1) == GOOD[1:].content_hash() != GOOD.content_hash()


def test_the_hash_reads_arrays_of_any_layout_and_refuses_others() -> None:
    assert content_hash(GOOD.time, np.asfortranarray(GOOD.ohlcv)) == GOOD.content_hash()
    bad: list[Any] = [
        (GOOD.time.astype(np.float64), GOOD.ohlcv),
        (GOOD.time, GOOD.ohlcv.astype(np.float32)),
        (GOOD.time, GOOD.ohlcv[:, :4]),
        (GOOD.time[1:], GOOD.ohlcv),
        (GOOD.time[:, None], GOOD.ohlcv),
    ]
    for time, ohlcv in bad:
        with pytest.raises(EventRejected, match=r"give (int64|float64) of shape"):
            content_hash(time, ohlcv)


@pytest.mark.parametrize(("start", "stop"), [(0, 6), (-1, 3), (3, 3), (4, 2), (5, None), (-3, -1)])
def test_bars_that_are_not_there_are_refused(start: int, stop: int | None) -> None:
    with pytest.raises(EventRejected, match="it has bars 0 to 5"):
        GOOD[start:stop]
    with pytest.raises(EventRejected, match="it has bars 0 to 5"):
        GOOD.content_hash(start, stop)


def test_only_ranges_are_taken() -> None:
    for part in (3, slice(0, 4, 2)):
        with pytest.raises(EventRejected, match="give a range"):
            GOOD[part]


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "what"),
    [
        (frame(open=[1, np.nan, 1, np.nan, 1.0]), r"open NaN in 2 bars \(first: bar 1, 2017-01-01T23:00:00\)"),
        (frame(high=[9, 9, np.inf, 9, 9.0]), r"high infinite in 1 bar \(first: bar 2"),
        (frame(low=[0.0] * 5), r"low not above 0 in 5 bars \(first: bar 0"),
        (frame(close=[1, 1, 1, 1, -1.0]), r"close not above 0 in 1 bar \(first: bar 4"),
        (frame(volume=[1, 1, 1, 1, -1.0]), "volume below 0"),
        (frame(volume=[1, 1, 1, 1, np.nan]), "volume NaN"),
        (frame(high=[0.5] * 5), r"high below low in 5 bars"),
        (frame(open=["1", "x", "1", "1", "1"]), r"open not a number \('x'\) in 1 bar \(first: bar 1"),
        (frame(open=[1j] * 5), "open not a number"),
        (
            frame().drop(columns=["open", "close"]),
            "no column 'open' among high, low, volume: add or rename it; no column 'close'",
        ),
        (frame().iloc[[0, 1, 1, 2]], r"the time of the bar before in 1 bar \(first: bar 2"),
        (frame().iloc[[1, 0, 2]], r"a time before the bar before in 1 bar \(first: bar 1"),
        (frame(0), "there are none"),
        (frame().reset_index(drop=True), "no time: neither"),
        (frame().reset_index(drop=True).assign(time="soon"), r"no time that can be read in 5 bars.*'soon'"),
        (frame().reset_index(drop=True).assign(time="01/02/2017"), "give ISO 8601"),
        (frame().reset_index(drop=True).assign(time="31.02.2017"), "no time that can be read"),
        (frame().reset_index(drop=True).assign(time=[pd.NaT] * 5), "NaT|no time"),
        (frame().assign(Close=1.0), "two columns 'close'"),
    ],
)
def test_what_is_wrong_is_told_with_where(table: pd.DataFrame, what: str) -> None:
    with pytest.raises(EventRejected, match=f"^bars of EURUSD H1 are not good: .*{what}") as caught:
        Bars.from_frame(table, "EURUSD", "H1")
    assert "\n" not in str(caught.value)


def test_all_that_is_wrong_is_told_at_once() -> None:
    bad = frame(open=[np.nan, 1, 1, 1, 1], high=["x"] * 5, close=[0.0] * 5).iloc[[0, 0, 1, 2, 3]].drop(columns="low")
    with pytest.raises(EventRejected) as caught:
        Bars.from_frame(bad, "EURUSD", "H1")
    for what in (
        "no column 'low'",
        "high not a number",
        "open NaN in 2 bars",
        "close not above 0",
        "time of the bar before",
    ):
        assert what in str(caught.value)


def test_arrays_are_checked_like_tables() -> None:
    ohlcv = GOOD.ohlcv.copy()
    ohlcv[2, 1] = 0.001
    with pytest.raises(EventRejected, match="high below low in 1 bar"):
        Bars("EURUSD", "H1", GOOD.time, ohlcv)
    with pytest.raises(EventRejected, match="instrument is ''"):
        Bars("", "H1", GOOD.time, GOOD.ohlcv)
    with pytest.raises(EventRejected, match="timeframe is 'a/b'"):
        Bars("A", "a/b", GOOD.time, GOOD.ohlcv)


# -- files -------------------------------------------------------------------------------------------------------------


def test_a_metatrader_export_tells_instrument_and_timeframe(tmp_path: Path) -> None:
    path = tmp_path / "EURUSD+_H1_201701012200_201701020200.csv"
    table = variants()["metatrader"].assign(**{"": ""})  # Each line ends with a separator.
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        table.to_csv(path, sep="\t", index=False, lineterminator="\r\n", encoding=encoding)
        bars = Bars.read(path)
        assert (bars.instrument, bars.timeframe) == ("EURUSD+", "H1")
        assert bars.content_hash() == GOOD.content_hash()


def test_lines_that_end_with_a_separator_do_not_shift_the_columns(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    frame().to_csv(path, index_label="Date")
    first, *rest = path.read_text().splitlines()
    path.write_text("\n".join([first, *(line + "," for line in rest)]))
    assert Bars.read(path, "EURUSD", "H1").content_hash() == GOOD.content_hash()


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_any_separator(tmp_path: Path, separator: str) -> None:
    path = tmp_path / "x.csv"
    frame().to_csv(path, sep=separator, index_label="Date")
    assert Bars.read(path, "EURUSD", "H1").content_hash() == GOOD.content_hash()


@pytest.mark.parametrize(
    ("name", "instrument", "timeframe"),
    [
        ("XAUUSD_MN1_2020.csv", "XAUUSD", "MN1"),
        ("A_B_M15.csv", "A_B", "M15"),
        ("US500_Daily_1_2.csv", "US500", "Daily"),
        ("COPPER-C_M15_1_2.csv", "COPPER-C", "M15"),
        ("BRK.B_1h.csv", "BRK.B", "1h"),
    ],
)
def test_names_of_files(tmp_path: Path, name: str, instrument: str, timeframe: str) -> None:
    step = {"MN1": "30D", "M15": "15min", "Daily": "1D", "1h": "1h"}[timeframe]
    frame().set_index(pd.date_range("2017-01-01", periods=5, freq=step)).to_csv(tmp_path / name, index_label="Date")
    bars = Bars.read(tmp_path / name)
    assert (bars.instrument, bars.timeframe) == (instrument, timeframe)


def test_files_that_are_no_bars(tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    path.write_text("")
    with pytest.raises(EventRejected, match="its name tells no instrument"):
        Bars.read(path)
    with pytest.raises(EventRejected, match=r"data.csv: no table of bars: .*: give a file with a header line"):
        Bars.read(path, "A", "H1")
    path.write_bytes(bytes(range(256)) * 10)
    with pytest.raises(EventRejected):
        Bars.read(path, "A", "H1")
    path.write_text("hello\nworld\n")
    with pytest.raises(EventRejected, match="no column 'open'"):
        Bars.read(path, "A", "H1")
    path.write_text("time,open,high,low,close\n2024-01-01 00:00,1,1,1,1\n")
    with pytest.raises(EventRejected, match=r"data.csv: 1 bar is too short: give two or more"):
        Bars.read(path, "A", "H1")
    with pytest.raises(FileNotFoundError, match=r"none.csv: there is no such file: give the path"):
        Bars.read(tmp_path / "none.csv", "A", "H1")


@pytest.mark.parametrize(
    ("name", "timeframe", "length", "first", "last", "close", "volume"),
    [
        ("FOREX_EURUSD_1H_ASK", "H1", 6225, "2017-01-01T22", "2017-12-29T21", 1.05227, 143539993.3),
        ("STOCKS_GOOGL", "D1", 2335, "2009-05-22T00", "2018-08-29T00", 196.946945, 3433700.0),
    ],
)
def test_the_bars_of_gym_anytrading(
    name: str, timeframe: str, length: int, first: str, last: str, close: float, volume: float
) -> None:
    package = importlib.util.find_spec("gym_anytrading")
    if package is None or not package.submodule_search_locations:
        pytest.skip("gym-anytrading is not installed")
    path = Path(package.submodule_search_locations[0]) / "datasets" / "data" / f"{name}.csv"
    bars = Bars.read(path, "X", timeframe)
    assert len(bars) == length and bars.close[0] == close and bars.volume[0] == volume
    assert [str(np.datetime64(int(bars.time[i]), "ns"))[:13] for i in (0, -1)] == [first, last]
