"""Vector environments: many sub-environments that step together, each an env_index with episodes of its own.

    step     one append, in which are the starts of the episodes that it begins, one batch of rewards for the
             sub-environments that moved, and the ends of those whose episodes are over
    after an end, by the environment's autoreset mode:
        next step   the next step is that sub-environment's reset: its action, its reward are none, nothing is recorded
        same step   it was reset within the step: the next one starts its next episode
        disabled    it is to be reset by the caller: reset(options={"reset_mask": …}), or all together

The mode is what Gymnasium tells in `env.metadata["autoreset_mode"]`; where nothing is told it is next step, as
Gymnasium has it, and same step where a step returns the four values of Stable-Baselines3's vector environments.

Most sub-environments need no `Episode` of their own: a number and its steps, in arrays, are all that is recorded of
them. One is made where there is more to tell (a seed, a plan, bars, somebody who listens), or where one is asked for.

Once reset, a vector environment is always in the middle of some episode: a checkpoint lies only where all of it is
reset. So a training resumes exactly where each iteration of `track.loop` begins with `env.reset()`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from agents_adapter.environments import sub_environments
from agents_adapter.episode import Episode, end
from agents_adapter.plan_env import followed_by
from agents_adapter.proxy import Proxy, as_seed
from agents_adapter.wrap import Shown, as_bars, not_a_step
from journal.batch import CONSECUTIVE, COUNT_MAX, FLOAT64, LISTED, as_values
from journal.cell import EVAL
from journal.errors import EventRejected
from journal.events import EpisodeEnded, Phase, check_count
from journal.together import Ending, ending

if TYPE_CHECKING:
    from agents_adapter.bars import Bars
    from agents_adapter.track import Track

Mode = Literal["next step", "same step", "disabled"]
Reason = Literal["terminated", "truncated"]
_MODES: Final[dict[str, Mode]] = {"NextStep": "next step", "SameStep": "same step", "Disabled": "disabled"}
_CALLERS: Final[tuple[Mode, ...]] = ("disabled", "same step")
"""Where no step resets what was not reset: the caller does, always or (within the step it goes on) the first time."""
_ONE: Final = np.array(1, dtype="<u4")
_BOOL, _FLOAT32 = np.dtype(bool), np.dtype(np.float32)
_TERMINATED, _TRUNCATED = (
    ending(EpisodeEnded(agent="-", episode=0, reason=one)) for one in ("terminated", "truncated")
)
_ALL: Final = LISTED | LISTED << 2 | CONSECUTIVE << 4
_LISTED: Final = LISTED | LISTED << 2 | LISTED << 4
"""Forms of a batch: episodes and steps are listed; the sub-environments are all of them, or listed."""
TOGETHER_MAX: Final = 1024
"""Starts or ends that are recorded at once."""
_NOT_PLANNED: Final = (
    "a vector environment inside episodes() or evaluate(), which walk one episode at a time: wrap each sub-environment "
    "in a PlanEnv(env, plan, part=(i, n)) instead"
)


class RecordedVector(Proxy):
    """The vector environment, with its resets and steps recorded. Made by `track.wrap`."""

    def __init__(self, env: Any, track: Track, bars: Shown | None, phase: Phase) -> None:
        super().__init__(env)
        self.__dict__["_journal_subs"] = SubEnvironments(env, track, bars, phase)

    def reset(self, *args: Any, **kwargs: Any) -> Any:
        """The environment's reset: of all, or of those in `options["reset_mask"]`. Raises as for one environment."""
        subs: SubEnvironments = self._journal_subs
        mask = (kwargs.get("options") or {}).get("reset_mask")
        subs.before_reset(mask)
        result = self._journal_env.reset(*args, **kwargs)
        subs.was_reset(mask, kwargs.get("seed"))
        return result

    def step(self, actions: Any) -> Any:
        """The environment's step.

        Raises `EventRejected` before it moves where a sub-environment was not reset, and after it where the result or
        the rewards are not what a vector step gives; `JournalClosed`, `JournalFailed`.
        """
        place = self.__dict__  # Read directly: a class with __getattr__ looks its attributes up slowly.
        subs: SubEnvironments = place["_journal_subs"]
        subs.begin()
        return subs.take(place["_journal_env"].step(actions))

    def step_async(self, actions: Any) -> Any:
        """The environment's first half of a step, where it has one. Raises as `step` does, before it moves."""
        self._journal_subs.begin()
        return self._journal_env.step_async(actions)

    def step_wait(self, *args: Any, **kwargs: Any) -> Any:
        """Its second half. Raises as `step` does, after it."""
        return self._journal_subs.take(self._journal_env.step_wait(*args, **kwargs))

    def __repr__(self) -> str:
        return f"<recorded {self._journal_env!r}>"


