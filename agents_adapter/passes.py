"""A pass: one walk of an agent (or of a team's members, side by side) through a plan, or through a count.

A script walks its passes in the same order each time it is started; that order is how a resumed one finds its place:

    first start     pass 0: all of it       pass 1: up to entry 7, killed
    second start    pass 0: nothing         pass 1: from entry 7 on

A pass inside another one (an evaluation between two episodes) belongs to the outer one's current entry: it is walked
whole, each time that entry is, and no checkpoint lies in it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from journal.events import Phase

if TYPE_CHECKING:
    from agents_adapter.episode import Episode
    from agents_adapter.plan import Plan
    from agents_adapter.saver import Saver
    from agents_adapter.track import Track

Kind = Literal["train", "eval", "loop"]


@dataclass(slots=True)
class Pass:
    """What a checkpoint keeps of a pass."""

    who: str | None
    """The member that walks alone; None for all members (or the one agent)."""
    kind: Kind
    length: int
    plan_hash: str | None = None
    done: int = 0
    """Iterations carried out, of a loop; which of a plan's entries ended, the log knows."""
    left: bool = False
    """Over: walked to its end, or left early by the caller."""

    @property
    def phase(self) -> Phase:
        """In which its events count."""
        return "eval" if self.kind == "eval" else "train"

    def to_payload(self) -> dict[str, Any]:
        """Itself as plain data."""
        return asdict(self)

    @classmethod
    def from_payload(cls, payload: Any) -> Pass:
        """What `to_payload` gave. Raises `TypeError` or `ValueError` for anything else."""
        one = cls(**payload)
        types = [type(value) for value in (one.length, one.done, one.left)]
        texts = {type(value) for value in (one.who, one.plan_hash)} <= {str, type(None)}
        if types != [int, int, bool] or not texts or one.kind not in get_args(Kind):
            raise ValueError(f"{payload!r:.80} is no pass")
        return one


def walk(saver: Saver, tracks: Sequence[Track], plan: Plan, phase: Phase) -> Iterator[tuple[Episode, ...]]:
    """The episodes of the plan that are not finished, one for each track at a time.

    An episode that the loop's body left open is ended when the next one is asked for.
    """
    current = Pass(None if len(tracks) == len(saver.tracks) else tracks[0].name, phase, len(plan), plan.hash)
    walking = saver.begin(current, tracks, plan)
    begun, alone = walking.begun, tracks[0] if len(tracks) == 1 else None
    episodes: tuple[Episode, ...]
    try:
        for index, entry in enumerate(plan):
            if begun and walking.skips(index):
                continue
            position = walking.position(index)
            if alone is not None:
                episodes = (alone.start_episode(phase, entry=entry, index=index, position=position),)
            else:
                episodes = tuple(
                    track.start_episode(phase, entry=entry, index=index, position=position) for track in tracks
                )
            yield episodes
            for episode in episodes:
                if not episode.ended:
                    episode.end()
            saver.boundary()
        walking.whole = True
    finally:
        # Also when the caller breaks out. Nothing is recorded here: an exception may be on its way.
        saver.leave(walking)
    saver.boundary(last=True)


def count(saver: Saver, track: Track, iterations: int) -> Iterator[int]:
    """The numbers of the iterations that are not done, up to `iterations`."""
    current = Pass(None if len(saver.tracks) == 1 else track.name, "loop", iterations)
    walking = saver.begin(current, (track,), None)
    try:
        while walking.current.done < iterations and not walking.current.left:
            yield walking.current.done
            walking.current.done += 1
            saver.boundary(iteration=True)
        walking.whole = True
    finally:
        saver.leave(walking)
    saver.boundary(last=True)


@dataclass(slots=True)
class Walking:
    """A pass that is being walked."""

    current: Pass
    tracks: Sequence[Track]
    nested: bool
    first: int
    """Number of its first entry among all that these tracks have planned in this run and phase."""
    over: bool
    """It was over before this attempt."""
    whole: bool = False
    """It was walked to its end, not left by a break or an exception."""

    @property
    def begun(self) -> bool:
        """Did an earlier attempt do any of it? Only then there is anything to skip."""
        return not self.nested and (self.over or all(len(track.finished[self.current.phase]) for track in self.tracks))

    def skips(self, index: int) -> bool:
        """Need this entry not be done again?"""
        if self.nested:
            return False
        return self.over or all(self.first + index in track.finished[self.current.phase] for track in self.tracks)

    def position(self, index: int) -> int | None:
        """The entry's number in the log; None inside another pass, where it may come again."""
        return None if self.nested else self.first + index
