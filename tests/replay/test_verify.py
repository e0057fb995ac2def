"""Verify: every kind of damage is found, and told where it is; what is no damage is not called so."""

from __future__ import annotations

import shutil
import struct
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

import journal
import replay
from journal.cell import CELL
from journal.manifest import Manifest
from journal.storage import Memory
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from replay.compaction import compact
from replay.promises import Head
from replay.verify import verify

sys.path.insert(0, str(Path(__file__).parent))
from trainings import (
    Retiring,
    compacted,
    end,
    flip,
    killed,
    newer,
    play,
    remake,
    rewards_at,
    save,
    segments,
    train,
    training,
)


def reasons(report: replay.Report) -> str:
    return "; ".join(f"{finding.file}: {finding.reason}" for finding in report.findings)


def test_a_closed_journal_is_clean_and_wholly_promised(tmp_path: Path) -> None:
    train(tmp_path / "j")
    report = verify(tmp_path / "j", deep=True)
    assert (report.status, report.live, report.findings) == ("clean", False, ())
    assert report.events == replay.load(tmp_path / "j").events == report.head.seq + 1


def test_beside_a_writer_what_is_not_promised_yet_is_not_torn(tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        play(log, "PPO", [0])
        receipt = log.sync()
        play(log, "PPO", [10], first=1)
        report = verify(tmp_path / "j", deep=True)
        assert (report.status, report.live) == ("clean", True)
        assert report.head == Head(receipt.seq, receipt.chain)
        assert report.events > receipt.seq + 1


def test_beside_a_writer_a_cell_that_does_not_check_yet_is_not_torn(tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        play(log, "PPO", [0])
        log.sync()
        play(log, "PPO", [10], first=1)
        path = segments(tmp_path / "j")[0]
        at = rewards_at(path)[-1]
        with path.open("r+b") as file:
            file.seek(at)
            byte = file.read(1)
            for new in (bytes([byte[0] ^ 1]), byte):
                file.seek(at)
                file.write(new)
                file.flush()
                report = verify(tmp_path / "j", deep=True)
                assert (report.status, report.torn.events) == ("clean", 0)


def test_good_cells_behind_the_last_promise_are_clean(tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        play(log, "PPO", [0])
        receipt = log.sync()
        play(log, "PPO", [10], first=1)
        report = verify(killed(tmp_path / "j", tmp_path / "killed"), deep=True)
    assert (report.status, report.live, report.head.seq) == ("clean", False, receipt.seq)
    assert report.events == receipt.seq + 1 + 8


def test_damage_behind_the_last_promise_is_a_torn_tail(tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        play(log, "PPO", [0])
        receipt = log.sync()
        play(log, "PPO", [10], first=1)
        dead = killed(tmp_path / "j", tmp_path / "killed")
    path = segments(dead)[0]  # Behind it lies the spare.
    flip(path, rewards_at(path)[-2])
    report = verify(dead)
    assert (report.status, report.findings) == ("torn", ())
    assert report.torn.events == 2, "the reward behind the damaged one and the episode's end are whole"
    assert report.torn.bytes > 3 * CELL and report.torn.reason
    assert report.head.seq == receipt.seq

    journal.open(dead).close()
    report = verify(dead)
    assert (report.status, report.torn.events) == ("clean", 0)
    (kept,) = report.torn.quarantine
    assert (dead / kept).exists()


def test_a_damaged_promised_cell_is_named_by_file_offset_and_seq(tmp_path: Path) -> None:
    train(tmp_path / "j")
    (path,) = segments(tmp_path / "j")
    at = rewards_at(path)[3]
    seq = int.from_bytes(path.read_bytes()[at + 8 : at + 16], "little")
    flip(path, at + 60)
    report = verify(tmp_path / "j")
    assert report.status == "corrupt"
    (finding,) = report.findings
    assert (finding.file, finding.offset, finding.seq) == (f"segments/{path.name}", at, seq)


def test_a_missing_segment_is_found(tmp_path: Path) -> None:
    train(tmp_path / "j")
    segments(tmp_path / "j")[0].unlink()
    report = verify(tmp_path / "j", deep=True)
    assert report.status == "corrupt" and "missing" in reasons(report)


def test_a_damaged_manifest_is_found(tmp_path: Path) -> None:
    train(tmp_path / "j")
    flip(tmp_path / "j" / "journal.json", 30)
    report = verify(tmp_path / "j")
    assert report.status == "corrupt" and report.findings[0].file == "journal.json"


@pytest.mark.parametrize("deep", [False, True])
def test_a_newer_format_is_not_called_damage(tmp_path: Path, deep: bool) -> None:
    train(tmp_path / "j")
    newer(tmp_path / "j")
    with pytest.raises(journal.UnsupportedFormat, match="format 2"):
        verify(tmp_path / "j", deep=deep)


# -- deep --------------------------------------------------------------------------------------------------------------


def one_segment(directory: Path) -> tuple[Path, int]:
    """A journal whose only promise is its seal, and the byte offset of a reward in its only segment."""
    with journal.open(directory, sync="close") as log:
        log.append(journal.EpisodeStarted(agent="PPO", episode=0))
        for step in range(9):
            log.reward(log.agent("PPO"), 0, step, 1.0)
    return directory, rewards_at(segments(directory)[0])[4]


def test_deep_finds_a_cell_whose_own_checksum_is_wrong_though_the_chain_is_right(tmp_path: Path) -> None:
    directory, at = one_segment(tmp_path / "j")
    remake(directory, at, b"\0\0\0\0", checksum=False)
    assert verify(directory).status == "clean"
    report = verify(directory, deep=True)
    assert report.status == "corrupt" and report.findings[0].offset == at


def test_deep_finds_altered_and_missing_checkpoints(tmp_path: Path) -> None:
    train(tmp_path / "j")
    assert verify(tmp_path / "j", deep=True).status == "clean"
    flip(tmp_path / "j" / "checkpoints" / "PPO-3", 2)
    (tmp_path / "j" / "checkpoints" / "SAC-0").unlink()
    assert verify(tmp_path / "j").status == "clean"
    report = verify(tmp_path / "j", deep=True)
    assert {finding.file for finding in report.findings} == {"checkpoints/PPO-3", "checkpoints/SAC-0"}
    assert report.status == "corrupt"


def test_deep_does_not_miss_a_checkpoint_that_was_retired(tmp_path: Path) -> None:
    with training(tmp_path / "j") as log:
        old = save(log, "PPO", 0)
        play(log, "PPO", [0])
        save(log, "PPO", 1, retired=[old])
    (tmp_path / "j" / old).unlink()
    assert verify(tmp_path / "j", deep=True).status == "clean"


def test_a_compacted_journal_is_clean(tmp_path: Path) -> None:
    compacted(tmp_path / "j")
    for deep in (False, True):
        report = verify(tmp_path / "j", deep=deep)
        assert (report.status, report.findings) == ("clean", ())
        assert report.events == replay.load(tmp_path / "j").events


def test_a_snapshot_that_a_compaction_retires_beside_it_is_no_damage(tmp_path: Path) -> None:
    """Eight readers beside a training called it corrupt: the compaction had moved the base before they looked."""
    compacted(tmp_path / "j")
    oldest = min((tmp_path / "j" / "snapshots").iterdir(), key=lambda path: int(path.stem))
    report = verify(Retiring(tmp_path / "j", f"snapshots/{oldest.name}"), deep=True)
    assert (report.status, report.findings) == ("clean", ()) and not oldest.exists()


def test_a_segment_that_goes_while_it_is_measured_is_a_finding(tmp_path: Path) -> None:
    compacted(tmp_path / "j")
    last = segments(tmp_path / "j")[-1]
    report = verify(Retiring(tmp_path / "j", f"segments/{last.name}"))
    assert report.status == "corrupt" and "is missing" in reasons(report)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("damage", ["flip", "replace"])
def test_deep_finds_damaged_history(tmp_path: Path, place: int, damage: str) -> None:
    compacted(tmp_path / "j")
    path = sorted((tmp_path / "j" / "history").iterdir())[place]
    if damage == "flip":
        flip(path, 200)
    else:
        compacted(tmp_path / "other")
        shutil.copy(sorted((tmp_path / "other" / "history").iterdir())[place], path)
    assert verify(tmp_path / "j").status == "clean", "only names are looked at"
    report = verify(tmp_path / "j", deep=True)
    assert report.status == "corrupt" and f"history/{path.name}" in reasons(report)


def test_deep_finds_history_of_another_course_of_the_same_journal(tmp_path: Path) -> None:
    """Two copies went on differently: each file is whole, and checks by itself."""
    train(tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "other")
    for name, start in (("one", 30), ("other", 40)):
        with journal.open(tmp_path / name) as log:
            play(log, "PPO", [start], first=3)
        compact(tmp_path / name)
    (path,) = (tmp_path / "one" / "history").iterdir()
    shutil.copy(tmp_path / "other" / "history" / path.name, path)
    report = verify(tmp_path / "one", deep=True)
    assert report.status == "corrupt" and "history" in reasons(report)


def test_a_missing_history_file_is_found_without_deep(tmp_path: Path) -> None:
    compacted(tmp_path / "j")
    sorted((tmp_path / "j" / "history").iterdir())[0].unlink()
    assert verify(tmp_path / "j").status == "corrupt"


def test_deep_finds_a_damaged_snapshot(tmp_path: Path) -> None:
    compacted(tmp_path / "j")
    path = next(iter((tmp_path / "j" / "snapshots").iterdir()))
    flip(path, 60)
    report = verify(tmp_path / "j", deep=True)
    assert [finding.file for finding in report.findings] == [f"snapshots/{path.name}"]


def test_deep_finds_a_snapshot_that_is_whole_but_wrong(tmp_path: Path) -> None:
    """Of the right journal, well-formed, with its own checksum right; only the fold knows better."""
    from journal.storage import replacing
    from replay import snapshot

    compacted(tmp_path / "j")
    storage = DiskStorage(tmp_path / "j")
    path = snapshot.path_of(snapshot.seqs(storage)[0])
    kept = snapshot.read(storage, path)
    kept.state.agents["PPO"].lineage.effective["train"].steps += 1
    with replacing(storage, path) as stream:
        snapshot.write(stream, kept.state, kept.base, list(kept.history))
    assert replay.load(tmp_path / "j").agents["PPO"].effective["train"].steps == 26
    report = verify(tmp_path / "j", deep=True)
    assert [finding.file for finding in report.findings] == [path]


# -- a noted receipt ---------------------------------------------------------------------------------------------------


def test_what_was_not_read_is_told(tmp_path: Path) -> None:
    """Without --deep, history is only seen to be there: "clean" must not be taken for more."""
    with journal.open(tmp_path / "j") as log:
        log.reward(log.agent("A"), 0, 0, 1.0)
    assert replay.verify(tmp_path / "j").unread == ()
    compact(tmp_path / "j")
    assert replay.verify(tmp_path / "j").unread == ("history/0-1.parquet",)
    assert replay.verify(tmp_path / "j", deep=True).unread == ()


def test_a_receipt_is_found_again_also_in_history(tmp_path: Path) -> None:
    receipt = compacted(tmp_path / "j")
    assert verify(tmp_path / "j", expect=(receipt.seq, receipt.chain)).status == "clean"
    assert verify(tmp_path / "j", expect=(receipt.seq, receipt.chain.upper())).status == "clean"


def test_every_receipt_that_a_writer_gave_is_found_again(tmp_path: Path) -> None:
    """Also the one of a log that was opened and has not promised anything itself."""
    noted = []
    for number in range(3):
        with journal.open(tmp_path / "j") as log:
            noted.append(log.promised)
            play(log, "PPO", [10 * number], first=number)
            noted.append(log.sync())
        noted.append(log.promised)
    for receipt in noted:
        assert verify(tmp_path / "j", expect=(receipt.seq, receipt.chain)).status == "clean", receipt
    compact(tmp_path / "j")
    for receipt in noted:
        assert verify(tmp_path / "j", expect=(receipt.seq, receipt.chain)).status == "clean", receipt


def test_a_change_that_was_covered_up_is_found_by_a_noted_receipt(tmp_path: Path) -> None:
    directory, at = one_segment(tmp_path / "j")
    head = verify(directory).head
    remake(directory, at + 56, struct.pack("<d", 2.0), checksum=True)
    assert verify(directory, deep=True).status == "clean", "nothing in the journal itself tells"
    report = verify(directory, expect=head)
    assert report.status == "corrupt" and "changed" in reasons(report)


def test_a_journal_that_was_rolled_back_is_found_by_a_noted_receipt(tmp_path: Path) -> None:
    with journal.open(tmp_path / "j") as log:
        play(log, "PPO", [0])
    shutil.copytree(tmp_path / "j", tmp_path / "before")
    with journal.open(tmp_path / "j") as log:
        play(log, "PPO", [10], first=1)
        receipt = log.sync()
    assert verify(tmp_path / "j", expect=(receipt.seq, receipt.chain)).status == "clean"
    report = verify(tmp_path / "before", expect=(receipt.seq, receipt.chain))
    assert report.status == "corrupt" and "rolled back" in reasons(report)


def test_a_receipt_of_another_seq_proves_nothing(tmp_path: Path) -> None:
    receipt = train(tmp_path / "j")
    assert verify(tmp_path / "j", expect=(receipt.seq - 1, receipt.chain)).status == "corrupt"


@pytest.mark.parametrize("text", ["", "12", "12:abc", "x:" + "0" * 48, "12:" + "0" * 47 + "g", "-2:" + "0" * 48])
def test_what_is_no_receipt_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="SEQ:CHAIN"):
        Head.parse(text)


def test_a_memory_storage_can_be_verified(tmp_path: Path) -> None:
    from journal.storage.memory import MemoryStorage

    storage = MemoryStorage()
    with journal.open("ignored", storage=storage) as log:
        play(log, "PPO", [0])
        end(log)
    assert verify(storage, deep=True).status == "clean"
    assert Manifest.read(storage).segments == (0,)


class Changing:
    """A journal to which a writer comes while it is read: its first look at the last segment falls into an append."""

    def __init__(self, storage: DiskStorage, comes: bool) -> None:
        self._storage, self._comes, self._looked = storage, comes, False

    def __getattr__(self, name: str) -> object:
        return getattr(self._storage, name)

    def locked(self, path: str) -> bool:
        return self._looked and self._comes

    def read(self, path: str, offset: int = 0, length: int | None = None) -> bytes:
        data = bytearray(self._storage.read(path, offset, length))
        self._spoil(path, data, offset)
        return bytes(data)

    def read_into(self, path: str, memory: Memory, offset: int = 0) -> int:
        count = self._storage.read_into(path, memory, offset)
        self._spoil(path, memory, offset)
        return count

    def _spoil(self, path: str, data: Memory, offset: int) -> None:
        place = 3 * CELL - offset
        if path.startswith("segments/") and 0 <= place < len(data) and not (self._looked and self._comes):
            self._looked = True
            data[place] ^= 1


def test_what_looks_damaged_while_a_writer_comes_is_looked_at_again(tmp_path: Path) -> None:
    with journal.open(tmp_path / "j") as log:
        for step in range(9):
            log.reward(log.agent("A"), 0, step, 1.0)
    disk = DiskStorage(tmp_path / "j")
    assert verify(Changing(disk, comes=True)).status == "clean"  # type: ignore[arg-type]
    assert replay.load(Changing(disk, comes=True)).events == 10  # type: ignore[arg-type]
    assert verify(Changing(disk, comes=False)).status == "corrupt"  # type: ignore[arg-type]
    with pytest.raises(journal.CorruptJournal):
        replay.load(Changing(disk, comes=False))  # type: ignore[arg-type]


def test_a_noted_receipt_that_a_power_cut_took_is_still_proved_by_its_chain() -> None:
    """`log.promised` is evidence of a sync that has returned; the receipt itself gets to the disk with the next one.

    Real power cuts found it: everything promised was there, and `--expect` said "cut or rolled back".
    """
    for marks in (0, 1):
        storage = MemoryStorage()
        log = journal.open("fx", storage=storage, sync="close")
        agent = log.agent("PPO")
        log.rewards(agent, 0, range(5), [0.5] * 5)
        for _ in range(marks):
            log.sync()
            log.reward(agent, 0, 5, 0.25)
        log._commit.once()
        noted = log.promised
        cut = storage.crash(NoLuck())
        log.close()
        before = verify(cut)
        assert before.events == noted.seq + 1 and before.head.seq < noted.seq, (
            "the receipt is lost, its events are there"
        )
        other = noted.chain[:-1] + ("0" if noted.chain[-1] != "0" else "1")
        for _ in ("as it was found", "recovered", "compacted"):
            assert verify(cut, expect=(noted.seq, noted.chain)).status == "clean"
            wrong = verify(cut, expect=(noted.seq, other))
            assert wrong.status == "corrupt" and "something before it was changed" in wrong.findings[0].reason
            with journal.open("fx", storage=cut) as log:
                log.append(journal.Custom(name="on"))
            compact(cut)


class NoLuck(Random):
    """Nothing that was not synced reaches the disk."""

    def choice(self, seq: Any) -> Any:
        return seq[0]

    def random(self) -> float:
        return 0.5
