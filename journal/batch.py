"""A batch of rewards (vector environments, buffered loops): one head cell and packed arrays.

The head holds, for each of episode, step and env_index, a base and one of three forms (2 bits each in `form`):

    0  the base, for all           1  base + a u32 per reward           2  base, base + 1, base + 2, …

The payload is the u32 columns of form 1, in that order, then one float64 per reward. The head's value slot is the
count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from journal import events
from journal.cell import PAYLOAD_MAX
from journal.errors import EventRejected

UINT32_MAX: Final = 0xFFFFFFFF
CONSTANT, LISTED, CONSECUTIVE = 0, 1, 2
COUNT_MAX: Final = PAYLOAD_MAX // (8 + 3 * 4)
"""Rewards in the largest batch: its payload fits whatever the forms are."""


@dataclass(frozen=True, slots=True)
class Packed:
    """A batch, ready for its cells."""

    count: int
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


def as_values(values: Any) -> NDArray[np.float64]:
    """Rewards as a float64 array of shape (n,). Raises `EventRejected` where they are not exactly that."""
    try:
        given = np.asarray(values)
    except (ValueError, TypeError, RuntimeError) as error:  # The last is torch's, for what still has a gradient.
        raise EventRejected(f"rewards are no array of numbers: {error}") from error
    if given.ndim != 1 or given.dtype.kind not in "fiub":
        raise EventRejected(
            f"rewards have shape {given.shape} and dtype {given.dtype}: give one number per sub-environment, shape (n,)"
        )
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


def as_column(given: Any, count: int, what: str, largest: int = events.INTEGER_MAX) -> int | NDArray[np.uint64]:
    """A scalar, or `count` integers, of 0 … `largest`. Raises `EventRejected`."""
    if isinstance(given, int):
        events.check_count(given, what)
        low = high = given
    else:
        column = np.asarray(given)
        if column.ndim == 0 and column.dtype.kind in "iu":
            return as_column(int(column), count, what, largest)
        if column.shape != (count,) or column.dtype.kind not in "iu":
            raise EventRejected(
                f"{what} has shape {column.shape} and dtype {column.dtype}: give {count} integers, or one"
            )
        low, high = int(column.min()), int(column.max())
    if low < 0 or high > largest:
        raise EventRejected(f"{what} holds a number outside 0 … {largest:,}")
    if high - low > UINT32_MAX:
        raise EventRejected(f"{what} spans more than 2**32: append these rewards in several batches")
    return given if isinstance(given, int) else column.astype(np.uint64)


def pack(
    episodes: int | NDArray[np.uint64],
    steps: int | NDArray[np.uint64],
    env_indices: int | NDArray[np.uint64],
    values: NDArray[np.float64],
) -> Packed:
    """The batch of checked columns."""
    parts: list[bytes] = []
    form = 0
    bases: list[int] = []
    for place, column in enumerate((episodes, steps, env_indices)):
        if isinstance(column, int):
            bases.append(column)
            continue
        first = int(column[0])
        if int(column[-1]) - first == len(column) - 1 and bool((column[1:] - column[:-1] == 1).all()):
            bases.append(first)
            form |= CONSECUTIVE << (2 * place)
            continue
        base = int(column.min())
        bases.append(base)
        form |= LISTED << (2 * place)
        parts.append((column - np.uint64(base)).astype("<u4").tobytes())
    parts.append(values.astype("<f8", copy=False).tobytes())
    episode, step, env_index = bases
    return Packed(len(values), form, episode, step, env_index, b"".join(parts))


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
