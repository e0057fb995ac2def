"""History is lossless: from each file the original segments can be made again, whatever is in them; damage is found."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
import replay.batch
from journal import cell, segment
from journal import chain as chains
from journal.errors import CorruptJournal, JournalFailed, UnsupportedFormat
from journal.manifest import Base, Manifest
from journal.storage.disk import DiskStorage
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage
from journal.walk import Walk
from replay import groups, history, lossless, packing, parquet
from replay.batch import COLUMNS
from replay.compaction import compact
from replay.groups import RowGroup
from replay.scan import scan

sys.path.insert(0, str(Path(__file__).parent))
from logs import (
    EPISODE,
    SIGNED_NAN,
    add_segment_without_events,
    flip,
    fresh,
    record,
    record_everything,
    segments,
    write_history,
)
from model import commands


@pytest.fixture
def everything() -> MemoryStorage:
    """Three sessions, and between them a segment without events."""
    storage = fresh()
    record_everything(storage)
    add_segment_without_events(storage)
    record(storage, [("start", "PPO", "train", 0), ("reward", "PPO", "train", 0, 1.0), ("end", "PPO", "train", 0)])
    add_segment_without_events(storage)
    return storage


def in_force(storage: MemoryStorage, path: str) -> Manifest:
    """The manifest of a journal whose live log begins behind this history file."""
    return Manifest(Manifest.read(storage).journal_id, history.describe(storage, path).end)


def test_every_byte_of_the_segments_comes_back(everything: MemoryStorage) -> None:
    path = write_history(everything)
    again = list(history.reencode(everything, path))
    assert [raw for _, raw in again] == segments(everything)
    assert [header.ordinal for header, _ in again] == [0, 1, 2, 3]


@settings(max_examples=25, deadline=None)
@given(st.lists(commands, min_size=1, max_size=3), st.integers(1, 20), st.integers(1, 40))
def test_every_byte_of_random_logs_comes_back(scripts: list[Any], rows: int, cells: int) -> None:
    """Row groups of any size, so that their borders fall everywhere."""
    storage = fresh()
    for script in scripts:
        record(storage, [("reward", "PPO", "train", 0, 1.0), *script])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(packing, "ROWS", rows)
        patch.setattr(replay.batch, "ROWS", rows)
        patch.setattr(replay.batch, "PAYLOADS", cells)
        path = write_history(storage)
    assert [raw for _, raw in history.reencode(storage, path)] == segments(storage)
    assert len(list(history.pieces(storage, path))) == len(segments(storage))
    compare_with_scan(storage, path)


def test_history_reads_as_the_segments_do(everything: MemoryStorage) -> None:
    compare_with_scan(everything, write_history(everything))


def compare_with_scan(storage: MemoryStorage, path: str) -> None:
    def columns(batches: list[Any]) -> dict[str, Any]:
        return {name: np.concatenate([getattr(batch, name) for batch in batches]).tobytes() for name in COLUMNS}

    def rare(batches: list[Any]) -> dict[int, bytes]:
        return {int(batch.seq[row]): raw for batch in batches for row, raw in batch.payloads.items()}

    def runs(batches: list[Any]) -> list[str | None]:
        return [batch.runs[i] if i >= 0 else None for batch in batches for i in batch.run.tolist()]

    live = list(scan(storage))
    compacted = list(groups.read(storage, in_force(storage, path), 0))
    assert columns(compacted) == columns(live)
    assert rare(compacted) == rare(live)
    assert runs(compacted) == runs(live)
    assert compacted[-1].names == live[-1].names


def test_what_a_row_group_has_alike_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ROWS", 4)
    monkeypatch.setattr(replay.batch, "ROWS", 4)
    storage = fresh()
    with journal.open("a journal", storage=storage) as log:
        agent = log.agent("PPO")
        for step in range(12):
            log.reward(agent, 2**64 - 1, 2**64 - 13 + step, float(step), 2**32 - 1, cell.EVAL)
    path = write_history(storage)
    compare_with_scan(storage, path)
    group = list(groups.row_groups(storage, in_force(storage, path), 0))[1]
    unpacked: list[str] = []
    original = RowGroup.read

    def noting(group: RowGroup, columns: Any) -> Any:
        unpacked.extend(columns)
        return original(group, columns)

    monkeypatch.setattr(RowGroup, "read", noting)
    batch = group.batch(None)
    assert sorted(unpacked) == ["payload", "run", "step", "time", "value"]
    assert [batch.column(name).dtype for name in COLUMNS] == list(COLUMNS.values())
    cut = batch.cut(1, 3)
    assert cut.seq.tolist() == [group.first + 1, group.first + 2]
    assert cut.episode.tolist() == [2**64 - 1] * 2
    assert len(batch.changes()) == 0


def test_events_that_are_numbered_otherwise_are_refused(everything: MemoryStorage) -> None:
    path = write_history(everything)
    checked = parquet.open_checked(everything, path, 0, lossless.SCHEMA)
    rows = checked.file.read()
    later = pa.array(rows["seq"].to_numpy() + np.uint64(1))
    with everything.stream(path) as stream, parquet.Writer(stream, lossless.SCHEMA) as writer:
        writer.write(rows.set_column(0, lossless.SCHEMA.field("seq"), later))
        writer.close(checked.document)
    with pytest.raises(CorruptJournal, match="not numbered as it says"):
        list(groups.read(everything, in_force(everything, path), 0))


def test_the_bytes_that_were_checked_are_those_that_are_unpacked(everything: MemoryStorage) -> None:
    path = write_history(everything)
    manifest = in_force(everything, path)
    (before,) = groups.read(everything, manifest, 0)
    (group,) = groups.row_groups(everything, manifest, 0)
    everything.remove(path)
    assert group.batch(None).value.tobytes() == before.value.tobytes()


def test_what_is_too_large_to_be_held_is_read_again(everything: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "HELD_MAX", 0)
    path = write_history(everything)
    compare_with_scan(everything, path)
    test_any_flipped_bit_is_found(everything)
    (group,) = groups.row_groups(everything, in_force(everything, path), 0)
    everything.remove(path)
    with pytest.raises(CorruptJournal, match="missing"):
        group.batch(None)


@pytest.mark.parametrize(("digits", "encoding"), [(5, "PLAIN"), (None, "BYTE_STREAM_SPLIT")])
def test_values_are_written_as_they_take_less_space(digits: int | None, encoding: str, tmp_path: Path) -> None:
    values = np.random.default_rng(2).normal(size=30_000)
    values = values.astype(np.float32).astype(np.float64) if digits is None else values.round(digits)
    with journal.open(tmp_path, sync="close") as log:
        agent = log.agent("PPO")
        log.rewards(agent, 0, range(len(values)), values)
        log.rewards(agent, 0, 30_000, [SIGNED_NAN, -0.0])
    raw = segments(DiskStorage(tmp_path))
    (path,) = compact(tmp_path).history
    metadata = pq.ParquetFile(tmp_path / path).metadata
    assert encoding in metadata.row_group(0).column(metadata.schema.names.index("value")).encodings
    assert [again for _, again in history.reencode(DiskStorage(tmp_path), path)] == raw
    (batch,) = groups.read(DiskStorage(tmp_path), Manifest.read(DiskStorage(tmp_path)), 0)
    expected = np.concatenate((values, [SIGNED_NAN, -0.0])).view("u8")
    assert batch.value[batch.kind == cell.REWARDED].view("u8").tolist() == expected.tolist()


def test_what_lies_before_a_damaged_file_is_read_first(monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of one row group and of several, so that the next one is checked early and late."""
    monkeypatch.setattr(packing, "ROWS", 3)
    monkeypatch.setattr(replay.batch, "ROWS", 3)
    storage = fresh()
    paths = []
    for rewards in (12, 1, 9, 12):
        record(storage, [("start", "PPO", "train", 0), *[("reward", "PPO", "train", 0, 1.0)] * rewards])
        paths += compact(storage).history
    manifest = Manifest.read(storage)
    assert sum(len(batch) for batch in groups.read(storage, manifest, 0)) == manifest.base.seq
    for path in paths:
        flip(storage, path, 8000)
        seqs: list[int] = []
        with pytest.raises(CorruptJournal) as caught:
            for batch in groups.read(storage, manifest, 0):
                seqs += batch.seq.tolist()
        assert (caught.value.path, caught.value.seq) == (path, len(seqs))
        assert seqs == list(range(len(seqs)))
        flip(storage, path, 8000)


