"""A machine that loses power: hypothesis drives a journal's whole life in memory, and cuts it off inside every step.

Appends, batches, syncs, checkpoints, compactions, closes and kills come in any order. Before each change of the
storage, and between two steps, images of what a power cut would leave are taken: any subset of unsynced sectors, sizes
and names. Each image is recovered, and cut off or killed again while it is recovered, up to three times. Then a model
says what must be there: a prefix of what was appended, with everything that had been promised when the image was taken;
the newest saved checkpoint; the state that these events give. A healthy journal is never refused.

`JOURNAL_CRASHES` is how many images.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import journal
from agents_adapter.checkpoint import CheckpointStore
from journal import cell, segment
from journal.commit import Commit
from journal.manifest import PATH, Manifest
from journal.recovery import recover
from journal.storage import memory
from journal.storage.faulty import CHANGES, FaultyStorage, Killed
from journal.storage.memory import MemoryStorage
from replay.compaction import compact
from replay.fold import fold
from replay.loading import load
from replay.scan import scan
from replay.state import State
from replay.verify import verify

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("small_segments"), pytest.mark.filterwarnings("ignore")]
DEPTH = 3
"""How often one image's recovery is cut short, at most."""

Said = dict[int, tuple[int, float]]
"""seq → (kind, value) of the events that tell themselves apart."""


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cells each, so that nearly every step goes on to the next one."""
    monkeypatch.setattr(segment, "SIZE_MIN", 4096)
    monkeypatch.setattr(segment, "SIZE_MAX", 8192)
    monkeypatch.setattr(segment, "RESERVE", 512)


@dataclass(frozen=True, slots=True)
class Image:
    """What a cut at one moment leaves, and what was promised and appended then."""

    during: str
    storage: MemoryStorage
    promised: int
    said: Said
    saved: tuple[str, str] | None


class Watched(FaultyStorage):
    """Calls `before` ahead of each change, in whatever thread it is made."""

    before: Any = None

    def strike(self, kind: str, path: str, tear: Any = None) -> None:
        if kind in CHANGES and self.before is not None:
            self.before()
        super().strike(kind, path, tear)


class Tried:
    """How many images were taken of which step, over all machines of one campaign."""

    def __init__(self, wanted: int) -> None:
        self.wanted = wanted
        self.images: Counter[str] = Counter()


def machine(tried: Tried) -> type[RuleBasedStateMachine]:
    """The machine, counting in `tried`; once enough was tried, its steps do nothing."""

    class Machine(RuleBasedStateMachine):
        @initialize(number=st.integers(0, 2**32), mappable=st.booleans())
        def begin(self, number: int, mappable: bool) -> None:
            self.rng = Random(number)
            self.storage = MemoryStorage(mappable=mappable)
            self.watched = Watched(self.storage)
            self.log: journal.Log | None = None
            self.said: Said = {}
            self.promised = 0
            self.saved: tuple[str, str] | None = None
            self.episode = 0
            self.doing = ""
            self.images: list[Image] = []
            self.mutex = threading.Lock()

        # -- taking images -------------------------------------------------------------------------------------------

        def take(self) -> None:
            """What a power cut at this moment leaves."""
            with self.mutex:
                promised = self.promised if self.log is None else max(self.promised, self.log.promised.seq + 1)
                # Promised first: what is promised meanwhile may be in the image, too.
                image = self.storage.crash(Random(self.rng.random()))
                self.images.append(Image(self.doing, image, promised, dict(self.said), self.saved))

        def sometimes(self) -> None:
            if self.rng.random() < 0.3:
                self.take()

        def step(self, doing: str, action: Any) -> Any:
            """Do one step with images inside of it, and check them."""
            self.doing = doing
            self.watched.before = self.sometimes
            try:
                return action()
            finally:
                if self.log is not None:
                    self.promised = max(self.promised, self.log.promised.seq + 1)
                self.watched.before = None
                for _ in range(2):
                    self.take()
                images, self.images = self.images, []
                for image in images:
                    tried.images[image.during] += 1
                    check(image, self.rng, tried)

        @property
        def done(self) -> bool:
            return tried.images.total() >= tried.wanted

        def writer(self) -> journal.Log:
            if self.log is None:
                sync: Any = self.rng.choice(("close", "group", "always"))
                self.log = self.step(
                    "open", lambda: journal.open("m", storage=self.watched, sync=sync, sync_interval=0.001)
                )
            return self.log

        def tell(self, log: journal.Log, kind: int, value: float) -> int:
            """Noted before it is appended: cut off in the middle it may be there."""
            self.said[log.next_seq] = (kind, value)
            return log.next_seq

        # -- steps ---------------------------------------------------------------------------------------------------

        @rule(count=st.integers(1, 12))
        def append(self, count: int) -> None:
            if self.done:
                return
            log = self.writer()

            def action() -> None:
                agent = log.agent("PPO")
                for _ in range(count):
                    value = self.rng.random()
                    seq = self.tell(log, cell.REWARDED, value)
                    assert log.reward(agent, self.episode, seq, value) == seq

            self.step("append", action)

        @rule(count=st.integers(1, 60))
        def batch(self, count: int) -> None:
            if self.done:
                return
            log = self.writer()

            def action() -> None:
                agent = log.agent("SAC")
                values = [self.rng.random() for _ in range(count)]
                for number, value in enumerate(values):
                    self.said[log.next_seq + number] = (cell.REWARDED, value)
                log.rewards(agent, 0, range(count), values)

            self.step("batch", action)

        @rule(size=st.sampled_from([0, 10, 500, 3000, 20_000]), metric=st.integers(0, 9))
        def other(self, size: int, metric: int) -> None:
            """Payloads, larger than a segment also, and new names."""
            if self.done:
                return
            log = self.writer()

            def action() -> None:
                log.append(journal.Custom(name="custom", data="x" * size))
                log.agent(f"metric {metric}")
                value = self.rng.random()
                self.tell(log, cell.METRIC_LOGGED, value)
                log.append(journal.MetricLogged(agent="PPO", metric=f"metric {metric}", step=1, value=value))

            # The agent's name must be known, or the metric's event is not the next one.
            log.agent("PPO")
            self.step("append", action)

        @rule()
        def episode_and_run(self) -> None:
            if self.done:
                return
            log = self.writer()

            def action() -> None:
                self.episode += 1
                log.append(journal.RunStarted(run=f"run {self.episode}", config={}))
                log.append(journal.EpisodeStarted(agent="PPO", episode=self.episode))
                log.append(journal.EpisodeEnded(agent="PPO", episode=self.episode, reason="truncated"))
                log.append(journal.RunEnded(run=f"run {self.episode}"))

            self.step("append", action)

        @rule()
        def sync(self) -> None:
            if not self.done and self.log is not None:
                self.step("sync", self.log.sync)

        @rule()
        def checkpoint(self) -> None:
            if self.done:
                return
            log = self.writer()
            store = CheckpointStore(self.watched, keep=2)
            store.adopt("PPO", [] if self.saved is None else [self.saved[0]])
            content = {"bytes": self.rng.randbytes(self.rng.randrange(2000))}
            saved = self.step("checkpoint", lambda: store.save(log, "PPO", self.episode, content))
            self.saved = (saved.path, saved.sha256)

        @rule()
        def writeback(self) -> None:
            self.storage.writeback(self.rng)

        @rule()
        def close(self) -> None:
            if self.done or self.log is None:
                return
            self.step("close", self.log.close)
            self.log = None

        @rule()
        def compaction(self) -> None:
            if self.done:
                return
            self.close()
            if self.storage.exists(PATH):
                self.step("compaction", lambda: compact(self.watched))

        @rule(kill=st.booleans())
        def end_of_the_process_or_of_the_power(self, kill: bool) -> None:
            """The next life goes on with what is left."""
            after = self.storage.kill() if kill else self.storage.crash(self.rng)
            promised = self.promised
            if self.log is not None:
                promised = max(promised, self.log.promised.seq + 1)
                if kill:
                    promised = self.log.next_seq
                self.log.close()
                self.log = None
            if not kill:
                after = interrupted(after, self.rng, tried)
            if after.exists(PATH):
                recover(after, Manifest.read(after), 7)
            count = check(Image("recovery", after, promised, dict(self.said), self.saved), self.rng, tried)
            self.said = {seq: what for seq, what in self.said.items() if seq < count}
            # What recovery adopted is as good as promised.
            self.storage, self.promised = after, count
            self.watched = Watched(after)

        def teardown(self) -> None:
            if getattr(self, "log", None) is not None:
                assert self.log is not None
                self.log.close()

    return Machine


def interrupted(image: MemoryStorage, rng: Random, tried: Tried) -> MemoryStorage:
    """`image` after attempts to recover it, each killed or cut off at some step."""
    for _ in range(rng.randrange(DEPTH + 1)):
        if not image.exists(PATH):
            break
        faulty = FaultyStorage(image)
        faulty.fail(*CHANGES, nth=rng.randrange(1, 20), kill=True, tear=rng.random() < 0.5)
        try:
            recover(faulty, Manifest.read(faulty), 7)
            break
        except Killed:
            image = image.crash(rng) if rng.random() < 0.7 else image.kill()
            tried.images["recovery"] += 1
    return image


def check(image: Image, rng: Random, tried: Tried) -> int:
    """Recover it and hold it against the model. Returns how many events are there."""
    storage = image.storage
    if not storage.exists(PATH):
        assert image.promised == 0 and image.saved is None, f"{image.during}: the journal is not there"
        return 0
    told = f"cut off during {image.during}"
    report = verify(storage, deep=True)
    assert report.status in ("clean", "torn"), f"{told}: a healthy journal is called {report}"
    storage = interrupted(storage.kill(), rng, tried)
    with journal.open("m", storage=storage, sync="close") as log:
        count = log.next_seq
        if rng.random() < 0.3:
            log.append(journal.Custom(name="on"))
    assert count >= image.promised, f"{told}: {image.promised} events were promised, {count} are there"
    state = State(Manifest.read(storage).journal_id)
    seen = 0
    for batch in scan(storage):
        for seq, kind, value in zip(batch.seq.tolist(), batch.kind.tolist(), batch.value.tolist(), strict=True):
            assert seq == seen, f"{told}: event {seen} is missing"
            seen += 1
            if seq < count and seq in image.said:
                assert (kind, value) == image.said[seq], f"{told}: event {seq} is another one"
        fold(state, batch)
    assert seen >= count, told
    missing = [seq for seq in image.said if seq < count and seq >= seen]
    assert not missing, told
    assert load(storage).to_payload() == state.to_payload(), f"{told}: the snapshot is not what the events give"
    assert verify(storage, deep=True).status == "clean", f"{told}: recovered, it is not clean"
    if image.saved is not None:
        CheckpointStore(storage).load(*image.saved)
    return count


def drive(tried: Tried, first_seed: int) -> None:
    """Machine after machine, until enough was tried."""
    number = 0
    while tried.images.total() < tried.wanted:
        driven = seed(first_seed + number)(machine(tried))
        run_state_machine_as_test(
            driven,
            settings=settings(
                max_examples=20,
                stateful_step_count=25,
                deadline=None,
                database=None,
                # With threads at work no example is replayed exactly, so none is shrunk: the steps are printed.
                phases=(Phase.generate,),
                verbosity=Verbosity.normal,
                suppress_health_check=list(HealthCheck),
                report_multiple_bugs=False,
            ),
        )
        number += 1


def test_no_power_cut_loses_a_promise_and_no_healthy_journal_is_refused(campaign: Any) -> None:
    tried = Tried(campaign.size("JOURNAL_CRASHES", 400))
    drive(tried, campaign.seed)
    steps = {"open", "append", "batch", "sync", "checkpoint", "close", "compaction", "recovery"}
    assert tried.wanted < 2000 or steps <= tried.images.keys(), tried.images
    campaign.report(crashes=tried.images.total(), lost=0, refused=0, during=dict(sorted(tried.images.items())))


@pytest.mark.parametrize("broken", ["sync", "sync of directories", "receipt before its sync"])
def test_a_storage_or_a_writer_that_does_not_sync_is_caught(
    broken: str, campaign: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: could the machine not see a loss, the test above would show nothing."""
    if broken == "sync":
        monkeypatch.setattr(memory._Node, "sync", lambda self: None)
    elif broken == "sync of directories":
        monkeypatch.setattr(MemoryStorage, "sync_directory", lambda self, path: None)
    else:
        monkeypatch.setattr(Commit, "_sync", lambda self, segment: None)
    tried = Tried(3000)
    with pytest.raises((AssertionError, journal.JournalError)):
        drive(tried, campaign.seed)
    campaign.report(caught_after=tried.images.total())
