"""Recovery: what was promised is kept or the damage is named; what was not is kept as far as it is good.

The journal here is small (segments of 64 cells) and lies in memory, so that every cut and every byte can be tried.
"""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from struct import pack
from typing import Any

import pytest

import journal
from journal import cell, segment
from journal.cell import CELL
from journal.manifest import Manifest
from journal.recovery import Recovered, recover
from journal.storage import Storage
from journal.storage.faulty import CHANGES, FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.walk import Walk

pytestmark = pytest.mark.usefixtures("small_segments")
EventsOf = Callable[[Storage], list[Any]]


def image(storage: MemoryStorage) -> dict[str, bytes]:
    """Every file and its bytes, but for the lock."""
    names = [*storage.list("")] + [f"{d}/{n}" for d in ("segments", "quarantine") for n in storage.list(d)]
    return {name: storage.read(name) for name in names if name not in ("writer.lock", "segments", "quarantine")}


def repaired(storage: Storage) -> Recovered:
    return recover(storage, Manifest.read(storage), 7)[0]


def overwrite(storage: Storage, path: str, offset: int, data: bytes) -> None:
    file = storage.open(path)
    file.write(offset, data)
    file.close()


def killed_with(count: int, promised: int, *, clock: Any, payloads: bool = True) -> MemoryStorage:
    """A journal whose process died: `count` rewards and a few other events, the first `promised` rewards promised."""
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    agent = log.agent("a")
    for step in range(count):
        if step == promised:
            log.sync()
        if payloads and step % 5 == 3:
            log.append(journal.Custom(name="note", data="x" * (30 * step)))
        log.reward(agent, 0, step, step / 2)
    dead = storage.kill()
    log.close()
    return dead


def first(ordinal: int = 0) -> str:
    return segment.path_of(ordinal)


def ends(storage: Storage) -> tuple[int, int, int]:
    """(end of the promised bytes, end of the receipt, end of all cells) in the first segment, in bytes of the file."""
    piece = next(iter(Walk(storage)))
    receipts = [at for at in piece.heads.tolist() if int(piece.cells[at]["kind"]) == cell.RECEIPT]
    return piece.offset(piece.verified), piece.offset(receipts[-1] + 1), piece.offset(piece.end)


# -- the process died ------------------------------------------------------------------------------------------------


def test_all_that_was_appended_is_adopted_and_sealed(events_of: EventsOf, clock: Any) -> None:
    storage = killed_with(20, 8, clock=clock)
    before = events_of(storage)
    found = repaired(storage)
    assert found.crashed and found.torn_bytes == 0 and found.quarantined == ()
    assert found.adopted_events == len(before) - (8 + 1 + 1)  # The name, 8 rewards, one note.
    assert events_of(storage) == before
    walk = Walk(storage).run()
    assert walk.promise.events == len(before) and not walk.unsealed
    assert walk.last is not None and int(walk.last.cells["time_ns"][walk.last.end - 1]) == 7, "the seal says when"


def test_what_was_adopted_survives_a_power_cut(events_of: EventsOf, clock: Any) -> None:
    """It may have been in the page cache only: the next writer must not build on it before it is synced."""
    storage = killed_with(20, 8, clock=clock)
    before = events_of(storage)
    repaired(storage)
    for seed in range(20):
        assert events_of(storage.crash(Random(seed))) == before


def test_everything_is_durable_when_recovery_returns(events_of: EventsOf, clock: Any) -> None:
    """The adopted segment was in the page cache only, with its name: its bytes, its name, its seal and its end stay."""
    dead = killed_with(20, 10, clock=clock)
    cached = MemoryStorage()
    cached.make_directory("segments")
    # Without the spare: its removal would sync the directory of the others as well.
    for path in ("journal.json", *(piece.path for piece in Walk(dead))):
        file = cached.create(path)
        file.write(0, dead.read(path))
        if path == "journal.json":
            file.sync()
        file.close()
    repaired(cached)
    assert events_of(cached) == events_of(dead)
    for seed in range(20):
        assert image(cached.crash(Random(seed))) == image(cached)


def test_recovery_of_a_clean_journal_changes_nothing(clock: Any) -> None:
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        log.append(journal.Custom(name="x"))
    before, faulty = image(storage), FaultyStorage(storage)
    assert repaired(faulty) == Recovered(False, 0, 0, 0, (), None)
    assert image(storage) == before
    assert {kind for kind, _ in faulty.operations} & CHANGES == {"sync", "sync_directory"}


