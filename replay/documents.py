"""The JSON documents of the command line: plain data; numbers that JSON lacks (NaN, infinite) are null."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from journal.manifest import Manifest
from replay.frames import dropped_document, moment, totals_document
from replay.outlook import outlook
from replay.resume import ResumePoint
from replay.rows import By, rows
from replay.state import Agent, Attempt, Checkpoint, Run, State
from replay.totals import PHASES

if TYPE_CHECKING:
    from replay.compaction import Compacted  # They need pyarrow.
    from replay.compare import Comparison  # Which needs `in_words`.
    from replay.copying import Copied
    from replay.results import Results

SCHEMA: Final = 1
DEPTH_MAX: Final = 100
"""Lists in lists: msgpack takes more of them than JSON and people do."""


def dumps(document: Mapping[str, Any], *, indent: int | None = 2) -> str:
    """The document as JSON text."""
    return json.dumps(plain(document), indent=indent, ensure_ascii=False, allow_nan=False)


def plain(value: Any, depth: int = 0) -> Any:
    """`value` as what JSON holds: bytes in hexadecimal, NaN and infinite numbers as None, keys as text.

    What is nested deeper than `DEPTH_MAX` is shown as "…".
    """
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).hex()
    if depth > DEPTH_MAX:
        return "…"
    if isinstance(value, Mapping):
        return {key.hex() if isinstance(key, bytes) else str(key): plain(one, depth + 1) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one, depth + 1) for one in value]
    return str(value)


def in_words(value: Any) -> str:
    """A value of an event in a sentence; what is long is cut off. Its keys may be of any kind, also mixed."""
    return "nothing" if value is None else json.dumps(plain(value), sort_keys=True)[:120]


def replay_document(state: State, *, live: bool, past: bool = False) -> dict[str, Any]:
    """`journal replay`: the state, and where each agent goes on. Reads the checkpoint files, to check them.

    `live`: a process writes the journal now; `past`: the state is an earlier one, whose attempt was running then.
    """
    points = {name: state.resume(name) for name in state.agents}
    return {
        **runs_document(state, live=live, past=past),
        "agents": {name: _agent(state.agents[name], point) for name, point in points.items()},
        "command": next((point.command for point in points.values()), None),
    }


def runs_document(state: State, *, live: bool, past: bool = False) -> dict[str, Any]:
    """`journal runs`; arguments as for `replay_document`."""
    runs = [_run(run, running=live or past) for run in state.runs.values()]
    return {**_place(state), "live": live, "runs": runs}


def merged_runs(documents: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The runs of several journals in the order in which they began; each says in which journal it is."""
    runs = [{"path": path, **run} for path, document in documents.items() for run in document["runs"]]
    return {
        "journals": len(documents),
        "events": sum(document["events"] for document in documents.values()),
        "live": any(document["live"] for document in documents.values()),
        "runs": sorted(runs, key=lambda run: run["started"] or ""),
    }


def totals_of(state: State) -> dict[str, Any]:
    """`journal totals`."""
    return {**_place(state), "agents": {name: totals_document(agent) for name, agent in state.agents.items()}}


def merged_totals(state: State) -> dict[str, Any]:
    """The totals of several journals together; a seq means nothing there."""
    return {
        "events": state.events,
        "runs": len(state.runs),
        "agents": {name: totals_document(agent) for name, agent in state.agents.items()},
    }


def trends_document(state: State, by: By, metric: str, agent: str | None) -> dict[str, Any]:
    """`journal trends`; of this agent only, if it is not None. Also of several journals together."""
    table = rows(state, by)
    agents = {name: one for name, one in state.agents.items() if agent in (None, name)}
    return {
        **(_place(state) if state.storage is not None else {"events": state.events, "runs": len(state.runs)}),
        "by": by,
        "metric": metric,
        "trends_since": state.trends_since,
        "agents": {
            name: {
                "total_episodes": one.effective["train"].episodes,
                "spent_episodes": one.spent["train"].episodes,
                "runs": len(one.runs),
                "metrics": sorted({metric for phase in PHASES for metric in one.metrics(phase)}),
                **{phase: outlook(name, phase, one.effective_trends(phase), metric).as_document() for phase in PHASES},
                "rows": [row for row in table if row["agent"] == name],
            }
            for name, one in agents.items()
        },
    }


