"""Runs: which run each event belongs to, as the few events tell that change it."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from journal import cell, events
from journal.context import Context


class Runs:
    """Which run each row belongs to: it follows the few events that change it, from batch to batch."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self._ids: list[str] = []
        self._places: dict[str, int] = {}
        self.row = 0
        """The row that is looked at, for who must say which one it was."""

    def follow(
        self, rare: list[tuple[int, int]], payloads: dict[int, bytes]
    ) -> tuple[list[tuple[int, int]], list[str]]:
        """From which row on which run it is, by its place in a list, and that list.

        `rare` are (row, kind) of all events that are no rewards.
        """
        since = [(0, self._number(self.context.run))]
        for self.row, code in rare:
            if code in _FOLLOWED:
                raw = payloads.get(self.row)
                self.context.apply(code, 0, 0, 0, 0, events.unpack(raw) if raw else None)
                # A run's last event still belongs to it.
                since.append((self.row + (code == cell.RUN_ENDED), self._number(self.context.run)))
        return since, self._ids

    def _number(self, run: str | None) -> int:
        if run is None:
            return -1
        place = self._places.setdefault(run, len(self._ids))
        if place == len(self._ids):
            self._ids.append(run)
        return place


_FOLLOWED: Final = (cell.RUN_STARTED, cell.RUN_ENDED, cell.ATTEMPT_STARTED, cell.NAME_GIVEN)


def filled(length: int, since: list[tuple[int, int]]) -> NDArray[np.int32]:
    """The run column that `Runs.follow` tells of."""
    column = np.empty(length, dtype=np.int32)
    for row, number in since:
        column[row:] = number
    return column
