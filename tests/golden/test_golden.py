"""The bytes of each format version: today's code reads what it wrote then, and writes the newest byte by byte.

Red here means: journals on people's disks read differently, or a format changed without a new number. Only a deliberate
change of the format runs `make golden`.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import replay
from journal import cell, events
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from replay.state import without_trends

HERE = Path(__file__).parent


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"golden_{name}", HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


make, reader = script("make"), script("reader")
VERSIONS = sorted(path.name for path in HERE.glob("v*"))


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> Path:
    return HERE / str(request.param)


def recorded(version: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((version / make.READ).read_text(encoding="utf-8"))
    return content


def test_the_library_reads_what_was_recorded(version: Path) -> None:
    assert make.read(DiskStorage(version)) == recorded(version)


def test_a_small_reader_written_from_the_documents_reads_the_same(version: Path) -> None:
    found, promises = reader.read(version)
    assert promises == recorded(version)["promises"]
    assert make.plain(found) == recorded(version)["events"]


def test_it_verifies(version: Path) -> None:
    report = replay.verify(version)
    assert report.status == "clean"
    assert report.events == len(recorded(version)["events"])
    assert report.head.chain == recorded(version)["promises"][-1]["chain"]


def test_today_the_same_bytes_are_written() -> None:
    storage, newest = MemoryStorage(), make.DIRECTORY
    make.write(storage)
    files = {path.relative_to(newest).as_posix() for path in newest.rglob("*") if path.is_file()} - {make.READ}
    assert files == {"journal.json", "segments/00000000.seg", "segments/00000001.seg"}
    for path in sorted(files):
        assert storage.read(path) == (newest / path).read_bytes(), path


def test_every_kind_of_event_and_mark_is_in_it() -> None:
    seen = {int(row["kind"]) for row in recorded(make.DIRECTORY)["events"]}
    assert seen == set(events.REGISTRY)
    raw = b"".join(path.read_bytes() for path in sorted(make.DIRECTORY.glob("segments/*")))
    kinds = {int.from_bytes(raw[at + 4 : at + 6], "little") for at in range(0, len(raw), cell.CELL)}
    assert {cell.REWARDS, cell.RECEIPT, cell.SEGMENT_OPENED, cell.SEGMENT_SEALED} <= kinds


def told(storage: Storage) -> list[str]:
    """Every event as text: a NaN is equal to itself."""
    return [str(row) for batch in replay.events(storage) for row in batch.to_pylist()]


def test_what_the_first_history_and_snapshots_hold_is_what_the_log_held() -> None:
    """The golden journal, compacted when snapshots kept the bars in their state: both files are read as they are."""
    compacted = MemoryStorage()
    for path in (one for one in (HERE / "compacted-1").rglob("*") if one.is_file()):
        name = path.relative_to(HERE / "compacted-1").as_posix()
        compacted.make_directory(name.rpartition("/")[0])
        with compacted.stream(name) as stream:
            stream.write(path.read_bytes())
    log = DiskStorage(HERE / "v1")
    assert without_trends(replay.load(compacted)) == without_trends(replay.load(log)), "nobody counted them then"
    assert any(agent.bars for agent in replay.load(log).agents.values()), "else this says little"
    assert told(compacted) == told(log)
    wrong = {finding.file.partition("/")[0] for finding in replay.verify(compacted, deep=True).findings}
    assert wrong == {"checkpoints"}, "those were never made"
    newest = sorted(path.name for path in (HERE / "compacted-1" / "snapshots").iterdir())[-1]
    assert b'"format":1' in compacted.read(f"snapshots/{newest}")
