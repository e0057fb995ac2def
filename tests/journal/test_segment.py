"""A segment's header: what it says is what was written, and what does not check or cannot be is told in words."""

from __future__ import annotations

import pytest
from crc32c import crc32c

import journal
from journal import arrays, cell, segment
from journal.cell import CELL
from journal.segment import Header

HEADER = Header(journal_id=bytes(range(16)), ordinal=7, salt=0xDEADBEEF, size=4096, created_ns=-5)


def with_field(offset: int, value: int, width: int) -> bytes:
    """The header with another number in it, and a checksum that fits."""
    raw = bytearray(HEADER.pack())
    raw[offset : offset + width] = value.to_bytes(width, "little")
    raw[60:] = crc32c(bytes(raw[:60])).to_bytes(4, "little")
    return bytes(raw)


def test_a_header_is_one_cell_and_gives_back_what_it_was_given() -> None:
    raw = HEADER.pack()
    assert len(raw) == CELL
    assert Header.parse(raw, "") == HEADER
    assert Header.parse(raw + b"cells", "") == HEADER
    assert raw == with_field(40, 4096, 8), "the checksum is of all bytes before it"


def test_every_flipped_bit_of_a_header_is_seen() -> None:
    for bit in range(8 * CELL):
        raw = bytearray(HEADER.pack())
        raw[bit // 8] ^= 1 << bit % 8
        told = Header.parse(bytes(raw), "")
        assert told == (
            "the file does not begin as a segment does" if bit < 64 else "the segment's header does not check"
        )


def test_half_a_header_is_none() -> None:
    assert Header.parse(HEADER.pack()[:-1], "") == "the file has 63 bytes, less than its header"


@pytest.mark.parametrize("size", [2 * CELL, segment.SIZE_LIMIT])
def test_a_size_that_can_be_is_believed(size: int) -> None:
    told = Header.parse(with_field(40, size, 8), "")
    assert isinstance(told, Header) and told.size == size


@pytest.mark.parametrize("size", [0, CELL, 2 * CELL - 1, 2 * CELL + 1, segment.SIZE_LIMIT + CELL, 1 << 63])
def test_a_size_that_cannot_be_is_not(size: int) -> None:
    assert Header.parse(with_field(40, size, 8), "") == f"the segment's header claims {size} bytes"


@pytest.mark.parametrize("version", [0, 2])
def test_another_format_is_refused_with_both_versions(version: int) -> None:
    with pytest.raises(journal.UnsupportedFormat, match=rf"^segments/x.*format {version}, .* reads format 1"):
        Header.parse(with_field(8, version, 4), "segments/x")


def test_a_name_is_eight_digits() -> None:
    assert segment.path_of(7) == "segments/00000007.seg"
    assert segment.ordinal_of("00000007.seg") == 7
    assert segment.ordinal_of("12345678.seg") == 12345678
    others = ("0000007.seg", "000000007.seg", "00000007.seg.tmp", "x00000007.seg", "00000007.seg\n", "journal.json")
    assert [segment.ordinal_of(name) for name in others] == [None] * len(others)


def test_segments_grow_between_1_and_32_mib_and_keep_64_kib() -> None:
    """What a new journal takes on disk, and what a full disk leaves for a run's end."""
    assert (segment.SIZE_MIN, segment.SIZE_MAX, segment.RESERVE) == (1 << 20, 32 << 20, 64 << 10)
    assert segment.SIZE_LIMIT == 1 << 30


@pytest.mark.parametrize("length", [0, 1, 64, 100])
def test_the_opened_mark_says_where_it_stands(length: int) -> None:
    content = bytes(range(length))
    raw = segment.opened(content, 11, 12, salt=3, position=99)
    cells = arrays.view(raw)
    assert len(raw) % CELL == 0 and len(cells) == 1 + -(-length // CELL)
    assert (int(cells["kind"][0]), int(cells["seq"][0]), int(cells["time_ns"][0])) == (cell.SEGMENT_OPENED, 11, 12)
    assert int(cells["episode"][0]) == 99, "its position"
    assert arrays.first_bad(memoryview(raw), cells, arrays.heads(cells), 3, 99) is None
    assert bytes(arrays.payload(memoryview(raw), cells, 0)) == content
