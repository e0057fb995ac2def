"""Recovery after a compaction that was killed rests on nothing that a power cut may still take back."""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

import pytest

import journal
from journal.manifest import Manifest
from journal.recovery import recover
from journal.storage.faulty import FaultyStorage, Killed
from replay.compaction import compact
from replay.loading import load
from replay.verify import verify

sys.path.insert(0, str(Path(__file__).parent))
from logs import fresh, record_everything, whole_state
from trainings import play, train


def test_a_copy_without_its_empty_folder_is_opened_and_goes_on(tmp_path: Path) -> None:
    """All is compacted, so nothing lies in `segments/`, and many a tool that copies or archives leaves that out."""
    train(tmp_path / "j")
    compact(tmp_path / "j")
    assert not list((tmp_path / "j" / "segments").iterdir())
    (tmp_path / "j" / "segments").rmdir()
    with journal.open(tmp_path / "j") as log:
        play(log, "PPO", [30], first=3)
    assert load(tmp_path / "j").agents["PPO"].effective["train"].episodes == 4
    assert verify(tmp_path / "j", deep=True).status == "clean"


def test_recovery_makes_the_new_base_durable_before_it_removes_what_lies_below() -> None:
    """Killed between the rename of journal.json and its sync, then recovered: a power cut could bring it back."""
    storage = fresh()
    record_everything(storage)
    compact(storage)
    record_everything(storage)
    storage.sync_directory("")
    storage.sync_directory("segments")
    plain = whole_state(storage)
    whole = FaultyStorage(storage.kill())
    compact(whole)
    syncs = whole.operations.count(("sync_directory", ""))
    faulty = FaultyStorage(storage.kill())
    faulty.fail("sync_directory", path="", nth=syncs, kill=True)
    with pytest.raises(Killed):
        compact(faulty)
    after = faulty.inner.kill()  # type: ignore[attr-defined]
    assert Manifest.read(after).base.seq > Manifest.read(storage).base.seq and after.list("segments")
    recover(after, Manifest.read(after), 7)
    assert not after.list("segments")
    for seed in range(20):
        assert load(after.crash(Random(seed))) == plain
