"""One cell, written down three times (the box in the docstring, `struct`, numpy): they must agree, byte by byte."""

from __future__ import annotations

import re
from struct import calcsize

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from journal import arrays, cell

FIELDS = list(arrays.CELL_DTYPE.names or ())
WIDTHS = {"crc": 4, "kind": 2, "extent": 2, "seq": 8, "time_ns": 8, "pad": 1, "flags": 1, "form": 2, "payload_crc": 4}
WIDTHS |= {"agent": 4, "env_index": 4, "episode": 8, "step": 8, "value": 8}


def boxes() -> dict[str, int]:
    """Field → byte offset, as drawn in journal/cell.py: each box is a line of offsets over lines of words."""
    found: dict[str, int] = {}
    lines = (cell.__doc__ or "").splitlines()
    for number, line in enumerate(lines):
        if re.fullmatch(r"[\d ]+", line) and len(line.split()) > 2:
            offsets = [int(word) for word in line.split()]
            columns = [match.start() for match in re.finditer(r"\d+", line)]
            rows = [lines[number + 2], lines[number + 3] if "|" in lines[number + 3] else ""]
            for offset, start, stop in zip(offsets[:-1], columns, columns[1:], strict=False):
                words = [row[start : stop - 1].strip("| ") for row in rows]
                name = "_".join(word for word in words if word and word != "float64").replace("__", "_")
                if name:
                    found[name] = offset
    return found


def test_the_box_in_the_docstring_is_the_dtype() -> None:
    fields = arrays.CELL_DTYPE.fields
    assert fields is not None
    assert boxes() == {name: fields[name][1] for name in FIELDS}


def test_struct_and_dtype_have_the_same_layout() -> None:
    assert [arrays.CELL_DTYPE[name].itemsize for name in FIELDS] == list(WIDTHS.values())
    assert calcsize(cell.PUBLISH.format) == calcsize("<I") + cell.BODY.size == arrays.CELL_DTYPE.itemsize == 64
    # A number of its own for each field, packed by struct, is found in that field by numpy.
    numbers = {name: at + 1 for at, name in enumerate(FIELDS)}
    body = cell.BODY.pack(*(numbers[name] for name in FIELDS[1:]))
    one = arrays.view(cell.PUBLISH.pack(numbers["crc"], body))[0]
    assert {name: int(one[name]) for name in FIELDS} == numbers


def test_a_promise_and_a_batch_share_the_cell() -> None:
    chain = bytes(range(24))
    raw = cell.pack_promise(cell.RECEIPT, 7, -5, 1234, 99, chain, salt=3, at=11)
    one = arrays.view(raw)
    stated = one.view(arrays.PROMISE_DTYPE)[0]
    assert (int(one["kind"][0]), int(one["seq"][0]), int(one["time_ns"][0])) == (cell.RECEIPT, 7, -5)
    assert (int(stated["position"]), int(stated["events"]), bytes(stated["chain"])) == (1234, 99, chain)
    count = int(one.view(arrays.COUNT)["count"][0])
    assert count == int.from_bytes(raw[56:64], "little")


def good(raw: bytes, salt: int, position: int) -> bool:
    return arrays.first_bad(memoryview(raw), arrays.view(raw), np.array([0]), salt, position) is None


@given(st.binary(max_size=300), st.integers(0, 2**32 - 1), st.integers(0, 2**40))
def test_a_cell_checks_only_with_its_own_salt_and_position(payload: bytes, salt: int, position: int) -> None:
    head = cell.pack_head(cell.CUSTOM, 5, 6, payload, salt=salt, at=position, agent=3, value=1.5)
    extent, pad = cell.extent_of(len(payload))
    raw = head + payload + bytes(pad)
    assert len(raw) == 64 * (1 + extent)
    assert good(raw, salt, position)
    assert not good(raw, salt ^ 1, position)
    assert not good(raw, salt, position + 1)
    assert bytes(arrays.payload(memoryview(raw), arrays.view(raw), 0)) == payload


def test_what_an_event_does_not_say_is_zero() -> None:
    one = arrays.view(cell.pack_head(cell.CUSTOM, 5, 6, salt=77, at=4))[0]
    assert {name for name in FIELDS if one[name]} == {"crc", "kind", "seq", "time_ns"}
    assert arrays.view(cell.pack_head(cell.CUSTOM, 5, 6, b"x", salt=77, at=4))[0]["payload_crc"]


@pytest.mark.parametrize("length", [0, 1, 63, 64, 65, 200])
def test_every_flipped_bit_of_a_cell_and_its_payload_is_seen(length: int) -> None:
    payload = bytes(range(length))
    raw = cell.pack_head(cell.CUSTOM, 5, 6, payload, salt=77, at=4, agent=3) + payload
    raw += bytes(cell.extent_of(length)[1])
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        heads = arrays.heads(arrays.view(bytes(flipped)))
        assert 0 not in heads or not good(bytes(flipped), 77, 4), f"bit {bit} of byte {bit // 8}"


