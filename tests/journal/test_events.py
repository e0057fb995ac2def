"""Events: each kind comes back as it was recorded; what cannot be is refused before anything is written."""

from __future__ import annotations

import datetime
import decimal
import fractions
import math
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import pytest

import journal
from journal import cell, events
from journal.storage.memory import MemoryStorage

ONE_OF_EACH: list[events.Event] = [
    journal.RunStarted(run="r1", config={"lr": 0.1, "layers": [4, 4], "name": "β", "none": None}),
    journal.AttemptStarted(
        run="r1",
        attempt=0,
        pid=42,
        argv=["train.py", "--fast"],
        cwd="/somewhere",
        code="ab" * 32,
        git_commit="c0ffee",
        git_dirty=True,
        versions={"python": "3.11"},
        host="box",
    ),
    journal.PlanRecorded(agent="PPO", plan_hash="ff", entries=[{"start": 0, "stop": 9}], length=1),
    journal.EpisodeStarted(agent="PPO", episode=0, seed=7, entry=0, params={"fee": 0.1}, monotonic=1.25),
    journal.BarsSeen(
        agent="PPO",
        episode=0,
        instrument="EURUSD",
        timeframe="1h",
        start=0,
        stop=9,
        content_hash=bytes(range(16)),
        source="observed",
    ),
    journal.Rewarded(agent="PPO", episode=0, step=0, value=-0.25),
    journal.MetricLogged(agent="PPO", metric="loss", step=3, value=0.5),
    journal.EpisodeEnded(agent="PPO", episode=0, reason="terminated", metrics={"pnl": 1.5}, monotonic=2.5),
    journal.EpisodeStarted(agent="PPO", episode=0, phase="eval", env_index=3, monotonic=3.0),
    journal.CheckpointSaved(
        agent="PPO",
        episode=1,
        path="checkpoints/a",
        sha256="00" * 32,
        size=10,
        members=["A", "B"],
        retired=["checkpoints/b"],
    ),
    journal.Rewound(agent="PPO", to_seq=12, members=["A"], path="checkpoints/a"),
    journal.Custom(name="note", data={"any": [1, 2.5, "x", b"y", None, {3: True}]}, agent="PPO"),
    journal.Custom(name="bare"),
    journal.AttemptEnded(run="r1", attempt=0, status="failed", error="boom"),
    journal.RunEnded(run="r1"),
]


@pytest.fixture
def log() -> Iterator[journal.Log]:
    with journal.open("memory", storage=MemoryStorage(), sync="close") as log:
        yield log


def test_every_kind_comes_back(events_of: Callable[..., Any], clock: Any) -> None:
    storage = MemoryStorage()
    with journal.open("memory", storage=storage, clock=clock) as log:
        seqs = [log.append(event) for event in ONE_OF_EACH]
        batch = log.rewards(log.agent("PPO"), 1, range(3), [1.0, 2.0, 3.0], [5, 6, 7], flags=1)
    seen = {one.seq: one for one in events_of(storage)}
    for seq, event in zip(seqs, ONE_OF_EACH, strict=True):
        one = seen[seq]
        assert one.kind == type(event).__name__
        assert one.agent == getattr(event, "agent", None)
        assert (one.env_index, one.episode, one.step) == tuple(
            getattr(event, name, 0) for name in ("env_index", "episode", "step")
        )
        assert one.flags == (getattr(event, "phase", "train") == "eval")
        assert one.value == getattr(event, "value", getattr(event, "monotonic", 0.0))
        payload = one.payload or {}
        for field in fields(event):
            if field.name not in events._CELL_FIELDS:
                assert payload.get(field.name, field.default) == getattr(event, field.name)
    assert [seen[batch + i][1:8] for i in range(3)] == [("Rewarded", "PPO", 1, 5 + i, 1, i, 1.0 + i) for i in range(3)]
    assert {one.payload["name"] for one in seen.values() if one.kind == "NameGiven"} == {"PPO", "loss"}


def test_the_registry_knows_every_event_and_only_once() -> None:
    public = {getattr(journal, name) for name in journal.__all__ if isinstance(getattr(journal, name), type)}
    classes = {one for one in public if issubclass(one, events.Event)} - {events.Event}
    assert set(events.REGISTRY.values()) == classes
    assert {type(event) for event in ONE_OF_EACH} == classes - {journal.NameGiven}
    assert all(kind == event.kind < cell.MARK_FIRST for kind, event in events.REGISTRY.items())
    assert events.kind_name(57) == "kind 57"


