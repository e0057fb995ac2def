"""Numbers, lengths and names of a journal's files that no writer of ours leaves: bounded before they are believed.

Every checksum is right. Each test is a fault that was found by asking, of everything that is read, what bounds it.
"""

from __future__ import annotations

import json
import struct
import sys
import warnings
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa
import pytest

import journal
import journal.sealed
import replay
from journal import cell, segment
from journal.cell import CELL
from journal.errors import CorruptJournal
from journal.manifest import Manifest
from journal.sealed import sealed
from journal.storage import replace
from journal.storage.memory import MemoryStorage
from replay.compaction import compact
from replay.compare import compare
from replay.copying import copy
from replay.differences import diff
from replay.divergence import diverge, windows_of
from replay.episodes import Episodes
from replay.results import results
from replay.resume import command
from replay.rows import rows, write_parquet
from replay.scan import scan

sys.path.insert(0, str(Path(__file__).parent))
import hostile

pytestmark = pytest.mark.crash


def written(events: int = 3) -> MemoryStorage:
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        for _ in range(events):
            log.append(journal.Custom(name="x"))
    return storage


def changed(storage: MemoryStorage, *place: str, to: Any) -> None:
    """Another value in journal.json, whose checksum is made anew."""
    document = json.loads(storage.read("journal.json"))
    inner = document
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = to
    replace(storage, "journal.json", hostile._manifest(document))


@pytest.mark.parametrize("name", ["\u0660" * 8 + ".seg", "0000000\uff10.seg", "0000000\u0661.seg"])
def test_a_segment_has_one_name(name: str) -> None:
    """Digits of other scripts are digits to Python.

    Such a file was taken for segment 0. That was read twice, and, promised as it was, removed as a torn tail.
    """
    storage = written()
    whole = storage.read(segment.path_of(0))
    replace(storage, f"segments/{name}", b"a stray file")
    for _ in range(2):
        with journal.open("m", storage=storage) as log:
            assert log.recovered.torn_bytes == 0 and not log.recovered.crashed
    assert storage.read(segment.path_of(0)) == whole and storage.read(f"segments/{name}") == b"a stray file"
    assert replay.load(storage).events == 3 and replay.verify(storage).status == "clean"


@pytest.mark.parametrize(
    "name", ["history/0-1\u0663.parquet", "history/1\u0663-2\u0660.parquet", "snapshots/1\u0663.parquet"]
)
def test_a_file_of_history_has_one_name(name: str) -> None:
    """As above: there seemed to be history, and a snapshot, that was not there."""
    storage = written()
    compact(storage)
    replace(storage, name, b"a stray file")
    assert replay.load(storage).events == 3 and replay.verify(storage, deep=True).status == "clean"
    compact(storage)
    assert storage.read(name) == b"a stray file"


@pytest.mark.parametrize("listed", [True, False])
def test_a_first_mark_whose_payload_is_not_all_there_does_not_check(listed: bool) -> None:
    """Its checksum is right for what there is of it. No head was found in the segment: an IndexError."""
    storage = written()
    manifest, size = Manifest.read(storage), 8192
    header = segment.Header(manifest.journal_id, 0, 7, size, 1)
    content = bytes(size - 2 * CELL)
    head = bytearray(cell.pack_head(cell.SEGMENT_OPENED, 0, 1, content, salt=7, at=0))
    struct.pack_into("<H", head, 6, 4000)  # Its extent.
    struct.pack_into("<I", head, 0, cell.checksum(bytes(head[4:]), 7, 0))
    replace(storage, segment.path_of(0), header.pack() + head + content)
    if not listed:
        manifest.with_segments(()).write(storage)
    assert replay.verify(storage).status == "torn", "nothing in it was promised"
    assert replay.load(storage).events == 0
    with journal.open("m", storage=storage) as log:
        assert log.recovered.torn_bytes and log.append(journal.Custom(name="x")) == 0
    assert replay.load(storage).events == 1


@pytest.mark.parametrize("name", ["ordinal", "position", "seq"])
@pytest.mark.parametrize("number", [99_000_000, 2**62, 2**63 - 1, 2**64])
def test_no_log_begins_where_none_ever_gets_to(name: str, number: int) -> None:
    """From there a writer went on with a segment, or a base, that no reader took any more."""
    if (name, number) in (("position", 99_000_000), ("seq", 99_000_000)):
        return
    storage = written(0)
    changed(storage, "base", name, to=number)
    before = storage.list("segments")
    for act in (lambda: journal.open("m", storage=storage), lambda: replay.load(storage)):
        with pytest.raises(CorruptJournal, match=r"journal\.json is damaged: the log does not begin at segment"):
            act()
    assert storage.list("segments") == before


