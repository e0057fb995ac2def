"""An episode as the loop sees it: what the plan asks for, and the calls that record what happened."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from msgpack import Packer

from journal.cell import EVAL
from journal.episodes import Fact, fact
from journal.errors import EventRejected
from journal.events import BarsSeen, EpisodeEnded, EpisodeStarted, Phase, pack
from journal.rewarding import Steps
from replay.seen import SeenBars

if TYPE_CHECKING:
    from agents_adapter.bars import Bars
    from agents_adapter.entry import PlanEntry
    from agents_adapter.track import Track

Told = tuple[str, str, int, int, bytes | None, Literal["observed", "declared"], float | None, bytes | None]
"""The fields of a BarsSeen, but for which episode saw them."""


class Episode(Steps):
    """One episode of one agent in one environment. Made by `track.episodes`, `track.evaluate` and `track.wrap`."""

    __slots__ = (
        "_bars_told",
        "_seen",
        "_track",
        "ended",
        "entry",
        "heard",
        "index",
        "phase",
        "position",
        "seed",
        "shown",
    )

    def __init__(
        self,
        track: Track,
        number: int,
        phase: Phase,
        env_index: int = 0,
        entry: PlanEntry | None = None,
        index: int | None = None,
        position: int | None = None,
        seed: int | None = None,
    ) -> None:
        """Nothing is recorded yet; `position` is the number of the entry among all that the run has planned."""
        Steps.__init__(self, track.recorder.reward, track.number, number, env_index, EVAL if phase == "eval" else 0)
        self._track = track
        self._bars_told = entry is None
        self.phase: Phase = phase
        self.index = index
        """Place in the plan that is walked; None without a plan."""
        self.entry = entry
        self.position = position
        self.seed = seed if entry is None else entry.seed
        self._seen: list[Told] = []
        self.ended = False
        self.shown: Callable[[], Bars] | None = None
        """Asked at the end for the bars to observe, where an environment chose them."""
        self.heard: Callable[[float], object] | None = None
        """Who listens."""

    def begin(self) -> None:
        """Record EpisodeStarted."""
        recorder, entry = self._track.recorder, self.entry
        params = None if entry is None else entry.params
        told = _started(self.seed, self.position) if params is None else _varied(self.seed, self.position, params)
        recorder.episode(told, self._agent, self._flags, self.number, self.env_index)
        self.straight(recorder.straight)

    @property
    def bars(self) -> list[SeenBars]:
        """What it was recorded to have seen."""
        return [SeenBars(self.number, self.position, *told) for told in self._seen]

    @property
    def start(self) -> int:
        """First bar of the episode."""
        return self._planned().start

    @property
    def stop(self) -> int:
        """The bar after its last one."""
        return self._planned().stop

    @property
    def instrument(self) -> str:
        """Whose bars."""
        return self._planned().instrument

    @property
    def timeframe(self) -> str:
        """How long a bar is."""
        return self._planned().timeframe

    @property
    def params(self) -> dict[str, Any]:
        """The plan's parameters of this episode; empty where it has none."""
        return dict(self.entry.params or {}) if self.entry is not None else {}

    def listen(self, heard: Callable[[float], object]) -> None:
        """Tell `heard` each reward from now on, once it is recorded."""
        record, self.heard = self._record, heard

        def tell(agent: int, number: int, step: int, reward: float, env_index: int, flags: int) -> None:
            record(agent, number, step, reward, env_index, flags)
            heard(reward)

        self._record = tell
        self.straight(None)

    def observe(self, bars: Bars, start: int | None = None) -> None:
        """Record that the environment showed exactly these bars, by their content.

        `start` is the place of the first one in its series: the plan's where the episode has one, else 0. Give it where
        more was shown than the plan says, such as a look-back. Bars that are not the plan's raise `EventRejected`, at
        once (`PlanEntry.deviation`), or warn where the walk was begun with `other_bars="warn"`. `EventRejected` also
        after the episode's end.
        """
        if self.ended:
            self._track.refuse(self._agent, self.number)
        entry = self.entry
        if entry is not None:
            wrong = entry.deviation(bars, start)
            if wrong is not None:
                self._track.deviates(f"episode {self.number} of {self._track.name} {wrong}")
            elif start is None:
                start = entry.start
        self._saw(bars, start or 0)

    def end(self, reason: str = "completed", **metrics: Any) -> None:
        """Record the end, with what the caller measured (pnl, trades, drawdown, …: numbers or text).

        Raises `EventRejected` where it has ended already, or a metric cannot be recorded; then it is still open.
        """
        if self.ended:
            self._track.refuse(self._agent, self.number)
        # Before anything is recorded: can it be?
        usual = type(reason) is str and not metrics and reason in _ENDED
        told = _ENDED[reason] if usual else _ended(reason, metrics)
        if self.shown is not None:
            self.observe(self.shown())
            self.shown = None
        seen: Fact | None = None
        declared: Told | None = None
        entry = self.entry
        if not self._bars_told and entry is not None:
            declared = (entry.instrument, entry.timeframe, entry.start, entry.stop, None, "declared", None, None)
            seen = _saw(declared)
        self._track.recorder.episode(told, self._agent, self._flags, self.number, self.env_index, seen)
        if declared is not None:
            self._told(declared)
        self.over(self._track.refuse)
        self.ended = True
        self._track.ended((self,))

    @property
    def simple(self) -> bool:
        """Is nothing to be recorded at its end but the end?"""
        return self._bars_told and self.shown is None

    def _saw(self, bars: Bars, start: int) -> None:
        """They were observed."""
        tolerance = self._track.tolerance
        quantised = None if tolerance is None else bars.quantised_hash(tolerance)
        stop, content = start + len(bars), bars.content_hash()
        told: Told = (bars.instrument, bars.timeframe, start, stop, content, "observed", tolerance, quantised)
        seen = _saw(told)
        self._track.recorder.alike(seen.like, seen.payload, self._agent, self._flags, ((self.number, self.env_index),))
        self._told(told)

    def _told(self, told: Told) -> None:
        """The log has it that the episode saw these."""
        self._seen.append(told)
        self._bars_told = True

    def _planned(self) -> PlanEntry:
        if self.entry is None:
            raise AttributeError(f"episode {self.number} of {self._track.name} follows no plan: it has no bar range")
        return self.entry

    def __repr__(self) -> str:
        return f"<Episode {self.number} of {self._track.name}, {self.phase}, {self.steps} steps>"


