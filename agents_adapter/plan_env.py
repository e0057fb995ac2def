"""PlanEnv: an environment whose resets follow a plan, for frameworks that own the loop.

    env = track.wrap(PlanEnv(env, plan))           # then the episodes are recorded as the plan's
    framework.learn(env)                           # reset() → env.reset(seed=entry.seed, options={"start": …, …})

A reset shows the next entry where a step was taken since the last one; a framework that resets twice shows the same
entry. Behind the last entry the plan begins anew, as a second walk through it would; `plan_over` tells it.

Recorded, it goes on where the journal ends. Side by side, environment i of n takes the entries i, i + n, i + 2n, … of
the plan, whichever is quicker: `PlanEnv(env, plan, part=(i, n))`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from agents_adapter.entry import PlanEntry
from agents_adapter.environments import parts
from agents_adapter.plan import Plan
from agents_adapter.proxy import Proxy
from journal.errors import EventRejected
from journal.events import check_count

if TYPE_CHECKING:
    from agents_adapter.track import AnyPlan, Track
    from replay.intervals import Intervals

How = Callable[[Any, PlanEntry], Any]
"""Resets an environment that does it in its own way: `lambda env, entry: env.reset(start_bar=entry.start)`."""


class PlanEnv(Proxy):
    """`env`, whose resets take the seed and the options of the plan's entries.

    Options are `instrument`, `timeframe`, `start`, `stop`, and the entry's params under their own names; a caller's
    other options stay, and its seed holds where the entry has none. `how` resets an environment that does not take
    `seed` and `options`. Raises `EventRejected` for what is no environment, no plan or no part of it.
    """

    def __init__(self, env: Any, plan: AnyPlan, *, part: tuple[int, int] = (0, 1), how: How | None = None) -> None:
        super().__init__(env)
        given = plan if isinstance(plan, Plan) else Plan(plan)
        try:
            first, of = part
        except (TypeError, ValueError):
            raise EventRejected(f"part is {part!r:.60}: give (i, n), environment i of n") from None
        for name, number in (("part[0]", first), ("part[1]", of)):
            check_count(number, name)
        if not first < of <= len(given):
            raise EventRejected(
                f"part is ({first}, {of}) of a plan of {len(given)} entries: i is below n, n at most the plan's length"
            )
        place = self.__dict__
        place["_journal_plan"] = given
        place["_journal_every"] = int(of)
        place["_journal_how"] = how
        place["_journal_position"] = int(first)
        place["_journal_stepped"] = False

    def reset(self, *, seed: int | None = None, options: Mapping[str, Any] | None = None) -> Any:
        """The environment's reset, for the next entry; the same one again where no step was taken since."""
        place = self.__dict__
        if place["_journal_stepped"]:
            place["_journal_position"] += place["_journal_every"]
            place["_journal_stepped"] = False
        entry, how = self.plan_entry, place["_journal_how"]
        if how is not None:
            return how(self._journal_env, entry)
        told = {
            **(options or {}),
            **(entry.params or {}),
            "instrument": entry.instrument,
            "timeframe": entry.timeframe,
            "start": entry.start,
            "stop": entry.stop,
        }
        return self._journal_env.reset(seed=seed if entry.seed is None else entry.seed, options=told)

    def step(self, action: Any) -> Any:
        """The environment's step."""
        self.__dict__["_journal_stepped"] = True
        return self._journal_env.step(action)

    @property
    def plan(self) -> Plan:
        """The plan that is followed."""
        found: Plan = self.__dict__["_journal_plan"]
        return found

    @property
    def plan_position(self) -> int:
        """The number of the current entry, counted on over every walk through the plan."""
        position: int = self.__dict__["_journal_position"]
        return position

    @property
    def plan_entry(self) -> PlanEntry:
        """What the last reset showed, or the first will show."""
        return self.plan[self.plan_position % len(self.plan)]

    @property
    def plan_over(self) -> bool:
        """Has the plan begun anew?"""
        return self.plan_position >= len(self.plan)

    def go_on(self, finished: Intervals) -> None:
        """Go on with the first entry of this part whose number is not among the `finished` ones."""
        place = self.__dict__
        while place["_journal_position"] in finished:
            place["_journal_position"] += place["_journal_every"]

    def __repr__(self) -> str:
        return f"<PlanEnv of {self._journal_env!r}>"


def followed_by(env: Any, track: Track, phase: Any) -> PlanEnv | None:
    """The PlanEnv in `env`, if there is one, set to where the run goes on. Raises `ResumeImpossible`, `EventRejected`.

    The plan is recorded, as one that is walked.
    """
    for _, part in parts(env):
        if isinstance(part, PlanEnv):
            track.saver.follow(track, part.plan, phase)
            part.go_on(track.finished[phase])
            return part
    return None
