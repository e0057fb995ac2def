"""Compaction changes where events lie and nothing else, and whenever it is cut short, nothing is lost."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from random import Random
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
from journal.errors import CorruptJournal, JournalFailed, JournalLocked, NotAJournal
from journal.manifest import Base, Manifest
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from journal.walk import Walk
from replay import compaction, history, intake, lossless, snapshot
from replay.compaction import compact
from replay.loading import load
from replay.query import events

sys.path.insert(0, str(Path(__file__).parent))
from logs import (
    EPISODE,
    REWARD,
    add_segment_without_events,
    flip,
    fresh,
    image,
    record,
    record_everything,
    same_events,
    segments,
    table,
    whole_state,
)
from model import commands


@pytest.fixture
def journal_of_two() -> MemoryStorage:
    """A session that was compacted, then two more."""
    storage = fresh()
    record_everything(storage)
    compact(storage)
    record(storage, EPISODE)
    record_everything(storage)
    return storage


def sync_all(storage: MemoryStorage) -> None:
    """As if all this had happened long ago."""
    storage.writeback(Random(0))
    for directory in ("", "segments", "history", "snapshots"):
        for name in storage.list(directory):
            path = f"{directory}/{name}".lstrip("/")
            if path not in ("segments", "history", "snapshots"):
                file = storage.open(path)
                file.sync()
                file.close()
        storage.sync_directory(directory)


# -- nothing but the place changes -------------------------------------------------------------------------------------


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(commands, st.booleans(), st.booleans()), min_size=1, max_size=4))
def test_state_and_events_are_the_same_before_and_after(sessions: list[tuple[list[Any], bool, bool]]) -> None:
    """Sessions, closed or not, with compactions at random places between them, against the same without any."""
    storage, plain = fresh(), fresh()
    for script, compacts, crashes in sessions:
        record(storage, [REWARD, *script])
        if crashes:
            left = journal.open("a journal", storage=storage, sync="close")
            left.append(journal.EpisodeStarted(agent="SAC", episode=0))
            storage = storage.kill()
            left.close()
        plain = fold_back(storage)
        if compacts:
            before = table(storage)
            compact(storage)
            assert same_events(table(storage), before)
            assert not segments(storage)
        assert whole_state(storage) == whole_state(plain)
    for at in range(0, load(storage).events, 5):
        assert whole_state(storage, at) == whole_state(plain, at)


def fold_back(storage: MemoryStorage) -> MemoryStorage:
    """The same journal without snapshots: everything is folded from the first event."""
    plain = storage.kill()
    for last in snapshot.seqs(plain):
        plain.remove(snapshot.path_of(last))
    return plain


def test_history_gives_the_segments_again(journal_of_two: MemoryStorage) -> None:
    before = segments(journal_of_two)
    done = compact(journal_of_two)
    assert [raw for path in done.history for _, raw in history.reencode(journal_of_two, path)] == before
    assert done.segments == len(before) == 2


def test_the_chain_is_whole_from_the_first_event(journal_of_two: MemoryStorage) -> None:
    promised = Walk(journal_of_two).run().promise
    compact(journal_of_two)
    manifest = Manifest.read(journal_of_two)
    value = journal.chain.genesis(manifest.journal_id)
    for span in history.spans(journal_of_two, manifest):
        last = list(history.chain(journal_of_two, span.path, value))[-1]
        value = history.describe(journal_of_two, span.path).end.chain
    assert last == promised
    assert value == manifest.base.chain


def test_the_next_writer_goes_on_where_history_ends(journal_of_two: MemoryStorage) -> None:
    compact(journal_of_two)
    events = load(journal_of_two).events
    with journal.open("a journal", storage=journal_of_two) as log:
        assert log.agent("PPO") == 1, "names keep their numbers"
        assert log.reward(1, 0, 0, 1.0) == events
    assert table(journal_of_two)["seq"].to_pylist() == list(range(events + 1))


def test_a_second_time_changes_nothing(journal_of_two: MemoryStorage) -> None:
    compact(journal_of_two)
    before = image(journal_of_two)
    assert compact(journal_of_two) == compaction.Compacted(0, (), None, *[sizes(journal_of_two)] * 2)
    assert image(journal_of_two) == before


def sizes(storage: MemoryStorage) -> int:
    return sum(len(data) for path, data in image(storage).items() if path.count("/") and not path.startswith("/"))


def test_a_rehearsal_changes_nothing_and_knows_what_would_be(journal_of_two: MemoryStorage) -> None:
    before = image(journal_of_two)
    faulty = FaultyStorage(journal_of_two)
    rehearsed = compact(faulty, dry_run=True)
    assert not {kind for kind, _ in faulty.operations} & CHANGES
    assert image(journal_of_two) == before
    assert compact(journal_of_two) == rehearsed
    assert rehearsed.bytes_after == sizes(journal_of_two)
    assert compact(journal_of_two, dry_run=True).segments == 0


def test_a_rehearsal_does_not_recover() -> None:
    storage = fresh()
    left = journal.open("a journal", storage=storage, sync="close")
    left.append(journal.Custom(name="x"))
    crashed = storage.kill()
    left.close()
    before = image(crashed)
    assert compact(crashed, dry_run=True).segments == 1
    assert image(crashed) == before
    assert compact(crashed).segments == 1


@pytest.mark.parametrize(("limit", "size", "files"), [("EVENTS_MAX", 12, 3), ("BYTES_MAX", 1, 5)])
def test_a_large_log_becomes_several_files(monkeypatch: pytest.MonkeyPatch, limit: str, size: int, files: int) -> None:
    monkeypatch.setattr(intake, limit, size)
    storage = fresh()
    for _ in range(5):
        record(storage, EPISODE)
        add_segment_without_events(storage)
    before, plain = table(storage), whole_state(storage)
    done = compact(storage)
    assert len(done.history) == files
    assert done.segments == 10
    assert same_events(table(storage), before)
    assert whole_state(storage) == plain


def test_a_log_without_events_is_left_as_it_is() -> None:
    storage = fresh()
    journal.open("a journal", storage=storage).close()
    for _ in range(2):
        before = image(storage)
        done = compact(storage)
        assert (done.segments, done.snapshot) == (0, None), "there is nothing that a snapshot could hold"
        assert image(storage) == before
        add_segment_without_events(storage)


def test_two_snapshots_stay(journal_of_two: MemoryStorage) -> None:
    kept = []
    for _ in range(3):
        record(journal_of_two, EPISODE)
        compact(journal_of_two)
        kept.append(load(journal_of_two).last_seq)
    assert snapshot.seqs(journal_of_two) == kept[:0:-1]


@pytest.mark.parametrize(("keep", "left"), [(1, 1), (3, 3), (0, 1)])
def test_as_many_snapshots_stay_as_were_asked_for(journal_of_two: MemoryStorage, keep: int, left: int) -> None:
    for _ in range(4):
        record(journal_of_two, EPISODE)
        compact(journal_of_two, keep=4)
    newest = snapshot.seqs(journal_of_two)[:left]
    rehearsed = compact(journal_of_two, keep=keep, dry_run=True)
    assert compact(journal_of_two, keep=keep) == rehearsed, "also where there is nothing else to do"
    assert snapshot.seqs(journal_of_two) == newest
    assert rehearsed.bytes_after == sizes(journal_of_two)


def test_a_reader_keeps_its_view_while_it_happens(journal_of_two: MemoryStorage) -> None:
    """Whatever the reader has come to when the files under it go away, it reads each event once."""
    before = table(journal_of_two)
    count = len(list(events(journal_of_two)))
    for taken in range(count + 1):
        storage = journal_of_two.kill()
        reading = events(storage)
        batches = [next(reading) for _ in range(taken)]
        compact(storage)
        batches += reading
        assert same_events(pa.Table.from_batches(batches).unify_dictionaries().combine_chunks(), before)


def test_progress_goes_up_to_the_end(journal_of_two: MemoryStorage) -> None:
    seen: list[tuple[int, int]] = []
    compact(journal_of_two, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] > 0


# -- cut short ---------------------------------------------------------------------------------------------------------


def changes(storage: MemoryStorage) -> int:
    """How many operations of a compaction change something."""
    faulty = FaultyStorage(storage.kill())
    compact(faulty)
    return sum(kind in CHANGES for kind, _ in faulty.operations)


def test_killed_at_any_step_it_ends_in_the_same_place(journal_of_two: MemoryStorage) -> None:
    before, plain = table(journal_of_two), whole_state(journal_of_two)
    whole = journal_of_two.kill()
    compact(whole)
    for nth in range(1, changes(journal_of_two) + 1):
        faulty = FaultyStorage(journal_of_two.kill())
        faulty.fail(*CHANGES, nth=nth, kill=True, tear=True)
        with pytest.raises(Killed):
            compact(faulty)
        after = faulty.inner.kill()  # type: ignore[attr-defined]
        assert whole_state(after) == plain, f"read after the kill at {faulty.operations[-1]}"
        compact(after)
        assert image(after) == image(whole), faulty.operations[-1]
        assert same_events(table(after), before)


@pytest.mark.parametrize("seed", range(4))
def test_a_power_cut_at_any_step_loses_nothing(journal_of_two: MemoryStorage, seed: int) -> None:
    sync_all(journal_of_two)
    before, plain = table(journal_of_two), whole_state(journal_of_two)
    whole = journal_of_two.kill()
    compact(whole)
    rng = Random(seed)
    for nth in range(1, changes(journal_of_two) + 1):
        faulty = FaultyStorage(journal_of_two.kill())
        faulty.fail(*CHANGES, nth=nth, kill=True, tear=True)
        with pytest.raises(Killed):
            compact(faulty)
        after = faulty.inner.crash(rng)  # type: ignore[attr-defined]
        assert load(after) == plain, faulty.operations[-1]
        compact(after)
        assert image(after) == image(whole), faulty.operations[-1]
        assert same_events(table(after), before)


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_system_at_any_step_loses_nothing(journal_of_two: MemoryStorage, error: int) -> None:
    plain = whole_state(journal_of_two)
    whole = journal_of_two.kill()
    compact(whole)
    for nth in range(1, changes(journal_of_two) + 1):
        faulty = FaultyStorage(journal_of_two.kill())
        faulty.fail(*CHANGES, nth=nth, error=error, tear=True)
        with pytest.raises(JournalFailed):
            compact(faulty)
        assert whole_state(faulty) == plain, faulty.operations[-1]
        compact(faulty)
        assert image(faulty) == image(whole)


def test_events_recorded_after_a_kill_are_compacted_with_it(journal_of_two: MemoryStorage) -> None:
    """The history file that was finished covers only the first part of what is compacted next."""
    for nth in range(1, changes(journal_of_two) + 1):
        faulty = FaultyStorage(journal_of_two.kill())
        faulty.fail(*CHANGES, nth=nth, kill=True)
        with pytest.raises(Killed):
            compact(faulty)
        after = faulty.inner.kill()  # type: ignore[attr-defined]
        record(after, EPISODE)
        before, plain = table(after), whole_state(fold_back(after))
        compact(after)
        assert not segments(after)
        assert same_events(table(after), before), faulty.operations[-1]
        assert whole_state(after) == whole_state(fold_back(after)) == plain


def test_a_finished_file_is_kept_and_a_damaged_one_made_anew(journal_of_two: MemoryStorage) -> None:
    faulty = FaultyStorage(journal_of_two)
    faulty.fail("rename", path="snapshots/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    path = history.all_spans(journal_of_two)[-1].path
    kept, damaged = FaultyStorage(journal_of_two.kill()), journal_of_two.kill()
    good = journal_of_two.read(path)
    compact(kept)
    assert ("rename", path) not in kept.operations
    flip(damaged, path, 999)
    compact(damaged)
    assert damaged.read(path) == kept.read(path) == good


def test_a_finished_file_that_lacks_a_segment_is_made_anew(journal_of_two: MemoryStorage) -> None:
    """Since the kill a segment without events was sealed: the name is the same, the cells are not."""
    faulty = FaultyStorage(journal_of_two)
    faulty.fail("rename", path="snapshots/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    after = journal_of_two.kill()
    add_segment_without_events(after)
    before = segments(after)
    (path,) = compact(after).history
    assert [raw for _, raw in history.reencode(after, path)] == before


def test_no_segment_is_removed_for_history_that_differs(
    journal_of_two: MemoryStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The comparison is what unlinking rests on."""
    before = image(journal_of_two)
    checksums = lossless.checksums
    monkeypatch.setattr(lossless, "checksums", lambda *args: checksums(*args) ^ (args[3] > 100))
    with pytest.raises(JournalFailed, match="does not give the bytes"):
        compact(journal_of_two)
    assert image(journal_of_two) == before