def test_recovering_twice_is_recovering_once(clock: Any) -> None:
    storage = killed_with(20, 8, clock=clock)
    overwrite(storage, first(), ends(storage)[2] - 3, b"???")
    assert repaired(storage).torn_bytes
    once = image(storage)
    assert repaired(storage) == Recovered(False, 0, 0, 0, (), None)
    assert image(storage) == once


def test_a_writer_that_appended_nothing_leaves_no_trace(clock: Any) -> None:
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, clock=clock)
    dead = storage.kill()
    log.close()
    for tree in (storage, dead):
        assert not repaired(tree).crashed
        assert tree.list("segments") == []
        assert Manifest.read(tree).segments == ()


def test_spares_and_unfinished_files_are_removed(events_of: EventsOf, clock: Any) -> None:
    storage = killed_with(10, 5, clock=clock)
    before = events_of(storage)
    header = Walk(storage).run().unsealed[0].header
    spare = segment.Header(header.journal_id, len(storage.list("segments")), 1, 4096, 0)
    storage.create(first(spare.ordinal), 4096).write(0, spare.pack())
    for path in ("journal.json.tmp", "segments/00000009.seg.tmp"):
        storage.create(path, 10).close()
    repaired(storage)
    assert not [name for name in image(storage) if name.endswith(".tmp")]
    assert first(spare.ordinal) not in image(storage)
    assert events_of(storage) == before


def test_open_episodes_end_with_their_process_but_the_run_stays(clock: Any) -> None:
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, clock=clock)
    log.append(journal.RunStarted(run="r", config={}))
    log.append(journal.EpisodeStarted(agent="a", episode=0))
    dead = storage.kill()
    log.close()
    with journal.open("memory", storage=dead) as log:
        assert log.context.run == "r" and log.context.episodes == {}
        log.append(journal.EpisodeStarted(agent="a", episode=0))
        assert log.agent("a") == 1


# -- torn tails ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rest", ["zeros", "garbage"])
def test_cut_anywhere_the_good_prefix_stays(events_of: EventsOf, clock: Any, rest: str) -> None:
    """Cut before the receipt as well, which is then lost with what it promised: nobody can tell (but see --expect)."""
    whole = killed_with(14, 6, clock=clock)
    everything = events_of(whole)
    _, receipt, end = ends(whole)
    size = whole.size(first())
    for cut in range(CELL, end, 8):
        storage = whole.kill()
        overwrite(storage, first(), cut, bytes(size - cut) if rest == "zeros" else b"\xa5" * (size - cut))
        before = storage.read(first())
        found = repaired(storage)
        events = events_of(storage)
        assert events == everything[: len(events)]
        assert len(events) >= 8 or cut < receipt
        evidence = b"".join(storage.read(name) for name in found.quarantined)
        assert found.torn_bytes == len(evidence)
        if storage.exists(first()):
            assert evidence == before[storage.size(first()) - CELL :].rstrip(b"\0")


def test_a_hole_before_the_promise_is_corruption_wherever_it_is(clock: Any) -> None:
    whole = killed_with(14, 6, clock=clock)
    promised = ends(whole)[0]
    for cut in range(0, promised, 16):
        storage = whole.kill()
        if not any(whole.read(first(), cut, 16)):
            continue
        overwrite(storage, first(), cut, bytes(16))
        before = image(storage)
        with pytest.raises(journal.CorruptJournal) as caught:
            repaired(storage)
        assert image(storage) == before
        assert caught.value.path == first()
        # The named cell is where the damage begins, or the head of the payload that it is in.
        assert caught.value.offset <= cut < promised


def test_every_flipped_byte_is_corruption_before_the_promise_and_a_torn_tail_after_it(
    events_of: EventsOf, clock: Any
) -> None:
    whole = killed_with(14, 6, clock=clock)
    everything = events_of(whole)
    promised, receipt, end = ends(whole)
    rng = Random(1)
    for offset in [*range(end + CELL), *range(end + CELL, whole.size(first()), 37)]:
        storage = whole.kill()
        old = whole.read(first(), offset, 1)[0]
        overwrite(storage, first(), offset, bytes([old ^ 1 << rng.randrange(8)]))
        before = image(storage)
        if offset < promised:
            with pytest.raises((journal.CorruptJournal, journal.UnsupportedFormat)):
                repaired(storage)
            assert image(storage) == before, offset
        else:
            found = repaired(storage)
            assert found.quarantined, offset
            events = events_of(storage)
            assert events == everything[: len(events)]
            assert len(events) >= 8 and (offset < end or events == everything)
            assert offset < receipt or Walk(storage).run().promise.events == len(events)


