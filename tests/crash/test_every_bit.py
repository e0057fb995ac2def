"""Every cut, every bit: a small journal with everything in it is damaged in every way, and read, verified, recovered.

Each damage must end in one of these ways; anything else (a wrong event, total or name, a silent loss before a promise,
an error outside of the documented tree) fails.

    identical   every event and the whole state are what they were
    torn        only events after the last promise are missing: a prefix, and the state that this prefix gives
    refused     reading raises an error of the journal that names the file
    verified    reading does not need the damaged bytes; `verify --deep` finds them

`JOURNAL_EVERY=1` tries each single bit and byte; by default it is every nth one, from a random start.
`JOURNAL_PART=0/4` is the first of four parts, and `-k segments` takes the damages of these files only.

Some 300,000 damages are too many to do anything twice that must come to the same: doors.py sees to that.
"""

from __future__ import annotations

import gc
import os
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from doors import Door, Walks, Watched

import journal
from agents_adapter.checkpoint import CheckpointStore
from journal import segment
from journal.errors import CorruptJournal, JournalError
from journal.storage.memory import MemoryStorage
from replay import history, snapshot
from replay.compaction import compact
from replay.loading import load
from replay.query import events
from replay.verify import verify

pytestmark = [pytest.mark.crash, pytest.mark.filterwarnings("ignore")]
DIRECTORIES = ("segments", "history", "snapshots", "checkpoints", "quarantine")
ENDS = {
    "segments": {"identical", "torn", "refused"},
    "history": {"refused"},
    "snapshots": {"verified"},
    "checkpoints": {"verified"},
    "journal.json": {"identical", "refused"},
    "writer.lock": {"identical"},
}
"""Of each kind of file: how its damages end, all of them among others."""
BLOCK = 512
"""Damages that go to the same part: those of one byte often come to the same."""
CONTENT = ("flip a bit", "cut", "empty")
"""What leaves all names as they are, and changes one file."""
Files = dict[str, bytes]


class Clock:
    """Each look is a little later, so that every run of this test has the same journal."""

    now_ns = 1_700_000_000_000_000_000

    def time_ns(self) -> int:
        self.now_ns += 1_000
        return self.now_ns

    def monotonic(self) -> float:
        return self.time_ns() / 1e9


class Truth(NamedTuple):
    """The undamaged journal, as it was read."""

    files: Files
    rows: list[str]
    """Each event, in words."""
    promised: int
    """How many of them were promised."""
    states: dict[int, Any]
    """The state after so many events, filled in when it is first asked for."""
    told: dict[bytes, list[str]]
    """The rows of each batch that was read, in words."""
    unharmed: dict[str, tuple[set[str], Any]]
    """By use: the files it looks at, and what comes of it, where nothing is damaged."""
    read_outside: set[str]
    """What was read by others than the door for Parquet files."""
    door: Door


def files_of(storage: MemoryStorage) -> Files:
    names = [name for name in storage.list("") if name not in DIRECTORIES]
    names += [f"{directory}/{name}" for directory in DIRECTORIES for name in storage.list(directory)]
    return {name: storage.read(name) for name in names}


def stored(files: Files) -> Watched:
    storage = Watched()
    for directory in DIRECTORIES:
        storage.make_directory(directory)
    for path, data in files.items():
        file = storage.create(path, len(data))
        file.write(0, data)
        file.sync()
        file.close()
    for directory in ("", *DIRECTORIES):
        storage.sync_directory(directory)
    return storage


def life(log: journal.Log, store: CheckpointStore, number: int) -> None:
    """Each kind of event, for two agents, with all forms of batches and odd values."""
    ppo, run = log.agent("PPO"), f"run-{number}"
    log.append(journal.RunStarted(run=run, config={"lr": 0.1, "nested": {"b": b"\0\xff", "none": None}}))
    log.append(journal.AttemptStarted(run=run, attempt=0, pid=7, argv=["train.py"], cwd="x", versions={"python": "3"}))
    entries = [{"instrument": "EURUSD", "timeframe": "H1", "start": 0, "stop": 3, "seed": 7, "params": None}]
    log.append(journal.PlanRecorded(agent="PPO", plan_hash="ab" * 32, entries=entries, length=1))
    store.save(log, "PPO", 0, {"weights": [0.5, number], "steps": 1})
    log.append(journal.EpisodeStarted(agent="PPO", episode=number, seed=7, entry=0, params={"fee": 0.0001}))
    log.append(
        journal.BarsSeen(
            agent="PPO", episode=number, instrument="EURUSD", timeframe="H1", start=0, stop=3,
            content_hash=bytes(range(16)), source="observed",
        )
    )  # fmt: skip
    for step, value in enumerate((1.5, -0.0, float("nan"), float("inf"), 5e-324)):
        log.reward(ppo, number, step, value)
    log.rewards(ppo, number, range(5, 8), [0.5, 0.1, 0.2])
    log.rewards(ppo, [number, 9], [8, 3], [0.25, 0.5], [0, 4])
    log.append(journal.MetricLogged(agent="PPO", metric="loss", step=1, value=0.25))
    log.append(journal.EpisodeEnded(agent="PPO", episode=number, reason="terminated", metrics={"pnl": 12.5}))
    log.append(journal.Rewound(agent="SAC", to_seq=0, members=["SAC"], path=None))
    log.append(journal.Custom(name="note", agent="SAC", data={"any": [1, "text", b"\0", {3: None}]}))
    log.append(journal.AttemptEnded(run=run, attempt=0, status="interrupted", error="KeyboardInterrupt"))
    log.append(journal.RunEnded(run=run))


