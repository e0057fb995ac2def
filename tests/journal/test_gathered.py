"""Writes that wait for a sync: one write brings them all, in order; nothing is lost, whatever comes between."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from typing import Any

import pytest

import journal
from journal.storage.faulty import FaultyStorage
from journal.storage.gathered import GatheredFile
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

SIZE = 64


class Inner:
    """A file of zeros that notes what it is asked; `then` happens once, inside the next call of that name."""

    def __init__(self) -> None:
        self.data = bytearray(SIZE)
        self.asked: list[Any] = []
        self.then: dict[str, Callable[[], object]] = {}

    def _meanwhile(self, name: str) -> None:
        self.then.pop(name, lambda: None)()

    def write(self, offset: int, data: bytes) -> None:
        self._meanwhile("before write")
        self.asked.append((offset, data))
        self.data[offset : offset + len(data)] = data
        self._meanwhile("write")

    def read(self, offset: int, length: int) -> bytes:
        self._meanwhile("read")
        self.asked.append("read")
        return bytes(self.data[offset : offset + length])

    def sync(self) -> None:
        self.asked.append("sync")
        self._meanwhile("sync")

    def hasten(self, offset: int, length: int) -> None:
        self.asked.append(("hasten", offset, length))

    def truncate(self, size: int) -> None:
        self.asked.append(("truncate", size))

    def check(self, size: int) -> str | None:
        return f"not {size}"

    def close(self) -> None:
        self.asked.append("close")


@pytest.fixture
def inner() -> Inner:
    return Inner()


@pytest.fixture
def file(inner: Inner) -> GatheredFile:
    return GatheredFile(inner)  # type: ignore[arg-type]


def test_what_waits_comes_with_the_sync_in_one_write(file: GatheredFile, inner: Inner) -> None:
    file.write(8, b"ab")
    file.write(10, b"cd")
    assert inner.asked == []
    file.sync()
    assert inner.asked == [(8, b"abcd"), "sync"]
    file.sync()
    assert inner.asked == [(8, b"abcd"), "sync", "sync"]
    file.write(12, b"ef")
    file.sync()
    assert inner.asked[3:] == [(12, b"ef"), "sync"]


def test_a_head_behind_its_payload_comes_in_the_same_write(file: GatheredFile, inner: Inner) -> None:
    file.write(8, b"before")
    file.write(16, b"payload")
    file.write(14, b"zz")
    assert file.read(8, 15) == b"beforezzpayload"
    file.sync()
    assert inner.asked == [(8, b"beforezzpayload"), "sync"]


def test_where_there_is_a_gap_nothing_is_written_into_it(file: GatheredFile, inner: Inner) -> None:
    inner.data[:] = b"x" * SIZE
    file.write(0, b"ab")
    file.write(3, b"cd")
    file.sync()
    assert inner.asked == [(0, b"ab"), (3, b"cd"), "sync"] and inner.data.startswith(b"abxcdx")


def test_of_two_writes_to_one_place_the_later_one_counts(file: GatheredFile, inner: Inner) -> None:
    file.write(0, b"abcd")
    file.write(0, b"\0\0\0\0")
    file.write(4, b"ef")
    assert file.read(0, 6) == b"\0\0\0\0ef"
    file.sync()
    assert inner.data.startswith(b"\0\0\0\0ef")


def test_what_only_waits_is_read_without_the_file(file: GatheredFile, inner: Inner) -> None:
    file.write(8, b"abcd")
    file.write(12, b"ef")
    assert file.read(8, 6) == b"abcdef" and file.read(9, 4) == b"bcde" and file.read(10, 4) == b"cdef"
    assert inner.asked == []
    file.sync()
    assert file.read(8, 6) == b"abcdef" and inner.asked[-1] == "read"


@pytest.mark.parametrize(("offset", "length"), [(6, 4), (10, 8), (0, SIZE), (2, 4), (40, 4), (7, 1), (14, 1)])
def test_what_waits_is_read_with_what_is_in_the_file(
    file: GatheredFile, inner: Inner, offset: int, length: int
) -> None:
    inner.data[:] = bytes(range(SIZE))
    file.write(8, b"abcdef")
    there = bytearray(inner.data)
    there[8:14] = b"abcdef"
    assert file.read(offset, length) == there[offset : offset + length]


def test_where_the_file_ends_a_read_ends(file: GatheredFile, inner: Inner) -> None:
    file.write(SIZE - 2, b"abcd")
    assert file.read(SIZE - 4, 10) == b"\0\0ab"


def test_what_is_written_is_what_it_was_then(file: GatheredFile, inner: Inner) -> None:
    mine = bytearray(b"abcd")
    file.write(0, mine)
    file.write(4, memoryview(mine)[:2])
    mine[:] = b"zzzz"
    file.sync()
    assert inner.data.startswith(b"abcdab")


def test_what_was_brought_is_let_go(file: GatheredFile, inner: Inner) -> None:
    """A payload has up to 4 MiB."""
    payload = random.Random(0).randbytes(100)
    before = sys.getrefcount(payload)
    file.write(0, payload)
    assert file.read(0, 100) == payload and sys.getrefcount(payload) > before
    file.sync()
    inner.asked.clear()
    assert sys.getrefcount(payload) == before


def test_what_is_written_during_a_sync_waits_for_the_next(file: GatheredFile, inner: Inner) -> None:
    """Also the same again: what was joined for one sync is not taken for the other's."""
    for moment in ("before write", "write", "sync"):
        inner.asked.clear()
        file.write(0, b"ab")
        inner.then[moment] = lambda: file.write(2, b"cd")
        file.sync()
        assert inner.asked == [(0, b"ab"), "sync"] and file.read(2, 2) == b"cd"
        file.sync()
        assert inner.asked[2:] == [(2, b"cd"), "sync"]