def begin(episodes: Sequence[Episode]) -> None:
    """Record the starts of episodes of one agent and phase, of which none has seed or plan, all or none."""
    first = episodes[0]
    places = [(one.number, one.env_index) for one in episodes]
    first._track.recorder.alike(_STARTED, b"", first._agent, first._flags, places)


def end(episodes: Sequence[Episode], reason: Literal["terminated", "truncated"]) -> None:
    """Record the ends of `simple` episodes of one agent and phase, all or none."""
    first = episodes[0]
    places = [(one.number, one.env_index) for one in episodes]
    told = _ENDED[reason]
    first._track.recorder.alike(told.like, told.payload, first._agent, first._flags, places)
    track = first._track
    for one in episodes:
        one.over(track.refuse)
        one.ended = True
    track.ended(episodes)


def _started(seed: int | None, entry: int | None) -> Fact:
    """The start of an episode, but for which. Its payload as `payload_of` has it, quicker."""
    if entry is not None and seed is not None and 0 <= seed <= _SEED_MAX:
        return fact(_STARTED, _pack_plain({"seed": seed, "entry": entry}))
    content = {name: value for name, value in (("seed", seed), ("entry", entry)) if value is not None}
    return fact(_STARTED, pack(content, "EpisodeStarted") if content else b"")


def _varied(seed: int | None, entry: int | None, params: dict[str, Any]) -> Fact:
    """The same, with the plan's parameters."""
    return fact(EpisodeStarted(agent=_ANY, episode=0, seed=seed, entry=entry, params=params))


@lru_cache(maxsize=1024)
def _saw(told: Told) -> Fact:
    """The bars that an episode saw, but for which episode. Plans show the same ones again."""
    instrument, timeframe, start, stop, content_hash, source, tolerance, quantised_hash = told
    like = BarsSeen(
        agent=_ANY,
        episode=0,
        instrument=instrument,
        timeframe=timeframe,
        start=start,
        stop=stop,
        content_hash=content_hash,
        source=source,
        tolerance=tolerance,
        quantised_hash=quantised_hash,
    )
    return fact(like)


def _ended(reason: str, metrics: dict[str, Any]) -> Fact:
    """The end of an episode, but for which."""
    if not reason or type(reason) is not str:
        raise EventRejected(f"reason is {reason!r:.80}: give a word, such as 'completed'")
    return fact(EpisodeEnded(agent=_ANY, episode=0, reason=reason, metrics=metrics or None))


_ANY = "-"
"""Stands for an agent's name in an event of which only what it has in common with others is used."""
_SEED_MAX = (1 << 64) - 1
_pack_plain: Callable[[dict[str, int]], bytes] = Packer().pack
"""Of integers only: with them no other thread comes in between."""
_STARTED = EpisodeStarted(agent=_ANY, episode=0)
_ENDED = {reason: _ended(reason, {}) for reason in ("terminated", "truncated", "completed")}
