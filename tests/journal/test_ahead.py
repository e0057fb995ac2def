"""Reading ahead: in order, one further than what is looked at, and never over what somebody still looks at."""

from __future__ import annotations

import mmap
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import journal
import replay
from journal.ahead import ahead, files
from journal.storage import buffers
from journal.storage.memory import MemoryStorage
from replay.scan import scan


def stored(*contents: bytes) -> tuple[MemoryStorage, list[str]]:
    storage = MemoryStorage()
    paths = [f"file-{number}" for number in range(len(contents))]
    for path, content in zip(paths, contents, strict=True):
        with storage.stream(path) as stream:
            stream.write(content)
    return storage, paths


def test_the_next_item_is_made_in_another_thread_while_one_is_looked_at() -> None:
    made = [threading.Event() for _ in range(3)]
    threads = set()

    def items() -> Iterator[int]:
        for number, event in enumerate(made):
            threads.add(threading.get_ident())
            event.set()
            yield number

    for number in ahead(items()):
        if number < 2:
            assert made[number + 1].wait(10)
    assert threading.get_ident() not in threads


def test_an_error_comes_where_the_item_would_have_come() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise OSError("the disk")

    found = ahead(items())
    assert next(found) == 1
    with pytest.raises(OSError, match="the disk"):
        next(found)


def test_left_early_no_thread_stays() -> None:
    before = threading.active_count()
    found = ahead(iter(range(1000)))
    next(found)
    found.close()
    assert threading.active_count() == before


def test_files_are_what_they_were_however_long_somebody_looks_at_them() -> None:
    rng = np.random.default_rng(5)
    contents = [rng.bytes(size) for size in (10, 3 << 20, 64, 3 << 20, 0, 5 << 20, 1)]
    storage, paths = stored(*contents)
    assert [bytes(view) for view in files(storage, paths, 1 << 30)] == contents
    kept = [np.frombuffer(view, dtype=np.uint8) for view in files(storage, paths, 1 << 30)]
    assert [one.tobytes() for one in kept] == contents
    assert [bytes(view) for view in files(storage, paths, 20)] == [content[:20] for content in contents]


def test_memory_that_nobody_looks_at_is_used_again() -> None:
    storage, paths = stored(*(bytes([number]) * 4096 for number in range(40)))
    places = set()
    for view in files(storage, paths, 1 << 30):
        places.add(np.frombuffer(view, dtype=np.uint8).ctypes.data)
        del view
    assert len(places) <= 4
    with pytest.raises(TypeError):
        next(files(storage, paths, 1 << 30))[0] = 1


@pytest.mark.skipif(not hasattr(mmap, "MADV_HUGEPAGE"), reason="where it cannot be told whether memory is looked at")
@pytest.mark.usefixtures("small_segments")
def test_a_scan_needs_memory_for_two_segments_and_a_replay_for_none_however_many_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    storage = MemoryStorage()
    with journal.open("j", storage=storage, sync="close") as log:
        for step in range(1000):
            log.reward(log.agent("A"), 0, step, 1.0)
    made: list[int] = []
    real = buffers._made
    monkeypatch.setattr(buffers, "_made", lambda size: made.append(size) or real(size))
    events = 0
    for batch in scan(storage):
        events += len(batch)
        del batch
    assert events == 1001 and len(storage.list("segments")) > 10
    assert made == [buffers._ROOM] * 2
    assert replay.load(storage).agents["A"].spent["train"].steps == 1000
    assert made[2:] == [12 << 20], "a window of two blocks, each with room for what a payload needs before it"