@pytest.mark.parametrize("moment", ["before write", "write"])
def test_a_sync_that_is_cut_short_leaves_all_to_the_next(file: GatheredFile, inner: Inner, moment: str) -> None:
    def interrupt() -> None:
        raise KeyboardInterrupt

    file.write(0, b"ab")
    file.write(4, b"cd")
    inner.then[moment] = interrupt
    with pytest.raises(KeyboardInterrupt):
        file.sync()
    assert "sync" not in inner.asked and file.read(0, 6) == b"ab\0\0cd"
    inner.asked.clear()
    file.sync()
    assert inner.asked == [(0, b"ab"), (4, b"cd"), "sync"]


def test_who_is_in_a_hurry_writes_what_waits_first(file: GatheredFile, inner: Inner) -> None:
    file.write(0, b"ab")
    file.write(2, b"cd")
    file.hasten(1, 2)
    assert inner.asked == [(0, b"abcd"), ("hasten", 1, 2)]
    file.write(4, b"ef")
    file.sync()
    assert inner.asked[2:] == [(4, b"ef"), "sync"] and file.read(0, 6) == b"abcdef"


def test_a_read_during_which_a_sync_ends_misses_nothing(file: GatheredFile, inner: Inner) -> None:
    """The log looks what an interrupted append left there while another thread syncs."""
    file.write(8, b"ab")
    inner.then["read"] = file.sync
    assert file.read(6, 4) == b"\0\0ab"
    file.write(10, b"cd")
    inner.then["read"] = lambda: file.write(10, b"later")
    assert file.read(6, 6) == b"\0\0abcd"


def test_all_else_is_the_files_own(file: GatheredFile, inner: Inner) -> None:
    file.write(0, b"ab")
    file.truncate(3)
    assert file.check(7) == "not 7" and file.map() is None
    file.close()
    assert inner.asked == [("truncate", 3), "close"], "a forked child closes it too, and is to write nothing"


def test_any_writes_and_syncs_end_as_the_same_without_waiting(file: GatheredFile, inner: Inner) -> None:
    for seed in range(300):
        rng, plain = random.Random(seed), bytearray(inner.data)
        for _ in range(rng.randrange(12)):
            at, data = rng.randrange(SIZE - 8), rng.randbytes(rng.randrange(1, 8))
            file.write(at, data)
            plain[at : at + len(data)] = data
            if rng.random() < 0.2:
                file.sync()
                assert inner.data == plain
            begin, length = rng.randrange(SIZE), rng.randrange(1, SIZE)
            assert file.read(begin, length) == plain[begin : begin + length]
        file.sync()
        assert inner.data == plain


# -- in a log --------------------------------------------------------------------------------------------------------


def test_under_always_one_write_brings_an_event_and_the_receipt_of_the_one_before() -> None:
    storage = FaultyStorage(MemoryStorage())
    with journal.open("m", storage=storage, sync="always", sync_interval=60) as log:
        agent = log.agent("a")
        first = log.tail()[1] - journal.cell.CELL
        sizes: list[int] = []
        file = log.tail()[0].file
        plain = file._inner.write  # type: ignore[attr-defined]
        file._inner.write = lambda at, data: (sizes.append(at - first), sizes.append(len(data)), plain(at, data))  # type: ignore[attr-defined]
        for step in range(3):
            storage.operations.clear()
            log.reward(agent, 0, step, 1.0)
            assert [kind for kind, _ in storage.operations] == ["write", "sync"]
        assert sizes == [0, 128, 128, 128, 256, 128]
        storage.operations.clear()
        assert log.sync() == log.promised
        assert [kind for kind, _ in storage.operations] == ["write", "sync"] and sizes[-2:] == [384, 64]


def test_under_always_what_returned_survives_the_process_and_what_did_not_is_whole_or_not_there() -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="always", sync_interval=60) as log:
        log.append(journal.Custom(name="returned", data=bytes(300)))
        reach, log._commit.reach = log._commit.reach, lambda seq: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            log.append(journal.Custom(name="interrupted", data=bytes(300)))
        log._commit.reach = reach  # type: ignore[method-assign]
        dead = storage.kill()
        with journal.open("m", storage=dead) as again:
            assert again.recovered.torn_bytes == 0 and again.next_seq == 1
        assert log.next_seq == 2, "it is in the log, for whoever syncs next"
        log.append(journal.Custom(name="next"))
        assert Walk(storage.kill()).run().seq == 3


def test_under_always_a_close_keeps_what_was_interrupted() -> None:
    storage = MemoryStorage()
    log = journal.open("m", storage=storage, sync="always", sync_interval=60)
    reach, log._commit.reach = log._commit.reach, lambda seq: (_ for _ in ()).throw(KeyboardInterrupt)  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        log.append(journal.Custom(name="interrupted"))
    log._commit.reach = reach  # type: ignore[method-assign]
    log.close()
    walk = Walk(storage).run()
    assert walk.seq == walk.promise.events == 1 and not walk.unsealed
