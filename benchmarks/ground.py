"""Level ground: before each timed read, of everybody alike, the system has the memory at hand that it may take.

A virtual machine gives free memory back to its host after a while (free page reporting: two seconds), and gets it again
page by page, at up to 2 ns per byte: fifty times what it costs otherwise. Who pays is then settled by how long ago
somebody let go of memory, so by who reads before whom and for how long, and by nothing that a contender does.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from journal.storage.buffers import room

TAKEN: Final = 512 << 20
"""Bytes: more than any contender takes for a read."""
_PAGE: Final = 4096


def level() -> None:
    """Take so much memory, write to each page of it, and let go of it."""
    np.frombuffer(room(TAKEN), np.uint8)[::_PAGE] = 1
