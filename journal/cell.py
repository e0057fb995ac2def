"""One cell: the 64-byte unit of the log.

An event's cell (offsets in bytes, little-endian):

     0        4      6      8                16               24
    +--------+------+------+----------------+----------------+
    | crc    | kind |extent| seq            | time_ns        |
    +--------+------+------+----------------+----------------+
    24   25    26   28      32      36      40      48     56        64
    +---+-----+----+-------+-------+-------+-------+------+---------+
    |pad|flags|form|payload| agent | env_  |episode| step | value   |
    |   |     |    | crc   |       | index |       |      | float64 |
    +---+-----+----+-------+-------+-------+-------+------+---------+

A receipt's and a seal's body is a promise instead: position u64, events u64, chain 24 bytes.

`crc = crc32c(cell[4:], salt of the segment) XOR low 32 bits of the cell's position`: a stale or a misplaced
cell does not check. `extent` payload cells follow the head; their exact length is `64 * extent - pad`.
The layout, with a worked example, is in docs/format.md.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from journal.crc import crc32c

CELL: Final = 64
"""Bytes in a cell. It divides every disk sector, so a cell never straddles two."""

EXTENT_MAX: Final = 0xFFFF
PAYLOAD_MAX: Final = EXTENT_MAX * CELL
"""Bytes in the largest payload: 4,194,240, just below 4 MiB."""

BODY: Final = Struct("<HHQqBBHIIIQQd")
"""The 60 bytes of an event's cell that the checksum covers."""
BATCH: Final = Struct("<HHQqBBHIIIQQQ")
"""The same of a batch, which has the number of its rewards in the place of the value."""
REWARD: Final = Struct("<IQqxB6xIIQQd")
"""The same of a reward, which has no payload: kind with extent 0, and zeros for pad, form and payload crc."""
STEP: Final = Struct("<IQq24sQd")
"""The same, of which `COMMON` is packed already."""
COMMON: Final = Struct("<xB6xIIQ")
"""What the rewards of one episode have in common: flags, agent, env_index, episode."""
EPISODE: Final = Struct("<IQqIIIIQ8xd")
"""The same of a start or an end: kind and extent in one, pad and flags in one, form and step zeros."""
PROMISE: Final = Struct("<HHQqQQ24s")
"""The same 60 bytes of a receipt or a seal: kind, extent, seq, time_ns, position, events, chain."""
PUBLISH: Final = Struct("<I60s")
"""crc and body, stored by one call: the only way a cell enters the log."""

assert BODY.size == BATCH.size == REWARD.size == STEP.size == CELL - 4
assert EPISODE.size == PROMISE.size == CELL - 4 and PUBLISH.size == CELL

# Events. Numbers are part of the format: never reused, never changed.
NAME_GIVEN: Final = 1
RUN_STARTED: Final = 2
RUN_ENDED: Final = 3
ATTEMPT_STARTED: Final = 4
ATTEMPT_ENDED: Final = 5
EPISODE_STARTED: Final = 6
EPISODE_ENDED: Final = 7
BARS_SEEN: Final = 8
REWARDED: Final = 9
REWARDS: Final = 10
METRIC_LOGGED: Final = 11
CHECKPOINT_SAVED: Final = 12
REWOUND: Final = 13
PLAN_RECORDED: Final = 14
CUSTOM: Final = 15

# Marks: bookkeeping of the log itself; they take no seq. Kind 0 is invalid, so zeros are never a cell.
MARK_FIRST: Final = 0xFF00
RECEIPT: Final = 0xFF01
SEGMENT_OPENED: Final = 0xFF02
SEGMENT_SEALED: Final = 0xFF03

_FIRST_OF_RECEIPT: Final = RECEIPT & 0xFF
_FIRST_OF_SEAL: Final = SEGMENT_SEALED & 0xFF
# Tables for `bytes.translate`: 1 where the byte is the kind's first of a promise, its second of a mark.
_OF_A_PROMISE: Final = bytes(byte in (_FIRST_OF_RECEIPT, _FIRST_OF_SEAL) for byte in range(256))
_OF_A_MARK: Final = bytes(byte == 0xFF for byte in range(256))
_FEW: Final = 8
"""Cells that are sooner looked at one by one than all by those tables."""

# Bits of `flags`.
EVAL: Final = 1
"""The event belongs to the eval phase; without it, to train."""


def checksum(body: bytes | memoryview, salt: int, position: int) -> int:
    """The crc of a cell's 60-byte body (or of the payload whose head stands at `position`)."""
    return crc32c(body, salt) ^ (position & 0xFFFFFFFF)


def extent_of(length: int) -> tuple[int, int]:
    """(extent, pad) of a payload of `length` bytes: how many cells it takes, and zeros in the last one."""
    extent = -(-length // CELL)
    return extent, extent * CELL - length


def pack_promise(
    kind: int, seq: int, time_ns: int, position: int, events: int, chain: bytes, *, salt: int, at: int
) -> bytes:
    """A whole receipt or seal, 64 bytes, to stand at position `at`."""
    body = PROMISE.pack(kind, 0, seq, time_ns, position, events, chain)
    return PUBLISH.pack(checksum(body, salt, at), body)


def pack_head(
    kind: int,
    seq: int,
    time_ns: int,
    payload: bytes = b"",
    *,
    salt: int,
    at: int,
    flags: int = 0,
    form: int = 0,
    agent: int = 0,
    env_index: int = 0,
    episode: int = 0,
    step: int = 0,
    value: float = 0.0,
) -> bytes:
    """A whole event cell, 64 bytes, to stand at position `at`, head of `payload`."""
    extent, pad = extent_of(len(payload))
    payload_crc = checksum(payload, salt, at) if payload else 0
    body = BODY.pack(kind, extent, seq, time_ns, pad, flags, form, payload_crc, agent, env_index, episode, step, value)
    return PUBLISH.pack(checksum(body, salt, at), body)


def forged(payload: bytes, salt: int, at: int, index: int, promised: int) -> int | None:
    """Where in `payload` a cell begins that would pass for a receipt or seal, were its head lost; None if nowhere.

    The head is to stand at position `at`, which is the segment's cell `index`; cells before `promised` are promised.
    Behind damage, recovery believes every cell whose crc is right for where it stands (`journal.evidence`): a payload
    must not hold one that promises more than was promised. Old receipts, copied, promise nothing new.
    """
    # One byte of the kind after the other, of every cell at once: nearly all payloads are done with here.
    seconds = payload[5::CELL]
    if 0xFF not in seconds:
        return None
    firsts = payload[4::CELL]
    if _FIRST_OF_RECEIPT not in firsts and _FIRST_OF_SEAL not in firsts:
        return None
    if seconds.count(0xFF) > _FEW:
        # Both in the same cell, of all cells by one number.
        promises = int.from_bytes(firsts.translate(_OF_A_PROMISE), "little")
        if not promises & int.from_bytes(seconds.translate(_OF_A_MARK), "little"):
            return None
    found = seconds.find(0xFF)
    while found >= 0:
        if firsts[found] in (_FIRST_OF_RECEIPT, _FIRST_OF_SEAL):
            crc, body = PUBLISH.unpack(payload[found * CELL : (found + 1) * CELL].ljust(CELL, b"\0"))
            stated, implied = PROMISE.unpack(body)[4], crc ^ crc32c(body, salt)
            place, place_index = (at + 1 + found) & 0xFFFFFFFF, index + 1 + found
            if implied == place or (stated > promised and (implied - stated) & 0xFFFFFFFF <= place_index):
                return found * CELL
        found = seconds.find(0xFF, found + 1)
    return None
