"""A batch of rewards (vector environments, buffered loops): one head cell and packed arrays.

The head holds, for each of episode, step and env_index, a base and one of three forms (2 bits each in `form`):

    0  the base, for all           1  base + a u32 per reward           2  base, base + 1, base + 2, …

The payload is the u32 columns of form 1, in that order, then one float64 per reward. The head's value slot is the
count.
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from journal import events
from journal.cell import PAYLOAD_MAX
from journal.errors import EventRejected

UINT32_MAX: Final = 0xFFFFFFFF
_END: Final = events.INTEGER_MAX + 1
_ARRAY: Final = np.ndarray
FLOAT64: Final = np.dtype("<f8")
"""As rewards stand in the log."""
CONSTANT, LISTED, CONSECUTIVE = 0, 1, 2
_NEXT_STEPS: Final = CONSECUTIVE << 2
"""The form of an episode's next rewards."""
COUNT_MAX: Final = PAYLOAD_MAX // (8 + 3 * 4)
"""Rewards in the largest batch: its payload fits whatever the forms are."""


Column = int | range | NDArray[np.uint64]
"""What one number holds for, or a run of consecutive ones, takes no bytes of the payload."""


class Packed(NamedTuple):
    """A batch, ready for its cells."""

    rewards: int
    form: int
    episode: int
    step: int
    env_index: int
    payload: bytes


class Columns(NamedTuple):
    """A batch, unpacked: arrays of equal length."""

    episode: NDArray[np.uint64]
    step: NDArray[np.uint64]
    env_index: NDArray[np.uint32]
    value: NDArray[np.float64]


def usual(episode: Any, steps: Any, env_index: Any, values: Any) -> Packed | None:
    """The batch of the usual call, packed with no detour: an episode's next rewards as float64, their steps a `range`.

    None for any other call, right or wrong: its columns are to be looked at one by one.
    """
    if (
        type(steps) is range
        and type(values) is _ARRAY
        and type(episode) is type(env_index) is int
        and values.dtype is FLOAT64
        and values.ndim == 1
    ):
        count, start, stop = len(values), steps.start, steps.stop
        if (
            stop - start == count
            and steps.step == 1
            and 0 < count <= COUNT_MAX
            and start >= 0
            and stop <= _END
            and 0 <= episode < _END
            and 0 <= env_index <= UINT32_MAX
        ):
            return Packed(count, _NEXT_STEPS, episode, start, env_index, values.tobytes())
    return None


def as_values(values: Any) -> NDArray[np.float64]:
    """Rewards as a float64 array of shape (n,), perhaps the given one. Raises `EventRejected` for anything else."""
    try:
        given = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # The last is torch's, for what still has a gradient.
        raise EventRejected(f"rewards are no array of numbers: {error}") from error
    if given.ndim != 1 or given.dtype.kind not in "fiub":
        raise EventRejected(
            f"rewards have shape {given.shape} and dtype {given.dtype}: give one number per sub-environment, shape (n,)"
        )
    if given.dtype == np.float64:
        return given
    if given.dtype == np.float32:
        return given.astype(np.float64)
    with np.errstate(over="ignore"):
        real = given.astype(np.float64)
    if (
        given.dtype.kind in "iu"
        and given.dtype.itemsize == 8
        and not np.array_equal(real.astype(object), given.astype(object))
    ):
        raise EventRejected("a reward is not exact in float64 (integers are up to 2**53): give floats")
    if given.dtype.itemsize > 8 and not np.array_equal(real, given, equal_nan=True):
        raise EventRejected(f"rewards of dtype {given.dtype} are not exact in float64: round them first")
    return real