def test_from_the_last_place_where_a_log_may_begin_a_writer_goes_on() -> None:
    storage = written(0)
    for name, number in (("ordinal", 98_999_999), ("position", 2**62 - 1)):
        changed(storage, "base", name, to=number)
    changed(storage, "segments", to=[])
    for life in range(3):
        with journal.open("m", storage=storage) as log:
            assert log.append(journal.Custom(name="x")) == life
    assert replay.load(storage).events == 3 and replay.verify(storage, deep=True).status == "clean"


@pytest.mark.parametrize("text", ["", "00", "00" * 15, "00" * 17])
def test_an_id_has_sixteen_bytes(text: str) -> None:
    """Of another one a writer took, or filled up, sixteen: what it wrote then belonged to another journal."""
    storage = written(0)
    changed(storage, "journal", to=text)
    with pytest.raises(CorruptJournal, match="its id has"):
        journal.open("m", storage=storage)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("time_ns", 2**63),
        ("time_ns", -(10**20)),
        ("time_ns", 10**400),
        ("files", [{"path": "history/0-2.parquet", "size": float("inf"), "sha256": ""}]),
        ("files", [{"path": 5, "size": 1, "sha256": ""}]),
        ("files", [{"path": "x", "size": "1", "sha256": ""}]),
    ],
    ids=range(6),
)
def test_a_record_of_dropped_history_that_makes_no_sense_is_damage(name: str, wrong: Any) -> None:
    """It ended in an OverflowError: of a size that JSON calls Infinity, or of a time beyond any calendar."""
    storage = written()
    compact(storage, drop_history=True)
    dropped = json.loads(storage.read("journal.json"))["dropped"]
    changed(storage, "dropped", to=[{**dropped[0], name: wrong}])
    for act in (lambda: replay.load(storage), lambda: list(replay.events(storage)), lambda: compact(storage)):
        with pytest.raises(CorruptJournal, match=r"journal\.json is damaged"):
            act()


def test_a_run_that_is_half_a_character_is_damage() -> None:
    """JSON has such texts. A segment could not be opened in that run, and it was the name table that was blamed."""
    storage = written(0)
    changed(storage, "base", "context", "run", to="\ud800")
    with pytest.raises(CorruptJournal, match=r"journal\.json is damaged: no context"):
        journal.open("m", storage=storage)


def test_of_a_batch_that_straddles_a_block_no_more_is_believed_either(monkeypatch: pytest.MonkeyPatch) -> None:
    """`verify` called clean what it reads by blocks, and every reader called corrupt."""
    monkeypatch.setattr(journal.sealed, "_CELLS", 4)
    storage = written(0)
    manifest = Manifest.read(storage)
    header = segment.Header(manifest.journal_id, 0, 7, 8192, 1)
    content = segment.content_of(manifest.base.context)
    forger = hostile.Forger(header, manifest.base.chain, 0, 0, content)
    number = struct.unpack("<d", struct.pack("<Q", 10**6))[0]
    forger.put(cell.REWARDS, bytes(400), takes=10**6, value=number)
    forger.put(cell.CUSTOM, b"\x80")
    forger.promise(cell.SEGMENT_SEALED)
    replace(storage, segment.path_of(0), forger.file(0))
    manifest.with_segments((0,)).write(storage)
    assert list(sealed(storage, Manifest.read(storage))) == []
    assert replay.verify(storage).status == "corrupt"
    with pytest.raises(CorruptJournal):
        replay.load(storage)


def forged(*told: tuple[int, Any, dict[str, Any]]) -> MemoryStorage:
    """A journal of agent A and these events: kind, fields, and what stands in the cell."""
    storage = written(0)
    manifest = Manifest.read(storage)
    header = segment.Header(manifest.journal_id, 0, 7, 8192, 1)
    forger = hostile.Forger(header, manifest.base.chain, 0, 0, segment.content_of(manifest.base.context))
    for kind, fields, cells in ((cell.NAME_GIVEN, {"name": "A", "number": 1}, {}), *told):
        forger.put(kind, msgpack.packb(fields), **cells)
    forger.promise()
    replace(storage, segment.path_of(0), forger.file(8192))
    manifest.with_segments((0,)).write(storage)
    return storage


def rewound(fields: Any) -> MemoryStorage:
    """An agent that goes back by an event with these fields."""
    return forged((cell.REWOUND, fields, {"agent": 1}))


@pytest.mark.parametrize("to_seq", [None, "x", b"\xff", [1], {"x": 1}, float("nan"), float("inf"), 2**64 - 1, -1])
def test_who_goes_back_to_no_number_goes_back_to_nothing(to_seq: Any) -> None:
    """`journal diff` ended in a TypeError, or a ValueError."""
    storage = rewound({"to_seq": to_seq})
    assert diff(storage, storage).verdict == "equal" and diverge(storage).rewinds == 0


