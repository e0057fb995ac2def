"""Several journals as one: the same totals in any order and grouping, however many copies lie about."""

from __future__ import annotations

import functools
import sys
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

import replay
from journal.storage.memory import MemoryStorage
from replay.documents import merged_totals
from replay.loading import load
from replay.many import distinct
from replay.state import State

sys.path.insert(0, str(Path(__file__).parent))
from logs import record
from model import commands


def grouped(states: list[State], data: st.DataObject) -> State:
    """Merged two neighbours at a time, in any grouping."""
    while len(states) > 1:
        at = data.draw(st.integers(0, len(states) - 2))
        states = [*states[:at], replay.merge(states[at], states[at + 1]), *states[at + 2 :]]
    return states[0] if states else State()


@settings(max_examples=40)
@given(scripts=st.lists(st.lists(commands, max_size=2), max_size=4), data=st.data())
def test_any_order_grouping_and_copies_give_the_same_totals(scripts: list[list[Any]], data: st.DataObject) -> None:
    states: dict[str, State] = {}
    for number, sessions in enumerate(scripts):
        storage = MemoryStorage()
        model = record(storage, [])
        for session in sessions:
            model = record(storage, session, model)
        states[f"journal {number}"] = load(storage)
    expected = merged_totals(functools.reduce(replay.merge, states.values(), State()))

    shorter = {}
    for path, state in states.items():
        if state.events and data.draw(st.booleans()):
            shorter[f"a copy of {path}"] = load(state.storage, data.draw(st.integers(0, state.last_seq)))
    together = dict(data.draw(st.permutations(list({**states, **shorter}.items()))))
    found = distinct(together)
    assert not found.parted and len(found.copies) == len(shorter)
    assert list(found.states) == [path for path in together if path not in found.copies]
    merged = merged_totals(grouped(list(found.states.values()), data))
    assert merged == expected
