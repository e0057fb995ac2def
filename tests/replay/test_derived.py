"""What a history file says beside its cells is held against them, by whoever verifies deeply or from a receipt."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

import journal
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.storage.memory import MemoryStorage
from replay import history, lossless, parquet, snapshot
from replay.compaction import compact
from replay.scan import scan
from replay.verify import verify

sys.path.insert(0, str(Path(__file__).parent))
from logs import fresh, record, record_everything, write_history

PLACE = 0x5A4B3C2D
"""A number whose bytes stand nowhere else in a footer."""


@pytest.fixture
def everything() -> MemoryStorage:
    storage = fresh()
    record_everything(storage)
    return storage


def changed(column: pa.Array, row: int) -> pa.Array:
    """Another text in one row."""
    texts = column.dictionary_decode().to_pylist() if isinstance(column, pa.DictionaryArray) else column.to_pylist()
    texts[row] = f"{texts[row] or ''}x"
    made = pa.array(texts, pa.string())
    return made.dictionary_encode() if isinstance(column, pa.DictionaryArray) else made


@pytest.mark.parametrize("name", ["run", "kind", "agent", "phase", "fields"])
@pytest.mark.parametrize("row", [0, 7, -1])
def test_a_column_for_queries_that_says_something_else_is_found(name: str, row: int, everything: MemoryStorage) -> None:
    """Made by somebody who computes all checksums anew: the cells are untouched, and so is the chain."""
    path = write_history(everything)
    assert list(history.pieces(everything, path))
    checked = parquet.open_checked(everything, path, 0, lossless.SCHEMA)
    rows = checked.file.read().combine_chunks()
    place = rows.column_names.index(name)
    forged = changed(rows.column(place).combine_chunks(), row % rows.num_rows)
    with everything.stream(path) as stream, parquet.Writer(stream, lossless.SCHEMA) as writer:
        writer.write(rows.set_column(place, lossless.SCHEMA.field(place), forged))
        writer.close(checked.document)
    assert list(history.reencode(everything, path))
    with pytest.raises(CorruptJournal, match=f"its column '{name}' is not what its events give"):
        list(history.pieces(everything, path))


def test_agents_names_that_lie_are_found(everything: MemoryStorage) -> None:
    """Readers take them from the footer; exchanged, one agent gets the other's rewards."""
    path = write_history(everything)
    checked = parquet.open_checked(everything, path, 0, lossless.SCHEMA)
    rows, document = checked.file.read(), checked.document
    names = document["end"]["context"]["names"]
    assert len(names) > 1
    names[:2] = names[1::-1]
    with everything.stream(path) as stream, parquet.Writer(stream, lossless.SCHEMA) as writer:
        writer.write(rows)
        writer.close(document)
    with pytest.raises(CorruptJournal, match="agents' names are not those"):
        list(history.pieces(everything, path))


def test_segments_that_are_not_in_order_are_refused(everything: MemoryStorage) -> None:
    """Found by the fuzzer, as a traceback: between them there were fewer events than none."""
    record(everything, [("start", "PPO", "train", 0), ("reward", "PPO", "train", 0, 1.0), ("end", "PPO", "train", 0)])
    path = write_history(everything)
    checked = parquet.open_checked(everything, path, 0, lossless.SCHEMA)
    rows, document = checked.file.read(), checked.document
    assert len(document["segments"]) > 1
    document["segments"][0]["seq"], document["segments"][1]["seq"] = document["segments"][1]["seq"], 0
    with everything.stream(path) as stream, parquet.Writer(stream, lossless.SCHEMA) as writer:
        writer.write(rows)
        writer.close(document)
    for read in (history.reencode, history.pieces):
        with pytest.raises(CorruptJournal, match="not in order"):
            list(read(everything, path))


def forge_footer(storage: MemoryStorage, path: str, each: dict[bytes, bytes], last: dict[bytes, bytes]) -> None:
    """Replace bytes of the footer, everywhere or where they stand last, and make the file's SHA-256 anew."""
    data = storage.read(path)
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    footer = data[start:]
    for old, new in each.items():
        assert old in footer
        footer = footer.replace(old, new)
    for old, new in last.items():
        before, found, behind = footer.rpartition(old)
        assert found
        footer = before + new + behind
    field: Any = parquet._field(footer)
    begin, end = field.span(1)
    zeroed = footer[:begin] + b"0" * (end - begin) + footer[end:]
    digest = hashlib.sha256(data[:start] + zeroed).hexdigest().encode()
    with storage.stream(path) as stream:
        stream.write(data[:start] + footer[:begin] + digest + footer[end:])


@pytest.fixture
def placed() -> tuple[MemoryStorage, str, journal.Receipt]:
    """Rewards of one env_index, the history file that they are in, and the receipt behind them."""
    storage = fresh()
    with journal.open("j", storage=storage) as log:
        agent = log.agent("A")
    compact(storage)
    with journal.open("j", storage=storage) as log:
        for step in range(3):
            log.reward(agent, 0, step, 1.0, env_index=PLACE)
        receipt = log.sync()
    compact(storage)
    return storage, history.all_spans(storage)[-1].path, receipt


@pytest.mark.parametrize("named", [b"env_index", b"env_indez"])
def test_statistics_that_lie_are_found(placed: tuple[MemoryStorage, str, journal.Receipt], named: bytes) -> None:
    """Replay does not unpack a column that statistics say holds one number; they are in no cell and in no chain.

    Also where the column has another name there, since replay goes by its place.
    """
    storage, path, receipt = placed
    assert verify(storage, deep=True).status == "clean"
    lie = {PLACE.to_bytes(4, "little"): (PLACE + 1).to_bytes(4, "little")}
    forge_footer(storage, path, lie, last={b"\x09env_index": b"\x09" + named})
    assert {int(one) for batch in scan(storage, since=1) for one in batch.env_index} == {PLACE + 1}
    for report in (verify(storage, deep=True), verify(storage, expect=(receipt.seq, receipt.chain))):
        assert report.status == "corrupt"
        assert [one.file for one in report.findings if "statistics" in one.reason or "another name" in one.reason] == [
            path
        ]


def test_a_snapshot_that_lies_is_found_from_a_receipt(placed: tuple[MemoryStorage, str, journal.Receipt]) -> None:
    """Totals are read from it: that its history and its receipt are right does not make them so."""
    storage, _, receipt = placed
    path = snapshot.path_of(snapshot.seqs(storage)[0])
    told = snapshot.read(storage, path, whole=True)
    told.state.agents["A"].effective["train"].reward.add(997.0)
    with storage.stream(path) as stream:
        snapshot.write(stream, told.state, Manifest.read(storage).base, list(told.history))
    report = verify(storage, expect=(receipt.seq, receipt.chain))
    assert [(one.file, "not what the events" in one.reason) for one in report.findings] == [(path, True)]
