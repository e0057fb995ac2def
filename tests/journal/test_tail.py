"""The log's end: who holds the lock finds it settled, whatever was interrupted, and leaves the way open."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import journal
from journal import cell
from journal.cell import CELL
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.turn import EXCHANGES, Turn
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture(params=[True, False], ids=["mapped", "pwrite"])
def storage(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(mappable=request.param)


def while_it_waits(log: journal.Log, patch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Somebody has the turn; `action` is what happens while it is awaited, before it is given back."""

    def wait(turn: Turn) -> None:
        action()
        turn.taken = False

    patch.setattr(Turn, "wait", wait)
    log._turn.taken = True


def test_the_way_is_shut_before_the_turn_is_awaited(storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a third one could take the turn behind the wait."""
    seen = []
    with journal.open("m", storage=storage, sync="close") as log:
        log.agent("A")
        assert log._limit == log._way
        while_it_waits(log, monkeypatch, lambda: seen.append(log._limit))
        log.tail()
        assert seen == [0] and log._limit == log._way and not log._turn.taken


@pytest.mark.skipif(not EXCHANGES, reason="this Python has no fast path")
def test_what_an_interrupt_of_who_had_the_turn_left_is_settled_behind_the_wait(
    storage: MemoryStorage, events_of: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")

        def interrupted() -> None:
            body = cell.COMMON.pack(0, agent, 0, 7)  # Whatever it was, its cell is not whole.
            log._segment.write(log._offset, body.ljust(CELL, b"\1"))
            log._interrupted = (log._offset, log._seq, 1, CELL, ())

        while_it_waits(log, monkeypatch, interrupted)
        _, offset, seq = log.tail()
        assert log._interrupted is None and seq == 1
        assert bytes(log._segment.read(offset, CELL)) == bytes(CELL)
        log.reward(agent, 0, 0, 1.0)
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "Rewarded"]


@pytest.mark.parametrize("half", [0, 2, 4, 20])
def test_of_a_cell_that_is_not_whole_nothing_is_left(half: int, storage: MemoryStorage, events_of: Any) -> None:
    """Nor of the payload that was stored before it."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent, put = log.agent("A"), log._put
        _, offset, _ = log.tail()

        def torn(_buffer: Any, at: int, crc: int, body: bytes) -> None:
            log._put = put
            log._segment.write(at, (crc.to_bytes(4, "little") + body)[:half])
            raise KeyboardInterrupt

        for append in (
            lambda: log.append(journal.Custom(name="x", data=bytes(range(1, 200)))),
            lambda: log.rewards(agent, 0, range(20), [1.5] * 20),
        ):
            log._put = torn
            with pytest.raises(KeyboardInterrupt):
                append()
            assert log.next_seq == 1 and log.tail()[1] == offset
            assert bytes(log._segment.read(offset, 8 * CELL)) == bytes(8 * CELL)
        log.reward(agent, 0, 0, 1.0)
    assert [one.kind for one in events_of(storage)] == ["NameGiven", "Rewarded"]


def test_zeros_are_no_cell_though_their_checksum_be_zero(
    storage: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is so at one of 2**32 positions."""
    with journal.open("m", storage=storage, sync="close") as log:
        agent, put = log.agent("A"), log._put

        def never(*_: Any) -> None:
            log._put = put
            raise KeyboardInterrupt

        log._put = never
        with monkeypatch.context() as patch:
            patch.setattr("journal.tail.cell.checksum", lambda *_: 0)
            with pytest.raises(KeyboardInterrupt):
                log.reward(agent, 0, 0, 1.0)
        assert log.next_seq == 1


@pytest.mark.parametrize("stored", [0, 32, CELL])
def test_an_interrupted_receipt_is_there_and_the_end_is_behind_it_or_nothing_is(stored: int) -> None:
    storage = MemoryStorage(mappable=False)
    with journal.open("m", storage=storage, sync="close") as log:
        agent = log.agent("A")
        here, offset, _ = log.tail()
        write = here.file.write

        def interrupted(at: int, data: bytes) -> None:
            here.file.write = write  # type: ignore[method-assign]
            write(at, data[:stored])
            raise KeyboardInterrupt

        here.file.write = interrupted  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            log._commit.once()
        assert log._interrupted is None, "it is settled at once"
        assert log.tail()[1:] == (offset + CELL * (stored == CELL), 1)
        assert bytes(here.read(offset, CELL)) != bytes(CELL) or stored < CELL
        assert stored == CELL or bytes(here.read(offset, CELL)) == bytes(CELL)
        log.reward(agent, 0, 0, 1.0)
        assert log.sync().seq == 1
        assert log._limit == log._way, "behind a receipt the way is open again"
    walk = Walk(storage).run()
    assert walk.promise.events == walk.seq == 2


@pytest.mark.parametrize("done", [False, True])
def test_a_receipt_that_cannot_be_written_is_the_end(done: bool) -> None:
    storage = FaultyStorage(MemoryStorage(mappable=False))
    log = journal.open("m", storage=storage, sync="close")
    agent = log.agent("A")
    here, _, _ = log.tail()
    write = here.file.write

    def failing(at: int, data: bytes) -> None:
        if done:
            write(at, data)
        raise OSError(5, "Input/output error")

    here.file.write = failing  # type: ignore[method-assign]
    with pytest.raises(journal.JournalFailed, match="writing to the log failed: Input/output error"):
        log._commit.once()
    assert log._interrupted is None
    here.file.write = write  # type: ignore[method-assign]
    for refused in (lambda: log.reward(agent, 0, 0, 1.0), log.sync, log.close):
        with pytest.raises(journal.JournalFailed):
            refused()
    assert log.promised.seq == -1
