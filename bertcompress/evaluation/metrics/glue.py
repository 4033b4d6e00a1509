"""The official metrics of the nine GLUE tasks, computed locally by scikit-learn and scipy.

Where a metric is undefined one rule holds: predictions (or references) that carry no information score 0. That is
scikit-learn's own convention for Matthews (a constant column makes it 0/0) and for F1 (no positive anywhere); it is
extended here to the two correlations, for which scipy gives NaN on a constant column, so that a student that
collapsed to one answer ranks last and a results file stays valid JSON.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
from datasets import Features, Value
from scipy import stats
from sklearn import metrics as sklearn_metrics

from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.metrics.base import MetricModule

Numbers: TypeAlias = npt.ArrayLike
Array: TypeAlias = npt.NDArray[Any]
MetricFunction: TypeAlias = Callable[[Numbers, Numbers], float]


def _pair(owner: str, predictions: Numbers, references: Numbers) -> tuple[Array, Array]:
    pair = np.asarray(predictions), np.asarray(references)
    for name, column in zip(("predictions", "references"), pair, strict=True):
        if column.ndim != 1 or not len(column) or column.dtype.kind not in "iufb":
            raise ConfigError(
                f"{owner}: {name} have the shape {column.shape} and the type {column.dtype}, allowed is one number "
                "per example, shape (n,) with n > 0; take the argmax of logits first."
            )
        if not np.isfinite(column).all():
            raise ConfigError(f"{owner}: {name} hold NaN or infinity, allowed are finite numbers.")
    if len(pair[0]) != len(pair[1]):
        raise ConfigError(f"{owner}: got {len(pair[0])} predictions for {len(pair[1])} references; pair them up.")
    return pair


def _classes(owner: str, predictions: Numbers, references: Numbers) -> tuple[Array, Array]:
    pair = _pair(owner, predictions, references)
    for name, column in zip(("predictions", "references"), pair, strict=True):
        if (column != np.floor(column)).any():
            raise ConfigError(f"{owner}: {name} are not class numbers, allowed are whole numbers.")
    return pair[0].astype(np.int64), pair[1].astype(np.int64)


def _binary(predictions: Numbers, references: Numbers) -> tuple[Array, Array]:
    pair = _classes("f1", predictions, references)
    found = sorted({*np.unique(pair[0]).tolist(), *np.unique(pair[1]).tolist()})
    if not {0, 1}.issuperset(found):
        raise ConfigError(f"f1: got the classes {allowed(found)}, allowed are 0 and 1 (the F1 of class 1, as in GLUE).")
    return pair


def _series(owner: str, predictions: Numbers, references: Numbers) -> tuple[Array, Array]:
    pair = _pair(owner, predictions, references)
    if len(pair[0]) < 2:
        raise ConfigError(f"{owner}: got 1 example, a correlation needs at least 2.")
    return pair[0].astype(np.float64), pair[1].astype(np.float64)


def accuracy(predictions: Numbers, references: Numbers) -> float:
    """Return the share of examples whose class is right.

    Raises:
        ConfigError: the two are not class numbers, (n,) each.
    """
    predicted, gold = _classes("accuracy", predictions, references)
    return float(sklearn_metrics.accuracy_score(gold, predicted))


def f1(predictions: Numbers, references: Numbers) -> float:
    """Return the F1 of class 1; 0 if class 1 is in neither column.

    Raises:
        ConfigError: the two are not classes 0 and 1, (n,) each.
    """
    predicted, gold = _binary(predictions, references)
    return float(sklearn_metrics.f1_score(gold, predicted, zero_division=0.0))


def matthews_correlation(predictions: Numbers, references: Numbers) -> float:
    """Return the Matthews correlation, for two classes or more; 0 if a column is constant.

    Raises:
        ConfigError: the two are not class numbers, (n,) each.
    """
    predicted, gold = _classes("matthews_correlation", predictions, references)
    if np.ptp(predicted) == 0 or np.ptp(gold) == 0:
        return 0.0
    return float(sklearn_metrics.matthews_corrcoef(gold, predicted))


def pearson(predictions: Numbers, references: Numbers) -> float:
    """Return the Pearson correlation; 0 if a column is constant.

    Raises:
        ConfigError: the two are not finite numbers, (n,) each with n > 1.
    """
    return _correlation(stats.pearsonr, *_series("pearson", predictions, references))


def spearman(predictions: Numbers, references: Numbers) -> float:
    """Return the Spearman rank correlation, ties at their mean rank; 0 if a column is constant.

    Raises:
        ConfigError: the two are not finite numbers, (n,) each with n > 1.
    """
    return _correlation(stats.spearmanr, *_series("spearmanr", predictions, references))


def _correlation(measure: Callable[[Array, Array], Any], predicted: Array, gold: Array) -> float:
    if np.ptp(predicted) == 0 or np.ptp(gold) == 0:
        return 0.0
    with warnings.catch_warnings():  # a column that is constant but for rounding: NaN is caught below
        warnings.simplefilter("ignore", RuntimeWarning)
        value = float(measure(predicted, gold).statistic)
    return 0.0 if math.isnan(value) else value


METRICS: dict[str, MetricFunction] = {
    "accuracy": accuracy,
    "f1": f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearmanr": spearman,
}
GLUE_METRICS: dict[str, tuple[str, ...]] = {
    "cola": ("matthews_correlation",),
    "sst2": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "qqp": ("accuracy", "f1"),
    "stsb": ("pearson", "spearmanr"),
    "mnli": ("accuracy",),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
}


# The same class metrics for many resamples at once: a resample is no more than how often it drew each distinct
# (prediction, reference) pair, so k pairs and R resamples cost O(R k), however many examples there are.


def _weighted_accuracy(predicted: Array, gold: Array, weights: Array) -> Array:
    result: Array = weights @ (predicted == gold) / weights.sum(1)
    return result


def _weighted_f1(predicted: Array, gold: Array, weights: Array) -> Array:
    both = weights @ ((predicted == 1) & (gold == 1))
    either = weights @ ((predicted == 1).astype(np.float64) + (gold == 1))
    result: Array = np.divide(2 * both, either, out=np.zeros_like(either), where=either > 0)
    return result


def _weighted_matthews(predicted: Array, gold: Array, weights: Array) -> Array:
    classes = np.union1d(predicted, gold)
    p = weights @ (predicted[:, None] == classes)  # (R, C), how often each class was predicted
    t = weights @ (gold[:, None] == classes)  # (R, C), how often it was right
    total, correct = weights.sum(1), weights @ (predicted == gold)
    spread = (total**2 - (p * p).sum(1)) * (total**2 - (t * t).sum(1))
    shared = correct * total - (p * t).sum(1)
    result: Array = np.divide(shared, np.sqrt(spread), out=np.zeros_like(spread), where=spread > 0)
    return result


WEIGHTED: dict[str, Callable[[Array, Array, Array], Array]] = {
    "accuracy": _weighted_accuracy,
    "f1": _weighted_f1,
    "matthews_correlation": _weighted_matthews,
}


class _Single(MetricModule):
    """A module of one number per example; `metric` names its function."""

    metric = ""
    dtype = "int64"
    inputs = "predictions, references: class numbers, (n,)."

    def columns(self) -> Features:
        """Return the types of `predictions` and `references`."""
        return Features({"predictions": Value(self.dtype), "references": Value(self.dtype)})

    def scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        """Return the metric's number by its name."""
        return {self.metric: METRICS[self.metric](predictions, references)}


