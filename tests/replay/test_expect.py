"""A noted receipt against a forger who can make everything anew: checksums, chain, receipts, hashes, journal.json.

The forger has the whole program, the journal's id, its salts and its clock, and tells the story again as he likes. Told
as it was, it gives the very same bytes; told otherwise, each journal is clean by itself, and `verify --expect` with a
receipt that was noted finds it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from random import Random

import pytest

import journal
import replay
from journal import segment
from journal.storage import Storage
from journal.storage.disk import DiskStorage
from journal.storage.memory import MemoryStorage
from replay.compaction import compact

Step = tuple[object, ...]
Life = tuple[Step, ...]
Story = tuple[Life, ...]
"""What each process did, in order: ("start", episode), ("reward", episode, step, value), ("batch", …), ("sync",) …"""
Run = Callable[..., tuple[int, str, str]]
SHAPES = ("sealed", "compacted", "live", "live, compacted before")


@pytest.fixture(autouse=True)
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small ones are made quickly."""
    monkeypatch.setattr(segment, "SIZE_MIN", 16 << 10)
    monkeypatch.setattr(segment, "RESERVE", 1 << 10)


class StandingClock:
    """The same for the truth and the forgery."""

    def time_ns(self) -> int:
        return 1_700_000_000_000_000_000

    def monotonic(self) -> float:
        return 0.0


STORY: Story = (
    (
        ("run", 0.1),
        ("start", 0),
        *(("reward", 0, step, 1.0) for step in range(4)),
        ("sync",),
        ("batch", 0, 4, (1.5, 2.5)),
        ("end", 0, "terminated"),
        ("start", 1),
        ("reward", 1, 0, -1.0),
        ("end", 1, "truncated"),
    ),
    (
        ("start", 2),
        ("reward", 2, 0, 3.0),
        ("reward", 2, 1, 4.0),
        ("end", 2, "terminated"),
        ("sync",),
        ("note",),
        ("start", 3),
        ("reward", 3, 0, 9.0),
    ),
)


def play(log: journal.Log, life: Life) -> journal.Receipt | None:
    """Carry out what a process did. Returns the receipt that is noted where it says so."""
    noted = None
    for what, *rest in life:
        if what == "run":
            log.append(journal.RunStarted(run="r", config={"lr": rest[0]}))
        elif what == "start":
            log.append(journal.EpisodeStarted(agent="PPO", episode=int(str(rest[0])), seed=7))
        elif what == "end":
            log.append(journal.EpisodeEnded(agent="PPO", episode=int(str(rest[0])), reason=str(rest[1])))
        elif what == "reward":
            log.reward(log.agent("PPO"), *rest)  # type: ignore[arg-type]
        elif what == "batch":
            episode, first, values = rest
            log.rewards(log.agent("PPO"), episode, range(first, first + len(values)), list(values))  # type: ignore
        elif what == "sync":
            log.sync()
        else:
            noted = log.sync()
    return noted


@contextmanager
def told(storage: Storage, story: Story, shape: str) -> Iterator[journal.Receipt | None]:
    """The journal of this story, as long as the block lasts; gives the receipt that was noted."""
    noted = None
    with ExitStack() as living:
        for number, life in enumerate(story):
            last = number == len(story) - 1
            log = journal.open(
                storage.name, storage=storage, sync="close", clock=StandingClock(), entropy=Entropy(number)
            )
            living.callback(log.close)
            noted = play(log, life) or noted
            if not (last and shape.startswith("live")):
                log.close()
            if shape.endswith("before") and not last:
                compact(storage)
        if shape == "compacted":
            compact(storage)
        yield noted


class Entropy:
    """The journal's id, and the salts, each always the same: whether a spare draws one is a matter of time."""

    def __init__(self, life: int) -> None:
        self._life = life

    def __call__(self, count: int) -> bytes:
        return Random(f"{self._life}/{count}").randbytes(count)


def changed(life: int, step: int, new: Step) -> Story:
    """The story with another step in place of one."""
    lives = [list(one) for one in STORY]
    lives[life][step] = new
    return tuple(map(tuple, lives))


def without(life: int, *steps: int) -> Story:
    """The story without these steps."""
    lives = [
        [step for at, step in enumerate(one) if number != life or at not in steps] for number, one in enumerate(STORY)
    ]
    return tuple(map(tuple, lives))


def swapped(life: int, one: int, other: int) -> Story:
    """The story with two steps in the other order."""
    return tuple(
        tuple(part[{one: other, other: one}.get(at, at)] if number == life else step for at, step in enumerate(part))
        for number, part in enumerate(STORY)
    )


