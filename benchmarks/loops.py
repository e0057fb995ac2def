"""What does recording add to a real training loop: CartPole, 64 CartPoles in one, and Q-learning in numpy?"""

from __future__ import annotations

import importlib.util
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain, repeat
from itertools import count as counter
from typing import TYPE_CHECKING, Any, Final

import agents_adapter
from agents_adapter import Episode, Plan, Run
from benchmarks.bare import Bare, bare
from benchmarks.contenders import JOURNAL
from benchmarks.fresh import fresh
from benchmarks.question import Answer, Effort, by_name
from journal.speed.rounds import LATER, Contender, Figures, measure

if TYPE_CHECKING:
    from agents_adapter import Track

    Recording = Episode | Bare
    Loop = Callable[[Run, Bare], Iterator[Contender]]

ROUNDS: Final = 5
"""Times the rounds of the others: a few percent are to be seen."""
EPISODES: Final = 100
"""Of CartPole, in one call: about 2,200 steps."""
PLANNED: Final = 10_000
ENVIRONMENTS: Final = 64
NEEDS: Final = ("gymnasium", "gym_anytrading")
CARTPOLE: Final = "CartPole, random actions"
CARTPOLE_BARE: Final = f"{CARTPOLE}: the calls of C alone"
CARTPOLE_CALL: Final = f"{CARTPOLE}: episode.step"
CARTPOLE_WRAP: Final = f"{CARTPOLE}: track.wrap"
VECTOR: Final = f"vector CartPole of {ENVIRONMENTS}, random actions"
VECTOR_BARE: Final = f"{VECTOR}: the calls of C alone"
VECTOR_WRAP: Final = f"{VECTOR}: track.wrap"
LINEAR_Q: Final = "LinearQ in numpy, hourly bars"
LINEAR_Q_BARE: Final = f"{LINEAR_Q}: the calls of C alone"
LINEAR_Q_CALL: Final = f"{LINEAR_Q}: episode.step"
LINEAR_Q_EXACT: Final = f"{LINEAR_Q}: and observed bars, checkpoints"
BARE: Final = frozenset({CARTPOLE_BARE, VECTOR_BARE, LINEAR_Q_BARE})
"""Limits (`benchmarks.bare`): what the loop would take if only the cells were made and stored."""
VALUES: Final = {
    "CartPole, a direct call": CARTPOLE_CALL,
    "CartPole, wrapped": CARTPOLE_WRAP,
    "vector CartPole": VECTOR_WRAP,
    "LinearQ": LINEAR_Q_CALL,
    "LinearQ, exact resume": LINEAR_Q_EXACT,
}


def answer(directory: str, effort: Effort) -> Answer:
    """Ratios to the same loop without a journal; both do the same steps, by the same seeds. An event is a reward.

    The journal is as `agents_adapter.start` opens it, with group commit.
    """
    found = Answer()
    missing = [name for name in NEEDS if importlib.util.find_spec(name) is None]
    if missing:
        found.skip("the loops", f"{missing[0]} is not installed: pip install 'training-journal[demo]'")
        return found
    figures = [one for loop in (cartpole, vector, linear_q) for one in fresh(measured, loop, directory, effort)]
    for one in figures:
        limit = one.name == one.reference or one.name in BARE
        found.add(one, limit=limit, survives=None, **({} if limit else {"peer": JOURNAL.name, "mode": one.name}))
    named = by_name(figures)
    for value, name in VALUES.items():
        found.value(f"{value}, %", [100 * (ratio - 1) for ratio in named[name].wall_ratios])
        found.value(f"{value}, CPU, %", [100 * (ratio - 1) for ratio in named[name].cpu_ratios])
    return found


def measured(loop: Loop, directory: str, effort: Effort) -> list[Figures]:
    """One loop with and without, in this process."""
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        run = stack.enter_context(agents_adapter.start(f"{place}/run"))
        limit = stack.enter_context(bare(f"{place}/bare"))
        return measure(list(loop(run, limit)), rounds=ROUNDS * effort.rounds, seconds=2 * effort.seconds)


