"""Wrapped environments: `track.wrap(env)` records what passes through reset and step, and changes nothing of it.

    reset    ends the episode that is open; a checkpoint may be saved here
    step     starts the next episode if it is the first after a reset; records the reward; ends the episode where
             terminated, truncated or done says so

Both kinds are understood: Gymnasium's five values (observation, reward, terminated, truncated, info) and the older
four (observation, reward, done, info). All other attributes are the environment's own. A reset that no step follows, as
at the end of many loops, is no episode. Inside `track.episodes(plan)` it is the plan that starts episodes.

No checkpoint lies between a reset and its episode's end: what the reset drew, and the environment itself, could not be
brought back there.

The random generators of an environment, of its wrappers and of its spaces are found as their attributes and travel in
the checkpoints. Other state that an environment carries from episode to episode does not: give it to
`run.agent(state=…)`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from agents_adapter import rng
from journal.errors import EventRejected, ResumeImpossible
from journal.events import Phase

if TYPE_CHECKING:
    from agents_adapter.bars import Bars
    from agents_adapter.episode import Episode
    from agents_adapter.track import Track

Shown = Callable[[Any], Any]
"""Tells what an environment that chooses its own bars has shown in the episode that ends: given the environment, it
returns Bars, or (DataFrame, instrument, timeframe)."""


class RecordedEnvironment:
    """The environment, with its resets and steps recorded. Made by `track.wrap`."""

    def __init__(self, env: Any, track: Track, bars: Shown | None, phase: Phase) -> None:
        if not callable(getattr(env, "reset", None)) or not callable(getattr(env, "step", None)):
            raise EventRejected(f"{env!r:.80} is no environment: it needs reset() and step()")
        if getattr(env, "num_envs", None) is not None:
            raise EventRejected(
                "a vector environment is not wrapped by track.wrap: wrap each environment, or give its rewards to "
                "run.log.rewards"
            )
        if bars is not None and not callable(bars):
            raise EventRejected("bars= is a function: given the environment, it returns the bars of the episode")
        place = self.__dict__  # Not by assignment, which goes to the environment.
        place["_recorded_env"] = env
        place["_recorded_track"] = track
        place["_recorded_phase"] = phase
        place["_recorded_index"] = track.environments.add(env, phase)
        place["_recorded_bars"] = bars
        place["_recorded_episode"] = None
        place["_recorded_reset"] = None

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        """The environment's reset. Raises what the environment and saving raise, `JournalClosed`, `JournalFailed`."""
        place, track = self.__dict__, self._recorded_track
        episode = self._open()
        if episode is not None and episode.steps:
            episode.end()
        if track.planned is None:
            track.between_episodes()
        place["_recorded_episode"] = place["_recorded_reset"] = None
        result = self._recorded_env.reset(*args, **kwargs)
        place["_recorded_reset"] = kwargs
        track.resets.add((self._recorded_phase, self._recorded_index))
        return result

    def step(self, action: Any) -> Any:
        """The environment's step.

        Raises `EventRejected` before the environment moves where no reset came before it, and after it where the result
        or the reward is not one; `JournalClosed`, `JournalFailed`.
        """
        episode: Episode | None = self._recorded_episode
        if episode is None or episode.ended:
            episode = self._begun()
        result = self._recorded_env.step(action)
        values = len(result) if isinstance(result, (tuple, list)) else 0
        if values == 5:
            episode.step(result[1], bool(result[2]), bool(result[3]))
        elif values == 4:
            done, info = bool(result[2]), result[3]
            cut = done and isinstance(info, dict) and bool(info.get("TimeLimit.truncated", False))
            episode.step(result[1], done and not cut, cut)
        else:
            raise EventRejected(
                f"step() of {self._recorded_env!r:.80} returned {values or type(result).__name__} values: "
                "5 (Gymnasium) or 4 are understood"
            )
        return result

    def _begun(self) -> Episode:
        """The episode that the step after a reset belongs to; a new one outside a plan."""
        place, track = self.__dict__, self._recorded_track
        episode = self._open()
        reset = place["_recorded_reset"]
        if episode is None and track.planned is None and reset is not None:
            phase, index = self._recorded_phase, self._recorded_index
            episode = track.start_episode(phase, env_index=index, seed=_seed(reset))
        place["_recorded_reset"] = None
        track.resets.discard((self._recorded_phase, self._recorded_index))
        if episode is None:
            track.check_open()
            raise EventRejected(f"{track.name}: step() of an environment whose episode has ended: call reset() first")
        if self._recorded_bars is not None:
            episode.shown = self._shown
        place["_recorded_episode"] = episode
        return episode

    def _open(self) -> Episode | None:
        """The open episode that resets and steps belong to: the plan's, while one is walked."""
        planned = self._recorded_track.planned
        key = (self._recorded_phase, self._recorded_index) if planned is None else (planned, 0)
        opened: Episode | None = self._recorded_track.open.get(key)
        return opened

    def _shown(self) -> Bars:
        from agents_adapter.bars import Bars

        shown = self._recorded_bars(self._recorded_env)
        return shown if isinstance(shown, Bars) else Bars.from_frame(*shown)

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The environment's: wrappers and checkers of a framework ask whether this is one of its environments."""
        return type(self.__dict__.get("_recorded_env", None))

    def __getattr__(self, name: str) -> Any:
        if "_recorded_env" not in self.__dict__:
            raise AttributeError(name)  # A copy that is being made.
        return getattr(self._recorded_env, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._recorded_env, name, value)

    def __enter__(self) -> RecordedEnvironment:
        return self

    def __exit__(self, *error: object) -> None:
        self._recorded_env.close()

    def __repr__(self) -> str:
        return f"<recorded {self._recorded_env!r}>"


