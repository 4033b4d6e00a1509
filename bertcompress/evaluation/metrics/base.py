"""What every metric module of the library has in common: it computes locally and needs no network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import evaluate
from datasets import Features

from bertcompress.errors import ConfigError


class MetricModule(evaluate.Metric):  # type: ignore[misc]  # the library ships no types
    """An `evaluate.Metric` that is constructed directly, without `evaluate.load` and so without a network.

    Predictions and references are kept in memory as float64 (or int64), unless several processes share one metric,
    which need the files that `evaluate` writes for that.
    """

    about: str = ""
    inputs: str = ""
    citation_text: str = ""

    def __init__(self, config_name: str | None = None, **settings: Any) -> None:
        """Take the settings of `evaluate.Metric`; `keep_in_memory` is on unless `num_process` is above one."""
        settings.setdefault("keep_in_memory", settings.get("num_process", 1) == 1)
        super().__init__(config_name=config_name, **settings)

    def columns(self) -> Features:
        """Return the types of `predictions` and `references`, one example each."""
        raise NotImplementedError

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.about,
            citation=self.citation_text,
            inputs_description=self.inputs,
            features=self.columns(),
        )

    def _compute(
        self, *, predictions: Sequence[Any] | None = None, references: Sequence[Any] | None = None, **options: Any
    ) -> dict[str, float]:
        if predictions is None or references is None:
            raise ConfigError(f"{type(self).__name__}.compute: give both predictions and references.")
        return self.scores(predictions, references, **options)

    def scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        """Return the metric's numbers by name."""
        raise NotImplementedError
