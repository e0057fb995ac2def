"""eventsourcing: the library of that name, over SQLite; an aggregate per episode, an event saved per reward."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, Final

from benchmarks.peer import Peer, Totals, add

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE: Final = "events.sqlite"
SAVE: Final = "save, SQLite"


def _application(directory: str) -> Any:
    from eventsourcing.application import Application

    return Application({"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": os.path.join(directory, FILE)})


class Store:
    """An application with a database of its own."""

    def __init__(self, directory: str, mode: str) -> None:
        from benchmarks.peers import event_sourcing_domain

        self._application = _application(directory)
        self._new = event_sourcing_domain.Episode
        self._current: tuple[int, int] = (-1, -1)
        self._aggregate: Any = None

    def append(self, agent: int, episode: int, step: int, value: float) -> None:
        if (agent, episode) != self._current:
            self._aggregate, self._current = self._new(agent=agent, number=episode), (agent, episode)
        self._aggregate.reward(step=step, value=value)
        self._application.save(self._aggregate)

    def batch(self, agent: int, episode: int, first: int, values: NDArray[np.float64]) -> None:
        raise NotImplementedError

    def close(self) -> None:
        self._application.close()


def totals(directory: str) -> Totals:
    from benchmarks.peers.event_sourcing_domain import Episode

    found: Totals = {}
    agents: dict[Any, int] = {}
    application = _application(directory)
    for recording in application.recorder.select_notifications(start=1, limit=1 << 30):
        event = application.mapper.to_domain_event(recording)
        if isinstance(event, Episode.Began):
            agents[event.originator_id] = event.agent
        else:
            add(found, agents[event.originator_id], 1, event.value)
    application.close()
    return found


PEER: Final = Peer("eventsourcing", "eventsourcing", Store, totals, {SAVE: "power cut"})
