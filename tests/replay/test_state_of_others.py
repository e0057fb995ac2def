"""A state that somebody else wrote into a snapshot, under a right SHA-256: refused, or told in words like any other."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgpack
import pytest

import journal
from journal.errors import CorruptJournal, JournalFailed, NotComparable
from replay import snapshot
from replay.compare import compare
from replay.documents import dumps, replay_document, runs_document, totals_of, trends_document
from replay.intervals import Intervals
from replay.loading import load
from replay.rows import BY
from replay.state import State, merge

sys.path.insert(0, str(Path(__file__).parent))
from logs import fresh

WRONG = (None, True, -1, 2**64 - 1, 1.5, "x", b"x", [1], {"x": 1})


@pytest.fixture(scope="module")
def plain() -> Any:
    """All that a state holds, as a snapshot does, its bars line by line."""
    storage = fresh()
    with journal.open("j", storage=storage, sync="close") as log:
        log.append(journal.RunStarted(run="r1", config={"conditions": {"costs": 1}}))
        log.append(journal.AttemptStarted(run="r1", attempt=0, pid=7, argv=["t.py"], cwd="x", versions={"a": "1"}))
        log.append(journal.PlanRecorded(agent="A", plan_hash="ab", entries=[{"instrument": "X"}], length=1))
        for agent in ("A", "B"):
            episode(log, agent, 0)
            log.append(journal.CheckpointSaved(agent=agent, episode=1, path=f"checkpoints/{agent}", sha256="", size=1))
            episode(log, agent, 1)
            log.reward(log.agent(agent), 9, 0, 1.0)  # A stray one.
            episode(log, agent, 2, ends=False)
    return msgpack.unpackb(msgpack.packb(load(storage).to_payload()), strict_map_key=False)


def episode(log: journal.Log, agent: str, number: int, *, ends: bool = True) -> None:
    log.append(journal.EpisodeStarted(agent=agent, episode=number, seed=7, entry=number))
    place = {"instrument": "X", "timeframe": "H1", "start": 0, "stop": 3}
    log.append(
        journal.BarsSeen(agent=agent, episode=number, **place, content_hash=bytes(16), source="observed")  # type: ignore[arg-type]
    )
    log.reward(log.agent(agent), number, 0, 1.5)
    if ends:
        log.append(journal.EpisodeEnded(agent=agent, episode=number, reason="terminated", metrics={"pnl": 1.0}))


def places(payload: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Each place in a payload; what is alike, once."""
    if place:
        yield place
    inner = (
        payload.items() if isinstance(payload, dict) else enumerate(payload[:2]) if isinstance(payload, list) else ()
    )
    for key, one in inner:
        yield from places(one, (*place, key))


def changed(payload: Any, place: tuple[Any, ...], value: Any) -> Any:
    twin = copy.deepcopy(payload)
    inner = twin
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return twin


def look(state: State) -> None:
    """All that is told of a state."""
    for document in (replay_document(state, live=False), runs_document(state, live=False), totals_of(state)):
        dumps(document)
    for by in BY:
        dumps(trends_document(state, by, "reward", None))
    for any_order in (False, True):
        try:
            dumps({"reason": compare(state, any_order=any_order, common=any_order).reason})
        except AssertionError:
            pass  # Comparable, and the journal would be read again: there is none.
        except (CorruptJournal, NotComparable):
            pass
    merge(state, state)
    try:
        snapshot.packed(state)
    except JournalFailed:
        pass


def test_of_whatever_type_a_part_of_it_is_it_is_refused_or_told(plain: Any) -> None:
    """`replay`, `totals`, `compare` and `trends` ended in a TypeError, an AttributeError or a MemoryError."""
    look(State.from_payload(plain))
    refused = told = 0
    for place in places(plain):
        for value in WRONG:
            try:
                state = State.from_payload(changed(plain, place, value))
            except ValueError:
                refused += 1
                continue
            try:
                look(state)
            except Exception as error:
                raise AssertionError(f"{'/'.join(map(str, place))} = {value!r}") from error
            told += 1
    assert refused > 1000 and told > 100


@pytest.mark.parametrize(
    "pairs", [[[3, 1]], [[0, 2], [1, 3]], [[0, 2**63]], [[0, 1], [2**64 - 2, 2**64 - 1]], [[0.0, 1]]]
)
def test_entries_that_make_no_sense_are_no_entries(plain: Any, pairs: Any) -> None:
    """How many there are did not fit a number."""
    with pytest.raises(ValueError, match=r"make no sense|no state"):
        State.from_payload(changed(plain, ("agents", "A", "lineage", "finished", "train"), pairs))


def test_what_is_honest_is_taken(plain: Any) -> None:
    """Large numbers of entries, too."""
    place = ("agents", "A", "lineage", "finished", "train")
    state = State.from_payload(changed(plain, place, [[0, 2], [2**61, 2**61 + 5]]))
    assert state.agents["A"].finished["train"] == Intervals([[0, 2], [2**61, 2**61 + 5]])
