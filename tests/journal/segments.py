"""Sealed segments to look at: recorded, and made anew as somebody would who knows the format."""

from __future__ import annotations

from random import Random

import journal
from journal import arrays, cell, segment
from journal.cell import CELL
from journal.chain import extend
from journal.storage.memory import MemoryStorage


def recorded(seed: int, *, syncs: bool) -> MemoryStorage:
    """Small segments of rewards, batches and payloads that are longer than a block, with receipts or without."""
    storage, rng = MemoryStorage(), Random(seed)
    with journal.open("j", storage=storage, sync="close") as log:
        agent = log.agent("A")
        for step in range(400):
            kind = rng.randrange(12)
            if kind == 0:
                log.append(journal.Custom(name="x", data=bytes(rng.randrange(1500))))
            elif kind == 1:
                log.rewards(agent, 0, range(step, step + 9), [float(step)] * 9)
            else:
                log.reward(agent, 0, step, 0.5)
            if syncs and rng.randrange(30) == 0:
                log.sync()
    return storage


def remade(raw: bytes, position: int, chain: bytes, *, spoiled: int = -1, passed: int = -1) -> bytes:
    """A segment whose checksums and chain are made anew, as somebody would who knows the format.

    All but the checksum of the head at index `spoiled`, which the chain covers as it is; and the chain goes past the
    promise at index `passed` as if it were none.
    """
    data = bytearray(raw)
    header = segment.Header.parse(raw, "x")
    assert isinstance(header, segment.Header)
    cells = arrays.view(memoryview(data)[CELL:])
    at = done = 0
    while at < len(cells):
        place, extent = CELL + at * CELL, int(cells["extent"][at])
        body = data[place + 4 : place + CELL]
        if int(cells["kind"][at]) in (cell.RECEIPT, cell.SEGMENT_SEALED):
            upto = int.from_bytes(body[20:28], "little") - position
            if done <= upto <= at and at != passed:
                chain, done = extend(chain, (bytes(data[CELL + done * CELL : CELL + upto * CELL]),)), upto
            body[36:60] = chain
        else:
            end = place + CELL + extent * CELL
            payload = bytes(data[place + CELL : end - int(cells["pad"][at])])
            body[24:28] = (cell.checksum(payload, header.salt, position + at) if payload else 0).to_bytes(4, "little")
        data[place + 4 : place + CELL] = body
        crc = cell.checksum(bytes(body), header.salt, position + at) ^ (at == spoiled)
        data[place : place + 4] = crc.to_bytes(4, "little")
        at += 1 + extent
    return bytes(data)
