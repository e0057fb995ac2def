"""Make the golden journal: every kind of event and mark, with fixed clock, id and salts, and what is to be read in it.

`make golden` runs this; nothing else does. It is for a deliberate change of the format, which gets a new number and a
folder of its own: what is on people's disks does not change.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

import journal
from journal import arrays, batch, cell, events, segment
from journal.storage import Storage, replace
from journal.storage.disk import DiskStorage
from journal.walk import Walk

DIRECTORY = Path(__file__).parent / f"v{segment.FORMAT}"
READ = "read.json"


class Clock:
    """Stands still until it is moved, so that no thread's look at it changes a byte."""

    def __init__(self) -> None:
        self.now_ns = 1_700_000_000_000_000_000

    def time_ns(self) -> int:
        return self.now_ns

    def monotonic(self) -> float:
        return self.now_ns / 1e9 - 1_699_999_000

    def move(self) -> None:
        self.now_ns += 1_234_567


def write(storage: Storage) -> None:
    """Two lives of one journal. Each has entropy of its own: whether its spare draws some is a matter of time."""
    clock = Clock()
    for number, life in enumerate((_first_life, _second_life), 1):
        entropy = Random(number).randbytes
        with journal.open("golden", storage=storage, sync="close", clock=clock, entropy=entropy) as log:
            life(log, clock)


def _first_life(log: journal.Log, clock: Clock) -> None:
    def append(event: journal.Event) -> int:
        clock.move()
        return log.append(event)

    append(journal.RunStarted(run="2023-11-14 fx", config={"lr": 0.1, "layers": [4, 2], "naïve": None}))
    append(
        journal.AttemptStarted(
            run="2023-11-14 fx",
            attempt=0,
            pid=4242,
            argv=["train.py", "--fast"],
            cwd="somewhere",
            code="5e" * 32,
            git_commit="c0ffee",
            git_dirty=False,
            versions={"python": "3.11.7"},
            host="box",
        )
    )
    entries = [{"instrument": "EURUSD", "timeframe": "1h", "start": 0, "stop": 3, "seed": 7, "params": None}]
    append(journal.PlanRecorded(agent="PPO", plan_hash="ab" * 32, entries=entries, length=1))
    append(journal.CheckpointSaved(agent="PPO", episode=0, path="checkpoints/PPO-0", sha256="00" * 32, size=17))
    append(journal.EpisodeStarted(agent="PPO", episode=0, seed=7, entry=0, params={"fee": 0.0001}))
    for source, content in (("observed", bytes(range(16))), ("declared", None)):
        append(
            journal.BarsSeen(
                agent="PPO",
                episode=0,
                instrument="EURUSD",
                timeframe="1h",
                start=0,
                stop=3,
                content_hash=content,
                source=source,  # type: ignore[arg-type]
            )
        )
    ppo = log.agent("PPO")
    for step, value in enumerate((0.1, -2.5, math.nan, math.inf, -math.inf, -0.0)):
        clock.move()
        log.reward(ppo, 0, step, value)
    append(journal.Rewarded(agent="PPO", episode=0, step=6, value=2.0**60))
    append(journal.MetricLogged(agent="PPO", metric="loss θ", step=1, value=0.25))
    log.sync()
    append(journal.EpisodeEnded(agent="PPO", episode=0, reason="terminated", metrics={"pnl": 12.5, "trades": 3}))
    append(journal.EpisodeStarted(agent="PPO", episode=1, env_index=2))  # Left open: its process ends here.
    log.sync()
    append(journal.AttemptEnded(run="2023-11-14 fx", attempt=0, status="interrupted", error="KeyboardInterrupt"))


