"""The plan: the fixed sequence of episodes that all compared agents see, and the hash that names it.

    plan = Plan.round_robin(bars, episode_bars=240, episodes=500, seed=7)
    plan = Plan.from_list([("EURUSD", "H1", 0, 240), ("EURUSD", "H1", 240, 480)], seed=7)
    plan.hash                           # hex SHA-256 of the canonical JSON: equal plans, equal hash
    plan.check({"EURUSD": bars})        # before training: every instrument and range is there
    plan.on(bars)                       # … and an episode that is shown other bars is refused

An entry's seed comes from the plan's root seed and the entry itself (what it shows, and for how many times already),
never from its place: adding or reordering other entries leaves it alone.
"""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, Self, overload

import numpy as np

from agents_adapter.bars import Bars
from agents_adapter.entry import PlanEntry, canonical
from journal.errors import EventRejected
from journal.events import check_count

Within = Mapping[tuple[str, str], tuple[int, int]]
"""Of each (instrument, timeframe) the bars [first, last) that episodes may cover; `agents_adapter.split` gives them."""
Source = Bars | Iterable[Bars] | Mapping[str, Bars | int]
"""Where instruments and lengths come from: bars, or numbers of bars by instrument (these need `timeframe=`)."""


class Plan(Sequence[PlanEntry]):
    """An immutable sequence of entries; `plan[i]` is an entry, `plan[a:b]` a plan.

    Entries are `PlanEntry`, or tuples or dicts of its fields. Raises `EventRejected`, naming the entry's number, where
    one is not valid or repeats another, and where there is none.
    """

    def __init__(self, entries: Iterable[PlanEntry | Mapping[str, Any] | Sequence[Any]]) -> None:
        self._entries = _built(entries)
        seen: dict[bytes, int] = {}
        for number, entry in enumerate(self._entries):
            first = seen.setdefault(canonical(entry.to_payload()), number)
            if first != number:
                raise EventRejected(
                    f"plan entry {number} repeats entry {first}: give it another seed or params, "
                    "or let Plan.from_list(…, seed=) give seeds"
                )

    @classmethod
    def from_list(
        cls, entries: Iterable[PlanEntry | Mapping[str, Any] | Sequence[Any]], *, seed: int | None = None
    ) -> Self:
        """The plan of these entries in this order; with a root `seed`, entries without a seed get one each."""
        built = _built(entries)
        return cls(built if seed is None else _seeded(built, seed))

    @classmethod
    def round_robin(
        cls,
        source: Source,
        episode_bars: int,
        episodes: int | None = None,
        *,
        timeframe: str | None = None,
        stride: int | None = None,
        seed: int | None = 0,
        params: dict[str, Any] | None = None,
        within: Within | None = None,
    ) -> Self:
        """Consecutive windows of `episode_bars` bars, one instrument after the other in turn.

        Windows start every `stride` bars (`episode_bars` if None). A pass shows each window once; `episodes` is the
        number of entries, over as many passes as it takes (one pass if None). Each entry gets a seed from the root
        `seed`; with None there are no seeds, and so only one pass.
        """
        series = _series(source, timeframe)
        _check_number(episodes, "episodes", optional=True)
        _check_number(stride, "stride", optional=True)
        step = stride or episode_bars
        turns = itertools.zip_longest(
            *(
                [
                    PlanEntry(*key, start, start + episode_bars, None, params)
                    for start in range(first, last - episode_bars + 1, step)
                ]
                for key, (first, last) in _ranges(series, episode_bars, within).items()
            )
        )
        one_pass = [entry for turn in turns for entry in turn if entry is not None]
        plan = cls.from_list(itertools.islice(itertools.cycle(one_pass), episodes or len(one_pass)), seed=seed)
        return plan._knowing(series)

    @classmethod
    def grid(
        cls,
        source: Source,
        episode_bars: int,
        *,
        seeds: Iterable[int | None] = (None,),
        params: Iterable[dict[str, Any] | None] = (None,),
        timeframe: str | None = None,
        stride: int | None = None,
        seed: int | None = None,
        within: Within | None = None,
    ) -> Self:
        """Each window of each instrument (as in `round_robin`) with each of `params` and each of `seeds`, in order.

        So costs, for example, are varied over the same bars. With a root `seed`, entries whose seed is None get one.
        """
        series = _series(source, timeframe)
        _check_number(stride, "stride", optional=True)
        chosen, varied = list(seeds), list(params)
        entries = [
            PlanEntry(*key, start, start + episode_bars, one_seed, one)
            for key, (first, last) in _ranges(series, episode_bars, within).items()
            for start in range(first, last - episode_bars + 1, stride or episode_bars)
            for one in varied
            for one_seed in chosen
        ]
        return cls.from_list(entries, seed=seed)._knowing(series)

    @classmethod
    def random(
        cls,
        source: Source,
        episode_bars: int,
        episodes: int,
        *,
        seed: int,
        timeframe: str | None = None,
        params: dict[str, Any] | None = None,
        within: Within | None = None,
    ) -> Self:
        """`episodes` windows at random: an instrument, then a start, each uniformly, from a generator of its own.

        The same `seed` gives the same plan; no global random state is read or changed.
        """
        series = _series(source, timeframe)
        _check_number(episodes, "episodes")
        check_count(seed, "seed")
        generator = np.random.default_rng(np.random.SeedSequence(seed))
        ranges = _ranges(series, episode_bars, within)
        keys = list(ranges)
        entries = []
        for _ in range(episodes):
            key = keys[int(generator.integers(len(keys)))]
            first, last = ranges[key]
            start = int(generator.integers(first, last - episode_bars + 1))
            entries.append(PlanEntry(*key, start, start + episode_bars, None, params))
        return cls.from_list(entries, seed=seed)._knowing(series)

    @classmethod
    def from_payload(cls, payload: Any) -> Self:
        """The plan that `to_payload` gave. Raises `EventRejected`."""
        if not isinstance(payload, list):
            raise EventRejected(f"a recorded plan is a list of entries, this is {payload!r:.60}")
        return cls(payload)

    def to_payload(self) -> list[dict[str, Any]]:
        """The entries as what msgpack and JSON hold, for `PlanRecorded.entries`."""
        return [entry.to_payload() for entry in self._entries]

    @cached_property
    def canonical(self) -> bytes:
        """The plan as canonical JSON: the content of its file where it is too large for an event."""
        return canonical(self.to_payload())

    @cached_property
    def hash(self) -> str:
        """Hex SHA-256 of `canonical`."""
        return hashlib.sha256(self.canonical).hexdigest()

    def on(self, bars: Bars | Iterable[Bars]) -> Self:
        """The same plan, each entry with the content of its bars: an episode that shows others is refused.

        So another version of the data makes another plan, which a resume refuses. Plans that are made from bars know
        them already. Raises `EventRejected` where the bars of an entry are not all there.
        """
        series = {(one.instrument, one.timeframe): one for one in ([bars] if isinstance(bars, Bars) else bars)}
        there = ", ".join(" ".join(key) for key in series) or "none"
        for number, entry in enumerate(self._entries):
            given = series.get((entry.instrument, entry.timeframe))
            if given is None:
                asked = f"{entry.instrument} {entry.timeframe}"
                raise EventRejected(f"plan entry {number}: no bars of {asked} among those given ({there}): add them")
            _check_range(number, entry, len(given))
        return self._knowing(series)

    def _knowing(self, series: Mapping[tuple[str, str], Bars | int]) -> Self:
        """With the contents of entries whose bars are there; each range is hashed once."""
        contents: dict[tuple[str, str, int, int], str] = {}
        entries = []
        for entry in self._entries:
            given = series[entry.instrument, entry.timeframe]
            if isinstance(given, Bars):
                key = (entry.instrument, entry.timeframe, entry.start, entry.stop)
                if key not in contents:
                    contents[key] = given.content_hash(entry.start, entry.stop).hex()
                entry = replace(entry, content=contents[key])
            entries.append(entry)
        return type(self)(entries)

    def check(self, bars: Mapping[str, Bars | int]) -> None:
        """Raises `EventRejected` where an entry's instrument is not among `bars`, or has not all of its bars."""
        for number, entry in enumerate(self._entries):
            given = bars.get(entry.instrument)
            if given is None:
                there = ", ".join(sorted(bars)) or "none"
                raise EventRejected(
                    f"plan entry {number}: instrument {entry.instrument!r} is absent from the bars given ({there}): "
                    "add its bars"
                )
            if isinstance(given, Bars) and given.timeframe != entry.timeframe:
                raise EventRejected(
                    f"plan entry {number}: {entry.instrument} is planned in {entry.timeframe}, its bars are "
                    f"{given.timeframe}: give bars of {entry.timeframe}"
                )
            _check_range(number, entry, given if isinstance(given, int) else len(given))

    @property
    def instruments(self) -> tuple[str, ...]:
        """The instruments shown, each once, in order of appearance."""
        return tuple(dict.fromkeys(entry.instrument for entry in self._entries))

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[PlanEntry]:
        return iter(self._entries)

    @overload
    def __getitem__(self, index: int) -> PlanEntry: ...
    @overload
    def __getitem__(self, index: slice) -> Self: ...
    def __getitem__(self, index: int | slice) -> PlanEntry | Self:
        return type(self)(self._entries[index]) if isinstance(index, slice) else self._entries[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plan) and self.hash == other.hash

    def __hash__(self) -> int:
        return hash(self.hash)

    def __repr__(self) -> str:
        return f"Plan({len(self)} episodes of {', '.join(self.instruments)[:60]}, {self.hash[:12]})"


