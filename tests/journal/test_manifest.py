"""journal.json: it checks itself, names both versions when it is too new, and nothing is opened without it."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest

import journal
from journal import segment
from journal.crc import crc32c
from journal.manifest import PATH, Manifest
from journal.storage import replace
from journal.storage.disk import DiskStorage
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage


def written() -> MemoryStorage:
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        log.append(journal.Custom(name="x"))
    return storage


def test_it_is_read_as_it_was_written() -> None:
    storage = written()
    manifest = Manifest.read(storage)
    assert manifest.segments == (0,)
    manifest.with_segments((0, 1, 2)).write(storage)
    assert Manifest.read(storage) == manifest.with_segments((0, 1, 2))
    document = json.loads(storage.read(PATH))
    assert (document["format"], document["segments"][0]) == (1, "segments/00000000.seg")


def test_every_changed_byte_is_seen() -> None:
    storage = written()
    whole = storage.read(PATH)
    rng = Random(1)
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= 1 << rng.randrange(7)
        replace(storage, PATH, bytes(changed))
        try:
            assert Manifest.read(storage) == Manifest.read(written_like(whole)), "only white space may differ"
            assert chr(whole[at]).isspace()
        except journal.CorruptJournal:
            pass  # A flipped bit of the format's number, too: it is no newer format.


def written_like(raw: bytes) -> MemoryStorage:
    storage = MemoryStorage()
    replace(storage, PATH, raw)
    return storage


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"{}", b"\xff\xfe", b'{"format": "x"}', b"[" * 100_000])
def test_what_is_no_manifest_is_corrupt(raw: bytes) -> None:
    with pytest.raises(journal.CorruptJournal, match=r"journal\.json is damaged"):
        Manifest.read(written_like(raw))


def test_a_newer_version_names_both() -> None:
    storage = written()
    document = json.loads(storage.read(PATH)) | {"format": segment.FORMAT + 1, "unknown": []}
    del document["crc32c"]
    document["crc32c"] = f"{crc32c(json.dumps(document, sort_keys=True, separators=(',', ':')).encode()):08x}"
    replace(storage, PATH, json.dumps(document).encode())
    before = {name: storage.read(f"segments/{name}") for name in storage.list("segments")}
    with pytest.raises(journal.UnsupportedFormat, match="format 2, this training-journal reads format 1"):
        journal.open("m", storage=storage)
    assert {name: storage.read(f"segments/{name}") for name in storage.list("segments")} == before


def test_missing_beside_segments_is_corrupt_and_in_an_empty_directory_no_journal() -> None:
    storage = written()
    storage.remove(PATH)
    for read in (lambda: Manifest.read(storage), lambda: journal.open("m", storage=storage)):
        with pytest.raises(journal.CorruptJournal, match="missing"):
            read()
    with pytest.raises(journal.NotAJournal):
        Manifest.read(MemoryStorage())


def test_no_directory_is_no_journal(tmp_path: Path) -> None:
    with pytest.raises(journal.NotAJournal, match="no such directory"):
        Manifest.read(DiskStorage(tmp_path / "absent"))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(journal.NotAJournal):
        Manifest.read(DiskStorage(tmp_path / "file"))


def test_a_system_that_cannot_read_it_is_no_damage() -> None:
    faulty = FaultyStorage(written())
    faulty.fail("read", path=PATH)
    with pytest.raises(journal.JournalFailed, match="could not be read"):
        Manifest.read(faulty)


def test_segments_out_of_sequence_or_with_strange_names_are_corrupt() -> None:
    storage = written()
    manifest = Manifest.read(storage)
    manifest.with_segments((0, 2)).write(storage)
    with pytest.raises(journal.CorruptJournal, match="not in sequence"):
        Manifest.read(storage)


@pytest.mark.parametrize("name", ["../x.seg", "segments/../1.seg", "segments/1.seg", "/etc/passwd", "segments/x"])
def test_a_path_that_leads_elsewhere_is_corrupt(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = written()
    manifest = Manifest.read(storage)
    monkeypatch.setattr(segment, "path_of", lambda ordinal: name)
    manifest.write(storage)
    with pytest.raises(journal.CorruptJournal, match="as a segment"):
        Manifest.read(storage)


@pytest.mark.parametrize("directory", ["segments", "history", "snapshots"])
def test_a_journal_whose_manifest_was_removed_is_not_taken_for_an_empty_directory(directory: str) -> None:
    """Opening said "give a new or empty directory": as if all were lost, or another one were meant."""
    storage = MemoryStorage()
    storage.make_directory(directory)
    storage.create(f"{directory}/00000000.seg", 64).close()
    for read in (lambda: journal.open("it", storage=storage), lambda: Manifest.read(storage)):
        with pytest.raises(journal.CorruptJournal, match=f"journal.json is missing, and {directory}/ is here"):
            read()
    assert storage.list("") == [directory]
