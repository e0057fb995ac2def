"""A journal's age does not matter: what opening it reads is counted, and does not grow with the events behind it."""

from __future__ import annotations

from pathlib import Path

import journal
from benchmarks import age
from replay import history
from replay.compaction import compact
from replay.loading import load


def test_opening_reads_no_history_however_much_there_is(tmp_path: Path) -> None:
    """Twelve times the events, episodes and history files: the same files are read, and hardly a byte more."""
    opened, episode = [], 0
    for sessions in (1, 11):
        for _ in range(sessions):
            episode = age.grow(str(tmp_path), 40_000, steps=50, first=episode)
            compact(tmp_path)
        opened.append(age.open_once(str(tmp_path)))
        compact(tmp_path)
    young, old = opened
    assert len(history.all_spans(age.CountingStorage(str(tmp_path)))) >= 12
    assert old.events > 11 * young.events
    assert old.files_read <= young.files_read + 2, (
        "journal.json, a snapshot, the live log, and whether a spare is there"
    )
    assert old.bytes_read < young.bytes_read + 16_384, "there is a line per history file and block of episodes"


def test_what_is_read_is_counted(tmp_path: Path) -> None:
    with journal.open(tmp_path) as log:
        log.append(journal.Custom(name="x"))
    storage = age.CountingStorage(str(tmp_path))
    load(storage)
    assert storage.files == {"journal.json", "segments/00000000.seg"}
    assert storage.bytes_read >= sum((tmp_path / path).stat().st_size for path in storage.files)
