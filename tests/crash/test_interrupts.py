"""Ctrl-C at any instant of appending, syncing and closing, and another one while the first is being dealt with.

Whatever it hits: an append that returned, or was seen by a reader, is there, under its seq; none is there twice;
nothing is torn; the log can be closed, again if need be, and then its lock is free. `JOURNAL_INTERRUPTS` says how many,
in all.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FORMS = {
    "group, mapped": ("group", "mapped", "memory"),
    "group, pwrite": ("group", "pwrite", "memory"),
    "close, mapped": ("close", "mapped", "memory"),
    "always, pwrite": ("always", "pwrite", "memory"),
    "group, on a disk": ("group", "mapped", "disk"),
    "always, on a disk": ("always", "pwrite", "disk"),
}

pytestmark = [
    pytest.mark.crash,
    pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="the interrupts come from a timer that is not here"),
]


@pytest.mark.parametrize("form", FORMS)
def test_ctrl_c_at_any_instant_loses_and_doubles_nothing(form: str, tmp_path: Path, campaign: Any) -> None:
    count = campaign.size("JOURNAL_INTERRUPTS", 1200) // len(FORMS)
    sync, mapped, where = FORMS[form]
    command = [sys.executable, Path(__file__).with_name("interrupted.py"), str(campaign.seed), sync, mapped, str(count)]
    other = subprocess.Popen(
        [*command, *([tmp_path / "j"] if where == "disk" else [])],
        env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONFAULTHANDLER": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        out, err = other.communicate(timeout=120 + count / 5)
    except subprocess.TimeoutExpired:
        other.send_signal(signal.SIGABRT)  # It says where it hangs.
        raise AssertionError(f"it hangs\n{other.communicate()[1]}") from None
    assert other.returncode == 0, err
    told = json.loads(out)
    # Of few interrupts none may fall into one of them.
    assert sum(told.get(what, 0) for what in ("appending", "syncing", "closing")) >= count
    assert told["acknowledged or seen"]
    campaign.report(**told, lost=0, doubled=0, overwritten=0, locks_held=0)