def test_reading_history_imports_no_pandas(tmp_path: Path) -> None:
    with journal.open(tmp_path) as log:
        agent = log.agent("PPO")
        log.rewards(agent, 0, range(100), np.arange(100.0))
    compact(tmp_path)
    program = "import sys; from replay.loading import load; load(sys.argv[1], at=50); print('pandas' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=False, timeout=120
    )
    assert (done.returncode, done.stdout.split()) == (0, ["False"]), done.stderr


def test_other_tools_read_it(tmp_path: Path) -> None:
    """Plain pyarrow and pandas, without this library."""
    storage = DiskStorage(tmp_path)
    record_everything(storage)
    path = tmp_path / write_history(storage)
    frame = pd.read_parquet(path)
    assert frame["seq"].tolist() == list(range(len(frame)))
    assert set(frame["kind"]) > {"RunStarted", "Rewarded", "EpisodeEnded", "MetricLogged", "kind 77"}
    assert frame.loc[frame["kind"] == "MetricLogged", "fields"].tolist() == ['{"metric": "loss"}']
    assert set(frame.loc[frame["kind"] == "Rewarded", "agent"]) == {"PPO"}
    bits = pq.read_table(path)["value"].to_numpy().view("u8")
    assert np.float64(SIGNED_NAN).view("u8") in bits
    row_group = pq.ParquetFile(path, page_checksum_verification=True).metadata.row_group(0)
    assert row_group.column(0).compression == "ZSTD"


