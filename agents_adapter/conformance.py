"""Conformance: does a training that is killed and resumed end bit-equal to one that was never stopped?

    report = conformance.check([sys.executable, "train.py", "--dir", "{dir}"], "conformance", kills=20, seed=1)
    assert not report.differences, report

For any command that records through this library, in whatever framework: it is run once as it is, then again and again
with kills at random moments, until it gets through. Compared are each agent's effective episodes, steps, rewards and
metrics, and the states and vars of the last checkpoints. A training that draws from an unseeded generator fails, and so
it should.
"""

from __future__ import annotations

import os
import random
import signal
import struct
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

import replay
from agents_adapter.checkpoint import CheckpointStore
from agents_adapter.results import episode_rows
from journal.errors import JournalError
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from replay.state import State

_DIFFERENCES_MAX: Final = 50
_POLL: Final = 0.002


@dataclass(slots=True)
class Report:
    """What was done and found. `differences` is empty where every resumed training ended as the whole one."""

    seed: int
    """Repeats the moments of the kills, as far as the machine's speed does."""
    kills: int = 0
    trainings: int = 0
    differences: list[str] = field(default_factory=list)


def check(
    command: Sequence[str],
    folder: str | os.PathLike[str],
    *,
    kills: int = 10,
    seed: int = 0,
    signals: Sequence[int] = (signal.SIGKILL,),
    timeout: float = 600.0,
) -> Report:
    """Run `command` whole and with kills; "{dir}" in it is replaced by a journal's directory, a new one below `folder`.

    Ends after `kills` kills, by signals drawn from `signals`. Raises `RuntimeError` with the command's last words where
    it fails by itself, `subprocess.TimeoutExpired` where one attempt takes longer than `timeout` seconds.
    """
    draw = random.Random(seed)
    report = Report(seed)
    whole = os.path.join(os.fspath(folder), "whole")
    recording = _attempt(command, whole, timeout)
    assert recording is not None, "nobody killed it"
    while report.kills < kills and not report.differences:
        report.trainings += 1
        killed = os.path.join(os.fspath(folder), f"killed-{report.trainings}")
        while not _completed(killed):
            if report.kills == kills:
                _attempt(command, killed, timeout)
                break
            kill = draw.uniform(0.0, recording), draw.choice(list(signals))
            if _attempt(command, killed, timeout, kill) is None:
                report.kills += 1
        report.differences += differences(whole, killed)
    return report


def differences(one: str | os.PathLike[str], other: str | os.PathLike[str]) -> list[str]:
    """How the last runs of two journals differ, in words; empty where they ended bit-equal. Names at most 50."""
    found: list[str] = []
    for difference in _differences(*(replay.load(place) for place in (one, other))):
        found.append(difference)
        if len(found) == _DIFFERENCES_MAX:
            break
    return found


def _attempt(
    command: Sequence[str], directory: str, timeout: float, kill: tuple[float, int] | None = None
) -> float | None:
    """One process: the seconds from its first segment to its end; None where it was killed.

    `kill` is (seconds after its first segment, signal): killing an import would show nothing.
    """
    words = [word.replace("{dir}", directory) for word in command]
    segments = DiskStorage(os.path.join(directory, "segments"))
    before = segments.list("")
    process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    started, opened = time.monotonic(), None
    killed, said = False, b""
    try:
        while process.returncode is None:
            try:
                said = process.communicate(timeout=_POLL)[1]
            except subprocess.TimeoutExpired:
                pass
            now = time.monotonic()
            if opened is None and segments.list("") != before:
                opened = now
            if kill is not None and not killed and opened is not None and now >= opened + kill[0]:
                process.send_signal(kill[1])
                killed = True
            if now > started + timeout:
                raise subprocess.TimeoutExpired(words, timeout)
    except BaseException:
        process.kill()
        process.communicate()
        raise
    if process.returncode == 0:
        return time.monotonic() - (opened or started)
    if killed:
        return None
    raise RuntimeError(f"{words} ended by itself with {process.returncode}: {said.decode(errors='replace')[-2000:]}")


def _completed(directory: str) -> bool:
    """Is the training through? A kill may come when only the process's own end is left."""
    if not os.path.exists(os.path.join(directory, "journal.json")):
        return False
    last = next(reversed(replay.load(directory).runs.values()), None)
    return last is not None and last.status == "completed"


def _differences(one: State, other: State) -> Iterator[str]:
    runs = [next(reversed(state.runs.values()), None) for state in (one, other)]
    if runs[0] is None or runs[1] is None:
        yield "one of the journals holds no run"
        return
    for run in runs:
        if run is not None and run.status != "completed":
            yield f"run {run.id} is {run.status}"
    names = [sorted(name for name, agent in state.agents.items() if agent.runs) for state in (one, other)]
    if names[0] != names[1]:
        yield f"the agents are {names[0]} and {names[1]}"
    for name in sorted(set(names[0]) & set(names[1])):
        rows = [_rows(state, run.id, name) for state, run in zip((one, other), runs, strict=True) if run is not None]
        yield from _unequal(rows[0], rows[1], f"{name}: episode")
        yield from _unequal(_saved(one, name), _saved(other, name), name)


def _rows(state: State, run: str, agent: str) -> list[dict[str, Any]]:
    """The effective episodes, but for what time and place decide."""
    rows = episode_rows(_storage(state), run, agent)
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


def _saved(state: State, name: str) -> Any:
    """State and vars of the agent's last checkpoint; None where it has none."""
    checkpoints = state.agents[name].checkpoints
    if not checkpoints:
        return None
    last = checkpoints[-1]
    try:
        content = CheckpointStore(_storage(state)).load(last.path, last.sha256)
    except JournalError as error:
        return str(error)
    part = content["members"][name] if "members" in content else content
    return {"state": part["state"], "vars": part["vars"]}


def _storage(state: State) -> Storage:
    assert state.storage is not None, "a state that was loaded knows where from"
    return state.storage


def _unequal(one: Any, other: Any, path: str) -> Iterator[str]:
    """Where two trees of plain data differ in any bit."""
    if type(one) is not type(other):
        yield f"{path} is {one!r:.60} and {other!r:.60}"
    elif isinstance(one, Mapping):
        for key in [*one, *(key for key in other if key not in one)]:
            if key in one and key in other:
                yield from _unequal(one[key], other[key], f"{path}[{key!r}]")
            else:
                yield f"{path}[{key!r}] is only in one of them"
    elif isinstance(one, (list, tuple)):
        if len(one) != len(other):
            yield f"{path} has {len(one):,} and {len(other):,} items"
        for number, (left, right) in enumerate(zip(one, other, strict=False)):
            yield from _unequal(left, right, f"{path}[{number}]")
    elif isinstance(one, np.ndarray):
        if one.dtype != other.dtype or one.shape != other.shape or one.tobytes() != other.tobytes():
            yield f"{path} are arrays with different content"
    elif isinstance(one, float):
        if struct.pack("<d", one) != struct.pack("<d", other):
            yield f"{path} is {one!r} and {other!r}"
    elif hasattr(one, "detach"):
        yield from _unequal(one.detach().cpu().numpy(), other.detach().cpu().numpy(), path)
    elif one != other:
        yield f"{path} is {one!r:.60} and {other!r:.60}"
