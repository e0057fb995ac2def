"""Train and evaluation apart: no time of an instrument in both, in any timeframe, and no bar under another name.

    parts = split(bars, at=0.8, lookback=24, embargo=timedelta(days=1))      # bars: one or several series
    train = Plan.round_robin(bars, 240, within=parts.train)
    evaluation = Plan.round_robin(bars, 240, within=parts.evaluation)
    print(check_apart(train, evaluation, bars, lookback=24, embargo=timedelta(days=1)))

`lookback` is how many bars before an episode's first one its observations show; `embargo` the time between the parts,
for what lasts longer than a bar (a position that is held, an indicator's memory).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agents_adapter.bars import Bars
from agents_adapter.entry import PlanEntry
from agents_adapter.plan import Plan
from agents_adapter.validation import Times, length_of, when_of
from journal.errors import EventRejected
from journal.events import check_count

Series = tuple[str, str]
"""(instrument, timeframe)."""
UNCHECKED: Final = "what was fitted to the data (scalers, features, choices made by looking) is not checked"


@dataclass(frozen=True, slots=True)
class Split:
    """Of each series the bars that episodes may cover, [first, last): `within=` of the plans' constructors."""

    at: datetime
    """The first moment that is not train's."""
    train: Mapping[Series, tuple[int, int]]
    evaluation: Mapping[Series, tuple[int, int]]


class _Shown(NamedTuple):
    """What an episode shows: time [begin, end) in nanoseconds, look-back included."""

    begin: int
    end: int
    timeframe: str
    number: int