def as_column(given: Any, count: int, what: str, largest: int = events.INTEGER_MAX) -> Column:
    """A scalar, or `count` integers, of 0 … `largest`; consecutive ones as a `range`. Raises `EventRejected`.

    A `range` that is given is looked at no further than its ends.
    """
    if isinstance(given, int):
        events.check_count(given, what)
        if given > largest:
            raise EventRejected(f"{what} holds a number outside 0 … {largest:,}")
        return given
    if isinstance(given, range):
        if given.step == 1 and given.stop - given.start == count:
            if given.start < 0 or given.stop - 1 > largest:
                raise EventRejected(f"{what} holds a number outside 0 … {largest:,}")
            return given
        if given[count : count + 1] or not given[count - 1 : count]:  # No array is made of one that is too long.
            raise EventRejected(f"{what} is {given}: give {count} integers, or one")
    column = np.asarray(given)
    if column.ndim == 0 and column.dtype.kind in "iu":
        return as_column(int(column), count, what, largest)
    if column.shape != (count,) or column.dtype.kind not in "iu":
        raise EventRejected(f"{what} has shape {column.shape} and dtype {column.dtype}: give {count} integers, or one")
    low, high = int(column[0]), int(column[-1])
    # Integers that grow all the way, and by no more than there are of them, are consecutive.
    consecutive = high - low == count - 1 and 0 not in (column[1:] > column[:-1]).tobytes()
    if not consecutive:
        low, high = int(column.min()), int(column.max())
    if low < 0 or high > largest:
        raise EventRejected(f"{what} holds a number outside 0 … {largest:,}")
    if high - low > UINT32_MAX:
        raise EventRejected(f"{what} spans more than 2**32: append these rewards in several batches")
    return range(low, high + 1) if consecutive else column.astype(np.uint64)


def pack(episodes: Column, steps: Column, env_indices: Column, values: NDArray[np.float64]) -> Packed:
    """The batch of checked columns."""
    parts: list[bytes] = []
    form = 0
    bases: list[int] = []
    for place, column in enumerate((episodes, steps, env_indices)):
        if isinstance(column, int):
            base = column
        elif isinstance(column, range):
            base = column.start
            form |= CONSECUTIVE << (2 * place)
        else:
            base = int(column.min())
            form |= LISTED << (2 * place)
            parts.append((column - np.uint64(base)).astype("<u4").tobytes())
        bases.append(base)
    # A copy: what the caller does to the array from here on changes nothing.
    parts.append(values.astype(FLOAT64, copy=False).tobytes())
    episode, step, env_index = bases
    return Packed(len(values), form, episode, step, env_index, parts[0] if len(parts) == 1 else b"".join(parts))


def payload_length(count: int, form: int) -> int:
    """Bytes of the payload of a batch. Raises `ValueError` for a form that does not exist."""
    columns = 0
    for place in range(3):
        one = form >> (2 * place) & 3
        if one > CONSECUTIVE:
            raise ValueError(f"batch of an unknown form {form}")
        columns += one == LISTED
    if form >> 6:
        raise ValueError(f"batch of an unknown form {form}")
    return count * (8 + 4 * columns)


def unpack(count: int, form: int, episode: int, step: int, env_index: int, payload: bytes | memoryview) -> Columns:
    """The columns of a batch. Raises `ValueError` where count, form and payload do not agree."""
    if payload_length(count, form) != len(payload):
        raise ValueError(f"batch of {count} rewards has a payload of {len(payload)} bytes")
    columns: list[NDArray[np.uint64]] = []
    offset = 0
    for place, base in enumerate((episode, step, env_index)):
        one = form >> (2 * place) & 3
        if one == CONSTANT:
            columns.append(np.full(count, base, dtype=np.uint64))
        elif one == CONSECUTIVE:
            columns.append(np.uint64(base) + np.arange(count, dtype=np.uint64))
        else:
            listed = np.frombuffer(payload, dtype="<u4", count=count, offset=offset)
            offset += 4 * count
            columns.append(np.uint64(base) + listed)
    value = np.frombuffer(payload, dtype="<f8", count=count, offset=offset)
    return Columns(columns[0], columns[1], columns[2].astype(np.uint32), value)
