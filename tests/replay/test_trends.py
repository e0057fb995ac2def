"""Trends: the same figures as the totals, apart by run, instrument, day and stretch; and what may be said of them."""

from __future__ import annotations

import math
import random
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import journal
import replay
from journal.storage import Storage
from journal.storage.memory import MemoryStorage
from replay import rows, trends
from replay.compaction import compact
from replay.loading import load
from replay.outlook import outlook, sparkline
from replay.state import State
from replay.totals import PHASES, Totals
from replay.trends import STRETCHES, Figures, Spread, Trends

sys.path.insert(0, str(Path(__file__).parent))
from commands import Run, document
from logs import record
from model import AGENTS, Model, commands, figures
from trainings import begin, end, play, save

DAY = 86_400_000_000_000


# -- against the totals and the obvious model --------------------------------------------------------------------------


def summed(part: dict[Any, Figures]) -> tuple[int, int, Fraction, int, int]:
    """Episodes, steps, exact reward, NaN and infinite ones, over all rows."""
    whole = Figures()
    for row in part.values():
        whole.merge(row)
    exact = Fraction(whole.reward.total.units, 1 << 1074)
    return whole.episodes, whole.steps, exact, whole.nan_rewards, whole.infinite_rewards + whole.reward.odd


def of_totals(totals: Totals) -> tuple[int, int, Fraction, int, int]:
    exact = Fraction(totals.reward.units, 1 << 1074)
    return totals.episodes, totals.steps, exact, totals.nan_rewards, totals.infinite_rewards


def check(state: State, model: Model) -> None:
    for name, agent in state.agents.items():
        for phase in PHASES:
            effective, spent = agent.effective_trends(phase), agent.spent_trends(phase, state.current_run)
            for part in (effective.runs, effective.instruments, effective.days, effective.life):
                assert summed(part) == of_totals(agent.effective[phase])
            within = [e for e in model.spent[name] if e["phase"] == phase]
            within += [e for (who, one, _), e in model.open.items() if (who, one) == (name, phase)]
            for part in (spent.runs, spent.instruments, spent.days, spent.life):
                assert summed(part) == figures(within, None)
            assert sum(row.time_ns for row in effective.runs.values()) == agent.effective[phase].time_ns
            assert sum(row.time_ns for row in spent.days.values()) == agent.spent[phase].time_ns
            for run, row in effective.runs.items():
                ended = [e for e in model.ended[name] if e["phase"] == phase and (e["run"] or "") == run]
                assert summed({run: row}) == figures(ended, None)
                lengths = [len(e["rewards"]) for e in ended]
                if lengths:
                    spread = row.metrics["length"]
                    assert (spread.count, float(spread.total)) == (len(lengths), sum(lengths))
                    assert (spread.least, spread.greatest) == (min(lengths), max(lengths))
                    assert set(row.metrics) == {"length"}, "a text is no number"


@settings(max_examples=25, deadline=None)
@given(sessions=st.lists(st.tuples(commands, st.booleans()), min_size=1, max_size=3))
def test_rows_add_up_to_the_totals_and_survive_compaction(sessions: list[tuple[list[Any], bool]]) -> None:
    storage, model = MemoryStorage(), Model()
    for script, compacts in sessions:
        record(storage, [("run", False), *script], model)
        check(load(storage), model)
        model._cut(None)
        record(storage, [("run", True), ("run", True)], model)
        if compacts:
            compact(storage)
            check(load(storage), model)


@settings(max_examples=15, deadline=None)
@given(scripts=st.tuples(commands, commands))
def test_merged_rows_are_the_rows_of_both(scripts: tuple[list[Any], list[Any]]) -> None:
    states = []
    for script in scripts:
        storage = MemoryStorage()
        record(storage, script)
        states.append(load(storage))
    merged = replay.merge(*states)
    for name in AGENTS:
        for phase in PHASES:
            both = Trends()
            for state in states:
                if name in state.agents:
                    both.merge(state.agents[name].spent_trends(phase, state.current_run))
            if name in merged.agents:
                assert merged.agents[name].spent_trends(phase, None) == both


episodes = st.lists(
    st.tuples(st.integers(0, 5000), st.sampled_from(["a", "b"]), st.floats(-9, 9), st.integers(0, 3)), max_size=30
)


