"""The settings of a training, with the same flat names in Python and YAML; imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from typing import Any

from bertcompress.errors import ConfigError, allowed

SCHEDULES = ("linear", "cosine", "constant")
PRECISIONS = ("auto", "fp32", "bf16")


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """How a network is trained; compressors inherit these fields.

    Attributes:
        epochs: passes over the training data; a fraction is allowed, 0 trains nothing.
        learning_rate: the peak, reached at the end of the warm-up.
        batch_size: examples in one forward and backward group, over all processes together.
        gradient_accumulation_steps: groups whose gradients make one optimizer step.
        max_length: tokens an example is cut to, or that a window of a question's context and a part of a long tagged
            sentence have; by default 128, in question answering 384.
        max_tokens: padded tokens in one forward; a group above it is split into micro-batches with the same gradient.
        warmup: fraction of all steps in which the learning rate rises from 0.
        schedule: how the learning rate falls after the warm-up: linear or cosine to 0, or not at all.
        weight_decay: AdamW's decoupled decay of matrices and tables; biases and norms have none.
        max_grad_norm: the gradient's L2 norm is clipped to this; 0 turns clipping off.
        seed: all that is random (data order, dropout, new weights) follows from it.
        precision: auto is bf16 where the processor multiplies bf16 natively, else fp32.
        evaluations_per_epoch: how often the score is taken, if there is one; always at the end as well.
        patience: stop after this many evaluations in a row without a better score; None never stops early.
        trackers: names of experiment trackers that accelerate offers, such as tensorboard or wandb.
    """

    epochs: float = 3
    learning_rate: float = 5e-5
    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    max_length: int | None = None
    max_tokens: int = 2048
    warmup: float = 0.1
    schedule: str = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    seed: int = 0
    precision: str = "auto"
    evaluations_per_epoch: int = 1
    patience: int | None = None
    trackers: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse values that no training can work with.

        Raises:
            ConfigError: names the field, what was got and what is allowed.
        """
        for name in ("epochs", "weight_decay", "max_grad_norm"):
            self._check_number(name, minimum=0.0)
        self._check_number("learning_rate", minimum=0.0, above=True)
        self._check_number("warmup", minimum=0.0, maximum=1.0)
        for name in ("batch_size", "gradient_accumulation_steps", "max_tokens", "evaluations_per_epoch"):
            self._check_count(name, 1)
        if self.max_length is not None:
            self._check_count("max_length", 2)
        self._check_count("seed", 0)
        if self.patience is not None:
            self._check_count("patience", 1)
        self._check_choice("schedule", SCHEDULES)
        self._check_choice("precision", PRECISIONS)
        self._check_trackers()

    @property
    def trains(self) -> bool:
        """Whether anything is trained."""
        return self.epochs > 0

    def check_needs(self) -> None:
        """Refuse to begin where something beside model and task is missing; here nothing else is needed."""

    def training_settings(self) -> TrainingSettings:
        """Return the training fields alone, as a plain `TrainingSettings`, also when called on a compressor."""
        return TrainingSettings(**{field.name: getattr(self, field.name) for field in fields(TrainingSettings)})

    def length_for(self, kind: str) -> int:
        """Return `max_length`, or the default for this kind of task."""
        return self.max_length or (384 if kind == "question_answering" else 128)

    def _refuse(self, name: str, allowed_values: str) -> ConfigError:
        return ConfigError(f"{type(self).__name__}.{name}: got {getattr(self, name)!r}, allowed {allowed_values}.")

    def _check_number(self, name: str, *, minimum: float, maximum: float = math.inf, above: bool = False) -> None:
        value: Any = getattr(self, name)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if number and minimum <= value <= maximum and not (above and value == minimum):
            return
        lower = f"above {minimum:g}" if above else f"of at least {minimum:g}"
        upper = f" and at most {maximum:g}" if maximum < math.inf else ""
        raise self._refuse(name, f"is a finite number {lower}{upper}")

    def _check_count(self, name: str, minimum: int) -> None:
        value: Any = getattr(self, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            raise self._refuse(name, f"is a whole number of at least {minimum}")

    def _check_choice(self, name: str, choices: Iterable[str]) -> None:
        if getattr(self, name) not in choices:
            raise self._refuse(name, f"are {allowed(choices)}")

    def _check_trackers(self) -> None:
        trackers: Any = self.trackers
        if isinstance(trackers, list):
            trackers = tuple(trackers)
            object.__setattr__(self, "trackers", trackers)
        if not isinstance(trackers, tuple) or not all(isinstance(name, str) and name for name in trackers):
            raise self._refuse("trackers", "is a list of names, such as ['tensorboard']")
