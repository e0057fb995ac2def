"""Wrapped environments: `track.wrap(env)` records what passes through reset and step, and changes nothing of it.

    reset    ends the episode that is open; a checkpoint may be saved here
    step     starts the next episode if it is the first after a reset; records the reward; ends the episode where
             terminated, truncated or done says so

Both kinds are understood: Gymnasium's five values (observation, reward, terminated, truncated, info) and the older
four (observation, reward, done, info). All other attributes are the environment's own. A reset that no step follows, as
at the end of many loops, is no episode. Inside `track.episodes(plan)` it is the plan that starts episodes; a `PlanEnv`
tells which of its plan's entries each episode is.

No checkpoint lies between a reset and its episode's end: what the reset drew, and the environment itself, could not be
brought back there.

The random generators of an environment travel in the checkpoints (`agents_adapter.environments`). Other state that it
carries from episode to episode does not: give it to `run.agent(state=…)`. Many sub-environments in one:
`agents_adapter.vector`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agents_adapter.plan_env import followed_by
from agents_adapter.proxy import Proxy, as_seed
from journal.errors import EventRejected
from journal.events import Phase

if TYPE_CHECKING:
    from agents_adapter.bars import Bars
    from agents_adapter.episode import Episode
    from agents_adapter.track import Track

Shown = Callable[..., Any]
"""Tells what an environment that chooses its own bars has shown in the episode that ends: given the environment (and,
of a vector environment, the number of the sub-environment), it returns Bars, or (DataFrame, instrument, timeframe)."""


class RecordedEnvironment(Proxy):
    """The environment, with its resets and steps recorded. Made by `track.wrap`."""

    def __init__(self, env: Any, track: Track, bars: Shown | None, phase: Phase) -> None:
        super().__init__(env)
        place = self.__dict__
        place["_journal_track"] = track
        place["_journal_key"] = phase, track.environments.add(env, phase)
        place["_journal_bars"] = bars
        place["_journal_plan"] = followed_by(env, track, phase)
        place["_journal_episode"] = None
        place["_journal_reset"] = None

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        """The environment's reset. Raises what the environment and saving raise, `JournalClosed`, `JournalFailed`."""
        place, track = self.__dict__, self._journal_track
        episode = self._open()
        track.before_reset([self._journal_key], [] if episode is None or not episode.steps else [episode])
        place["_journal_episode"] = place["_journal_reset"] = None
        result = self._journal_env.reset(*args, **kwargs)
        place["_journal_reset"] = kwargs
        track.resets.add(self._journal_key)
        return result

    def step(self, action: Any) -> Any:
        """The environment's step.

        Raises `EventRejected` before the environment moves where no reset came before it, and after it where the result
        or the reward is not one; `JournalClosed`, `JournalFailed`.
        """
        place = self.__dict__  # Read directly: a class with __getattr__ looks its attributes up slowly.
        episode: Episode | None = place["_journal_episode"]
        if episode is None or episode.ended:
            episode = self._begun()
        result = place["_journal_env"].step(action)
        values = len(result) if isinstance(result, (tuple, list)) else 0
        if values == 5:
            episode.step(result[1], result[2], result[3])
        elif values == 4:
            done, info = bool(result[2]), result[3]
            cut = done and isinstance(info, dict) and bool(info.get("TimeLimit.truncated", False))
            episode.step(result[1], done and not cut, cut)
        else:
            raise not_a_step(self._journal_env, result)
        return result

    def _begun(self) -> Episode:
        """The episode that the step after a reset belongs to; a new one outside a plan."""
        place, track = self.__dict__, self._journal_track
        episode = self._open()
        reset, follows = place["_journal_reset"], place["_journal_plan"]
        if follows is not None and track.planned is not None:
            raise EventRejected(
                f"{track.name}: a PlanEnv inside episodes() or evaluate(): either the loop walks a plan or PlanEnv does"
            )
        if episode is None and track.planned is None and reset is not None:
            phase, index = self._journal_key
            if follows is None:
                episode = track.start_episode(phase, env_index=index, seed=as_seed(reset.get("seed")))
            else:
                episode = track.start_followed(self._journal_key, follows, reset.get("seed"))
        place["_journal_reset"] = None
        track.resets.discard(self._journal_key)
        if episode is None:
            track.check_open()
            raise EventRejected(f"{track.name}: step() of an environment whose episode has ended: call reset() first")
        if self._journal_bars is not None:
            episode.shown = self._shown
        place["_journal_episode"] = episode
        return episode

    def _open(self) -> Episode | None:
        """The open episode that resets and steps belong to: the plan's, while one is walked."""
        planned = self._journal_track.planned
        opened: Episode | None = self._journal_track.open.get(self._journal_key if planned is None else (planned, 0))
        return opened

    def _shown(self) -> Bars:
        return as_bars(self._journal_bars(self._journal_env))

    def __repr__(self) -> str:
        return f"<recorded {self._journal_env!r}>"


def not_a_step(env: Any, result: Any) -> EventRejected:
    """What is raised for a step's result that is none."""
    found = f"{len(result)} values" if isinstance(result, (tuple, list)) else f"a {type(result).__name__}"
    return EventRejected(f"step() of {env!r:.80} returned {found}: 5 values (Gymnasium) or 4 are understood")


def as_bars(shown: Any) -> Bars:
    """What a `bars=` function returned, as bars."""
    from agents_adapter.bars import Bars

    return shown if isinstance(shown, Bars) else Bars.from_frame(*shown)
