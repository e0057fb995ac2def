"""Promises as people note them, `SEQ:CHAIN`: what a receipt gives and `journal verify --expect` takes."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple, Self

import numpy as np

from journal import arrays, cell, chain
from journal.cell import CELL
from journal.walk import Piece, Promise

_WRITTEN: Final = re.compile(r"(-1|\d{1,19}):([0-9a-fA-F]{48})")


class Head(NamedTuple):
    """The last seq that a promise covers (-1 for none), and its chain in hexadecimal."""

    seq: int
    chain: str

    @classmethod
    def of(cls, promise: Promise) -> Self:
        """What people note of a promise."""
        return cls(promise.events - 1, promise.chain.hex())

    @classmethod
    def parse(cls, text: str) -> Self:
        """The head that is written as SEQ:CHAIN. Raises `ValueError` for anything else."""
        match = _WRITTEN.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r:.80} is not SEQ:CHAIN: give a receipt's number and its 48 hexadecimal digits")
        return cls(int(match[1]), match[2].lower())


def heads_of(piece: Piece) -> Iterator[Head]:
    """Every promise in a piece whose chain was followed, and the chain behind its seal, which the next writer notes."""
    at = piece.heads[(piece.kinds == cell.RECEIPT) | (piece.kinds == cell.SEGMENT_SEALED)]
    for index in at.tolist():
        promise = _promise(piece, index)
        if promise.position <= piece.position + piece.verified:
            yield Head.of(promise)
    if piece.sealed:
        yield Head(piece.seq + piece.events - 1, chain_after(piece).hex())


def lost_heads(piece: Piece, seq: int, start: bytes | None) -> Iterator[Head]:
    """What a receipt for the event `seq` of this piece stated, where the receipt itself was lost.

    A receipt is noted when the events before it are on disk, and gets there itself with the next sync: a power cut may
    take it alone. The chain up to where it stood is the proof all the same. It stood behind the event, or behind marks
    that follow it. `start` is the chain at the piece's beginning, None if it is not known.
    """
    done, value = 0, start
    for number in np.flatnonzero(piece.seqs[1:] == seq + 1).tolist():
        at = int(piece.heads[number])
        end = at + 1 + int(piece.cells["extent"][at])
        for index in piece.heads[piece.heads < end].tolist():
            if int(piece.cells["kind"][index]) in (cell.RECEIPT, cell.SEGMENT_SEALED):
                promise = _promise(piece, index)
                upto = promise.position - piece.position
                if done < upto <= min(end, piece.verified):
                    done, value = upto, promise.chain
        if value is not None:
            yield Head(seq, chain.extend(value, (piece.raw[done * CELL : end * CELL],)).hex())


def chain_after(piece: Piece) -> bytes:
    """The chain behind the seal of a sealed piece."""
    seal = piece.end - 1
    return chain.extend(_promise(piece, seal).chain, (piece.raw[seal * CELL : piece.end * CELL],))


def _promise(piece: Piece, at: int) -> Promise:
    stated = piece.cells[at : at + 1].view(arrays.PROMISE_DTYPE)[0]
    return Promise(int(stated["position"]), int(stated["events"]), bytes(stated["chain"]))
