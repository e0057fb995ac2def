"""Dropping history: the totals stay, a record says what is gone, and whatever comes between, nothing else is lost."""

from __future__ import annotations

import errno
import hashlib
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import journal
from journal.errors import CorruptJournal, HistoryDropped, JournalFailed
from journal.manifest import Manifest
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from replay import dropping, history, snapshot
from replay.compaction import compact
from replay.loading import load
from replay.query import events
from replay.scan import scan
from replay.snapshot import packed, path_of, twin_of
from replay.tail import last
from replay.verify import verify

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run, document
from logs import EPISODE, flip, fresh, image, record, record_everything, whole_state
from trainings import train


@pytest.fixture
def old() -> MemoryStorage:
    """Two sessions that were compacted, and one that was not."""
    storage = fresh()
    for number in range(3):
        record_everything(storage)
        record(storage, EPISODE)
        if number < 2:
            compact(storage)
    return storage


@pytest.fixture
def dropped(old: MemoryStorage) -> MemoryStorage:
    """The same without its history."""
    compact(old, drop_history=True)
    return old


def figures(storage: MemoryStorage) -> dict[str, list[Any]]:
    """What of the totals depends on no clock."""
    agents = whole_state(storage).agents
    return {name: agent.effective["train"].to_payload()[:5] for name, agent in agents.items()}


def findings(storage: Any) -> list[str]:
    """What a deep look finds, but for the checkpoints, which were never there."""
    return [one.file for one in verify(storage, deep=True).findings if not one.file.startswith("checkpoints/")]


# -- what stays --------------------------------------------------------------------------------------------------------


def test_the_state_stays_and_goes_on(old: MemoryStorage) -> None:
    plain, going_on = whole_state(old), old.kill()
    done = compact(old, drop_history=True)
    assert done.dropped.events == plain.events and len(done.dropped.files) == 3
    assert not history.all_spans(old) and not old.list("segments")
    assert snapshot.seqs(old) == [plain.last_seq], "older ones lead nowhere any more"
    assert packed(whole_state(old)) == packed(plain)
    assert plain.agents["PPO"].checkpoints == load(old).agents["PPO"].checkpoints, "resume needs no history"
    for storage in (old, going_on):
        record(storage, EPISODE)
    compact(old)
    assert figures(old) == figures(going_on)
    assert findings(old) == []


def test_a_record_says_what_was_dropped(old: MemoryStorage) -> None:
    compact(old)
    files = {span.path: old.read(span.path) for span in history.all_spans(old)}
    base = Manifest.read(old).base
    compact(old, drop_history=True)
    (entry,) = Manifest.read(old).drops
    assert (entry.first, entry.last, entry.chain) == (0, base.seq - 1, base.chain)
    assert {one.path: (one.size, one.sha256) for one in entry.files} == {
        path: (len(data), hashlib.sha256(data).hexdigest()) for path, data in files.items()
    }
    assert entry.time_ns > 0
    record(old, EPISODE)
    compact(old, drop_history=True)
    first, second = Manifest.read(old).drops
    assert first == entry and second.first == entry.last + 1 and len(second.files) == 1


def test_a_rehearsal_changes_nothing_and_knows_what_would_be(old: MemoryStorage) -> None:
    before = image(old)
    rehearsed = compact(old, drop_history=True, dry_run=True)
    assert image(old) == before
    done = compact(old, drop_history=True)
    assert rehearsed.dropped == done.dropped
    assert rehearsed.bytes_after == done.bytes_after, "one snapshot and its twin are left of all"
    again = image(old)
    assert compact(old, drop_history=True).dropped == dropping.NOTHING
    assert image(old) == again


def test_a_rehearsal_knows_the_bytes_where_nothing_is_left_to_compact(old: MemoryStorage) -> None:
    compact(old)
    assert compact(old, drop_history=True, dry_run=True).bytes_after == compact(old, drop_history=True).bytes_after


def test_a_rehearsal_of_a_journal_without_events_drops_nothing() -> None:
    storage = fresh()
    journal.open("j", storage=storage).close()
    rehearsed = compact(storage, drop_history=True, dry_run=True)
    assert rehearsed.dropped == dropping.NOTHING and rehearsed.bytes_after == rehearsed.bytes_before


