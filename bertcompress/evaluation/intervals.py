"""95% intervals by the bootstrap: percentiles over resamples of the examples, with a fixed seed.

They speak of the examples only (another test set of the same kind), not of other training seeds. Resamples are drawn
once for all models of a comparison, so a difference is a paired one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bertcompress.evaluation.metrics import METRICS, WEIGHTED

Array: TypeAlias = npt.NDArray[Any]
Interval: TypeAlias = tuple[float, float]

RESAMPLES = 1000
CONFIDENCE = 0.95


def percentile_interval(draws: npt.ArrayLike, confidence: float = CONFIDENCE) -> Interval:
    """Return the two percentiles that hold the middle `confidence` of the draws, (R,)."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def bootstrap_interval(
    statistic: Callable[..., Any], *columns: npt.ArrayLike, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the interval of `statistic(*columns)` under resampling of the columns' examples together.

    Args:
        statistic: of columns of n examples each, such as `numpy.mean`.
        columns: one or more of (n, ...).
        seed: of the resampling.
        resamples: how many.
    """
    arrays = [np.asarray(column) for column in columns]
    random, total = np.random.default_rng(seed), len(arrays[0])
    draws = np.empty(resamples)
    for row in range(resamples):
        picked = random.integers(total, size=total)
        draws[row] = statistic(*(array[picked] for array in arrays))
    return percentile_interval(draws)


def resample_scores(
    metric: str,
    references: npt.ArrayLike,
    predictions: Sequence[npt.ArrayLike],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> npt.NDArray[np.float64]:
    """Return a task metric of several models on the same resamples, (resamples, models).

    Args:
        metric: a name of `METRICS`.
        references: gold labels, (n,).
        predictions: of each model, (n,): classes, or numbers in regression.
        seed: of the resampling.
        resamples: how many.
    """
    table = np.stack([np.asarray(column) for column in (references, *predictions)], axis=1)  # (n, 1 + models)
    random, total = np.random.default_rng(seed), len(table)
    if metric in WEIGHTED:
        rows, counts = np.unique(table, axis=0, return_counts=True)
        weights = random.multinomial(total, counts / total, size=resamples).astype(np.float64)
        scores = [WEIGHTED[metric](rows[:, model], rows[:, 0], weights) for model in range(1, table.shape[1])]
        return np.stack(scores, axis=1)
    result = np.empty((resamples, table.shape[1] - 1))
    for row in range(resamples):
        drawn = table[random.integers(total, size=total)]
        result[row] = [METRICS[metric](drawn[:, model], drawn[:, 0]) for model in range(1, table.shape[1])]
    return result
