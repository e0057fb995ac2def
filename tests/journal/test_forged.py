"""A payload that holds cells of its own segment changes nothing: neither what is torn nor what was promised."""

from __future__ import annotations

import contextlib
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import journal
from journal import cell, evidence
from journal.cell import CELL
from journal.storage.memory import MemoryStorage
from journal.walk import Walk


def batch_of(raw: bytes) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Rewards whose packed form is these bytes, from the payload's first one on."""
    return np.frombuffer(raw.ljust(-(-len(raw) // 8) * 8, b"\0"), dtype=np.float64)


def promise(log: journal.Log, ahead: int, *, stated: int, kind: int = cell.RECEIPT) -> bytes:
    """A receipt that would be right if it stood `ahead` cells behind the log's end."""
    segment, offset, seq = log.tail()
    at = log._base + (offset >> 6) + ahead
    return cell.pack_promise(kind, seq, 1, stated, seq, bytes(24), salt=segment.header.salt, at=at)


def position_of(log: journal.Log) -> int:
    return log._base + (log.tail()[1] >> 6)


@pytest.mark.parametrize("kind", [cell.RECEIPT, cell.SEGMENT_SEALED])
@pytest.mark.parametrize("where", [0, 3])
@pytest.mark.parametrize("off", [0, -1])
def test_a_payload_cannot_forge_a_promise(kind: int, where: int, off: int) -> None:
    """A power cut that tears its head would leave a promise of what was never promised, and refuse a healthy journal.

    `off`: a cell that is right for another place nearby is believed too, where the segment's first mark is damaged.
    """
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        log.reward(agent, 0, 0, 1.0)
        log.sync()
        forged = promise(log, 1 + where + off, stated=position_of(log) + where + off + 1, kind=kind)
        with pytest.raises(journal.EventRejected, match="forged"):
            log.rewards(agent, 0, 0, batch_of(bytes(where * CELL) + forged + bytes(64)))
        assert log.reward(agent, 0, 1, 2.0) == 2, "nothing was recorded, and the log goes on"
    assert Walk(storage).run().seq == 3


@pytest.mark.parametrize("kind", [cell.RECEIPT, cell.SEGMENT_SEALED])
def test_a_receipt_that_is_right_where_it_stands_is_refused_whatever_it_promises(kind: int) -> None:
    """An old promise again, but as good as any other receipt for who takes it for a head."""
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        log.reward(agent, 0, 0, 1.0)
        log.sync()
        with pytest.raises(journal.EventRejected, match="forged"):
            log.rewards(agent, 0, 0, batch_of(promise(log, 1, stated=0, kind=kind)))


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("door", ["rewards", "episodes"])
def test_how_far_from_its_place_a_cell_is_believed_goes_by_where_the_payload_stands(door: str, more: int) -> None:
    like, places = journal.EpisodeEnded(agent="-", episode=0, reason="terminated"), [(0, 0)]
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        log.alike(journal.EpisodeStarted(agent="-", episode=0), b"", agent, 0, places)
        for step in range(5):
            log.reward(agent, 0, step, 1.0)
        here, offset, seq = log.tail()
        stated, place = log.promised.position + 1000, offset // CELL
        raw = cell.pack_promise(
            cell.RECEIPT, seq, 1, stated, seq, bytes(24), salt=here.header.salt, at=stated + place + more
        )
        refused = contextlib.nullcontext() if more else pytest.raises(journal.EventRejected, match="forged")
        with refused:
            log.rewards(agent, 0, 0, batch_of(raw)) if door == "rewards" else log.alike(like, raw, agent, 0, places)
        assert (log.next_seq == seq) == (not more)


def test_of_several_events_each_place_is_looked_at() -> None:
    """They share a payload, which is harmless in the first place and a receipt in the second."""
    like, places = journal.EpisodeEnded(agent="-", episode=0, reason="terminated"), [(0, 0), (1, 1)]
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        log.alike(journal.EpisodeStarted(agent="-", episode=0), b"", agent, 0, places)
        with pytest.raises(journal.EventRejected, match="byte 0 of the payload begins a forged promise"):
            log.alike(like, promise(log, 3, stated=0), agent, 0, places)
        assert log.next_seq == 3 and len(log.context.episodes) == 2


@pytest.mark.parametrize("kind", [cell.SEGMENT_OPENED, cell.CUSTOM, cell.MARK_FIRST, 0xFF04, 0x01FF])
def test_only_receipts_and_seals_promise(kind: int) -> None:
    """Any other cell of the segment is a payload like all others, also where it is right for its place."""
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        log.sync()
        assert log.rewards(agent, 0, 0, batch_of(promise(log, 1, stated=1 << 40, kind=kind))) == 1
        beside = bytes(4) + promise(log, 2, stated=1 << 40)[4:]  # A receipt but for its crc.
        assert log.rewards(agent, 0, 0, batch_of(promise(log, 1, stated=1 << 40, kind=kind) + beside)) == 9


@pytest.mark.parametrize("where", [0, 3, 12])
@pytest.mark.parametrize("index", [0, 1, 9])
def test_what_recovery_would_believe_is_what_is_refused(index: int, where: int) -> None:
    """The two questions are asked in two places; held against each other on both sides of each edge."""
    salt, at, promised, place = 77, 1000, 40, index + 1 + where
    answers = set()
    for stated in (promised, promised + 1):
        for distance in (-1, 0, 1, place - 1, place, place + 1, 1 << 31):
            mark = cell.pack_promise(cell.RECEIPT, 1, 1, stated, 1, bytes(24), salt=salt, at=stated + distance)
            payload = b"\xff" * (where * CELL) + mark  # Before it, what is only half alike: few of them, or many.
            believed = evidence.covers(memoryview(bytes((index + 1) * CELL) + payload), salt, promised)
            assert cell.forged(payload, salt, at, index, promised) == (where * CELL if believed else None)
            answers.add(believed)
    assert answers == {True, False}


def test_the_forgery_would_have_done_harm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the check at append is for: without it this torn tail is called corrupt."""
    monkeypatch.setattr(cell, "forged", lambda *args: None)
    storage, at = forging()
    tear(storage, at)
    with pytest.raises(journal.CorruptJournal):
        journal.open("m", storage=storage)


def forging() -> tuple[MemoryStorage, int]:
    """A process killed behind a payload that holds a forged receipt, and where that event's head lies in the file."""
    storage = MemoryStorage()
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    log.sync()
    at = log.tail()[1]
    forged = promise(log, 1, stated=position_of(log) + 1)
    log.rewards(agent, 0, 0, batch_of(forged))
    dead = storage.kill()
    log.close()
    return dead, at


def tear(storage: MemoryStorage, at: int) -> None:
    file = storage.open("segments/00000000.seg")
    file.write(at, bytes(1))
    file.write(at + 20, b"\xff")
    file.close()


def test_an_old_receipt_or_a_wrong_one_does_not_keep_a_payload_out() -> None:
    """Of a cell that is wrong for its own place, only one that promises more, from a place before it, is believed."""
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        agent = log.agent("A")
        for step in range(3):
            log.reward(agent, 0, step, 1.0)
        log.sync()
        promised = log.promised.position
        old = promise(log, 0, stated=promised)
        wrong = bytes(4) + promise(log, 1, stated=promised + 100)[4:]
        for number, raw in enumerate((old, wrong)):
            assert log.rewards(agent, 0, 0, batch_of(raw)) == 4 + 8 * number
        more = promise(log, 0, stated=log.promised.position + 1)
        with pytest.raises(journal.EventRejected, match="forged"):
            log.rewards(agent, 0, 0, batch_of(more))


def test_copies_of_real_cells_are_taken_and_change_nothing() -> None:
    """A journal that keeps pieces of itself: promises that were made say nothing new, wherever they are read."""
    storage = MemoryStorage()
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    for step in range(5):
        log.reward(agent, 0, step, 1.0)
        log.sync()
    own = storage.read("segments/00000000.seg")[: log.tail()[1]]
    log.sync()
    at, before = log.tail()[1], log.next_seq
    assert log.rewards(agent, 0, 0, batch_of(own)) == before
    log.append(journal.Custom(name="copy", data=own))
    whole = storage.kill()
    log.close()
    assert Walk(whole).run().torn is None
    for offset in (0, 4, 6, 8, 20, 30, 40):  # The batch's head damaged in each of its fields.
        torn = whole.kill()
        file = torn.open("segments/00000000.seg")
        byte = file.read(at + offset, 1)[0]
        file.write(at + offset, bytes([byte ^ 0x40]))
        file.close()
        walk = Walk(torn).run()
        assert walk.torn is not None and walk.seq == before, offset
        journal.open("m", storage=torn).close()
        assert Walk(torn).run().seq == before


def test_honest_payloads_are_never_refused(tmp_path: Path) -> None:
    rng = Random(5)
    with journal.open("m", storage=MemoryStorage(), sync="close") as log:
        for number in range(300):
            raw = bytearray(rng.randbytes(rng.randrange(1, 2000)))
            for at in range(4, len(raw) - 2, CELL):
                raw[at : at + 2] = rng.choice((b"\x01\xff", b"\x03\xff"))
            log.append(journal.Custom(name=f"n{number}", data=bytes(raw)))
