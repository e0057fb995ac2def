"""Sealed segments handed out block by block before their promises: the same events as a walk's, or withdrawn."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

import journal
import journal.sealed
from journal import arrays, cell, segment
from journal.cell import CELL
from journal.early import Withdrawn, early
from journal.manifest import Manifest
from journal.storage.memory import MemoryStorage
from journal.walk import Piece, Walk

sys.path.insert(0, str(Path(__file__).parent))
from segments import recorded, remade


@pytest.fixture(params=[2, 3, 7, 64, 1 << 15], autouse=True)
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many cells are read at once."""
    monkeypatch.setattr(journal.sealed, "_CELLS", request.param)
    return int(request.param)


def heads(piece: Piece) -> list[tuple[int, int, bytes, bytes]]:
    """(position, seq, cell, payload) of each head."""
    return [
        (
            piece.position + at,
            int(seq),
            bytes(piece.raw[at * CELL : (at + 1) * CELL]),
            bytes(arrays.payload(piece.raw, piece.cells, at)) if piece.cells["extent"][at] else b"",
        )
        for at, seq in zip(piece.heads.tolist(), piece.seqs.tolist(), strict=False)
    ]


def with_long_payloads(seed: int) -> MemoryStorage:
    """A segment with payloads of many blocks between rewards, and one at its end."""
    storage, rng = MemoryStorage(), Random(seed)
    with journal.open("j", storage=storage, sync="close") as log:
        agent = log.agent("A")
        for step in range(60):
            log.append(journal.Custom(name="x", data=rng.randbytes(rng.choice([0, 10, 1000, 20_000]))))
            for more in range(rng.randrange(5)):
                log.reward(agent, 0, step + more, 0.5)
    return storage


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("syncs", [False, True])
def test_it_hands_out_what_a_walk_does(blocks: int, syncs: bool) -> None:
    storage = recorded(1, syncs=syncs)
    manifest = Manifest.read(storage)
    walked = [one for piece in Walk(storage, manifest) for one in heads(piece)]
    found = [one for piece in early(storage, manifest) for one in heads(piece)]
    assert found == walked and len(found) > 300


def test_a_payload_may_be_longer_than_several_blocks() -> None:
    storage = with_long_payloads(2)
    manifest = Manifest.read(storage)
    walked = [one for piece in Walk(storage, manifest) for one in heads(piece)]
    assert [one for piece in early(storage, manifest) for one in heads(piece)] == walked


@pytest.mark.usefixtures("small_segments")
def test_the_pieces_of_a_segment_lie_side_by_side() -> None:
    storage = recorded(1, syncs=True)
    manifest = Manifest.read(storage)
    walked = {piece.path: (piece.position, piece.seq, piece.end) for piece in Walk(storage, manifest)}
    at, seq = -1, 0
    for piece in early(storage, manifest):
        begins, first, end = walked[piece.path]
        if cell.SEGMENT_OPENED in piece.kinds[:1]:
            assert at in (-1, begins), "the one before it was handed out to its end"
            at, seq = begins, first
        whole = storage.read(piece.path)[CELL:]
        assert (piece.position, piece.seq, len(piece.cells)) == (at, seq, piece.end)
        assert bytes(piece.raw) == whole[(at - begins) * CELL : (at - begins + piece.end) * CELL]
        assert (piece.size, piece.sealed, piece.verified) == (len(whole) + CELL, True, 0), "nothing is proved yet"
        assert len(piece.heads) == len(piece.kinds) == len(piece.seqs) - 1
        at, seq = at + piece.end, int(piece.seqs[-1])
    assert at == begins + end


