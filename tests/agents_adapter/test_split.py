"""Train and evaluation apart: by time over all timeframes of an instrument, by content whatever it is called."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents_adapter import Bars, Plan
from agents_adapter.split import UNCHECKED, check_apart, split
from journal.errors import EventRejected

HOUR = 3_600_000_000_000
DAY = timedelta(days=1)


def series(name: str = "GOLD", timeframe: str = "H1", length: int = 240, seed: int = 1, first: int = 0) -> Bars:
    step = {"H1": HOUR, "H4": 4 * HOUR, "odd": HOUR}[timeframe]
    close = 1.5 + np.cumsum(np.random.default_rng(seed).normal(scale=1e-3, size=length))
    prices = np.column_stack([close, close + 0.01, close - 0.01, close, np.ones(length)])
    return Bars(name, timeframe, first + np.arange(length, dtype=np.int64) * step, prices)


@settings(max_examples=60, deadline=None)
@given(
    at=st.floats(0.2, 0.65),
    lookback=st.integers(0, 12),
    embargo=st.integers(0, 20),
    timeframe=st.sampled_from(["H1", "odd"]),
    stride=st.integers(1, 9),
)
def test_plans_within_the_parts_share_nothing(
    at: float, lookback: int, embargo: int, timeframe: str, stride: int
) -> None:
    bars = [series("GOLD", timeframe), series("GOLD", "H4", 80, 2), series("OIL", timeframe, 300, 3)]
    apart = {"lookback": lookback, "embargo": timedelta(hours=embargo)}
    parts = split(bars, at, **apart)  # type: ignore[arg-type]
    train = Plan.round_robin(bars, 4, within=parts.train, stride=stride)
    evaluation = Plan.round_robin(bars, 4, within=parts.evaluation, stride=stride)
    said = check_apart(train, evaluation, bars, **apart)  # type: ignore[arg-type]
    assert said.startswith(f"{len(train):,} train and {len(evaluation):,} evaluation episodes share no time")
    assert said.endswith(UNCHECKED)


def test_the_parts_are_as_large_as_they_can_be() -> None:
    """One bar more on either side, and they touch."""
    bars = series(length=100)
    parts = split(bars, datetime(1970, 1, 3, tzinfo=UTC), lookback=3, embargo=timedelta(hours=2))
    key = ("GOLD", "H1")
    assert parts.train[key] == (0, 48) and parts.evaluation[key] == (53, 100)
    train, evaluation = Plan([(*key, 40, 48)]), Plan([(*key, 53, 60)])
    check_apart(train, evaluation, bars, lookback=3, embargo=timedelta(hours=2))
    for one, other in ((Plan([(*key, 40, 49)]), evaluation), (train, Plan([(*key, 52, 60)]))):
        with pytest.raises(EventRejected, match=r"train entry 0 \(GOLD H1.*share time, or are closer than the embargo"):
            check_apart(one, other, bars, lookback=3, embargo=timedelta(hours=2))


def test_time_is_shared_across_timeframes() -> None:
    hours, fours = series("GOLD", "H1"), series("GOLD", "H4", 60, 2)
    train, evaluation = Plan([("GOLD", "H1", 0, 42)]), Plan([("GOLD", "H4", 10, 20)])
    with pytest.raises(EventRejected, match=r"train entry 0 \(GOLD H1.*tion entry 0 \(H4, 1970-01-02T16:00:00 to"):
        check_apart(train, evaluation, [hours, fours])
    check_apart(Plan([("GOLD", "H1", 0, 40)]), evaluation, [hours, fours])
    check_apart(train, Plan([("OIL", "H4", 10, 20)]), [hours, series("OIL", "H4", 60, 2)])


def test_an_earlier_evaluation_is_apart_as_well() -> None:
    bars = series()
    check_apart(Plan([("GOLD", "H1", 100, 200)]), Plan([("GOLD", "H1", 0, 100)]), bars)
    with pytest.raises(EventRejected, match="share time"):
        check_apart(Plan([("GOLD", "H1", 100, 200)]), Plan([("GOLD", "H1", 0, 100)]), bars, lookback=1)
    with pytest.raises(EventRejected, match="share time"):
        check_apart(Plan([("GOLD", "H1", 0, 9), ("GOLD", "H1", 5, 60)]), Plan([("GOLD", "H1", 9, 12)]), bars)


def test_the_same_data_under_two_names_is_found() -> None:
    """A file that was copied: other symbol, the same bars."""
    gold, copy = series("GOLD"), series("XAU")
    with pytest.raises(EventRejected, match=r"bar 90 of XAU H1 \(1970-01-04T18.*, in evaluation, is bar 90 of GOLD"):
        check_apart(Plan([("GOLD", "H1", 0, 100)]), Plan([("XAU", "H1", 90, 120)]), [gold, copy])
    check_apart(Plan([("GOLD", "H1", 0, 100)]), Plan([("XAU", "H1", 100, 120)]), [gold, copy])
    with pytest.raises(EventRejected, match="the same data under two names"):
        check_apart(Plan([("GOLD", "H1", 0, 100)]), Plan([("XAU", "H1", 100, 120)]), [gold, copy], lookback=1)


def test_what_cannot_be_split_is_told() -> None:
    bars = series()
    for at, said in (
        (datetime(1960, 1, 1), "no bars left for train"),
        (datetime(2060, 1, 1, tzinfo=UTC), "no bars left for evaluation when it is cut at 2060-01-01T00:00:00"),
        (1.5, "at is 1.5: give a time, or a share"),
    ):
        with pytest.raises(EventRejected, match=said):
            split(bars, at)
    with pytest.raises(EventRejected, match="embargo is -1 day"):
        split(bars, 0.5, embargo=-DAY)
    with pytest.raises(EventRejected, match="no bars to split"):
        split([], 0.5)
    plan = Plan.round_robin(bars, 24)
    with pytest.raises(EventRejected, match="train plan was made from other bars of GOLD"):
        check_apart(plan, plan, series(seed=9))
    with pytest.raises(EventRejected, match="no bars of GOLD H1 among those given"):
        check_apart(plan, plan, series("OIL"))
