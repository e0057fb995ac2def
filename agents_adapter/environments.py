"""The environments that a track has wrapped, and the random generators in them, which travel in the checkpoints.

Generators are found as attributes: of the environment, of what it wraps, of each sub-environment, and of their spaces.
Those of sub-environments in other processes are asked for, and set back, through `get_attr` and `set_attr`.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import numpy as np

from agents_adapter import rng
from journal.errors import ResumeImpossible
from journal.events import Phase

_SPACES = ("action_space", "observation_space", "single_action_space", "single_observation_space")
_INNER = ("env", "_journal_env", "venv")
"""Where a wrapper keeps what it wraps: Gymnasium's, ours, Stable-Baselines3's."""


class Environments:
    """The wrapped environments of a track, known by the order in which they were wrapped."""

    def __init__(self) -> None:
        self._wrapped: list[tuple[Any, Phase, int]] = []
        """(environment, phase, number of its sub-environments)"""
        self._expected: list[dict[str, Any]] = []

    def add(self, env: Any, phase: Phase, count: int = 1) -> int:
        """Take one more; its generators go on from the checkpoint, if that has them. Returns its (first) env_index.

        One that is wrapped again stays what it was.
        """
        index = 0
        for known, its_phase, its_count in self._wrapped:
            if its_phase == phase:
                if known is env:
                    return index
                index += its_count
        number = len(self._wrapped)
        if number < len(self._expected):
            put_back(env, self._expected[number])
        self._wrapped.append((env, phase, count))
        return index

    def capture(self) -> list[dict[str, Any]]:
        """The state of all their generators."""
        return [{path: rng.capture(found) for path, found in generators(env)} for env, _, _ in self._wrapped]

    def expect(self, captured: list[dict[str, Any]]) -> None:
        """Set the generators back to `captured`; those of environments not wrapped yet, when they are."""
        self._expected = captured
        for (env, _, _), saved in zip(self._wrapped, captured, strict=False):
            put_back(env, saved)


def generators(env: Any) -> Iterator[tuple[str, rng.Rng]]:
    """Path and generator, for each that the environment draws from."""
    for path, part in parts(env):
        for name, value in vars(part).items():
            if rng.is_rng(value):
                yield f"{path}.{name}", value
        if _elsewhere(part):
            for number, value in enumerate(part.get_attr("np_random")):
                yield f"{path}.process[{number}]", value


def put_back(env: Any, captured: dict[str, Any]) -> None:
    """Set the environment's generators back. Raises `ResumeImpossible` where it is built differently."""
    found = dict(parts(env))
    elsewhere: dict[str, list[rng.Rng]] = {}
    for path, saved in captured.items():
        owner, _, name = path.rpartition(".")
        if owner not in found:
            raise ResumeImpossible(
                f"{env!r:.80} has no {owner}, in the checkpoint it has: wrap the same environments in the same order"
            )
        if name.startswith("process["):
            generator = _new(saved)
            elsewhere.setdefault(owner, []).append(generator)
        else:
            generator = vars(found[owner]).get(name)
        if generator is None:
            # Gymnasium makes it at the first reset only.
            if not name.isidentifier() or name.startswith("__") or callable(getattr(type(found[owner]), name, None)):
                raise ResumeImpossible(f"{path!r:.80} in the checkpoint is no generator of {env!r:.80}")
            generator = _new(saved)
            setattr(found[owner], name, generator)
        rng.restore(generator, saved, path)
    for owner, of_processes in elsewhere.items():
        _send(found[owner], owner, of_processes)


def parts(env: Any) -> Iterator[tuple[str, Any]]:
    """The environment, what it wraps, its sub-environments and all their spaces, each once, by path."""
    seen: set[int] = set()
    yield from _layers("env", env, seen)


def sub_environments(env: Any) -> list[Any]:
    """Those of a vector environment that live in this process, in order; none where they cannot be reached."""
    layer: Any = env
    while layer is not None and hasattr(layer, "__dict__"):
        own = vars(layer)
        if isinstance(own.get("envs"), (list, tuple)):
            return list(own["envs"])
        layer = next((own[name] for name in _INNER if name in own), None)
    return []


def _layers(path: str, layer: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    while layer is not None and hasattr(layer, "__dict__") and id(layer) not in seen:
        seen.add(id(layer))
        yield path, layer
        own = vars(layer)
        for name in _SPACES:
            yield from _spaces(f"{path}.{name}", own.get(name), seen)
        listed = own.get("envs")
        for number, sub in enumerate(listed if isinstance(listed, (list, tuple)) else ()):
            yield from _layers(f"{path}.envs[{number}]", sub, seen)
        path, layer = f"{path}.env", next((own[name] for name in _INNER if name in own), None)


def _spaces(path: str, space: Any, seen: set[int]) -> Iterator[tuple[str, Any]]:
    if space is None or not hasattr(space, "__dict__") or id(space) in seen:
        return
    seen.add(id(space))
    yield path, space
    inner = vars(space).get("spaces")
    listed = inner.items() if isinstance(inner, dict) else enumerate(inner) if isinstance(inner, (list, tuple)) else ()
    for key, part in listed:
        yield from _spaces(f"{path}.{key}", part, seen)


def _elsewhere(part: Any) -> bool:
    """Do its sub-environments live in other processes, which can be asked?"""
    own = vars(part)
    asks = "processes" in own and "envs" not in own and hasattr(part, "get_attr") and hasattr(part, "set_attr")
    return asks and not own.get("closed", False)


def _send(part: Any, path: str, of_processes: list[rng.Rng]) -> None:
    if not _elsewhere(part) or part.num_envs != len(of_processes):
        raise ResumeImpossible(
            f"{path} had {len(of_processes)} processes, in the checkpoint: wrap the same environments in the same order"
        )
    if hasattr(part, "env_method"):  # Stable-Baselines3 sets one value in the environments that are named.
        for number, generator in enumerate(of_processes):
            part.set_attr("np_random", generator, [number])
    else:
        part.set_attr("np_random", tuple(of_processes))


def _new(saved: dict[str, Any]) -> rng.Rng:
    kind = str(saved.get("rng")).removeprefix("numpy ")
    if kind == "random.Random":
        return random.Random()
    bits = getattr(np.random, kind, None)
    if not isinstance(bits, type) or not issubclass(bits, np.random.BitGenerator):
        raise ResumeImpossible(f"the checkpoint holds a generator {kind!r:.40}, which cannot be made here")
    return np.random.Generator(bits())
