"""Hostile journals, whose checksums are all right, into all that reads one: an answer or a refusal, nothing else.

No traceback outside of the documented errors, no hang, no memory by the word of a length field, nothing that leads
outside of the journal. `JOURNAL_FUZZ_SECONDS` is how long; one case is repeated by `python tests/crash/fuzzer.py SEED 1
CASE`.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import journal
import replay
from agents_adapter import CheckpointStore, codec
from journal.cell import CELL
from journal.storage.disk import DiskStorage

sys.path.insert(0, str(Path(__file__).parent))
import fuzzer
import hostile

pytestmark = [pytest.mark.crash, pytest.mark.skipif(sys.platform == "win32", reason="limits need a Unix")]


def test_hostile_journals_are_read_or_refused(campaign: Any) -> None:
    seconds = campaign.size("JOURNAL_FUZZ_SECONDS", 3)
    command = [sys.executable, Path(fuzzer.__file__), str(campaign.seed), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 300)
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout)
    assert not told["wrong"], "\n".join(told["wrong"])
    assert told["growth"] < fuzzer.GROWTH_MAX, "memory was taken by the word of a length field"
    assert told["cases"] and any(name.endswith("refused") for name in told["outcomes"])
    campaign.report(cases=told["cases"], outcomes=told["outcomes"], grew_by_bytes=told["growth"])


BOMB = """
import resource, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
import struct, zstandard
from crc32c import crc32c
from agents_adapter import codec
from hostile import bomb
resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
for size, blocks in ((100 << 30, 2), (100 << 30, 800 << 10), (60 << 30, 480 << 10), (4 << 30, 32 << 10)):
    body = bomb(size, blocks)
    header = codec._HEADER.pack(codec.MAGIC, 1, 1, 0, crc32c(body), size, len(body))
    try:
        codec.decode(header + struct.pack("<I", crc32c(header)) + body)
    except ValueError as error:
        print(f"refused: {error}")
