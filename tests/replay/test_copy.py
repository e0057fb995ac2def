"""Copy: what was promised at one moment, also of a journal that goes on; whole, or no journal at all."""

from __future__ import annotations

import errno
import shutil
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import journal
import replay
from journal.storage.disk import DiskStorage
from replay import copying
from replay.compaction import compact
from replay.copying import copy
from replay.verify import verify

sys.path.insert(0, str(Path(__file__).parent))
from trainings import Retiring, begin, compacted, flip, play, rewards_at, save, segments, train, training


def test_a_copy_is_equal_and_verifies(tmp_path: Path) -> None:
    train(tmp_path / "j")
    done = copy(tmp_path / "j", tmp_path / "copy")
    report = verify(tmp_path / "copy", deep=True)
    assert (report.status, report.events, report.head) == ("clean", done.events, done.head)
    assert report.head == verify(tmp_path / "j").head
    assert done.checkpoints == 4 and not done.damaged
    assert replay.load(tmp_path / "copy") == replay.load(tmp_path / "j")


def test_of_a_living_journal_it_is_the_promised_prefix(tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        save(log, "PPO", 0)
        play(log, "PPO", [0])
        receipt = log.sync()
        play(log, "PPO", [10], first=1)
        save(log, "PPO", 2)
        done = copy(tmp_path / "j", tmp_path / "copy")
        report = verify(tmp_path / "copy", deep=True, expect=(receipt.seq, receipt.chain))
        assert (report.status, report.live) == ("clean", False)
        assert (done.events, done.head) == (receipt.seq + 1, (receipt.seq, receipt.chain))
        assert report.head == done.head, "the seal stands where the promise ends"
        assert sorted(path.name for path in (tmp_path / "copy" / "checkpoints").iterdir()) == ["PPO-0"]
        play(log, "PPO", [20], first=2)
    assert verify(tmp_path / "j").status == "clean", "the source was not disturbed"


def test_a_copy_can_be_gone_on_with(tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        play(log, "PPO", [0])
        log.sync()
        copy(tmp_path / "j", tmp_path / "copy")
    with journal.open(tmp_path / "copy") as log:
        assert not log.recovered.crashed
        begin(log, attempt=1)
        play(log, "PPO", [10], first=1)
    assert verify(tmp_path / "copy", deep=True).status == "clean"
    assert replay.load(tmp_path / "copy").agents["PPO"].effective["train"].episodes == 2


def test_nothing_promised_gives_an_empty_journal(tmp_path: Path) -> None:
    with training(tmp_path / "j"):
        assert copy(tmp_path / "j", tmp_path / "copy").events == 0
    assert verify(tmp_path / "copy", deep=True).status == "clean"


def test_a_compacted_journal_is_copied_with_its_history(tmp_path: Path) -> None:
    receipt = train(tmp_path / "j")
    compact(tmp_path / "j")
    with journal.open(tmp_path / "j") as log:
        play(log, "PPO", [30], first=3)
    done = copy(tmp_path / "j", tmp_path / "copy")
    report = verify(tmp_path / "copy", deep=True, expect=(receipt.seq, receipt.chain))
    assert (report.status, report.head) == ("clean", done.head)
    assert replay.load(tmp_path / "copy") == replay.load(tmp_path / "j")


def test_several_segments_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.segment.SIZE_MIN", 256 << 10)
    monkeypatch.setattr("journal.segment.SIZE_MAX", 256 << 10)
    with training(tmp_path / "j") as log:
        agent = log.agent("PPO")
        log.append(journal.EpisodeStarted(agent="PPO", episode=0))
        for step in range(10_000):
            log.reward(agent, 0, step, 1.0)
        log.sync()
        for step in range(10_000, 10_010):
            log.reward(agent, 0, step, 1.0)
        done = copy(tmp_path / "j", tmp_path / "copy")
        assert len(segments(tmp_path / "copy")) > 2
    assert verify(tmp_path / "copy", deep=True).head == done.head


def test_copies_of_a_training_that_removes_checkpoints_all_the_while_are_whole(tmp_path: Path) -> None:
    stop = threading.Event()
    with journal.open(tmp_path / "j", sync_interval=0.002) as log:
        begin(log)

        def go_on() -> None:
            kept: list[str] = []
            number = 0
            while not stop.is_set():
                play(log, "PPO", [number], first=number)
                number += 1
                retired = kept[:-2]
                kept = [*kept[-2:], save(log, "PPO", number, retired=retired)]
                log.sync()
                for path in retired:
                    (tmp_path / "j" / path).unlink()
                time.sleep(0.02)

        thread = threading.Thread(target=go_on)
        thread.start()
        try:
            heads: list[int] = []
            while log.promised.seq < 20:
                time.sleep(0.01)
            for number in range(4):
                done = copy(tmp_path / "j", tmp_path / f"copy {number}")
                report = verify(tmp_path / f"copy {number}", deep=True)
                assert (report.status, report.head, done.damaged) == ("clean", done.head, ()), report
                heads.append(done.head.seq)
        finally:
            stop.set()
            thread.join()
    assert heads == sorted(heads) and heads[0] < heads[-1]


@pytest.mark.parametrize(("when", "tries_needed"), [("sizes", 2), ("load", 1)])
def test_a_checkpoint_may_be_removed_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str, tries_needed: int
) -> None:
    """Before it was copied: it begins anew. After: it is kept, because the copied prefix names it."""
    with training(tmp_path / "j") as log:
        old = save(log, "PPO", 0)
        play(log, "PPO", [0])
        log.sync()
        tries = 0
        step = getattr(copying, when)

        def lose_and_step(*arguments: Any, **options: Any) -> Any:
            nonlocal tries
            tries += arguments[0].name == str(tmp_path / "j")
            if (tmp_path / "j" / old).exists():
                new = save(log, "PPO", 1, retired=[old])
                log.sync()
                (tmp_path / "j" / old).unlink()
                assert new != old
            return step(*arguments, **options)

        monkeypatch.setattr(copying, when, lose_and_step)
        done = copy(tmp_path / "j", tmp_path / "copy")
        assert (tries, done.checkpoints, done.damaged) == (tries_needed, 1, ())
        kept = [path.name for path in (tmp_path / "copy" / "checkpoints").iterdir()]
        assert kept == (["PPO-1"] if when == "sizes" else ["PPO-0"])
    assert verify(tmp_path / "copy", deep=True).status == "clean"


@pytest.mark.parametrize("when", ["load", "copy_log"])
def test_a_compaction_meanwhile_makes_it_begin_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    train(tmp_path / "j")
    tries = 0
    step = getattr(copying, when)

    def step_and_compact(*arguments: Any, **options: Any) -> Any:
        nonlocal tries
        tries += 1
        result = step(*arguments, **options)
        if tries == 1:
            compact(tmp_path / "j")
            if when == "copy_log":
                raise journal.CorruptJournal("segments/00000000.seg", 0, 0, "it was missing")
        return result

    monkeypatch.setattr(copying, when, step_and_compact)
    copy(tmp_path / "j", tmp_path / "copy")
    assert tries == 2
    assert verify(tmp_path / "copy", deep=True).status == "clean"
    assert replay.load(tmp_path / "copy") == replay.load(tmp_path / "j")
    assert segments(tmp_path / "copy") == [], "what the first try had copied is history now"


def test_a_snapshot_retired_meanwhile_makes_it_begin_anew(tmp_path: Path) -> None:
    compacted(tmp_path / "j")
    oldest = min((tmp_path / "j" / "snapshots").iterdir(), key=lambda path: int(path.stem))
    copy(Retiring(tmp_path / "j", f"snapshots/{oldest.name}"), tmp_path / "copy")
    assert not oldest.exists() and verify(tmp_path / "copy", deep=True).status == "clean"


def test_what_a_killed_compaction_left_is_not_copied(tmp_path: Path) -> None:
    train(tmp_path / "j")
    shutil.copytree(tmp_path / "j", tmp_path / "before")
    compact(tmp_path / "j")
    shutil.copytree(tmp_path / "j" / "history", tmp_path / "before" / "history", dirs_exist_ok=True)
    copy(tmp_path / "before", tmp_path / "copy")
    assert not (tmp_path / "copy" / "history").exists()
    assert verify(tmp_path / "copy", deep=True).status == "clean"


# -- what is in the way ------------------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_is_left_out_and_named(tmp_path: Path) -> None:
    train(tmp_path / "j")
    flip(tmp_path / "j" / "checkpoints" / "PPO-3", 0)
    (tmp_path / "j" / "checkpoints" / "SAC-3").unlink()
    done = copy(tmp_path / "j", tmp_path / "copy")
    assert done.checkpoints == 2
    assert [damaged.partition(":")[0] for damaged in done.damaged] == ["checkpoints/PPO-3", "checkpoints/SAC-3"]
    assert sorted(path.name for path in (tmp_path / "copy" / "checkpoints").iterdir()) == ["PPO-0", "SAC-0"]


def test_a_corrupt_journal_is_not_copied(tmp_path: Path) -> None:
    train(tmp_path / "j")
    flip(segments(tmp_path / "j")[0], rewards_at(segments(tmp_path / "j")[0])[0])
    with pytest.raises(journal.CorruptJournal):
        copy(tmp_path / "j", tmp_path / "copy")
    assert not (tmp_path / "copy" / "journal.json").exists()


@pytest.mark.parametrize("what", ["file", "full", "inside", "itself"])
def test_a_target_that_is_taken_is_refused_and_left_alone(tmp_path: Path, what: str) -> None:
    train(tmp_path / "j")
    (tmp_path / "file").write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")
    target = {"inside": tmp_path / "j" / "copy", "itself": tmp_path / "j"}.get(what, tmp_path / what)
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    with pytest.raises(journal.NotAJournal, match="directory"):
        copy(tmp_path / "j", target)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before


def test_a_full_disk_is_told_and_leaves_no_journal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "j")
    rename = DiskStorage.rename

    def full(self: DiskStorage, source: str, target: str) -> None:
        if target.startswith("segments/"):
            raise OSError(errno.ENOSPC, "No space left on device")
        rename(self, source, target)

    monkeypatch.setattr(DiskStorage, "rename", full)
    with pytest.raises(journal.DiskFull, match="copy again"):
        copy(tmp_path / "j", tmp_path / "copy")
    assert not (tmp_path / "copy" / "journal.json").exists()


def test_a_disk_that_writes_something_else_is_found_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(tmp_path / "j")
    rename = DiskStorage.rename

    def lying(self: DiskStorage, source: str, target: str) -> None:
        rename(self, source, target)
        if target.startswith("segments/"):
            path = Path(self.name) / target
            flip(path, rewards_at(path)[0])

    monkeypatch.setattr(DiskStorage, "rename", lying)
    with pytest.raises(journal.JournalFailed, match="does not read as it was written"):
        copy(tmp_path / "j", tmp_path / "copy")
