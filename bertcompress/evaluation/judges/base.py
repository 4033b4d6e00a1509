"""What judging a kind of task comes down to: numbers that follow from sums over examples.

A bootstrap resamples examples (sentences with all their words, questions with all their windows), so every number
is written as statistics of each example and a function of their sums: accuracy as (right, one), an F1 as (shared,
predicted, gold). Models and numbers that are resampled together are compared on the same resamples.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from bertcompress.evaluation.intervals import RESAMPLES

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.base import Task
    from bertcompress.evaluation.judges.compared import Compared
    from bertcompress.predictions import Predictions

Array: TypeAlias = npt.NDArray[Any]


@dataclass(frozen=True, eq=False)
class Statistic:
    """A number over a data set.

    Attributes:
        rows: what each example contributes, (n, k).
        value: takes sums of rows, (R, k), and returns the number for each, (R,).
    """

    rows: Array
    value: Callable[[Array], Array]

    def total(self) -> float:
        """Return the number over all examples."""
        return float(self.value(self.rows.sum(0, dtype=np.float64)[None])[0])


def ratio(part: npt.ArrayLike, whole: npt.ArrayLike | None = None) -> Statistic:
    """Return sum(part) / sum(whole) as a statistic, part and whole (n,); a whole of ones makes it the mean."""
    numerator = np.asarray(part, dtype=np.float64)
    denominator = np.ones(len(numerator)) if whole is None else np.asarray(whole, dtype=np.float64)
    return Statistic(np.stack([numerator, denominator], axis=1), _divide)


def complement(distance: npt.ArrayLike, units: npt.ArrayLike | None = None) -> Statistic:
    """Return 1 - sum(distance) / sum(units): exactly 1 where every distance is 0."""
    mean = ratio(distance, units)
    return Statistic(mean.rows, lambda sums: 1 - _divide(sums))


def _divide(sums: Array) -> Array:
    result: Array = np.divide(sums[:, 0], sums[:, 1], out=np.zeros(len(sums)), where=sums[:, 1] > 0)
    return result


def resample(statistics: Sequence[Statistic], *, seed: int = 0, resamples: int = RESAMPLES) -> Array:
    """Return several numbers on the same resamples of the examples, (resamples, numbers).

    Args:
        statistics: over the same examples.
        seed: of the resampling.
        resamples: how many.
    """
    rows = np.concatenate([np.asarray(each.rows, dtype=np.float64) for each in statistics], axis=1)
    sums = _resampled_sums(rows, np.random.default_rng(seed), resamples)
    widths = np.cumsum([each.rows.shape[1] for each in statistics])[:-1]
    parts = np.split(sums, widths, axis=1)
    return np.stack([each.value(part) for each, part in zip(statistics, parts, strict=True)], axis=1)


def _resampled_sums(rows: Array, random: np.random.Generator, resamples: int) -> Array:
    total = len(rows)
    distinct, counts = np.unique(rows, axis=0, return_counts=True)
    if 4 * len(distinct) <= total:  # how often each distinct row was drawn says it all
        weights = random.multinomial(total, counts / total, size=resamples).astype(np.float64)
        result: Array = weights @ distinct
        return result
    sums = np.empty((resamples, rows.shape[1]))
    for place in range(resamples):
        sums[place] = np.bincount(random.integers(total, size=total), minlength=total) @ rows
    return sums


class Judge:
    """Scores models on the examples of one split, and compares their behaviour with a teacher's.

    Attributes:
        names: of the task's scores, the primary one first; empty where there is nothing to score against.
    """

    names: tuple[str, ...] = ()

    def __init__(self, task: Task, dataset: Dataset) -> None:
        """Take the task and the examples of the split."""
        self.task, self.dataset = task, dataset

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Return the task's scores by name."""
        raise NotImplementedError

    def draws(self, name: str, subjects: Sequence[Predictions], seed: int) -> Array:
        """Return one of the scores of several models on the same resamples, (resamples, models)."""
        raise NotImplementedError

    def selection_score(self, predictions: Predictions) -> float:
        """Return the score that a training keeps its best weights by."""
        return self.scores(predictions)[self.names[0]]

    def loyalty(self, teacher: Predictions, student: Predictions) -> dict[str, Statistic]:
        """Return the loyalties of a student to its teacher by name, the main one first."""
        raise NotImplementedError

    def compared(self, teacher: Predictions, student: Predictions) -> Compared:
        """Return the two models' answers side by side, unit by unit."""
        raise NotImplementedError


class StatisticJudge(Judge):
    """A judge all of whose scores are statistics."""

    def __init__(self, task: Task, dataset: Dataset) -> None:
        """Take the task and the examples of the split."""
        super().__init__(task, dataset)
        self._known: list[tuple[Predictions, Mapping[str, Statistic]]] = []

    def statistics(self, predictions: Predictions) -> Mapping[str, Statistic]:
        """Return the task's scores."""
        raise NotImplementedError

    def _once(self, predictions: Predictions) -> Mapping[str, Statistic]:
        """Return the statistics, computed once for each of the last two models."""
        for known, found in self._known:
            if known is predictions:
                return found
        self._known = [*self._known[-1:], (predictions, self.statistics(predictions))]
        return self._known[-1][1]

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Return the task's scores by name."""
        found = self._once(predictions)
        return {name: found[name].total() for name in self.names}

    def draws(self, name: str, subjects: Sequence[Predictions], seed: int) -> Array:
        """Return one of the scores of several models on the same resamples, (resamples, models)."""
        return resample([self._once(each)[name] for each in subjects], seed=seed)