def test_zeros_are_never_a_cell() -> None:
    raw = bytes(64 * 5)
    assert len(arrays.heads(arrays.view(raw))) == 0
    assert not good(raw, 0, 0)


@given(st.lists(st.integers(0, 5), max_size=40), st.integers(0, 3))
def test_heads_skip_payloads_and_stop_at_zeros_and_at_a_payload_that_is_not_all_there(
    extents: list[int], cut: int
) -> None:
    raw, expected = b"", []
    for extent in extents:
        expected.append(len(raw) // 64)
        # Payload cells that look like heads themselves, and some like zeros.
        raw += cell.pack_head(cell.CUSTOM, 0, 0, b"x" * 64 * extent, salt=0, at=0) + (bytes(64) + b"\xff" * 64) * 3
        raw = raw[: 64 * (expected[-1] + 1 + extent)]
    whole = arrays.view(raw + bytes(64 * 3))
    assert arrays.heads(whole).tolist() == expected
    short = raw[: len(raw) - 64 * cut]
    kept = [at for at, extent in zip(expected, extents, strict=True) if 64 * (at + 1 + extent) <= len(short)]
    assert arrays.heads(arrays.view(short)).tolist() == kept


def test_kinds_are_numbered_once_and_for_all() -> None:
    """They are on people's disks: this list only grows."""
    numbers = {name: value for name, value in vars(cell).items() if name.isupper() and isinstance(value, int)}
    kinds = "NAME_GIVEN RUN_STARTED RUN_ENDED ATTEMPT_STARTED ATTEMPT_ENDED EPISODE_STARTED EPISODE_ENDED BARS_SEEN "
    kinds += "REWARDED REWARDS METRIC_LOGGED CHECKPOINT_SAVED REWOUND PLAN_RECORDED CUSTOM"
    assert [numbers[name] for name in kinds.split()] == list(range(1, 16))
    marks = ("MARK_FIRST", "RECEIPT", "SEGMENT_OPENED", "SEGMENT_SEALED")
    assert [numbers[name] for name in marks] == [0xFF00, 0xFF01, 0xFF02, 0xFF03]


def test_the_largest_payload_is_below_4_mib() -> None:
    assert cell.extent_of(cell.PAYLOAD_MAX) == (0xFFFF, 0)
    assert cell.PAYLOAD_MAX == 4_194_240 < 4 << 20
    assert cell.extent_of(0) == (0, 0)
    assert cell.extent_of(1) == (1, 63)


def test_heads_are_found_alike_however_many_of_one_extent_follow_each_other() -> None:
    """They are looked at many at once; held against looking at one after the other."""
    rng = np.random.default_rng(11)
    for trial in range(300):
        cells = np.zeros(int(rng.integers(1, 700)), dtype=arrays.CELL_DTYPE)
        cells["kind"] = cell.REWARDED
        if trial % 3 == 0:
            cells["extent"] = rng.integers(0, 4, len(cells))
        elif trial % 3 == 1:
            cells["extent"][rng.integers(0, len(cells), 3)] = rng.integers(0, 9)
        else:
            cells["extent"] = rng.integers(0, 3)
        if trial % 2:
            cells["kind"][rng.integers(0, len(cells))] = 0
        expected, at = [], 0
        while at < len(cells) and cells["kind"][at] and at + int(cells["extent"][at]) < len(cells):
            expected.append(at)
            at += 1 + int(cells["extent"][at])
        found = arrays.heads(cells)
        assert found.tolist() == expected
        assert arrays.at(cells, found).tobytes() == cells[found].tobytes()
        assert arrays.column(cells, "extent", found).tolist() == cells["extent"][found].tolist()


@pytest.mark.parametrize("gaps", [0, 2, 150])
def test_cells_are_put_where_they_belong_in_stretches_or_one_by_one(gaps: int) -> None:
    rng = np.random.default_rng(gaps)
    what = np.frombuffer(rng.bytes(64 * 300), dtype=arrays.CELL_DTYPE)
    found = np.delete(np.arange(300 + gaps), rng.choice(np.arange(1, 299 + gaps), gaps, replace=False))
    expected = np.full((300 + gaps, 64), 7, dtype=np.uint8)
    target = expected.copy().reshape(-1).view(arrays.CELL_DTYPE)
    for at, one in zip(found.tolist(), what, strict=True):
        expected[at] = np.frombuffer(one.tobytes(), dtype=np.uint8)
    arrays.put(target, found, what)
    assert target.tobytes() == expected.tobytes()
    arrays.put(target, found[:0], what[:0])
    assert target.tobytes() == expected.tobytes()