@pytest.mark.parametrize("fields", [None, [1], "x", {"to_seq": 1, "members": "A"}, {"x": {"y": [[[[1]]]]}}])
def test_a_rewind_without_fields_goes_back_to_nothing(fields: Any) -> None:
    """As above: what its payload says as JSON need not be an object."""
    storage = rewound(fields)
    assert diff(storage, storage).verdict == "equal"


def test_where_nobody_can_be_named_a_rewind_makes_no_sense() -> None:
    storage = rewound({"members": 5})
    for act in (lambda: windows_of(storage, 0, 9), lambda: diff(storage, storage)):
        with pytest.raises(CorruptJournal, match="the Rewound of seq 1 makes no sense"):
            act()


@pytest.mark.parametrize("path", [b"\xff", "../x", "/etc/passwd", "checkpoints/../../x", "", "a\0b"])
def test_a_checkpoint_s_path_that_leads_outside_forbids_nothing(path: Any) -> None:
    """Dropping history, which verifies beside its own lock, asked whether that file was there: a ValueError."""
    fields = {"path": path, "sha256": "", "size": 0}
    storage = forged((cell.CHECKPOINT_SAVED, fields, {"agent": 1}), (cell.CUSTOM, {}, {}))
    assert "does not stay inside" in replay.verify(storage, deep=True).findings[0].reason
    assert compact(storage, drop_history=True).dropped.events == 3


def test_a_command_line_of_no_texts_is_told_all_the_same() -> None:
    """`journal replay` ended in a TypeError."""
    attempt = {"run": "r", "attempt": 0, "argv": ["t.py", 1, None, b"x"], "cwd": 5}
    storage = forged((cell.RUN_STARTED, {"run": "r"}, {}), (cell.ATTEMPT_STARTED, attempt, {}))
    assert command(replay.load(storage)) == "cd 5 && t.py 1 None 'b'\"'\"'x'\"'\"''"


@pytest.mark.parametrize(
    ("kind", "fields", "why"),
    [
        (cell.EPISODE_STARTED, {"entry": 0.5}, "its entry is 0.5"),
        (cell.EPISODE_STARTED, {"entry": True}, "its entry is True"),
        (cell.EPISODE_STARTED, {"entry": [1]}, "its entry is"),
        (cell.EPISODE_STARTED, {"entry": 2**63}, "its entry is"),
        (cell.BARS_SEEN, {"content_hash": "x"}, "content_hash of bars is 'x'"),
        (cell.BARS_SEEN, {"tolerance": [1]}, "tolerance of bars is"),
        (cell.BARS_SEEN, {"quantised_hash": 5}, "quantised_hash of bars is 5"),
    ],
)
def test_what_is_compared_later_is_looked_at_when_it_is_read(kind: int, fields: Any, why: str) -> None:
    """How many entries are finished was 1.5, which is no length; bars were compared by what has no bytes."""
    started = (cell.EPISODE_STARTED, {}, {"agent": 1}) if kind == cell.BARS_SEEN else (cell.CUSTOM, {}, {})
    storage = forged(started, (kind, fields, {"agent": 1}))
    with pytest.raises(CorruptJournal, match=f"seq 2 makes no sense: {why}"):
        replay.load(storage)


def test_a_clock_that_goes_on_for_ages_makes_no_sense() -> None:
    """What two such episodes took is beyond float64: totals ended in an OverflowError."""
    episode = {"agent": 1, "episode": 0}
    ages = [
        (cell.EPISODE_STARTED, {}, {**episode, "value": -1.7e299}),
        (cell.EPISODE_ENDED, {"reason": "x"}, {**episode, "value": 0.0}),
        (cell.EPISODE_STARTED, {}, {**episode, "value": 0.0}),
        (cell.EPISODE_ENDED, {"reason": "x"}, {**episode, "value": 1.7e299}),
    ]
    with pytest.raises(CorruptJournal, match=r"EpisodeEnded of seq 2 makes no sense: its clock went on by 1\.7e\+299"):
        replay.load(forged(*ages))
    centuries = [(kind, fields, {**cells, "value": cells["value"] * 1e-290}) for kind, fields, cells in ages]
    assert replay.load(forged(*centuries)).agents["A"].effective["train"].time_ns == pytest.approx(3.4e18)


@pytest.mark.parametrize("field", ["start", "stop"])
@pytest.mark.parametrize("number", [1e300, 2.0**64, float("inf"), "9" * 30])
def test_a_number_that_no_state_holds_makes_no_sense(field: str, number: Any) -> None:
    """Copies of such a journal could not be told apart: an OverflowError."""
    episode = {"agent": 1, "episode": 0}
    storage = forged((cell.EPISODE_STARTED, {}, episode), (cell.BARS_SEEN, {field: number}, episode))
    with pytest.raises(CorruptJournal, match="the BarsSeen of seq 2 makes no sense"):
        replay.load(storage)
    episodes = Episodes()
    with pytest.raises(CorruptJournal, match="the BarsSeen of seq 2 makes no sense"):
        for batch in scan(storage):
            episodes.take(batch)


