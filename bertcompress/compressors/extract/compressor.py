"""Extract-then-distill (arXiv 2104.11928): cut the student out of its teacher, then distil as usual."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.compressors.distill.compressor import Distillation
from bertcompress.compressors.extract.selection import (
    LAYER_CHOICES,
    Selection,
    Sizes,
    chosen_layers,
    random_selection,
    student_spec,
)
from bertcompress.errors import ConfigError, allowed

if TYPE_CHECKING:
    from torch import Tensor

    from bertcompress.data.tasks import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model

IMPORTANCES = ("random",)


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
        importance: how units are chosen: "random" (ETD-Rand).
        layers: which layers are taken: "last_of_block", "first_of_block" or "first".
    """

    method: ClassVar[str] = "extract_then_distill"

    num_layers: int | None = None
    hidden_size: int | None = None
    num_heads: int | None = None
    head_size: int | None = None
    intermediate_size: int | None = None
    importance: str = "random"
    layers: str = "last_of_block"

    def __post_init__(self) -> None:
        """Refuse impossible sizes and unknown choices."""
        super().__post_init__()
        for name in ("num_layers", "hidden_size", "num_heads", "head_size", "intermediate_size"):
            if getattr(self, name) is not None:
                self._check_count(name, 1)
        for name, choices in (("importance", IMPORTANCES), ("layers", LAYER_CHOICES)):
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
        selection = self.select(model.spec, planned)
        spec, weights = extract(model.spec, model.network.state_dict(), selection)
        network = build(spec, model.labels)
        network.load_state_dict(weights)
        student = model.after(network=network, task=task)
        result = None
        if self.epochs > 0:
            result = self.fit(self.method, student, require_task(self.method, task), source, context)
        facts = {"origin": [index + 1 for index in selection.layers], "selection": selection.describe()}
        return student.after(step_of(self, result, facts))

    def select(self, spec: EncoderSpec, student: EncoderSpec) -> Selection:
        """Choose the units of `spec` that the student keeps."""
        return random_selection(
            spec, student, chosen_layers(self.layers, student.num_layers, spec.num_layers), self.seed
        )


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