def test_the_chain_goes_through_history_from_the_first_event(everything: MemoryStorage) -> None:
    manifest = Manifest.read(everything)
    walk = Walk(everything, manifest).run()
    path = write_history(everything)
    promises = list(history.chain(everything, path, chains.genesis(manifest.journal_id)))
    assert promises[-1] == walk.promise
    assert len(promises) >= 6
    told = history.describe(everything, path)
    assert (told.end.chain, told.end.position, told.end.seq) == (walk.chain, walk.position, walk.seq)


def test_another_chain_before_it_is_found(everything: MemoryStorage) -> None:
    path = write_history(everything)
    with pytest.raises(CorruptJournal, match="chain does not match") as caught:
        list(history.chain(everything, path, bytes(24)))
    assert caught.value.path == path


def test_an_edit_that_makes_all_checksums_anew_is_found_by_the_chain(everything: MemoryStorage) -> None:
    path = write_history(everything)
    checked = parquet.open_checked(everything, path, 0, lossless.SCHEMA)
    rows = checked.file.read()
    values = rows["value"].to_numpy().copy()
    values[5] = 1e6
    rows = rows.set_column(rows.schema.get_field_index("value"), lossless.SCHEMA.field("value"), [values])
    everything.remove(path)
    with everything.stream(path) as stream, parquet.Writer(stream, lossless.SCHEMA) as writer:
        writer.write(rows)
        writer.close(checked.document)
    assert list(groups.read(everything, in_force(everything, path), 0)), "the file for itself is right"
    with pytest.raises(CorruptJournal, match="chain does not match"):
        list(history.chain(everything, path, history.describe(everything, path).base.chain))


