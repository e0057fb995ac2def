"""A proxy stands in an environment's place: what it does not do itself, the environment does, under its own name.

Its own attributes are written to `__dict__`, under names that begin with `_journal`: an assignment goes to the
environment.
"""

from __future__ import annotations

from operator import index
from typing import Any, Self

from journal.errors import EventRejected


class Proxy:
    """An environment that passes everything on."""

    _journal_env: Any

    def __init__(self, env: Any) -> None:
        if not callable(getattr(env, "reset", None)) or not callable(getattr(env, "step", None)):
            raise EventRejected(f"{env!r:.80} is no environment: it needs reset() and step()")
        self.__dict__["_journal_env"] = env

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        """The environment's: wrappers and checkers of a framework ask whether this is one of its environments.

        Not its type: it may itself stand in another one's place.
        """
        kind: type = self.__dict__.get("_journal_env", None).__class__
        return kind

    def __getattr__(self, name: str) -> Any:
        if "_journal_env" not in self.__dict__:
            raise AttributeError(name)  # A copy that is being made.
        return getattr(self._journal_env, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._journal_env, name, value)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._journal_env.close()


def as_seed(seed: Any) -> int | None:
    """`seed` as what an event holds: an integer of 0 or more, else None."""
    try:
        whole = -1 if isinstance(seed, bool) else index(seed)
    except TypeError:  # An array of several has an `__index__`, too.
        return None
    return whole if whole >= 0 else None
