"""A slow, obvious model of the fold, and random logs to hold against it."""

from __future__ import annotations

import math
from collections import defaultdict
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

import journal

AGENTS = ("LinearQ", "PPO")

reward = st.one_of(st.floats(-5, 5), st.sampled_from([0.1, 1e300, -1e300, 5e-324, math.nan, math.inf, -math.inf]))
command = st.one_of(
    st.tuples(st.just("start"), st.sampled_from(AGENTS), st.sampled_from(["train", "eval"]), st.integers(0, 1)),
    st.tuples(
        st.just("reward"), st.sampled_from(AGENTS), st.sampled_from(["train", "eval"]), st.integers(0, 1), reward
    ),
    st.tuples(
        st.just("rewards"),
        st.sampled_from(AGENTS),
        st.sampled_from(["train", "eval"]),
        st.lists(st.tuples(st.integers(0, 1), reward), min_size=1, max_size=40),
    ),
    st.tuples(st.just("end"), st.sampled_from(AGENTS), st.sampled_from(["train", "eval"]), st.integers(0, 1)),
    st.tuples(st.just("checkpoint"), st.sampled_from(AGENTS)),
    st.tuples(st.just("rewind"), st.sampled_from(AGENTS), st.integers(0, 3)),
    st.tuples(st.just("run"), st.booleans()),
    st.tuples(st.just("attempt"), st.booleans()),
)
commands = st.lists(command, max_size=60)


class Model:
    """Every figure recomputed from a plain list of what happened."""

    def __init__(self) -> None:
        self.number: dict[tuple[str, str], int] = defaultdict(int)
        self.open: dict[tuple[str, str, int], dict[str, Any]] = {}
        self.ended: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.spent: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.stray: dict[tuple[str, str], dict[str, Any]] = {}
        self.saved: dict[str, list[tuple[int, list[dict[str, Any]], dict[str, int]]]] = defaultdict(list)
        self.run: str | None = None
        self.runs = self.attempts = 0

    def play(self, log: journal.Log, one: tuple[Any, ...]) -> None:
        """Do it in the log and in the model."""
        getattr(self, "_" + one[0])(log, *one[1:])

    def _start(self, log: journal.Log, agent: str, phase: Any, env: int) -> None:
        if (agent, phase, env) in self.open:
            return
        number = self.number[agent, phase]
        self.number[agent, phase] += 1
        log.append(journal.EpisodeStarted(agent=agent, phase=phase, env_index=env, episode=number, entry=number))
        self.open[agent, phase, env] = {"number": number, "phase": phase, "rewards": [], "run": self.run}

    def _target(self, agent: str, phase: str, env: int) -> tuple[int, dict[str, Any]]:
        episode = self.open.get((agent, phase, env))
        if episode is not None:
            return episode["number"], episode
        return 10**9, self.stray.setdefault((agent, phase), {"phase": phase, "rewards": []})

    def _reward(self, log: journal.Log, agent: str, phase: str, env: int, value: float) -> None:
        number, target = self._target(agent, phase, env)
        log.reward(log.agent(agent), number, len(target["rewards"]), value, env, flags=int(phase == "eval"))
        target["rewards"].append(value)

    def _rewards(self, log: journal.Log, agent: str, phase: str, pairs: list[tuple[int, float]]) -> None:
        numbers = []
        for env, value in pairs:
            number, target = self._target(agent, phase, env)
            target["rewards"].append(value)
            numbers.append(number)
        envs, values = zip(*pairs, strict=True)
        log.rewards(log.agent(agent), numbers, 7, list(values), list(envs), flags=int(phase == "eval"))

    def _end(self, log: journal.Log, agent: str, phase: Any, env: int) -> None:
        episode = self.open.pop((agent, phase, env), None)
        if episode is not None:
            log.append(
                journal.EpisodeEnded(
                    agent=agent,
                    phase=phase,
                    env_index=env,
                    episode=episode["number"],
                    reason="terminated",
                    metrics={"length": len(episode["rewards"]), "note": "text"},
                )
            )
            self.ended[agent].append(episode)
            self.spent[agent].append(episode)

    def _checkpoint(self, log: journal.Log, agent: str) -> None:
        seq = log.append(
            journal.CheckpointSaved(
                agent=agent, episode=self.number[agent, "train"], path="checkpoints/x", sha256="0" * 64, size=1
            )
        )
        self.saved[agent].append((seq, list(self.ended[agent]), dict(self.number)))  # type: ignore[arg-type]

    def _rewind(self, log: journal.Log, agent: str, back: int) -> None:
        if len(self.saved[agent]) <= back:
            return
        self.saved[agent] = self.saved[agent][: len(self.saved[agent]) - back]
        seq, ended, _ = self.saved[agent][-1]
        log.append(journal.Rewound(agent=agent, to_seq=seq))
        self.ended[agent] = list(ended)
        self._cut(agent)

    def _run(self, log: journal.Log, end: bool) -> None:
        if self.run is not None and end:
            log.append(journal.RunEnded(run=self.run))
            self.run = None
        elif self.run is None:
            self.runs += 1
            self.run = f"run {self.runs}"
            self.attempts = 0
            log.append(journal.RunStarted(run=self.run, config={"n": self.runs}))
        else:
            return
        self._cut(None)

    def _attempt(self, log: journal.Log, end: bool) -> None:
        if self.run is None:
            return
        if end:
            log.append(journal.AttemptEnded(run=self.run, attempt=self.attempts, status="interrupted"))
        else:
            self.attempts += 1
            log.append(
                journal.AttemptStarted(
                    run=self.run, attempt=self.attempts, pid=1, argv=["x"], cwd="x", versions={"python": "3"}
                )
            )
        self._cut(None)

    def _cut(self, agent: str | None) -> None:
        for key in [key for key in self.open if agent in (None, key[0])]:
            self.spent[key[0]].append(self.open.pop(key))

    def expected(self, agent: str, phase: str) -> dict[str, Any]:
        """Effective and spent: (episodes, steps, exact reward, NaN, infinite)."""
        spent = [e for e in self.spent[agent] if e["phase"] == phase]
        spent += [e for (name, one, _), e in self.open.items() if (name, one) == (agent, phase)]
        stray = self.stray.get((agent, phase))
        return {
            "effective": figures([e for e in self.ended[agent] if e["phase"] == phase], None),
            "spent": figures(spent, stray),
        }


def figures(episodes: list[dict[str, Any]], stray: dict[str, Any] | None) -> tuple[int, int, Fraction, int, int]:
    total, steps, nans, infinites = Fraction(0), 0, 0, 0
    for episode in episodes + ([stray] if stray else []):
        left_to_right = 0.0
        for value in episode["rewards"]:
            steps += 1
            if math.isnan(value):
                nans += 1
            elif math.isinf(value):
                infinites += 1
            else:
                left_to_right += value
        if math.isfinite(left_to_right):
            total += Fraction(left_to_right)
        else:
            infinites += 1
    return len(episodes), steps, total, nans, infinites