def rewrite(storage: MemoryStorage, path: str, **changes: Any) -> None:
    """The same file, its document changed and its digest made anew."""
    checked = parquet.open_checked(storage, path, 0, lossless.SCHEMA)
    rows = checked.file.read()
    storage.remove(path)
    with storage.stream(path) as stream, parquet.Writer(stream, lossless.SCHEMA) as writer:
        writer.write(rows)
        writer.close(checked.document | changes)


def test_an_end_that_is_not_the_log_s_is_found(everything: MemoryStorage) -> None:
    path = write_history(everything)
    told = history.describe(everything, path)
    rewrite(everything, path, end=replace(told.end, chain=bytes(24)).as_payload())
    with pytest.raises(CorruptJournal, match="does not end where it says"):
        list(history.chain(everything, path, told.base.chain))


def test_a_file_of_another_course_of_the_journal_is_refused() -> None:
    """Two copies of a journal went on with different events; then a file of one came to the other."""
    one = fresh()
    record(one, EPISODE)
    compact(one)
    other = one.kill()
    for storage in (one, other):
        record(storage, EPISODE)
        (path,) = compact(storage).history
    record(one, EPISODE)
    compact(one)
    one.remove(path)
    with one.stream(path) as stream:
        stream.write(other.read(path))
    with pytest.raises(CorruptJournal, match="does not go on where"):
        list(groups.read(one, Manifest.read(one), 0))


def test_what_users_write_is_not_taken_for_the_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Parquet's statistics repeat values in the footer."""
    monkeypatch.setattr(packing, "_SEARCHED", lossless.SCHEMA.names)
    storage = fresh()
    looks_like_it = b"training_journal_sha256\x18\x40" + b"0" * 64
    with journal.open("a journal", storage=storage) as log:
        log.append(journal.Custom(name="x", data=looks_like_it))
        log.append(journal.Custom(name="x", data=looks_like_it.decode()))
    path = write_history(storage)
    assert storage.read(path).count(looks_like_it) > 0, "it is there to be mistaken"
    file = parquet.open_checked(storage, path, 0, lossless.SCHEMA).file
    assert file.metadata.metadata[parquet.DIGEST] != b"0" * 64
    assert [raw for _, raw in history.reencode(storage, path)] == segments(storage)


def test_any_flipped_bit_is_found(everything: MemoryStorage) -> None:
    path = write_history(everything)
    manifest = in_force(everything, path)
    size = everything.size(path) * 8
    for bit in [*range(0, size, 397), *range(size - 12 * 8, size)]:
        flip(everything, path, bit)
        with pytest.raises(CorruptJournal) as caught:
            list(groups.read(everything, manifest, 0))
        assert (caught.value.path, caught.value.seq) == (path, 0), bit
        flip(everything, path, bit)
    assert list(groups.read(everything, manifest, 0))


