"""The proof: what each agent did in its life, figure by figure, as two journals tell it.

Rewards are read from the events themselves, not from totals; the hash of the weights is what the training process
said of what it had in memory. So the journal does not vouch for itself.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Final

import replay
from agents_adapter.demo.attempt import Learned

if TYPE_CHECKING:
    import pandas as pd

_STEP: Final = ["agent", "phase", "episode", "step"]
"""What names a step."""


@dataclass(frozen=True, slots=True)
class Career:
    """One agent's life: what counts, without what was superseded at a resume. Equal where every bit is."""

    episodes: int
    steps: int
    reward: float
    """Percent, summed exactly."""
    exam: float
    """Percent, of the evaluation at the end."""
    rewards: str
    """SHA-256 over every step's reward, in order, training and evaluation."""
    learned: Learned | None
    """What the training process said of the agent."""
    passes: tuple[float, ...]
    """Percent of each pass over the year."""

    def differences(self, other: Career) -> list[str]:
        """The names of the figures that are not the same."""
        return [field.name for field in fields(self) if getattr(self, field.name) != getattr(other, field.name)]


def careers(journal: Path, learned: dict[str, Learned], windows: int) -> dict[str, Career]:
    """The career of each agent in `journal`; `learned` is what was told, a pass has `windows` episodes."""
    state = replay.load(journal)
    steps = effective_rewards(journal)
    lives = {}
    for name, agent in state.agents.items():
        own = steps[steps.agent == name]
        trained = own[own.phase == "train"]
        totals = agent.effective["train"]
        lives[name] = Career(
            episodes=totals.episodes,
            steps=totals.steps,
            reward=float(totals.reward),
            exam=float(agent.effective["eval"].reward),
            rewards=hashlib.sha256(own.value.to_numpy().tobytes()).hexdigest(),
            learned=learned.get(name),
            passes=tuple(trained.groupby(trained.episode // windows).value.sum().tolist()),
        )
    return lives


def rewards(journal: Path) -> pd.DataFrame:
    """One row per recorded step, in the order of recording: agent, phase, episode, step, value."""
    import pyarrow as pa
    import pyarrow.compute as pc

    batches = [batch.filter(pc.equal(batch.column("kind"), "Rewarded")) for batch in replay.events(journal)]
    frame: pd.DataFrame = pa.Table.from_batches(batches).select([*_STEP, "value"]).to_pandas()
    return frame.astype({"agent": str, "phase": str})


def effective_rewards(journal: Path) -> pd.DataFrame:
    """The same without what was superseded: of a step taken again after a resume, the last recording counts."""
    return rewards(journal).drop_duplicates(_STEP, keep="last").sort_values(_STEP)


def is_beginning(part: Path, whole: Path) -> bool:
    """Are the recorded steps of `part`, bit for bit, the first ones of `whole`?"""
    some, all_of_them = rewards(part), rewards(whole)
    return some.equals(all_of_them.head(len(some)))
