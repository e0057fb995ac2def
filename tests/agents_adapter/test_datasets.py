"""Market data by configuration: options, the environment, an ini file; found by name, validated before it is used."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from agents_adapter import datasets
from journal.errors import EventRejected


def write(path: Path, seed: int = 1, **columns: object) -> Path:
    close = 1.5 + np.cumsum(np.random.default_rng(seed).normal(scale=1e-3, size=100))
    content = {"open": close, "high": close + 0.01, "low": close - 0.01, "close": close, "volume": 1.0}
    table = pd.DataFrame(content | columns, index=pd.date_range("2024-01-01", periods=100, freq="1h"))
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index_label="Date", sep="\t")
    return path


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv(datasets.VARIABLE, raising=False)
    directory = tmp_path / "bars"
    directory.mkdir()
    write(directory / "XAUUSD+_H1_202401010000_202401050300.csv", 1)
    write(directory / "BRK.B_H1.csv", 2)
    write(directory / "COPPER-C_1h.parquet", 3)
    (directory / "README.md").write_text("no bars")
    return directory


def parsed(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    datasets.add_options(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["--symbol", "XAUUSD+"], ("XAUUSD+", "H1")),
        (["--symbol", "XAUUSD+", "--timeframe", "H1"], ("XAUUSD+", "H1")),
        (["--symbol", "BRK.B"], ("BRK.B", "H1")),
        (["--timeframe", "1h"], ("COPPER-C", "1h")),
    ],
)
def test_a_data_set_is_found_by_symbol_and_timeframe(place: Path, words: list[str], found: tuple[str, str]) -> None:
    bars = datasets.load(parsed("--data", str(place), *words))
    assert bars is not None and (bars.instrument, bars.timeframe, len(bars)) == (*found, 100)


def test_the_environment_names_the_directory_and_an_option_overrides_it(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(datasets.VARIABLE, str(place))
    bars = datasets.load(parsed("--symbol", "BRK.B"))
    assert bars is not None and bars.instrument == "BRK.B"
    other = write(tmp_path / "other.csv", 4)
    bars = datasets.load(parsed("--data", str(other), "--symbol", "ANY", "--timeframe", "H1"))
    assert bars is not None and bars.instrument == "ANY"


def test_where_nothing_is_named_there_are_none(place: Path) -> None:
    assert datasets.load(parsed()) is None
    with pytest.raises(EventRejected, match="give --data, or set JOURNAL_DATA"):
        datasets.load(parsed("--symbol", "XAUUSD+"))


def test_what_is_there_is_said(place: Path, tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"no GOLD H1 among what is there \(BRK.B_H1.csv, COPPER-C_1h.parquet, X"
    ):
        datasets.load(parsed("--data", str(place), "--symbol", "GOLD", "--timeframe", "H1"))
    with pytest.raises(EventRejected, match=r"2 files hold H1 \(BRK.B_H1.csv, XAUUSD\+_H1.*name one with --symbol"):
        datasets.load(parsed("--data", str(place), "--timeframe", "H1"))
    with pytest.raises(FileNotFoundError, match="no such file or directory: name the market data with --data"):
        datasets.load(parsed("--data", str(tmp_path / "nowhere")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match=r"no file named SYMBOL_TIMEFRAME….csv"):
        datasets.load(parsed("--data", str(tmp_path / "empty")))


# -- the pytest plugin -------------------------------------------------------------------------------------------------

SUITE = """
def test_on_bars(market_bars):
    assert len(market_bars) == 100 and market_bars.instrument == "XAUUSD+"

def test_without():
    pass
"""


def session(directory: Path, *options: str, ini: str = "", suite: str = SUITE) -> tuple[int, str]:
    """Pytest as a user runs it: (exit code, output)."""
    (directory / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    (directory / "test_mine.py").write_text(suite)
    words = [sys.executable, "-m", "pytest", "-rs", "-p", "no:cacheprovider", *options]
    done = subprocess.run(words, cwd=directory, capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout + done.stderr


def test_tests_get_the_bars_that_options_or_the_ini_file_name(place: Path) -> None:
    for options, ini in (
        (["--data-dir", "bars", "--symbol", "XAUUSD+"], ""),
        ([], "market_data = bars\nmarket_symbol = XAUUSD+\nmarket_timeframe = H1"),
        (["--symbol", "XAUUSD+"], "market_data = bars\nmarket_symbol = BRK.B"),
    ):
        code, output = session(place.parent, *options, ini=ini)
        assert code == 0 and "2 passed" in output, output
        assert "market data: Bars(XAUUSD+ H1, 100 from 2024-01-01T00:00:00" in output


def test_bad_data_ends_the_session_before_any_test(place: Path) -> None:
    path = write(place / "BAD_H1.csv", 1, low=-1.0)
    code, output = session(place.parent, "--data-dir", "bars", "--symbol", "BAD")
    assert code == pytest.ExitCode.USAGE_ERROR and "passed" not in output and "Traceback" not in output, output
    assert f"bars of BAD H1 (bars/{path.name}) are not good: low not above 0 in 100 bars (first: line 2" in output


def test_missing_data_skips_the_tests_that_need_it_with_the_reason(place: Path) -> None:
    for options, reason in (([], "no market data is named"), (["--data-dir", "nowhere"], "no such file or directory")):
        code, output = session(place.parent, *options)
        assert code == 0 and "1 passed, 1 skipped" in output and reason in output, output


def test_it_stays_out_of_the_way(place: Path) -> None:
    """Nothing is read unless a test asks for it, and a suite's own options are its own."""
    suite = "def test_mine():\n    pass\n"
    code, output = session(place.parent, "--data-dir", "nowhere", suite=suite)
    assert code == 0 and "1 passed" in output, output
    own = "def pytest_addoption(parser): parser.addoption('--symbol', type=int); parser.addoption('--timeframe')\n"
    (place.parent / "conftest.py").write_text(own)
    mine = SUITE + "def test_mine(request):\n    assert request.config.getoption('--symbol') == 7\n"
    code, output = session(place.parent, "--symbol", "7", ini="market_data = bars\nmarket_symbol = XAUUSD+", suite=mine)
    assert code == 0 and "3 passed" in output, output
    (place.parent / "conftest.py").write_text("def pytest_addoption(parser): parser.addoption('--data-dir')\n")
    code, output = session(place.parent, "-p", "no:market-data", "--data-dir", "mine", suite=suite)
    assert code == 0 and "1 passed" in output, output
