"""What must hold after a power cut: the model of the machine that loses power, and further cuts of each recovery."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Any

import journal
from agents_adapter.checkpoint import CheckpointStore
from journal.manifest import PATH, Manifest
from journal.recovery import recover
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from replay.compaction import compact
from replay.fold import fold
from replay.loading import load
from replay.scan import scan
from replay.state import State
from replay.verify import verify

DEPTH = 3
"""How often one image's recovery is cut short, at most."""

Said = dict[int, tuple[int, float]]
"""seq → (kind, value) of the events that tell themselves apart."""


@dataclass(frozen=True, slots=True)
class Image:
    """What a cut at one moment leaves, and what was promised and appended then."""

    during: str
    storage: MemoryStorage
    promised: int
    said: Said
    saved: tuple[str, str] | None
    receipt: tuple[int, str] | None = None


class Tried:
    """How many images were taken of which step, over all machines of one campaign."""

    def __init__(self, wanted: int, threads: bool = False) -> None:
        self.wanted = wanted
        self.threads = threads
        self.images: Counter[str] = Counter()


def opened(storage: Any, sync: Any, clock: Any, rng: Random) -> journal.Log:
    """The journal, with times and salts that the seed repeats."""
    return journal.open("m", storage=storage, sync=sync, sync_interval=0.001, clock=clock, entropy=rng.randbytes)


def recovering(storage: Any) -> None:
    recover(storage, Manifest.read(storage), 7)


def interrupted(
    image: MemoryStorage, rng: Random, tried: Tried, doing: str, action: Callable[[Any], object]
) -> MemoryStorage:
    """`image` after attempts at `action`, each killed or cut off at some step."""
    for _ in range(rng.randrange(DEPTH + 1)):
        if not image.exists(PATH):
            break
        faulty = FaultyStorage(image)
        faulty.fail(*CHANGES, nth=rng.randrange(1, 20), kill=True, tear=rng.random() < 0.5)
        try:
            action(faulty)
            break
        except Killed:
            image = image.crash(rng) if rng.random() < 0.7 else image.kill()
            tried.images[doing] += 1
    return image


def check(image: Image, rng: Random, tried: Tried) -> int:
    """Recover it and hold it against the model. Returns how many events are there."""
    storage = image.storage
    if not storage.exists(PATH):
        assert image.promised == 0 and image.saved is None, f"{image.during}: the journal is not there"
        return 0
    told = f"cut off during {image.during}"
    report = verify(storage, deep=rng.random() < 0.3)
    assert report.status in ("clean", "torn"), f"{told}: a healthy journal is called {report}"
    storage = interrupted(storage.kill(), rng, tried, "recovery", recovering)
    with journal.open("m", storage=storage, sync="close", entropy=rng.randbytes) as log:
        count = log.next_seq
        if rng.random() < 0.3:
            log.append(journal.Custom(name="on"))
    assert count >= image.promised, f"{told}: {image.promised} events were promised, {count} are there"
    if rng.random() < 0.06:
        storage = interrupted(storage, rng, tried, "compaction", compact)
        if rng.random() < 0.5:
            compact(storage)
        else:
            recovering(storage)
    state = State(Manifest.read(storage).journal_id)
    seen = 0
    for batch in scan(storage):
        for seq, kind, value in zip(batch.seq.tolist(), batch.kind.tolist(), batch.value.tolist(), strict=True):
            assert seq == seen, f"{told}: event {seen} is missing"
            seen += 1
            if seq < count and seq in image.said:
                assert (kind, value) == image.said[seq], f"{told}: event {seq} is another one"
        fold(state, batch)
    assert seen >= count, f"{told}: {count} events were recovered, {seen} are there"
    assert load(storage).to_payload() == state.to_payload(), f"{told}: the snapshot is not what the events give"
    found = verify(storage, deep=rng.random() < 0.3, expect=image.receipt)
    assert found.status == "clean", f"{told}: recovered, and {image.receipt} expected, it is {found}"
    checkpoints = CheckpointStore(storage)
    for agent in state.agents.values():
        for one in agent.checkpoints[-1:]:
            checkpoints.load(one.path, one.sha256)
    if image.saved is not None:
        checkpoints.load(*image.saved)
    return count