FORGERIES: dict[str, Story] = {
    "a reward changed": changed(0, 3, ("reward", 0, 1, 1.0000000000000002)),
    "a sign changed": changed(1, 1, ("reward", 2, 0, -3.0)),
    "a batch changed": changed(0, 7, ("batch", 0, 4, (1.5, 2.0))),
    "a config changed": changed(0, 0, ("run", 0.2)),
    "a reason changed": changed(1, 3, ("end", 2, "truncated")),
    "an event cut out": without(0, 5),
    "an episode cut out": without(0, 9, 10, 11),
    "a promise cut out": without(0, 6),
    "an event added": changed(1, 2, ("batch", 2, 1, (4.0, 4.0))),
    "two events in another order": swapped(1, 1, 2),
    "two lives in another order": (STORY[0][:1] + STORY[1][:-3], STORY[0][1:] + STORY[1][-3:]),
    "rolled back to the first life": STORY[:1],
    "rolled back within the second": (STORY[0], STORY[1][:3]),
    "rolled back, and gone on otherwise": (STORY[0], (*STORY[1][:3], *(("reward", 2, step, 0.0) for step in range(9)))),
    "a single life of all": (STORY[0] + STORY[1],),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_told_again_as_it_was_it_is_the_same(shape: str) -> None:
    """The control: the forger wants for nothing, so what finds a forgery is only that it is one."""
    truth, same = MemoryStorage(), MemoryStorage()
    with told(truth, STORY, shape) as noted, told(same, STORY, shape) as again:
        assert noted == again and noted is not None
        for storage in (truth, same):
            report = replay.verify(storage, deep=True, expect=(noted.seq, noted.chain))
            assert (report.status, report.live) == ("clean", shape.startswith("live")), report


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("forgery", FORGERIES)
def test_whatever_was_forged_before_a_noted_receipt_is_found(shape: str, forgery: str) -> None:
    with told(MemoryStorage(), STORY, shape) as noted:
        assert noted is not None
    forged = MemoryStorage()
    with told(forged, FORGERIES[forgery], shape):
        assert replay.verify(forged, deep=True).status == "clean", "nothing in the journal itself tells"
        report = replay.verify(forged, expect=(noted.seq, noted.chain))
        assert report.status == "corrupt" and report.findings[0].file == "journal.json", report


@pytest.mark.parametrize("shape", SHAPES)
def test_what_came_after_the_receipt_may_be_anything(shape: str) -> None:
    """A receipt speaks of what was before it. Note a later one to be sure of more."""
    with told(MemoryStorage(), STORY, shape) as noted:
        assert noted is not None
    other = MemoryStorage()
    with told(other, (STORY[0], (*STORY[1][:-1], ("reward", 3, 0, -9.0))), shape):
        assert replay.verify(other, deep=True, expect=(noted.seq, noted.chain)).status == "clean"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_command_line_finds_it_and_says_so_in_a_line(tmp_path: Path, run: Run, shape: str) -> None:
    with told(DiskStorage(tmp_path / "truth"), STORY, shape) as noted:
        assert noted is not None
        expect = f"--expect={noted.seq}:{noted.chain}"
        code, out, err = run("verify", tmp_path / "truth", expect)
        assert (code, err) == (0, "") and "clean" in out
    with told(DiskStorage(tmp_path / "forged"), FORGERIES["a reward changed"], shape):
        code, out, err = run("verify", tmp_path / "forged", expect)
        assert code == 1 and "changed" in out + err and "Traceback" not in out + err
        code, out, err = run("verify", tmp_path / "forged", expect, "--json")
        document = json.loads(out)
        assert (code, document["status"]) == (1, "corrupt") and document["findings"]
    with told(DiskStorage(tmp_path / "back"), FORGERIES["rolled back to the first life"], shape):
        code, out, err = run("verify", tmp_path / "back", expect)
        assert code == 1 and "rolled back" in out + err


def test_a_receipt_holds_the_very_bits() -> None:
    """Two NaNs that nobody can tell apart by reading totals are two stories."""
    nans = [struct.unpack("<d", bytes.fromhex(text))[0] for text in ("010000000000f87f", "020000000000f87f")]
    stories = [changed(0, 3, ("reward", 0, 1, nan)) for nan in nans]
    with told(MemoryStorage(), stories[0], "sealed") as noted:
        assert noted is not None
    other = MemoryStorage()
    with told(other, stories[1], "sealed"):
        assert replay.verify(other, expect=(noted.seq, noted.chain)).status == "corrupt"
