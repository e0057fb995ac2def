"""A call in the middle of another call of the same thread: a signal handler made it, or a destructor.

It would wait for what its own thread holds, for ever. So who finds a lock or a turn taken looks for a frame below its
own that holds it:

    with self.lock:
        _held = self.lock                   # CPython looks for no signal before this line is done
        …
    del _held                               # where anything follows

    taken, turn.taken = turn.taken, True    # That frame has the turn (`journal.turn`) as long as `taken` is False.

Nobody's name is noted beside a lock: what notes and strikes it out could itself be interrupted, and a wrong name would
refuse what is right. What a frame knows is gone with the frame.
"""

from __future__ import annotations

import sys
from types import FrameType
from typing import Final

from journal.errors import ReentrantCall

NOTHING: Final = "nothing was done"
RECORDED: Final = "the event is recorded, and the next sync promises it"


def refuse(name: str, *locks: object, left: str = NOTHING) -> None:
    """Raise `ReentrantCall` where a frame of this thread holds one of these locks or turns, of the log `name`.

    `left`: what the call that is refused has done.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        names = frame.f_code.co_varnames
        if "_held" in names:
            holds = frame.f_locals.get("_held")
        elif "taken" in names and frame.f_locals.get("taken") is False:
            holds = frame.f_locals.get("turn")
        else:
            holds = None
        if holds is not None and any(holds is one for one in locks):
            raise ReentrantCall(
                f"{name}: called by a signal handler (or __del__) in the middle of another call of the same thread; "
                f"{left}: let the handler raise, or set a flag, and record where the loop goes on"
            )
        frame = frame.f_back
