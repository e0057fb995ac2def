"""Feeds hostile journals to everything that reads one. Run as a program, under limits of memory and of time.

    python tests/crash/fuzzer.py SEED SECONDS [CASE]

Prints one JSON object: how many cases, their outcomes, and what went wrong. CASE repeats that one case only.
"""

from __future__ import annotations

import faulthandler
import io
import json
import re
import resource
import signal
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
from hostile import MAKERS, Files, checkpoint  # noqa: E402
from specimen import build, image, restored, small  # noqa: E402

import journal  # noqa: E402
import replay  # noqa: E402
from agents_adapter import CheckpointStore, codec  # noqa: E402
from journal.errors import JournalError  # noqa: E402
from replay.cli import main as command_line  # noqa: E402
from replay.compaction import compact  # noqa: E402

MEMORY = 3 << 30
"""Bytes of address space; what reads an honest journal of this size needs a small part of it."""
GROWTH_MAX = 512 << 20
"""Bytes that all cases together may add to the peak."""
SECONDS_EACH = 20


def uses(files: Files) -> dict[str, Callable[[], Any]]:
    """What a person does with a journal; each use gets its own copy where it writes."""
    storage = restored(files)

    def load() -> None:
        state = replay.load(storage)
        len(state.totals)
        for agent in state.agents:
            state.resume(agent)
        store = CheckpointStore(storage)
        for agent in state.agents.values():
            for one in agent.checkpoints:
                store.load(one.path, one.sha256)

    def read() -> None:
        for batch in replay.events(storage):
            batch.to_pylist()

    def recover() -> None:
        other = restored(files)
        journal.open("fuzz", storage=other, sync="close").close()
        replay.load(other)

    def show() -> None:
        with TemporaryDirectory() as directory:
            for path, data in files.items():
                place = Path(directory, path)
                place.parent.mkdir(exist_ok=True)
                place.write_bytes(data)
            for verb in ("replay", "totals", "compare", "info", "dump", "tail"):
                said = io.StringIO()
                with redirect_stdout(said), redirect_stderr(said):
                    code = command_line([verb, directory, *(["--json"] if len(files) % 2 else [])])
                wrong = re.search(r"[^\n]*(Traceback|this is a bug)[^\n]*", said.getvalue())
                assert code in (0, 1, 2) and not wrong, f"{verb} ends with {code}: {wrong and wrong[0]}"

    return {
        "show": show,
        "load": load,
        "events": read,
        "verify": lambda: replay.verify(storage, deep=True),
        "recover": recover,
        "compact": lambda: compact(restored(files)),
    }


def one(good: Files, seed: int, number: int, outcomes: Counter[str]) -> list[str]:
    """One case. Returns what is wrong with it."""
    rng = Random(f"{seed}/{number}")
    what = rng.choice(list(MAKERS))
    wrong = []
    files = MAKERS[what](dict(good), rng)
    for use, call in uses(files).items():
        try:
            signal.alarm(SECONDS_EACH)
            call()
            outcomes[f"{what}: read"] += 1
        except JournalError as error:
            outcomes[f"{what}: refused"] += 1
            if "\n" in str(error):
                wrong.append(f"case {number} ({what}), {use}: more than a line: {error}")
        except (Exception, MemoryError):
            trace = traceback.format_exc().strip().splitlines()
            wrong.append(f"case {number} ({what}), {use}: {' | '.join(trace[-5:])}")
        finally:
            signal.alarm(0)
    try:
        signal.alarm(SECONDS_EACH)
        codec.decode(checkpoint(rng))
        outcomes["state: read"] += 1
    except ValueError:
        outcomes["state: refused"] += 1
    except (Exception, MemoryError):
        trace = traceback.format_exc().strip().splitlines()
        wrong.append(f"case {number} (state): {' | '.join(trace[-5:])}")
    finally:
        signal.alarm(0)
    return wrong


def main(seed: int, seconds: float, only: int | None) -> None:
    def hang(signum: int, frame: object) -> None:
        raise TimeoutError(f"it did not end within {SECONDS_EACH} seconds")

    signal.signal(signal.SIGALRM, hang)
    warnings.simplefilter("ignore")
    with pytest.MonkeyPatch.context() as patch:
        small(patch)
        good = image(build())
        outcomes: Counter[str] = Counter()
        wrong: list[str] = []
        for call in uses(good).values():
            call()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
        number, deadline = 0, time.monotonic() + seconds
        while time.monotonic() < deadline and len(wrong) < 20:
            faulthandler.dump_traceback_later(6 * SECONDS_EACH, exit=True)  # Where not even a signal gets through.
            wrong += one(good, seed, number if only is None else only, outcomes)
            number += 1
            if only is not None:
                break
        faulthandler.cancel_dump_traceback_later()
        growth = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10) - before
    print(json.dumps({"cases": number, "outcomes": dict(sorted(outcomes.items())), "wrong": wrong, "growth": growth}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