def test_a_torn_tail_may_reach_over_whole_segments(events_of: EventsOf, clock: Any) -> None:
    """Segment 1 and its rewards were never promised; the last cell of segment 0 did not reach the disk."""
    storage = MemoryStorage()
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log._commit._mutex.acquire()  # Nothing is sealed meanwhile.
    agent = log.agent("a")
    for step in range(80):
        log.reward(agent, 0, step, 1.0)
    dead = storage.kill()
    log._commit._mutex.release()
    log.close()
    pieces = list(Walk(dead))
    assert len(pieces) == 2 and not pieces[0].sealed
    overwrite(dead, first(0), pieces[0].offset(pieces[0].end - 1), bytes(CELL))
    before = events_of(dead)
    found = repaired(dead)
    assert found.torn_events == pieces[1].events > 20 and len(found.quarantined) == 1
    assert events_of(dead) == before[: pieces[0].events - 1]
    assert dead.list("segments") == ["00000000.seg"]
    assert Manifest.read(dead).segments == (0,)


def test_evidence_is_never_overwritten(clock: Any) -> None:
    names = set()
    storage = killed_with(10, 5, clock=clock)
    for word in (b"first", b"other", b"first"):
        again = storage.kill()
        for path in [f"quarantine/{name}" for name in names]:
            again.make_directory("quarantine")
            again.create(path).write(0, b"older evidence")
        overwrite(again, first(), ends(storage)[2] + 640, word)
        (path,) = repaired(again).quarantined
        assert again.read(path).endswith(word)
        names.add(path.rpartition("/")[2])
    assert len(names) == 3


def test_half_an_event_is_torn_and_the_log_goes_on_there(events_of: EventsOf, clock: Any) -> None:
    storage = killed_with(10, 5, clock=clock)
    before = events_of(storage)
    overwrite(storage, first(), ends(storage)[2], cell.pack_head(9, 99, 0, salt=0, at=0)[:24] + b"\1" * 8)
    with journal.open("memory", storage=storage, clock=clock) as log:
        assert log.recovered.torn_bytes == 32
        seq = log.append(journal.Custom(name="on"))
        assert seq == len(before)
    assert events_of(storage)[:-1] == before


def test_a_good_cell_with_another_seq_ends_the_log(events_of: EventsOf, clock: Any) -> None:
    storage = killed_with(10, 5, clock=clock)
    before, piece = events_of(storage), next(iter(Walk(storage)))
    raw = cell.pack_head(cell.REWARDED, 99, 0, salt=piece.header.salt, at=piece.position + piece.end, agent=1)
    overwrite(storage, first(), piece.offset(piece.end), raw)
    assert repaired(storage).torn_events == 1
    assert events_of(storage) == before


# -- cut or changed from outside -------------------------------------------------------------------------------------


def several(clock: Any) -> MemoryStorage:
    """A closed journal of several segments."""
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        agent = log.agent("a")
        for step in range(200):
            log.reward(agent, 0, step, 1.0)
    assert len(storage.list("segments")) >= 4
    return storage


def refused(storage: MemoryStorage, error: type[Exception], message: str) -> Any:
    before = image(storage)
    with pytest.raises(error, match=message) as caught:
        journal.open("memory", storage=storage)
    assert image(storage) == before
    assert not storage.locked("writer.lock")
    return caught.value


@pytest.mark.parametrize("ordinal", [0, 1, 3])
def test_a_missing_segment_is_refused(clock: Any, ordinal: int) -> None:
    storage = several(clock)
    storage.remove(first(ordinal))
    assert refused(storage, journal.CorruptJournal, "missing").path == first(ordinal)


def test_swapped_and_duplicated_segments_are_refused(clock: Any) -> None:
    swapped = several(clock)
    swapped.rename(first(1), "segments/x")
    swapped.rename(first(2), first(1))
    swapped.rename("segments/x", first(2))
    assert refused(swapped, journal.CorruptJournal, "segment 2 under another name").path == first(1)
    doubled = several(clock)
    doubled.create(first(2)).write(0, doubled.read(first(1)))
    refused(doubled, journal.CorruptJournal, "segment 1 under another name")