class Environments:
    """The wrapped environments of a track, known by the order in which they were wrapped."""

    def __init__(self) -> None:
        self._wrapped: list[Any] = []
        self._phases: list[Phase] = []
        self._expected: list[dict[str, Any]] = []

    def add(self, env: Any, phase: Phase) -> int:
        """Take one more; its generators go on from the checkpoint, if that has them. Returns its env_index.

        One that is wrapped again stays what it was.
        """
        for number, (known, its_phase) in enumerate(zip(self._wrapped, self._phases, strict=True)):
            if known is env and its_phase == phase:
                return self._phases[:number].count(phase)
        index = self._phases.count(phase)
        number = len(self._wrapped)
        if number < len(self._expected):
            put_back(env, self._expected[number])
        self._wrapped.append(env)
        self._phases.append(phase)
        return index

    def capture(self) -> list[dict[str, Any]]:
        """The state of all their generators."""
        return [{path: rng.capture(found) for path, found in generators(env)} for env in self._wrapped]

    def expect(self, captured: list[dict[str, Any]]) -> None:
        """Set the generators back to `captured`; those of environments not wrapped yet, when they are."""
        self._expected = captured
        for env, saved in zip(self._wrapped, captured, strict=False):
            put_back(env, saved)


def generators(env: Any) -> Iterator[tuple[str, rng.Rng]]:
    """Path and generator, for each that is an attribute of the environment, of what it wraps, or of a space."""
    for path, part in _parts(env):
        for name, value in vars(part).items():
            if rng.is_rng(value):
                yield f"{path}.{name}", value


def put_back(env: Any, captured: dict[str, Any]) -> None:
    """Set the environment's generators back. Raises `ResumeImpossible` where it is built differently."""
    parts = dict(_parts(env))
    for path, saved in captured.items():
        owner, _, name = path.rpartition(".")
        if owner not in parts:
            raise ResumeImpossible(
                f"{env!r:.80} has no {owner}, in the checkpoint it has: wrap the same environments in the same order"
            )
        generator = vars(parts[owner]).get(name)
        if generator is None:
            # Gymnasium makes it at the first reset only.
            generator = _new(saved)
            setattr(parts[owner], name, generator)
        rng.restore(generator, saved, path)


def _new(saved: dict[str, Any]) -> rng.Rng:
    kind = str(saved.get("rng")).removeprefix("numpy ")
    if kind == "random.Random":
        return random.Random()
    bits = getattr(np.random, kind, None)
    if not isinstance(bits, type) or not issubclass(bits, np.random.BitGenerator):
        raise ResumeImpossible(f"the checkpoint holds a generator {kind!r:.40}, which cannot be made here")
    return np.random.Generator(bits())


def _parts(env: Any) -> Iterator[tuple[str, Any]]:
    """The environment, what it wraps, and all their spaces, each once, by path."""
    seen: set[int] = set()
    path, layer = "env", env
    while layer is not None and hasattr(layer, "__dict__") and id(layer) not in seen:
        seen.add(id(layer))
        yield path, layer
        for name in ("action_space", "observation_space"):
            yield from _spaces(f"{path}.{name}", vars(layer).get(name), seen)
        path, layer = f"{path}.env", vars(layer).get("env")


def _spaces(path: str, space: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if space is None or not hasattr(space, "__dict__") or id(space) in seen:
        return
    seen.add(id(space))
    yield path, space
    inner = vars(space).get("spaces")
    listed = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, (list, tuple)) else ()
    for key, part in listed:
        yield from _spaces(f"{path}.{key}", part, seen)


def _seed(arguments: dict[str, Any]) -> int | None:
    seed = arguments.get("seed")
    return int(seed) if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool) and seed >= 0 else None
