"""Task metrics by name: `METRICS[name](predictions, references) -> float`, and which ones a task reports."""

from __future__ import annotations

from bertcompress.data.kinds import METRICS as KIND_METRICS
from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.metrics.glue import GLUE_METRICS, METRICS, WEIGHTED, MetricFunction

__all__ = ["ALIASES", "GLUE_METRICS", "METRICS", "WEIGHTED", "MetricFunction", "metric_function", "metric_names"]

ALIASES = {
    "matthews": "matthews_correlation",
    "mcc": "matthews_correlation",
    "pearsonr": "pearson",
    "spearman": "spearmanr",
}


def _canonical(name: str) -> str:
    name = ALIASES.get(name, name)
    if name not in METRICS:
        raise ConfigError(f"metric: got {name!r}, allowed are {allowed(METRICS)}.")
    return name


def metric_function(name: str) -> MetricFunction:
    """Return the function that computes a metric; `ALIASES` are understood.

    Raises:
        ConfigError: there is no metric of that name.
    """
    return METRICS[_canonical(name)]


def metric_names(task_name: str, kind: str, primary: str) -> tuple[str, ...]:
    """Return the metrics that a task reports, the primary one first.

    The nine GLUE tasks report their official ones; other tasks report the primary one, with its companion where
    the two are only read together (F1 with accuracy, Pearson with Spearman).

    Raises:
        ConfigError: the primary metric is unknown, or does not fit the kind of task.
    """
    primary = _canonical(primary)
    if primary not in KIND_METRICS.get(kind, ()):
        raise ConfigError(
            f"task {task_name!r}: the metric {primary!r} does not fit a {kind} task, allowed are "
            f"{allowed(KIND_METRICS.get(kind, ()))}."
        )
    companions = {"f1": ("accuracy",), "pearson": ("spearmanr",), "spearmanr": ("pearson",)}
    return tuple(dict.fromkeys((primary, *GLUE_METRICS.get(task_name, companions.get(primary, ())))))