def _built(entries: Any) -> tuple[PlanEntry, ...]:
    if isinstance(entries, (str, bytes, Mapping)) or not isinstance(entries, Iterable):
        raise EventRejected(f"a plan is a list of entries, this is {entries!r:.60}")
    built = tuple(_entry(number, given) for number, given in enumerate(entries))
    if not built:
        raise EventRejected("the plan is empty: give at least one entry")
    return built


def _entry(number: int, given: Any) -> PlanEntry:
    if isinstance(given, PlanEntry):
        return given
    try:
        if isinstance(given, Mapping):
            return PlanEntry(**given)
        if isinstance(given, Sequence) and not isinstance(given, (str, bytes)):
            return PlanEntry(*given)
        raise EventRejected(f"{given!r:.60} is no entry")
    except TypeError as error:
        reason = str(error).replace("PlanEntry.__init__()", "it").replace("__init__()", "it")
        raise EventRejected(f"plan entry {number}: {reason}: {_FIELDS}") from error
    except EventRejected as error:
        raise EventRejected(f"plan entry {number}: {error}") from error


_FIELDS = "give instrument, timeframe, start, stop, and if wanted seed, params"


def _seeded(entries: Iterable[PlanEntry], root: int) -> list[PlanEntry]:
    check_count(root, "seed")
    shown: Counter[bytes] = Counter()
    seeded = []
    for entry in entries:
        if entry.seed is None:
            content = hashlib.sha256(canonical(entry.to_payload())).digest()
            key = (*np.frombuffer(content, "<u4").tolist(), shown[content])
            shown[content] += 1
            # 32 bits, because np.random.seed and others take no more.
            entry = replace(entry, seed=int(np.random.SeedSequence(root, spawn_key=key).generate_state(1)[0]))
        seeded.append(entry)
    return seeded


