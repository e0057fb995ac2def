"""A promise that cannot be made: whoever waits for it is told in the journal's words, and nobody's process dies."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import journal
from journal.storage.faulty import FaultyStorage
from journal.storage.memory import MemoryStorage


@pytest.fixture(params=["mapped", "pwrite"])
def faulty(request: pytest.FixtureRequest) -> FaultyStorage:
    return FaultyStorage(MemoryStorage(mappable=request.param == "mapped"))


@pytest.mark.parametrize("sync", ["always", "close"])
def test_who_waits_for_a_promise_while_the_log_cannot_be_closed_is_told(faulty: FaultyStorage, sync: Any) -> None:
    """The files are let go of then: whoever looked for its event in them would find no files."""
    log = journal.open("m", storage=faulty, sync=sync)
    told: list[BaseException] = []

    def tell(action: Any) -> None:
        try:
            action()
        except BaseException as error:
            told.append(error)

    def promise() -> None:
        log.append(journal.Custom(name="x"))
        log.sync()

    threads = [threading.Thread(target=tell, args=(action,)) for action in (promise, promise, log.close)]
    with log._commit._mutex:
        for thread in threads[:-1]:
            thread.start()
        while len(log._commit._sharing.waiting) < 2:
            time.sleep(0.001)
        threads[-1].start()
        while not log.closed:
            time.sleep(0.001)
        time.sleep(0.05)  # By now it waits for the mutex, and gets it before those who look for it now and then.
        faulty.fail("create", path="journal.json.tmp", error=errno.ENOSPC, times=10**9)
    for thread in threads:
        thread.join(5)
        assert not thread.is_alive()
    assert len(told) == 3 and all(isinstance(one, journal.JournalFailed) for one in told), told


CUT = """
import os, sys
import journal

log = journal.open(sys.argv[1], sync="close")
agent = log.agent("a")
log.sync()
for step in range(1000):
    log.reward(agent, 0, step, 1.0)
os.truncate(os.path.join(sys.argv[1], "segments", "00000000.seg"), 4096)
try:
    log.sync()
except journal.JournalFailed as error:
    print(log.mapped, error)
"""


def test_a_mapped_segment_cut_under_the_writer_does_not_kill_it(tmp_path: Path) -> None:
    """A look behind a file's end through a map ends the process: what is there is asked before it is hashed."""
    done = subprocess.run([sys.executable, "-c", CUT, tmp_path / "x"], capture_output=True, text=True)
    assert done.returncode == 0, done.returncode
    assert "has 4,096 bytes instead of 1,048,576" in done.stdout
