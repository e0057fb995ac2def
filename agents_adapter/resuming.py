"""Resuming: at start, decide between a new run, going on with the last one, or refusing. Pure: nothing is written here.

    last run            resume="auto"           "must"                "never"
    none, or completed  new                     refused               new
    unfinished, same    resumed                 resumed               new
    unfinished, other   refused, differences    refused, differences  new

"Other" is another config or another main script; that the plans are the same is seen when they are walked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn

from journal.errors import ResumeImpossible
from replay.state import Run, State

if TYPE_CHECKING:
    from agents_adapter.plan import Plan

Resume = Literal["auto", "must", "never"]

_SHOWN_MAX: Final = 20
_MISSING: Final = "(absent)"


def decide(state: State, config: Mapping[str, Any], code: str | None, resume: Resume, where: str) -> Run | None:
    """The run to go on with, or None for a new one. `config` is as msgpack gives it back.

    Raises `ResumeImpossible` with what differs, field by field.
    """
    if resume == "never":
        return None
    last = next(reversed(state.runs.values()), None)
    if last is None or last.status != "unfinished":
        if resume == "must":
            what = "holds no run" if last is None else f"holds no unfinished run: {last.id} is completed"
            raise ResumeImpossible(f"{where}: {what}; start without resume='must' to begin a new run")
        return None
    found = list(differences(last.config, config, "config"))
    ways = ["start it as it was"]
    before = last.attempts[-1].code if last.attempts else None
    if before is not None and code is not None and before != code:
        found.append(f"code: the main script's SHA-256 was {before}, is {code}")
        ways.append(f"give code={before!r} if the change of the script leaves the training as it was")
    if found:
        refuse(f"{where}: the unfinished run {last.id}", found, ways)
    return last


def refuse_plan(before: list[dict[str, Any]] | None, before_hash: str, now: Plan, who: str) -> NoReturn:
    """Raise `ResumeImpossible` for a plan that is not the one that was begun, with what differs."""
    found = [] if before is None else list(differences(before, now.to_payload(), "plan"))
    refuse(who, found or [f"plan: its hash was {before_hash}, is {now.hash}"], ["give the plan as it was"])


def refuse(what: str, found: list[str], ways: list[str]) -> NoReturn:
    """Raise `ResumeImpossible` for `found`."""
    shown = "; ".join(found[:_SHOWN_MAX]) + (
        f"; and {len(found) - _SHOWN_MAX:,} more" if len(found) > _SHOWN_MAX else ""
    )
    raise ResumeImpossible(
        f"{what} cannot be continued, because it differs: {shown}. "
        f"To go on: {', or '.join(ways)}; resume='never' begins a new run"
    )


def differences(before: Any, now: Any, name: str) -> Iterator[str]:
    """One line for each field that differs, such as "config.lr was 0.1, is 0.2"."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in [*before, *(key for key in now if key not in before)]:
            yield from differences(before.get(key, _MISSING), now.get(key, _MISSING), f"{name}.{key}")
    elif isinstance(before, (list, tuple)) and isinstance(now, (list, tuple)):
        if len(before) != len(now):
            yield f"{name} had {len(before):,} entries, has {len(now):,}"
        for number, (one, other) in enumerate(zip(before, now, strict=False)):
            yield from differences(one, other, f"{name}[{number}]")
    elif not _same(before, now):
        yield f"{name} was {_shown(before)}, is {_shown(now)}"


def _same(before: Any, now: Any) -> bool:
    if isinstance(before, bool) != isinstance(now, bool):
        return False
    # A NaN in a config is the same NaN the next time.
    return bool(before == now or (before != before and now != now))


def _shown(value: Any) -> str:
    return value if value is _MISSING else f"{value!r:.80}"
