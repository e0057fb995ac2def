"""A segment's size is part of what it says: a file that is neither whole nor sealed was cut from outside."""

from __future__ import annotations

from typing import Any

import pytest

import journal
from journal import arrays, segment
from journal.cell import CELL
from journal.manifest import Manifest
from journal.recovery import recover
from journal.storage.memory import MemoryStorage

pytestmark = pytest.mark.usefixtures("small_segments")


def test_a_segment_cut_within_its_first_mark_is_no_torn_tail(clock: Any) -> None:
    """Found by cutting at every byte: with its receipts gone as well, a cut file looked as if nothing were promised.

    A file is made whole before it has its name, and is cut only behind a seal, so its size tells.
    """
    storage = MemoryStorage()
    for name in ("a", "b"):
        with journal.open("memory", storage=storage, sync="close", clock=clock) as log:
            log.agent(f"{name} name that makes the next segment's first mark longer than a cell")
    log = journal.open("memory", storage=storage, sync="close", clock=clock)
    log.reward(1, 0, 0, 1.0)
    assert log.sync().seq == 2
    dead = storage.kill()
    log.close()
    last = Manifest.read(dead).segments[-1]
    path = segment.path_of(last)
    whole = {path: dead.read(path)}
    mark = arrays.view(memoryview(whole[path])[CELL : 2 * CELL])
    assert mark["extent"][0] >= 1
    for length in range(0, len(whole[path]), CELL):
        cut = dead.kill()
        file = cut.open(path)
        file.truncate(length)
        file.close()
        with pytest.raises(journal.CorruptJournal) as refused:
            recover(cut, Manifest.read(cut), 7)
        assert refused.value.path == path