def test_a_cut_file_is_found(everything: MemoryStorage) -> None:
    path = write_history(everything)
    for size in (0, 3, 8, 12, everything.size(path) // 2, everything.size(path) - 1):
        data = everything.read(path)
        everything.open(path).truncate(size)
        with pytest.raises(CorruptJournal):
            history.describe(everything, path)
        everything.open(path).write(0, data)


def test_a_newer_format_is_refused_as_such(everything: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FORMAT", 2)
    path = write_history(everything)
    monkeypatch.undo()
    with pytest.raises(UnsupportedFormat, match="format 2"):
        history.describe(everything, path)


@pytest.mark.parametrize(
    ("names", "path", "seq"),
    [
        (["0-9", "10-19"], None, None),
        (["0-9", "10-19", "20-29"], None, None),
        (["10-19"], "history", 0),
        (["0-9"], "history", 10),
        (["0-9", "11-19"], "history", 10),
        (["0-9", "9-19"], "history/9-19.parquet", 9),
        (["0-9", "10-20"], "history/10-20.parquet", 10),
        (["0-4", "0-9", "10-19"], "history/0-9.parquet", 0),
    ],
)
def test_missing_and_overlapping_files_are_named(names: list[str], path: str | None, seq: int | None) -> None:
    storage = fresh()
    storage.make_directory("history")
    for name in [*names, "notes"]:
        storage.create(f"history/{name}.parquet").close()
    manifest = Manifest(bytes(16), Base(3, 99, 20, bytes(24)))
    if path is None:
        assert [span.path for span in history.spans(storage, manifest)] == [f"history/{n}.parquet" for n in names[:2]]
        return
    with pytest.raises(CorruptJournal) as caught:
        history.spans(storage, manifest)
    assert (caught.value.path, caught.value.seq) == (path, seq)


def test_a_file_of_another_name_or_journal_is_refused(everything: MemoryStorage) -> None:
    path = write_history(everything)
    manifest = in_force(everything, path)
    with pytest.raises(CorruptJournal, match="another journal"):
        list(groups.read(everything, Manifest(bytes(16), manifest.base), 0))
    shorter = Base(9, manifest.base.position, 9, manifest.base.chain)
    everything.rename(path, "history/0-8.parquet")
    with pytest.raises(CorruptJournal, match="its name says otherwise"):
        list(groups.read(everything, Manifest(manifest.journal_id, shorter), 0))


def test_a_file_that_does_not_end_where_the_live_log_begins_is_refused(everything: MemoryStorage) -> None:
    path = write_history(everything)
    end = in_force(everything, path).base
    manifest = Manifest(Manifest.read(everything).journal_id, Base(end.ordinal, end.position, end.seq, bytes(24)))
    with pytest.raises(CorruptJournal, match="does not end where the log begins"):
        list(groups.read(everything, manifest, 0))


def test_a_read_that_fails_is_not_taken_for_damage(everything: MemoryStorage) -> None:
    path = write_history(everything)
    faulty = FaultyStorage(everything)
    faulty.fail("read", path=path, nth=3)
    with pytest.raises(JournalFailed, match="check the disk"):
        list(groups.read(faulty, in_force(everything, path), 0))


def test_what_lies_below_is_not_read(everything: MemoryStorage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "ROWS", 5)
    monkeypatch.setattr(replay.batch, "ROWS", 5)
    path = write_history(everything)
    manifest = in_force(everything, path)
    batches = list(groups.read(everything, manifest, 12))
    assert int(batches[0].seq[0]) <= 12 < int(batches[0].seq[-1]) + 1
    assert int(batches[-1].seq[-1]) == manifest.base.seq - 1
    faulty = FaultyStorage(everything)
    assert not list(groups.read(faulty, manifest, manifest.base.seq))
    assert not [one for one in faulty.operations if one[0] == "read"]


@given(st.binary(min_size=64 * 3, max_size=64 * 3), st.integers(0, 2**32 - 1), st.integers(0, 2**62))
@settings(deadline=None)
def test_checksums_of_many_cells_are_those_of_each(raw: bytes, salt: int, position: int) -> None:
    at = np.array([0, 2])
    expected = [crc32c(raw[i * 64 + 4 : i * 64 + 64], salt) ^ (position + i & 0xFFFFFFFF) for i in (0, 2)]
    cells = np.frombuffer(raw, dtype=np.uint8).reshape(-1, 64)[at]
    assert lossless.checksums(cells, at, salt, position).tolist() == expected


def test_a_reward_batch_cut_in_two_is_refused(everything: MemoryStorage) -> None:
    rows = parquet.open_checked(everything, write_history(everything), 0, lossless.SCHEMA).file.read()
    batch = rows["head"].is_valid().to_pylist().index(True)
    with pytest.raises(ValueError, match="not whole"):
        lossless.to_cells(rows.slice(batch, 2), 0, 0)


def test_it_names_the_segments_it_covers(everything: MemoryStorage) -> None:
    told = history.describe(everything, write_history(everything))
    headers = [segment.Header.parse(one.header, "") for one in told.segments]
    assert [header.ordinal for header in headers if isinstance(header, segment.Header)] == list(told.ordinals)
    assert [one.seq for one in told.segments] == sorted(one.seq for one in told.segments)
