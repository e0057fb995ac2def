"""Breaks, for each row of "Neighbours" in docs/guarantees.md, what holds it, and tells whether the row's tests go red.

    python tests/crash/broken.py            # all of them, some minutes; exit 1 where a test stays green
    python tests/crash/broken.py link

Each is broken in a copy of the project, also for the processes that its tests start. A test that goes by chance
(threads that change places) is tried a few times.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PACKAGES = ("journal", "replay", "agents_adapter", "tests", "docs")
PROCESSES, DISK, WRITER = (
    "tests/journal/test_processes.py",
    "tests/journal/test_disk.py",
    "tests/journal/test_writer.py",
)
NEIGHBOURS, FAILURES, CLOCK = (
    "tests/crash/test_neighbours.py",
    "tests/journal/test_failures.py",
    "tests/replay/test_clock.py",
)
BELIEVED = 'self.position, self.seq = claimed, int(cells["seq"][0])\n        if False:'

NO_LOCK = (
    'type("Open", (), {"locked": lambda _: False, "__enter__": lambda _: True, "__exit__": lambda *_: None, '
    '"acquire": lambda *_: True, "release": lambda _: None})()'
)


class Broken(NamedTuple):
    """One thing that is done no more: in `path`, each `before` becomes its `after`; the `tests`, each one, go red."""

    what: str
    path: str
    changes: dict[str, str]
    tests: tuple[str, ...]
    tries: int = 1


ALL = (
    Broken(
        "a second writer gets in",
        "journal/storage/lock.py",
        {"fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)": "pass"},
        (f"{PROCESSES}::test_a_second_writer_is_told_who_holds_the_lock",),
    ),
    Broken(
        "a second writer is not told who writes",
        "journal/storage/lock.py",
        {"raise LockHeld(_holders(os.fstat(fd)) or _noted_pid(noted), noted)": "raise LockHeld((), noted)"},
        (f"{PROCESSES}::test_a_second_writer_is_told_who_holds_the_lock",),
    ),
    Broken(
        "readers take what is not yet whole for damage",
        "journal/walk.py",
        {"for pause in _PATIENCE if self.live else ():": "for pause in ():", "self.live = live": "self.live = False"},
        ("tests/journal/test_reading.py::test_what_is_half_written_is_not_yet_there",),
    ),
    Broken(
        "readers take what a compaction took away for damage",
        "replay/scan.py",
        {"return now.manifest.base != self.manifest.base or (passes < _PASSES and now != self)": "return False"},
        ("tests/replay/test_compaction.py::test_a_reader_keeps_its_view_while_it_happens",),
    ),
    Broken(
        "readers see only what is promised",
        "journal/walk.py",
        {
            "bad_head = arrays.first_bad(": "found = found[found < max(verified, 1)] if self.live else found\n"
            "        bad_head = arrays.first_bad("
        },
        (f"{NEIGHBOURS}::test_eight_readers_beside_a_training_see_a_prefix_and_never_damage",),
        3,
    ),
    Broken(
        "threads append without a lock",
        "journal/tail.py",
        {"self.lock = Mutex()": f"self.lock = {NO_LOCK}"},
        (f"{WRITER}::test_eight_threads_append_without_losing_or_mixing",),
        3,
    ),
    Broken(
        "threads take each other's turn",
        "journal/rewarding.py",
        {"taken, turn.taken = turn.taken, True": "taken, turn.taken = False, True"},
        ("tests/journal/test_turn.py::test_threads_that_switch_all_the_time_lose_nothing",),
        3,
    ),
    Broken(
        "a forked child records",
        "journal/writer.py",
        {"        self._closed, self._limit = True, 0\n        self._file_lock.drop()": "        return"},
        (f"{PROCESSES}::test_a_forked_child_may_not_append_and_the_parent_goes_on",),
    ),
    Broken(
        "a forked child keeps the lock",
        "journal/writer.py",
        {"        self._file_lock.drop()\n        self._spares.abandon()": "        self._spares.abandon()"},
        (f"{PROCESSES}::test_a_child_of_a_dead_writer_does_not_keep_the_lock",),
    ),
    Broken(
        "a copy made by `cp -r` is read over what it lacks",
        "journal/walk.py",
        {'if claimed != self.position or int(cells["seq"][0]) != self.seq:': BELIEVED},
        (f"{NEIGHBOURS}::test_a_copy_of_which_each_file_is_of_another_moment_is_refused_or_a_true_prefix",),
        6,
    ),
    Broken(
        "a copy made by `cp -r` without one of its files ends in a traceback",
        "journal/walk.py",
        {
            "raise CorruptJournal(path, 0, self.seq, _MISSING) from None": "raise",
            "raise CorruptJournal(segment.path_of(gap), 0, base.seq, _MISSING)": "raise KeyError(gap)",
        },
        (f"{NEIGHBOURS}::test_a_copy_of_which_each_file_is_of_another_moment_is_refused_or_a_true_prefix",),
    ),
    Broken(
        "`journal copy` takes what was never promised",
        "journal/copying.py",
        {"count = promise.position - piece.position": "count = piece.end"},
        ("tests/replay/test_copy.py::test_of_a_living_journal_it_is_the_promised_prefix",),
    ),
    Broken(
        "nobody looks whether the file is still there",
        "journal/commit.py",
        {"if wrong is not None:": "if False:"},
        (
            f"{FAILURES}::test_a_directory_deleted_under_the_writer_is_noticed_before_the_next_promise",
            f"{FAILURES}::test_a_segment_cut_under_the_writer_is_noticed_before_the_next_promise",
        ),
    ),
    Broken(
        "a writer follows its directory's name",
        "journal/storage/disk.py",
        {"os.dup(self._locked_root) if self._locked_root >= 0 else os.open": "os.open"},
        (f"{DISK}::test_a_journal_renamed_under_its_writer_stays_its_own",),
    ),
    Broken(
        "a link is followed",
        "journal/storage/names.py",
        {"flags | os.O_NOFOLLOW | os.O_CLOEXEC": "flags | os.O_CLOEXEC"},
        (
            f"{DISK}::test_a_directory_that_became_a_link_is_refused_and_not_written_through",
            "tests/journal/test_storage_contract.py::test_no_link_leads_out_of_the_tree",
        ),
    ),
    Broken(
        "durations are those of the wall clock",
        "journal/tail.py",
        {"self.monotonic = clock.monotonic": "self.monotonic = lambda: clock.time_ns() / 1e9"},
        (f"{CLOCK}::test_training_time_is_that_of_the_clock_that_only_grows",),
    ),
    Broken(
        "an episode that broke off may take less than nothing",
        "replay/fold.py",
        {"unclocked = max(0, last_ns - active.wall_ns)": "unclocked = last_ns - active.wall_ns"},
        (f"{CLOCK}::test_episodes_that_broke_off_while_the_clock_jumped_took_no_less_than_nothing",),
    ),
    Broken(
        "a growing clock that begins anew takes time back",
        "replay/fold.py",
        {"    if now > active.since:": "    if now != active.since:"},
        (f"{CLOCK}::test_a_machine_started_again_in_the_middle_of_an_episode_takes_no_time_back",),
    ),
    Broken(
        "a time is sought among times that go back",
        "replay/loading.py",
        {"running = np.maximum(np.maximum.accumulate(batch.time_ns), state.last_time_ns)": "running = batch.time_ns"},
        (
            f"{CLOCK}::test_a_time_is_sought_by_the_running_maximum",
            f"{CLOCK}::test_the_command_line_seeks_a_time_the_same_way",
        ),
    ),
    Broken(
        "a map is needed",
        "journal/storage/disk.py",
        {
            "                return None  # Too many": "                raise  # Too many",
            "self._mappable = self.file_system in _MAPPABLE": "self._mappable = True",
        },
        (
            f"{DISK}::test_where_no_map_is_to_be_had_segments_are_written_by_pwrite",
            "tests/crash/test_failing_calls.py::test_a_segment_that_cannot_be_mapped_is_written_all_the_same",
            "tests/crash/test_fuse.py::test_where_nothing_can_be_mapped_a_killed_writer_loses_nothing",
        ),
    ),
    Broken(
        "what is written without a map differs",
        "journal/live.py",
        {"file.write(offset, cell.PUBLISH.pack(crc, body))": "file.write(offset, cell.PUBLISH.pack(crc ^ 1, body))"},
        (f"{WRITER}::test_mapped_and_pwrite_write_the_same_bytes",),
    ),
    Broken(
        "an interrupted append that is whole is not counted",
        "journal/tail.py",
        {"offset + length, seq + takes": "offset, seq"},
        ("tests/crash/test_interrupts.py::test_ctrl_c_at_any_instant_loses_and_doubles_nothing",),
        3,
    ),
    Broken(
        "an interrupted append leaves half a cell",
        "journal/tail.py",
        {"                    self._segment.write(offset, bytes(length))\n": ""},
        ("tests/crash/test_interrupts.py::test_ctrl_c_at_any_instant_loses_and_doubles_nothing",),
        3,
    ),
    Broken(
        "an interrupted close keeps the lock",
        "journal/writer.py",
        {"if self not in _OPENED:": "if self._closed:"},
        ("tests/crash/test_interrupts.py::test_ctrl_c_at_any_instant_loses_and_doubles_nothing",),
        3,
    ),
    Broken(
        "a stray file passes for a spare",
        "journal/walk.py",
        {"if (ordinals and gap < ordinals[-1]) or (listed and gap <= listed[-1]):": "if listed and gap <= listed[-1]:"},
        ("tests/journal/test_reading.py::test_a_stray_segment_with_a_high_number_costs_nothing",),
    ),
)


def red(one: Broken, test: str) -> bool:
    """Does this test fail where that is broken?"""
    with TemporaryDirectory(prefix="broken-") as copy:
        for package in PACKAGES:
            shutil.copytree(ROOT / package, Path(copy, package), ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", copy)
        path = Path(copy, one.path)
        source = path.read_text(encoding="utf-8")
        for before, after in one.changes.items():
            assert before in source, f"{one.path} has changed: {before!r} is not in it"
            source = source.replace(before, after)
        path.write_text(source, encoding="utf-8")
        env = os.environ | {"PYTHONPATH": copy, "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", test]
        for _ in range(one.tries):
            try:
                code = subprocess.run(
                    command, cwd=copy, env=env, capture_output=True, check=False, timeout=300
                ).returncode
            except subprocess.TimeoutExpired:
                return True
            assert code in (0, 1), f"{test}: pytest ends with {code}"
            if code:
                return True
    return False


def main(words: list[str]) -> int:
    green = 0
    for one in ALL:
        if all(word in one.what for word in words):
            for test in one.tests:
                noticed = red(one, test)
                green += not noticed
                print(f"{'red  ' if noticed else 'GREEN'} {one.what}: {test}", flush=True)
    return 1 if green else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
