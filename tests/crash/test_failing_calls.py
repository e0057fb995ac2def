"""System calls that fail, in an unmodified program: strace lets the nth one return EIO or ENOSPC.

First the program runs unharmed, and every call that concerns the journal is noted: which call, and the how manieth of
its thread. Then it runs again for each of them, with that call failing. It must end well, or with an error of the
journal in one line; what it had been promised before is there afterwards, and a run without failures goes on from it.

`JOURNAL_CALLS` is how many of these calls are tried, chosen by the seed; 0 tries all, `JOURNAL_PART=0/2` the first of
two parts of them. Needs strace.

A map is asked for so rarely among all that Python maps that its number says nothing: it is found by the segment's path.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

import journal
import replay

ROOT = Path(__file__).parents[2]
WRITES = (
    "openat",
    "fallocate",
    "write",
    "pwrite64",
    "fdatasync",
    "fsync",
    "renameat",
    "ftruncate",
    "unlinkat",
    "mkdir",
    "mkdirat",
)
READS = ("pread64", "preadv", "read", "openat")
SEGMENTS = "from journal import segment\nsegment.SIZE_MIN = segment.SIZE_MAX = 1 << 17\n"
"""Small ones, so that few events go on to several."""
TELL = "import os\ntell = lambda place, *words: os.writev(place, [' '.join(map(str, words)).encode() + b'\\n'])\n"
"""By a call that is never made to fail: threads may make more writes or fewer than in the run that counted them."""

WRITER = (
    SEGMENTS
    + TELL
    + """
import sys
import journal
from agents_adapter.checkpoint import CheckpointStore
from journal.storage.disk import DiskStorage
from replay.compaction import compact

directory = sys.argv[1]
try:
    for life in range(2):
        with journal.open(directory, sync="group", sync_interval=0.005) as log:
            agent, store = log.agent("PPO"), CheckpointStore(DiskStorage(directory))
            store.adopt("PPO", [])
            for number in range(3000):
                log.reward(agent, 0, number, 0.5)
            log.rewards(agent, 0, range(9000), [0.25] * 9000)
            tell(1, "promised", log.sync().seq)
            saved = store.save(log, "PPO", 0, {"weights": [life]})
            tell(1, "promised", saved.seq)
            log.reward(agent, 0, 0, 1.0)
        tell(1, "promised", log.promised.seq)
        compact(directory)
except journal.JournalError as error:
    tell(2, f"{type(error).__name__}: {error}")
    sys.exit(3)
"""
)

RECOVERER = (
    SEGMENTS
    + TELL
    + """
import sys
import journal
try:
    journal.open(sys.argv[1]).close()
except journal.JournalError as error:
    tell(2, f"{type(error).__name__}: {error}")
    sys.exit(3)
