"""The command line, called as a user calls it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
READING = ["replay", "runs", "totals", "trends", "verify", "compare", "diverge", "info", "dump", "tail"]
Run = Callable[..., tuple[int, str, str]]


def process(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """The command line as a process of its own."""
    command = [sys.executable, "-m", "replay", *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def document(run: Run, *arguments: object, code: int = 0) -> Any:
    """The JSON document of a verb that ends with `code`."""
    got, out, err = run(*arguments, "--json")
    assert (got, err) == (code, "")
    found = json.loads(out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert found["schema"] == 1
    return found