def cartpole(run: Run, limit: Bare) -> Iterator[Contender]:
    """Episodes of about 22 steps: a start and an end come with so many rewards."""
    import gymnasium

    def play(env: Any, episodes: Iterator[Recording | None], calls: int) -> int:
        steps = 0
        for _ in range(calls):
            env.reset(seed=7)
            env.action_space.seed(7)
            for episode in (next(episodes) for _ in range(EPISODES)):
                env.reset()
                over = False
                while not over:
                    _, reward, terminated, truncated, _ = env.step(env.action_space.sample())
                    if episode is not None:
                        episode.step(reward, terminated, truncated)
                    over = terminated or truncated
                    steps += 1
        return steps

    plain, called, inner, other = (gymnasium.make("CartPole-v1") for _ in range(4))
    walked = walks(run.agent("called", stateless=True), Plan.from_list([("CartPole", "-", 0, 1)] * PLANNED, seed=7))
    wrapped = run.agent("wrapped", stateless=True).wrap(inner)
    steps = play(plain, repeat(None), 1)
    play(called, walked, 1)  # Its plan is recorded then.
    yield Contender(CARTPOLE, CARTPOLE, partial(play, plain, repeat(None)), events=steps)
    yield Contender(CARTPOLE_BARE, CARTPOLE, partial(play, other, _bare(limit)), events=steps)
    yield Contender(CARTPOLE_CALL, CARTPOLE, partial(play, called, walked), LATER, steps)
    yield Contender(CARTPOLE_WRAP, CARTPOLE, partial(play, wrapped, repeat(None)), LATER, steps)


def vector(run: Run, limit: Bare) -> Iterator[Contender]:
    """Two or three of the sub-environments end in each step, and as many begin."""
    import gymnasium

    def play(env: Any, calls: int) -> None:
        for _ in range(calls):
            env.step(env.action_space.sample())

    def begun(wrap: Callable[[Any], Any]) -> Any:
        env = wrap(gymnasium.make_vec("CartPole-v1", ENVIRONMENTS, vectorization_mode="vector_entry_point"))
        env.reset(seed=7)
        env.action_space.seed(7)
        return env

    class Limited:
        """The environment, and only the cells of its steps, one step late."""

        def __init__(self, env: Any) -> None:
            self._env, self._columns, self._over = env, bytes(12 * ENVIRONMENTS), 0
            self.reset, self.action_space = env.reset, env.action_space

        def step(self, actions: Any) -> None:
            _, rewards, terminated, _, _ = self._env.step(actions)
            over, self._over = self._over, terminated.tobytes().count(1)
            limit.vector_step(self._columns + rewards.astype(float).tobytes(), over, self._over)

    yield Contender(VECTOR, VECTOR, partial(play, begun(lambda env: env)), events=ENVIRONMENTS)
    yield Contender(VECTOR_BARE, VECTOR, partial(play, begun(Limited)), events=ENVIRONMENTS)
    wrapped = begun(run.agent("wrapped", stateless=True).wrap)
    yield Contender(VECTOR_WRAP, VECTOR, partial(play, wrapped), LATER, ENVIRONMENTS)


def linear_q(run: Run, limit: Bare) -> Iterator[Contender]:
    """The demo's agent in its market, of which one step takes some microseconds; a call is a pass through the year."""
    from agents_adapter.demo.learners import LinearQ
    from agents_adapter.demo.market import EPISODE_BARS, Market, load_bars

    year = load_bars()
    windows = list(Plan.round_robin(year, EPISODE_BARS, seed=7))

    def play(learner: LinearQ, episodes: Iterator[Recording | None], observed: bool, calls: int) -> int:
        steps = 0
        learner.load_state_dict({"weights": 0.0, "epsilon": 1.0})
        for entry, episode in zip(windows * calls, episodes, strict=False):
            shown = year[entry.start : entry.stop]
            if observed and isinstance(episode, Episode):
                episode.observe(shown)
            market = Market(shown, entry.seed)
            seen, done = market.observe(), False
            while not done:
                action = learner.act(seen)
                then, reward, done = market.step(action)
                learner.learn(seen, action, reward, then, done)
                if episode is not None:
                    episode.step(reward, False, done)
                seen = then
                steps += 1
        return steps

    plan = Plan.round_robin(year, EPISODE_BARS, PLANNED, seed=7)
    learners = [LinearQ(7) for _ in range(4)]
    called = walks(run.agent("called", stateless=True), plan)
    exact = walks(run.agent("exact", state={"learner": learners[2], "rng": learners[2].rng}), plan)
    steps = play(LinearQ(7), repeat(None), False, 1)
    play(learners[1], called, False, 1)  # Its plan is recorded then.
    play(learners[2], exact, True, 1)
    yield Contender(LINEAR_Q, LINEAR_Q, partial(play, learners[0], repeat(None), False), events=steps)
    yield Contender(LINEAR_Q_BARE, LINEAR_Q, partial(play, learners[3], _bare(limit), False), events=steps)
    yield Contender(LINEAR_Q_CALL, LINEAR_Q, partial(play, learners[1], called, False), LATER, steps)
    yield Contender(LINEAR_Q_EXACT, LINEAR_Q, partial(play, learners[2], exact, True), LATER, steps)


def _bare(limit: Bare) -> Iterator[Bare]:
    """It, begun anew, for ever."""
    while True:
        yield limit.begin()


def walks(track: Track, plan: Plan) -> Iterator[Episode]:
    """The episodes of walks through a plan, one walk after the other."""
    return chain.from_iterable(track.episodes(plan) for _ in counter())