"""


def test_a_state_that_claims_or_really_has_100_gigabytes_is_refused_in_a_line() -> None:
    """A frame of three megabytes can hold them: no memory for it must not end the process."""
    root, here = Path(__file__).parents[2], Path(__file__).parent
    done = subprocess.run([sys.executable, "-c", BOMB, root, here], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stderr == "", done.stderr[-2000:]
    assert done.stdout.count("refused: ") == 4, done.stdout


OUTSIDE = (
    "../outside",
    "/etc/passwd",
    "checkpoints/../../outside",
    "a\0b",
    "checkpoints/",
    "segments/00000000.seg",
    "",
)


@pytest.mark.parametrize("path", OUTSIDE)
def test_a_checkpoints_path_never_leads_outside(tmp_path: Path, path: str) -> None:
    """The file is there, and its size and SHA-256 are right: only its path is wrong."""
    import hashlib

    data = codec.encode({"stolen": 1})
    (tmp_path / "outside").write_bytes(data)
    with journal.open(tmp_path / "j") as log:
        digest = hashlib.sha256(data).hexdigest()
        log.append(journal.CheckpointSaved(agent="A", episode=0, path=path, sha256=digest, size=len(data)))
    assert replay.load(tmp_path / "j").resume("A").checkpoint is None
    assert replay.verify(tmp_path / "j", deep=True).status == "corrupt"
    with pytest.raises(journal.ResumeImpossible):
        CheckpointStore(DiskStorage(tmp_path / "j")).load(path, digest)
    assert (tmp_path / "outside").read_bytes() == data


@pytest.mark.skipif(not hasattr(os, "symlink"), reason="there are no links here")
@pytest.mark.parametrize("name", ["journal.json", "segments/00000000.seg", "checkpoints/A"])
def test_a_link_planted_in_a_journal_is_not_followed(tmp_path: Path, name: str) -> None:
    """Neither for reading nor for writing: the file that it leads to is right, and stays as it is."""
    import hashlib

    data = codec.encode({"weights": 1})
    with journal.open(tmp_path / "j") as log:
        log.storage.make_directory("checkpoints")
        (tmp_path / "j" / "checkpoints" / "A").write_bytes(data)
        digest = hashlib.sha256(data).hexdigest()
        log.append(journal.CheckpointSaved(agent="A", episode=0, path="checkpoints/A", sha256=digest, size=len(data)))
    outside = tmp_path / "outside"
    (tmp_path / "j" / name).rename(outside)
    (tmp_path / "j" / name).symlink_to(outside)
    before = outside.read_bytes()
    if name.startswith("checkpoints"):
        assert replay.load(tmp_path / "j").resume("A").checkpoint is None
        assert replay.verify(tmp_path / "j", deep=True).status == "corrupt"
    else:
        with pytest.raises(journal.JournalError):
            replay.load(tmp_path / "j")
        with pytest.raises(journal.JournalError):
            journal.open(tmp_path / "j")
    assert outside.read_bytes() == before


@pytest.mark.parametrize(
    "listed", ["../outside/00000000.seg", "/segments/00000000.seg", "segments/../00000000.seg", "x"]
)
def test_a_segments_path_never_leads_outside(tmp_path: Path, listed: str) -> None:
    with journal.open(tmp_path / "j") as log:
        log.append(journal.Custom(name="x"))
    manifest = json.loads((tmp_path / "j" / "journal.json").read_text())
    (tmp_path / "j" / "journal.json").write_bytes(hostile._manifest(manifest | {"segments": [listed]}))
    with pytest.raises(journal.CorruptJournal, match="as a segment"):
        replay.load(tmp_path / "j")


@pytest.mark.parametrize("config", [7, "PPO", [[1]], [None]])
def test_an_event_whose_fields_make_no_sense_is_refused_with_its_place(config: Any) -> None:
    """The checksums of a log that another program wrote may all be right: what is in it need not be."""
    from journal.storage.memory import MemoryStorage

    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.rewards(log.agent("a"), 0, range(9), [1.0] * 9)
        payload = journal.events.pack({"config": config, "run": "r"}, "")
        seq, offset = log._append_cell(journal.RunStarted.kind, payload), log.tail()[1] - 2 * CELL
    with pytest.raises(journal.CorruptJournal, match="makes no sense") as caught:
        replay.load(storage)
    assert (caught.value.path, caught.value.offset, caught.value.seq) == ("segments/00000000.seg", offset, seq)
    finding = replay.verify(storage, deep=True).findings[0]
    assert (finding.offset, finding.seq) == (offset, seq)
    journal.open("m", storage=storage).close()


def test_a_payload_that_is_no_msgpack_is_refused_with_its_place() -> None:
    from journal.storage.memory import MemoryStorage

    storage = MemoryStorage()
    with journal.open("m", storage=storage, sync="close") as log:
        log.rewards(log.agent("a"), 0, range(9), [1.0] * 9)
        seq, offset = log._append_cell(journal.RunStarted.kind, b"\xc1"), log.tail()[1] - 2 * CELL
    for read in (lambda: replay.load(storage), lambda: journal.open("m", storage=storage)):
        with pytest.raises(journal.CorruptJournal, match="msgpack") as caught:
            read()
        assert (caught.value.path, caught.value.offset, caught.value.seq) == ("segments/00000000.seg", offset, seq)


def test_what_is_nested_deeply_is_shown_as_far_as_people_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's writer makes it now, but msgpack holds it: 500 lists in lists were once a bug to report."""
    from replay.cli import main

    nested: Any = []
    for _ in range(505):
        nested = [nested]
    with journal.open(tmp_path / "j") as log, monkeypatch.context() as patch:
        patch.setattr(journal.nesting, "NESTED_MAX", 1000)
        log.append(journal.Custom(name="deep", data=nested))
    for arguments in (["dump"], ["dump", "--json"], ["tail"], ["tail", "--json"], ["replay", "--json"]):
        assert main([arguments[0], str(tmp_path / "j"), *arguments[1:]]) == 0, arguments
        assert "bug" not in capsys.readouterr().err