def split(
    bars: Bars | Iterable[Bars], at: float | datetime, *, lookback: int = 0, embargo: timedelta = timedelta(0)
) -> Split:
    """Cut all series at one moment: `at`, or after that share (0 to 1) of the longest series' bars; naive is UTC.

    Train's bars have ended by then; evaluation's begin when the embargo is over and the look-back is filled. Raises
    `EventRejected` where a series has no bars on either side.
    """
    series = _listed(bars)
    check_count(lookback, "lookback")
    pause = _nanoseconds(embargo)
    if isinstance(at, datetime):
        moment = round((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp() * 1e6) * 1000
    elif 0 < at < 1:
        longest = max(series, key=len)
        moment = int(longest.time[int(len(longest) * at)])
    else:
        raise EventRejected(f"at is {at!r:.60}: give a time, or a share between 0 and 1")
    train, evaluation = {}, {}
    for one in series:
        key = (one.instrument, one.timeframe)
        train[key] = (0, int(np.searchsorted(_ends(one), moment, side="right")))
        evaluation[key] = (int(np.searchsorted(one.time, moment + pause)) + lookback, len(one))
        for part, (first, last) in (("train", train[key]), ("evaluation", evaluation[key])):
            if first >= last:
                raise EventRejected(
                    f"{one.instrument} {one.timeframe} has no bars left for {part} when it is cut at "
                    f"{when_of(np.int64(moment))}: cut elsewhere, or give more bars"
                )
    return Split(datetime.fromtimestamp(moment / 1e9, UTC), train, evaluation)


def check_apart(
    train: Plan,
    evaluation: Plan,
    bars: Bars | Iterable[Bars],
    *,
    lookback: int = 0,
    embargo: timedelta = timedelta(0),
) -> str:
    """What holds between two plans on these bars, in a sentence; raises `EventRejected` for the first thing they share.

    Asked are times, by instrument over all its timeframes, each episode with its look-back and both sides kept apart by
    the embargo; and content: no bar (time and prices) of one is one of the other, whatever it is called there. The same
    market under another name *and* in another timeframe is not recognised.
    """
    series = _listed(bars)
    check_count(lookback, "lookback")
    pause = _nanoseconds(embargo)
    known = {(one.instrument, one.timeframe): one for one in series}
    sides = [_shown(plan, known, lookback, name) for plan, name in ((train, "train"), (evaluation, "evaluation"))]
    for instrument in sides[0].keys() & sides[1].keys():
        _refuse_overlap(instrument, sides[0][instrument], sides[1][instrument], pause)
    _refuse_content(train, evaluation, known, lookback)
    return (
        f"{len(train):,} train and {len(evaluation):,} evaluation episodes share no time of an instrument and no bar "
        f"(look-back {lookback} bars, embargo {embargo}); {UNCHECKED}"
    )


def _shown(plan: Plan, known: Mapping[Series, Bars], lookback: int, name: str) -> dict[str, list[_Shown]]:
    shown = defaultdict(list)
    ends = {key: _ends(one) for key, one in known.items()}
    for number, (entry, one) in enumerate(_bars_of(plan, known, name)):
        begin = int(one.time[max(0, entry.start - lookback)])
        end = int(ends[entry.instrument, entry.timeframe][entry.stop - 1])
        shown[entry.instrument].append(_Shown(begin, end, entry.timeframe, number))
    return shown


def _bars_of(plan: Plan, known: Mapping[Series, Bars], name: str) -> Iterator[tuple[PlanEntry, Bars]]:
    plan.on(known.values())  # Are all of them there?
    for entry in plan:
        one = known[entry.instrument, entry.timeframe]
        if entry.content is not None and entry.content != one.content_hash(entry.start, entry.stop).hex():
            raise EventRejected(
                f"the {name} plan was made from other bars of {entry.instrument} than these: give those"
            )
        yield entry, one


def _refuse_overlap(instrument: str, train: list[_Shown], evaluation: list[_Shown], pause: int) -> None:
    """Both in order of time, one pass: the furthest end so far of either side against the next beginning."""
    furthest: dict[bool, _Shown] = {}
    for one, is_train in sorted([*((one, True) for one in train), *((one, False) for one in evaluation)]):
        other = furthest.get(not is_train)
        if other is not None and one.begin < other.end + pause:
            first, second = (one, other) if is_train else (other, one)
            raise EventRejected(
                f"train entry {first.number} ({instrument} {first.timeframe}, {_range(first)}) and evaluation entry "
                f"{second.number} ({second.timeframe}, {_range(second)}) share time, or are closer than the embargo: "
                "make both plans within the parts that split() gives"
            )
        if is_train not in furthest or furthest[is_train].end < one.end:
            furthest[is_train] = one


def _refuse_content(train: Plan, evaluation: Plan, known: Mapping[Series, Bars], lookback: int) -> None:
    seen = _rows(train, known, lookback)
    for row, (key, index) in _rows(evaluation, known, lookback).items():
        if row in seen:
            other, at = seen[row]
            raise EventRejected(
                f"bar {index} of {' '.join(key)} ({when_of(known[key].time[index])}), in evaluation, is bar {at} of "
                f"{' '.join(other)}, in train: the same data under two names; leave one of them out"
            )


def _rows(plan: Plan, known: Mapping[Series, Bars], lookback: int) -> dict[bytes, tuple[Series, int]]:
    """Each bar that a plan shows, by its time and prices: whose it is, and its number there."""
    shown: dict[Series, NDArray[np.bool_]] = {}
    for entry in plan:
        key = (entry.instrument, entry.timeframe)
        marked = shown.setdefault(key, np.zeros(len(known[key]), dtype=np.bool_))
        marked[max(0, entry.start - lookback) : entry.stop] = True
    rows: dict[bytes, tuple[Series, int]] = {}
    for key, marked in shown.items():
        indices = np.flatnonzero(marked)
        times = known[key].time[indices, None].view(np.float64)
        content = np.hstack([times, known[key].ohlcv[indices, :4]]).tobytes()
        width = len(content) // len(indices)
        for number, index in enumerate(indices.tolist()):
            rows[content[number * width : (number + 1) * width]] = (key, index)
    return rows


def _listed(bars: Bars | Iterable[Bars]) -> list[Bars]:
    series = [bars] if isinstance(bars, Bars) else list(bars)
    if not series:
        raise EventRejected("there are no bars to split: give at least one series")
    return series


def _ends(bars: Bars) -> Times:
    """When each bar is over: one bar's length after its time, or at the next one's where no length is known."""
    length = length_of(bars.timeframe)
    if length is not None:
        return bars.time + np.int64(length.most)
    step = int(np.median(np.diff(bars.time))) if len(bars) > 1 else 0
    return np.append(bars.time[1:], bars.time[-1] + np.int64(step))


def _nanoseconds(embargo: timedelta) -> int:
    if embargo < timedelta(0):
        raise EventRejected(f"embargo is {embargo}: give a time of 0 or more")
    return embargo // timedelta(microseconds=1) * 1000


def _range(shown: _Shown) -> str:
    return f"{when_of(np.int64(shown.begin))} to {when_of(np.int64(shown.end))}"
