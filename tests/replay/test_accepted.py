"""Whatever `append` takes, every reader understands: what would be called damage later is refused, not recorded."""

from __future__ import annotations

from dataclasses import MISSING, fields
from random import Random
from typing import Any, Final

import numpy as np
import pytest

import journal
import replay
from journal import events
from journal.storage.memory import MemoryStorage
from replay.compaction import compact


class Text(str):
    """As of an enum."""

    __slots__ = ()


class Whole(int):
    """As of an enum."""


FITTING: Final[dict[str, list[Any]]] = {
    **{key: [0, 1, Whole(1), np.int64(1), np.uint32(1)] for key in ("env_index", "episode", "step")},
    **{key: [None, 0, 1] for key in ("entry", "seed")},
    **{key: [None, {"m": 1.0}, {"m": "x", 1: 2}] for key in ("metrics", "params")},
    **{key: [None, bytes(16)] for key in ("content_hash", "quantised_hash")},
    **{key: [1, 2, np.int32(2)] for key in ("attempt", "length", "pid", "size", "stop", "to_seq")},
    **{key: [["a", "b"], []] for key in ("argv", "retired")},
    **{key: [{}, {"a": 1}] for key in ("config", "versions")},
    **{key: ["x"] for key in ("cwd", "host", "instrument", "metric", "name", "plan_hash", "sha256", "timeframe")},
    "agent": ["A", "B", Text("A")],
    "members": [None, ["A", "B"]],
    "monotonic": [None, 1.0, 2.0],
    "path": ["checkpoints/x"],
    "phase": ["train", "eval"],
    "reason": ["terminated", Text("x")],
    "run": ["r", "s"],
    "source": ["observed", "declared"],
    "start": [0],
    "status": ["completed", "failed"],
    "tolerance": [None, 0.5, np.float64(0.5)],
    "value": [1.0, np.float32(2.0), np.array(3.0), True],
}
STRANGE: Final[list[Any]] = [
    *(0, -1, True, None, 0.5, float("nan"), float("inf"), 2**53, 2**63 - 1, 2**63, 2**64, -(2**63), 10**30),
    *("", "a", "r", "x" * 300, "\ud800", b"", bytes(32), bytearray(16), memoryview(bytes(16))),
    *([], ["a"], [1], [["a", 0]], ("a", "b"), {}, {"a": 1}, {1: 2}, {"k": np.float32(1)}, frozenset({1})),
    *(Text("x"), Whole(3), np.int64(3), np.float64(2.0), np.bool_(True), np.str_("n"), np.array(3), np.array([1, 2])),
]


def some_event(rng: Random) -> journal.Event | None:
    """Of any kind, most of its fields as they should be; None where it is refused."""
    kind = rng.choice([one for one in events.REGISTRY.values() if one is not journal.NameGiven])
    given = {}
    for field in fields(kind):
        if field.default is MISSING or rng.random() < 0.4:
            fitting = FITTING.get(field.name, STRANGE) if rng.random() < 0.8 else STRANGE
            given[field.name] = rng.choice(fitting)
    try:
        return kind(**given)
    except journal.EventRejected:
        return None


@pytest.mark.parametrize("seed", range(3))
def test_what_is_taken_is_read_folded_and_compacted(seed: int) -> None:
    rng, kinds = Random(seed), set()
    for _ in range(150):
        storage, taken = MemoryStorage(), []
        with journal.open("m", storage=storage, sync="close") as log:
            for _ in range(rng.randrange(1, 7)):
                event = some_event(rng)
                if event is not None:
                    try:
                        log.append(event)
                    except journal.EventRejected:
                        continue
                    taken.append(event)
                    if isinstance(event, journal.EpisodeStarted) and rng.random() < 0.5:
                        where = {name: getattr(event, name) for name in ("agent", "phase", "env_index", "episode")}
                        taken.append(journal.EpisodeEnded(**where, reason="x", monotonic=event.monotonic))
                        log.append(taken[-1])
        try:
            state = replay.load(storage)
            assert sum(1 for batch in replay.events(storage) for _ in range(batch.num_rows)) == state.events
            compact(storage)
            assert replay.load(storage).events == state.events
            found = replay.verify(storage, deep=True).findings
            # No file is there, and not all paths lead to where one would be.
            about_files = ("file is missing", "leads outside", "does not stay inside")
            wrong = [one for one in found if not any(part in one.reason for part in about_files)]
            assert not wrong, wrong
        except Exception as error:
            raise AssertionError(f"{taken} was taken, and then: {error}") from error
        kinds |= {type(one) for one in taken}
    assert {*events.REGISTRY.values()} - kinds == {journal.NameGiven}


@pytest.mark.parametrize(
    ("kind", "fields_given", "told"),
    [
        (journal.CheckpointSaved, {"retired": [["x"]]}, "one of CheckpointSaved.retired is"),
        (journal.CheckpointSaved, {"retired": 3}, "not a list of texts"),
        (journal.AttemptStarted, {"argv": 5}, "not a list of texts"),
        (journal.AttemptStarted, {"host": 5}, "AttemptStarted.host is 5, not a text"),
        (journal.EpisodeStarted, {"monotonic": 1e30}, "seconds of a monotonic clock"),
        (journal.EpisodeStarted, {"monotonic": float("nan")}, "seconds of a monotonic clock"),
        (journal.EpisodeStarted, {"phase": np.array([1, 2])}, "use 'train' or 'eval'"),
        (journal.BarsSeen, {"source": np.array([1, 2])}, "not a text"),
    ],
)
def test_what_no_reader_would_understand_is_refused(kind: Any, fields_given: dict[str, Any], told: str) -> None:
    """Each was recorded once, and the journal was called damaged from then on."""
    fitting = {name: values[-1] for name, values in FITTING.items()} | {"sha256": "x", "cwd": "/", "host": "h"}
    needed = {one.name: fitting[one.name] for one in fields(kind) if one.default is MISSING}
    kind(**needed)
    with pytest.raises(journal.EventRejected, match=told):
        kind(**needed | fields_given)


@pytest.mark.parametrize("place", ["env_index", "episode"])
def test_a_number_may_be_an_array_of_one(place: str) -> None:
    """As numpy's and torch's scalars of shape (): it ended in a TypeError of an episode's place."""
    storage = MemoryStorage()
    with journal.open("m", storage=storage) as log:
        where = {"env_index": 2, "episode": 3} | {place: np.array(1)}
        log.append(journal.EpisodeStarted(agent="A", **where))
        log.append(journal.EpisodeEnded(agent="A", reason="x", **where))
    (batch,) = replay.events(storage, kinds="EpisodeEnded", columns=["env_index", "episode"])
    assert batch.to_pylist() == [{name: int(number) for name, number in where.items()}]
