"""Statistics of a comparison: arrays of shape (replicates, episodes) in, figures with intervals out. No journal here.

Episodes are the same for all agents, in the same order; a replicate is one training (one seed). So two things vary:
which seeds one happened to train, and which episodes one happened to look at; and neighbouring episodes are alike.

* Intervals: a hierarchical bootstrap draws replicates, then blocks of consecutive episodes, the same ones for all
  agents (moving blocks: Künsch 1989; of about n^(1/3): Hall, Horowitz & Jing 1995).
* Who is better: an exact permutation test of the replicates' means (scipy.stats.permutation_test) with Holm's
  correction over all pairs (Holm 1979). Where the algorithms are the same, replicates are exchangeable, so the share of
  comparisons that calls anybody better is at most `ALPHA`, however few or skewed they are. A bootstrap alone promises
  that only for many.
* Interquartile mean and probability of improvement as Agarwal et al. 2021 recommend.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]

ALPHA: Final = 0.05
"""The share of comparisons of equals in which one may be called better."""
REPLICATES_MIN: Final = 5
"""With fewer on a side nobody is called better: 4 against 4 cannot reach `ALPHA` over three pairs."""
RESAMPLES: Final = 2000
_AT_ONCE: Final = 1 << 21
"""Values that are resampled together: 16 MB."""
_PERMUTATIONS: Final = 9999
"""Above so many ways to divide the replicates, this many are drawn."""


@dataclass(frozen=True, slots=True)
class Interval:
    """A figure, and where it lies in 1 - `ALPHA` of the resamples."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Two agents, by their places; differences are the first one's less the other's, episode by episode."""

    one: int
    other: int
    difference: Interval
    improvement: float
    """Probability that the first one's value is the higher in an episode; equal values count half."""
    p: float | None
    """Corrected over all pairs; None where there are too few replicates to ask."""
    better: int | None
    """Who is called better; None for nobody."""


def interquartile_mean(values: Values) -> Values:
    """The mean of the middle half of all values; shape (…, replicates, episodes) gives shape (…)."""
    from scipy.stats import trim_mean

    mean: Values = trim_mean(values.reshape(*values.shape[:-2], -1), 0.25, axis=-1)
    return mean


def describe(agents: Sequence[Values], seed: int = 0) -> list[Interval]:
    """The interquartile mean of each agent; its interval by resampling."""
    drawn = _resampled(agents, lambda one: [interquartile_mean(values) for values in one], seed)
    return [_interval(float(interquartile_mean(values)), drawn[at]) for at, values in enumerate(agents)]


def compare_pairs(agents: Sequence[Values], seed: int = 0) -> list[Pair]:
    """Every pair of agents, the larger mean first; of one agent there is none. Higher values are better."""
    places = [(i, j) for i in range(len(agents)) for j in range(i + 1, len(agents))]
    if not places:
        return []
    places = [(i, j) if agents[i].mean() >= agents[j].mean() else (j, i) for i, j in places]
    drawn = _resampled(agents, lambda one: [one[i].mean((1, 2)) - one[j].mean((1, 2)) for i, j in places], seed)
    raw = [_permuted(agents[i], agents[j], seed) for i, j in places]
    corrected = holm(raw)
    pairs = []
    for at, (i, j) in enumerate(places):
        difference = _interval(float(agents[i].mean() - agents[j].mean()), drawn[at])
        p = corrected[at]
        sure = p is not None and p <= ALPHA and difference.low > 0
        pairs.append(Pair(i, j, difference, _improvement(agents[i], agents[j]), p, i if sure else None))
    return pairs


def holm(raw: Sequence[float | None]) -> list[float | None]:
    """p-values corrected for how many were asked, by Holm's step-down; None stays, and was not asked."""
    asked = sorted((p, at) for at, p in enumerate(raw) if p is not None)
    corrected: list[float | None] = [None] * len(raw)
    largest = 0.0
    for rank, (p, at) in enumerate(asked):
        largest = max(largest, min(1.0, (len(asked) - rank) * p))
        corrected[at] = largest
    return corrected


def _permuted(one: Values, other: Values, seed: int) -> float | None:
    """Two-sided p of the difference of means, were it by chance which replicate is whose."""
    if min(len(one), len(other)) < REPLICATES_MIN:
        return None
    from scipy.stats import permutation_test

    done = permutation_test(
        (one.mean(axis=1), other.mean(axis=1)),
        lambda a, b, axis: a.mean(axis=axis) - b.mean(axis=axis),
        n_resamples=_PERMUTATIONS,
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return float(done.pvalue)


def _resampled(agents: Sequence[Values], figures: Callable[[list[Values]], list[Values]], seed: int) -> Values:
    """float64[figures, RESAMPLES]: what `figures` gives of resamples of shape (n, replicates, episodes)."""
    rng = np.random.default_rng(seed)
    episodes = agents[0].shape[1]
    block = max(1, round(episodes ** (1 / 3)))
    count = max(1, _AT_ONCE // sum(values.size for values in agents))
    drawn = []
    for first in range(0, RESAMPLES, count):
        n = min(count, RESAMPLES - first)
        starts = rng.integers(episodes, size=(n, -(-episodes // block)))
        chosen = ((starts[:, :, None] + np.arange(block)) % episodes).reshape(n, -1)[:, :episodes]
        replicates = [rng.integers(len(values), size=(n, len(values))) for values in agents]
        both = zip(agents, replicates, strict=True)
        drawn.append(np.array(figures([values[rows[:, :, None], chosen[:, None, :]] for values, rows in both])))
    return np.concatenate(drawn, axis=1)


def _interval(value: float, drawn: Values) -> Interval:
    low, high = np.quantile(drawn, (ALPHA / 2, 1 - ALPHA / 2))
    return Interval(value, float(low), float(high))


def _improvement(one: Values, other: Values) -> float:
    above = np.mean([(mine > theirs) + 0.5 * (mine == theirs) for mine in one for theirs in other])
    return float(above)