def test_rewards_at_the_end_of_float64_warn_nobody(tmp_path: Path) -> None:
    """Numpy's "overflow encountered" stood on standard error, of interleaved episodes and of means."""
    with warnings.catch_warnings(), journal.open(tmp_path, sync="close") as log:
        warnings.simplefilter("error")
        place = {"instrument": "X", "timeframe": "H1", "start": 0, "stop": 3}
        for agent in ("A", "B"):
            for env in range(2):
                log.append(journal.EpisodeStarted(agent=agent, episode=env, env_index=env))
                seen = journal.BarsSeen(
                    agent=agent,
                    episode=env,
                    env_index=env,
                    **place,  # type: ignore[arg-type]
                    content_hash=bytes(16),
                    source="observed",
                )
                log.append(seen)
            for step in range(40):
                for env in range(2):
                    log.reward(log.agent(agent), env, step, 1.7e308, env_index=env)
            for env in range(2):
                metrics = {"pnl": 1.7e308}
                log.append(journal.EpisodeEnded(agent=agent, episode=env, env_index=env, reason="x", metrics=metrics))
        state = replay.load(tmp_path)
        found = compare(state)
        assert found.verdict == "comparable" and results(found, 2, "pnl").standings[0].mean == float("inf")
        with pytest.raises(journal.NotComparable):
            results(found, 2)
        log.close()
        compact(tmp_path)
        assert replay.load(tmp_path).agents["A"].effective["train"].infinite_rewards == 2


@pytest.mark.parametrize("name", ["run", "kind", "agent", "phase", "fields"])
def test_a_text_of_history_that_is_none_is_damage(name: str) -> None:
    """Its SHA-256 is right. Arrow takes it for a text; who listed its rows met a UnicodeDecodeError."""

    def spoil(table: pa.Table) -> pa.Table:
        whole = table[name].combine_chunks()
        coded = isinstance(whole, pa.DictionaryArray)
        texts = whole.dictionary if coded else whole
        valid, offsets, data = texts.buffers()
        made = pa.Array.from_buffers(pa.string(), len(texts), [valid, offsets, pa.py_buffer(b"\xff" * data.size)])
        column = pa.DictionaryArray.from_arrays(whole.indices, made) if coded else made
        return table.set_column(table.column_names.index(name), table.schema.field(name), column)

    storage = forged((cell.RUN_STARTED, {"run": "r"}, {}), (cell.REWOUND, {"to_seq": 0}, {"agent": 1}))
    compact(storage)
    path = "history/0-2.parquet"
    replace(storage, path, hostile._rewritten(storage.read(path), hostile.Random(1), lambda document: None, spoil))
    for act in (
        lambda: [some.to_pylist() for some in replay.events(storage, columns=[name])],
        lambda: [some.to_pylist() for some in replay.events(storage)],
    ):
        with pytest.raises(CorruptJournal, match="the file is damaged: Invalid UTF8"):
            act()


def test_trends_beyond_63_bits_fit_no_parquet_and_it_says_so(tmp_path: Path) -> None:
    """It ended in an OverflowError."""
    episode = {"agent": 1, "episode": 2**64 - 1}
    storage = forged((cell.EPISODE_STARTED, {}, episode), (cell.EPISODE_ENDED, {"reason": "x"}, episode))
    table = rows(replay.load(storage), "life")
    assert table[0]["first_episode"] >= 2**63
    with open(tmp_path / "trends", "wb") as stream, pytest.raises(journal.JournalFailed, match="do not fit a Parquet"):
        write_parquet(stream, table, "life")


@pytest.mark.parametrize(
    "path", ["checkpoints/file/x", "checkpoints/" + "a" * 300, "checkpoints/directory", "checkpoints/b"]
)
def test_a_checkpoint_s_path_that_no_file_has_forbids_no_copy(tmp_path: Path, path: str) -> None:
    """The copy failed: "Not a directory", "File name too long"."""
    source = forged((cell.CHECKPOINT_SAVED, {"path": path, "sha256": "", "size": 0}, {"agent": 1}))
    for name in ("segments/00000000.seg", "journal.json"):
        (tmp_path / "j" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "j" / name).write_bytes(source.read(name))
    (tmp_path / "j" / "checkpoints" / "directory").mkdir(parents=True)
    (tmp_path / "j" / "checkpoints" / "file").write_bytes(b"x")
    done = copy(tmp_path / "j", tmp_path / "copy")
    assert done.events == 2 and done.damaged == (f"{path}: the file is missing",)
    assert replay.load(tmp_path / "copy").events == 2