@pytest.fixture(scope="module")
def truth() -> Iterator[Truth]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(segment, "SIZE_MIN", 2048)
        patch.setattr(segment, "SIZE_MAX", 2048)
        patch.setattr(segment, "RESERVE", 512)
        storage, clock = MemoryStorage(), Clock()
        for number in range(2):
            with journal.open("it", storage=storage, sync="close", clock=clock) as log:
                life(log, CheckpointStore(storage), number)
            compact(storage)
        with journal.open("it", storage=storage, sync="close", clock=clock) as log:
            life(log, CheckpointStore(storage), 2)
        # The last writer was killed: a promise, and behind it events that were never promised.
        log = journal.open("it", storage=storage, sync="close", clock=clock)
        life(log, CheckpointStore(storage), 3)
        log.reward(log.agent("PPO"), 3, 1, 1.0)
        promised = log.sync().seq + 1
        for step in range(9):
            log.reward(log.agent("PPO"), 3, step, 1.0)
        log.append(journal.Custom(name="last", data="x" * 100))
        spare = segment.path_of(log.tail()[0].header.ordinal + 1)
        while not storage.exists(spare):  # Another thread makes it; whether it is there is not to be chance.
            time.sleep(0.001)
        dead = storage.kill()
        log.close()
        files = files_of(dead)
        door = Door()
        for module in (history, snapshot):
            patch.setattr(module, "open_checked", door.open)
        told: dict[bytes, list[str]] = {}
        rows = rows_of(stored(files), told)
        assert len(rows) > promised > 80
        assert {path.partition("/")[0] for path in files} >= {"segments", "history", "snapshots", "checkpoints"}
        truth = Truth(files, rows, promised, {}, told, {}, set(), door)
        assert outcome(truth, files, "") == "identical"
        recovered = truth.unharmed["open"][1][1]
        assert ask(truth, "verify after", recovered, "", lambda storage: verify(storage, deep=True)).status == "clean"
        gc.freeze()
        yield truth
        gc.unfreeze()


def rows_of(storage: MemoryStorage, told: dict[bytes, list[str]]) -> list[str]:
    rows = []
    for batch in events(storage):
        key = batch.serialize().to_pybytes()
        if key not in told:
            told[key] = [repr(row) for row in batch.to_pylist()]
        rows += told[key]
    return rows


def state_after(truth: Truth, count: int) -> Any:
    if count not in truth.states:
        truth.states[count] = load(stored(truth.files), at=count - 1).to_payload()
    return truth.states[count]


def outcome(truth: Truth, files: Files, hint: str, damaged: str = "") -> str:
    """How this damage ends; fails where that is none of the ways it may. `damaged`: the file that a refusal names."""
    changed = damaged if hint in CONTENT else ""
    read = _read(truth, files, changed)
    report = ask(truth, "verify", files, changed, lambda storage: verify(storage, deep=True))
    if isinstance(read, JournalError):
        assert isinstance(read, CorruptJournal), read
        assert hint not in CONTENT or read.path == damaged, f"{read.path} is named: {read}"
        assert _names(truth, files, read.path, read.reason), read
        assert read.offset >= 0 and 0 <= read.seq <= len(truth.rows), read
        assert report.status == "corrupt", (read, report)
    for finding in report.findings:
        assert _names(truth, files, finding.file, finding.reason) and finding.offset >= 0, finding
    opened = ask(truth, "open", files, changed, goes_on)
    if isinstance(opened, JournalError):
        assert isinstance(opened, CorruptJournal) and report.status == "corrupt", opened
        return "refused"
    following, recovered = opened
    if changed and changed not in truth.unharmed["open"][0]:
        recovered = recovered | {changed: files[changed]}
    else:
        changed = ""
    if isinstance(read, JournalError):
        # What is damaged is not needed to go on, and stays to be found.
        after = ask(truth, "verify after", recovered, changed, lambda storage: verify(storage, deep=True))
        assert after.status == "corrupt", read
        return "refused"
    assert following == read, "what is appended next follows what was read"
    rows = ask(truth, "events after", recovered, changed, lambda storage: rows_of(storage, truth.told))
    assert not isinstance(rows, JournalError), rows
    assert rows[:read] == truth.rows[:read] and len(rows) == read + 1
    if report.status == "corrupt":
        return "verified"
    # A whole segment that was never promised may be taken away: then nothing tells that it was there.
    assert report.status == "torn" or read == len(truth.rows) or hint == "remove", report
    return "identical" if read == len(truth.rows) else "torn"


