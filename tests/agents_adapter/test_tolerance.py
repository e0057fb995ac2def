"""The same data from two brokers, who round differently: the same after rounding, where that was recorded, not else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

import agents_adapter
import journal
import replay
from agents_adapter import Bars, Plan
from agents_adapter.bars import quantised_hash
from journal.storage.disk import DiskStorage
from replay.compaction import compact
from replay.compare import compare
from replay.exporting import export_events
from replay.importing import import_events
from replay.seen import Block, SeenBars, SeenList
from replay.snapshot import packed
from replay.state import State

ROOT = Path(__file__).parents[2]
STEP = 0.0001


def broker(path: Path, digits: int) -> Bars:
    """The same 60 hours, told with so many digits."""
    rng = np.random.default_rng(5)
    rows = ["time,open,high,low,close,volume"]
    price = 1.08
    for hour in range(60):
        start, price = price, price + float(rng.normal(0.0, 0.001))
        prices = (start, max(start, price) + 0.0002, min(start, price) - 0.0002, price)
        # Both round what the finer one tells, so halves are among them.
        finer = [Decimal(f"{one:.5f}") for one in prices]
        told = [one.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP) for one in finer]
        rows.append(f"2024-01-{1 + hour // 24:02d} {hour % 24:02d}:00,{','.join(map(str, told))},{hour + 7}")
    path.write_text("\n".join(rows) + "\n")
    return Bars.read(path, "EURUSD", "H1")


def train(directory: Path, agent: str, bars: Bars, tolerance: float | None, stop_in: int | None = None) -> Path:
    run = agents_adapter.start(directory, tolerance=tolerance, code="c")
    for episode in run.agent(agent, stateless=True).episodes(Plan.round_robin([bars], 20)):
        episode.observe(bars[episode.start : episode.stop])
        episode.step(1.0)
        if episode.index == stop_in:
            run.end()
            return directory
    run.finish()
    return directory


@pytest.fixture
def brokers(tmp_path: Path) -> tuple[Bars, Bars]:
    one, other = broker(tmp_path / "fine.csv", 5), broker(tmp_path / "coarse.csv", 4)
    assert (one.ohlcv != other.ohlcv).sum() > 150
    return one, other


def verdict(*directories: Path, tolerance: float | None = None, **options: Any) -> tuple[str, str]:
    found = compare({str(one): replay.load(one, whole=True) for one in directories}, tolerance=tolerance, **options)
    return found.verdict, found.reason


def test_two_brokers_are_comparable_with_the_recorded_tolerance_and_not_without(
    tmp_path: Path, brokers: tuple[Bars, Bars]
) -> None:
    one, other = train(tmp_path / "a", "PPO", brokers[0], STEP), train(tmp_path / "b", "SAC", brokers[1], STEP)
    assert verdict(one, other)[0] == "not comparable"
    said = verdict(one, other, tolerance=STEP)
    assert said == (
        "comparable",
        "2 agents saw the same bars, after rounding to multiples of 0.0001, in 3 train episodes",
    )
    assert verdict(one, other, tolerance=STEP, any_order=True, common=True)[0] == "comparable"
    assert verdict(one, other, common=True)[0] == "not provable", "as they are, they have nothing in common"
    for another in (0.001, 0.0001001):
        said = verdict(one, other, tolerance=another)
        assert said[0] == "not provable" and f"no hash of tolerance {another:g} in 3 of 3 train episodes" in said[1]


def test_other_bars_are_other_bars_at_any_tolerance(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    ohlcv = brokers[0].ohlcv.copy()
    ohlcv[25, 1] += 3 * STEP
    moved = Bars("EURUSD", "H1", brokers[0].time, ohlcv)
    one, other = train(tmp_path / "a", "PPO", brokers[0], STEP), train(tmp_path / "b", "SAC", moved, STEP)
    said = verdict(one, other, tolerance=STEP)
    assert said[0] == "not comparable" and "train episode 1 (counted from 0) differs first" in said[1]


def test_where_one_recorded_none_it_is_not_provable(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    """Also where the bars are the very same: never comparable by absence."""
    one, other = train(tmp_path / "a", "PPO", brokers[0], STEP), train(tmp_path / "b", "SAC", brokers[0], None)
    assert verdict(one, other)[0] == "comparable"
    said = verdict(one, other, tolerance=STEP)
    assert said[0] == "not provable" and "SAC recorded no hash of tolerance 0.0001 in 3 of 3" in said[1]
    third = train(tmp_path / "c", "TD3", brokers[0], 0.001)
    assert verdict(one, third, tolerance=STEP)[0] == verdict(one, third, tolerance=0.001)[0] == "not provable"


def test_declared_bars_prove_nothing_with_a_tolerance_either(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    one = train(tmp_path / "a", "PPO", brokers[0], STEP)
    with agents_adapter.start(tmp_path / "b", tolerance=STEP, code="c") as run:
        for episode in run.agent("SAC", stateless=True).episodes(Plan.round_robin([brokers[0]], 20)):
            episode.step(1.0)
    said = verdict(one, tmp_path / "b", tolerance=STEP)
    assert said[0] == "not provable" and "SAC only declared its bars" in said[1]


def test_a_resume_with_another_tolerance_records_that_from_there_on(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    train(tmp_path / "a", "PPO", brokers[0], STEP, stop_in=1)
    train(tmp_path / "a", "PPO", brokers[0], None)
    train(tmp_path / "b", "SAC", brokers[1], STEP)
    said = verdict(tmp_path / "a", tmp_path / "b", tolerance=STEP)
    assert said[0] == "not provable" and "in 2 of 3 train episodes, first in episode 1" in said[1]


@pytest.mark.parametrize("how", ["compacted", "parquet", "csv", "jsonl"])
def test_it_survives(how: Any, tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    places = []
    for name, bars in zip("ab", brokers, strict=True):
        place = train(tmp_path / name, name, bars, STEP)
        if how == "compacted":
            compact(place)
            place = train(place, name, bars, STEP)
            compact(place)
        else:
            export_events([str(place)], how, str(tmp_path / "file"), None)
            place = tmp_path / f"{name} again"
            import_events(tmp_path / "file", place)
        assert replay.verify(place, deep=True).status == "clean"
        places.append(place)
    assert verdict(*places)[0] == "not comparable"
    assert verdict(*places, tolerance=STEP)[0] == "comparable"


def test_it_survives_a_snapshot_in_the_middle_of_an_episode(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    run = agents_adapter.start(tmp_path / "a", tolerance=STEP, code="c")
    for episode in run.agent("PPO", stateless=True).episodes(Plan.round_robin([brokers[0]], 20)):
        episode.observe(brokers[0][episode.start : episode.stop])
        state = replay.load(tmp_path / "a")
        (seen,) = state.agents["PPO"].open["train", 0].bars
        assert seen.quantised_hash == brokers[0][0:20].quantised_hash(STEP)
        again = State.from_payload(msgpack.unpackb(packed(state), strict_map_key=False), lambda notes: SeenList())
        assert again.agents["PPO"].open["train", 0].bars == [seen]
        break
    run.end()


def test_the_command_line_takes_it(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    train(tmp_path / "a", "PPO", brokers[0], STEP), train(tmp_path / "b", "SAC", brokers[1], STEP)

    def journal_compare(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "replay", "compare", "a", "b", *arguments],
            cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
        )  # fmt: skip

    done = journal_compare("--tolerance", "0.0001", "--json")
    found = json.loads(done.stdout)["merged"]
    assert (done.returncode, found["verdict"], found["tolerance"]) == (0, "comparable", 0.0001)
    done = journal_compare("--json")
    found = json.loads(done.stdout)["merged"]
    assert (done.returncode, found["verdict"], found["tolerance"]) == (1, "not comparable", None)
    assert set(found["differences"][0]["other"]) >= {"content_hash", "start", "source"}
    done = journal_compare("--tolerance", "0.01")
    assert done.returncode == 1 and "not provable" in done.stdout
    for bad in ("0", "-1", "nan", "inf"):
        done = journal_compare("--tolerance", bad)
        assert done.returncode == 2 and "no step to round prices to" in done.stderr and done.stderr.count("\n") == 1


# -- the hash ----------------------------------------------------------------------------------------------------------


def hashed(values: list[float], tolerance: float = STEP) -> bytes:
    return quantised_hash(np.arange(len(values), dtype=np.int64), np.array([values] * 5, dtype=np.float64).T, tolerance)


noise = st.floats(-0.49, 0.49)


@given(
    st.lists(st.tuples(st.integers(0, 10**7), noise), min_size=1, max_size=30), st.sampled_from([1e-5, 1e-4, 0.01, 1.0])
)
def test_multiples_stay_what_they_are_under_less_than_half_a_step(steps: list[tuple[int, float]], size: float) -> None:
    assert hashed([n * size for n, _ in steps], size) == hashed([(n + d) * size for n, d in steps], size)


@given(st.lists(st.floats(0.5, 2000.0), min_size=1, max_size=5), st.integers(0, 4), st.floats(1.01, 50.0))
def test_a_change_of_more_than_a_step_is_always_seen(values: list[float], at: int, steps: float) -> None:
    changed = list(values)
    changed[at % len(values)] += steps * STEP
    assert hashed(values) != hashed(changed)


def test_a_decimals_halfway_goes_up_and_splits_what_lies_beside_it() -> None:
    """The price of rounding: two values that are near can lie on two sides."""
    for number in range(10_000, 12_000):  # None of these halves is exact in binary.
        assert hashed([float(f"1.{number}5")], 1e-5) == hashed([float(f"1.{number + 1}")], 1e-5)
    assert hashed([1.00005 - 1e-9]) != hashed([1.00005 + 1e-9])


def test_times_count_and_the_tolerance_does() -> None:
    times, ohlcv = np.arange(3, dtype=np.int64), np.ones((3, 5))
    assert quantised_hash(times, ohlcv, 0.5) != quantised_hash(times + 1, ohlcv, 0.5)
    assert quantised_hash(times, ohlcv, 0.5) != quantised_hash(times, ohlcv, 1.0)


@pytest.mark.parametrize("bad", [0, 0.0, -1.0, float("nan"), float("inf"), "x", True])
def test_a_bad_tolerance_is_refused(bad: Any, tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    with pytest.raises(journal.EventRejected, match=r"tolerance is .*: give a step to round prices to"):
        agents_adapter.start(tmp_path / "x", tolerance=bad)
    assert not (tmp_path / "x").exists()
    with pytest.raises(journal.EventRejected, match="tolerance is"):
        brokers[0].quantised_hash(bad)


def test_a_whole_number_is_taken(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    train(tmp_path / "a", "PPO", brokers[0], 1)
    assert replay.load(tmp_path / "a").agents["PPO"].bars


@pytest.mark.parametrize(
    "fields", [{"tolerance": 0.1}, {"quantised_hash": bytes(16)}, {"tolerance": 0.1, "quantised_hash": bytes(15)}]
)
def test_half_of_it_is_no_event(fields: Any) -> None:
    with pytest.raises(journal.EventRejected, match=r"tolerance and quantised_hash|must be 16 bytes"):
        journal.BarsSeen(
            agent="a", episode=0, instrument="X", timeframe="H1", start=0, stop=1, content_hash=bytes(16),
            source="observed", **fields,
        )  # fmt: skip


# -- journals of before ------------------------------------------------------------------------------------------------


def test_blocks_without_tolerances_are_those_of_before_and_are_read() -> None:
    lines = [SeenBars(number, None, "X", "H1", 0, 9, bytes(16), "observed") for number in range(3)]
    plain = msgpack.packb([*zip(*(line[:8] for line in lines), strict=True)])
    made = Block.of(lines)
    assert zstandard.ZstdDecompressor().decompress(made.packed()) == plain
    assert made.rows() == lines
    mixed = [*lines, lines[0]._replace(tolerance=0.1, quantised_hash=bytes(16))]
    assert Block.of(mixed).rows() == mixed


def test_an_event_without_a_tolerance_has_the_bytes_of_before(tmp_path: Path, brokers: tuple[Bars, Bars]) -> None:
    train(tmp_path / "a", "PPO", brokers[0], None)
    table = next(iter(replay.events(tmp_path / "a", kinds=["BarsSeen"])))
    assert set(json.loads(table["fields"][0].as_py())) == {
        "instrument", "timeframe", "start", "stop", "content_hash", "source",
    }  # fmt: skip
    assert compare(replay.load(DiskStorage(tmp_path / "a")), tolerance=STEP).verdict == "not provable"
