"""Distillation: soft labels, hidden states and attention of a teacher, through a layer mapping."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.errors import ConfigError, allowed
from bertcompress.training.mapping import MAPPINGS, resolve_mapping
from bertcompress.training.mapping import Mapping as LayerMapping
from bertcompress.training.settings import TrainingSettings

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model
    from bertcompress.training.loop import TrainingResult

TERMS = ("hard", "soft", "logits", "embedding", "hidden", "attention")
DEFAULTS = {  # what a student learns, by the task's kind, where nothing else is said
    "regression": {"logits": 1.0, "hidden": 1.0},
    "embedding": {"embedding": 1.0, "hidden": 1.0},
}
NEEDS = {"hidden": "hidden_states", "attention": "attention_scores"}


@dataclass(frozen=True, kw_only=True)
class Distillation(TrainingSettings):
    """What the student learns from its teacher, and how it is trained.

    Attributes:
        objective: one term, or weights by term: `hard` (the labels), `soft` (the teacher's probabilities), `logits`,
            `embedding` (the direction of sentence embeddings), `hidden` (hidden states), `attention` (scores before
            the softmax). By default `hidden` with `logits` in regression, `embedding` in embedding tasks, else `soft`.
        mapping: which teacher layer teaches which student layer, for `hidden` and `attention`: "uniform", "last",
            "skip", one teacher layer per student layer, or pairs (student layer, teacher layer).
        temperature: of the teacher's and the student's soft labels.
    """

    objective: str | Mapping[str, float] | None = None
    mapping: LayerMapping = "uniform"
    temperature: float = 2.0

    def __post_init__(self) -> None:
        """Refuse unknown terms and impossible weights."""
        super().__post_init__()
        for name, weight in self.objective_weights().items():
            if name not in TERMS:
                raise ConfigError(f"{type(self).__name__}.objective: got term {name!r}, allowed are {allowed(TERMS)}.")
            if not isinstance(weight, (int, float)) or isinstance(weight, bool) or not weight > 0:
                raise ConfigError(
                    f"{type(self).__name__}.objective.{name}: got {weight!r}, allowed is a number above 0."
                )
        if not self.objective_weights():
            raise ConfigError(
                f"{type(self).__name__}.objective: got none, allowed is at least one of {allowed(TERMS)}."
            )
        self._check_number("temperature", minimum=0.0, above=True)
        if isinstance(self.mapping, str):
            self._check_choice("mapping", MAPPINGS)

    def objective_weights(self, kind: str = "classification") -> dict[str, float]:
        """Return the weight of each term for a kind of task."""
        if self.objective is None:
            return dict(DEFAULTS.get(kind, {"soft": 1.0, "hidden": 1.0}))
        return {self.objective: 1.0} if isinstance(self.objective, str) else dict(self.objective)

    def needs(self) -> frozenset[str]:
        """Return the outputs beside the logits that the objective reads."""
        return frozenset(NEEDS[name] for name in self.objective_weights() if name in NEEDS)

    def check_mapping(self, student: EncoderSpec, teacher: EncoderSpec) -> None:
        """Refuse a mapping that names layers which do not exist; only terms that use it are checked."""
        if self.needs():
            resolve_mapping(self.mapping, student.num_layers, teacher.num_layers)

    def fit(
        self, method: str, student: Model, task: Task, teacher: Model, context: Context | None = None
    ) -> TrainingResult:
        """Train the student's network in place to behave like its teacher."""
        from bertcompress.compressors.fitting import fit

        return fit(
            method,
            student,
            task,
            self,
            weights=self.objective_weights(task.kind),
            mapping=self.mapping,
            temperature=self.temperature,
            teacher=teacher,
            context=context,
        )


@dataclass(frozen=True, kw_only=True)
class Distill(Distillation):
    """Train a student to behave like its teacher; the student keeps its shape.

    Soft labels: Hinton et al. 2015, T^2 * KL(teacher || student). Hidden states and attention scores: TinyBERT
    (Jiao et al. 2020), in one stage together with the soft labels, where the paper trains them in two.
    """

    method: ClassVar[str] = "distill"

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the spec unchanged; the mapping is checked against `teacher`, by default the encoder itself.

        Raises:
            ConfigError: the encoder is quantized, or the mapping names a layer that does not exist.
        """
        refuse_quantized(self.method, spec)
        self.check_mapping(spec, teacher or spec)
        return spec

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the student trained to behave like `teacher`, by default like the model as it came in.

        Raises:
            ConfigError: there is no task, shapes do not fit, or the mapping names a layer that does not exist.
            DataError: teacher and student order their labels differently.
        """
        from bertcompress.compressors.fitting import step_of

        source = teacher or model
        self.plan(model.spec, task, teacher=source.spec)
        task = require_task(self.method, task)
        student = model.copy()
        result = self.fit(self.method, student, task, source, context)
        return student.after(step_of(self, result), task=task)