def judged(truth: Truth, files: Files, path: str) -> tuple[str, set[str]]:
    """How a flipped bit ends, and what was read meanwhile but not through the door."""
    truth.read_outside.clear()
    return outcome(truth, files, "flip a bit", path), truth.read_outside


def ask(truth: Truth, use: str, files: Files, changed: str, call: Any) -> Any:
    """What a use comes to, or its error. `changed`: the one file that has another content, and all names are as ever.

    A use that does not look at that file comes to what it came to without damage.
    """
    if changed and changed not in truth.unharmed[use][0]:
        return truth.unharmed[use][1]
    storage = stored(files)
    storage.seen.clear()
    storage.read_outside.clear()
    try:
        result = call(storage)
    except JournalError as error:
        result = error
    truth.read_outside.update(storage.read_outside)
    truth.unharmed.setdefault(use, (storage.seen, result))  # The first one of all is without damage.
    return result


def goes_on(storage: Watched) -> tuple[int, Files] | JournalError:
    """Open for writing and append one event: its seq, and all files then."""
    before = files_of(storage)
    storage.seen.clear()
    storage.read_outside.clear()
    try:
        with journal.open("it", storage=storage, sync="close") as log:
            log.append(journal.Custom(name="next"))
            following = log.next_seq - 1
    except JournalError as error:
        outside = set(storage.read_outside)
        assert files_of(storage) | {"writer.lock": b""} == before | {"writer.lock": b""}, "a refusal changes nothing"
        storage.read_outside = outside
        return error
    seen, outside = set(storage.seen), set(storage.read_outside)
    after = files_of(storage)
    storage.seen, storage.read_outside = seen, outside
    return following, after


def _names(truth: Truth, files: Files, path: str, reason: str) -> bool:
    """Is this a file that is or was there, or told to be missing?"""
    return path in truth.files or path in files or " is missing" in reason


def _read(truth: Truth, files: Files, changed: str) -> int | JournalError:
    """How many events are read; they, and the state, are checked."""
    rows = ask(truth, "events", files, changed, lambda storage: rows_of(storage, truth.told))
    state = ask(truth, "state", files, changed, state_of)
    for result in (rows, state):
        if isinstance(result, JournalError):
            return result
    for path in state[1]:
        assert truth.files[path] == files[path], "a damaged checkpoint is resumed"
    assert rows == truth.rows[: len(rows)], "an event is not what it was"
    assert len(rows) >= truth.promised, "promised events are missing, and nothing says so"
    assert state[0] == state_after(truth, len(rows)), "the state is not what these events give"
    return len(rows)


def state_of(storage: MemoryStorage) -> tuple[Any, list[str]]:
    """The state, and the checkpoints from which its agents would resume."""
    loaded = load(storage)
    chosen = [loaded.resume(name).checkpoint for name in loaded.agents]
    return loaded.to_payload(), [one.path for one in chosen if one is not None]


