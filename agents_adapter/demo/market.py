"""A small market to trade in: EURUSD hourly bars of 2017, the ones that the package gym-anytrading brings.

One episode is one window of bars, and nothing outside of it is ever shown: `Market` gets exactly the bars that the
training hands to `episode.observe`, so the recorded hash covers what the agent really saw.

Rewards are in percent of the account: position x log-return of the next bar, less the cost of changing position.
"""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from agents_adapter.bars import Bars

EPISODE_BARS: Final = 518
"""About a month: the year holds twelve such windows."""
SPANS: Final = (1, 2, 4, 8, 24)
"""The observation tells the return over each of these numbers of bars …"""
FEATURES: Final = len(SPANS) + 4
"""… then the hour as sine and cosine, the position held, and a constant 1."""
ACTIONS: Final = 3
"""Short, flat, long."""
COST_MEAN: Final = 0.004
"""Percent paid, on average, for a change of position by one: about half a pip."""

_DATA: Final = "datasets/data/FOREX_EURUSD_1H_ASK.csv"
_HOUR_NS: Final = 3_600_000_000_000


def load_bars() -> Bars:
    """The year: 6,225 bars, oldest first.

    Raises `ModuleNotFoundError`, saying what to install, where gym-anytrading is missing.
    """
    # The file is read where it lies: importing the package would bring gymnasium along, which takes a second.
    package = importlib.util.find_spec("gym_anytrading")
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            'the demo trades real bars of the package gym-anytrading: pip install "training-journal[demo]"'
        )
    return Bars.read(Path(package.submodule_search_locations[0]) / _DATA, "EURUSD", "H1")


class Market:
    """One episode of trading over `bars`; `seed` draws what each change of position costs, the same for every agent.

    The first decision is made at bar 24, when each span has been seen, the last at the last bar but one.
    """

    def __init__(self, bars: Bars, seed: int | None) -> None:
        close = np.log(bars.close)
        first, last = SPANS[-1], len(close) - 1
        returns = 100.0 * np.diff(close)
        spread = np.lib.stride_tricks.sliding_window_view(returns, first).std(axis=1)[: last - first] + 1e-9
        self._features = np.ones((last - first, FEATURES))
        for column, span in enumerate(SPANS):
            moved = 100.0 * (close[first:last] - close[first - span : last - span])
            self._features[:, column] = np.tanh(moved / (spread * math.sqrt(span)))
        hour = 2.0 * math.pi * (bars.time[first:last] // _HOUR_NS % 24) / 24.0
        self._features[:, -4] = np.sin(hour)
        self._features[:, -3] = np.cos(hour)
        self._next_return: list[float] = returns[first:last].tolist()
        self._cost: list[float] = np.random.default_rng(seed).exponential(COST_MEAN, last - first).tolist()
        self._bar = 0
        self._position = 0
        self.trades = 0

    def observe(self) -> NDArray[np.float64]:
        """What is seen now: float64[FEATURES], each of about -1 … 1; a new array."""
        seen: NDArray[np.float64] = self._features[self._bar].copy()
        seen[-2] = self._position
        return seen

    def step(self, action: int) -> tuple[NDArray[np.float64], float, bool]:
        """Hold the position `action` - 1 over the next bar: (what is seen then, the reward, was it the last?)."""
        position = action - 1
        reward = position * self._next_return[self._bar] - abs(position - self._position) * self._cost[self._bar]
        self.trades += position != self._position
        self._position = position
        done = self._bar + 1 == len(self._next_return)
        if not done:
            self._bar += 1
        return self.observe(), reward, done
