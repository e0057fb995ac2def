"""A plan is enforced while training: an episode that shows other bars than planned is refused, or warned of, at once.

This project began with an audit: agents of one comparison had been shown different bars, so nothing that was published
followed from it. Its bug is here as a test.
"""

from __future__ import annotations

import random
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import agents_adapter
import replay
from agents_adapter import Bars, Plan
from journal.errors import EventRejected, ResumeImpossible
from replay.compare import compare

HOUR = 3_600_000_000_000


def series(name: str = "GOLD", seed: int = 1) -> Bars:
    close = 1.5 + np.cumsum(np.random.default_rng(seed).normal(scale=1e-3, size=240))
    prices = np.column_stack([close, close + 0.01, close - 0.01, close, np.ones(240)])
    return Bars(name, "H1", np.arange(240, dtype=np.int64) * HOUR, prices)


BARS = series()
PLAN = Plan.round_robin(BARS, 24, 5, seed=7)


def train(place: Path, shown: Any, agents: tuple[str, ...] = ("PPO",), plan: Plan = PLAN, **walk: Any) -> replay.State:
    """Each agent walks the plan; `shown(episode)` are the bars that its environment really used."""
    with agents_adapter.start(place) as run:
        for name in agents:
            for episode in run.agent(name, stateless=True).episodes(plan, **walk):
                bars, start = shown(episode)
                episode.observe(bars, start)
                episode.step(1.0)
    return replay.load(place)


def planned(episode: Any) -> tuple[Bars, int | None]:
    return BARS[episode.start : episode.stop], None


def test_the_bars_of_the_plan_are_taken(tmp_path: Path) -> None:
    state = train(tmp_path / "j", planned, ("PPO", "SAC"))
    assert compare(state).verdict == "comparable"


def test_a_lookback_is_no_deviation(tmp_path: Path) -> None:
    def longer(episode: Any) -> tuple[Bars, int | None]:
        first = max(0, episode.start - 5)
        return BARS[first : episode.stop], first

    assert train(tmp_path / "j", longer).totals.loc["PPO", "total_episodes"] == 5


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (lambda e: (BARS[e.start + 1 : e.stop + 1], None), "content [0-9a-f]{12}, but was shown others, of content"),
        (lambda e: (series(seed=2)[e.start : e.stop], None), "show the bars that the plan was made from"),
        (lambda e: (series("OIL")[e.start : e.stop], None), "but was shown 24 bars of OIL H1"),
        (lambda e: (series("OIL")[: e.stop], 0), "but was shown 24 bars of OIL H1"),
        (lambda e: (BARS[e.start : e.stop - 1], None), "but was shown 23 bars of GOLD H1"),
        (lambda e: (BARS[e.start + 1 : e.stop], e.start + 1), "bars 0 to 24, but was shown 1 to 24"),
        (lambda e: (BARS[e.start + 1 : e.stop + 1], e.start), "but was shown others"),
    ],
)
def test_other_bars_are_refused_at_once(tmp_path: Path, shown: Any, said: str) -> None:
    with pytest.raises(EventRejected, match=f"^episode 0 of PPO is planned on .*{said}"):
        train(tmp_path / "j", shown)
    assert replay.load(tmp_path / "j").runs.popitem()[1].attempts[-1].status == "failed"


def test_or_they_are_recorded_as_they_were_with_a_warning(tmp_path: Path) -> None:
    def shifted(episode: Any) -> tuple[Bars, int | None]:
        return BARS[episode.start + 1 : episode.stop + 1], episode.start + 1

    with pytest.warns(RuntimeWarning) as told:
        train(tmp_path / "j", shifted, other_bars="warn")
    said = [str(warning.message) for warning in told]
    assert len(said) == 5 and "episode 0 of PPO is planned on bars 0 to 24, but was shown 1 to 25" in said[0]
    rows = [row for batch in replay.events(tmp_path / "j") for row in batch.to_pylist() if row["kind"] == "BarsSeen"]
    assert '"start":1' in rows[0]["fields"].replace(" ", "") and '"observed"' in rows[0]["fields"]


def test_the_choice_is_one_of_two_words(tmp_path: Path) -> None:
    with pytest.raises(EventRejected, match="other_bars is 'ignore': use 'raise' or 'warn'"):
        train(tmp_path / "j", planned, other_bars="ignore")


def test_other_data_at_a_resume_is_refused_with_the_difference(tmp_path: Path) -> None:
    """The file was downloaded again, and one price is another."""

    def fails(episode: Any) -> tuple[Bars, int | None]:
        if episode.index == 3:
            raise ZeroDivisionError
        return planned(episode)

    with pytest.raises(ZeroDivisionError):
        train(tmp_path / "j", fails)
    prices = BARS.ohlcv.copy()
    prices[30] += 0.001
    with pytest.raises(ResumeImpossible, match=r"plan\[1\].content was '[0-9a-f]{32}', is '[0-9a-f]{32}'. To go on"):
        train(tmp_path / "j", planned, plan=PLAN.on(Bars("GOLD", "H1", BARS.time, prices)))
    train(tmp_path / "j", planned, plan=Plan.round_robin(BARS, 24, 5, seed=7))


# -- the audit's bug ---------------------------------------------------------------------------------------------------


class Environment:
    """Draws its start bar from the global generator, whatever seed it is given."""

    def reset(self, start_bar: int | None = None, seed: int | None = None) -> None:
        self.start = random.randrange(len(BARS) - 24) if start_bar is None else start_bar

    def shown(self) -> Bars:
        return BARS[self.start : self.start + 24]


@pytest.mark.parametrize("other_bars", ["raise", "warn"])
def test_a_loop_that_walks_the_plan_and_resets_elsewhere_is_never_comparable(tmp_path: Path, other_bars: Any) -> None:
    env = Environment()
    random.seed(5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with agents_adapter.start(tmp_path / "j") as run:
            for name in ("PPO", "SAC"):
                try:
                    for episode in run.agent(name, stateless=True).episodes(PLAN, other_bars=other_bars):
                        env.reset(start_bar=random.randrange(200))
                        episode.observe(env.shown())
                        episode.step(1.0)
                except EventRejected:
                    assert other_bars == "raise"
    assert compare(replay.load(tmp_path / "j")).verdict in ("not comparable", "not provable")
    if other_bars == "warn":
        assert compare(replay.load(tmp_path / "j")).verdict == "not comparable"


def test_a_loop_that_says_nothing_of_its_bars_is_not_provable(tmp_path: Path) -> None:
    """The same bug, and not even observed: the plan alone proves nothing."""
    env = Environment()
    with agents_adapter.start(tmp_path / "j") as run:
        for name in ("PPO", "SAC"):
            for episode in run.agent(name, stateless=True).episodes(PLAN):
                env.reset(start_bar=random.randrange(200))
                episode.step(1.0)
    comparison = compare(replay.load(tmp_path / "j"))
    assert comparison.verdict == "not provable" and "only declared its bars" in comparison.reason


def test_an_environment_that_draws_its_own_start_is_not_comparable(tmp_path: Path) -> None:
    env = Environment()
    random.seed(5)
    with agents_adapter.start(tmp_path / "j") as run:
        for name in ("PPO", "SAC"):
            track = run.agent(name, state={})
            for number in track.loop(5):
                env.reset(seed=number)
                episode = track.start_episode("train", seed=number)
                episode.observe(env.shown())
                episode.step(1.0)
                episode.end()
    assert compare(replay.load(tmp_path / "j")).verdict == "not comparable"
