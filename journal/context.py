"""What a reader must know at a segment's first cell: names, the current run, open episodes.

The *segment opened* mark carries it, so any segment reads alone. It is a fold over the few rare events that change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final

from journal import cell, events
from journal.errors import EventRejected

EpisodeKey = tuple[int, int, int]
"""(agent's number, 1 for eval or 0 for train, env_index)."""
Places = Sequence[tuple[int, int]]
"""(episode, env_index) of several events that are alike."""

# With these limits a context always fits one payload, so a segment can always be opened.
NAMES_MAX: Final = 0xFFFF
"""Names in a journal: a metric's number has 16 bits."""
NAMES_SIZE_MAX: Final = 2 << 20
"""Bytes of all names together."""
EPISODES_MAX: Final = 1 << 16
"""Episodes that are open at one time."""


@dataclass(slots=True)
class Context:
    """`names[n - 1]` is the name with number n; number 0 is nobody."""

    names: list[str] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)
    run: str | None = None
    attempt: int | None = None
    episodes: dict[EpisodeKey, int] = field(default_factory=dict)
    names_size: int = 0
    """Bytes of all names together."""

    def name(self, number: int) -> str | None:
        """The name with `number`; None for 0; `"#7"` where the log never gave it."""
        if number == 0:
            return None
        return self.names[number - 1] if number <= len(self.names) else f"#{number}"

    def give(self, name: str) -> int:
        """The number of `name`, a new one where it had none."""
        if name not in self.numbers:
            self.names.append(name)
            self.numbers[name] = len(self.names)
            self.names_size += len(name.encode())
        return self.numbers[name]

    @property
    def full(self) -> bool:
        """Has it no place for another name?"""
        return len(self.names) >= NAMES_MAX or self.names_size > NAMES_SIZE_MAX

    def apply(self, kind: int, flags: int, agent: int, env_index: int, episode: int, payload: Any) -> None:
        """Take in one event, given as the parts of its cell and its unpacked payload (None where it has none)."""
        rule = _RULES.get(kind)
        if rule is not None:
            rule(self, (agent, flags & 1, env_index), episode, payload if isinstance(payload, dict) else {})

    def refuse_contradiction(self, kind: int, flags: int, agent: int, places: Places) -> None:
        """Raise `EventRejected` where the episodes in these places cannot start or end now, all of them together."""
        if kind == cell.EPISODE_STARTED:
            for episode, env_index in places:
                opened = self.episodes.get((agent, flags & 1, env_index))
                if opened is not None:
                    raise EventRejected(
                        f"episode {episode} of {self.name(agent)}, env {env_index} cannot start: episode {opened} is "
                        "open there; end it first"
                    )
            if len(self.episodes) + len(places) > EPISODES_MAX:
                raise EventRejected(
                    f"{EPISODES_MAX:,} episodes are open, as many as a journal can follow: end some first"
                )
        elif kind == cell.EPISODE_ENDED:
            for episode, env_index in places:
                opened = self.episodes.get((agent, flags & 1, env_index))
                if opened != episode:
                    what = "no episode is open" if opened is None else f"episode {opened} is the open one"
                    raise EventRejected(
                        f"episode {episode} of {self.name(agent)}, env {env_index} cannot end: {what} there"
                    )

    def take_in(self, kind: int, flags: int, agent: int, places: Places) -> None:
        """As `apply`, of events of a kind in `PLACED`. Doing it twice changes nothing."""
        if kind == cell.EPISODE_STARTED:
            for episode, env_index in places:
                self.episodes[agent, flags & 1, env_index] = episode
        elif kind == cell.EPISODE_ENDED:
            for _, env_index in places:
                self.episodes.pop((agent, flags & 1, env_index), None)

    def change(
        self, keys: Sequence[EpisodeKey], numbers: Sequence[int], started: Sequence[int], ended: Sequence[int]
    ) -> None:
        """Take in that episodes started, and then that some ended, each told by its index in `keys` and `numbers`.

        Doing it twice changes nothing.
        """
        for i in started:
            self.episodes[keys[i]] = numbers[i]
        for i in ended:
            self.episodes.pop(keys[i], None)

    def as_payload(self) -> dict[str, Any]:
        """Itself as what msgpack and JSON hold."""
        return {
            "names": self.names,
            "run": self.run,
            "attempt": self.attempt,
            "episodes": [[*key, episode] for key, episode in self.episodes.items()],
        }

    @classmethod
    def from_payload(cls, payload: Any) -> Context:
        """The context that `as_payload` gave. Raises `ValueError` where it is none."""
        try:
            names = [str(name) for name in payload["names"]]
            context = cls(
                names=names,
                numbers={name: number for number, name in enumerate(names, 1)},
                run=_text(payload["run"]),
                attempt=_number(payload["attempt"]),
                episodes={(int(a), int(p), int(e)): int(n) for a, p, e, n in payload["episodes"]},
                names_size=sum(len(name.encode()) for name in names),
            )
            (context.run or "").encode()  # JSON has halves of characters, of which no segment can be opened.
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            raise ValueError(f"no context: {error!r}") from error
        return context

    def copy(self) -> Context:
        """An independent copy."""
        return replace(self, names=list(self.names), numbers=dict(self.numbers), episodes=dict(self.episodes))


# What stands in a payload may be anything: a log that others wrote checks all the same.


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    return value if type(value) is int and 0 <= value <= events.INTEGER_MAX else None


def _name_given(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    context.give(str(payload.get("name")))


def _run_started(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    context.run, context.attempt = _text(payload.get("run")), None
    context.episodes.clear()


def _run_ended(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    context.run = context.attempt = None
    context.episodes.clear()


def _attempt_started(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    # A run may be taken up again after another one ran in between, so the attempt names it.
    context.run, context.attempt = _text(payload.get("run")), _number(payload.get("attempt"))
    context.episodes.clear()


def _attempt_ended(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    context.attempt = None
    context.episodes.clear()


def _episode_started(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    context.episodes[key] = episode


def _episode_ended(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    context.episodes.pop(key, None)


def _rewound(context: Context, key: EpisodeKey, episode: int, payload: dict[str, Any]) -> None:
    members = payload.get("members")
    named = members if isinstance(members, list) else []
    agents = {key[0], *(context.numbers.get(name, 0) for name in named if isinstance(name, str))}
    for open_key in [k for k in context.episodes if k[0] in agents]:
        del context.episodes[open_key]


_RULES = {
    events.NameGiven.kind: _name_given,
    events.RunStarted.kind: _run_started,
    events.RunEnded.kind: _run_ended,
    events.AttemptStarted.kind: _attempt_started,
    events.AttemptEnded.kind: _attempt_ended,
    events.EpisodeStarted.kind: _episode_started,
    events.EpisodeEnded.kind: _episode_ended,
    events.Rewound.kind: _rewound,
}
KINDS: Final = tuple(_RULES)
"""The kinds of events that change a context."""
PLACED: Final = frozenset({cell.EPISODE_STARTED, cell.EPISODE_ENDED, cell.BARS_SEEN})
"""Kinds of which a context takes in nothing but where they happened."""
