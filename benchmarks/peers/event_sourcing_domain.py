"""The domain, as eventsourcing's own style asks for it: an episode that is rewarded. Apart, for it is imported late."""

from __future__ import annotations

from eventsourcing.domain import Aggregate, event


class Episode(Aggregate):
    """One episode of one agent."""

    class Began(Aggregate.Created):
        """Its first event."""

        agent: int
        number: int

    @event(Began)
    def __init__(self, agent: int, number: int) -> None:
        self.agent, self.number = agent, number

    class Rewarded(Aggregate.Event):
        """One step."""

        step: int
        value: float

    @event(Rewarded)
    def reward(self, step: int, value: float) -> None:
        """Nothing is kept of it but the event."""