def test_a_default_takes_no_payload() -> None:
    assert events.payload_of(journal.EpisodeStarted(agent="a", episode=0)) == b""
    assert events.unpack(events.payload_of(journal.EpisodeStarted(agent="a", episode=0, seed=0))) == {"seed": 0}


# -- rewards ---------------------------------------------------------------------------------------------------------

TAKEN = [
    (1, 1.0),
    (-(2**53), -(2.0**53)),
    (2**60, 2.0**60),
    (True, 1.0),
    (np.float32(0.1), float(np.float32(0.1))),
    (np.float64(0.1), 0.1),
    (np.int64(-3), -3.0),
    (np.bool_(True), 1.0),
    (np.array(2.5), 2.5),
    (math.inf, math.inf),
    (-0.0, -0.0),
    (5e-324, 5e-324),
]
REFUSED = [
    None,
    "1.0",
    b"1",
    1j,
    [1.0],
    np.array([1.0]),
    np.zeros((2, 2)),
    np.complex128(1),
    2**53 + 1,
    -(2**53) - 1,
    10**400,
    np.int64(2**53 + 1),
    decimal.Decimal("0.1"),
    fractions.Fraction(1, 2),
    object(),
]


@pytest.mark.parametrize(("given", "recorded"), TAKEN)
def test_rewards_that_are_numbers_are_taken_as_they_are(given: Any, recorded: float, events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("memory", storage=storage) as log:
        agent = log.agent("a")
        log.reward(agent, 0, 0, given)
        log.rewards(agent, 0, 1, [given])
        log.append(journal.Rewarded(agent="a", episode=0, step=2, value=given))
    values = [one.value for one in events_of(storage) if one.kind == "Rewarded"]
    assert [(value, math.copysign(1, value)) for value in values] == [(recorded, math.copysign(1, recorded))] * 3


def test_nan_is_recorded(events_of: Any) -> None:
    storage = MemoryStorage()
    with journal.open("memory", storage=storage) as log:
        for value in (math.nan, np.float32("nan")):
            log.reward(log.agent("a"), 0, 0, value)
            log.rewards(log.agent("a"), 0, 0, [value])
    assert sum(math.isnan(one.value) for one in events_of(storage)) == 4


@pytest.mark.parametrize("value", REFUSED, ids=repr)
def test_rewards_that_are_no_exact_number_are_refused_and_nothing_is_written(log: journal.Log, value: Any) -> None:
    agent = log.agent("a")
    before = log.tail()
    with pytest.raises(journal.EventRejected):
        log.reward(agent, 0, 0, value)
    with pytest.raises(journal.EventRejected):
        log.rewards(agent, 0, 0, [value])
    with pytest.raises(journal.EventRejected):
        journal.Rewarded(agent="a", episode=0, step=0, value=value)
    with pytest.raises(journal.EventRejected):
        journal.MetricLogged(agent="a", metric="m", step=0, value=value)
    assert log.tail() == before


def test_an_integer_that_nobody_could_read_is_told_in_a_line() -> None:
    for large in (10**400, -(10**5000)):
        with pytest.raises(journal.EventRejected) as caught:
            events.as_reward(large)
        assert str(caught.value) == "reward is larger than any float64: give a float"


def test_the_message_for_a_shape_says_what_to_give() -> None:
    with pytest.raises(journal.EventRejected, match=r"shape \(1,\).*reward\[0\]"):
        events.as_reward(np.array([1.0]))


@pytest.mark.parametrize(
    "bad",
    [
        *({"step": step} for step in (-1, 1.5, None, "0")),
        *({"agent": agent} for agent in (0, -1, 99, "PPO", None)),
        {"episode": 2**64},
        {"env_index": 2**32},
        {"flags": 256},
    ],
    ids=repr,
)
def test_the_fast_path_refuses_what_does_not_fit_and_goes_on(log: journal.Log, bad: dict[str, Any]) -> None:
    agent = log.agent("a")
    before = log.tail()
    with pytest.raises(journal.EventRejected):
        log.reward(**({"agent": agent, "episode": 0, "step": 0, "value": 1.0} | bad))
    assert log.tail() == before
    assert log.reward(agent, 0, 0, 1.0) == before[2]


@pytest.mark.parametrize(
    "bad",
    [
        {"values": [[1.0], [2.0]]},
        {"values": 1.0},
        {"values": [1.0, "x"]},
        {"values": [1.0, [2.0]]},
        {"values": np.array([2**53 + 1, 0])},
        {"values": np.array([1.0, 2.0]).astype(object)},
        {"steps": [1, 2, 3]},
        {"steps": [0.0, 1.0]},
        {"steps": [-1, 0]},
        {"steps": -1},
        {"steps": True},
        {"steps": [0, 2**33]},
        {"steps": np.array([0, 2**63], dtype=np.uint64)},
        {"env_indices": 2**32},
        {"env_indices": [0, 2**32]},
        {"env_indices": np.array([2**32 - 1, 2**32])},
        {"agent": 0},
        {"agent": 99},
        {"agent": "PPO"},
    ],
    ids=repr,
)
def test_a_bad_batch_is_refused_whole(log: journal.Log, bad: dict[str, Any]) -> None:
    agent = log.agent("a")
    before = log.tail()
    with pytest.raises(journal.EventRejected):
        log.rewards(**({"agent": agent, "episodes": 0, "steps": [0, 1], "values": [1.0, 2.0]} | bad))
    assert log.tail() == before


def test_an_empty_batch_takes_nothing(log: journal.Log) -> None:
    agent = log.agent("a")
    before = log.tail()
    assert log.rewards(agent, 0, [], []) == before[2]
    assert log.tail() == before


# -- names, numbers, payloads ----------------------------------------------------------------------------------------

BAD_NAMES = ["", "a/b", "a\\b", " a", "a ", "\n", "a\0", ".", "..", "x" * 201, None, 7, b"a", "\ud800"]


@pytest.mark.parametrize("name", BAD_NAMES, ids=repr)
def test_bad_names_are_refused_everywhere(log: journal.Log, name: Any) -> None:
    before = log.tail()
    attempts: list[Callable[[], object]] = [
        lambda: log.agent(name),
        lambda: journal.EpisodeStarted(agent=name, episode=0),
        lambda: journal.MetricLogged(agent="a", metric=name, step=0, value=0.0),
        lambda: journal.RunStarted(run=name, config={}),
        lambda: journal.Custom(name=name),
        lambda: journal.Rewound(agent="a", to_seq=0, members=[name]),
    ]
    for attempt in attempts:
        with pytest.raises(journal.EventRejected):
            attempt()
    assert log.tail() == before


def test_only_what_may_be_absent_may_be_none() -> None:
    assert journal.Custom(name="n", agent=None).agent is None
    good: dict[str, Any] = {"agent": "a", "episode": 0, "instrument": "i", "timeframe": "1h", "start": 0, "stop": 1}
    good |= {"content_hash": None, "source": "declared"}
    journal.BarsSeen(**good)
    for name in ("agent", "episode", "instrument", "timeframe", "start", "stop", "source"):
        with pytest.raises(journal.EventRejected):
            journal.BarsSeen(**(good | {name: None}))


@pytest.mark.parametrize(
    "number", [-1, 2**63, 1.0, "1", None, True, np.float64(1), np.array([1]), np.array(1.5)], ids=repr
)
def test_bad_numbers_are_refused(number: Any) -> None:
    for build in (
        lambda: journal.EpisodeStarted(agent="a", episode=number),
        lambda: journal.Rewarded(agent="a", episode=0, step=number, value=0.0),
        lambda: journal.Rewound(agent="a", to_seq=number),
        lambda: journal.CheckpointSaved(agent="a", episode=0, path="p", sha256="s", size=number),
    ):
        with pytest.raises(journal.EventRejected):
            build()


@pytest.mark.parametrize(
    "change",
    [
        {"start": 5, "stop": 5},
        {"start": 6},
        {"source": "guessed"},
        {"content_hash": b"short"},
        {"content_hash": "x" * 16},
        {"content_hash": None},
        {"timeframe": 60},
    ],
    ids=repr,
)
def test_bars_that_prove_nothing_are_refused(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {"agent": "a", "episode": 0, "instrument": "i", "timeframe": "1h", "start": 0, "stop": 5}
    good |= {"content_hash": bytes(16), "source": "observed"}
    journal.BarsSeen(**good)
    with pytest.raises(journal.EventRejected):
        journal.BarsSeen(**(good | change))


def test_other_fields_are_checked_by_their_name() -> None:
    for build in (
        lambda: journal.RunStarted(run="r", config=[1]),  # type: ignore[arg-type]
        lambda: journal.EpisodeEnded(agent="a", episode=0, reason=None),  # type: ignore[arg-type]
        lambda: journal.EpisodeEnded(agent="a", episode=0, reason="x", metrics=1.5),  # type: ignore[arg-type]
        lambda: journal.EpisodeStarted(agent="a", episode=0, phase="test"),  # type: ignore[arg-type]
        lambda: journal.AttemptEnded(run="r", attempt=0, status="vanished"),
        lambda: journal.Rewound(agent="a", to_seq=0, members="AB"),  # type: ignore[arg-type]
    ):
        with pytest.raises(journal.EventRejected):
            build()


def test_values_of_other_libraries_are_recorded_as_plain_ones(log: journal.Log) -> None:
    given = {
        "scalar": np.float32(0.5),
        "array": np.arange(3),
        "path": PurePosixPath("a/b"),
        "day": datetime.date(2024, 1, 2),
        "tuple": (1, 2),
    }
    recorded = {"scalar": 0.5, "array": [0, 1, 2], "path": "a/b", "day": "2024-01-02", "tuple": [1, 2]}
    assert events.unpack(events.payload_of(journal.Custom(name="n", data=given)))["data"] == recorded
    # An array as the whole value: it must not be compared with the default.
    assert events.unpack(events.payload_of(journal.Custom(name="n", data=np.arange(3))))["data"] == [0, 1, 2]
    log.append(journal.Custom(name="n", data=np.arange(3)))


@pytest.mark.parametrize(
    "data",
    [object(), {1, 2}, 2**64, "\ud800", lambda: None, {(1, 2): 3}, {"deep": {(): 1}}],
    ids=["object", "set", "2**64", "surrogate", "function", "tuple as key", "deep tuple as key"],
)
def test_what_could_not_be_read_back_is_refused(log: journal.Log, data: Any) -> None:
    before = log.tail()
    with pytest.raises(journal.EventRejected):
        log.append(journal.Custom(name="n", data=data))
    assert log.tail() == before


def test_a_recursive_payload_is_refused(log: journal.Log) -> None:
    endless: list[Any] = []
    endless.append(endless)
    with pytest.raises(journal.EventRejected):
        log.append(journal.Custom(name="n", data=endless))


def test_a_payload_over_the_limit_names_the_checkpoint_store(log: journal.Log) -> None:
    before = log.tail()
    with pytest.raises(journal.EventRejected, match=r"4,194,240.*checkpoint store"):
        log.append(journal.Custom(name="n", data=bytes(cell.PAYLOAD_MAX)))
    assert log.tail() == before


def test_the_largest_payload_fits(events_of: Any) -> None:
    storage = MemoryStorage()
    overhead = len(events.payload_of(journal.Custom(name="n", data=bytes(1 << 20)))) - (1 << 20)
    data = bytes(range(256)) * (cell.PAYLOAD_MAX // 256)
    data = data[: cell.PAYLOAD_MAX - overhead]
    with journal.open("memory", storage=storage) as log:
        log.append(journal.Custom(name="n", data=data))
        log.append(journal.Custom(name="after"))
    big, after = events_of(storage)
    assert big.payload["data"] == data
    assert after.payload == {"name": "after"}


@pytest.mark.parametrize("thing", [None, "event", {"kind": 1}, events.Event, object()], ids=repr)
def test_only_events_are_appended(log: journal.Log, thing: Any) -> None:
    with pytest.raises(journal.EventRejected, match="give an event"):
        log.append(thing)


def test_names_are_given_by_the_journal_alone(log: journal.Log) -> None:
    with pytest.raises(journal.EventRejected, match=r"log\.agent"):
        log.append(journal.NameGiven(name="x", number=9))


def test_events_are_frozen_and_take_no_positional_arguments() -> None:
    event = journal.Rewarded(agent="a", episode=0, step=0, value=1)
    with pytest.raises(AttributeError):
        event.step = 5  # type: ignore[misc]
    with pytest.raises(TypeError):
        journal.Rewarded("a", 0, 0, 1.0)  # type: ignore[misc]


# -- contradictions --------------------------------------------------------------------------------------------------


def start(episode: int = 0, **others: Any) -> events.Event:
    return journal.EpisodeStarted(agent="a", episode=episode, **others)


def end(episode: int = 0, **others: Any) -> events.Event:
    return journal.EpisodeEnded(agent="a", episode=episode, reason="completed", **others)


def test_one_open_episode_in_each_sub_environment_and_phase(log: journal.Log) -> None:
    log.append(start())
    log.append(start(env_index=1))
    log.append(start(phase="eval"))
    with pytest.raises(journal.EventRejected, match="episode 0 is open there"):
        log.append(start(1))
    log.append(end())
    log.append(start(1))


def test_only_the_open_episode_ends(log: journal.Log) -> None:
    with pytest.raises(journal.EventRejected, match="no episode is open"):
        log.append(end())
    log.append(start(3))
    with pytest.raises(journal.EventRejected, match="episode 3 is the open one"):
        log.append(end(2))
    with pytest.raises(journal.EventRejected):
        log.append(end(3, phase="eval"))
    log.append(end(3))
    with pytest.raises(journal.EventRejected):
        log.append(end(3))