class Accuracy(_Single):
    """`accuracy` as an `evaluate.Metric`."""

    metric, about = "accuracy", "Share of examples whose class is right."


class F1(_Single):
    """`f1` as an `evaluate.Metric`."""

    metric, about = "f1", "F1 of class 1; 0 if class 1 is in neither column."


class MatthewsCorrelation(_Single):
    """`matthews_correlation` as an `evaluate.Metric`."""

    metric, about = "matthews_correlation", "Matthews correlation; 0 if a column is constant."


class Pearson(_Single):
    """`pearson` as an `evaluate.Metric`."""

    metric, about, dtype = "pearson", "Pearson correlation; 0 if a column is constant.", "float64"
    inputs = "predictions, references: numbers, (n,)."


class Spearman(_Single):
    """`spearman` as an `evaluate.Metric`."""

    metric, about, dtype = "spearmanr", "Spearman rank correlation; 0 if a column is constant.", "float64"
    inputs = "predictions, references: numbers, (n,)."


class Glue(MetricModule):
    """All metrics of one GLUE task as an `evaluate.Metric`: `Glue("mrpc").compute(predictions=..., references=...)`."""

    about = "The official metrics of a GLUE task."
    inputs = "predictions, references: class numbers, or similarities for stsb, (n,)."

    def __init__(self, config_name: str, **settings: Any) -> None:
        """Take the name of one of the nine tasks.

        Raises:
            ConfigError: there is no such GLUE task.
        """
        if config_name not in GLUE_METRICS:
            raise ConfigError(f"Glue: got the task {config_name!r}, allowed are {allowed(GLUE_METRICS)}.")
        super().__init__(config_name=config_name, **settings)

    def columns(self) -> Features:
        """Return the types of `predictions` and `references`."""
        dtype = "float64" if self.config_name == "stsb" else "int64"
        return Features({"predictions": Value(dtype), "references": Value(dtype)})

    def scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        """Return the task's numbers by name."""
        return {name: METRICS[name](predictions, references) for name in GLUE_METRICS[self.config_name]}