def _second_life(log: journal.Log, clock: Clock) -> None:
    ppo, sac = log.agent("PPO"), log.agent("SAC#1")
    clock.move()
    log.append(journal.Rewound(agent="team", to_seq=6, members=["PPO", "SAC#1"], path="checkpoints/PPO-0"))
    clock.move()
    log.rewards(ppo, 1, 0, [1.0, 2.0, 3.0], [0, 1, 2])  # constant, constant, consecutive
    log.rewards(sac, [5, 4], range(8, 10), np.array([0.5, math.nan]), 3, flags=1)  # listed, consecutive, constant
    log.rewards(ppo, 2**40, [9, 7, 7], np.arange(3, dtype=np.float32), [2, 0, 1])  # large base, listed, listed
    log.rewards(ppo, 2, 5, [0.125])
    clock.move()
    log.append(journal.EpisodeStarted(agent="SAC#1", episode=6, phase="eval"))
    log.append(journal.EpisodeEnded(agent="SAC#1", episode=6, phase="eval", reason="truncated"))
    log.append(journal.Custom(name="note", data={"any": [1, -2.5, "text", b"\0\xff", True, None, {3: "int key"}]}))
    log.append(journal.Custom(name="long", agent="SAC#1", data="0123456789" * 50))
    log.sync()
    log.append(
        journal.CheckpointSaved(
            agent="team",
            episode=2,
            path="checkpoints/team-2",
            sha256="11" * 32,
            size=34,
            members=["PPO", "SAC#1"],
            retired=["checkpoints/PPO-0"],
        )
    )
    clock.move()
    log.append(journal.RunEnded(run="2023-11-14 fx"))


def read(storage: Storage) -> dict[str, Any]:
    """What the library reads: events one by one (a batch is unpacked), and the promises, in JSON's types."""
    names: list[str] = []
    rows: list[dict[str, Any]] = []
    promises: list[dict[str, Any]] = []
    for piece in Walk(storage):
        for at in piece.heads.tolist():
            one = piece.cells[at]
            kind, seq = int(one["kind"]), int(one["seq"])
            payload = arrays.payload(piece.raw, piece.cells, at)
            if kind in (cell.RECEIPT, cell.SEGMENT_SEALED):
                stated = piece.cells[at : at + 1].view(arrays.PROMISE_DTYPE)[0]
                covered, count = int(stated["position"]), int(stated["events"])
                promises.append({"position": covered, "events": count, "chain": bytes(stated["chain"]).hex()})
            if kind >= cell.MARK_FIRST:
                continue
            fields = events.unpack(payload) if len(payload) and kind != cell.REWARDS else {}
            if kind == cell.NAME_GIVEN:
                names.append(fields["name"])
            if kind == cell.METRIC_LOGGED:
                fields["metric"] = names[int(one["form"]) - 1]
            places = [(int(one["episode"]), int(one["step"]), int(one["env_index"]), float(one["value"]))]
            if kind == cell.REWARDS:
                count = int(piece.cells[at : at + 1].view(arrays.COUNT)["count"][0])
                columns = batch.unpack(count, int(one["form"]), *places[0][:3], payload)
                places = list(zip(*(column.tolist() for column in columns), strict=True))
            for number, (episode, step, env_index, value) in enumerate(places):
                rows.append(
                    {
                        "seq": seq + number,
                        "time_ns": int(one["time_ns"]),
                        "kind": cell.REWARDED if kind == cell.REWARDS else kind,
                        "agent": names[int(one["agent"]) - 1] if int(one["agent"]) else None,
                        "phase": "eval" if int(one["flags"]) & 1 else "train",
                        "episode": episode,
                        "step": step,
                        "env_index": env_index,
                        "value": value,
                        "fields": fields,
                    }
                )
    return {"events": plain(rows), "promises": promises}


def plain(value: Any) -> Any:
    """`value` in JSON's types, without loss: floats in hex, bytes too, and keys as text."""
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, dict):
        return {str(key): plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, list) else value


def main() -> None:
    shutil.rmtree(DIRECTORY, ignore_errors=True)
    storage = DiskStorage(DIRECTORY)
    write(storage)
    storage.remove("writer.lock")
    text = json.dumps(read(storage), indent=1, ensure_ascii=False, sort_keys=True)
    replace(storage, READ, text.encode() + b"\n")
    sizes = {path.name: path.stat().st_size for path in sorted(DIRECTORY.rglob("*")) if path.is_file()}
    print(f"{DIRECTORY}: {sizes}", file=sys.stderr)


if __name__ == "__main__":
    main()
