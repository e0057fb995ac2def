"""A program that reads history ends well: no thread of Arrow's is left that could still want the interpreter.

One in a thousand programs that compacted and ended was aborted ("terminate called without an active exception").
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import journal
from replay.compaction import compact

PROGRAM = """
import os, sys, time
import numpy, pyarrow.parquet, pandas
import replay
from replay.compaction import compact
from replay.exporting import export_events
from replay.importing import import_events

source, place = sys.argv[1:]
before = len(os.listdir("/proc/self/task"))
{work}
for _ in range(100):  # One of Python's own that has ended takes a moment to go.
    left = len(os.listdir("/proc/self/task")) - before
    if left <= 0:
        break
    time.sleep(0.02)
print(left)
"""
WORK = {
    "load": "assert replay.load(source, at=9).events == 10",
    "events": "assert sum(len(batch) for batch in replay.events(source)) > 9000",
    "verify": "assert replay.verify(source, deep=True).status == 'clean'",
    "compact": "import journal; journal.open(source).close(); compact(source)",
    "export": "export_events([source], 'parquet', place + '/e', None)",
    "import": "export_events([source], 'parquet', place + '/e', None); import_events(place + '/e', place + '/j')",
}


@pytest.fixture(scope="module")
def compacted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("compacted") / "j"
    with journal.open(place) as log:
        agent = log.agent("PPO")
        log.rewards(agent, 0, range(9000), [0.25] * 9000)
    compact(place)
    with journal.open(place) as log:
        log.append(journal.Custom(name="later"))
    return place


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are counted in /proc")
@pytest.mark.parametrize("work", WORK)
def test_who_reads_history_leaves_no_thread_behind(work: str, compacted: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROGRAM.format(work=WORK[work]), str(compacted), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert (done.returncode, done.stdout.strip()) == (0, "0"), done.stderr
