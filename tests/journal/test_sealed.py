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


class Third:
    """The third segment of a log with a receipt behind nearly each event, to be changed and looked at."""

    def __init__(self) -> None:
        self.storage, rng = MemoryStorage(), Random(8)
        with journal.open("j", storage=self.storage, sync="close") as log:
            agent = log.agent("A")
            for step in range(90):
                kind = rng.randrange(9)
                if kind == 0:
                    log.append(journal.Custom(name="x", data=bytes(rng.randrange(600))))
                elif kind == 1:
                    log.rewards(agent, 0, range(step, step + 9), [float(step)] * 9)
                else:
                    log.reward(agent, 0, step, 0.5)
                if rng.randrange(4):
                    log.sync()
        self.manifest = Manifest.read(self.storage)
        self.path = segment.path_of(2)
        self.begins = [*sealed(self.storage, self.manifest)][1].base
        self.whole = self.storage.read(self.path)
        cells = arrays.view(self.whole[CELL:])
        self.heads = arrays.heads(cells).tolist()
        kinds = cells["kind"][self.heads].tolist()
        self.receipts = [at for at, kind in zip(self.heads, kinds, strict=True) if kind == cell.RECEIPT]
        assert kinds[-1] == cell.SEGMENT_SEALED and len(self.receipts) > 8

    def change(self, at: int, offset: int, size: int, more: int, **but: int) -> None:
        """A field of the head at this index is more than it was, and all checksums are made anew."""
        changed, place = bytearray(self.whole), (at + 1) * CELL + offset
        told = int.from_bytes(changed[place : place + size], "little") + more
        changed[place : place + size] = (told % (1 << 8 * size)).to_bytes(size, "little")
        self.write(remade(bytes(changed), self.begins.position, self.begins.chain, **but))

    def write(self, raw: bytes) -> None:
        with self.storage.stream(self.path) as stream:
            stream.write(raw)

    def looked_at(self) -> int:
        """How many segments are all right; a walk takes each of these, to the same end."""
        walk, walked = Walk(self.storage, self.manifest), []
        with suppress(CorruptJournal):
            for _ in walk:
                walked.append((walk.position, walk.seq, walk.chain, walk.promise))
        found = [(one.base.position, one.base.seq, one.base.chain, one.promise) for one in self.by_itself()]
        assert found == walked[: len(found)]
        return len(found)

    def by_itself(self) -> list[journal.sealed.Sealed]:
        return [*sealed(self.storage, self.manifest)]


@pytest.fixture(params=[2, 7, 64, 1 << 15])
def third(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, small_segments: int) -> Third:
    """So many cells are read at once; a block must hold the first mark."""
    monkeypatch.setattr(journal.sealed, "_CELLS", request.param)
    return Third()


KIND, EXTENT, SEQ, POSITION, EVENTS, BEGINS = (4, 2), (6, 2), (8, 8), (24, 8), (32, 8), (40, 8)
"""Where a head's fields are, and how long: of a promise what it states, and where a segment opened mark begins."""


def test_whatever_a_head_says_that_is_not_so_is_seen(third: Third) -> None:
    for at in third.heads:
        kind = int(arrays.view(third.whole[CELL:])["kind"][at])
        third.change(at, *KIND, -kind)
        assert third.looked_at() == 2, f"no kind at {at}"
        for more in (1, -1):
            if kind not in (cell.RECEIPT, cell.SEGMENT_SEALED):  # Nobody asks these: they state another number.
                third.change(at, *SEQ, more)
                assert third.looked_at() == 2, f"a seq of {more} more at {at}"
    for more in (1, -1):
        third.change(0, *BEGINS, more)
        assert third.looked_at() == 2, "another position"
        third.change(0, *KIND, more)
        assert third.looked_at() == 2, "another mark"
        for at in (*third.receipts, third.heads[-1]):
            third.change(at, *EVENTS, more)
            assert third.looked_at() == 2, f"{more} more events stated at {at}"
            third.change(at, *EVENTS, more, passed=at)
            assert third.looked_at() == 2, "nor where no later promise builds on it"
    for at in (0, *third.receipts):
        third.change(at, *KIND, 0, spoiled=at)
        assert third.looked_at() == 2, f"a wrong checksum, which the chain covers, at {at}"
        third.change(at, *KIND, 0, spoiled=at, passed=at)
        assert third.looked_at() == 2, "nor where no later promise builds on it"


def test_a_receipt_states_no_more_than_there_is_before_it_and_no_less_than_the_one_before(third: Third) -> None:
    for at in (*third.receipts, third.heads[-1]):
        for more in (1, 2, 1000):
            third.change(at, *POSITION, more)
            assert third.looked_at() == 2
    before = third.receipts[0]
    for at in third.receipts[1:]:
        third.change(at, *POSITION, before - 1 - at)
        assert third.looked_at() == 2
        before = at


