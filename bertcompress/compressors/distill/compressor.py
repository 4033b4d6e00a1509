"""Distillation: a teacher's answers, states, attention and relations, through a layer mapping."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.errors import ConfigError, allowed
from bertcompress.training.mapping import MAPPINGS
from bertcompress.training.recipes import NEEDS, PRESETS, TERMS, Mappings, check_terms, expanded, pairs_of
from bertcompress.training.settings import TrainingSettings

if TYPE_CHECKING:
    import torch

    from bertcompress.data.tasks import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model
    from bertcompress.training.loop import TrainingResult

DEFAULTS = {  # what a student learns, by the task's kind, where nothing else is said
    "regression": {"logits": 1.0, "hidden": 1.0},
    "embedding": {"embedding": 1.0, "hidden": 1.0},
    "unlabelled": PRESETS["tinybert"],
}


@dataclass(frozen=True, kw_only=True)
class Distillation(TrainingSettings):
    """What the student learns from its teacher, and how it is trained.

    Attributes:
        objective: a term, a published combination, or weights by term.
            Of answers: `hard` (the labels), `soft` (the teacher's probabilities), `logits`, `embedding` (the direction
            of sentence embeddings), `mlm` (hidden tokens).
            Of layers: `hidden` (states), `patient` (the first token's, normalised), `cosine` (the states' direction),
            `attention` (scores before the softmax), `attention_distribution`, `query_relation`, `key_relation`,
            `value_relation`.
            Combinations: `tinybert`, `minilm`, `minilmv2`, `pkd`, `distilbert`.
            By default `hidden` with `logits` in regression, with `embedding` in embedding tasks, with `attention` on
            unlabelled text, else with `soft`.
        mapping: which teacher layer teaches which student layer: "uniform", "tinybert", "last", "skip", "top",
            "bottom", "reversed", one teacher layer per student layer (0: none), or pairs (student layer, teacher
            layer); or one of these for each term by name. By default each term's own: uniform for `hidden` and
            `attention`, skip for `patient`, else last.
        temperature: of the teacher's and the student's soft labels.
        relation_heads: heads that queries, keys and values are split into for their relations; by default the
            attention's own, which teacher and student must then have the same number of.
        count_pads: `hidden` and `attention` as in TinyBERT's released code: pads count, and states are projected
            between equal widths as well. The teacher then runs along in every epoch.
    """

    objective: str | Mapping[str, float] | None = None
    mapping: Mappings = None
    temperature: float = 2.0
    relation_heads: int | None = None
    count_pads: bool = False

    def __post_init__(self) -> None:
        """Refuse unknown terms and impossible weights."""
        super().__post_init__()
        if self.objective is not None:  # else the terms follow from the task's kind
            check_terms(type(self).__name__, self.objective_weights(), self.mapping)
        self._check_number("temperature", minimum=0.0, above=True)
        if self.relation_heads is not None:
            self._check_count("relation_heads", 1)
        each = self.mapping.values() if isinstance(self.mapping, Mapping) else [self.mapping]
        for one in each:
            if isinstance(one, str) and one not in MAPPINGS:
                raise ConfigError(f"{type(self).__name__}.mapping: got {one!r}, allowed are {allowed(MAPPINGS)}.")

    def objective_weights(self, kind: str = "classification") -> dict[str, float]:
        """Return the weight of each term for a kind of task."""
        if self.objective is None:
            return dict(DEFAULTS.get(kind, {"soft": 1.0, "hidden": 1.0}))
        return expanded(self.objective)

    def needs(self, kind: str = "classification") -> frozenset[str]:
        """Return the outputs beside the logits that the objective reads."""
        return frozenset(NEEDS[name] for name in self.objective_weights(kind) if name in NEEDS)

    def learns(self) -> dict[str, Any]:
        """Return what `build_objective` must know beside the weights."""
        names = ("mapping", "temperature", "relation_heads", "count_pads")
        return {name: getattr(self, name) for name in names}

    def check_mapping(self, student: EncoderSpec, teacher: EncoderSpec, kind: str = "classification") -> None:
        """Refuse a mapping that names layers which do not exist; only terms that use it are checked."""
        check_terms(type(self).__name__, self.objective_weights(kind), self.mapping)
        for term in self.objective_weights(kind):
            if TERMS[term] is not None:
                pairs_of(term, self.mapping, student.num_layers, teacher.num_layers)

    def learns_from(self, student: EncoderSpec, teacher: EncoderSpec) -> EncoderSpec:
        """Return the spec of whom a student learns from: the run's teacher, unless a method says otherwise."""
        return teacher

    def network_for(self, spec: EncoderSpec) -> torch.nn.Module:
        """Return a network of random weights that trains as the one that becomes `spec` does, to time it."""
        from bertcompress.encoder.network import build

        return build(spec)

    def fitted(
        self, student: EncoderSpec, teacher: EncoderSpec, kind: str, max_length: int | None = None
    ) -> Distillation:
        """Return the settings with what follows from the networks, where nothing else was said; here nothing does."""
        return self

    def fit(
        self,
        method: str,
        student: Model,
        task: Task,
        teacher: Model,
        context: Context | None = None,
        selected: Sequence[int] | None = None,
    ) -> TrainingResult:
        """Train the student's network in place to behave like its teacher.

        Args:
            method: who trains, for messages.
            student: whose network is trained.
            task: the data.
            teacher: whom it learns from.
            context: for resuming.
            selected: the teacher's dimension that each of the student's was cut from, for projections to begin with.
        """
        from bertcompress.compressors.fitting import fit

        return fit(
            method,
            student,
            task,
            self,
            weights=self.objective_weights(task.kind),
            learns={**self.learns(), "selected": selected},
            teacher=teacher,
            context=context,
        )


@dataclass(frozen=True, kw_only=True)
class Distill(Distillation):
    """Train a student to behave like its teacher; the student keeps its shape.

    Soft labels: Hinton et al. 2015, T^2 * KL(teacher || student). Hidden states and attention scores: TinyBERT
    (Jiao et al. 2020), in one stage together with the soft labels, where the paper trains them in two. The other terms
    name their sources in `bertcompress.training`; the published combinations are in `training.recipes`.
    """

    method: ClassVar[str] = "distill"

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the spec unchanged; the mapping is checked against `teacher`, by default the encoder itself.

        Raises:
            ConfigError: the encoder is quantized, or the mapping names a layer that does not exist.
        """
        refuse_quantized(self.method, spec)
        self.check_mapping(spec, teacher or spec, _kind(task))
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


def _kind(task: Task | None) -> str:
    return "classification" if task is None else task.kind
