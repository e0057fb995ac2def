"""Counterparts: the episodes that count in two journals, each with the one that answers to it in the other.

    A  ── episodes ──▶ ┐
                       ├─▶ pairs, as soon as both are told; what waits at the end is in one of them only
    B  ── episodes ──▶ ┘

Read side by side, each journal once; of an episode's rewards nothing is held but their digest. Two episodes answer to
each other where run, agent, phase and number are the same. Runs are the same where their ids are; the others, those of
trainings that were started twice, in the order in which they began.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from journal.errors import CorruptJournal, JournalFailed
from journal.manifest import Manifest
from replay.divergence import Run, Windows, windows_of
from replay.episodes import Episode, Episodes
from replay.loading import Place, load, storage_of
from replay.progress import Progress
from replay.scan import scan
from replay.state import State
from replay.totals import Phase

Key = tuple[str | None, str, Phase, int]
"""What counterparts share: A's name of the run (a run that only B has keeps its own), agent, phase, number."""
Which = Literal["a", "b"]
DIGEST: int = 16
"""Bytes of what stands for an episode's rewards: two that differ are taken for equal once in 2^64 episodes or so."""


class Told(NamedTuple):
    """An episode that counts, and the digest of its rewards: equal where all their bits are (any NaN is any other)."""

    episode: Episode
    digest: bytes

    @property
    def ended(self) -> bool:
        """Did it end, or is it open (or was cut off, and nothing came after it)?"""
        return self.episode.reason is not None


class Side:
    """One of the two journals, as it is when this is made: what a training appends meanwhile is left out."""

    def __init__(self, place: Place) -> None:
        self.storage = storage_of(place)
        with self.naming():
            self.state = load(self.storage)
            self.kept = Manifest.read(self.storage).kept_from
            self.dropped = load(self.storage, self.kept - 1) if self.kept else State()
            """Its state where the history that was dropped ends."""
            self.windows = windows_of(self.storage, self.kept, self.state.events)

    def told(self) -> Iterator[tuple[int, list[Told]]]:
        """The episodes that count, in the order in which they ended, and up to which seq that was read."""
        telling = Counting(self.windows)
        with self.naming():
            for batch in scan(self.storage, since=self.kept, until=self.state.events):
                telling.take(batch)
                yield int(batch.seq[-1]) + 1, telling.fresh()
        telling.finish()
        yield self.state.events, telling.fresh()

    def rewards(self, seqs: Collection[int]) -> dict[int, Run]:
        """The episodes that began at these seqs, with their rewards."""
        kept = Kept(seqs)
        with self.naming():
            for batch in scan(self.storage, since=min(seqs), until=self.state.events):
                kept.take(batch)
                if kept.complete:
                    break
        return kept.found

    def was_dropped(self, key: Key) -> bool:
        """May the history that it dropped have held this episode (by the name that it has here), and does it count?"""
        run, name, phase, number = key
        agent = self.dropped.agents.get(name)
        if agent is None or not (run is None or run in self.dropped.runs):
            return False
        to_seq = self.windows.target_before(name, self.kept)
        if to_seq is not None:  # Of what was dropped, only what led to this checkpoint counts.
            lineages = [one.lineage for one in agent.checkpoints if one.seq == to_seq]
            return number < max((one.next_episode[phase] for one in lineages), default=0)
        open_ones = {episode.episode for (one, _), episode in agent.open.items() if one == phase}
        return number < agent.next_episode[phase] or number in open_ones

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors say which of the two journals is meant."""
        try:
            yield
        except CorruptJournal as error:
            path = f"{self.storage.name}/{error.path}"
            raise CorruptJournal(path, error.offset, error.seq, error.reason) from error
        except JournalFailed as error:
            if self.storage.name in str(error):
                raise
            raise type(error)(f"{self.storage.name}: {error}") from error


class Counting(Episodes):
    """Tells the episodes that count at the end: no rewind superseded them, and none was done again."""

    def __init__(self, windows: Windows) -> None:
        super().__init__()
        self._windows = windows
        self._hashes: dict[Episode, Any] = {}
        self._cut: dict[str, list[Told]] = {}
        """Agent → its last ones, where they were cut off: they count if it does nothing after them."""
        self._fresh: list[Told] = []

    def fresh(self) -> list[Told]:
        """What was told since this was called last."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def finish(self) -> None:
        """There is no more: what is open, or was cut off at the end, is told as far as it goes."""
        for episode in list(self.open.values()):
            self.closed(episode)
        self._fresh += [told for cut in self._cut.values() for told in cut]

    def opened(self, episode: Episode) -> None:
        """What was cut off before it counts no more."""
        self._cut.pop(episode.agent, None)
        self._hashes[episode] = hashlib.blake2b(digest_size=DIGEST)

    def rewarded(self, episode: Episode, values: NDArray[np.float64]) -> None:
        """More of it."""
        unknown = np.isnan(values)
        if unknown.any():
            values[unknown] = np.nan
        self._hashes[episode].update(values.tobytes())

    def closed(self, episode: Episode) -> None:
        """Tell it, if no rewind goes back to before its end."""
        told = Told(episode, self._hashes.pop(episode).digest())
        if not told.ended:
            self._cut.setdefault(episode.agent, []).append(told)
        elif not self._windows.hold(episode.agent, episode.end_seq):
            self._fresh.append(told)

    def rewound(self, agents: list[str], to_seq: int, seq: int) -> None:
        """What was cut off before counts no more."""
        for agent in agents:
            self._cut.pop(agent, None)


