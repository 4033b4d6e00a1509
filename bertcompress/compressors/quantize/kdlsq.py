"""KDLSQ: a quantized student whose step sizes are learned while its float teacher is imitated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from bertcompress.compressors.quantize.settings import INITIALIZATIONS
from bertcompress.compressors.quantize.training import QuantizedTraining
from bertcompress.encoder.spec import Attention, EncoderSpec
from bertcompress.training.mapping import resolve_mapping

SPAN_FACTOR = 100.0  # of the soft labels in question answering, in the released code


@dataclass(frozen=True, kw_only=True)
class KDLSQ(QuantizedTraining):
    """Train for few bits: learned step sizes (LSQ) and distillation from the float model, in one stage.

    Jin et al. 2021 (arXiv 2101.05938), as its released code has it: attention scores, hidden states and soft labels of
    the teacher, on all layers; every linear map, the word embeddings and every input of a matrix product are rounded;
    step sizes begin by a calibration. The defaults are that code's, but for these: steps are learned as logarithms,
    which keeps them above 0, so their learning rates are shares and not amounts, and nothing decays them; queries, keys
    and values share the quantizer of their input; probabilities have unsigned codes; the word embeddings have a step
    for each row and position embeddings stay in float, as the paper's compression ratio counts them; calibration reads
    training, not validation examples; pads are left out of hidden states and scores (`count_pads` puts them in); the
    epsilon of AdamW is 1e-6, not 1e-8; a score on validation is taken once in each epoch; texts of CoLA and SST-2 are
    cut at 128 tokens, not 64.

    Attributes:
        initialization: how steps begin: "kl", "percentile", "mse", "lsq" or "max".
        weight_step_rate: learning rate of the logarithms of the weights' steps.
        activation_step_rate: learning rate of the logarithms of the activations' steps.
        ground_truth: learn from the labels as well.
    """

    method: ClassVar[str] = "kdlsq"
    learned: ClassVar[bool] = True

    batch_size: int = 16
    warmup: float = 0.0
    max_grad_norm: float = 0.0
    temperature: float = 1.0
    initialization: str = "kl"
    weight_step_rate: float = 1e-2
    activation_step_rate: float = 3e-3
    ground_truth: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be stored, executed or learned."""
        super().__post_init__()
        self._check_choice("initialization", INITIALIZATIONS)
        for name in ("weight_step_rate", "activation_step_rate"):
            self._check_number(name, minimum=0.0)

    def objective_weights(self, kind: str = "classification") -> dict[str, float]:
        """Return the weight of each term for a kind of task, before `fitted` divides by classes or positions."""
        if self.objective is not None:
            return super().objective_weights(kind)
        answers = {"regression": {"hard": 1.0}, "embedding": {"embedding": 1.0}, "unlabelled": {}}
        weights = {**answers.get(kind, {"soft": 1.0}), "attention": 1.0, "hidden": 1.0}
        return {**weights, **({"hard": 1.0} if self.ground_truth and kind not in ("embedding", "unlabelled") else {})}

    def fitted(self, student: EncoderSpec, teacher: EncoderSpec, kind: str, max_length: int | None = None) -> KDLSQ:
        """Return the settings with the terms and layers that these networks have, where nothing else was said.

        The released code takes the mean of the soft labels over classes, and over the positions of a question's window,
        times 100. Layers without attention, such as separable convolutions, are compared by their hidden states alone.

        Args:
            student: the network that is trained.
            teacher: the one that is imitated.
            kind: of task.
            max_length: tokens that the student takes; by default as many as it has positions.
        """
        if self.objective is not None:
            return self
        weights: dict[str, float] = self.objective_weights(kind)
        if "soft" in weights:
            window = min(self.length_for(kind), max_length or student.embeddings.max_positions)
            spans = kind == "question_answering"
            weights["soft"] = 2 * SPAN_FACTOR / window if spans else 1 / max(1, student.head.num_labels)
        mapping: Any = self.mapping
        if mapping is None:
            mapping = {"hidden": "tinybert"}
            attended = [
                pair
                for pair in resolve_mapping("uniform", student.num_layers, teacher.num_layers)
                if _attends(student, pair[0]) and _attends(teacher, pair[1])
            ]
            if attended:
                mapping["attention"] = attended
            else:
                del weights["attention"]
        return dataclasses.replace(self, objective=weights, mapping=mapping)

    def learns(self) -> dict[str, Any]:
        """Return what `build_objective` must know beside the weights; equal widths need no projection here."""
        return {**super().learns(), "project_always": False}

    def begins_by(self) -> str:
        """Return how step sizes begin."""
        return self.initialization

    def factors(self) -> Mapping[str, float]:
        """Return the factors of step sizes' learning rates."""
        rates = {
            "weight_step.": self.weight_step_rate,
            "log_step": self.activation_step_rate,
            "offset_steps": self.activation_step_rate,
        }
        return {name: rate / self.learning_rate for name, rate in rates.items()}


def _attends(spec: EncoderSpec, layer: int) -> bool:
    return any(isinstance(operation, Attention) for operation in spec.layers[layer - 1].operations)
