"""Signals: Ctrl-C, SIGTERM and SIGHUP become exceptions in the training loop, and are noted.

A handler notes the signal and raises; it never touches the log, which may be in the middle of an append. What the
signal means for the attempt is decided where the exception arrives: `Run.__exit__`, `Run.finish` or the process's
end.
"""

from __future__ import annotations

import signal
import threading
from types import FrameType
from typing import Any, Final

WATCHED: Final = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Signals:
    """The handlers of one attempt. Off the main thread, where Python allows none, nothing is installed."""

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None
        """The last signal that came, if any."""
        self._before: dict[signal.Signals, Any] = {}

    def install(self) -> None:
        """Take over what is handled by default or by the caller; what is ignored (nohup) stays ignored."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in WATCHED:
            before = signal.getsignal(number)
            # None: a handler that C code installed, which could not be put back.
            if before is not None and before is not signal.SIG_IGN:
                self._before[number] = before
                signal.signal(number, self._note)

    def restore(self) -> None:
        """Put the old handlers back, but for those that somebody else has replaced meanwhile."""
        if threading.current_thread() is not threading.main_thread():
            return
        while self._before:
            number, before = self._before.popitem()
            if signal.getsignal(number) == self._note:
                signal.signal(number, before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = signal.Signals(number)
        before = self._before.get(self.noted, signal.SIG_DFL)
        if callable(before):
            before(number, frame)  # For Ctrl-C: Python's own, which raises KeyboardInterrupt.
        elif number == signal.SIGINT:
            raise KeyboardInterrupt
        else:
            raise SystemExit(128 + number)
