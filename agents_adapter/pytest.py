"""A pytest plugin: tests on market data that configuration names, validated before the first test runs.

    def test_my_agent(market_bars): ...          # an agents_adapter.Bars

    pytest --data-dir DIR --symbol XAUUSD+ --timeframe H1

Without options the ini file's `market_data`, `market_symbol` and `market_timeframe` count, then the environment's
`JOURNAL_DATA`. Bad data ends the session before any test, with all findings; where there is no data, the tests that
ask for it are skipped, with the reason. Nothing is read unless a test asks for `market_bars`. Where a suite has a
`--symbol` or `--timeframe` of its own, that is the suite's, and the ini file names what is meant here; where it has its
own `--data-dir`, leave the plugin out: `-p no:market-data`.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from agents_adapter.bars import Bars

_OPTIONS = {
    "--data-dir": ("market_data", "directory or file of bars"),
    "--symbol": ("market_symbol", "whose bars, as the file's name begins"),
    "--timeframe": ("market_timeframe", "how long a bar is, as the file's name goes on"),
}
"""Each with its entry of the ini file, under which its value is kept, too."""
_BARS: pytest.StashKey[Bars] = pytest.StashKey()
_REASON: pytest.StashKey[str] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The defaults in the ini file, and the one option whose value pytest must not take for a path of tests."""
    for option, (ini, told) in _OPTIONS.items():
        parser.addini(ini, f"{told} (default of {option})", default="")
    _add(parser, "--data-dir")


@pytest.hookimpl(hookwrapper=True)
def pytest_load_initial_conftests(parser: pytest.Parser) -> Iterator[None]:
    """The other options come after those of the tests' own conftest.py, which may have taken the names."""
    yield
    for option in ("--symbol", "--timeframe"):
        try:
            _, unknown = parser.parse_known_and_unknown_args([f"{option}=X"])
        except pytest.UsageError:
            continue  # It is known, and takes no such value.
        if unknown:
            _add(parser, option)


def _add(parser: pytest.Parser, option: str) -> None:
    name, told = _OPTIONS[option]
    parser.getgroup("market data").addoption(option, dest=name, default=None, help=told)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Read and validate the data once, if any test asks for it."""
    asking = [item for item in items if "market_bars" in getattr(item, "fixturenames", ())]
    if not asking:
        return
    from agents_adapter import datasets
    from journal.errors import EventRejected

    asked = datasets.wanted(*(_configured(config, option) for option in _OPTIONS))
    try:
        bars = datasets.load(asked)
    except FileNotFoundError as error:
        bars, reason = None, str(error)
    except (EventRejected, OSError) as error:
        raise pytest.UsageError(f"market data: {error}") from error
    else:
        reason = f"no market data is named: give --data-dir, or set market_data in the ini file or {datasets.VARIABLE}"
    if bars is not None:
        config.stash[_BARS] = bars
    else:
        config.stash[_REASON] = reason


def pytest_report_collectionfinish(config: pytest.Config) -> list[str]:
    """Say which bars the tests get, and what should be known of them."""
    bars = config.stash.get(_BARS, None)
    return [] if bars is None else [f"market data: {bars}", *(f"market data: {note}" for note in bars.notes())]


@pytest.fixture(scope="session")
def market_bars(request: pytest.FixtureRequest) -> Bars:
    """The bars that configuration names; read-only, the same for all tests."""
    bars = request.config.stash.get(_BARS, None)
    if bars is None:
        pytest.skip(request.config.stash.get(_REASON, "market data was not asked for when the tests were collected"))
    return bars


def _configured(config: pytest.Config, option: str) -> str | None:
    ini, _ = _OPTIONS[option]
    given: Any = config.getoption(ini, None)
    if given:
        return str(given)
    default = str(config.getini(ini))
    if ini == "market_data" and default and config.inipath is not None:
        return os.path.join(config.inipath.parent, default)
    return default or None
