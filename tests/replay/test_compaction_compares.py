"""The comparison that segments are removed on: made again from their history, byte for byte what is on disk."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import journal
from journal.cell import CELL
from journal.errors import JournalFailed
from journal.segment import Header
from journal.storage.memory import MemoryStorage
from replay import history
from replay.compaction import compact

sys.path.insert(0, str(Path(__file__).parent))
from logs import fresh, image, record_everything


@pytest.fixture
def large() -> MemoryStorage:
    """Behind what was compacted a segment that no read takes at once, and one without events before it."""
    storage = fresh()
    record_everything(storage)
    compact(storage)
    with journal.open("a journal", storage=storage, sync="close") as log:
        log.append(journal.Custom(name="large", data=b"\x07" * (3 << 20)))
    return storage


@pytest.mark.parametrize("at", [0, 1 << 20, (1 << 20) + 1, 5 << 19])
@pytest.mark.parametrize("by", [1, -1])
def test_no_segment_is_removed_for_history_that_differs_in_one_byte(
    large: MemoryStorage, monkeypatch: pytest.MonkeyPatch, at: int, by: int
) -> None:
    before, stretches = image(large), history.stretches

    def other(storage: MemoryStorage, path: str) -> Iterator[tuple[Header, bytes, bool]]:
        for header, part, last in stretches(storage, path):
            large = len(part) > 1 << 20
            changed = bytearray(part)
            if large:
                changed[at] = (changed[at] + by) % 256
            yield header, bytes(changed), last

    monkeypatch.setattr(history, "stretches", other)
    with pytest.raises(JournalFailed, match="does not give the bytes"):
        compact(large)
    assert image(large) == before


@pytest.mark.parametrize("cut", [1, 1 << 20, 5 << 19])
def test_a_segment_is_compared_in_whichever_pieces_it_comes(
    large: MemoryStorage, monkeypatch: pytest.MonkeyPatch, cut: int
) -> None:
    stretches = history.stretches

    def pieces(storage: MemoryStorage, path: str) -> Iterator[tuple[Header, bytes, bool]]:
        for header, part, last in stretches(storage, path):
            yield header, part[:cut], False
            yield header, part[cut:], last

    monkeypatch.setattr(history, "stretches", pieces)
    assert compact(large).segments == 2


@pytest.mark.parametrize("without", ["the seal", "all that the last piece is"])
def test_no_segment_is_removed_that_is_longer_than_what_its_history_gives(
    large: MemoryStorage, monkeypatch: pytest.MonkeyPatch, without: str
) -> None:
    """The same byte for byte as far as it goes is not the same."""
    before = image(large)
    stretches = history.stretches

    def shorter(storage: MemoryStorage, path: str) -> Iterator[tuple[Header, bytes, bool]]:
        for header, part, last in stretches(storage, path):
            yield header, part if not last else part[:-CELL] if without == "the seal" else b"", last

    monkeypatch.setattr(history, "stretches", shorter)
    with pytest.raises(JournalFailed, match="does not give the bytes"):
        compact(large)
    assert image(large) == before
