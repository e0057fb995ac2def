"""training-journal, recording: any training loop, with three added lines, and killed at any moment.

    import agents_adapter
    from agents_adapter import Plan

    run = agents_adapter.start("runs/fx", config={"lr": 0.1})    # begins a run, or goes on with the unfinished one
    ppo = run.agent("PPO", state={"policy": policy, "rng": rng})
    for episode in ppo.episodes(plan):                           # those that are still to be done
        ...
        episode.step(reward)
    run.finish()

Files of one's own, saved whole or not at all: `atomic_write`, `atomic_json`, `atomic_parquet`.

What is saved and promised is told at `start`, `Run.agent` and `Track.episodes`; other loops: `Track.wrap`,
`Track.loop`.
"""

from typing import TYPE_CHECKING, Any

import replay

if getattr(replay, "__distribution__", None) != "training-journal":
    raise ImportError(
        f"the package `replay` in {replay.__file__} is not training-journal's: rename it, or take it off sys.path"
    )

from agents_adapter.bars import Bars
from agents_adapter.checkpoint import CheckpointStore
from agents_adapter.entry import PlanEntry
from agents_adapter.episode import Episode
from agents_adapter.plan import Plan
from agents_adapter.plan_env import PlanEnv
from agents_adapter.run import Run, start
from agents_adapter.track import Team, Track

if TYPE_CHECKING:
    from agents_adapter.saving import atomic_json, atomic_parquet, atomic_write

__all__ = [
    "Bars",
    "CheckpointStore",
    "Episode",
    "Plan",
    "PlanEntry",
    "PlanEnv",
    "Run",
    "Team",
    "Track",
    "atomic_json",
    "atomic_parquet",
    "atomic_write",
    "start",
]

_SAVING = ("atomic_json", "atomic_parquet", "atomic_write")
"""Imported when first asked for: a training that only records needs none of it."""


def __getattr__(name: str) -> Any:
    if name not in _SAVING:
        raise AttributeError(f"module 'agents_adapter' has no attribute {name!r}")
    from agents_adapter import saving

    globals().update({one: getattr(saving, one) for one in _SAVING})
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_SAVING})
