"""The resume point: where an agent goes on, from what, and what will be done again."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass, field

from journal.errors import ResumeImpossible
from journal.storage import Storage, inside
from replay.intervals import Intervals
from replay.state import Checkpoint, State
from replay.totals import PHASES, Phase

_CHUNK = 1 << 20
MISSING = "the file is missing"


@dataclass(frozen=True, slots=True)
class ResumePoint:
    """What `journal replay` prints of an agent, and what the adapter restores."""

    agent: str
    run: str | None
    """The unfinished run that would go on; None where the last one completed."""
    checkpoint: Checkpoint | None
    """The newest one of this run whose file still has its SHA-256."""
    next_episode: dict[Phase, int]
    """The episode numbers that come next, after going back to the checkpoint."""
    finished: dict[Phase, Intervals]
    """The plan's entries that need not be done again."""
    redo_episodes: int
    redo_steps: int
    """What was done after the checkpoint, in train and eval, and will be done again."""
    damaged: list[str] = field(default_factory=list)
    """Newer checkpoints that were passed over: path and why."""
    command: str | None = None
    """The command line that started the run."""


def resume_point(state: State, name: str) -> ResumePoint:
    """The resume point of agent `name`.

    Raises `ResumeImpossible` where the journal does not know the agent. A damaged or missing checkpoint file is passed
    over for the next older one, and named.
    """
    agent = state.agents.get(name)
    if agent is None:
        known = ", ".join(state.agents) or "none"
        raise ResumeImpossible(f"agent {name!r} is not in this journal (known: {known}); check the name")
    run = next(reversed(state.runs.values()), None)
    going_on = run is not None and run.status == "unfinished"
    chosen: Checkpoint | None = None
    damaged: list[str] = []
    for checkpoint in reversed(agent.checkpoints):
        if run is not None and checkpoint.run != run.id:
            break
        wrong = None if state.storage is None else check(state.storage, checkpoint)
        if wrong is None:
            chosen = checkpoint
            break
        damaged.append(f"{checkpoint.path}: {wrong}")
    lineage = agent.lineage if chosen is None else chosen.lineage
    redo = [
        (agent.effective[phase].episodes - lineage.effective[phase].episodes,
         agent.effective[phase].steps - lineage.effective[phase].steps)
        for phase in PHASES
    ]  # fmt: skip
    open_steps = sum(episode.steps for episode in agent.open.values())
    return ResumePoint(
        name,
        run.id if run is not None and going_on else None,
        chosen,
        dict(lineage.next_episode),
        lineage.finished,
        sum(episodes for episodes, _ in redo) + len(agent.open),
        sum(steps for _, steps in redo) + open_steps,
        damaged,
        command(state),
    )


def command(state: State) -> str | None:
    """The command line that started the last run; None where no attempt is recorded."""
    run = next(reversed(state.runs.values()), None)
    if run is None or not run.attempts:
        return None
    first = run.attempts[0]
    return f"cd {shlex.quote(first.cwd)} && {shlex.join(first.argv)}"


def check(storage: Storage, checkpoint: Checkpoint) -> str | None:
    """None if the checkpoint's file is the one that its event names; else what is wrong, in words."""
    try:
        path = inside(checkpoint.path)
        if not path.startswith("checkpoints/"):
            return "its path leads outside checkpoints/"
        size = storage.size(path)
        if size != checkpoint.size:
            return f"it has {size:,} bytes instead of {checkpoint.size:,}"
        digest = hashlib.sha256()
        for offset in range(0, size, _CHUNK):
            digest.update(storage.read(path, offset, min(_CHUNK, size - offset)))
    except FileNotFoundError:
        return MISSING
    except (OSError, ValueError) as error:
        return str(error)
    if digest.hexdigest() != checkpoint.sha256:
        return "its SHA-256 does not match: it was altered or damaged"
    return None