def test_asked_again_with_all_of_it_at_hand_the_answer_is_an_answer(
    small_segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a receipt states too little, and the window is as large as the segment."""
    third = Third()
    monkeypatch.setattr(journal.sealed, "_CELLS", len(third.whole) // CELL - 1)
    third.change(third.receipts[2], *POSITION, third.receipts[1] - 1 - third.receipts[2])
    assert third.looked_at() == 2


def test_a_log_ends_at_its_first_seal(third: Third) -> None:
    for at in third.receipts:
        third.change(at, *KIND, cell.SEGMENT_SEALED - cell.RECEIPT)
        assert third.looked_at() == 2
    assert len(third.receipts) > 8


def test_a_mark_that_is_not_known_yet_is_only_passed_over(third: Third) -> None:
    for at in third.receipts:
        third.change(at, *KIND, 0xFFFF - cell.RECEIPT)
        assert third.looked_at() == 3


def test_what_a_receipt_states_may_be_in_the_block_before(third: Third) -> None:
    """It came a little later than it would have: an event was appended meanwhile."""
    whole, late = third.whole, 0
    for at, before in zip(third.heads[2:], third.heads[1:], strict=False):
        if at in third.receipts and before not in third.receipts:
            changed, place = bytearray(whole), (at + 1) * CELL
            cells = arrays.view(whole[CELL:])
            changed[place + 24 : place + 32] = (third.begins.position + before).to_bytes(8, "little")
            changed[place + 32 : place + 40] = int(cells["seq"][before]).to_bytes(8, "little")
            whole, late = bytes(changed), late + 1
    third.write(remade(whole, third.begins.position, third.begins.chain))
    assert late > 5 and third.looked_at() == 3


def test_all_right_is_what_is_there_now(third: Third, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its seal was looked at, and then something happened to the file: a compaction removes it, a disk fails."""
    storage, begins, whole = third.storage, third.begins, third.whole
    window = journal.sealed.Window()

    def look(begins: journal.manifest.Base = begins) -> journal.sealed.Sealed | None:
        return journal.sealed._check(storage, third.manifest, 2, begins, window)

    good = third.by_itself()[2]
    assert look() == good and good.size == len(whole)
    for other in (
        *(replace(begins, ordinal=2 + more) for more in (1, -1)),
        *(replace(begins, position=begins.position + more) for more in (1, -1)),
        *(replace(begins, seq=begins.seq + more) for more in (1, -1)),
        replace(begins, chain=bytes(24)),
    ):
        assert look(other) is None
    header = segment.Header.parse(whole, third.path)
    assert isinstance(header, segment.Header)
    just, less = (replace(header, size=len(whole) - more).pack() + whole[CELL:] for more in (0, CELL))
    third.write(just)
    assert look() == good
    newer = bytearray(whole)
    newer[8:10] = b"\xff\xff"
    for changed in (less, bytes(newer), bytes(CELL) + whole[CELL:], whole + b"x", whole + bytes(CELL), whole[:CELL]):
        third.write(changed)
        assert look() is None
    third.write(whole[:-CELL])
    assert look() is None, "its seal is missing"
    third.change(third.heads[-1], *KIND, cell.RECEIPT - cell.SEGMENT_SEALED)
    assert look() is None, "it ends with a receipt"
    third.change(third.heads[-1], *POSITION, third.heads[-2] - third.heads[-1])
    assert look() is None, "its seal states less than there is before it"
    third.write(whole)
    read_into = storage.read_into

    def fails(path: str, into: memoryview, offset: int = 0) -> int:
        raise OSError(5, "Input/output error")

    for reads in (fails, lambda *asked: read_into(*asked) - CELL):
        with monkeypatch.context() as patch:
            patch.setattr(storage, "read_into", reads)
            assert look() is None
    storage.remove(third.path)
    assert look() is None


def test_what_a_seal_stated_is_compared_with_what_its_segment_came_to(
    third: Third, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next one was checked from what the seal stated when it was looked at; meanwhile another file was there."""
    after, other = journal.sealed.base_after, bytes(24)
    third.write(remade(third.whole, third.begins.position, other))

    def before(storage: MemoryStorage, ordinal: int) -> journal.manifest.Base | None:
        found = after(storage, ordinal)
        return replace(found, chain=other) if found is not None and ordinal == 1 else found

    assert len(third.by_itself()) == 2
    monkeypatch.setattr(journal.sealed, "base_after", before)
    assert len(third.by_itself()) == 2


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
