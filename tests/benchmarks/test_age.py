"""A journal's age does not matter: what opening it reads is counted, and does not grow with the events behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

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


def test_it_grows_a_real_journal_and_tells_each_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--sizes", "2000,6000", "--steps", "500", "--rounds", "1", "--directory", str(tmp_path)]
    age.main([*given, "--json"])
    document = json.loads(capsys.readouterr().out)
    assert [row["episodes"] for row in document["sizes"]] == [4, 12]
    first, second = document["sizes"]
    assert first["ratio"] == 1.0
    assert 6000 < second["events"] < 6200
    assert first["rss"] > 0 < second["compact_rss"]
    assert not list(tmp_path.iterdir()), "it cleans up"


@pytest.mark.parametrize("sizes", ["a", "5,3", "0"])
def test_wrong_sizes_are_refused(sizes: str) -> None:
    with pytest.raises(SystemExit):
        age.main(["--sizes", sizes])
