"""What any segment knows at its first cell: names, the current run, open episodes."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

import journal
from journal import context
from journal.context import Context
from journal.manifest import Manifest
from journal.recovery import recover
from journal.storage.memory import MemoryStorage
from journal.walk import Walk, context_after, opening_context


@pytest.mark.usefixtures("small_segments")
def test_each_segment_opens_with_the_context_that_the_ones_before_it_leave() -> None:
    rng = Random(3)
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        log.append(journal.RunStarted(run="r", config={}))
        log.append(journal.AttemptStarted(run="r", attempt=4, pid=1, argv=[], cwd="", versions={}))
        for _ in range(400):
            agent, env = f"agent {rng.randrange(5)}", rng.randrange(3)
            key = (log.agent(agent), 0, env)
            if key in log.context.episodes:
                episode = log.context.episodes[key]
                log.append(journal.EpisodeEnded(agent=agent, episode=episode, env_index=env, reason="completed"))
            else:
                log.append(journal.EpisodeStarted(agent=agent, episode=rng.randrange(99), env_index=env))
        expected = log.context.copy()
    following = Context()
    pieces = list(Walk(storage))
    assert len(pieces) > 5
    for piece in pieces:
        assert opening_context(piece) == following
        following = context_after(piece)
    assert following == expected == Walk(storage).run().context()
    assert following.run == "r" and following.attempt == 4 and len(following.names) == 5


def test_a_context_is_what_its_payload_says() -> None:
    one = Context(["a"], {"a": 1}, "r", 3, {(1, 0, 2): 7}, 1)
    assert Context.from_payload(one.as_payload()) == one
    other = one.copy()
    other.give("b")
    other.episodes.clear()
    assert one.names == ["a"] and one.episodes


@pytest.mark.parametrize(
    "payload", [None, {}, {"names": 1}, {"names": [], "run": None, "attempt": None, "episodes": [1]}]
)
def test_what_is_no_context_is_a_value_error(payload: Any) -> None:
    with pytest.raises(ValueError, match="no context"):
        Context.from_payload(payload)


def test_names_keep_their_numbers_for_the_life_of_the_journal() -> None:
    storage = MemoryStorage()
    for _ in range(3):
        with journal.open("m", storage=storage) as log:
            assert (log.agent("a"), log.agent("b")) == (1, 2)
            assert log.context.name(2) == "b" and log.context.name(0) is None and log.context.name(9) == "#9"


def test_a_run_ends_its_episodes_and_a_rewind_those_of_its_agents() -> None:
    with journal.open("m", storage=MemoryStorage()) as log:
        for agent in ("a", "b", "c"):
            log.append(journal.EpisodeStarted(agent=agent, episode=0))
        log.append(journal.Rewound(agent="a", to_seq=0, members=["b"]))
        assert log.context.episodes == {(log.agent("c"), 0, 0): 0}
        log.append(journal.RunEnded(run="r"))
        assert log.context.episodes == {}


def test_a_context_always_fits_its_segment(monkeypatch: pytest.MonkeyPatch, events_of: Any) -> None:
    """A table of names may be larger than the smallest segment."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        for number in range(4000):
            log.agent(f"{number:0200d}")
        assert not log.context.full
        log.append(journal.Custom(name="big", data=bytes(1 << 20)))
    with journal.open("m", storage=storage) as log:
        assert log.agent(f"{3999:0200d}") == 4000
        log.append(journal.Custom(name="after"))
    assert [one.kind for one in events_of(storage)[-2:]] == ["Custom", "Custom"]
    monkeypatch.setattr(context, "NAMES_SIZE_MAX", 800_000 - 1)
    with journal.open("m", storage=storage) as log:
        with pytest.raises(journal.EventRejected, match="4,000 names already"):
            log.agent("one more")
        assert log.agent(f"{0:0200d}") == 1


@pytest.mark.usefixtures("small_segments")
def test_a_rotation_makes_room_for_the_context_as_well_as_for_the_event(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        for number in range(100):
            log.agent(f"{number:0200d}")
        for step in range(500):
            log.reward(1 + step % 100, 0, step, 1.0)
            if step % 100 == 0:
                log.append(journal.Custom(name="x", data=bytes(3000)))
    assert len(events_of(storage)) == 605
    with journal.open("m", storage=storage) as log:
        assert len(log.context.names) == 100


def test_too_many_open_episodes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("journal.context.EPISODES_MAX", 2)
    with journal.open("m", storage=MemoryStorage()) as log:
        for env in range(2):
            log.append(journal.EpisodeStarted(agent="a", episode=0, env_index=env))
        with pytest.raises(journal.EventRejected, match="end some first"):
            log.append(journal.EpisodeStarted(agent="a", episode=0, env_index=2))
        log.append(journal.EpisodeEnded(agent="a", episode=0, reason="x"))
        log.append(journal.EpisodeStarted(agent="a", episode=0, env_index=2))


def test_a_custom_payload_that_cannot_be_read_does_not_keep_the_journal_shut() -> None:
    """It is shown, never interpreted: recovery does not even unpack it."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        log._append_cell(journal.Custom.kind, b"\xc1 is never msgpack")
    recover(storage, Manifest.read(storage), 0)
    assert Walk(storage).run().context() == Context()
