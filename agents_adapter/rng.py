"""Random number generators: their state as plain data, and back in place. Nothing here ever seeds one.

    captured = rng.capture_global()        # Python's random, numpy's global one, torch's where it is imported
    captured = rng.capture(generator)      # one numpy Generator, RandomState or random.Random
    rng.restore(generator, captured)       # the same object goes on from there

A state fits only the algorithm it was taken from.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np

from agents_adapter import tensors
from journal.errors import ResumeImpossible

Rng = np.random.Generator | np.random.RandomState | np.random.BitGenerator | random.Random


def is_rng(value: Any) -> bool:
    """Can `capture` take this?"""
    return isinstance(value, Rng)


def capture(generator: Rng) -> dict[str, Any]:
    """The generator's state, as what the codec holds; the generator is left as it is.

    For a numpy Generator also the seed sequence its `spawn` draws from.
    """
    if isinstance(generator, random.Random):
        return {"rng": _name(generator), "state": generator.getstate()}
    if isinstance(generator, np.random.RandomState):
        return {"rng": _name(generator), "state": generator.get_state(legacy=False)}
    bits = _bits(generator)
    return {"rng": _name(generator), "state": bits.state, "seed_sequence": _seed_sequence(bits)}


def check(generator: Rng, captured: Any, what: str = "the generator") -> None:
    """Raises `ResumeImpossible` where `captured` cannot be restored into `generator`; changes nothing."""
    kind = captured.get("rng") if isinstance(captured, dict) else None
    if not isinstance(kind, str):
        raise ResumeImpossible(f"{what} is a random generator, in the checkpoint it is none: {_AS_BEFORE}")
    if kind != _name(generator):
        raise ResumeImpossible(f"{what} is a {_name(generator)}, in the checkpoint it is a {kind}: {_AS_BEFORE}")
    try:
        _set(_twin(generator), captured)
    except (AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise ResumeImpossible(f"{what} cannot take the random state of the checkpoint: {error}") from error


def restore(generator: Rng, captured: Any, what: str = "the generator") -> None:
    """Set `generator` back to `captured`, in place. Raises `ResumeImpossible`, and then has changed nothing."""
    check(generator, captured, what)
    _set(generator, captured)


def capture_global() -> dict[str, Any]:
    """The state of Python's `random`, numpy's global generator, and torch's where torch is imported."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(legacy=False),
        "torch": tensors.capture_rng(),
    }


def restore_global(captured: Any) -> None:
    """Set the global generators back to what `capture_global` gave.

    Raises `ResumeImpossible`; then all of them are as before. torch's is left alone where the checkpoint has none.
    """
    before = random.getstate(), np.random.get_state(legacy=False)
    try:
        random.setstate(captured["python"])
        np.random.set_state(captured["numpy"])
        if captured["torch"] is not None:
            tensors.restore_rng(captured["torch"])
    except BaseException as error:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if isinstance(error, (AttributeError, ArithmeticError, LookupError, RuntimeError, TypeError, ValueError)):
            raise ResumeImpossible(
                f"the global random state of the checkpoint cannot be restored: {error!r}"
            ) from error
        raise


_POOL_MAX = 1 << 10
"""Words of a seed sequence, of which numpy takes 4: it makes room for as many as it is told, and mixes all of them."""
_AS_BEFORE = "build the agent as in the run that is to go on, or start anew with resume='never'"


def _bits(generator: np.random.Generator | np.random.BitGenerator) -> np.random.BitGenerator:
    return generator.bit_generator if isinstance(generator, np.random.Generator) else generator


def _name(generator: Rng) -> str:
    """What must be the same at a restore: the algorithm behind the generator."""
    if isinstance(generator, random.Random):
        return f"random.{type(generator).__name__}"
    if isinstance(generator, np.random.RandomState):
        return f"numpy RandomState({generator.get_state(legacy=False)['bit_generator']})"
    return f"numpy {type(_bits(generator)).__name__}"


def _twin(generator: Rng) -> Rng:
    """A new generator of the same kind, to try a state on."""
    if isinstance(generator, random.Random):
        return type(generator)()
    if isinstance(generator, np.random.RandomState):
        return np.random.RandomState(0)
    return type(_bits(generator))(0)


def _set(generator: Rng, captured: dict[str, Any]) -> None:
    state = captured["state"]
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        bits = _bits(generator)
        sequence = captured.get("seed_sequence")
        if sequence is None:
            bits.state = state
        elif not 0 < sequence.get("pool_size", 0) <= _POOL_MAX:
            raise ValueError(f"a seed sequence of {sequence.get('pool_size')!r:.40} words")
        else:
            # The public way to give a bit generator its seed sequence; without it `spawn` would repeat its children.
            bits.__setstate__((state, np.random.SeedSequence(**sequence)))  # type: ignore[attr-defined]


def _seed_sequence(bits: np.random.BitGenerator) -> dict[str, Any] | None:
    sequence = getattr(bits, "seed_seq", None)
    if type(sequence) is not np.random.SeedSequence:
        return None
    return dict(sequence.state)
