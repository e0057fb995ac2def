"""What refuses bars and what is only noted: each rule, with where and what to do; and good data of every timeframe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from agents_adapter.bars import Bars
from agents_adapter.validation import length_of
from journal.errors import EventRejected

HOUR = 3_600_000_000_000


def walk(length: int = 120, freq: str = "1h", **columns: Any) -> pd.DataFrame:
    """A random walk; `columns` replaces some."""
    close = 1.5 + np.cumsum(np.random.default_rng(7).normal(scale=1e-3, size=length))
    content = {"open": close, "high": close + 0.01, "low": close - 0.01, "close": close, "volume": 1.0}
    return pd.DataFrame(content | columns, index=pd.date_range("2024-01-01", periods=length, freq=freq))


def refused(table: pd.DataFrame, timeframe: str = "H1") -> str:
    with pytest.raises(EventRejected) as caught:
        Bars.from_frame(table, "EURUSD", timeframe)
    return str(caught.value)


def test_open_and_close_lie_between_low_and_high() -> None:
    table = walk()
    table.iloc[3, 0], table.iloc[5, 3] = 9.0, 0.1
    said = refused(table)
    assert "open outside of low to high in 1 bar (first: bar 3, 2024-01-01T03:00:00): mend or drop" in said
    assert "close outside of low to high in 1 bar (first: bar 5" in said


def test_high_and_low_swapped_are_told_once() -> None:
    table = walk().rename(columns={"high": "low", "low": "high"})
    said = refused(table)
    assert "high below low in 120 bars" in said and "outside" not in said


@pytest.mark.parametrize(
    ("freq", "timeframe", "said"),
    [
        ("1h", "H4", "only 1 hour after the bar before, less than H4 in 119 bars"),
        ("15min", "H1", "only 15 minutes after the bar before"),
        ("1h", "Daily", "only 1 hour after"),
        ("1D", "W1", "only 1 day after"),
        ("4h", "H1", "most rows lie 4 hours apart, longer than H1"),
        ("1D", "4h", "most rows lie 1 day apart"),
        ("5min", "M1", "most rows lie 5 minutes apart"),
    ],
)
def test_a_timeframe_that_the_rows_do_not_have(freq: str, timeframe: str, said: str) -> None:
    assert said in refused(walk(freq=freq), timeframe)


@pytest.mark.parametrize(
    ("freq", "timeframe"),
    [
        *(("1min", "M1"), ("15min", "15min"), ("15min", "15m"), ("1h", "1H"), ("4h", "H4"), ("1D", "D1")),
        *(("7D", "Weekly"), ("MS", "MN1"), ("MS", "1M"), ("ME", "Monthly"), ("7s", "seven seconds"), ("1h", "H0")),
    ],
)
def test_a_timeframe_that_they_have(freq: str, timeframe: str) -> None:
    assert not Bars.from_frame(walk(freq=freq), "EURUSD", timeframe).notes()


def test_days_are_as_long_as_the_clocks_make_them() -> None:
    table = walk(300, "1D").set_index(pd.date_range("2024-01-01", periods=300, freq="1D", tz="Europe/Berlin"))
    assert not Bars.from_frame(table, "DAX", "D1").notes()


def test_a_few_bars_prove_no_timeframe() -> None:
    """An environment's window over a weekend is two bars, two days apart."""
    Bars.from_frame(walk().iloc[[0, 60]], "EURUSD", "H1")
    Bars.from_frame(walk(20, open=1.0, high=1.0, low=1.0, close=1.0), "EURUSD", "H1")


def test_prices_that_never_change_are_no_market() -> None:
    said = refused(walk(open=1.25, high=1.25, low=1.25, close=1.25))
    assert "every price is 1.25: give data of a market that moves" in said


def test_gaps_are_noted_and_not_refused() -> None:
    table = walk(200)
    bars = Bars.from_frame(table.drop(table.index[50:98]).drop(table.index[150]), "EURUSD", "H1")
    (note,) = bars.notes()
    assert note.startswith("2 gaps, the widest 2.042 days before 2024-01-05T02:00:00: ")


def test_a_feed_that_has_stopped_is_noted() -> None:
    table = walk(200)
    table.iloc[100:170, :4] = 1.5
    (note,) = Bars.from_frame(table, "EURUSD", "H1").notes()
    assert "many times in a row, in 69 bars (first: bar 101" in note


@pytest.mark.parametrize("newest_first", [False, True])
def test_in_a_file_the_line_is_named(tmp_path: Path, newest_first: bool) -> None:
    """Also where rows come newest first, and behind a blank line."""
    path, table = tmp_path / "EURUSD_H1.csv", walk(10)
    table.iloc[4, 2] = -1.0
    text = (table.iloc[::-1] if newest_first else table).to_csv(index_label="Date").splitlines()
    path.write_text("\n".join([*text[:3], "", *text[3:], "", ""]))
    line = next(number for number, words in enumerate(path.read_text().splitlines(), 1) if ",-1.0," in words)
    with pytest.raises(EventRejected) as caught:
        Bars.read(path)
    expected = f"bars of EURUSD H1 ({path}) are not good: low not above 0 in 1 bar (first: line {line}, 2024-01-01T04"
    assert str(caught.value).startswith(expected)


def test_in_a_parquet_file_the_row_is_named(tmp_path: Path) -> None:
    path, table = tmp_path / "BTCUSD_H1_1_2.parquet", walk(10)
    table.to_parquet(path)
    assert Bars.read(path).content_hash() == Bars.from_frame(table, "BTCUSD", "H1").content_hash()
    table.iloc[4, 2] = np.inf
    table.to_parquet(path)
    with pytest.raises(EventRejected, match=r"low infinite in 1 bar \(first: row 4, "):
        Bars.read(path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(EventRejected, match=r"BTCUSD_H1_1_2.parquet: no table of bars"):
        Bars.read(path)


def test_lengths() -> None:
    assert length_of("M15") == length_of("15min") == length_of("15T") == (HOUR // 4, HOUR // 4)
    assert length_of("H4") == length_of("4h") == (4 * HOUR, 4 * HOUR)
    assert length_of("M1") != length_of("1M") == length_of("MN1")
    assert length_of("tick") is None
