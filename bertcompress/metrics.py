"""The library's metrics as `evaluate.Metric` modules, e.g. `bc.metrics.LabelLoyalty()`; none needs a network."""

from __future__ import annotations

from bertcompress.evaluation.loyalty import LabelLoyalty, ProbabilityLoyalty
from bertcompress.evaluation.metrics.glue import F1, Accuracy, Glue, MatthewsCorrelation, Pearson, Spearman

__all__ = [
    "F1",
    "Accuracy",
    "Glue",
    "LabelLoyalty",
    "MatthewsCorrelation",
    "Pearson",
    "ProbabilityLoyalty",
    "Spearman",
]
