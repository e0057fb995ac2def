"""Verbs that are programs, started as processes of their own."""

from __future__ import annotations

import subprocess
import sys

import typer


def demo(context: typer.Context) -> int:
    """Train, kill, resume, and lose nothing.

    Three agents learn on real bars; its own options: --dir DIR, --keep, --json.
    """
    # A process of its own: the demo records with the adapter, which is a layer above this one.
    process = subprocess.Popen([sys.executable, "-m", "agents_adapter.demo", *context.args])
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue  # It got the same signal, and ends by itself.
        return code if code >= 0 else 128 - code
