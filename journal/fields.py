"""What some fields of an event must be: texts in a list, seconds of a clock."""

from __future__ import annotations

from typing import Any, Final

from journal.errors import EventRejected

_SECONDS_MAX: Final = 1 << 32
"""Of a monotonic clock: nanoseconds between any two fit 64 bits."""


def check_seconds(number: Any, what: str) -> None:
    """Raises `EventRejected` unless `number` is seconds of a monotonic clock."""
    try:
        good = -_SECONDS_MAX <= float(number) <= _SECONDS_MAX
    except (TypeError, ValueError, OverflowError):
        good = False
    if not good:
        raise EventRejected(f"{what} is {number!r:.80}: give seconds of a monotonic clock")


def check_texts(texts: Any, what: str) -> None:
    """Raises `EventRejected` unless `texts` is a list of texts."""
    if not isinstance(texts, list):
        raise EventRejected(f"{what} is {texts!r:.80}, not a list of texts")
    for text in texts:
        if not isinstance(text, str):
            raise EventRejected(f"{what} holds {text!r:.80}, not a text")


def check_phase(phase: Any, what: str) -> None:
    """Raises `EventRejected` unless `phase` is one."""
    if not isinstance(phase, str) or phase not in ("train", "eval"):
        raise EventRejected(f"{what} is {phase!r:.80}: use 'train' or 'eval'")
