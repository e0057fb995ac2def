"""What a compaction takes in: in stretches that are bounded, each read once, and nothing that was not planned."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random

import pytest

from journal.errors import CorruptJournal
from journal.manifest import Base, Manifest
from journal.storage.memory import MemoryStorage
from replay import intake
from replay.batch import unpacked
from replay.history import Span
from replay.intake import Intake, Stretch, plan, sealed, walked

sys.path.insert(0, str(Path(__file__).parent))
from logs import EPISODE, add_segment_without_events, fresh, record, whole_state


@pytest.fixture
def storage() -> MemoryStorage:
    """Three sessions, and a segment without events between two of them."""
    storage = fresh()
    record(storage, EPISODE)
    add_segment_without_events(storage)
    for _ in range(2):
        record(storage, EPISODE)
    return storage


def behind(base: Base, segments: list[tuple[int, int]]) -> Iterator[tuple[int, Base]]:
    """Segments of so many events and bytes."""
    for events, taken in segments:
        base = replace(base, ordinal=base.ordinal + 1, seq=base.seq + events)
        yield taken, base


def test_what_one_file_covers_is_told() -> None:
    assert (intake.EVENTS_MAX, intake.BYTES_MAX) == (8_000_000, 256 << 20)
    stretch = Stretch(Base(3, 0, 10, b""), Base(5, 0, 30, b""))
    assert (stretch.span, stretch.ordinals) == (Span(10, 29), range(3, 5))


@pytest.mark.parametrize("first", [0, 7])
def test_a_stretch_is_as_long_as_it_may_be(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """Neither limit is passed but by a single segment; one more segment would pass one; and each begins with events."""
    monkeypatch.setattr(intake, "EVENTS_MAX", 10)
    monkeypatch.setattr(intake, "BYTES_MAX", 100)
    manifest = replace(Manifest.new(bytes(16)), base=Base(first, 0, first, b""))
    rng = Random(3)
    for _ in range(2000):
        segments = [(rng.choice((0, 0, 1, 3, 5, 10, 11)), rng.choice((1, 20, 50, 99, 101))) for _ in range(8)]
        stretches = plan(manifest, behind(manifest.base, segments))
        ends = [one.end for one in stretches]
        assert [one.base for one in stretches] == [manifest.base, *ends][: len(stretches)]
        parts = [segments[one.base.ordinal - first : one.end.ordinal - first] for one in stretches]
        left = segments[sum(map(len, parts)) :]
        assert not sum(events for events, _ in left) and (not parts or not left)
        for part, after in pairwise(parts):
            assert after[0][0], "what has no events begins no file"
            assert sum(e for e, _ in part) + after[0][0] > 10 or sum(b for _, b in part) + after[0][1] > 100
        for part in parts:
            whole = len(part) - next(number for number, (events, _) in enumerate(reversed(part)) if events)
            there = next(number for number, (events, _) in enumerate(part) if events) + 1
            fits = sum(e for e, _ in part) <= 10 and sum(b for _, b in part[:whole]) <= 100
            assert fits or whole == there, "what is too much is a single segment with events"


def test_seals_tell_what_a_walk_finds(storage: MemoryStorage) -> None:
    manifest = Manifest.read(storage)
    told = list(sealed(storage, manifest))
    assert told == list(walked(storage, manifest)) and len(told) == 4


def test_what_was_read_is_folded_and_where_it_ends_is_known(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "BYTES_MAX", 1)
    manifest = Manifest.read(storage)
    stretches = plan(manifest, sealed(storage, manifest))
    assert len(stretches) == 3
    with Intake(storage, manifest) as log:
        assert (log.place, log.state.events) == (manifest.base, 0)
        for stretch in stretches:
            for piece in log.read(stretch):
                for _, batch in unpacked(piece):
                    log.fold(batch)
            assert replace(log.place, context=stretch.end.context) == stretch.end and log.place.context.names
            assert log.state.events == stretch.end.seq
        assert log.state == whole_state(storage)
        beyond = Stretch(stretches[-1].end, replace(stretches[-1].end, ordinal=9, seq=99))
        with pytest.raises(CorruptJournal, match="a moment ago") as caught:
            list(log.read(beyond))
        assert (caught.value.path, caught.value.offset, caught.value.seq) == ("segments/00000004.seg", 0, 15 + 1)


def test_who_stops_in_the_middle_leaves_no_thread_that_reads_ahead(storage: MemoryStorage) -> None:
    manifest, before = Manifest.read(storage), threading.active_count()
    with pytest.raises(ZeroDivisionError), Intake(storage, manifest) as log:
        for _ in log.read(plan(manifest, sealed(storage, manifest))[0]):
            assert threading.active_count() > before
            raise ZeroDivisionError
    assert threading.active_count() == before