class SubEnvironments:
    """Which episode is open in each sub-environment, and what a vector step means for them."""

    def __init__(self, env: Any, track: Track, bars: Shown | None, phase: Phase) -> None:
        check_count(env.num_envs, f"num_envs of {env!r:.60}")
        self._env, self._track, self._bars, self._phase = env, track, bars, phase
        self._agent, self._flags = track.number, EVAL if phase == "eval" else 0
        self._record, self._monotonic, self._saver = (
            track.recorder.vector_step,
            track.recorder.log.monotonic,
            track.saver,
        )
        count = self._count = int(env.num_envs)
        if not 0 < count <= COUNT_MAX:
            raise EventRejected(f"num_envs of {env!r:.60} is {count:,}: 1 to {COUNT_MAX:,} can be recorded together")
        self._shape = (count,)
        self._none = bytes(count)
        """What an array of bool is where nothing is true."""
        told = (getattr(env, "metadata", None) or {}).get("autoreset_mode")
        self._mode: Mode | None = _MODES.get(str(getattr(told, "value", told)))
        if bars is not None and self._mode == "same step":
            raise EventRejected("bars= of an environment that resets within the step: its bars are gone when asked for")
        self._first = track.environments.add(env, phase, count)
        subs = sub_environments(env)
        followed = enumerate(followed_by(sub, track, phase) for sub in subs) if len(subs) == count else ()
        self._plans = {i: follows for i, follows in followed if follows is not None}
        """What the sub-environments follow, of those that follow a plan."""
        self._apart = bool(self._plans) or bars is not None or track.seeds_episodes or track.watched
        """Is there more to tell of all episodes than that they start and end?"""
        self._episodes: dict[int, Episode] = {}
        """The open ones, of which there was more to tell, or for which somebody asked."""
        self._seeds: dict[int, int] = {}
        """Of those that were reset with one and have not begun."""
        self._base = track.next_number[phase]
        """Numbers of episodes are counted from here, so that they need four bytes."""
        self._columns = np.zeros((3, count), dtype="<u4")
        """Of each sub-environment, as a batch has it: the number of its open episode, the steps in it, its place."""
        self._steps, self._columns[2] = self._columns[1], np.arange(count)
        self._keys = [(track.number, self._flags, self._first + i) for i in range(count)]
        """Their places in the log's context."""
        self._numbers = [0] * count
        """Of each the number of its open episode."""
        self._both, self._listed = self._columns[:2], self._columns[0]
        self._heard: dict[int, Callable[[float], object]] = {}
        """Who listens to the open episodes, of the few that somebody listens to."""
        self._fresh: list[int] = []
        """Those that were reset and not stepped since, ascending."""
        self._starting: Sequence[int] = ()
        """Those of them whose starts are recorded with what the step gives; they begin at this monotonic second:"""
        self._began_at = 0.0
        self._reset = False
        """Was it ever?"""
        self._over = list(range(count))
        """Those whose episode is over and that were not reset since, ascending."""
        self._step_without(self._over)
        track.vectors.append(self)

    # -- resets ------------------------------------------------------------------------------------------------------

    def before_reset(self, mask: Any) -> None:
        """Those in `mask` (all, if None) are about to be reset: their episodes end."""
        self._check_unplanned()
        open_ = self._open()
        ending = [self._closed(i) for i in self._chosen(mask) if i in open_ and self._steps[i]]
        keys = [(self._phase, self._first + i) for i in range(self._count)] if mask is None else []
        self._track.before_reset(keys, ending)

    def was_reset(self, mask: Any, seed: Any) -> None:
        """Those in `mask` (all, if None) were reset, with this seed or these seeds."""
        chosen, listed = self._chosen(mask), isinstance(seed, (list, tuple)) or np.ndim(seed) == 1
        # A native vector environment has one generator; Gymnasium's others give each sub-environment a seed one higher.
        apart = not listed and hasattr(getattr(self._env, "unwrapped", None), "env_fns")
        for i in chosen:
            given = as_seed(seed[i] if listed else seed)
            if given is None:
                self._seeds.pop(i, None)
            else:
                self._seeds[i] = given + i if apart else given
        self._over = sorted(set(self._over).difference(chosen))
        self._fresh = sorted({*self._fresh, *chosen})
        self._reset = True
        self._step_without(self._over)
        self._track.resets.add((self._phase, self._first))

    def _chosen(self, mask: Any) -> list[int]:
        return list(range(self._count)) if mask is None else np.flatnonzero(mask).tolist()

    def _check_unplanned(self) -> None:
        if self._track.planned == self._phase:
            raise EventRejected(f"{self._track.name}: {_NOT_PLANNED}")

    def _step_without(self, over: list[int]) -> None:
        """The next step moves all but these."""
        moves: NDArray[np.bool_] | None = None
        if over:
            moves = np.ones(self._count, dtype=bool)
            moves[over] = False
        self._next_step(moves)

    def _next_step(self, moves: NDArray[np.bool_] | None) -> None:
        """Note what is asked at every step: which ones the next one moves; None for all."""
        self._moves = moves
        self._moving = None if moves is None else moves.nonzero()[0]
        self._waiting = moves is not None and (self._mode in _CALLERS or not self._reset)

    # -- steps -------------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """A step is about to be taken: the episodes of those that were reset begin."""
        if self._waiting:
            self._track.check_open()
            told = f"step() of sub-environments {self._over[:10]} whose episode is over: call reset() first"
            raise EventRejected(f"{self._track.name}: {told}")
        fresh = self._fresh
        if fresh:
            if self._saver.walking is not None:
                self._check_unplanned()
            if self._apart or self._seeds or self._episodes or len(fresh) > TOGETHER_MAX:
                fresh = self._start(fresh)
            self._starting, self._began_at = fresh, self._monotonic()

    def take(self, result: Any) -> Any:
        """Record what a vector step gave, and return it."""
        usual = type(result) is tuple and len(result) == 5
        if usual:
            _, rewards, terminated, truncated, _ = result
            usual = (
                type(rewards) is type(terminated) is type(truncated) is np.ndarray
                and terminated.dtype is truncated.dtype is _BOOL
                and rewards.shape == terminated.shape == truncated.shape == self._shape
            )
        if not usual:
            rewards, terminated, truncated = self._read(result)
        elif rewards.dtype is _FLOAT32:
            rewards = rewards.astype(FLOAT64)
        elif rewards.dtype is not FLOAT64:
            rewards = as_values(rewards)
        none, numbers, listed, steps = self._none, self._numbers, self._listed, self._steps
        starting, over, moving, episodes = self._starting, self._over, self._moving, self._episodes
        if starting:
            numbers = self._numbers = numbers.copy()  # An append that was interrupted may have noted the others.
            base, following = self._base, self._track.next_number[self._phase]
            for i in starting:
                numbers[i] = following
                listed[i], steps[i] = following - base, 0
                following += 1
        those: list[int] = []
        ending, how, told, cut = those, _TERMINATED, terminated.tobytes(), truncated.tobytes()
        if told != none or cut != none:
            ends = terminated if cut == none else terminated | truncated
            if self._moves is not None:
                ends = ends & self._moves
            ending = those = ends.nonzero()[0].tolist()
            if cut != none or episodes or len(those) > TOGETHER_MAX:
                ending, how = self._alike(those, told)
        if moving is None:
            count, form, payload = self._count, _ALL, self._both.tobytes() + rewards.tobytes()
        else:
            count, form = len(moving), _LISTED
            payload = self._columns.take(moving, 1).tobytes() + rewards[moving].tobytes()
        if count:
            where = self._base, self._first, payload, self._keys, numbers
            self._record(self._agent, self._flags, count, form, *where, self._began_at, starting, ending, how)
        # Of those that did not move, too: where their next episodes start it is set to 0.
        np.add(steps, _ONE, steps)
        if starting:
            self._track.next_number[self._phase] = following
            self._starting = ()
        if ending:
            self._saver.episodes_ended(self._track, len(ending))
        if self._mode == "same step":
            self._fresh = those
        else:
            # Those that were over: this step was their reset, as that is next step's mode; else it was refused.
            self._fresh, self._over = over, those
            if those:
                self._moves = ends = ~ends
                self._moving, self._waiting = ends.nonzero()[0], self._mode == "disabled"
            elif over:
                self._moves = self._moving = None
        if episodes or len(ending) < len(those):
            for i, heard in self._heard.items():
                heard(float(rewards[i]))
            self._end(sorted({*those}.difference(ending)), told)
        return result

    def _alike(self, those: list[int], terminated: bytes) -> tuple[list[int], Ending]:
        """Those that can end together, and how; the others end one by one, each an `Episode`."""
        plain = [i for i in those if i not in self._episodes]
        way = terminated[plain[0]] if plain else 1
        alike = [i for i in plain if terminated[i] == way][:TOGETHER_MAX]
        return alike, _TERMINATED if way else _TRUNCATED

    def _read(self, result: Any) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
        """(rewards, terminated, truncated), each of shape (n,)."""
        values = len(result) if isinstance(result, (tuple, list)) else 0
        if values == 5:
            _, rewards, terminated, truncated, _ = result
        elif values == 4:
            _, rewards, done, infos = result
            cut = [bool(info.get("TimeLimit.truncated", False)) for info in infos]
            terminated, truncated = np.asarray(done, dtype=bool) & ~np.array(cut), np.asarray(done, dtype=bool) & cut
            if self._mode is None:
                self._mode = "same step"
                if self._moves is not None:
                    raise EventRejected(f"{self._track.name}: {self._env!r:.60} steps before all of it was reset")
        else:
            raise not_a_step(self._env, result)
        real = as_values(rewards).astype(FLOAT64, copy=False)
        first, second = np.asarray(terminated, dtype=bool), np.asarray(truncated, dtype=bool)
        if not real.shape == first.shape == second.shape == self._shape:
            wrong = next(one.shape for one in (real, first, second) if one.shape != self._shape)
            raise EventRejected(
                f"step() of {self._env!r:.60} returned rewards or ends of shape {wrong}: "
                f"give one for each of its {self._count} sub-environments"
            )
        return real, first, second

    def _start(self, fresh: list[int]) -> list[int]:
        """Record the starts of which there is more to tell than their place; the others are returned."""
        seeds, episodes = self._seeds, self._episodes
        apart = self._apart or len(fresh) > TOGETHER_MAX
        self._start_apart([i for i in fresh if i not in episodes and (apart or i in seeds)])
        return [i for i in fresh if i not in episodes]

    def _start_apart(self, those: list[int]) -> None:
        """Start episodes: those that nothing is to be told of beside their place together, the others one by one."""
        track, phase, first = self._track, self._phase, self._first
        seeds, plans = self._seeds, self._plans
        alike = [i for i in those if i not in seeds and i not in plans] if seeds or plans else those
        for start in range(0, len(alike), TOGETHER_MAX):
            part = alike[start : start + TOGETHER_MAX]
            self._began(part, track.start_episodes(phase, [first + i for i in part]))
        for i in those if seeds or plans else ():
            if i in plans:
                self._began((i,), (track.start_followed((phase, first + i), plans[i], seeds.get(i)),))
            elif i in seeds:
                self._began((i,), (track.start_episode(phase, env_index=first + i, seed=seeds[i]),))

    def _began(self, those: Sequence[int], episodes: Sequence[Episode]) -> None:
        """Their starts are recorded."""
        base, listed, steps = self._base, self._listed, self._steps
        numbers = self._numbers = self._numbers.copy()
        for i, episode in zip(those, episodes, strict=True):
            self._seeds.pop(i, None)
            if self._bars is not None:
                episode.shown = partial(self._shown, self._bars, i)
            self._episodes[i] = episode
            numbers[i] = episode.number
            listed[i], steps[i] = episode.number - base, 0
            if episode.heard is not None:
                self._heard[i] = episode.heard

    def _shown(self, bars: Shown, i: int) -> Bars:
        return as_bars(bars(self._env, i))

    def _end(self, those: list[int], terminated: bytes) -> None:
        """End the episodes of `those`."""
        alike: dict[Reason, list[Episode]] = {"terminated": [], "truncated": []}
        for i in those:
            reason: Reason = "terminated" if terminated[i] else "truncated"
            episode = self._closed(i)
            if episode.simple:
                alike[reason].append(episode)
            else:
                episode.end(reason)
        for reason, episodes in alike.items():
            for start in range(0, len(episodes), TOGETHER_MAX):
                end(episodes[start : start + TOGETHER_MAX], reason)

    # -- episodes ----------------------------------------------------------------------------------------------------

    def tell(self, place: tuple[Phase, int] | None = None) -> None:
        """Make the `Episode` of what is open in that place (in all, if None): the track's `open` has it then."""
        if place is None:
            here = self._open().difference(self._episodes)
        elif place[0] != self._phase or not 0 <= place[1] - self._first < self._count:
            return  # As nearly always where one is asked for: the way to the answer is to be short.
        else:
            here = {place[1] - self._first}.intersection(self._open()).difference(self._episodes)
        for i in here:
            self._tell(i)

    def _open(self) -> set[int]:
        """Those in which an episode is open."""
        return {*range(self._count)}.difference(self._over, self._fresh).union(self._episodes)

    def _tell(self, i: int) -> Episode:
        place = self._phase, self._first + i
        episode = Episode(self._track, self._numbers[i], self._phase, env_index=place[1])
        self._episodes[i] = self._track.open[place] = episode
        return episode

    def _closed(self, i: int) -> Episode:
        """The episode of sub-environment `i`, which is to end, with its steps counted."""
        episode = self._episodes.get(i) or self._tell(i)
        episode.steps = self._steps.item(i)
        del self._episodes[i]
        self._heard.pop(i, None)
        return episode
