"""Whose turn it is to append one reward: a lock for the one place where a lock costs a quarter of the work.

    taken, turn.taken = turn.taken, True    # One exchange: whoever finds it not taken has the turn,
    if not taken:
        try:
            …
        finally:
            taken, turn.taken = True, False    # until it is given back.

CPython, which has a GIL, switches threads and looks for signals at calls and at jumps back, so never inside that line,
nor between it and what follows: no two threads find it free, and Ctrl-C cannot take the turn along, as it can right
after `lock.acquire()`. Where that is not known (`EXCHANGES`) the fast path stays shut.

Nobody can queue for a turn, so it is for those who find it free and the way open. All others queue at a real lock,
whose holder first shuts the way and then waits for the turn that is perhaps still taken (`Tail.tail_locked`). As the
one looks at the way after it has taken the turn, and the other at the turn after it has shut the way, they never meet.
"""

from __future__ import annotations

import sys
import time
from typing import Final

EXCHANGES: Final = sys.implementation.name == "cpython" and getattr(sys, "_is_gil_enabled", lambda: True)()
"""Is an exchange of an attribute and a local variable one step for all other threads?"""
_PAUSE_MAX: Final = 0.001
"""Seconds between two looks at a turn that is taken; only one that waits for the disk takes so long."""


class Turn:
    """One turn; `taken` is exchanged as told above."""

    __slots__ = ("taken",)

    def __init__(self) -> None:
        self.taken = False

    def wait(self) -> None:
        """Return when nobody has the turn. The way to it is shut, so that nobody takes it again."""
        pause = 0.0
        while self.taken:
            time.sleep(pause)  # Lets go of the GIL, so that whoever has the turn goes on.
            pause = min(pause + 1e-6, _PAUSE_MAX)
