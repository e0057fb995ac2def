"""Long work shows how far it is, on a terminal and nowhere else."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import journal

sys.path.insert(0, str(Path(__file__).parent))
from commands import ROOT


def on_a_terminal(*arguments: object) -> tuple[int, str, str]:
    """The command line with standard error on a terminal: (exit code, standard output, what the terminal got)."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "120"}
    command = [sys.executable, "-m", "replay", *map(str, arguments)]
    asked = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=theirs, text=True)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 1 << 16):
            shown += part
    except OSError:
        pass  # The other end was closed.
    os.close(ours)
    return asked.wait(), asked.communicate()[0], shown.decode()


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """Some segments."""
    with journal.open(tmp_path / "j", sync="close") as log:
        for episode in range(20):
            log.rewards(log.agent("PPO"), episode, np.arange(20_000), np.arange(20_000) / 7)
    return tmp_path / "j"


@pytest.mark.parametrize(
    ("arguments", "doing"),
    [(["compact"], "compacting"), (["compact", "--drop-history"], "compacting"), (["verify", "--deep"], "verifying")],
)
def test_a_bar_goes_up_and_is_gone_at_the_end(large: Path, arguments: list[str], doing: str) -> None:
    code, out, shown = on_a_terminal(arguments[0], large, *arguments[1:])
    assert code == 0 and out
    # It may be drawn any number of times: at least once, with how many bytes there are.
    assert f"{doing} " in shown and re.search(r"\d+(\.\d+)?/\d+(\.\d+)? (bytes|kB|MB)", shown), shown
    assert shown.rstrip().endswith(("\x1b[2K", "\x1b[?25h")), "nothing of it stays"


def test_elsewhere_there_is_none(large: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "replay", "compact", str(large)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert done.stderr == "" and "became" in done.stdout
    code, out, shown = on_a_terminal("verify", large, "--deep", "--json")
    assert (code, shown) == (0, "") and out.startswith("{"), "who asks for JSON is no person"