@settings(max_examples=50, deadline=None)
@given(episodes=episodes, data=st.data())
def test_any_order_and_grouping_give_the_same_rows(episodes: list[Any], data: st.DataObject) -> None:
    def of(some: list[Any]) -> Trends:
        found = Trends()
        for number, run, value, day in some:
            found.add(number, run, [run.upper(), "X"], day * DAY + 5, Figures.of(1, value, 0, 0, {f"m{day}": value}))
        return found

    whole = of(episodes)
    shuffled = data.draw(st.permutations(episodes))
    at = data.draw(st.integers(0, len(shuffled)))
    parts = [of(shuffled[:at]), of(shuffled[at:])]
    parts[0].merge(parts[1])
    assert parts[0] == whole
    assert Trends.from_payload(whole.to_payload()) == whole
    assert len(whole.life) <= STRETCHES and (not episodes or max(whole.life) < STRETCHES)
    assert set(whole.instruments) <= {"A + X", "B + X"}


def test_of_very_many_metrics_the_first_by_name_are_kept_however_they_came(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trends, "METRICS_MAX", 3)
    names = [f"m{i}" for i in range(9)]
    for seed in range(20):
        random.Random(seed).shuffle(names)
        figures = Figures()
        for name in names:
            figures.merge(Figures.of(1, 0.0, 0, 0, {name: 1, "m0": 2}))
        assert {name: one.count for name, one in figures.metrics.items()} == {"m0": 9, "m1": 1, "m2": 1}


def test_spread_of_values() -> None:
    spread = Spread()
    for value in (0.1, 0.3, math.nan, -0.0, math.inf):
        spread.add(value)
    assert (spread.count, spread.odd, spread.least, spread.greatest) == (3, 2, 0.0, 0.3)
    assert spread.mean == pytest.approx(0.4 / 3) and spread.variance == pytest.approx(0.07 / 3)
    near = Spread()
    for value in (1e9 + 1, 1e9 + 2, 1e9 + 3):
        near.add(value)
    assert near.variance == pytest.approx(1.0, abs=1e-6)
    assert math.isnan(Spread().mean) and math.isnan(Spread().variance)
    huge = Spread()
    for _ in range(2):
        huge.add(1e300)
    assert huge.variance >= 0


# -- rewinds, checkpoints, snapshots -----------------------------------------------------------------------------------


def retiring(storage: Storage) -> None:
    """Checkpoints of which the older ones are retired, then a rewind to the oldest that stays."""
    with journal.open("j", storage=storage) as log:
        begin(log)
        paths = []
        for number in range(5):
            paths.append(save(log, "PPO", number, retired=paths[-3:-2]))
            play(log, "PPO", [10 * number], first=number)
        seq = load(storage).agents["PPO"].checkpoints[-2].seq
        log.append(journal.Rewound(agent="PPO", to_seq=seq))
        play(log, "PPO", [30], first=3)


def test_a_retired_checkpoint_hands_on_what_led_to_it() -> None:
    storage = MemoryStorage()
    retiring(storage)
    agent = load(storage).agents["PPO"]
    assert len(agent.checkpoints) < 4
    assert agent.effective_trends("train").life.keys() == {0, 1, 2, 3}
    assert agent.spent_trends("train", None).runs["r1"].episodes == agent.spent["train"].episodes == 6
    assert agent.effective_trends("train").runs["r1"].episodes == agent.effective["train"].episodes == 4


def without_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """States are written as they were before there were trends."""
    whole = State.to_payload

    def before(self: State, *seen: Any) -> dict[str, Any]:
        payload = whole(self, *seen)
        del payload["trends_since"]
        for agent in payload["agents"].values():
            del agent["trends"], agent["superseded"]
            for checkpoint in agent["checkpoints"]:
                del checkpoint["trends"]
        return payload

    monkeypatch.setattr(State, "to_payload", before)


def test_an_old_snapshot_without_trends_is_made_good_from_history() -> None:
    storage = MemoryStorage()
    retiring(storage)
    expected = {by: rows.rows(load(storage), by) for by in rows.BY}
    assert len(expected["run"]) == 1 and expected["run"][0]["spent_total_episodes"] == 6
    with pytest.MonkeyPatch.context() as old:
        without_any(old)
        compact(storage)
    state = load(storage)
    assert state.trends_since == state.events > 0
    assert {by: rows.rows(state, by) for by in rows.BY} == expected
    assert state.trend("PPO").episodes == 4
    assert replay.verify(storage, deep=True).status == "clean"
    with journal.open("j", storage=storage) as log:
        play(log, "PPO", [40], first=4)
    compact(storage)
    assert load(storage).trends_since == 0
    assert load(storage).agents["PPO"].effective_trends("train").life.keys() == {0, 1, 2, 3, 4}
    assert replay.verify(storage, deep=True).status == "clean"


