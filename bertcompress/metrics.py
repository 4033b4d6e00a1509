"""The library's metrics as `evaluate.Metric` modules, e.g. `bc.metrics.LabelLoyalty()`; none needs a network."""

from __future__ import annotations

from bertcompress.evaluation.loyalty import LabelLoyalty, ProbabilityLoyalty
from bertcompress.evaluation.metrics.glue import F1, Accuracy, Glue, MatthewsCorrelation, Pearson, Spearman
from bertcompress.evaluation.metrics.squad import Squad
from bertcompress.evaluation.metrics.tagging import Entities

__all__ = [
    "F1",
    "Accuracy",
    "Entities",
    "Glue",
    "LabelLoyalty",
    "MatthewsCorrelation",
    "Pearson",
    "ProbabilityLoyalty",
    "Spearman",
    "Squad",
]