def test_a_rehearsal_where_all_was_dropped_before_says_that_nothing_changes(dropped: MemoryStorage) -> None:
    rehearsed = compact(dropped, drop_history=True, dry_run=True)
    assert rehearsed.dropped == dropping.NOTHING and rehearsed.bytes_after == rehearsed.bytes_before


def test_it_is_not_done_unless_asked_for(old: MemoryStorage) -> None:
    for _ in range(3):
        record(old, EPISODE)
        compact(old, keep=1)
    assert Manifest.read(old).drops == () and len(history.all_spans(old)) == 5


# -- what is said afterwards -------------------------------------------------------------------------------------------


def test_what_needs_the_dropped_events_says_so(dropped: MemoryStorage) -> None:
    end = Manifest.read(dropped).kept_from
    record(dropped, EPISODE)
    with pytest.raises(HistoryDropped, match=f"events 0 to {end - 1} were dropped on 20"):
        load(dropped, at=3)
    assert load(dropped, at=end).events == end + 1
    with pytest.raises(HistoryDropped):
        list(scan(dropped))
    with pytest.warns(RuntimeWarning, match=f"begins with {end}"):
        found = [seq for batch in events(dropped) for seq in batch["seq"].to_pylist()]
    assert found == list(range(end, load(dropped).events))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert sum(batch.num_rows for batch in events(dropped, since=end)) == len(found)
    with pytest.warns(RuntimeWarning, match="dropped"):
        newest, following = last(dropped, 1000)
    assert sum(map(len, newest)) == len(found) and following == found[-1] + 1


def test_verify_says_what_it_can_no_longer_check(dropped: MemoryStorage) -> None:
    plain = verify(dropped, deep=True)
    assert findings(dropped) == [] and plain.dropped is not None
    end = plain.dropped["events"]
    assert plain.dropped["last_seq"] == end - 1 and len(plain.dropped["files"]) == 3
    with journal.open("a journal", storage=dropped) as log:
        log.append(journal.Custom(name="later"))
        receipt = log.sync()
    assert verify(dropped, expect=(receipt.seq, receipt.chain)).status == "clean"
    assert verify(dropped, expect=(end - 1, plain.dropped["chain"])).status == "clean"
    assert verify(dropped, expect=(receipt.seq, plain.dropped["chain"])).status == "corrupt"
    with pytest.raises(HistoryDropped, match="can no longer be checked"):
        verify(dropped, expect=(3, receipt.chain))


def test_the_command_line_says_so(place: Path, run: Run) -> None:
    totals = document(run, "totals", place)["agents"]
    compared = document(run, "compare", place)
    assert "would be dropped" in run("compact", place, "--drop-history", "--dry-run")[1]
    assert document(run, "totals", place)["agents"] == totals
    told = document(run, "compact", place, "--drop-history")
    assert told["dropped"]["events"] == 58 and told["dropped"]["files"] == ["history/0-57.parquet"]
    for verb in ("totals", "replay", "runs", "verify", "info"):
        assert document(run, verb, place)["dropped"]["events"] == 58
        code, out, err = run(verb, place)
        assert (code, err) == (0, "") and "events 0 to 57 were dropped on 20" in " ".join(out.split()), out
    assert document(run, "totals", place)["agents"] == totals
    assert compared["verdict"] == "comparable"
    unproved = document(run, "compare", place, code=1)
    assert unproved["verdict"] == "not provable" and "was in history that is dropped" in unproved["reason"]
    assert "were dropped" in run("compare", place)[1]
    code, out, err = run("totals", place, "--at", 5)
    assert (code, out) == (2, "") and "dropped" in err and err.count("\n") == 1
    train(place)
    assert document(run, "totals", place)["agents"]["PPO"]["total_episodes"] == 6