def test_trends_outlive_dropped_history_and_say_where_they_begin(run: Run, place: Path, tmp_path: Path) -> None:
    compact(place, drop_history=True)
    assert replay.load(place).by_run["total_episodes"].tolist() == [3, 3]
    from trainings import train

    train(tmp_path / "old")
    with pytest.MonkeyPatch.context() as old:
        without_any(old)
        compact(tmp_path / "old", drop_history=True)
    assert "known from seq" in run("trends", tmp_path / "old")[1]


# -- tables ------------------------------------------------------------------------------------------------------------


def trained(directory: Path, rewards: list[float], metrics: bool = True) -> Path:
    """One agent, an episode of one step for each reward, on two instruments by turns."""
    with journal.open(directory, sync="close") as log:
        begin(log)
        for number, value in enumerate(rewards):
            log.append(journal.EpisodeStarted(agent="PPO", episode=number))
            log.reward(log.agent("PPO"), number, 0, value)
            log.append(
                journal.BarsSeen(
                    agent="PPO",
                    episode=number,
                    instrument=("EURUSD", "XAUUSD")[number % 2],
                    timeframe="H1",
                    start=0,
                    stop=9,
                    content_hash=None,
                    source="declared",
                )
            )
            given = {"pnl": -value, "trades": number, "note": "x"} if metrics else None
            log.append(journal.EpisodeEnded(agent="PPO", episode=number, reason="completed", metrics=given))
        end(log)
    return directory


def test_frames_by_run_instrument_day_and_life(tmp_path: Path) -> None:
    state = replay.load(trained(tmp_path / "j", [1.0, 2.0, 4.0]))
    by_instrument = state.by_instrument
    row = by_instrument.loc[("PPO", "train", "EURUSD")]
    assert (row["total_episodes"], row["total_reward"], row["mean_reward"]) == (2, 5.0, 2.5)
    assert (row["pnl_count"], row["pnl_sum"], row["pnl_mean"], row["pnl_min"], row["pnl_max"]) == (2, -5, -2.5, -4, -1)
    assert by_instrument["trades_sum"].tolist() == [2, 1] and "note_sum" not in by_instrument
    assert state.by_run.loc[("PPO", "train", "r1"), "total_reward"] == 7.0
    assert state.by_day["total_episodes"].sum() == 3 and len(state.by_day.index.get_level_values("day")[0]) == 10
    assert state.by_life.index.get_level_values("first_episode").tolist() == [0, 1, 2]
    assert replay.load(tmp_path / "j", at=0).by_run.empty


def test_a_day_is_that_of_the_episodes_end_in_utc() -> None:
    found = Trends()
    found.add(0, "", [], DAY - 1, Figures.of(1, 0.0, 0, 0))
    found.add(1, "", [], DAY, Figures.of(1, 0.0, 0, 0))
    assert [rows._day(day) for day in sorted(found.days)] == ["1970-01-01", "1970-01-02"]
    assert rows._day(10**9) == "1000000000"


# -- what may be said --------------------------------------------------------------------------------------------------


def lived(values: list[float]) -> Trends:
    found = Trends()
    for number, value in enumerate(values):
        found.add(number, "", [], 0, Figures.of(1, value, 0, 0, {"pnl": -value}))
    return found


@pytest.mark.parametrize(
    ("slope", "noise", "count", "verdict"),
    [
        (1.0, 1.0, 400, "better"),
        (-1.0, 1.0, 400, "worse"),
        (0.0, 1.0, 400, "no clear change"),
        (1.0, 1.0, 60, "not enough episodes"),
        (1.0, 0.0, 5000, "better"),
        (0.0, 0.0, 400, "no clear change"),
    ],
)
def test_better_is_said_where_the_interval_says_it(slope: float, noise: float, count: int, verdict: str) -> None:
    draw = random.Random(1)
    told = outlook("PPO", "train", lived([slope * i / count + draw.gauss(0, noise) for i in range(count)]))
    assert told.verdict == verdict
    assert verdict in str(told) or f"getting {verdict}" in str(told)
    if verdict != "not enough episodes":
        assert told.low <= told.now - told.before <= told.high and min(told.quarter) >= count / 4