def test_a_batch_that_contradicts_itself_is_shown_as_it_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Reading refuses it; `journal dump` is there to look at just such a thing, and once called it a bug."""
    from replay.cli import main

    with journal.open(tmp_path / "j") as log:
        log._append_cell(journal.cell.REWARDS, bytes(400), agent=log.agent("A"), takes=51, value=51)
    with pytest.raises(journal.CorruptJournal, match="batch of 51"):
        replay.load(tmp_path / "j")
    assert main(["dump", str(tmp_path / "j")]) == 0
    said = capsys.readouterr()
    assert "batch of 51 rewards has a payload of 400 bytes" in said.out and said.err == ""


@pytest.mark.parametrize("count", [57, 2**32, 2**63, 2**64 - 1])
def test_a_batch_that_claims_more_than_its_payload_holds_is_not_counted(count: int) -> None:
    """Found by the fuzzer: with 2**64 - 1 rewards the seqs wrapped round, and opening the log ended in a traceback."""
    from journal import cell, segment
    from journal.storage.memory import MemoryStorage
    from journal.walk import Walk

    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        log.append(journal.Custom(name="x"))
    walk = Walk(storage).run()
    header = segment.Header(walk.manifest.journal_id, 1, 7, 8192, 1)
    content = segment.content_of(walk.context())
    forger = hostile.Forger(header, walk.chain, walk.position, walk.seq, content)
    forger.put(cell.REWARDS, bytes(400), takes=count, value=struct.unpack("<d", struct.pack("<Q", count))[0])
    forger.promise()
    path = segment.path_of(1)
    with storage.stream(path) as stream:
        stream.write(forger.file(header.size))
    before = Walk(storage).run().seq
    assert walk.seq < before <= walk.seq + 7 * CELL // 8
    for _ in range(2):
        with pytest.raises(journal.CorruptJournal, match=f"batch of {count} rewards") as caught:
            replay.load(storage)
        assert (caught.value.path, caught.value.seq) == (path, walk.seq)
        assert replay.verify(storage, deep=True).status == "corrupt"
        journal.open("m", storage=storage).close()  # Its checksums are right, so it stays; what it means, readers say.
        assert Walk(storage).run().seq == before


@pytest.mark.parametrize("note", [{"path": ["x"], "size": 1, "sha256": ""}, {"path": "x", "size": "1", "sha256": ""}])
@pytest.mark.filterwarnings("ignore:.*passed over:RuntimeWarning")
def test_a_snapshot_that_notes_no_history_files_is_passed_over(note: dict[str, Any]) -> None:
    """Its SHA-256 of itself is right. Compaction once ended in a TypeError on it."""
    from journal.errors import CorruptJournal
    from journal.manifest import Manifest
    from journal.storage.memory import MemoryStorage
    from replay import snapshot
    from replay.compaction import compact

    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        log.append(journal.Custom(name="x"))
    compact(storage)
    path = snapshot.path_of(0)

    def change(document: dict[str, Any]) -> None:
        document["history"] = [note]

    class Always(hostile.Random):
        def random(self) -> float:
            return 0.0

    made = hostile._rewritten(storage.read(path), Always(1), change, lambda table: table)
    with storage.stream(path) as stream:
        stream.write(made)
    with pytest.raises(CorruptJournal, match="make no sense"):
        snapshot.read_at(storage, Manifest.read(storage))
    assert compact(storage).snapshot == path
    assert snapshot.read_at(storage, Manifest.read(storage)).history[0].path == "history/0-0.parquet"


@pytest.mark.parametrize(("depth", "accepted"), [(99, True), (100, False), (450, False)])
def test_what_nests_deeper_than_every_tool_follows_is_refused(depth: int, accepted: bool) -> None:
    """Compaction of a journal with such an event could never succeed."""
    from journal.storage.memory import MemoryStorage
    from replay.compaction import compact
    from replay.verify import verify

    nested: Any = 1
    for level in range(depth):
        nested = {"x": nested} if level % 2 else [nested]
    storage = MemoryStorage()
    with journal.open("j", storage=storage) as log:
        if not accepted:
            with pytest.raises(journal.EventRejected, match="more than 100 deep: flatten"):
                log.append(journal.RunStarted(run="r", config={"nested": nested}))
            return
        log.append(journal.RunStarted(run="r", config={"nested": nested}))
    compact(storage)
    assert verify(storage, deep=True).status == "clean"


@pytest.mark.parametrize("runs", [[["x"]], [{}], 3])
def test_a_snapshot_whose_runs_are_no_names_is_passed_over(runs: Any) -> None:
    """Found by the fuzzer: `compare` ended in a TypeError."""
    from replay.state import Agent, State

    state = State(bytes(16))
    state.agents["A"] = Agent("A")
    payload = state.to_payload()
    payload["agents"]["A"]["runs"] = runs
    with pytest.raises(ValueError, match="no state"):
        State.from_payload(payload)