def compare_document(comparison: Comparison, results: Results | None = None) -> dict[str, Any]:
    """`journal compare`; only comparable agents have results."""
    return {
        "verdict": comparison.verdict,
        "reason": comparison.reason,
        "tolerance": comparison.tolerance,
        "agents": [career.agent for career in comparison.careers],
        "episodes": comparison.episodes.get("train", 0),
        "eval": {"episodes": comparison.episodes.get("eval", 0)},
        "runs": {career.agent: {"run": career.run or None, "status": career.status} for career in comparison.careers},
        "differences": [difference.as_document() for difference in comparison.differences],
        "results": None if results is None else results.as_document(),
    }


def compact_document(done: Compacted, *, dry_run: bool) -> dict[str, Any]:
    """`journal compact`; with `dry_run`, what it would do."""
    return {**asdict(done), "dry_run": dry_run}


def copy_document(done: Copied) -> dict[str, Any]:
    """`journal copy`."""
    return {**asdict(done), "head": done.head._asdict()}


def _place(state: State) -> dict[str, Any]:
    return {
        "journal": state.journal_id.hex(),
        "events": state.events,
        "last_seq": state.last_seq,
        "last_time": moment(state.last_time_ns),
        "dropped": dropped_of(state),
    }


def dropped_of(state: State) -> dict[str, Any] | None:
    """What was dropped of the journal that this state was read from."""
    return None if state.storage is None else dropped_document(Manifest.read(state.storage))


def _run(run: Run, *, running: bool) -> dict[str, Any]:
    return {
        "id": run.id,
        "status": run.status,
        "started": moment(run.started_ns),
        "ended": moment(run.ended_ns or 0),
        "agents": list(run.agents),
        "plans": {
            name: {"plan_hash": plan.plan_hash, "length": plan.length, "path": plan.path}
            for name, plan in run.plans.items()
        },
        "config": run.config,
        "attempts": [_attempt(attempt, running=running) for attempt in run.attempts],
    }


def _attempt(attempt: Attempt, *, running: bool) -> dict[str, Any]:
    return {
        "number": attempt.number,
        # One that did not end, in a journal that nobody writes, has crashed; the next start will note it.
        "status": "crashed" if attempt.status == "running" and not running else attempt.status,
        "started": moment(attempt.started_ns),
        "ended": moment(attempt.ended_ns or 0),
        "error": attempt.error,
        "pid": attempt.pid,
        "host": attempt.host,
        "cwd": attempt.cwd,
        "argv": attempt.argv,
        "code": attempt.code,
        "git_commit": attempt.git_commit,
        "git_dirty": attempt.git_dirty,
        "versions": attempt.versions,
    }


def _agent(agent: Agent, point: ResumePoint) -> dict[str, Any]:
    return {
        "run": point.run,
        "next_episode": point.next_episode["train"],
        "checkpoint": None if point.checkpoint is None else _checkpoint(point.checkpoint),
        "redo_episodes": point.redo_episodes,
        "redo_steps": point.redo_steps,
        "finished": len(point.finished["train"]),
        "damaged": point.damaged,
        "rewinds": agent.rewinds,
        "open": [
            {"phase": phase, "env_index": env_index, "episode": episode.episode, "steps": episode.steps}
            for (phase, env_index), episode in agent.open.items()
        ],
        "episodes": {phase: agent.effective[phase].episodes for phase in PHASES},
        "steps": {phase: agent.effective[phase].steps for phase in PHASES},
        "eval": {"next_episode": point.next_episode["eval"], "finished": len(point.finished["eval"])},
    }


def _checkpoint(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "seq": checkpoint.seq,
        "path": checkpoint.path,
        "sha256": checkpoint.sha256,
        "size": checkpoint.size,
        "episode": checkpoint.episode,
        "saved_by": checkpoint.agent,
        "run": checkpoint.run,
        "time": moment(checkpoint.time_ns),
    }