class Kept(Episodes):
    """Keeps the rewards of the episodes that began at some seqs."""

    def __init__(self, seqs: Collection[int]) -> None:
        super().__init__()
        self._seqs = frozenset(seqs)
        self._over = 0
        self.found: dict[int, Run] = {}
        """By the seq at which each began."""

    @property
    def complete(self) -> bool:
        """Are all of them over?"""
        return self._over == len(self._seqs)

    def opened(self, episode: Episode) -> None:
        """One of them?"""
        if episode.seq in self._seqs:
            self.found[episode.seq] = Run(episode)

    def rewarded(self, episode: Episode, values: NDArray[np.float64]) -> None:
        """More of it."""
        run = self.found.get(episode.seq)
        if run is not None:
            run.parts.append(values)

    def closed(self, episode: Episode) -> None:
        """One less to wait for."""
        self._over += episode.seq in self.found


@dataclass(frozen=True, slots=True)
class RunPairs:
    """Which runs of two journals are the same."""

    both: tuple[tuple[str, str], ...]
    """(A's id, B's id), in A's order."""
    only: Mapping[Which, tuple[str, ...]]
    """Ids of those that only one of them has."""

    @classmethod
    def of(cls, a: State, b: State) -> RunPairs:
        """By id; the others in the order in which they began."""
        same = {run: run for run in a.runs if run in b.runs}
        left, right = ([run for run in state.runs if run not in same] for state in (a, b))
        pairs = same | dict(zip(left, right, strict=False))
        shorter = min(len(left), len(right))
        return cls(
            tuple((run, pairs[run]) for run in a.runs if run in pairs),
            {"a": tuple(left[shorter:]), "b": tuple(right[shorter:])},
        )


class Pairing:
    """Finds the counterparts, reading the journal that is behind. Memory: what waits for its counterpart."""

    def __init__(self, a: Side, b: Side, runs: RunPairs) -> None:
        self.sides: dict[Which, Side] = {"a": a, "b": b}
        self._as_in_a = {theirs: mine for mine, theirs in runs.both}
        self._as_in_b = dict(runs.both)
        self._alone = frozenset((*runs.only["a"], *runs.only["b"]))

    def read(
        self, pair: Callable[[Told, Told], object], alone: Callable[[Which, Key, Told], object], progress: Progress
    ) -> None:
        """Call `pair` for each two episodes that answer to each other, `alone` for what only one journal has.

        Where a number occurs several times, the first answers to the first, and so on. Raises as `replay.load` does.
        """
        waiting: dict[Key, list[Told]] = {}
        whose: dict[Key, Which] = {}
        reading: dict[Which, Iterator[tuple[int, list[Told]]]] = {w: side.told() for w, side in self.sides.items()}
        totals = {which: max(1, side.state.events) for which, side in self.sides.items()}
        reached: dict[Which, int] = dict.fromkeys(reading, 0)
        while reading:
            which = min(reading, key=lambda one: reached[one] / totals[one])
            step = next(reading[which], None)
            if step is None:
                del reading[which]
                continue
            reached[which], fresh = step
            progress(sum(reached.values()), sum(totals.values()))
            for told in fresh:
                key = self._key(which, told.episode)
                if key in waiting and whose[key] != which:
                    theirs = waiting[key].pop(0)
                    if not waiting[key]:
                        del waiting[key], whose[key]
                    pair(*((told, theirs) if which == "a" else (theirs, told)))
                elif self._will_answer(which, key, reading):
                    waiting.setdefault(key, []).append(told)
                    whose[key] = which
                else:
                    alone(which, key, told)
        for key, left in waiting.items():
            for told in left:
                alone(whose[key], key, told)

    def dropped(self, which: Which, key: Key) -> bool:
        """Did this journal's dropped history hold an episode that answers to this key?"""
        run, agent, phase, number = key
        if which == "b" and run is not None:
            run = self._as_in_b.get(run, run)
        return self.sides[which].was_dropped((run, agent, phase, number))

    def _key(self, which: Which, episode: Episode) -> Key:
        run, agent, phase, number = episode.name
        if which == "b" and run is not None:
            run = self._as_in_a.get(run, run)
        return run, agent, phase, number

    def _will_answer(self, which: Which, key: Key, reading: Collection[Which]) -> bool:
        other: Which = "b" if which == "a" else "a"
        return other in reading and key[0] not in self._alone and key[1] in self.sides[other].state.agents
