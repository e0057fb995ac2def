"""An attempt: the training script as a process of its own, followed line by line, and stopped where the story says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple


class DemoFailed(Exception):
    """The training process did something else than the story says."""


class Learned(NamedTuple):
    """What a training has in memory at an agent's end."""

    weights: str
    """SHA-256 of what was learned."""
    won: int
    """Episodes with a gain: counted by the loop, in `track.vars`."""


@dataclass(slots=True)
class Attempt:
    """What a training process said while it lived, and how it ended."""

    episodes: int = 0
    """Training episodes that it reported as ended."""
    learned: dict[str, Learned] = field(default_factory=dict)
    """What it said of each agent that had finished."""
    seconds: float = 0.0


def run_attempt(
    journal: Path,
    passes: int,
    *,
    stop: tuple[int, signal.Signals] | None = None,
    each_episode: Callable[[], object] = lambda: None,
) -> Attempt:
    """Run the training on `journal` until it ends; with `stop`, send it that signal after so many of its episodes.

    Raises `DemoFailed` where it ends otherwise than that.
    """
    attempt = Attempt()
    began = begun_training = time.perf_counter()
    after, blow = stop or (0, None)
    expected = 0 if blow is None else 128 + blow if blow == signal.SIGINT else -blow
    with subprocess.Popen(
        [sys.executable, "-m", "agents_adapter.demo.train", str(journal), f"--passes={passes}"],
        stdout=subprocess.PIPE,
        text=True,
        # A library that adds up in several threads may round otherwise the next time.
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"},
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                match line.split():
                    case ["learned", agent, weights, won]:
                        attempt.learned[agent] = Learned(weights, int(won))
                    case ["episode", *_]:
                        attempt.episodes += 1
                        each_episode()
                        if attempt.episodes == 1:
                            begun_training = time.perf_counter()
                        if blow is not None and attempt.episodes == after:
                            # Half an episode later, so that it strikes in the middle of one.
                            time.sleep((time.perf_counter() - begun_training) / (2 * after))
                            process.send_signal(blow)
        except BaseException:
            process.kill()
            raise
    attempt.seconds = time.perf_counter() - began
    if process.returncode != expected:
        raise DemoFailed(
            f"{journal}: the training process ended with {process.returncode} instead of {expected}; "
            "what it said is above"
        )
    return attempt
