"""Quantization-aware training with step sizes that follow the values, as a baseline for learned ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bertcompress.compressors.quantize.training import QuantizedTraining


@dataclass(frozen=True, kw_only=True)
class QuantizationAwareTraining(QuantizedTraining):
    """Train on the labels with rounded weights and activations, whose steps follow their largest magnitudes.

    In the style of Q8BERT (Zafrir et al. 2019, arXiv 1910.06188): a weight's step is its largest magnitude over the
    highest code, anew in every forward pass; an activation's is a moving average of that, which is stored. Gradients
    pass the rounding as if it were not there. Queries, keys, values and probabilities stay in float, unless `attention`
    says otherwise. With an `objective`, a teacher is imitated.
    """

    method: ClassVar[str] = "quantization_aware_training"
    learned: ClassVar[bool] = False

    tables: tuple[str, ...] = ("word", "position", "token_type")
    attention: bool = False

    def objective_weights(self, kind: str = "classification") -> dict[str, float]:
        """Return the weight of each term: the labels' alone, unless an objective is given."""
        return {"hard": 1.0} if self.objective is None else super().objective_weights(kind)
