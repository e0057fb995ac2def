"""A training process at full speed, for tests that cut its power: run as a script, until somebody ends it.

What it was told is safe it tells at once: a line of JSON, appended to the file ACKED, which lies where no power is cut.
What is recorded says which seq it must have, so that any event can be checked by itself.

    python recording.py JOURNAL ACKED SEED SYNC [--lie]

`--lie` is the control: it acknowledges what was appended, and never syncs.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import time
from typing import Any

import numpy as np

import journal
from agents_adapter import CheckpointStore
from journal.storage.disk import DiskStorage
from replay.compaction import compact


class Recording:
    """One process's life."""

    def __init__(self, directory: str, acked: str, seed: int, sync: str, lie: bool) -> None:
        self.directory, self.sync, self.lie = directory, sync, lie
        self.rng = random.Random(seed)
        self.out = os.open(acked, os.O_WRONLY | os.O_APPEND)
        self.store = CheckpointStore(DiskStorage(directory), keep=3)
        self.pace = self.rng.choice((0.0, 0.0005, 0.002))
        self.eager = self.rng.choice((1.0, 1.0, 0.1))  # Where it seldom asks for a promise, more is unsynced at a cut.
        self.log: journal.Log | None = None
        self.told = -1

    def tell(self, **what: Any) -> None:
        """One write, so a reader sees whole lines."""
        os.write(self.out, json.dumps(what).encode() + b"\n")

    def promised(self, seq: int) -> None:
        if seq > self.told:
            self.told = seq
            self.tell(seq=seq)

    def receipt(self, receipt: journal.Receipt) -> None:
        """A promise that is itself on disk."""
        self.tell(seq=receipt.seq, expect=[receipt.seq, receipt.chain])

    def live(self) -> None:
        while True:
            self.log = log = journal.open(self.directory, sync=self.sync)  # type: ignore[arg-type]
            agent = log.agent("PPO")
            # The one that lies never closes: a close would sync.
            for _ in itertools.count() if self.lie else range(self.rng.randrange(10, 150)):
                self.burst(log, agent)
                if self.lie:
                    self.promised(log.next_seq - 1)
                else:
                    self.promised(log.promised.seq)
                    self.between(log)
                time.sleep(self.pace)
            log.close()
            self.receipt(log.promised)
            if self.rng.random() < 0.6:
                end = log.promised.seq
                compact(self.directory)
                self.tell(compacted=end)

    def burst(self, log: journal.Log, agent: int) -> None:
        """Some events of every form, with nothing but appending between them."""
        chance = self.rng.random()
        if chance < 0.9:
            for step in range(self.rng.randrange(1, 20 if self.sync == "always" else 400)):
                seq = log.next_seq
                assert log.reward(agent, seq, step, seq * 0.5) == seq
                if self.sync == "always":
                    self.promised(seq)
        elif chance < 0.96:
            seq, count = log.next_seq, self.rng.randrange(1, 3000)
            values = np.arange(seq, seq + count)
            assert log.rewards(agent, values, 7, values * 0.5) == seq
        else:
            seq, size = log.next_seq, self.rng.choice((10, 2000, 60_000, 400_000))
            assert log.append(journal.Custom(name="seq", data=[seq, "x" * self.rng.randrange(size)])) == seq

    def between(self, log: journal.Log) -> None:
        """What makes promises."""
        chance = self.rng.random() / self.eager
        if chance < 0.03:
            self.receipt(log.sync())
        elif chance < 0.05:
            seq = log.next_seq
            content = {"seq": seq, "weights": np.arange(self.rng.randrange(20_000), dtype=np.float64)}
            saved = self.store.save(log, "PPO", seq, content)
            self.tell(seq=saved.seq, checkpoint=[saved.path, saved.sha256, seq])


if __name__ == "__main__":
    _, directory, acked, seed, sync, *rest = sys.argv
    Recording(directory, acked, int(seed), sync, rest == ["--lie"]).live()
