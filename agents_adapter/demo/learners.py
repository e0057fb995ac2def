"""Three agents that learn with nothing but numpy; each fits a screen.

Each owns its random generator, which travels in the checkpoints beside the learner; `state_dict` is all the rest.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from agents_adapter.demo.market import ACTIONS, FEATURES, SPANS

Observation = NDArray[np.float64]
"""float64[FEATURES], as `Market.observe` gives it."""


class Learner(ABC):
    """What the training script needs of an agent; `weights` is what it has learned."""

    weights: NDArray[np.float64]

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)

    @abstractmethod
    def act(self, seen: Observation) -> int:
        """An action to train with: it explores."""

    @abstractmethod
    def best(self, seen: Observation) -> int:
        """The best action, by what was learned so far."""

    @abstractmethod
    def learn(self, seen: Observation, action: int, reward: float, then: Observation, done: bool) -> None:
        """Take in one step: `action` where this was `seen` gave `reward`, and `then` is seen next."""

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold beside the generator."""
        return {"weights": self.weights.copy()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become the learner that `state_dict` told of."""
        self.weights[:] = state["weights"]


class EpsilonGreedy(Learner):
    """A learner of values, that at first tries everything and follows what it has learned more and more."""

    DISCOUNT = 0.9
    EPSILON_DECAY = 0.93
    EPSILON_MIN = 0.05

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.epsilon = 1.0

    def act(self, seen: Observation) -> int:
        """Any action with probability epsilon, else the best."""
        if self.rng.random() < self.epsilon:
            return int(self.rng.integers(ACTIONS))
        return self.best(seen)

    def learn(self, seen: Observation, action: int, reward: float, then: Observation, done: bool) -> None:
        """Move the action's value towards its reward and the value of what follows; explore less after each episode."""
        self.move(seen, action, reward if done else reward + self.DISCOUNT * self.value(then))
        if done:
            self.epsilon = max(self.EPSILON_MIN, self.EPSILON_DECAY * self.epsilon)

    @abstractmethod
    def value(self, seen: Observation) -> float:
        """The value of the best action."""

    @abstractmethod
    def move(self, seen: Observation, action: int, target: float) -> None:
        """Move the value of `action` a little towards `target`."""

    def state_dict(self) -> dict[str, Any]:
        """The weights and epsilon."""
        return super().state_dict() | {"epsilon": self.epsilon}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over both."""
        super().load_state_dict(state)
        self.epsilon = float(state["epsilon"])


class LinearQ(EpsilonGreedy):
    """Q-learning, the value being linear: weights[action] · seen."""

    RATE = 0.002

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.weights = np.zeros((ACTIONS, FEATURES))

    def best(self, seen: Observation) -> int:
        """The action with the largest product."""
        return int((self.weights @ seen).argmax())

    def value(self, seen: Observation) -> float:
        """The largest product."""
        return float((self.weights @ seen).max())

    def move(self, seen: Observation, action: int, target: float) -> None:
        """Along the gradient, which is `seen` itself."""
        self.weights[action] += self.RATE * (target - float(self.weights[action] @ seen)) * seen


class TabularQ(EpsilonGreedy):
    """Q-learning in a table of 108 rows: fast trend x slow trend x part of the day x position held."""

    RATE = 0.005
    _FAST, _SLOW = SPANS.index(4), SPANS.index(24)

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.weights = np.zeros((3 * 3 * 4 * 3, ACTIONS))

    def best(self, seen: Observation) -> int:
        """The action with the largest entry in the row."""
        return int(self.weights[self._row(seen)].argmax())

    def value(self, seen: Observation) -> float:
        """The row's largest entry."""
        return float(self.weights[self._row(seen)].max())

    def move(self, seen: Observation, action: int, target: float) -> None:
        """One entry moves, no other."""
        row = self._row(seen)
        self.weights[row, action] += self.RATE * (target - self.weights[row, action])

    def _row(self, seen: Observation) -> int:
        trends = 3 * _direction(seen[self._FAST]) + _direction(seen[self._SLOW])
        part_of_day = 2 * (seen[-4] > 0) + (seen[-3] > 0)
        return int((4 * trends + part_of_day) * 3 + seen[-2] + 1)


def _direction(trend: float) -> int:
    """Falling, quiet or rising: 0, 1 or 2."""
    return 0 if trend < -0.3 else 2 if trend > 0.3 else 1


class PolicyGradient(Learner):
    """REINFORCE: a softmax over weights · seen, moved at each episode's end towards what gained more than usual."""

    RATE = 0.6
    DISCOUNT = 0.8

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.weights = np.zeros((ACTIONS, FEATURES))
        self._episode: list[tuple[Observation, int, float]] = []

    def act(self, seen: Observation) -> int:
        """Drawn from the softmax."""
        scores: list[float] = (self.weights @ seen).tolist()
        top = max(scores)
        chances = [math.exp(score - top) for score in scores]
        draw = self.rng.random() * sum(chances)
        for action, chance in enumerate(chances):
            draw -= chance
            if draw < 0.0:
                return action
        return ACTIONS - 1

    def best(self, seen: Observation) -> int:
        """The most probable action."""
        return int((self.weights @ seen).argmax())

    def learn(self, seen: Observation, action: int, reward: float, then: Observation, done: bool) -> None:
        """Remember the step; learn from all of them at the end."""
        self._episode.append((seen, action, reward))
        if done:
            self._improve()
            self._episode.clear()

    def _improve(self) -> None:
        seen = np.array([seen for seen, _, _ in self._episode])
        actions = np.array([action for _, action, _ in self._episode])
        gains = np.empty(len(actions))
        gain = 0.0
        for step in reversed(range(len(actions))):
            gains[step] = gain = self._episode[step][2] + self.DISCOUNT * gain
        advantages = (gains - gains.mean()) / (gains.std() + 1e-9)
        scores = seen @ self.weights.T
        chances = np.exp(scores - scores.max(axis=1, keepdims=True))
        chances /= chances.sum(axis=1, keepdims=True)
        pushes = (np.eye(ACTIONS)[actions] - chances) * advantages[:, None]
        self.weights += self.RATE * pushes.T @ seen / len(actions)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take over the weights; no step is remembered."""
        super().load_state_dict(state)
        self._episode.clear()  # Checkpoints lie between episodes, when nothing waits to be learned.


LEARNERS: Final[dict[str, type[Learner]]] = {
    "LinearQ": LinearQ,
    "TabularQ": TabularQ,
    "PolicyGradient": PolicyGradient,
}
