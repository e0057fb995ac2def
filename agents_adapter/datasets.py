"""Which market data: told by configuration, never by a path in the code. Files are found by symbol and timeframe.

    options, bars = datasets.parse(argparse.ArgumentParser())    # --data, --symbol, --timeframe
    bars = bars or datasets.random_walk(2_000, seed=1)           # where no data was named

The directory is `--data`, else the environment's `JOURNAL_DATA`. In it, files are named `SYMBOL_TIMEFRAME….csv` (.txt,
.tsv, .parquet), as MetaTrader exports them.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from agents_adapter.bars import Bars
from journal.errors import EventRejected

VARIABLE: Final = "JOURNAL_DATA"
"""The environment variable that names the directory (or file) where nothing else does."""
_SUFFIXES: Final = frozenset({".csv", ".txt", ".tsv", ".parquet"})
_LISTED: Final = 10
"""How many of the data sets that are there a message names."""


class Wanted(NamedTuple):
    """Which data set: a directory or a file, and what to look for in a directory (None: any)."""

    data: str | None
    symbol: str | None = None
    timeframe: str | None = None


def add_options(parser: argparse.ArgumentParser) -> None:
    """Give a command line `--data`, `--symbol` and `--timeframe`."""
    group = parser.add_argument_group("market data")
    group.add_argument("--data", metavar="DIR", help=f"directory or file of bars (default: ${VARIABLE})")
    group.add_argument("--symbol", help="whose bars, as the file's name begins: XAUUSD+")
    group.add_argument("--timeframe", help="how long a bar is, as the file's name goes on: H1")


def parse(
    parser: argparse.ArgumentParser, words: Sequence[str] | None = None
) -> tuple[argparse.Namespace, Bars | None]:
    """The options of a command line (the process's, if None), and the bars that they name, as `load` gives them.

    Where these are missing or not good, the program ends with a line that says so, exit code 2.
    """
    add_options(parser)
    options = parser.parse_args(words)
    try:
        return options, load(options)
    except (EventRejected, OSError) as error:
        parser.error(str(error))


def random_walk(count: int, seed: int) -> Bars:
    """`count` hourly bars of nothing: a random walk, named WALK, to try things on where no market data is named."""
    close = 1.1 * np.exp(np.cumsum(np.random.default_rng(seed).normal(scale=1e-3, size=count)))
    prices = np.column_stack([close, close * 1.001, close * 0.999, close, np.ones(count)])
    return Bars("WALK", "H1", np.arange(count, dtype=np.int64) * 3_600_000_000_000, prices)


def wanted(data: str | None = None, symbol: str | None = None, timeframe: str | None = None) -> Wanted:
    """What is asked for; an empty word is none, and the directory may come from the environment."""
    return Wanted(data or os.environ.get(VARIABLE) or None, symbol or None, timeframe or None)


def load(options: argparse.Namespace | Wanted) -> Bars | None:
    """The one data set that is asked for, validated; None where neither an option nor the environment names data.

    Raises `FileNotFoundError` where there is none, saying what is there; `EventRejected` where several fit or the
    content is not good (all findings at once); `OSError` where it cannot be read.
    """
    asked = options if isinstance(options, Wanted) else wanted(options.data, options.symbol, options.timeframe)
    if asked.data is None:
        if asked.symbol or asked.timeframe:
            raise EventRejected(f"a symbol or timeframe is named, but no data: give --data, or set {VARIABLE}")
        return None
    path = find(asked)
    return Bars.read(path, asked.symbol, asked.timeframe)


def find(asked: Wanted) -> Path:
    """The one file that fits. Raises `FileNotFoundError` where there is none, `EventRejected` where there are more."""
    place = Path(asked.data or ".")
    if place.is_file():
        return place
    if not place.is_dir():
        raise FileNotFoundError(f"{place}: no such file or directory: name the market data with --data or {VARIABLE}")
    there = list(_named(place))
    fits = [
        path
        for path, symbol, timeframe in there
        if asked.symbol in (None, symbol) and asked.timeframe in (None, timeframe)
    ]
    if len(fits) == 1:
        return fits[0]
    looked = " ".join(filter(None, (asked.symbol, asked.timeframe))) or "bars"
    if fits:
        raise EventRejected(
            f"{place}: {len(fits)} files hold {looked} ({_list(fits)}): name one with --symbol, --timeframe"
        )
    known = _list([path for path, _, _ in there]) or "no file named SYMBOL_TIMEFRAME….csv or .parquet"
    raise FileNotFoundError(f"{place}: no {looked} among what is there ({known})")


def _named(directory: Path) -> Iterator[tuple[Path, str, str]]:
    from agents_adapter import frames

    for path in sorted(directory.iterdir()):
        symbol, timeframe = frames.named_by(path.name)
        if path.suffix.lower() in _SUFFIXES and symbol and timeframe:
            yield path, symbol, timeframe


def _list(paths: list[Path]) -> str:
    names = [path.name for path in paths[:_LISTED]]
    return ", ".join(names) + (" …" if len(paths) > _LISTED else "")