def test_a_copy_is_a_copy_of_what_is_left(tmp_path: Path, place: Path, run: Run) -> None:
    run("compact", place, "--drop-history")
    train(place)
    document(run, "copy", place, tmp_path / "copy")
    assert document(run, "verify", tmp_path / "copy", "--deep")["status"] == "clean"
    assert document(run, "totals", tmp_path / "copy")["agents"] == document(run, "totals", place)["agents"]
    (tmp_path / "copy" / "snapshots" / "57.parquet").unlink()
    with pytest.warns(RuntimeWarning, match="57.parquet"):
        assert load(tmp_path / "copy").events == 114, "the twin came along"


# -- cut short ---------------------------------------------------------------------------------------------------------


def changes(storage: MemoryStorage) -> int:
    faulty = FaultyStorage(storage.kill())
    compact(faulty, drop_history=True)
    return sum(kind in CHANGES for kind, _ in faulty.operations)


@pytest.fixture(autouse=True)
def frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    """When it was done is the only thing that differs from one time to the next."""
    monkeypatch.setattr(dropping.time, "time_ns", lambda: 1_700_000_000_000_000_000)


@pytest.mark.parametrize("how", ["killed", "power cut"])
@pytest.mark.parametrize("twice", [False, True])
def test_cut_short_at_any_step_it_ends_in_the_same_place(old: MemoryStorage, how: str, twice: bool) -> None:
    if twice:
        compact(old, drop_history=True)
        record(old, EPISODE)
    compact(old)
    plain = whole_state(old)
    old.writeback(Random(0))
    whole = old.kill()
    compact(whole, drop_history=True)
    rng = Random(7)
    finished = 0
    for nth in range(1, changes(old) + 1):
        faulty = FaultyStorage(old.kill())
        faulty.fail(*CHANGES, nth=nth, kill=True, tear=True)
        with pytest.raises(Killed):
            compact(faulty, drop_history=True)
        inner: Any = faulty.inner
        after = inner.kill() if how == "killed" else inner.crash(rng)
        assert packed(whole_state(after)) == packed(plain), faulty.operations[-1]
        assert findings(after) == [], faulty.operations[-1]
        again = after.kill()
        compact(again)
        if len(Manifest.read(again).drops) == len(Manifest.read(whole).drops):
            finished += 1
            assert image(again) == image(whole), "what was begun is finished by the next compaction"
        compact(after, drop_history=True)
        assert image(after) == image(whole), faulty.operations[-1]
    assert finished > 3


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_system_at_any_step_loses_nothing(old: MemoryStorage, error: int) -> None:
    compact(old)
    plain, whole = whole_state(old), old.kill()
    compact(whole, drop_history=True)
    for nth in range(1, changes(old) + 1):
        faulty = FaultyStorage(old.kill())
        faulty.fail(*CHANGES, nth=nth, error=error, tear=True)
        with pytest.raises(JournalFailed):
            compact(faulty, drop_history=True)
        assert packed(whole_state(faulty)) == packed(plain), faulty.operations[-1]
        compact(faulty, drop_history=True)
        assert image(faulty) == image(whole)