def test_the_longest_payload_there_is_is_whole_wherever_it_begins(blocks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Here it is one of 25 cells."""
    monkeypatch.setattr("journal.early.EXTENT_MAX", 25)
    storage, rng = MemoryStorage(), Random(9)
    with journal.open("j", storage=storage, sync="close") as log:
        agent = log.agent("A")
        for step in range(100):
            log.rewards(agent, 0, [step] * 100, rng.sample(range(10**6), 100), rng.sample(range(10**6), 100))
            for _ in range(rng.randrange(3)):
                log.reward(agent, 0, step, 0.5)
    manifest = Manifest.read(storage)
    (piece,) = Walk(storage, manifest)
    assert piece.cells["extent"][piece.heads].max() == 25
    assert [one for some in early(storage, manifest) for one in heads(some)] == heads(piece)


@pytest.mark.usefixtures("small_segments")
def test_another_file_in_a_segments_place_is_left_to_the_walk() -> None:
    storage, other = recorded(4, syncs=False), recorded(4, syncs=False)
    manifest = Manifest.read(storage)
    path, good = segment.path_of(2), []
    for piece in early(storage, manifest):
        if piece.header.ordinal < 2:
            good += heads(piece)
    for instead in (storage.read(segment.path_of(1)), storage.read(segment.path_of(3)), other.read(path)):
        with storage.stream(path) as stream:
            stream.write(instead)
        assert [one for piece in early(storage, manifest) for one in heads(piece)] == good
    storage.remove(path)
    assert [one for piece in early(storage, manifest) for one in heads(piece)] == good


@pytest.mark.usefixtures("small_segments")
def test_what_is_damaged_is_withdrawn_or_not_handed_out(blocks: int) -> None:
    """Every cell of a segment, at some byte: who took it to the end would hold events that were never promised."""
    storage = recorded(2, syncs=True)
    manifest = Manifest.read(storage)
    path = segment.path_of(manifest.segments[2])
    good = [
        one for piece in Walk(storage, manifest) if piece.header.ordinal < manifest.segments[2] for one in heads(piece)
    ]
    whole, rng = storage.read(path), Random(3)
    withdrawn = 0
    for at in range(0, len(whole), CELL):
        changed = bytearray(whole)
        changed[at + rng.randrange(CELL)] ^= 1 << rng.randrange(8)
        with storage.stream(path) as stream:
            stream.write(changed)
        try:
            assert [one for piece in early(storage, manifest) for one in heads(piece)] == good
        except Withdrawn as error:
            withdrawn += 1
            assert str(error) == path
    assert withdrawn > 20 if blocks < 64 else not withdrawn
    for changed in (whole[:-CELL], whole + bytes(CELL), whole[: CELL * 3], b"", whole[:-1]):
        with storage.stream(path) as stream:
            stream.write(changed)
        assert [one for piece in early(storage, manifest) for one in heads(piece)] == good


@pytest.mark.usefixtures("small_segments")
def test_a_receipt_far_behind_what_it_states_is_for_the_walk(blocks: int) -> None:
    """As where a sync was slow: nothing is wrong, but what it covers is not at hand any more."""
    storage = recorded(7, syncs=True)
    manifest = Manifest.read(storage)
    walk, before = Walk(storage, manifest), (0, 0, b"")
    for piece in walk:
        late = piece.heads[piece.kinds == cell.RECEIPT]
        if len(late) and late[-1] > 14 and piece.header.ordinal:
            break
        before = (walk.position, walk.seq, walk.chain)
    changed = bytearray(storage.read(piece.path))
    for at in late.tolist():
        changed[(at + 1) * CELL + 24 : (at + 1) * CELL + 40] = b"".join(n.to_bytes(8, "little") for n in before[:2])
    changed = bytearray(remade(bytes(changed), before[0], before[2]))
    with storage.stream(piece.path) as stream:
        stream.write(changed)
    if blocks >= 64:  # All of the segment is held.
        assert max(one.seq + one.events for one in early(storage, manifest)) == int(piece.seqs[-1])
    else:
        with pytest.raises(Withdrawn, match=piece.path):
            list(early(storage, manifest))


def test_a_segment_that_is_being_written_is_left_to_the_walk() -> None:
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        log.append(journal.Custom(name="x"))
        log.sync()
        assert list(early(storage, Manifest.read(storage))) == []
    assert sum(piece.events for piece in early(storage, Manifest.read(storage))) == 1
