"""Generators go on exactly where they were captured, and are never touched by a refused restore."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from agents_adapter import codec, rng
from journal.errors import ResumeImpossible

BITS = [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox, np.random.SFC64]


def through_a_checkpoint(captured: Any) -> Any:
    return codec.decode(codec.encode(captured))


def draw(generator: Any) -> list[float]:
    if isinstance(generator, random.Random):
        return [generator.random(), generator.gauss(0, 1), float(generator.randrange(10))]
    if isinstance(generator, np.random.BitGenerator):
        return [float(x) for x in generator.random_raw(5)]
    return [*generator.normal(size=3).tolist(), *generator.random(2).tolist()]


@pytest.mark.parametrize(
    "make",
    [
        *(lambda seed, bits=bits: np.random.Generator(bits(seed)) for bits in BITS),
        *(lambda seed, bits=bits: bits(seed) for bits in BITS),
        np.random.RandomState,
        random.Random,
    ],
)
def test_a_generator_goes_on_where_it_was_captured(make: Any) -> None:
    generator, other = make(7), make(8)
    draw(generator)
    captured = through_a_checkpoint(rng.capture(generator))
    expected = draw(generator)
    rng.restore(other, captured)
    assert draw(other) == expected


def test_half_used_words_and_gaussians_travel() -> None:
    """Both keep a rest between calls: a 32-bit half, a second normal value."""
    generator = np.random.default_rng(1)
    generator.integers(10, dtype=np.uint32)
    legacy = np.random.RandomState(1)
    legacy.normal()
    for one, other in ((generator, np.random.default_rng(2)), (legacy, np.random.RandomState(2))):
        rng.restore(other, through_a_checkpoint(rng.capture(one)))
    fresh = np.random.default_rng(3)
    rng.restore(fresh, rng.capture(generator))
    assert (
        fresh.integers(10, size=5, dtype=np.uint32).tolist() == generator.integers(10, size=5, dtype=np.uint32).tolist()
    )


def test_spawned_children_go_on_too() -> None:
    generator = np.random.default_rng()
    generator.spawn(3)
    captured = through_a_checkpoint(rng.capture(generator))
    expected = generator.spawn(1)[0].random()
    other = np.random.default_rng()
    rng.restore(other, captured)
    assert other.spawn(1)[0].random() == expected


def test_a_capture_does_not_follow_the_generator() -> None:
    for generator in (np.random.default_rng(1), np.random.RandomState(1), np.random.Generator(np.random.MT19937(1))):
        captured = rng.capture(generator)
        before = codec.encode(captured)
        draw(generator)
        assert codec.encode(captured) == before


@pytest.mark.parametrize(
    ("generator", "captured", "what"),
    [
        (np.random.default_rng(1), rng.capture(np.random.Generator(np.random.MT19937(1))), "PCG64.*MT19937"),
        (np.random.default_rng(1), rng.capture(random.Random(1)), "PCG64.*random.Random"),
        (np.random.default_rng(1), 5, "is none"),
        (np.random.default_rng(1), {"rng": "numpy PCG64", "state": {"bit_generator": "PCG64"}}, "cannot take"),
        (random.Random(1), {"rng": "random.Random", "state": (3, (1, 2), None)}, "cannot take"),
    ],
)
def test_another_kind_of_state_is_refused_and_changes_nothing(generator: Any, captured: Any, what: str) -> None:
    before = codec.encode(rng.capture(generator))
    with pytest.raises(ResumeImpossible, match=what):
        rng.restore(generator, captured, "state['rng']")
    assert codec.encode(rng.capture(generator)) == before


def test_the_global_generators_go_on() -> None:
    captured = through_a_checkpoint(rng.capture_global())
    expected = [random.random(), np.random.normal(), np.random.normal()]
    np.random.seed(99)
    random.seed(99)
    rng.restore_global(captured)
    assert [random.random(), np.random.normal(), np.random.normal()] == expected


def test_a_bad_global_state_changes_none_of_them() -> None:
    captured = rng.capture_global()
    random.random()
    before = codec.encode(rng.capture_global())
    with pytest.raises(ResumeImpossible, match="global random state"):
        rng.restore_global({**captured, "numpy": {"bit_generator": "MT19937", "state": {}}})
    with pytest.raises(ResumeImpossible, match="global random state"):
        rng.restore_global({})
    assert codec.encode(rng.capture_global()) == before


def test_capturing_draws_nothing() -> None:
    random.seed(5)
    np.random.seed(5)
    expected = random.random(), np.random.random()
    random.seed(5)
    np.random.seed(5)
    rng.capture_global()
    assert (random.random(), np.random.random()) == expected
