"""Every peer really writes what it says, in each of its modes, and a killed one is shown in the class it has."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import beside, kill
from benchmarks.contenders import JOURNAL, PEERS
from benchmarks.peer import Peer, Totals
from benchmarks.question import QUICK, Answer
from journal.speed import levels

SINGLE = [(name, mode) for name, one in PEERS.items() for mode in one.modes]
BATCHED = [(name, mode) for name, one in PEERS.items() for mode in one.batch_modes]


def have(name: str) -> Peer:
    one = PEERS[name]
    if one.missing:
        pytest.skip(one.missing)
    return one


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "mode"), SINGLE)
def test_single_events_are_read_back(name: str, mode: str, tmp_path: Path) -> None:
    one = have(name)
    store = one.open(str(tmp_path), mode)
    for step in range(30):
        store.append(1 + step // 20, step // 20, step % 20, step / 8)
    store.close()
    expected: Totals = {1: (20, sum(range(20)) / 8), 2: (10, sum(range(20, 30)) / 8)}
    assert one.totals(str(tmp_path)) == expected, "eighths are kept also by those that keep 32 bits"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "mode"), BATCHED)
def test_batches_are_read_back(name: str, mode: str, tmp_path: Path) -> None:
    one = have(name)
    store = one.open(str(tmp_path), mode)
    values = np.arange(500) / 8
    for number in range(3):
        store.batch(1 + number // 2, number, 0, values)
    store.close()
    total = math.fsum(values)
    assert one.totals(str(tmp_path)) == {1: (1000, 2 * total), 2: (500, total)}


def test_every_peer_says_for_each_mode_what_it_survives() -> None:
    assert next(iter(PEERS.values())) is JOURNAL
    assert all(one.modes or one.batch_modes for one in PEERS.values())
    assert len({one.module for one in PEERS.values()}) == len(PEERS)


def test_one_that_is_missing_is_skipped_with_its_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    absent = Peer("Nobody", "no_such_library", _never, _never, {"a mode": "kill -9"})
    monkeypatch.setattr(beside, "PEERS", {"Nobody": absent})
    answer = Answer()
    beside.ask_peers(answer, str(tmp_path), QUICK, batches=False)
    (skipped,) = answer.skipped
    assert skipped["name"] == "Nobody" and "no_such_library" in skipped["reason"] and not answer.rows


def _never(*_: Any) -> Any:
    raise AssertionError("it is not installed")


@pytest.mark.parametrize("batches", [False, True])
def test_a_killed_journal_keeps_what_it_acknowledged(batches: bool, tmp_path: Path) -> None:
    mode = next(iter(JOURNAL.modes))
    kept = kill.kept(JOURNAL.name, mode, batches=batches, directory=str(tmp_path), kills=1, seconds=0.1)
    assert kept.acknowledged > 0 and not kept.lost
    assert kept.survives("kill -9") == "kill -9"
    assert not list(tmp_path.iterdir()), "it cleans up"


def test_a_buffer_that_dies_with_its_process_is_found_out(tmp_path: Path) -> None:
    name = "JSON lines (orjson)"
    have(name)
    kept = kill.kept(name, "buffered", batches=False, directory=str(tmp_path), kills=2, seconds=0.1)
    assert kept.lost > 0
    assert kept.survives("kill -9") == "nothing"


def test_a_peer_is_measured_beside_the_reference_of_its_safety(tmp_path: Path) -> None:
    name = "sqlite3"
    rows = {row["mode"]: row for row in beside.measured(name, str(tmp_path), QUICK, False)}
    assert rows.keys() == PEERS[name].modes.keys()
    assert rows["WAL, synchronous=FULL"]["reference"] == levels.PWRITE
    assert rows["WAL, synchronous=NORMAL"]["reference"] == levels.WRITE
    assert all(row["lost"] == 0 < row["acknowledged"] and row["wall_ratio"] > 0 for row in rows.values())
    assert not os.listdir(tmp_path)


def test_batches_are_given_4096_at_a_time() -> None:
    given: list[tuple[int, int]] = []
    batch: Callable[..., None] = lambda agent, episode, first, values: given.append((episode, len(values)))  # noqa: E731
    beside.in_batches(batch)(3)
    assert given == [(0, 4096), (1, 4096), (2, 4096)]