def flipped(data: bytes, bit: int) -> bytes:
    changed = bytearray(data)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def damages(truth: Truth, kind: str, every: int, choose: Any) -> Iterator[tuple[str, str, Files]]:
    """(what, the file, all files after it), for the files of one kind."""
    files = truth.files
    for path, data in files.items():
        if kind_of(path) != kind:
            continue
        # Reading Parquet takes long; its checksum is over all bytes alike.
        pace = every * (8 if path.endswith(".parquet") and every > 1 else 1)
        for bit in range(choose.randrange(pace), 8 * len(data), pace):
            yield "flip a bit", path, files | {path: flipped(data, bit)}
        for length in range(choose.randrange(pace), len(data), max(1, pace // 8)):
            yield "cut", path, files | {path: data[:length]}
        yield "empty", path, files | {path: b""}
        yield "remove", path, {name: files[name] for name in files if name != path}
        for other in files:
            if path < other and path.partition("/")[0] == other.partition("/")[0]:
                yield "swap", path, files | {path: files[other], other: data}
                yield "copy over", path, files | {other: data}
        directory, slash, name = path.rpartition("/")
        for target in _other_names(name):
            if f"{directory}{slash}{target}" not in files:
                yield "duplicate", path, files | {f"{directory}{slash}{target}": data}


def _other_names(name: str) -> list[str]:
    stem, dot, ending = name.partition(".")
    if ending == "seg":
        return [*(f"{int(stem) + more:08d}{dot}{ending}" for more in (1, 2, 9)), f"99999999{dot}{ending}"]
    if ending == "parquet" and "-" in stem:
        first, last = stem.split("-")
        width = len(first)
        return [
            f"{int(last) + 1:0{width}d}-{int(last) + 9:0{width}d}.parquet",
            f"{first}-{int(last) + 1:0{width}d}.parquet",
        ]
    if ending == "parquet":
        return [f"{int(stem) + 1:0{len(stem)}d}.parquet", f"{int(stem) - 1:0{len(stem)}d}.parquet"]
    return [f"{name}.tmp", f"{name}.copy"]


def kind_of(path: str) -> str:
    return path.partition("/")[0] if "/" in path else path


@pytest.mark.parametrize("kind", ENDS)
def test_every_damage_is_harmless_torn_or_found(truth: Truth, kind: str, campaign: Any) -> None:
    every = campaign.size("JOURNAL_EVERY", 2003)
    ends: Counter[tuple[str, str]] = Counter()
    wrong: list[str] = []
    walks = Walks(stored(truth.files))
    part, parts = (int(one) for one in os.environ.get("JOURNAL_PART", "0/1").split("/"))
    for number, (what, path, files) in enumerate(damages(truth, kind, every, campaign.random)):
        if number // BLOCK % parts != part:
            continue
        try:
            if what == "flip a bit" and path.endswith(".parquet"):
                end = truth.door.outcome(files, path, lambda: judged(truth, files, path))  # noqa: B023
            elif what == "flip a bit" and kind == "segments":
                end = walks.outcome(number, files, path, lambda: judged(truth, files, path)[0])  # noqa: B023
            else:
                end = outcome(truth, files, what, path)
            ends[what, end] += 1
        except Exception as error:
            wrong.append(f"damage {number}, {what} of {path}: {type(error).__name__}: {str(error)[:300]}")
    assert not wrong, f"{len(wrong)} damages with JOURNAL_EVERY={every} end as none may:\n" + "\n".join(wrong[:20])
    table: dict[str, dict[str, int]] = {}
    for (what, end), count in sorted(ends.items()):
        table.setdefault(what, {})[end] = count
    campaign.report(damages=ends.total(), every=every, part=f"{part}/{parts}", walks=walks.judged, table=table)
    if parts == 1:
        assert ENDS[kind] <= {end for _, end in ends}


def test_the_judge_sees_a_wrong_event_a_silent_loss_and_a_wrong_state(truth: Truth) -> None:
    """Were the journal another one than it was, the campaign would say so."""
    with pytest.raises(AssertionError, match="not what it was"):
        outcome(truth._replace(rows=[truth.rows[1], *truth.rows[1:]]), truth.files, "")
    with pytest.raises(AssertionError, match="nothing says so"):
        outcome(truth._replace(promised=len(truth.rows) + 1), truth.files, "")
    with pytest.raises(AssertionError, match="not what these events give"):
        outcome(truth._replace(states={len(truth.rows): {}}), truth.files, "")


def test_a_consistent_roll_back_of_all_files_is_found_by_a_noted_receipt_only(tmp_path: Path) -> None:
    storage = MemoryStorage()
    with journal.open("it", storage=storage) as log:
        life(log, CheckpointStore(storage), 0)
    early = files_of(storage)
    with journal.open("it", storage=storage) as log:
        life(log, CheckpointStore(storage), 1)
        noted = log.sync()
    rolled_back = stored(early)
    assert verify(rolled_back, deep=True).status == "clean", "nothing in these files is wrong"
    report = verify(rolled_back, expect=(noted.seq, noted.chain))
    assert report.status == "corrupt" and "rolled back" in report.findings[0].reason
    assert verify(storage, expect=(noted.seq, noted.chain)).status == "clean"
