"""Skipping: where a walk may begin, so that segments which end before what is asked for need not be read.

A seal states the chain up to itself, and how many events came before it. So the last cell of a sealed segment tells all
that a walk must know to begin behind it.
"""

from __future__ import annotations

import numpy as np

from journal import arrays, cell, chain, segment
from journal.cell import CELL
from journal.events import INTEGER_MAX
from journal.manifest import Base, Manifest
from journal.storage import Storage


def base_behind(storage: Storage, manifest: Manifest, since: int) -> Base:
    """Behind the last sealed segment that has no event from `since` on; the manifest's own base where there is none.

    It is found by halving, from two cells of each segment looked at. What is wrong with those before it is not noticed.
    """
    found = manifest.base
    first, behind = manifest.base.ordinal, manifest.base.ordinal + len(manifest.segments)
    while first < behind and since > found.seq:
        middle = (first + behind) // 2
        base = base_after(storage, middle)
        if base is not None and base.seq <= since:
            found, first = base, middle + 1
        else:
            behind = middle
    return found


def base_after(storage: Storage, ordinal: int) -> Base | None:
    """Where the log stands behind a segment, but for its context; None unless it ends with a seal that checks."""
    path = segment.path_of(ordinal)
    try:
        header = segment.Header.parse(storage.read(path, 0, CELL), path)
        raw = storage.read(path, storage.size(path) - CELL, CELL)
    except OSError:
        return None
    cells = arrays.view(memoryview(raw))
    if isinstance(header, str) or len(cells) != 1 or int(cells["kind"][0]) != cell.SEGMENT_SEALED:
        return None
    stated = cells.view(arrays.PROMISE_DTYPE)[0]
    at, seq = int(stated["position"]), int(stated["events"])
    if max(at, seq) > INTEGER_MAX:
        return None  # No log gets there: it is asked before anybody has walked to it.
    if arrays.first_bad(memoryview(raw), cells, np.arange(1), header.salt, at) is not None:
        return None
    value = chain.extend(bytes(stated["chain"]), (raw,))
    return Base(ordinal + 1, at + 1, seq, value)