"""
)

VERBS = {
    "verify": ["verify", "--deep"],
    "totals": ["totals"],
    "replay": ["replay"],
    "compact": ["compact"],
}

pytestmark = [pytest.mark.crash, pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")]


def python(code: str, directory: Path) -> list[str]:
    return [sys.executable, "-W", "ignore", "-c", code, str(directory)]


def verb(words: list[str], directory: Path) -> list[str]:
    return [sys.executable, "-W", "ignore", "-m", "replay", *words, str(directory)]


def traced(
    command: list[str], calls: tuple[str, ...], directory: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    """Only these calls stop the program (`--seccomp-bpf`); all others run as fast as ever."""
    log = directory.parent / "strace"
    trace = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log), "-e", f"trace={','.join(calls)}", *options]
    env = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*trace, *command], capture_output=True, text=True, env=env, check=False, timeout=600)


def concerned(command: list[str], calls: tuple[str, ...], directory: Path) -> list[tuple[str, int]]:
    """(call, the how manieth of its thread): each call that touches the journal."""
    done = traced(command, calls, directory, "-y")
    if "PTRACE" in done.stderr or "ptrace" in done.stderr:
        pytest.skip(f"strace may not trace here: {done.stderr.strip()[:100]}")
    assert done.returncode in (0, 1), done.stderr
    counts: Counter[tuple[str, str]] = Counter()
    ours: dict[tuple[str, int], bool] = {}
    for line in (directory.parent / "strace").read_text(errors="replace").splitlines():
        match = re.match(r"(\d+) +(\w+)\(", line)
        if match is None:
            continue
        thread, call = match.groups()
        counts[thread, call] += 1
        nth = counts[thread, call]
        # strace counts by thread: the nth call of each one fails, so each must be one of the journal's.
        ours[call, nth] = ours.get((call, nth), True) and str(directory) in line
    return [which for which, concerns in ours.items() if concerns]


def chosen(campaign: Any, found: list[Any]) -> list[Any]:
    wanted = campaign.size("JOURNAL_CALLS", 2)
    part, parts = (int(one) for one in os.environ.get("JOURNAL_PART", "0/1").split("/"))
    return found[part::parts] if not wanted or wanted >= len(found) else campaign.random.sample(found, wanted)


def failing(call: str, nth: int, error: str) -> list[str]:
    return ["-e", f"inject={call}:error={error}:when={nth}"]


def errors(call: str) -> tuple[str, ...]:
    return ("EIO",) if call in ("read", "pread64", "preadv", "mkdir", "mkdirat", "unlinkat") else ("EIO", "ENOSPC")


def judged(done: subprocess.CompletedProcess[str], told: str, codes: tuple[int, ...]) -> str:
    """How the program ended, in a word: well, or with one line."""
    assert "Traceback" not in done.stderr, f"{told}: {done.stderr}"
    assert done.returncode in codes, f"{told}: exit {done.returncode}: {done.stderr}"
    if done.returncode == 0:
        return "went on"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].partition(":")[0] if done.returncode == 3 and lines else f"exit {done.returncode}"


def promised_by(done: subprocess.CompletedProcess[str]) -> int:
    return max([-1, *(int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("promised "))])


def kept(directory: Path, done: subprocess.CompletedProcess[str], told: str) -> None:
    """What the writer was promised is there, and a run without failures goes on from it."""
    if not (directory / "journal.json").exists():
        assert promised_by(done) == -1, told
        return
    report = replay.verify(directory, deep=True)
    assert report.status in ("clean", "torn"), (told, report)
    with journal.open(directory) as log:
        assert log.next_seq > promised_by(done), (told, done.stdout)
        log.append(journal.Custom(name="on"))
    assert replay.verify(directory, deep=True).status == "clean", told


def test_a_writer_whose_calls_fail_keeps_what_it_promised(tmp_path: Path, campaign: Any) -> None:
    directory = tmp_path / "j"
    found = concerned(python(WRITER, directory), WRITES, directory)
    assert {call for call, _ in found} >= {"openat", "pwrite64", "fdatasync", "fsync", "renameat", "ftruncate"}
    cases = [(call, nth, error) for call, nth in found for error in errors(call)]
    table: Counter[tuple[str, str, str]] = Counter()
    for call, nth, error in chosen(campaign, cases):
        told = f"{call} number {nth}: {error}"
        if directory.exists():  # The failing call before may have been the one that makes it.
            shutil.rmtree(directory)
        done = traced(python(WRITER, directory), (call,), directory, *failing(call, nth, error))
        table[call, error, judged(done, told, (0, 3))] += 1
        kept(directory, done, told)
    campaign.report(tried=table.total(), of=len(cases), lost=0, outcomes=outcomes(table))


def test_a_segment_that_cannot_be_mapped_is_written_all_the_same(tmp_path: Path, campaign: Any) -> None:
    """Each map of a segment fails in turn: the first, which opening makes, and those of the spares' thread."""
    directory = tmp_path / "j"
    done = traced(python(WRITER, directory), ("mmap",), directory, "-y")
    assert done.returncode == 0, done.stderr
    lines = (tmp_path / "strace").read_text(errors="replace").splitlines()
    found = [(line.split()[0], re.search(r"segments/\d{8}\.seg", line)) for line in lines]
    maps = {match[0]: thread for thread, match in found if match}  # An unused spare is made again in the next life.
    assert len(set(maps.values())) >= 3, "opening maps, twice, and so does the spares' thread"
    table: Counter[tuple[str, str, str]] = Counter()
    events = replay.verify(directory).events
    for path in chosen(campaign, list(maps)):
        shutil.rmtree(directory)
        only = ["-y", "-P", str(directory / path), *failing("mmap", 1, "ENOMEM")]
        done = traced(python(WRITER, directory), ("mmap",), directory, *only)
        assert "INJECTED" in (tmp_path / "strace").read_text(), path
        table["mmap", "ENOMEM", judged(done, path, (0,))] += 1
        assert replay.verify(directory, deep=True).events == events, path
        kept(directory, done, path)
    campaign.report(tried=table.total(), of=len(maps), lost=0, outcomes=outcomes(table))


