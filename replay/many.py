"""Many: the journals that a command line names, and one reading of each, whatever becomes of the others.

Together, a journal and its copies count once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

from journal.errors import JournalError
from journal.manifest import PATH as MANIFEST_PATH
from journal.manifest import Manifest
from journal.segment import DIRECTORY as SEGMENTS

if TYPE_CHECKING:
    from replay.state import State

Read = TypeVar("Read")

DEPTH_MAX: Final = 2
"""How deep below a folder journals are looked for: runs/<project>/<shard>, but not a whole disk by mistake."""

UNFINISHED: Final = ".importing"
"""What the name of a directory ends with in which an import is not done, or was cut off: no journal yet."""


class Named(NamedTuple):
    """The journals that were named. `several`: by a folder, or by more than one path."""

    paths: tuple[str, ...]
    several: bool


@dataclass(frozen=True, slots=True)
class Outcome(Generic[Read]):
    """One journal's reading, or the error in its place."""

    path: str
    value: Read | None = None
    error: JournalError | OSError | None = None


class Distinct(NamedTuple, Generic[Read]):
    """Several journals, each of them once."""

    states: dict[str, Read]
    """Path → state of those that count (or what else was read), in the order in which they were given."""
    copies: dict[str, str]
    """Path of a copy → path of the one that counts."""
    parted: list[tuple[str, JournalError]]
    """Copies that went on by themselves, or may have: they do not count, and why."""


def named(places: Sequence[str]) -> Named:
    """The journals in these directories: itself where it is one, else those in the folder, sorted by path.

    A path that is neither stays in the list: reading it says what is wrong.
    """
    paths: list[str] = []
    several = len(places) > 1
    for place in places:
        found = [] if _is_journal(place) else sorted(_below(place, DEPTH_MAX))
        several = several or bool(found)
        paths += [path for path in found or [place] if path not in paths]
    return Named(tuple(paths), several)


def read_each(paths: Sequence[str], read: Callable[[str], Read]) -> list[Outcome[Read]]:
    """Read one after another; an error of one keeps none of the others from being read."""
    outcomes: list[Outcome[Read]] = []
    for path in paths:
        try:
            outcomes.append(Outcome(path, read(path)))
        except (JournalError, OSError) as error:
            outcomes.append(Outcome(path, error=error))
    return outcomes


def distinct(states: Mapping[str, State]) -> Distinct[State]:
    """Each journal once: of several with the same id the longest counts, of equally long ones the first by path.

    A shorter one is a copy if the longest was in the same state at its last event; else both went on after they were
    copied, and adding them up would count twice what they share. Where that cannot be read, it does not count either.
    """
    found: Distinct[State] = Distinct({}, {}, [])
    chosen: dict[bytes, str] = {}
    for path in sorted(states, key=lambda path: (-states[path].events, path)):
        state = states[path]
        counts = chosen.setdefault(state.journal_id, path)
        if counts == path:
            continue
        why = f"a copy of {counts}, but with other events: each went on by itself; only the longer one is counted"
        try:
            if _begins_with(states[counts], state):
                found.copies[path] = counts
                continue
        except (JournalError, OSError) as error:
            why = f"has the id of {counts}, whose earlier events cannot be read, so only that one is counted: {error}"
        found.parted.append((path, JournalError(f"{path}: {why}")))
    return found._replace(states={path: one for path, one in states.items() if chosen[one.journal_id] == path})


def once(values: Mapping[str, Read]) -> Distinct[Read]:
    """The same for anything that was read of journals: states are loaded only of those that have the same id.

    One that has no readable state does not count beside one that has; of several such ones the first counts.
    """
    alike: dict[bytes, list[str]] = {}
    for path in values:
        alike.setdefault(_id_of(path) or path.encode(errors="surrogateescape"), []).append(path)
    left_out: set[str] = set()
    copies: dict[str, str] = {}
    parted: list[tuple[str, JournalError]] = []
    for paths in (paths for paths in alike.values() if len(paths) > 1):
        from replay.loading import load

        outcomes = read_each(paths, load)
        among = distinct({one.path: one.value for one in outcomes if one.value is not None})
        counts = next(iter(among.states), paths[0])
        left_out |= {*paths} - {counts}
        copies |= among.copies
        parted += among.parted
        for one in outcomes:
            if one.error is not None and one.path != counts:
                told = f"{one.path}: has the id of {counts}, and only that one is counted: {one.error}"
                parted.append((one.path, JournalError(told)))
    return Distinct({path: value for path, value in values.items() if path not in left_out}, copies, parted)


def _id_of(path: str) -> bytes | None:
    from replay.loading import storage_of

    try:
        return Manifest.read(storage_of(path)).journal_id
    except (JournalError, OSError):
        return None


def _begins_with(longer: State, shorter: State) -> bool:
    if not shorter.events:
        return True
    import msgpack

    from replay.loading import load
    from replay.state import without_trends

    then = longer
    if shorter.events < longer.events:
        assert longer.storage is not None, "states of journals were read from somewhere"
        then = load(longer.storage, shorter.last_seq)
    # As bytes: in a run's config a NaN is equal to itself.
    if then.trends_since != shorter.trends_since:  # One of them has a snapshot that was made before there were any.
        then, shorter = without_trends(then), without_trends(shorter)
    # `default`: sums may have more than 64 bits.
    return bool(msgpack.packb(then.to_payload(), default=str) == msgpack.packb(shorter.to_payload(), default=str))


def _is_journal(place: str) -> bool:
    """Also a damaged one, so that it is reported and not passed over."""
    return any(os.path.lexists(os.path.join(place, name)) for name in (MANIFEST_PATH, SEGMENTS))


def _below(place: str, depth: int) -> Iterator[str]:
    try:
        entries = [
            entry.path
            for entry in os.scandir(place)
            if entry.is_dir(follow_symlinks=False) and not entry.name.endswith(UNFINISHED)
        ]
    except PermissionError:
        if os.path.basename(place) != "lost+found":
            yield place  # There may be journals in it: reading it will say why they are not told.
        return
    except OSError:
        return  # It is gone, or a file; what is named itself will be read, and say why.
    for path in entries:
        if _is_journal(path):
            yield path
        elif depth > 1:
            yield from _below(path, depth - 1)
