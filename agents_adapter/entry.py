"""One planned episode: which bars, which seed, which parameters; what it is as plain data, and as canonical JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from journal.errors import EventRejected
from journal.events import check_count, check_name, pack

if TYPE_CHECKING:
    from agents_adapter.bars import Bars

_CONTENT: Final = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class PlanEntry:
    """One episode: the bars [start, stop) of an instrument, the seed, and parameters (what JSON holds).

    `content` is the hash of these bars (`Bars.content_hash`, as 32 hexadecimal digits) where the plan knows them:
    `Plan.on` fills it in. Raises `EventRejected` for what cannot be an episode.
    """

    instrument: str
    timeframe: str
    start: int
    stop: int
    seed: int | None = None
    params: dict[str, Any] | None = None
    content: str | None = None

    def __post_init__(self) -> None:
        check_name(self.instrument, "instrument")
        check_name(self.timeframe, "timeframe")
        for name in ("start", "stop", "seed"):
            number = getattr(self, name)
            if name != "seed" or number is not None:
                check_count(number, name)
                object.__setattr__(self, name, number.__index__())
        if self.start >= self.stop:
            raise EventRejected(f"start is {self.start}, stop is {self.stop}: start must be below stop")
        if self.params is not None:
            object.__setattr__(self, "params", _plain_params(self.params))
        if self.content is not None and (type(self.content) is not str or not _CONTENT.fullmatch(self.content)):
            raise EventRejected(
                f"content is {self.content!r:.60}: give 32 hexadecimal digits, bars.content_hash().hex()"
            )

    def __hash__(self) -> int:
        return hash((self.instrument, self.timeframe, self.start, self.stop, self.seed))

    @property
    def length(self) -> int:
        """Number of bars."""
        return self.stop - self.start

    def deviation(self, bars: Bars, start: int | None = None) -> str | None:
        """How `bars`, the first of which is number `start` of its series (None: the planned one), are not the plan's.

        None where the planned bars are among them: all of them, as a part proves nothing of the rest. Where the plan
        does not know its content, instrument, timeframe and range are all that can be asked.
        """
        shown = f"{len(bars):,} bars of {bars.instrument} {bars.timeframe}"
        planned = f"{self.length:,} bars of {self.instrument} {self.timeframe}"
        first = self.start if start is None else start
        whole = start is not None or len(bars) == self.length
        if (bars.instrument, bars.timeframe) != (self.instrument, self.timeframe) or not whole:
            return (
                f"is planned on {planned}, but was shown {shown}: "
                "give bars[episode.start:episode.stop] of the planned instrument"
            )
        if not first <= self.start < self.stop <= first + len(bars):
            return (
                f"is planned on bars {self.start} to {self.stop}, but was shown {first} to {first + len(bars)}: "
                "give all that it saw, the planned ones among them"
            )
        content = bars.content_hash(self.start - first, self.stop - first).hex()
        if self.content is not None and content != self.content:
            return (
                f"is planned on {planned} of content {self.content[:12]}, but was shown others, of content "
                f"{content[:12]}: show the bars that the plan was made from, or make the plan from these"
            )
        return None

    def to_payload(self) -> dict[str, Any]:
        """Its fields as what msgpack and JSON hold; an unknown content is left out."""
        payload = {
            "instrument": self.instrument,
            "timeframe": self.timeframe,
            "start": self.start,
            "stop": self.stop,
            "seed": self.seed,
            "params": self.params,
        }
        return payload if self.content is None else payload | {"content": self.content}


def canonical(document: Any) -> bytes:
    """JSON with one form for equal content. Raises `TypeError` or `ValueError` for what JSON does not hold."""
    return json.dumps(document, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _plain_params(params: Any) -> dict[str, Any]:
    """A copy of `params` as the log gives it back, so that an entry and its record are equal."""
    if not isinstance(params, Mapping):
        raise EventRejected(f"params is {params!r:.60}: give a dict")
    try:
        plain: dict[str, Any] = _plain(params)
        canonical(plain)
    except (TypeError, ValueError, RecursionError) as error:
        raise EventRejected(f"params {params!r:.60} is not JSON: {error}") from error
    pack(plain, "params")
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        if any(not isinstance(key, str) for key in value):
            raise TypeError("it has a key that is no text")
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if hasattr(value, "item") else value
