"""A campaign: a test that tries something many times, says how many, with which seed, and what came of it.

How many times, and the seed, come from the environment: `JOURNAL_KILLS=10000 JOURNAL_SEED=7 pytest tests/crash`. What
campaigns report is printed at the end of the session, also when all is well, and appended as lines of JSON to the file
that `JOURNAL_RESULTS` names.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# What several campaigns share lies beside them.
sys.path.insert(0, str(Path(__file__).parent))

from small_disk import disk, few_names  # noqa: F401 (fixtures)

_REPORTS: list[dict[str, Any]] = []


class Campaign:
    """What one campaign is given and what it says. `seed` repeats it; `random` is made from the seed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.seed = int(os.environ.get("JOURNAL_SEED", random.SystemRandom().randrange(2**32)))
        self.random = random.Random(self.seed)
        self._began = time.perf_counter()
        # pytest shows this where the test fails.
        print(f"JOURNAL_SEED={self.seed} repeats {name}")

    def size(self, variable: str, short: int) -> int:
        """How many times: what the environment says, else a few."""
        return int(os.environ.get(variable, short))

    def report(self, **figures: Any) -> None:
        """Say what came of it: counts and outcomes, by name."""
        seconds = round(time.perf_counter() - self._began, 1)
        _REPORTS.append({"campaign": self.name, **figures, "seed": self.seed, "seconds": seconds})


@pytest.fixture
def campaign(request: pytest.FixtureRequest) -> Iterator[Campaign]:
    yield Campaign(request.node.name)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if _REPORTS:
        terminalreporter.section("campaigns")
    for one in _REPORTS:
        figures = ", ".join(f"{name} {value}" for name, value in one.items() if name != "campaign")
        terminalreporter.write_line(f"{one['campaign']}: {figures}")
    if results := os.environ.get("JOURNAL_RESULTS"):
        with Path(results).open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in _REPORTS)
