"""What does it take to record a reward, an episode around it, a step of 64 environments? The calls of C, and the rest.

Of each the first is a limit: clock, packing, CRC-32C and stores, with nothing that makes a log of them
(`benchmarks.bare`). In `benchmarks.loops` the same limit stands beside what a real loop records.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import cycle
from typing import Final

import numpy as np

import agents_adapter
import journal
from agents_adapter import Plan
from benchmarks.bare import ENDED, SEEN, STARTED, bare
from benchmarks.contenders import JOURNAL
from benchmarks.fresh import fresh
from benchmarks.loops import ENVIRONMENTS, PLANNED, walks
from benchmarks.question import Answer, Effort
from journal.batch import CONSECUTIVE, LISTED, Packed
from journal.cell import EVAL
from journal.episodes import fact
from journal.rewarding import Steps
from journal.speed.rounds import Contender, Figures, measure
from journal.together import ending

OVER: Final = ending(ENDED)
ROUNDS: Final = 3
"""Times the rounds of the others."""
REWARD: Final = "a reward: the calls of C, in one loop"
REWARD_METHOD: Final = "the same in a method"
REWARD_LOG: Final = "log.reward"
REWARD_STEP: Final = "episode.step"
EPISODE: Final = "an episode's start, bars and end: the calls of C"
EPISODE_LOG: Final = "log.episode, for the start and for bars and end"
EPISODE_PLAN: Final = "an episode of a plan, its place looked up, begun and ended"
BATCH: Final = f"{ENVIRONMENTS} rewards of as many episodes: the calls of C, in one loop"
BATCH_LOG: Final = "log.batch"
CHANGES: Final = 3
"""Sub-environments that begin, that end, and that are being reset in a step of them."""
STEPS_MOST: Final = 4096
"""In a round: 8 MB of segments that are ready. No environment writes 200 MB a second."""
VECTOR: Final = f"a step of {ENVIRONMENTS}, {CHANGES} of which begin and {CHANGES} end: the calls of C, in a method"
VECTOR_LOG: Final = "log.vector_step"
VECTOR_WRAP: Final = "a wrapped environment, its own step made before"
LIMITS: Final = frozenset({REWARD, REWARD_METHOD, EPISODE, BATCH, VECTOR})


def answer(directory: str, effort: Effort) -> Answer:
    """Each is told as one event. No other thread is at work: `sync="close"`."""
    found = Answer()
    for one in fresh(measured, directory, effort):
        limit = one.name in LIMITS
        found.add(one, limit=limit, survives=None, **({} if limit else {"peer": JOURNAL.name, "mode": one.name}))
    return found


def measured(directory: str, effort: Effort) -> list[Figures]:
    """All of them, in this process."""
    with tempfile.TemporaryDirectory(dir=directory) as place, ExitStack() as stack:
        return measure(list(contenders(place, stack)), rounds=ROUNDS * effort.rounds, seconds=effort.seconds)


def contenders(place: str, stack: ExitStack) -> Iterator[Contender]:
    """Rewards, episodes, batches, vector steps."""
    limit = stack.enter_context(bare(f"{place}/bare"))
    log = stack.enter_context(journal.open(f"{place}/log", sync="close"))
    run = stack.enter_context(agents_adapter.start(f"{place}/run", sync="close"))
    agent = log.agent("PPO")
    plan = Plan.from_list([("EURUSD", "H1", 0, 240)] * PLANNED, seed=7)
    steps = Steps(log.reward, agent, 7, 0, 0)
    steps.straight(log)
    planned = walks(run.agent("PPO", stateless=True), plan)
    next(planned).end()  # The plan is recorded then.
    started, ended, seen = fact(STARTED), fact(ENDED), fact(SEEN)
    packed = Packed(ENVIRONMENTS, LISTED | LISTED << 2 | CONSECUTIVE << 4, 0, 0, 0, bytes(16 * ENVIRONMENTS))

    def in_a_method(calls: int) -> None:
        limit.begin()
        for at in range(calls):
            if at % 4096 == 4095:
                limit.begin()
            limit.step(0.5)

    def rewards(calls: int) -> None:
        reward = log.reward
        for step in range(calls):
            reward(agent, 7, step, 0.5)

    def stepped(calls: int) -> None:
        for _ in range(calls):
            steps.step(0.5)

    def bare_episodes(calls: int) -> None:
        for _ in range(calls):
            limit.begin().end()

    def episodes(calls: int) -> None:
        for _ in range(calls):
            log.episode(started, agent, EVAL, 7, 0)
            log.episode(ended, agent, EVAL, 7, 0, seen)

    def of_a_plan(calls: int) -> None:
        for _ in range(calls):
            next(planned).end("terminated")

    def batches(calls: int) -> None:
        for _ in range(calls):
            log.batch(agent, packed, 0)

    moving = ENVIRONMENTS - CHANGES
    listed, changing = bytes(20 * moving), range(CHANGES)  # Three columns and a float64 each.
    keys = [(agent, 0, env_index) for env_index in range(ENVIRONMENTS)]
    recorded = run.agent("SAC", stateless=True).wrap(Made())
    recorded.reset()

    def bare_vector_steps(calls: int) -> None:
        for _ in range(calls):
            limit.vector_step(listed, CHANGES, CHANGES)

    def vector_steps(calls: int) -> None:
        for number in range(calls):
            numbers = [number] * ENVIRONMENTS
            log.vector_step(agent, 0, moving, 21, 0, 0, listed, keys, numbers, 0.5, changing, changing, OVER)

    def wrapped_steps(calls: int) -> None:
        for _ in range(calls):
            recorded.step(None)

    yield Contender(REWARD, REWARD, limit.rewards)
    yield Contender(REWARD_METHOD, REWARD, in_a_method)
    yield Contender(REWARD_LOG, REWARD, rewards)
    yield Contender(REWARD_STEP, REWARD, stepped)
    yield Contender(EPISODE, EPISODE, bare_episodes)
    yield Contender(EPISODE_LOG, EPISODE, episodes)
    yield Contender(EPISODE_PLAN, EPISODE, of_a_plan)
    yield Contender(BATCH, BATCH, lambda calls: limit.batches(packed.payload, calls))
    yield Contender(BATCH_LOG, BATCH, batches)
    yield Contender(VECTOR, VECTOR, bare_vector_steps)
    yield Contender(VECTOR_LOG, VECTOR, vector_steps, most=STEPS_MOST)
    yield Contender(VECTOR_WRAP, VECTOR, wrapped_steps, most=STEPS_MOST)


class Made:
    """A vector environment whose steps are made before: in each some end, in turn, and are reset by the next step."""

    num_envs = ENVIRONMENTS
    metadata: Final = {"autoreset_mode": "NextStep"}

    def __init__(self) -> None:
        rewards, cut = np.ones(ENVIRONMENTS, dtype=np.float32), np.zeros(ENVIRONMENTS, dtype=bool)
        steps: list[tuple[object, ...]] = []
        for first in range(0, ENVIRONMENTS * CHANGES, CHANGES):
            over = cut.copy()
            over[[(first + more) % ENVIRONMENTS for more in range(CHANGES)]] = True
            steps.append((None, rewards, over, cut, {}))
        self._steps = cycle(steps)

    def reset(self) -> tuple[None, dict[str, object]]:
        """Nothing."""
        return None, {}

    def step(self, actions: None) -> tuple[object, ...]:
        """The next one."""
        return next(self._steps)
