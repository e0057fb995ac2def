"""The chain: each promise hashes the one before it and every byte since.

    chain_0 = H("training-journal 1" ‖ journal id)
    chain_n = H(chain_{n-1} ‖ raw cells [P_{n-1}, P_n))          H = BLAKE3, first 24 bytes

A promise therefore fixes every cell before it: whoever noted one (`journal verify --expect SEQ:CHAIN`) finds any later
edit, cut, reorder or roll-back, also by somebody who recomputes the CRCs. A span never crosses a segment's end, so
every segment is checked by itself.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from blake3 import blake3

CHAIN_LENGTH: Final = 24
"""Bytes of a chain value: 192 bits, what a 64-byte promise leaves room for."""


def genesis(journal_id: bytes) -> bytes:
    """The chain before a journal's first cell."""
    return blake3(b"training-journal 1" + journal_id).digest(length=CHAIN_LENGTH)


_SHORT: Final = 256 << 10
"""Bytes: less than that is copied behind its chain. BLAKE3 hashes many KiB at once where they begin at a whole one."""


class Span:
    """A span that is taken in part by part; `chain` is the chain before it."""

    def __init__(self, chain: bytes) -> None:
        self._hasher = blake3()
        self._before = chain
        """What is still to be hashed before the next part."""

    def take(self, part: bytes | memoryview) -> None:
        """The raw cells that come next."""
        if self._before and len(part) < _SHORT:
            part = self._before + part
        else:
            self._hasher.update(self._before)
        self._before = b""
        self._hasher.update(part)

    def end(self) -> bytes:
        """The chain after what was taken."""
        self._hasher.update(self._before)
        return self._hasher.digest(length=CHAIN_LENGTH)


def extend(chain: bytes, parts: Iterable[bytes | memoryview]) -> bytes:
    """The chain after the raw cells `parts`, given it before them."""
    span = Span(chain)
    for part in parts:
        span.take(part)
    return span.end()
