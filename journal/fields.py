"""What a field of an event must be whatever it is called: a text, several, a dict, a phase, seconds of a clock.

What can name something, counts and tolerances, which others ask about as well, are in `journal.events`.
"""

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


def check_text(text: Any, what: str) -> None:
    """Raises `EventRejected` unless `text` is one."""
    if not isinstance(text, str):
        raise EventRejected(f"{what} is {text!r:.80}, not a text")


def check_map(content: Any, what: str) -> None:
    """Raises `EventRejected` unless `content` is a dict."""
    if not isinstance(content, dict):
        raise EventRejected(f"{what} is {content!r:.80}, not a dict")


def check_texts(texts: Any, what: str) -> None:
    """Raises `EventRejected` unless `texts` is a list of texts."""
    if not isinstance(texts, list):
        raise EventRejected(f"{what} is {texts!r:.80}, not a list of texts")
    for text in texts:
        check_text(text, f"one of {what}")


def check_phase(phase: Any, what: str) -> None:
    """Raises `EventRejected` unless `phase` is one."""
    if not isinstance(phase, str) or phase not in ("train", "eval"):
        raise EventRejected(f"{what} is {phase!r:.80}: use 'train' or 'eval'")
