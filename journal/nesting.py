"""How deep lists and dicts may lie within each other in an event.

State, history and JSON put more around them, and each tool has a limit of its own, some by who calls: an event beyond
one of them could be recorded, and then no compaction would ever end.
"""

from __future__ import annotations

from typing import Any, Final

from journal.errors import EventRejected

NESTED_MAX: Final = 100
"""Levels; each tool follows several times as many."""


def deeper(content: Any, levels: int) -> bool:
    """Are containers in it nested more than `levels` deep?"""
    level = [content] if isinstance(content, (dict, list, tuple)) else []
    for _ in range(levels + 1):
        inside: list[Any] = []
        for one in level:
            inside += one.values() if isinstance(one, dict) else one
        level = [one for one in inside if isinstance(one, (dict, list, tuple))]
        if not level:
            return False
    return True


def check_nesting(content: Any, what: str) -> None:
    """Raises `EventRejected` where it nests deeper than an event may."""
    if deeper(content, NESTED_MAX):
        raise EventRejected(f"{what} nests lists and dicts more than {NESTED_MAX} deep: flatten them")