@pytest.mark.parametrize("by", [1, -1])
def test_a_snapshot_that_differs_is_refused(
    journal_of_two: MemoryStorage, monkeypatch: pytest.MonkeyPatch, by: int
) -> None:
    before = segments(journal_of_two)
    read = snapshot.read

    def misread(storage: Any, path: str, **how: bool) -> snapshot.Snapshot:
        found = read(storage, path, **how)
        if path.endswith(".tmp"):
            found.state.events += by
        return found

    monkeypatch.setattr(snapshot, "read", misread)
    with pytest.raises(JournalFailed, match="does not give the state"):
        compact(journal_of_two)
    assert segments(journal_of_two) == before


# -- refused, or mended ------------------------------------------------------------------------------------------------


def test_a_lost_or_damaged_snapshot_is_made_anew(journal_of_two: MemoryStorage) -> None:
    done = compact(journal_of_two)
    assert done.snapshot is not None
    before = image(journal_of_two)
    journal_of_two.remove(done.snapshot)
    assert compact(journal_of_two).snapshot == done.snapshot
    assert image(journal_of_two) == before
    flip(journal_of_two, done.snapshot, 999)
    with pytest.warns(RuntimeWarning, match="passed over"):
        again = compact(journal_of_two)
    assert (again.segments, again.snapshot) == (0, done.snapshot)
    assert image(journal_of_two) == before