def _check_range(number: int, entry: PlanEntry, length: int) -> None:
    if entry.stop > length:
        raise EventRejected(
            f"plan entry {number}: bars [{entry.start}, {entry.stop}) of {entry.instrument} {entry.timeframe} "
            f"lie outside its {length:,} bars: give more bars or another plan"
        )


def _series(source: Source, timeframe: str | None) -> dict[tuple[str, str], Bars | int]:
    """Bars, or numbers of bars, by (instrument, timeframe)."""
    series: dict[tuple[str, str], Bars | int] = {}
    listed: Iterable[tuple[str | None, Any]]
    if isinstance(source, Mapping):
        listed = source.items()
    else:
        listed = [(None, bars) for bars in ([source] if isinstance(source, Bars) else source)]
    for name, given in listed:
        if isinstance(given, Bars):
            key = (name or given.instrument, given.timeframe)
        else:
            check_count(given, f"the number of bars of {name!r:.60}")
            if timeframe is None:
                raise EventRejected(f"{name!r:.60} is given as a number of bars: add timeframe=")
            key = (str(name), timeframe)
        series[key] = given if isinstance(given, Bars) else int(given)
    if not series:
        raise EventRejected("the plan is empty: give bars of at least one instrument")
    return series


def _ranges(
    series: Mapping[tuple[str, str], Bars | int], episode_bars: int, within: Within | None
) -> dict[tuple[str, str], tuple[int, int]]:
    """Where episodes may lie: all bars of a series, or those within. Each range is at least one episode long."""
    _check_number(episode_bars, "episode_bars")
    ranges = {}
    for key, given in series.items():
        length = given if isinstance(given, int) else len(given)
        first, last = (0, length) if within is None else within.get(key, (0, 0))
        if not 0 <= first <= last <= length:
            raise EventRejected(f"within has bars {first} to {last} of {' '.join(key)}, which has 0 to {length:,}")
        if last - first < episode_bars:
            raise EventRejected(
                f"{key[0]} has {last - first:,} bars{' within' if within else ''}, an episode takes {episode_bars:,}: "
                "give more bars"
            )
        ranges[key] = (first, last)
    return ranges


def _check_number(number: int | None, what: str, *, optional: bool = False) -> None:
    if optional and number is None:
        return
    check_count(number, what)
    if number == 0:
        raise EventRejected(f"{what} is 0: it must be an integer of 1 or more")
