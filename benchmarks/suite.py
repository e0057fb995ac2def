"""The suite: all questions, each asked in a process of its own; dated results; the newest answer to each question."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from benchmarks import (
    age,
    batches,
    billion,
    cold_read,
    compacting,
    compacting_steps,
    loops,
    memory,
    one_event,
    pause,
    reading_history,
    reading_segments,
    recording,
    starting,
    synced,
    syncing,
    verifying,
    writing_batches,
)
from benchmarks.fresh import Died, fresh
from benchmarks.question import Effort, say
from journal.speed.machine import line, machine
from journal.storage import replace
from journal.storage.disk import DiskStorage

QUESTIONS: Final[dict[str, ModuleType]] = {
    "one-event": one_event,
    "pause": pause,
    "batches": batches,
    "writing-batches": writing_batches,
    "synced": synced,
    "recording": recording,
    "syncing": syncing,
    "loops": loops,
    "cold-read": cold_read,
    "reading-history": reading_history,
    "reading-segments": reading_segments,
    "verifying": verifying,
    "compacting": compacting,
    "compacting-steps": compacting_steps,
    "memory": memory,
    "starting": starting,
    "age": age,
    "billion": billion,
}
"""Name → file. Each has an `answer(directory, effort)`, and asks what its first line says."""
BY_NAME_ONLY: Final = frozenset({"billion"})
"""Too long for every run."""
RESULTS: Final = Path(__file__).parent / "results"


def asks(name: str) -> str:
    """The question itself: the first line of its file."""
    return (QUESTIONS[name].__doc__ or "").strip().splitlines()[0]


def answer_of(name: str, directory: str, effort: Effort) -> dict[str, Any]:
    """In this process."""
    return asdict(QUESTIONS[name].answer(directory, effort))


def ask(names: Sequence[str], directory: str, effort: Effort) -> dict[str, Any]:
    """The document of a run. A question that fails is in it with its error, and does not keep the others from it."""
    questions: dict[str, Any] = {}
    for number, name in enumerate(names, 1):
        say(f"{number}/{len(names)} {name}: {asks(name)}")
        about, start = machine(directory), time.monotonic()
        try:
            found = fresh(answer_of, name, directory, effort)
        except Died as error:
            say(f"  {error}")
            found = {"rows": [], "values": {}, "skipped": [], "error": str(error)}
        questions[name] = {
            "asks": asks(name),
            "machine": about,
            "seconds": round(time.monotonic() - start, 1),
            "rounds": effort.rounds,
            **found,
        }
    return {"schema": 1, "machine": machine(directory), "questions": questions}


def save(document: dict[str, Any], results: Path = RESULTS) -> Path:
    """Into the file of the day; answers of the same day to other questions stay."""
    path = results / f"{document['machine']['date']}.json"
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        document = {**document, "questions": {**before["questions"], **document["questions"]}}
    os.makedirs(results, exist_ok=True)
    replace(DiskStorage(results), path.name, (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode())
    return path


def newest(results: Path = RESULTS) -> dict[str, dict[str, Any]]:
    """The newest answer to each question, of all dated results."""
    found: dict[str, dict[str, Any]] = {}
    for path in sorted(results.glob("*.json")):
        found.update(answers(path))
    return {name: found[name] for name in (*QUESTIONS, *sorted(found.keys() - QUESTIONS.keys())) if name in found}


def answers(path: Path) -> dict[str, dict[str, Any]]:
    """The answers in one file of results; those that failed are left out. Raises `ValueError` for any other file."""
    document = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(document, dict) or document.get("schema") != 1 or "questions" not in document:
        raise ValueError(f"{path} holds no results of this suite")
    return {name: one for name, one in document["questions"].items() if "error" not in one}


def machine_line(answer: Mapping[str, Any]) -> str:
    """Where and when a question was asked."""
    return line(answer["machine"])
