"""One disk: all levels measured in about 20 seconds, in a temporary folder that is gone afterwards. `journal bench`."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Final

from journal.errors import JournalFailed
from journal.speed.levels import LIMITS, everything
from journal.speed.machine import machine
from journal.speed.rounds import ROUNDS, measure
from journal.storage.disk import DiskStorage

SECONDS: Final = 20.0
FREE_LEAST: Final = 1 << 30
"""Bytes that must be free: about twice what is written."""


def measure_disk(
    directory: str, *, seconds: float = SECONDS, progress: Callable[[int, int], object] = lambda done, total: None
) -> dict[str, Any]:
    """The log on the disk of `directory`, at each level of safety, with its limits; the document of `journal bench`.

    Writes at most some 500 MB below `directory`, into a folder that is removed. Raises `JournalFailed` where there is
    too little room for that, `OSError` where nothing can be written.
    """
    if not os.path.isdir(directory):
        raise NotADirectoryError(f"{directory}: no such directory; name one on the disk that is to be measured")
    free = DiskStorage(directory).free()
    if free < FREE_LEAST:
        least = f"{FREE_LEAST / 1e6:,.0f} MB"
        raise JournalFailed(f"{directory}: {free / 1e6:,.0f} MB are free, measuring needs {least}; free some space")
    with tempfile.TemporaryDirectory(prefix=".journal-bench-", dir=directory) as folder, ExitStack() as stack:
        about = machine(folder)
        contenders = everything(folder, stack)
        figures = measure(contenders, seconds=seconds / len(contenders) / (ROUNDS + 1), progress=progress)
        rows = [{"limit": one.name in LIMITS, **one.as_document()} for one in figures]
    return {"machine": about, "rounds": ROUNDS, "levels": rows}
