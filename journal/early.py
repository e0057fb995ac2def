"""Early: sealed segments, handed out block by block, before the promise that proves a block is reached.

For those alone who can let go of all that they made of it: only when the last block was taken, and nothing raised, were
all of them what was promised. In return each cell passes through a few MiB of memory that is used again and again,
where a `Walk` holds whole segments; and fresh memory is dear. All of it is done in one thread: what another one would
take over, reading and hashing, costs less than to hand it over block by block.

What is not sealed, or not all right in a way that is seen before any of it was handed out, is left to the walk, which
begins behind the last segment that was.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Final

import numpy as np

from journal import arrays, segment
from journal.arrays import Found
from journal.cell import CELL, EXTENT_MAX
from journal.manifest import Manifest
from journal.sealed import Pass, Window
from journal.skipping import base_after
from journal.storage import Storage
from journal.walk import Piece

_NOTHING: Final = Found(np.empty(0, np.int64), np.empty(0, np.uint16), np.zeros(1, np.uint64))


class Withdrawn(Exception):
    """What was handed out may not be what was promised: let go of it, and ask a `Walk`, which tells what is wrong."""


def early(storage: Storage, manifest: Manifest) -> Generator[Piece, None, None]:
    """The events of the sealed segments from the manifest's base on, in pieces of a block, each payload whole.

    A piece begins with the segment opened mark where a segment does, and may hold nothing. Its memory is used again
    when the next one is asked for. Ends before the first segment that a walk must look at.

    Raises `Withdrawn`: then too where a receipt lies so far behind what it states that this is not at hand any more.
    """
    base, window = manifest.base, Window(EXTENT_MAX + 1)
    for ordinal in manifest.segments:
        if base_after(storage, ordinal) is None:
            return
        one, begun = Pass.begin(storage, manifest, ordinal, base, window), False
        for piece in _pieces(one, window) if one is not None else ():
            begun = True
            yield piece
            del piece
        if one is None or one.found is None:
            if begun:
                raise Withdrawn(segment.path_of(ordinal))
            return
        base = one.found.base


def _pieces(one: Pass, window: Window) -> Iterator[Piece]:
    left, start = _NOTHING, 0
    for number, (first, behind, found, following) in enumerate(one.blocks()):
        if start < first:  # A head whose payload goes on here, with what there is of it: into the margin before this.
            margin = window.part(number, start - first, 0)
            margin[:] = window.part(number - 1, start - first + window.cells, window.cells)
        if len(left.heads):
            found = Found(
                np.append(left.heads, found.heads),
                np.append(left.kinds, found.kinds),
                np.append(left.seqs[:-1], found.seqs),
            )
        whole = len(found.heads) - (following > behind)
        left = found.cut(whole, len(found.heads))
        stop = int(found.heads[whole]) if following > behind else behind
        raw = window.part(number, start - first, stop - first).toreadonly()
        some = found.cut(0, whole)
        yield Piece(
            one.header,
            one.path,
            position=one.begins.position + start,
            seq=int(some.seqs[0]),
            raw=raw,
            cells=arrays.view(raw),
            heads=some.heads - start if start else some.heads,
            kinds=some.kinds,
            seqs=some.seqs,
            end=stop - start,
            verified=0,
            sealed=True,
            size=(one.total + 1) * CELL,
        )
        del raw, some
        start = stop
