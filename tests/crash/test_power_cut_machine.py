"""A machine that loses power: hypothesis drives a journal's whole life in memory, and cuts it off inside every step.

Appends, batches, syncs, checkpoints, compactions, closes and kills come in any order. Before each change of the
storage, and between two steps, images of what a power cut would leave are taken: any subset of unsynced sectors, sizes
and names. Each image is recovered, and cut off or killed again while it is recovered, up to three times. Then a model
says what must be there: a prefix of what was appended, with everything that had been promised when the image was taken;
the bytes that the noted receipt stands for; each newest checkpoint that the log names; the state that these events
give. Some are compacted then, cut off as well. A healthy journal is never refused.

The writer's threads do not run: the machine does their work in steps of its own, so that a seed repeats. A quarter as
many images are taken with threads at work. `JOURNAL_CRASHES` is how many images.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from after_a_cut import Image, Said, Tried, check, interrupted, opened, recovering
from hypothesis import HealthCheck, Phase, Verbosity, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

import journal
from agents_adapter.checkpoint import CheckpointStore
from journal import cell, commit, live, segment
from journal.commit import Commit
from journal.manifest import PATH, Manifest
from journal.recovery import recover
from journal.storage import memory
from journal.storage.faulty import CHANGES, FaultyStorage
from journal.storage.memory import MemoryStorage
from replay.compaction import compact

pytestmark = [pytest.mark.crash, pytest.mark.usefixtures("small_segments"), pytest.mark.filterwarnings("ignore")]
IMAGES = 6
"""Images of one step, at most: a random choice of its moments."""
STEPS = {"open", "append", "batch", "sync", "close", "checkpoint", "compaction", "recovery"}
PARTS = {"seal", "spare", "journal.json"}
"""Parts of steps that are counted by themselves."""


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 cells each, so that nearly every step goes on to the next one."""
    monkeypatch.setattr(segment, "SIZE_MIN", 4096)
    monkeypatch.setattr(segment, "SIZE_MAX", 8192)
    monkeypatch.setattr(segment, "RESERVE", 512)


class Still:
    """A `Worker` that never runs."""

    running = False

    def __init__(self, name: str, work: Callable[[], None]) -> None:
        pass

    def start(self) -> None:
        """Nothing: the machine does the work."""

    def wait(self) -> None:
        """There is nothing to wait for."""


class Watched(FaultyStorage):
    """Calls `before` ahead of each change, in whatever thread it is made."""

    before: Callable[[str, str], None] | None = None

    def strike(self, kind: str, path: str, tear: Any = None) -> None:
        if kind in CHANGES and self.before is not None:
            self.before(kind, path)
        super().strike(kind, path, tear)


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
            self.moments = 0
            self.sealing = False
            self.now = 1_700_000_000_000_000_000
            self.receipt: tuple[int, str] | None = None

        def time_ns(self) -> int:
            self.now += 1_000_000
            return self.now

        def monotonic(self) -> float:
            return self.time_ns() / 1e9

        # -- taking images -------------------------------------------------------------------------------------------

        def note(self) -> None:
            """What is promised now."""
            if self.log is not None and self.log.promised.seq + 1 > self.promised:
                self.promised = self.log.promised.seq + 1
                self.receipt = (self.log.promised.seq, self.log.promised.chain)

        def take(self, part: str | None = None) -> None:
            """What a power cut at this moment leaves. Of more than `IMAGES`, any may go."""
            with self.mutex:
                self.moments += 1
                place = len(self.images) if self.moments <= IMAGES else self.rng.randrange(self.moments)
                if place >= IMAGES:
                    return
                self.note()  # Before the image is taken: what is promised meanwhile may be in it, too.
                image = self.storage.crash(Random(self.rng.random()))
                told = Image(part or self.doing, image, self.promised, dict(self.said), self.saved, self.receipt)
                self.images[place : place + 1] = [told]

        def sometimes(self, kind: str, path: str) -> None:
            sealing, self.sealing = self.sealing, kind == "truncate"
            if sealing or self.sealing:
                for _ in range(3):  # The seal, the size behind it: any may be there without the other.
                    self.take("seal")
            elif self.rng.random() < 0.3:
                parts = {"journal.json": "journal.json", "journal.json.tmp": "journal.json", "segments": "spare"}
                self.take("spare" if path.endswith(".seg.tmp") else parts.get(path))

        def step(self, doing: str, action: Any) -> Any:
            """Do one step with images inside of it, and check them."""
            self.doing = doing
            self.watched.before = self.sometimes if doing not in ("checkpoint", "compaction") else self.whole
            try:
                return action()
            finally:
                self.note()
                self.watched.before = None
                self.take()
                images, self.images, self.moments = self.images, [], 0
                for image in images:
                    tried.images[image.during] += 1
                    check(image, self.rng, tried)

        def whole(self, kind: str, path: str) -> None:
            if self.rng.random() < 0.3:
                self.take()

        @property
        def done(self) -> bool:
            return tried.images.total() >= tried.wanted

        def writer(self) -> journal.Log:
            if self.log is None:
                sync: Any = self.rng.choice(("close", "group", "always"))
                self.log = self.step("open", lambda: opened(self.watched, sync, self, self.rng))
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

        @rule(spare=st.booleans(), settle=st.booleans())
        def what_the_threads_do(self, spare: bool, settle: bool) -> None:
            """Where they do not run."""
            if self.done or self.log is None or tried.threads:
                return
            log, spares = self.log, self.log._spares

            def action() -> None:
                if spare and spares._preparing:
                    spares._spare, spares._preparing = spares._make(), False
                log._commit.once()
                if settle:
                    log._commit.settle()

            self.step("sync", action)

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
            self.note()
            promised = self.promised
            if self.log is not None:
                if kill:
                    promised = self.log.next_seq
                self.log.close()
                self.log = None
            if not kill:
                after = interrupted(after, self.rng, tried, "recovery", recovering)
            if after.exists(PATH):
                recover(after, Manifest.read(after), 7)
            image = Image("recovery", after, promised, dict(self.said), self.saved, self.receipt)
            tried.images["recovery"] += 1
            count = check(image, self.rng, tried)
            self.said = {seq: what for seq, what in self.said.items() if seq < count}
            # What recovery adopted is as good as promised.
            self.storage, self.promised = after, count
            self.watched = Watched(after)

        def teardown(self) -> None:
            if getattr(self, "log", None) is not None:
                assert self.log is not None
                self.log.close()

    return Machine


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


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit, "Worker", Still)
    monkeypatch.setattr(live, "Worker", Still)


@pytest.mark.usefixtures("no_threads")
def test_no_power_cut_loses_a_promise_and_no_healthy_journal_is_refused(campaign: Any) -> None:
    tried = Tried(campaign.size("JOURNAL_CRASHES", 400))
    drive(tried, campaign.seed)
    told = dict(sorted(tried.images.items()))
    campaign.report(crashes=tried.images.total(), lost=0, refused=0, during=told)
    assert tried.wanted < 2000 or tried.images.keys() >= STEPS | PARTS, told


def test_with_threads_at_work_no_power_cut_loses_a_promise(campaign: Any) -> None:
    tried = Tried(campaign.size("JOURNAL_CRASHES", 400) // 4, threads=True)
    drive(tried, campaign.seed)
    campaign.report(crashes=tried.images.total(), lost=0, refused=0, during=dict(sorted(tried.images.items())))


@pytest.mark.usefixtures("no_threads")
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
