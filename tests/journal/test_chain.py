"""The chain: what is hashed, in which parts it comes does not matter."""

from __future__ import annotations

import pytest
from blake3 import blake3

from journal import chain

SHORT = 256 << 10
"""Parts are taken in in another way from here on."""


def test_a_journals_chain_begins_with_its_id() -> None:
    assert chain.genesis(bytes(16)) == blake3(b"training-journal 1" + bytes(16)).digest()[:24]


@pytest.mark.parametrize(
    "lengths",
    [(), (0,), (64,), (64, 128), (SHORT - 1,), (SHORT,), (64, SHORT), (SHORT, 64), (SHORT + 64, SHORT, 0, 1)],
)
def test_a_span_is_the_hash_of_the_chain_before_it_and_its_bytes(lengths: tuple[int, ...]) -> None:
    before, number = bytes(range(24)), iter(range(256))
    parts = [bytes([next(number)]) * length for length in lengths]
    expected = blake3(before + b"".join(parts)).digest()[:24]
    assert chain.extend(before, parts) == expected
    assert chain.extend(before, map(memoryview, parts)) == expected
    span = chain.Span(before)
    for part in parts:
        span.take(part)
    assert span.end() == expected
