"""Plans: the same everywhere, refused by the number of the entry, and seeds that hang on the entry alone."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agents_adapter.bars import Bars
from agents_adapter.plan import Plan, PlanEntry
from journal.errors import EventRejected


def bars(instrument: str, length: int, timeframe: str = "H1") -> Bars:
    ohlcv = np.repeat(1.0 + np.arange(length)[:, None], 5, axis=1)
    return Bars(
        instrument,
        timeframe,
        np.arange(length) * (1_800_000_000_000 if timeframe == "M30" else 3_600_000_000_000),
        ohlcv,
    )


ENTRIES = st.builds(
    lambda name, start, length, seed, params: PlanEntry(name, "H1", start, start + length, seed, params),
    st.sampled_from(["EURUSD", "Gold ä"]),
    st.integers(0, 10**6),
    st.integers(1, 1000),
    st.none() | st.integers(0, 2**63 - 1),
    st.none()
    | st.dictionaries(
        st.text(),
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False),
    ),
)
PLANS = st.lists(ENTRIES, min_size=1, unique_by=lambda e: json.dumps(e.to_payload())).map(Plan)


@settings(max_examples=60, deadline=None)
@given(PLANS)
def test_a_recorded_plan_is_the_same_plan(plan: Plan) -> None:
    back = Plan.from_payload(msgpack.unpackb(msgpack.packb(plan.to_payload())))
    assert back == plan and back.hash == plan.hash and list(back) == list(plan)
    assert Plan.from_payload(json.loads(plan.canonical)) == plan


def test_the_hash_is_fixed() -> None:
    """A hash that changes between versions would refuse every resume."""
    plan = Plan(
        [
            ("EURUSD", "H1", 0, 240, 7, {"b": 1, "a": 0.5}),
            {"instrument": "Gäld", "timeframe": "D1", "start": 1, "stop": 2},
        ]
    )
    assert plan.hash == "de8aec56aadbcad82d22bb46f08bdbb6f0d31e2fbf5e1b9db37f532c936d1d79"


def test_equal_plans_have_equal_hashes_and_others_other() -> None:
    base = ("EURUSD", "H1", 0, 10, 1, {"a": 1, "b": 2})
    plan = Plan([base])
    assert (
        Plan([("EURUSD", "H1", np.int64(0), np.int32(10), np.uint8(1), {"b": 2, "a": np.int64(1)})]).hash == plan.hash
    )
    for other in (
        ("EURUSD", "H1", 0, 10, 2, {"a": 1, "b": 2}),
        ("EURUSD", "H1", 0, 11, 1, {"a": 1, "b": 2}),
        ("EURUSD", "H4", 0, 10, 1, {"a": 1, "b": 2}),
        ("GBPUSD", "H1", 0, 10, 1, {"a": 1, "b": 2}),
        ("EURUSD", "H1", 0, 10, 1, {"a": 1, "b": 3}),
        ("EURUSD", "H1", 0, 10, 1),
    ):
        assert Plan([other]).hash != plan.hash


def test_a_plan_is_a_sequence() -> None:
    plan = Plan.from_list([("A", "H1", 0, 10), ("B", "H1", 0, 10), ("A", "H1", 10, 20)])
    assert len(plan) == 3 and plan[1].instrument == "B" and plan[-1].start == 10
    assert plan[:2] == Plan(list(plan)[:2]) and plan.instruments == ("A", "B")
    assert plan[0].length == 10 and len({*plan}) == 3


# -- refusals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (("A", "H1", 10, 10), "start is 10, stop is 10: start must be below stop"),
        (("A", "H1", 10, 9), "start must be below stop"),
        (("A", "H1", -1, 9), "start is -1"),
        (("A", "H1", 0, -1), "stop is -1"),
        (("A", "H1", 0, 9, -1), "seed is -1"),
        (("A", "H1", 0, 2**63), "stop is"),
        (("A", "H1", 0.0, 9), "start is 0.0"),
        (("A", "H1", False, 9), "start is False"),
        (("A", "H1", "0", 9), "start is '0'"),
        (("A", "H1", None, 9), "start is None"),
        (("A", "H1", 0, 9, 1.5), "seed is 1.5"),
        (("", "H1", 0, 9), "instrument is ''"),
        (("A/B", "H1", 0, 9), "instrument is 'A/B'"),
        ((None, "H1", 0, 9), "instrument is None"),
        (("A", "", 0, 9), "timeframe is ''"),
        (("A", "H1"), "missing 2 required positional arguments.*give instrument, timeframe, start, stop"),
        (("A", "H1", 0, 9, 1, None, None, 5), "give instrument, timeframe, start, stop"),
        (("A", "H1", 0, 9, 1, None, "abc"), "content is 'abc': give 32 hexadecimal digits"),
        ({"instrument": "A", "timeframe": "H1", "start": 0, "end": 9}, "unexpected keyword argument 'end'"),
        (("A", "H1", 0, 9, 1, [1]), "params is"),
        (("A", "H1", 0, 9, 1, {"f": print}), "is not JSON"),
        (("A", "H1", 0, 9, 1, {"f": float("nan")}), "is not JSON"),
        (("A", "H1", 0, 9, 1, {"a": [{1: 2}]}), "a key that is no text"),
        (("A", "H1", 0, 9, 1, {"a": 2**64}), "params cannot be recorded"),
        (("A", "H1", 0, 9, 1, {"a": "\udcff"}), "params cannot be recorded"),
        ("A H1 0 9", "is no entry"),
        (7, "is no entry"),
        (("OK", "H1", 5, 6), "repeats entry 0"),
    ],
)
def test_a_bad_entry_is_named_by_its_number(entry: Any, what: str) -> None:
    with pytest.raises(EventRejected, match=f"^plan entry 2:? .*{what}") as caught:
        Plan([("OK", "H1", 5, 6), ("OK", "H1", 6, 7), entry])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("entries", [[], (), iter([])])
def test_an_empty_plan_is_refused(entries: Any) -> None:
    with pytest.raises(EventRejected, match="the plan is empty"):
        Plan(entries)


@pytest.mark.parametrize("entries", [None, "EURUSD", {"EURUSD": 1}, 5])
def test_what_is_no_list_is_refused(entries: Any) -> None:
    for make in (Plan, Plan.from_list, Plan.from_payload):
        with pytest.raises(EventRejected, match="a list"):
            make(entries)


def test_params_of_an_entry_are_its_own() -> None:
    params = {"spread": [1]}
    entry = PlanEntry("A", "H1", 0, 9, None, params)
    params["spread"].append(2)
    assert entry.params == {"spread": [1]}


def test_check_names_what_the_bars_lack() -> None:
    plan = Plan([("A", "H1", 0, 9), ("A", "H1", 5, 100), ("B", "H1", 0, 9)])
    plan.check({"A": bars("A", 100), "B": 9})
    with pytest.raises(EventRejected, match=r"^plan entry 2: instrument 'B' is absent from the bars given \(A\)"):
        plan.check({"A": bars("A", 100)})
    with pytest.raises(EventRejected, match=r"^plan entry 1: bars \[5, 100\) of A H1 lie outside its 99 bars"):
        plan.check({"A": 99, "B": 9})
    with pytest.raises(EventRejected, match=r"^plan entry 0: A is planned in H1, its bars are M30"):
        plan.check({"A": bars("A", 100, "M30"), "B": 9})


# -- making plans ------------------------------------------------------------------------------------------------------


def test_round_robin_takes_turns_and_starts_over() -> None:
    plan = Plan.round_robin([bars("A", 25), bars("B", 10)], 10, 5)
    shown = [(entry.instrument, entry.start, entry.stop) for entry in plan]
    assert shown == [("A", 0, 10), ("B", 0, 10), ("A", 10, 20), ("A", 0, 10), ("B", 0, 10)]
    assert plan[0].seed != plan[3].seed
    assert len(Plan.round_robin({"A": 25, "B": 10}, 10, timeframe="H1")) == 3
    assert [e.start for e in Plan.round_robin(bars("A", 25), 10, stride=5, params={"x": 1})] == [0, 5, 10, 15]


def test_random_windows_hang_on_the_seed_alone() -> None:
    state = np.random.get_state(legacy=False)["state"]["key"].copy()
    np.random.seed(1)
    plan = Plan.random([bars("A", 100), bars("B", 10)], 10, 200, seed=3)
    np.random.seed(2)
    assert Plan.random([bars("A", 100), bars("B", 10)], 10, 200, seed=3) == plan
    assert Plan.random([bars("A", 100), bars("B", 10)], 10, 200, seed=4) != plan
    assert {e.instrument for e in plan} == {"A", "B"} and {e.start for e in plan if e.instrument == "B"} == {0}
    assert max(e.stop for e in plan) <= 100 and len({e.seed for e in plan}) == 200
    assert len(state) == 624


def test_seeds_hang_on_the_root_and_the_entry_not_on_the_place() -> None:
    entries: list[Any] = [("A", "H1", n, n + 10) for n in range(50)]
    seeds = {e.start: e.seed for e in Plan.from_list(entries, seed=7)}
    assert {e.start: e.seed for e in Plan.from_list(entries[::-1], seed=7)} == seeds
    assert {e.start: e.seed for e in Plan.from_list(entries[:3], seed=7)}.items() <= seeds.items()
    other = {e.start: e.seed for e in Plan.from_list(entries, seed=8)}
    assert not set(other.values()) & set(seeds.values()) and len(set(seeds.values())) == 50
    assert all(seed is not None and 0 <= seed < 2**32 for seed in seeds.values())


def test_given_seeds_stay_and_repeated_entries_get_seeds_of_their_own() -> None:
    plan = Plan.from_list([("A", "H1", 0, 9, 5), ("A", "H1", 0, 9), ("A", "H1", 0, 9)], seed=1)
    assert plan[0].seed == 5 and len({e.seed for e in plan}) == 3
    with pytest.raises(EventRejected, match="entry 2 repeats entry 1"):
        Plan.from_list([("A", "H1", 0, 9, 5), ("A", "H1", 0, 9), ("A", "H1", 0, 9)])


def test_a_plan_is_the_same_in_another_process() -> None:
    code = "from agents_adapter.plan import Plan; print(Plan.random({'A': 999}, 10, 20, seed=1, timeframe='H1').hash)"
    hashes = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": "."},
        ).stdout.strip()
        for seed in ("1", "2")
    }
    assert hashes == {Plan.random({"A": 999}, 10, 20, seed=1, timeframe="H1").hash}


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda: Plan.round_robin(bars("A", 5), 10), "A has 5 bars, an episode takes 10"),
        (lambda: Plan.round_robin(bars("A", 5), 0), "episode_bars is 0"),
        (lambda: Plan.round_robin(bars("A", 50), -1), "episode_bars is -1"),
        (lambda: Plan.round_robin(bars("A", 50), 10, 0), "episodes is 0"),
        (lambda: Plan.round_robin(bars("A", 50), 10, stride=0), "stride is 0"),
        (lambda: Plan.round_robin({"A": 50}, 10), "add timeframe="),
        (lambda: Plan.round_robin({"A": "50"}, 10, timeframe="H1"), "the number of bars of 'A'"),
        (lambda: Plan.round_robin({}, 10), "empty"),
        (lambda: Plan.round_robin(bars("A", 50), 10, 6, seed=None), "entry 5 repeats entry 0"),
        (lambda: Plan.random(bars("A", 50), 10, 5, seed=-1), "seed is -1"),
        (lambda: Plan.random(bars("A", 50), 10, 5, seed=None), "seed is None"),  # type: ignore[arg-type]
        (lambda: Plan.random(bars("A", 50), 60, 5, seed=1), "give more bars"),
    ],
)
def test_what_cannot_be_planned_is_told(call: Any, what: str) -> None:
    with pytest.raises(EventRejected, match=what):
        call()
