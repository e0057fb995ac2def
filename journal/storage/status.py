"""How many names an open file has, and how many bytes: asked without its times.

Since Linux 6.13, whoever asks for a file's times, as `fstat` does, makes the next write take a new one, and the sync of
that waits for one write of the device more. `statx` tells what it is asked for and no more; it is called in the C
library, with a structure that the kernel lays out alike on every machine. Where it is not to be had, `fstat` serves.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Final

Asked = Callable[[], tuple[int, int]]
"""Returns (names, bytes) of one open file; raises `OSError`."""

_EMPTY_PATH: Final = 0x1000
_NLINK: Final = 0x4
_SIZE: Final = 0x200
_LENGTH: Final = 256
"""Bytes of a `struct statx`: its fifth u32 is stx_nlink, its sixth u64 stx_size."""


def asking(fd: int) -> Asked:
    """What asks for names and bytes of `fd`, for one thread at a time."""

    def by_fstat() -> tuple[int, int]:
        status = os.fstat(fd)
        return status.st_nlink, status.st_size

    if sys.platform != "linux":
        return by_fstat
    import ctypes  # Here, for `import journal` does without; who writes has it already, with numpy.

    try:
        statx = ctypes.CDLL(None).statx
    except (OSError, AttributeError):  # An old C library.
        return by_fstat
    found = bytearray(_LENGTH)
    place = ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(found)))
    narrow, wide = memoryview(found).cast("I"), memoryview(found).cast("Q")

    def by_statx() -> tuple[int, int]:
        if statx(fd, b"", _EMPTY_PATH, _NLINK | _SIZE, place):
            return by_fstat()  # An old kernel, or one that may not answer; else it is `fstat` that tells what is wrong.
        return narrow[4], wide[5]

    return by_statx