def test_later_damage_of_history_stays_visible(journal_of_two: MemoryStorage) -> None:
    """A snapshot notes the history files as they were written, not as they are found later."""
    path = history.all_spans(journal_of_two)[0].path
    flip(journal_of_two, path, 999)
    done = compact(journal_of_two)
    assert done.snapshot is not None
    noted = {note.path: note for note in snapshot.read(journal_of_two, done.snapshot).history}
    assert list(noted) == [path, *done.history]
    flip(journal_of_two, path, 999)
    assert noted[path].sha256 == history.describe(journal_of_two, path).sha256


def test_history_above_the_end_of_the_log_is_not_touched(journal_of_two: MemoryStorage) -> None:
    """journal.json and segments were set back to an older copy: history may be all that is left of what came after."""
    older = journal_of_two.kill()
    record(journal_of_two, EPISODE)
    path = compact(journal_of_two).history[-1]
    older.make_directory("history")
    with older.stream(path) as stream:
        stream.write(journal_of_two.read(path))
    before = image(older)
    for dry_run in (True, False):
        with pytest.raises(CorruptJournal, match="set back") as caught:
            compact(older, dry_run=dry_run)
        assert caught.value.path == path
    assert image(older) == before


def test_damage_in_the_log_is_refused_and_nothing_changed(journal_of_two: MemoryStorage) -> None:
    flip(journal_of_two, "segments/00000002.seg", 8 * 200)
    before = image(journal_of_two)
    with pytest.raises(CorruptJournal):
        compact(journal_of_two)
    assert image(journal_of_two) == before


def test_beside_a_running_training_it_is_refused(tmp_path: Path) -> None:
    with journal.open(tmp_path) as log:
        log.append(journal.Custom(name="x"))
        with pytest.raises(JournalLocked, match="compact it when that has ended") as caught:
            compact(tmp_path)
        assert caught.value.pids
        with pytest.raises(JournalLocked):
            compact(tmp_path, dry_run=True)
    assert compact(tmp_path).segments == 1


def test_what_is_no_journal_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(NotAJournal):
        compact(tmp_path)
    assert not list(tmp_path.iterdir())
    with pytest.raises(NotAJournal):
        compact(tmp_path / "nothing")


def test_the_base_says_what_the_next_segment_needs(journal_of_two: MemoryStorage) -> None:
    walk = Walk(journal_of_two).run()
    compact(journal_of_two)
    manifest = Manifest.read(journal_of_two)
    assert manifest.segments == ()
    assert manifest.base == Base(3, walk.position, walk.seq, walk.chain, walk.context())