def outcomes(table: Counter[tuple[str, str, str]]) -> dict[str, str]:
    told: dict[str, str] = {}
    for (call, error, end), count in sorted(table.items()):
        name = f"{call} {error}"
        told[name] = (told[name] + " + " if name in told else "") + f"{count} {end}"
    return told


@pytest.fixture(scope="module")
def torn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A journal of a killed writer, the end of it torn, behind history."""
    place = tmp_path_factory.mktemp("torn")
    done = subprocess.run(python(WRITER, place / "j"), env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False)
    assert done.returncode == 0
    code = SEGMENTS + (
        "import sys, os, journal\nlog = journal.open(sys.argv[1], sync='close')\nagent = log.agent('PPO')\n"
        "for number in range(4000): log.reward(agent, 0, number, 0.5)\nlog.sync()\n"
        "for number in range(4000): log.reward(agent, 0, number, 0.5)\nos._exit(0)\n"
    )
    subprocess.run(python(code, place / "j"), env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    last = max(path for path in (place / "j" / "segments").iterdir() if any(path.read_bytes()[128:192]))
    data = bytearray(last.read_bytes())
    data[len(bytes(data).rstrip(b"\0")) - 200] ^= 1
    last.write_bytes(data)
    assert replay.verify(place / "j").status == "torn"
    return place / "j"


def test_a_recovery_whose_calls_fail_changes_nothing_that_was_promised(
    torn: Path, tmp_path: Path, campaign: Any
) -> None:
    directory = tmp_path / "j"
    before = replay.verify(torn)
    shutil.copytree(torn, directory)
    calls = (*WRITES, "pread64")
    found = concerned(python(RECOVERER, directory), calls, directory)
    expected = replay.verify(directory).events
    assert expected > before.head.seq
    cases = [(call, nth, error) for call, nth in found for error in errors(call)]
    table: Counter[tuple[str, str, str]] = Counter()
    for call, nth, error in chosen(campaign, cases):
        told = f"{call} number {nth}: {error}"
        shutil.rmtree(directory)
        shutil.copytree(torn, directory)
        done = traced(python(RECOVERER, directory), (call,), directory, *failing(call, nth, error))
        table[call, error, judged(done, told, (0, 3))] += 1
        assert replay.verify(directory, deep=True).status in ("clean", "torn"), told
        with journal.open(directory) as log:
            assert log.next_seq == expected, told
    campaign.report(tried=table.total(), of=len(cases), lost=0, outcomes=outcomes(table))


@pytest.mark.parametrize("name", VERBS)
def test_a_verb_whose_calls_fail_says_so_in_one_line(torn: Path, tmp_path: Path, campaign: Any, name: str) -> None:
    directory = tmp_path / "j"
    shutil.copytree(torn, directory)
    journal.open(directory).close()
    whole = tmp_path / "whole"
    shutil.copytree(directory, whole)
    calls = (*READS, *(WRITES[1:] if name == "compact" else ()))
    found = concerned(verb(VERBS[name], directory), calls, directory)
    cases = [(call, nth, "EIO") for call, nth in found]
    table: Counter[tuple[str, str, str]] = Counter()
    events = replay.verify(whole).events
    for call, nth, error in chosen(campaign, cases):
        told = f"{name}, {call} number {nth}: {error}"
        shutil.rmtree(directory)
        shutil.copytree(whole, directory)
        done = traced(verb(VERBS[name], directory), (call,), directory, *failing(call, nth, error))
        table[call, error, judged(done, told, (0, 1, 2))] += 1
        report = replay.verify(directory, deep=True)
        assert (report.status, report.events) == ("clean", events), (told, report)
    campaign.report(tried=table.total(), of=len(cases), lost=0, outcomes=outcomes(table))
