"""Plans in the log: recorded whole when an agent first walks them in a run, read back where a resume compares."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from agents_adapter.plan import Plan
from agents_adapter.recorder import Recorder
from journal import cell, events
from journal.errors import EventRejected, JournalFailed
from journal.events import Phase, PlanRecorded
from journal.live import failure
from journal.storage import Storage, inside, replace
from replay.scan import kept, scan

DIRECTORY = "checkpoints"
_ROOM = 1 << 16
"""Bytes that an event's other fields may take."""

Entries = list[dict[str, Any]]


def record(recorder: Recorder, agent: str, phase: Phase, plan: Plan) -> None:
    """Record that `agent` walks `plan`. One too large for an event goes to a file that its hash names."""
    path = None
    if len(plan.canonical) > cell.PAYLOAD_MAX - _ROOM:
        path = f"{DIRECTORY}/plan-{plan.hash}.json"
        storage = recorder.log.storage
        try:
            if not storage.exists(path):
                storage.make_directory(DIRECTORY)
                replace(storage, path, plan.canonical)
        except OSError as error:
            recorder.failed(failure(error, f"saving {path}"))
            return
    recorder.append(
        PlanRecorded(
            agent=agent,
            phase=phase,
            plan_hash=plan.hash,
            length=len(plan),
            entries=plan.to_payload() if path is None else None,
            path=path,
        )
    )


def recorded(storage: Storage, run: str, agent: str, phase: Phase) -> dict[str, Entries | None]:
    """Hash → entries of every plan that `agent` walked in `run`, oldest first; None where they cannot be read."""
    found: dict[str, Entries | None] = {}
    flag = cell.EVAL if phase == "eval" else 0
    for batch in scan(storage, since=kept(storage)):
        rows = np.flatnonzero((batch.kind == events.PlanRecorded.kind) & ((batch.flags & cell.EVAL) == flag))
        for row in rows.tolist():
            if batch.name(int(batch.agent[row])) == agent and batch.run[row] >= 0 and batch.runs[batch.run[row]] == run:
                fields = batch.fields(row)
                entries = fields.get("entries")
                if entries is None and fields.get("path"):
                    entries = _read(storage, str(fields["path"]))
                found[str(fields.get("plan_hash"))] = entries
    return found


def _read(storage: Storage, path: str) -> Entries | None:
    try:
        return Plan.from_payload(json.loads(storage.read(inside(path)))).to_payload()
    except (OSError, ValueError, RecursionError, EventRejected, JournalFailed):
        return None  # The hashes tell that the plans differ; only where is not told.
