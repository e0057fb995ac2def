"""Arrow's arrays, held against those that `pa.array` makes; and that nobody imports pandas for them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import journal
from replay import arrow


@given(st.lists(st.integers(0, 2**64 - 1)), st.lists(st.floats(allow_nan=False)))
def test_numbers_are_those_of_arrow(whole: list[int], real: list[float]) -> None:
    assert arrow.numbers(np.array(whole, dtype=np.uint64)).equals(pa.array(whole, pa.uint64()))
    assert arrow.numbers(np.array(real)).equals(pa.array(real, pa.float64()))


def test_a_column_of_one_number_or_of_every_other_is_whole_in_memory() -> None:
    assert arrow.numbers(np.broadcast_to(np.uint16(7), 3)).to_pylist() == [7, 7, 7]
    assert arrow.numbers(np.arange(6)[::2]).to_pylist() == [0, 2, 4]


def test_times_and_nulls() -> None:
    type_ = pa.timestamp("ns", tz="UTC")
    made = arrow.numbers(np.array([5, 0, 7]), type_, np.array([True, False, True]))
    made.validate(full=True)
    assert made.equals(pa.array([5, None, 7], type_))


@given(st.lists(st.text()))
def test_texts_are_those_of_arrow(values: list[str]) -> None:
    made = arrow.texts(values)
    made.validate(full=True)
    assert made.equals(pa.array(values, pa.string()))


@pytest.mark.parametrize("index", [[], [1, 0, 1], [-1, 1, -1, 0, 0, 0, 0, 0, -1]])
def test_coded_texts_are_null_where_there_is_none(index: list[int]) -> None:
    made = arrow.coded(np.array(index, dtype=np.int32), ["a", "ä"])
    made.validate(full=True)
    assert made.to_pylist() == [None if one < 0 else ["a", "ä"][one] for one in index]


@given(st.integers(21, 40), st.dictionaries(st.integers(0, 20), st.binary(max_size=9)))
def test_a_sparse_column_holds_its_values_whatever_their_order(length: int, values: dict[int, bytes]) -> None:
    made = arrow.sparse(length, values, pa.binary())
    made.validate(full=True)
    assert made.equals(pa.array([values.get(row) for row in range(length)], pa.binary()))
    as_text = arrow.sparse(length, {row: (one.hex() + "é").encode() for row, one in values.items()}, pa.string())
    as_text.validate(full=True)
    assert as_text.to_pylist() == [values[row].hex() + "é" if row in values else None for row in range(length)]


def test_a_compaction_does_not_import_pandas(tmp_path: Path) -> None:
    """It takes as long as half a million events, and 26 MB."""
    with journal.open(tmp_path / "j") as log:
        log.append(journal.RunStarted(run="r", config={"a": 1}))
        log.append(journal.EpisodeStarted(agent="PPO", episode=0))
        for step in range(9):
            log.reward(log.agent("PPO"), 0, step, 0.5)
        log.append(journal.EpisodeEnded(agent="PPO", episode=0, reason="terminated"))
    work = "import sys; from replay.compaction import compact; compact(sys.argv[1]); sys.exit('pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", work, str(tmp_path / "j")], check=False).returncode == 0
