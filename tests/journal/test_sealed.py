"""Sealed segments seen through a window: all right only where a walk has nothing to say, and then it ends there too."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest

import journal
import journal.sealed
from journal import arrays, cell, segment
from journal.cell import CELL
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.sealed import sealed
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

sys.path.insert(0, str(Path(__file__).parent))
from segments import recorded, remade


@pytest.fixture(params=[1, 2, 7, 64, 1 << 15])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many cells are read at once."""
    monkeypatch.setattr(journal.sealed, "_CELLS", request.param)
    return int(request.param)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("syncs", [False, True])
def test_it_ends_where_a_walk_ends(blocks: int, syncs: bool) -> None:
    storage = recorded(1, syncs=syncs)
    manifest = Manifest.read(storage)
    found = list(sealed(storage, manifest))
    walk = Walk(storage, manifest)
    walked = [(walk.position, walk.seq, walk.chain, walk.promise) for _ in walk]
    told = [(one.base.position, one.base.seq, one.base.chain, one.promise) for one in found]
    assert told == walked[: len(told)] and len(walked) > 5
    if blocks > 1:  # A block must hold the first mark, of two cells.
        assert len(told) == len(walked)


@pytest.mark.usefixtures("small_segments")
def test_no_damaged_segment_is_all_right(blocks: int) -> None:
    """Every cell of a segment, at some byte; and where a walk sees damage, that is the segment."""
    storage = recorded(2, syncs=True)
    manifest = Manifest.read(storage)
    path = segment.path_of(manifest.segments[2])
    whole, rng = storage.read(path), Random(3)
    for at in range(0, len(whole), CELL):
        place = at + rng.randrange(CELL)
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        with storage.stream(path) as stream:
            stream.write(changed)
        assert len(list(sealed(storage, manifest))) <= 2, f"byte {place}"
        with pytest.raises(CorruptJournal) as raised:
            Walk(storage, manifest).run()
        assert raised.value.path == path
    for changed in (whole[:-CELL], whole + bytes(CELL), whole[: CELL * 3], b"", whole[:-1]):
        with storage.stream(path) as stream:
            stream.write(changed)
        assert len(list(sealed(storage, manifest))) <= 2


@pytest.mark.usefixtures("small_segments")
def test_segments_that_are_gone_exchanged_or_another_journals_are_not_all_right(blocks: int) -> None:
    storage, other = recorded(4, syncs=False), recorded(4, syncs=False)
    manifest = Manifest.read(storage)
    paths = [segment.path_of(ordinal) for ordinal in manifest.segments[:4]]
    held = [storage.read(path) for path in paths]
    header = segment.Header.parse(held[2], paths[2])
    assert isinstance(header, segment.Header)
    told = [replace(header, journal_id=bytes(16)).pack(), replace(header, ordinal=9).pack()]
    for instead in (held[1], held[3], other.read(paths[2]), *(one + held[2][CELL:] for one in told)):
        with storage.stream(paths[2]) as stream:
            stream.write(instead)
        assert len(list(sealed(storage, manifest))) <= 2
    storage.remove(paths[2])
    assert len(list(sealed(storage, manifest))) <= 2


@pytest.mark.usefixtures("small_segments")
def test_what_somebody_made_anew_is_all_right_where_a_walk_takes_it(blocks: int) -> None:
    storage = recorded(5, syncs=True)
    manifest = Manifest.read(storage)
    before = [*sealed(storage, manifest)]
    path = segment.path_of(manifest.segments[2])
    whole, rng = storage.read(path), Random(6)
    walk = Walk(storage, manifest)
    position, chain = next((walk.position, walk.chain) for piece in walk if piece.header.ordinal == 1)
    assert remade(whole, position, chain) == whole
    heads = (arrays.heads(arrays.view(whole[CELL:])) + 1).tolist()
    fields = ((4, 2), (6, 2), (8, 8), (24, 8), (32, 8), (40, 8))
    taken = refused = 0
    for _ in range(400):
        changed = bytearray(whole)
        place, (offset, size) = rng.choice([0, *heads, heads[-1]]) * CELL, rng.choice(fields)
        old = int.from_bytes(changed[place + offset : place + offset + size], "little")
        new = rng.choice([old + 1, old - 1, old + rng.randrange(9), 0, 0xFF01, 0xFF03]) % (1 << 8 * size)
        changed[place + offset : place + offset + size] = new.to_bytes(size, "little")
        try:
            made = remade(bytes(changed), position, chain)
        except (AssertionError, ValueError, OverflowError):
            continue
        if len(made) != len(whole):
            continue
        with storage.stream(path) as stream:
            stream.write(made)
        walk, walked = Walk(storage, manifest), []
        with suppress(CorruptJournal):
            for piece in walk:
                if piece.sealed:
                    walked.append((walk.position, walk.seq, walk.chain, walk.promise))
        found = [(one.base.position, one.base.seq, one.base.chain, one.promise) for one in sealed(storage, manifest)]
        assert found == walked[: len(found)]
        taken, refused = taken + (len(found) > 2), refused + (len(walked) <= 2)
    assert refused > 50 and (taken > 20 or len(before) <= 2)


@pytest.mark.usefixtures("small_segments")
def test_a_receipt_may_lie_far_behind_what_it_states(blocks: int) -> None:
    """As where a sync was slow: here all but the seal state the segment's beginning."""
    storage = recorded(7, syncs=True)
    manifest = Manifest.read(storage)
    walk, found = Walk(storage, manifest), []
    for piece in walk:
        late = piece.heads[piece.kinds == cell.RECEIPT].tolist()
        if late and late[-1] > 14:
            found.append((piece.header.ordinal, late))
    (ordinal, late), path = found[0], segment.path_of(found[0][0])
    walk = Walk(storage, manifest)
    before = next((walk.position, walk.seq, walk.chain) for piece in walk if piece.header.ordinal == ordinal - 1)
    changed = bytearray(storage.read(path))
    for at in late:
        changed[(at + 1) * CELL + 24 : (at + 1) * CELL + 40] = b"".join(n.to_bytes(8, "little") for n in before[:2])
    with storage.stream(path) as stream:
        stream.write(remade(bytes(changed), before[0], before[2]))
    assert len(list(sealed(storage, manifest))) == (ordinal + 1 if blocks > 1 else 0)
    with pytest.raises(CorruptJournal) as raised:
        Walk(storage, manifest).run()
    assert raised.value.path == segment.path_of(ordinal + 1)


def test_a_segment_that_is_being_written_is_left_to_the_walk() -> None:
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        log.append(journal.Custom(name="x"))
        log.sync()
        assert list(sealed(storage, Manifest.read(storage))) == []
    assert [one.base.seq for one in sealed(storage, Manifest.read(storage))] == [1]