def test_of_a_metric_only_rising_and_falling_are_said() -> None:
    life = lived([float(i) for i in range(200)])
    assert outlook("PPO", "train", life, "pnl").verdict == "falling"
    assert outlook("PPO", "train", life, "drawdown").verdict == "not enough episodes"


def test_about_one_in_twenty_says_something_where_there_is_nothing() -> None:
    """The interval is what it says: of 400 lives without any trend, some 5 % lie outside it (seed 7)."""
    draw = random.Random(7)
    wrong = sum(
        outlook("A", "train", lived([draw.gauss(0, 1) for _ in range(120)])).verdict != "no clear change"
        for _ in range(400)
    )
    assert 5 <= wrong <= 40


def test_a_sparkline() -> None:
    assert sparkline([0.0, 1.0, math.nan, 2.0]) == "▁▅ █"
    assert sparkline([5.0, 5.0]) == "▄▄" and sparkline([]) == ""


# -- the command line --------------------------------------------------------------------------------------------------


def test_the_verb_answers_how_many_and_whether_it_gets_better(run: Run, tmp_path: Path) -> None:
    trained(tmp_path / "j", [float(i) for i in range(200)])
    found = document(run, "trends", tmp_path / "j", "--agent", "PPO")["agents"]["PPO"]
    assert (found["total_episodes"], found["spent_episodes"]) == (200, 200)
    assert found["train"]["verdict"] == "better" and found["train"]["low"] > 0
    assert found["eval"]["verdict"] == "not enough episodes" and found["eval"]["change"] is None
    assert found["metrics"] == ["pnl", "trades"] and sum(row["total_episodes"] for row in found["rows"]) == 200
    _, out, _ = run("trends", tmp_path / "j")
    assert "PPO has seen 200 episodes in its life" in out and "getting better" in out and "▁" in out and "█" in out
    assert "exploration" in out
    _, out, _ = run("trends", tmp_path / "j", "--by", "instrument", "--metric", "pnl")
    assert "XAUUSD" in out and "falling" in out
    assert document(run, "trends", tmp_path / "j", "--at", 20)["agents"]["PPO"]["total_episodes"] < 10


def test_rows_as_parquet(run: Run, tmp_path: Path) -> None:
    trained(tmp_path / "j", [1.0, 2.0, 3.0])
    out = tmp_path / "rows.parquet"
    assert run("trends", tmp_path / "j", "--by", "instrument", "--parquet", out)[0] == 0
    table = pq.read_table(out)
    assert table["instrument"].to_pylist() == ["EURUSD", "XAUUSD"] and table["total_episodes"].to_pylist() == [2, 1]
    assert table["total_reward"].to_pylist() == [4.0, 2.0] and str(table.schema.field("pnl_count").type) == "int64"
    code, _, err = run("trends", tmp_path / "j", "--parquet", tmp_path / "j" / "x.parquet")
    assert code == 2 and "lies inside the journal" in err


def test_a_folder_of_journals_is_added_up(run: Run, tmp_path: Path) -> None:
    trained(tmp_path / "all" / "a", [1.0, 2.0])
    trained(tmp_path / "all" / "b", [4.0], metrics=False)
    out = tmp_path / "rows.parquet"
    merged = document(run, "trends", tmp_path / "all", "--by", "instrument", "--parquet", out)["merged"]
    figures = {
        row["instrument"]: (row["total_episodes"], row["total_reward"]) for row in merged["agents"]["PPO"]["rows"]
    }
    assert figures == {"EURUSD": (2, 5.0), "XAUUSD": (1, 2.0)}
    assert pq.read_table(out)["total_episodes"].to_pylist() == [2, 1]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [(["--by", "week"], "use run, instrument, day, life"), (["--agent", "Nobody"], "known: PPO, SAC")],
)
def test_bad_arguments_are_one_line(run: Run, place: Path, arguments: list[str], told: str) -> None:
    code, out, err = run("trends", place, *arguments)
    assert (code, out, err.count("\n")) == (2, "", 1) and told in err