def test_recovery_takes_away_what_a_killed_compaction_left_behind_a_drop(dropped: MemoryStorage) -> None:
    record(dropped, EPISODE)
    faulty = FaultyStorage(dropped)
    faulty.fail("remove", path="segments/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    after = dropped.kill()
    left = after.list("segments")
    journal.open("a journal", storage=after).close()
    assert left and not set(left) & set(after.list("segments"))


def test_recovery_takes_away_an_unfinished_twin(old: MemoryStorage) -> None:
    compact(old)
    faulty = FaultyStorage(old)
    faulty.fail("rename", path="snapshots/twin/*", kill=True)
    with pytest.raises(Killed):
        compact(faulty, drop_history=True)
    after = old.kill()
    assert [name for name in after.list(dropping.TWINS) if name.endswith(".tmp")]
    journal.open("a journal", storage=after).close()
    assert after.list(dropping.TWINS) == []


# -- damage ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["history", "lost history", "snapshot", "a wrong snapshot"])
def test_what_cannot_be_verified_is_not_dropped(old: MemoryStorage, what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compact(old)
    path = history.all_spans(old)[1].path
    if what == "history":
        flip(old, path, 999)
    elif what == "lost history":
        old.remove(path)
    elif what == "snapshot":
        flip(old, path_of(snapshot.seqs(old)[1]), 999)  # The newest one is made anew.
    else:
        state = load(old)
        state.agents["PPO"].rewinds += 1
        notes = list(snapshot.read_at(old, Manifest.read(old)).history)
        with old.stream(path_of(state.last_seq)) as stream:
            snapshot.write(stream, state, Manifest.read(old).base, notes)
    before = image(old)
    for dry_run in (True, False):
        with pytest.raises(CorruptJournal):
            compact(old, drop_history=True, dry_run=dry_run)
        assert image(old) == before


@pytest.mark.parametrize("harm", ["damaged", "lost"])
@pytest.mark.parametrize("which", [0, 1])
def test_either_copy_serves_alone_and_the_other_is_mended(dropped: MemoryStorage, which: int, harm: str) -> None:
    record(dropped, EPISODE)
    plain, before = whole_state(dropped), image(dropped)
    seq = Manifest.read(dropped).kept_from - 1
    path = (path_of(seq), twin_of(seq))[which]
    flip(dropped, path, 999) if harm == "damaged" else dropped.remove(path)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert packed(load(dropped)) == packed(plain)
    assert [path in str(one.message) for one in told] == [True] * (which == 0)
    assert findings(dropped) == [path]
    dropping.finish(dropped, Manifest.read(dropped))
    assert image(dropped) == before
    compact(dropped)
    assert findings(dropped) == []


def test_without_both_copies_it_is_said_what_is_lost(dropped: MemoryStorage) -> None:
    record(dropped, EPISODE)
    seq = Manifest.read(dropped).kept_from - 1
    flip(dropped, path_of(seq), 999)
    flip(dropped, twin_of(seq), 999)
    with pytest.warns(RuntimeWarning), pytest.raises(CorruptJournal, match="so is its twin"):
        load(dropped)
    assert set(findings(dropped)) == {path_of(seq), twin_of(seq)}


def test_it_outlives_any_number_of_compactions(dropped: MemoryStorage) -> None:
    """History can be folded only from where it begins, so that snapshot is not retired."""
    seq = Manifest.read(dropped).kept_from - 1
    for _ in range(4):
        record(dropped, EPISODE)
        compact(dropped, keep=1)
    plain = whole_state(dropped)
    assert snapshot.seqs(dropped)[-1] == seq and len(snapshot.seqs(dropped)) == 2
    dropped.remove(path_of(snapshot.seqs(dropped)[0]))
    assert packed(whole_state(dropped)) == packed(plain)
    assert compact(dropped).snapshot == path_of(plain.last_seq), "a lost snapshot is made of what was kept"


def test_a_reader_that_is_in_the_middle_is_told(old: MemoryStorage) -> None:
    compact(old)
    reading = events(old)
    next(reading)
    compact(old, drop_history=True)
    with pytest.raises(HistoryDropped):
        list(reading)


def test_history_that_is_not_what_was_kept_is_found(dropped: MemoryStorage, old: MemoryStorage) -> None:
    """A file of another course of the journal, under the name of the first that was kept."""
    other = dropped.kill()
    record(dropped, EPISODE)
    record(other, EPISODE)
    compact(dropped)
    compact(other)
    assert history.all_spans(dropped) == history.all_spans(other)
    path = history.all_spans(dropped)[0].path
    with dropped.stream(path) as stream:
        stream.write(other.read(path))
    assert findings(dropped)


def test_a_record_that_was_altered_is_found(dropped: MemoryStorage) -> None:
    record(dropped, EPISODE)
    compact(dropped)
    manifest = Manifest.read(dropped)
    forged = replace(manifest.drops[0], chain=bytes(24))
    replace(manifest, drops=(forged,)).write(dropped)
    with pytest.raises(CorruptJournal, match="where the dropped history ended"):
        list(scan(dropped, since=manifest.kept_from))
    assert set(findings(dropped)) > {path_of(manifest.kept_from - 1)}
