"""What a few paired runs say, and how sure that is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval, and how many values it is of."""

    value: float
    low: float
    high: float
    count: int

    def __str__(self) -> str:
        """Return value and interval."""
        if math.isinf(self.low):
            return f"{self.value:+.2f} (one value)"
        return f"{self.value:+.2f} ({self.low:+.2f} to {self.high:+.2f}, n={self.count})"

    def verdict(self, least: float = 0.0) -> str:
        """Return whether it lies above `least`."""
        return HOLDS if self.low > least else FAILS if self.high < least else UNDECIDED


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean with Student's interval; without end where there is one value."""
    each = np.asarray(values, dtype=np.float64)
    if len(each) < 2:
        return Estimate(float(each.mean()), -math.inf, math.inf, len(each))
    half = float(stats.t.ppf(0.975, len(each) - 1) * each.std(ddof=1) / math.sqrt(len(each)))
    return Estimate(float(each.mean()), float(each.mean()) - half, float(each.mean()) + half, len(each))


def agreements(
    cheap: NDArray[np.float64], dear: NDArray[np.float64], draws: int = 500, seed: int = 0
) -> tuple[Estimate, Estimate, Estimate]:
    """Return how alike two rankings are, how alike two seeds of the second are, and the difference of the two.

    Kendall's tau-b, the mean over all pairs of different seeds; intervals by bootstrap over the items that are ranked.

    Args:
        cheap: values, (items, seeds).
        dear: the same; in both, a column is a seed.
        draws: resamples.
        seed: of the bootstrap.
    """
    random = np.random.default_rng(seed)
    drawn = [_taus(cheap[rows], dear[rows]) for rows in random.integers(len(cheap), size=(draws, len(cheap)))]
    bounds = np.nanpercentile([(*pair, pair[0] - pair[1]) for pair in drawn], [2.5, 97.5], axis=0)
    tau, ceiling = _taus(cheap, dear)
    values = (tau, ceiling, tau - ceiling)
    found = [
        Estimate(value, float(low), float(high), len(cheap)) for value, low, high in zip(values, *bounds, strict=True)
    ]
    return found[0], found[1], found[2]


def _taus(cheap: NDArray[np.float64], dear: NDArray[np.float64]) -> tuple[float, float]:
    seeds = range(dear.shape[1])
    pairs = [(a, b) for a in seeds for b in seeds if a != b]
    across = [stats.kendalltau(cheap[:, a], dear[:, b]).statistic for a, b in pairs if a < cheap.shape[1]]
    within = [stats.kendalltau(dear[:, a], dear[:, b]).statistic for a, b in pairs if a < b]
    return float(np.mean(across)), float(np.mean(within))


def spread(scores: Sequence[Sequence[float]]) -> tuple[float, float, float]:
    """Return the spread of items beyond noise, the noise, and p of the F-test that items do not differ.

    One-way analysis of variance: the standard deviation of the items' true means, estimated as the root of
    (variance of means - noise variance / repetitions) and 0 where that is negative, and the standard deviation of
    repetitions of one item.

    Args:
        scores: of each item, the same number of repetitions.
    """
    table = np.asarray(scores, dtype=np.float64)
    noise = float(table.var(axis=1, ddof=1).mean())
    between = float(table.mean(axis=1).var(ddof=1)) - noise / table.shape[1]
    return math.sqrt(max(0.0, between)), math.sqrt(noise), float(stats.f_oneway(*table).pvalue)
