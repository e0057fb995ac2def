"""Progress: how long work tells whoever waits for it how far it has come."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[int, int], object]
"""Called now and then with (done, total), in bytes."""


def silent(done: int, total: int) -> None:
    """Tells nobody."""
