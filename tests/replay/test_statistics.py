"""Statistics: known values, intervals that hold what they should, and an A/A campaign: equals are called equal.

`JOURNAL_TRIALS` is how many comparisons of equals are made; their learners are the demo's, on bars of a package.
"""

from __future__ import annotations

import os

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import beta

from replay import statistics
from replay.statistics import ALPHA, Values, compare_pairs, describe, holm, interquartile_mean


def agents(count: int, replicates: int, episodes: int, edge: float = 0.0, seed: int = 1) -> list[Values]:
    """Seeds differ by 1, episodes by 3 (the same for all), noise is 1; the first agent is better by `edge`."""
    rng = np.random.default_rng(seed)
    common = rng.normal(scale=3, size=episodes)
    one = [common + rng.normal(size=(replicates, 1)) + rng.normal(size=(replicates, episodes)) for _ in range(count)]
    one[0] = one[0] + edge
    return one


def test_the_interquartile_mean_is_of_the_middle_half() -> None:
    values = np.array([[1000.0, 1, 2, 3], [4, 5, 6, -1000]])
    assert interquartile_mean(values) == np.mean([2, 3, 4, 5])
    assert interquartile_mean(np.stack([values, values + 1])).tolist() == [3.5, 4.5]


def test_holm_corrects_step_by_step() -> None:
    """The example of Holm's paper: the smallest by all, the next by one less, never falling again."""
    assert holm([0.01, 0.04, 0.03]) == [0.03, 0.06, 0.06]
    assert holm([0.6, None, 0.9]) == [1.0, None, 1.0]
    assert holm([]) == []


def test_a_real_difference_is_found_and_which_way() -> None:
    better, *_ = compare_pairs(agents(2, 6, 60, edge=4.0))
    assert (better.one, better.other, better.better) == (0, 1, 0)
    assert better.p is not None and better.p == pytest.approx(2 / 924)
    assert better.difference.low > 2 and better.improvement > 0.95
    assert better.difference.low < better.difference.value < better.difference.high


def test_the_larger_mean_comes_first() -> None:
    pairs = compare_pairs(agents(3, 5, 40, edge=-9.0))
    assert all(pair.difference.value >= 0 for pair in pairs)
    assert [pair.other for pair in pairs].count(0) == 2


def test_under_five_replicates_nobody_is_better() -> None:
    (pair,) = compare_pairs(agents(2, 4, 60, edge=50.0))
    assert (pair.p, pair.better) == (None, None) and pair.difference.low > 40


def test_one_replicate_against_another_is_described() -> None:
    (pair,) = compare_pairs([np.array([[1.0, 2, 3]]), np.array([[0.0, 2, 5]])])
    assert (pair.one, pair.better, pair.improvement) == (1, None, 0.5)
    assert pair.difference.value == pytest.approx(1 / 3)


def test_episodes_are_paired_and_replicates_are_not() -> None:
    """What the episodes have in common does not widen the difference; what seeds do differently does."""
    paired = compare_pairs(agents(2, 5, 60, edge=2.0))[0].difference
    rng = np.random.default_rng(0)
    shuffled = compare_pairs([rng.permuted(one, axis=1) for one in agents(2, 5, 60, edge=2.0)])[0].difference
    assert paired.high - paired.low < shuffled.high - shuffled.low
    calm = compare_pairs([one - one.mean(axis=1, keepdims=True) for one in agents(2, 5, 60)])[0].difference
    assert calm.high - calm.low < paired.high - paired.low


def test_neighbours_that_are_alike_widen_the_interval() -> None:
    """200 episodes that come in runs of 20 equal ones tell no more than ten."""
    rng = np.random.default_rng(3)
    alike = np.repeat(rng.normal(size=(1, 10)), 20, axis=1)
    apart = rng.permuted(alike, axis=1)
    widths = [describe([values])[0].high - describe([values])[0].low for values in (alike, apart)]
    assert widths[0] > 1.5 * widths[1]


def test_the_same_seed_gives_the_same_figures() -> None:
    assert compare_pairs(agents(2, 5, 30)) == compare_pairs(agents(2, 5, 30))
    assert describe(agents(2, 5, 30), seed=1) != describe(agents(2, 5, 30), seed=2)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Resampled in parts, it is the same kind of figure."""
    whole = describe(agents(2, 5, 30))
    monkeypatch.setattr(statistics, "_AT_ONCE", 1000)
    for one, other in zip(whole, describe(agents(2, 5, 30)), strict=True):
        assert one.value == other.value and one.low == pytest.approx(other.low, abs=0.3)


# -- equals ------------------------------------------------------------------------------------------------------------


def called_better(pool: NDArray[np.float64], trials: int, rng: np.random.Generator) -> tuple[int, int]:
    """How often one of two equals is called better: by us, and by a paired bootstrap over episodes of one seed each."""
    ours = plain = 0
    for _ in range(trials):
        chosen = rng.permutation(len(pool))[:10]
        one, other = pool[chosen[:5]], pool[chosen[5:]]
        ours += compare_pairs([one, other])[0].better is not None
        difference = one[0] - other[0]
        means = difference[rng.integers(len(difference), size=(500, len(difference)))].mean(axis=1)
        low, high = np.quantile(means, (ALPHA / 2, 1 - ALPHA / 2))
        plain += low > 0 or high < 0
    return ours, plain


def trained(seeds: int, episodes: int, bars: int) -> NDArray[np.float64]:
    """float64[seeds, episodes]: what the demo's linear Q-learner earns, evaluated, for each seed of its training."""
    from agents_adapter.demo.learners import LEARNERS
    from agents_adapter.demo.market import Market, load_bars

    year = load_bars()
    windows = [year[start : start + bars] for start in range(0, bars * 2 * episodes, bars)]
    earned = np.empty((seeds, episodes))
    for seed in range(seeds):
        learner = LEARNERS["LinearQ"](seed)
        for learns, part in ((True, windows[:episodes]), (False, windows[episodes:])):
            for number, window in enumerate(part):
                market, done, total = Market(window, number), False, 0.0
                seen = market.observe()
                while not done:
                    action = learner.act(seen) if learns else learner.best(seen)
                    then, reward, done = market.step(action)
                    if learns:
                        learner.learn(seen, action, reward, then, done)
                    seen, total = then, total + reward
                if not learns:
                    earned[seed, number] = total
    return earned


@pytest.mark.parametrize("world", ["made up", "trained"])
def test_of_equals_hardly_ever_one_is_called_better(world: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The same algorithm against itself, only the seeds differ. No more are called better than is stated.

    A plain bootstrap over episodes, which takes one seed for the algorithm, calls one better in most of them.
    """
    trials = int(os.environ.get("JOURNAL_TRIALS", 40))
    seed = int(os.environ.get("JOURNAL_SEED", np.random.SeedSequence().entropy % 2**32))  # type: ignore[operator]
    rng = np.random.default_rng(seed)
    if world == "made up":
        pool = np.concatenate(agents(1, max(20, trials), 100, seed=seed))
    else:
        pytest.importorskip("gym_anytrading")
        pool = trained(max(20, trials // 4), 24, 120)
    ours, plain = called_better(pool, trials, rng)
    with capsys.disabled():
        print(f"\n{world}, {trials} comparisons of equals: {ours} called better, by a plain bootstrap {plain}, {seed=}")
    # More than this many are as good as impossible (1 in 100,000), were the share what is stated.
    assert beta.ppf(1e-5, ours, trials - ours + 1) <= ALPHA if ours else True
    # Of a few trainings, which all earn much the same, the plain one may by chance call none better.
    assert plain > trials / 2 or world == "trained"
