"""Extract-then-distill (arXiv 2104.11928): cut the student out of its teacher, then distil as usual."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.compressors.distill.compressor import Distillation
from bertcompress.compressors.extract.selection import (
    LAYER_CHOICES,
    Scores,
    Selection,
    Sizes,
    chosen_layers,
    first_units,
    random_units,
    scored_units,
    select_units,
    student_spec,
)
from bertcompress.encoder.spec import Attention
from bertcompress.errors import ConfigError, allowed

if TYPE_CHECKING:
    from torch import Tensor

    from bertcompress.data.tasks import Task
    from bertcompress.encoder.chain import ChainPreTrainedModel
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model

IMPORTANCES = ("random", "taylor", "magnitude", "first", "least")
INITIALIZATIONS = ("extracted", "embeddings", "random")
LOSSES = ("auto", "mlm", "task", "self")
PROJECTIONS = ("random", "selection")
SELECTION = "selection.json"  # in the step's folder, while it is being trained


@dataclass(frozen=True, kw_only=True)
class ExtractThenDistill(Distillation):
    """Pick layers, hidden dimensions, heads and neurons of the model, copy their weights, then distil.

    Width is cut first, then layers are taken. Sizes that are left out stay the model's; `epochs=0` extracts only. The
    paper distils on a general corpus before any task; here the task's own data is used, with the task's soft labels.

    Attributes:
        num_layers: layers of the student.
        hidden_size: width of its stream.
        num_heads: heads of each attention.
        head_size: dimensions of each head.
        intermediate_size: neurons of each feed-forward.
        importance: how units are chosen: "random" (ETD-Rand), "taylor" (first-order importance, ETD-Impt), "magnitude"
            of their weights, or as controls the "first" ones, or those of "least" first-order importance.
        importance_loss: what first-order importance is measured by: "mlm" (hidden tokens, for models with a head for
            it), "task" (the labels), "self" (how well a model without a head restores its last states from texts with
            hidden tokens), or "auto": the first of these that the model and the task allow; a head for hidden tokens
            that only guesses, as a new one does, is not taken.
        importance_batches: batches of `batch_size` that it is measured on, each of at most 4,096 padded tokens.
        initialization: what the student begins with: the "extracted" weights; random ones behind extracted
            "embeddings", where a mapping is to be judged without weights that favour some layers; or "random" ones
            throughout, as the control that the paper compares with.
        layers: which layers are taken: "last_of_block", "first_of_block" or "first".
        compensate_logits: scale queries and keys so that attention scores keep their size on average, where
            dimensions inside heads are cut; not known to be in the paper.
        projection: how the map from the student's width to the teacher's begins: "random", or as the "selection" that
            puts every dimension back where it was cut from; the paper has it random.
    """

    method: ClassVar[str] = "extract_then_distill"

    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    head_size: int | None = None
    intermediate_size: int | None = None
    initialization: str = "extracted"
    importance: str = "random"
    importance_loss: str = "auto"
    importance_batches: int = 100
    layers: str = "last_of_block"
    compensate_logits: bool = False
    projection: str = "random"

    def __post_init__(self) -> None:
        """Refuse impossible sizes and unknown choices."""
        super().__post_init__()
        for name in ("num_layers", "hidden_size", "num_heads", "head_size", "intermediate_size"):
            if getattr(self, name) is not None:
                self._check_count(name, 1)
        self._check_count("importance_batches", 1)
        choices_of = {
            "initialization": INITIALIZATIONS, "importance": IMPORTANCES, "importance_loss": LOSSES,
            "layers": LAYER_CHOICES, "projection": PROJECTIONS,
        }  # fmt: skip
        for name, choices in choices_of.items():
            if getattr(self, name) not in choices:
                raise ConfigError(
                    f"{type(self).__name__}.{name}: got {getattr(self, name)!r}, allowed are {allowed(choices)}."
                )

    def _sizes(self) -> Sizes:
        return Sizes(self.num_layers, self.hidden_size, self.num_heads, self.head_size, self.intermediate_size)

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the student's spec.

        Raises:
            ConfigError: a size is above the model's, the mapping names a layer that does not exist, or the model is
                quantized.
        """
        refuse_quantized(self.method, spec)
        student = student_spec(spec, self._sizes(), self.layers)
        self._check_importance(spec, task)
        if self.initialization == "random" and self.projection == "selection":
            raise ConfigError(
                f"{self.method}.projection: got 'selection', and with initialization 'random' no dimension is cut out "
                "of anything; allowed is 'random'."
            )
        if self.projection == "selection" and teacher not in (None, spec):
            raise ConfigError(
                f"{self.method}.projection: got 'selection', which puts dimensions back into the model that is cut, "
                "and the teacher is another one; allowed is 'random'."
            )
        if self.epochs > 0:
            self.check_mapping(student, teacher or spec, "classification" if task is None else task.kind)
        return student

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the student, cut from `model` and distilled from `teacher`, by default `model` itself.

        Raises:
            ConfigError: sizes or mapping cannot work, or there is no task to distil on.
            DataError: teacher and student order their labels differently.
        """
        from bertcompress.compressors.fitting import step_of
        from bertcompress.encoder.network import build

        source = teacher or model
        planned = self.plan(model.spec, task, teacher=source.spec)
        if self.projection == "selection" and source.network is not model.network:
            raise ConfigError(
                f"{self.method}.projection: got 'selection', and the teacher is not the model that is cut; allowed is "
                "'random'."
            )
        selected: Sequence[int] | None = None
        facts: dict[str, Any] = {}
        if self.initialization == "random":
            network = build(planned, model.labels, seed=self.seed)
        else:
            network, selected, facts = self._cut(model, planned, task, context)
        student = model.after(network=network, task=task)
        result = None
        if self.epochs > 0:
            result = self.fit(self.method, student, require_task(self.method, task), source, context, selected)
        return student.after(step_of(self, result, facts))

    def _cut(
        self, model: Model, planned: EncoderSpec, task: Task | None, context: Context | None
    ) -> tuple[ChainPreTrainedModel, Sequence[int] | None, dict[str, Any]]:
        """Return the extracted network, where its dimensions come from if projections are to know, and the facts."""
        from bertcompress.encoder.network import build

        selection, measured = self._kept_selection(model, planned, task, context)
        spec, weights = extract(model.spec, model.state(), selection)
        if self.compensate_logits:
            weights = compensated(model.spec, spec, weights, selection)
        network = build(spec, model.labels, seed=self.seed)
        cut = self.initialization == "extracted"
        network.load_state_dict(weights if cut else _embeddings(weights), strict=cut)
        selected = None
        if self.projection == "selection":
            selected = selection.hidden or tuple(range(model.spec.hidden_size))
        origin = {"origin": [index + 1 for index in selection.layers]} if cut else {}
        return network, selected, {**origin, "selection": selection.describe(), **measured}

    def _kept_selection(
        self, model: Model, planned: EncoderSpec, task: Task | None, context: Context | None
    ) -> tuple[Selection, dict[str, Any]]:
        """Choose units once: a resumed training must not choose others because sums were rounded otherwise."""
        if context is None or context.folder is None or not self._measures:
            return self.select(model, planned, task)
        path, mark = context.folder / SELECTION, self._mark(model, planned, task)
        kept = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if kept.get("mark") == mark:
            return Selection.from_dict(kept["selection"]), kept["facts"]
        selection, facts = self.select(model, planned, task)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(".draft")
        draft.write_text(json.dumps({"mark": mark, "selection": selection.describe(), "facts": facts}), "utf-8")
        draft.replace(path)
        return selection, facts

    def _mark(self, model: Model, planned: EncoderSpec, task: Task | None) -> str:
        """Return a digest of all that the choice of units depends on."""
        from bertcompress.training.checkpoint import digest

        names = ("importance", "importance_loss", "importance_batches", "layers", "seed", "batch_size", "max_length")
        settings = {name: getattr(self, name) for name in names}
        return digest(settings, planned.to_dict(), task and task.fingerprint(), model.spec.to_dict(), model.network)

    @property
    def _measures(self) -> bool:
        """Whether choosing units takes a pass over data."""
        widths = (self.hidden_size, self.num_heads, self.head_size, self.intermediate_size)
        if self.initialization == "random":
            return False
        return self.importance in ("taylor", "least") and any(size is not None for size in widths)

    def measured_examples(self) -> int:
        """Return how many examples importance is measured on, at most."""
        return self.importance_batches * self.batch_size if self._measures else 0

    def _check_importance(self, spec: EncoderSpec, task: Task | None) -> None:
        if not self._measures:
            return
        head = spec.head.task
        if self.importance_loss == "mlm" and head != "masked_lm":
            raise ConfigError(
                f"{self.method}.importance_loss: got 'mlm', and the model's head is {head!r}; allowed are 'self', "
                "'auto'."
            )
        if self.importance_loss == "task" and head in ("none", "masked_lm"):
            raise ConfigError(
                f"{self.method}.importance_loss: got 'task', and the model's head ({head!r}) answers no labels; "
                "allowed are 'self', 'auto'."
            )
        if task is not None:
            require_task(self.method, task)

    def select(self, model: Model, student: EncoderSpec, task: Task | None) -> tuple[Selection, dict[str, Any]]:
        """Choose the units that the student keeps; return them, and how importance was measured, if it was.

        Raises:
            ConfigError: importance needs data or a head that are not there.
        """
        layers = chosen_layers(self.layers, student.num_layers, model.spec.num_layers)
        facts: dict[str, Any] = {}
        choose = random_units(self.seed) if self.importance == "random" else first_units
        if self._measures or self.importance == "magnitude":
            scores, facts = self._scores(model, task)
            choose = scored_units(scores, lowest=self.importance == "least")
        return select_units(model.spec, student, layers, choose), facts

    def _scores(self, model: Model, task: Task | None) -> tuple[Scores, dict[str, Any]]:
        from bertcompress.compressors.extract.importance import magnitude_scores, taylor_scores
        from bertcompress.compressors.extract.losses import batch_losses, loss_name, usable_loss
        from bertcompress.compressors.fitting import check_head
        from bertcompress.data.feature_cache import usable_cache

        if self.importance == "magnitude":
            return magnitude_scores(model.network), {}
        task = require_task(self.method, task)
        if model.spec.head.task not in ("none", "masked_lm"):
            check_head(self.method, model, task)
        loss = loss_name(self.importance_loss, model, task)
        assert task.train is not None
        length = min(self.length_for(task.kind), model.max_length)
        features = model.featurize(task.train, max_length=length, cache=usable_cache())
        drawn = {"batch_size": self.batch_size, "seed": self.seed}
        loss = usable_loss(self.importance_loss, loss, model, features, **drawn)
        batches = {"batches": self.importance_batches, **drawn}
        losses = batch_losses(loss, model, features, kind=task.kind, **batches)
        return taylor_scores(model.network, losses), {"importance_loss": loss}


def _embeddings(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in weights.items() if name.removeprefix("encoder.").startswith("embeddings.")}


def extract(
    spec: EncoderSpec, weights: Mapping[str, Tensor], selection: Selection
) -> tuple[EncoderSpec, dict[str, Tensor]]:
    """Cut the selected units out: heads, dimensions inside them and neurons, then the stream, then layers."""
    from bertcompress.encoder import surgery

    cut = dict(weights)
    if selection.heads:
        spec, cut = surgery.select_heads(spec, cut, selection.heads)
    if selection.dimensions:
        spec, cut = surgery.select_head_dimensions(spec, cut, selection.dimensions)
    if selection.neurons:
        spec, cut = surgery.select_neurons(spec, cut, selection.neurons)
    if selection.hidden is not None:
        spec, cut = surgery.select_hidden(spec, cut, selection.hidden)
    return surgery.select_layers(spec, cut, selection.layers)


def compensated(
    spec: EncoderSpec, student: EncoderSpec, weights: Mapping[str, Tensor], selection: Selection
) -> dict[str, Tensor]:
    """Return weights whose attention scores keep their size on average where dimensions inside heads were cut.

    A score is a sum over a head's dimensions by the root of their number: of d' out of d it has d'/d of the terms and a
    divisor smaller by (d'/d)^(1/2). Queries and keys, and their biases, are each scaled by (d/d')^(1/4).
    """
    changed = dict(weights)
    prefix = "" if student.head.task == "none" else "encoder."
    for number, index in enumerate(selection.layers):
        for place, operation in enumerate(student.layers[number].operations):
            before = spec.layers[index].operations[place]
            if not isinstance(operation, Attention) or not isinstance(before, Attention):
                continue
            factor = (before.head_size / operation.head_size) ** 0.25
            rows = 2 * operation.num_heads * operation.head_size  # of queries and keys
            for name in ("weight", "bias"):
                full = f"{prefix}layers.{number}.operations.{place}.qkv.{name}"
                tensor = changed[full].clone()
                tensor[:rows] *= factor
                changed[full] = tensor
    return changed
