"""What cells still prove that cannot be reached, because something before them is bad: found wherever they stand."""

from __future__ import annotations

import numpy as np

from journal import arrays, cell
from journal.cell import CELL
from journal.crc import crc32c


def covers(raw: memoryview, salt: int, limit: int) -> bool:
    """Does a receipt or seal among these cells of a segment promise the cell at position `limit`?

    Where the segment's first mark is damaged its position is unknown, so the one that a receipt's own crc implies is
    taken: it must agree with what the receipt states.
    """
    cells = arrays.view(raw)
    kinds = cells["kind"]
    for at in np.flatnonzero((kinds == cell.RECEIPT) | (kinds == cell.SEGMENT_SEALED)).tolist():
        stated = int(cells[at : at + 1].view(arrays.PROMISE_DTYPE)["position"][0])
        implied = int(cells["crc"][at]) ^ crc32c(raw[at * CELL + 4 : (at + 1) * CELL], salt)
        if stated > limit and (implied - stated) & 0xFFFFFFFF <= at:
            return True
    return False


def good_events(raw: memoryview, salt: int, start: int) -> int:
    """How many events at index `start` or later check.

    What stands in the payload of a head that checks is not looked at again, or cells that claim each other would take
    for ever.
    """
    cells = arrays.view(raw)
    position = int(cells["episode"][0]) if len(cells) else 0
    kinds = cells["kind"][start:]
    count = behind = 0
    for at in (np.flatnonzero((kinds != 0) & (kinds < cell.MARK_FIRST)) + start).tolist():
        body = raw[at * CELL + 4 : (at + 1) * CELL]
        if at < behind or cell.checksum(body, salt, position + at) != int(cells["crc"][at]):
            continue
        behind = at + 1 + int(cells["extent"][at])
        if arrays.first_bad(raw, cells, np.array([at]), salt, position) is None:
            count += int(arrays.takes(cells[at : at + 1])[0])
    return count