def test_another_journals_segment_is_refused(clock: Any) -> None:
    storage, other = several(clock), several(clock)
    storage.create(first(1)).write(0, other.read(first(1)))
    refused(storage, journal.CorruptJournal, "another journal")


def test_an_older_state_of_the_same_segment_is_refused(clock: Any) -> None:
    """Every cell checks, but the promises of what follows do not."""
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        log.append(journal.Custom(name="x"))
        log.sync()
        older = storage.read(first())
        log.append(journal.Custom(name="y"))
    with journal.open("memory", storage=storage, clock=clock) as log:
        log.append(journal.Custom(name="z"))
    storage.create(first()).write(0, older)
    refused(storage, journal.CorruptJournal, "segment")


@pytest.mark.parametrize("by", [1, 64, 128, 1024])
@pytest.mark.parametrize("ordinal", [0, 2, 3])
def test_a_truncated_segment_is_refused(clock: Any, by: int, ordinal: int) -> None:
    storage = several(clock)
    storage.open(first(ordinal)).truncate(storage.size(first(ordinal)) - by)
    assert refused(storage, journal.CorruptJournal, "segment").path == first(ordinal)


def test_an_unsealed_segment_that_was_cut_is_refused(clock: Any) -> None:
    storage = killed_with(10, 5, clock=clock)
    storage.open(first()).truncate(ends(storage)[2])
    refused(storage, journal.CorruptJournal, "cut")


def test_a_segment_longer_than_it_says_is_refused(clock: Any) -> None:
    storage = several(clock)
    storage.open(first(1)).write(5000 // CELL * CELL, bytes(CELL))
    refused(storage, journal.CorruptJournal, "header says")


def test_a_seal_whose_truncate_was_lost_is_cut_again(events_of: EventsOf, clock: Any) -> None:
    storage = several(clock)
    before, size = events_of(storage), storage.size(first(1))
    file = storage.open(first(1))
    file.truncate(4096)
    file.sync()
    file.close()
    with journal.open("memory", storage=storage, clock=clock):
        pass
    assert storage.size(first(1)) == size
    assert all(storage.crash(Random(seed)).size(first(1)) == size for seed in range(20))
    assert events_of(storage) == before


def test_a_changed_and_rechecked_cell_is_seen_by_the_chain(clock: Any) -> None:
    """Somebody who edits a reward and makes its crc anew is found out."""
    storage = several(clock)
    piece = next(iter(Walk(storage)))
    at = piece.end - 3
    assert int(piece.cells[at]["kind"]) == cell.REWARDED
    raw = storage.read(first(), piece.offset(at), CELL)
    body = raw[4:56] + pack("<d", 123.0)
    crc = cell.checksum(body, piece.header.salt, piece.position + at)
    overwrite(storage, first(), piece.offset(at), cell.PUBLISH.pack(crc, body))
    refused(storage, journal.CorruptJournal, "chain does not match")


def test_a_newer_segment_is_refused_with_both_versions(clock: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = several(clock)
    header = segment.Header.parse(storage.read(first(1)), "")
    assert isinstance(header, segment.Header)
    monkeypatch.setattr(segment, "FORMAT", 2)
    newer = header.pack()
    monkeypatch.undo()
    overwrite(storage, first(1), 0, newer)
    with pytest.raises(journal.UnsupportedFormat, match=r"format 2.*reads format 1"):
        repaired(storage)


def test_damage_in_an_early_segment_is_seen_though_the_last_was_torn(clock: Any) -> None:
    storage = several(clock)
    overwrite(storage, first(1), 640, b"!")
    refused(storage, journal.CorruptJournal, "promised cell")


def test_a_damaged_start_of_an_unpromised_segment_is_torn_and_of_a_promised_one_corrupt(
    events_of: EventsOf, clock: Any
) -> None:
    storage = several(clock)
    overwrite(storage, first(2), CELL + 8, b"!")
    refused(storage, journal.CorruptJournal, "does not check")


@pytest.mark.parametrize(("kind", "nth"), [("list", 1), ("read", 1), ("read", 2), ("read", 4)])
def test_a_failed_read_changes_nothing(clock: Any, kind: str, nth: int) -> None:
    storage = several(clock)
    before = image(storage)
    faulty = FaultyStorage(storage)
    faulty.fail(kind, nth=nth)
    with pytest.raises(journal.JournalFailed, match=r"could not be read.*check the disk"):
        repaired(faulty)
    assert image(storage) == before
