"""`Pipeline`: compressors one after the other, checked as a whole before the first of them starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from bertcompress.compressors.base import Compressor, Context
from bertcompress.errors import ConfigError

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model
    from bertcompress.training.objectives import Objective


class Pipeline:
    """A chain of compressors; every step learns from the model that came into the chain, unless told otherwise.

    Example:
        >>> from bertcompress import ExtractThenDistill, Pipeline, PostTrainingQuantization
        >>> chain = Pipeline([ExtractThenDistill(num_layers=3), PostTrainingQuantization()])
        >>> [name for name, _ in chain.named_steps]
        ['1-extract_then_distill', '2-post_training_quantization']
    """

    method: ClassVar[str] = "pipeline"

    def __init__(self, steps: Sequence[Compressor]) -> None:
        """Keep the steps.

        Raises:
            ConfigError: one of them is no compressor, or is a chain itself.
        """
        for place, step in enumerate(steps):
            if isinstance(step, Pipeline):
                raise ConfigError(
                    f"Pipeline: step {place + 1} is a Pipeline; put its steps into this one: [*inner.steps]."
                )
            if not isinstance(step, Compressor) or isinstance(step, type):
                raise ConfigError(
                    f"Pipeline: step {place + 1} is {step!r}, allowed are compressors such as Distill(epochs=3)."
                )
        self.steps = tuple(steps)

    @property
    def named_steps(self) -> list[tuple[str, Compressor]]:
        """The steps with the names of their folders: place in the chain, counted from 1, and method."""
        return [(f"{place}-{step.method}", step) for place, step in enumerate(self.steps, start=1)]

    def plan(
        self, spec: EncoderSpec, task: Task | None = None, *, teacher: EncoderSpec | None = None
    ) -> list[tuple[str, EncoderSpec]]:
        """Return what will come out of every step, as (step's name, spec); touch no weights.

        Raises:
            ConfigError: a step cannot work on what the step before it gives; the message begins with the step.
        """
        source, planned = teacher or spec, []
        for place, (name, step) in enumerate(self.named_steps):
            try:
                spec = step.plan(spec, task, teacher=source)
            except ConfigError as error:
                problem = str(error).removeprefix(f"{step.method}: ")
                raise ConfigError(f"compress[{place}] {step.method}: {problem}") from error
            planned.append((name, spec))
        return planned

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return the model that comes out of the last step; never change the one that came in.

        Args:
            model: what to compress.
            task: data to train on; None where no step needs any.
            teacher: whom the steps learn from; by default `model` as it came in.
            context: for resuming; every step keeps its checkpoints in a folder of its own.
        """
        source, context = teacher or model, context or Context()
        planned = self.plan(model.spec, task, teacher=source.spec)
        check_objectives(self.steps, [spec for _, spec in planned], source.spec, task)
        for name, step in self.named_steps:
            model = step.compress(model, task, teacher=source, context=_for_step(context, name))
        return model


def check_objectives(
    steps: Sequence[Compressor], specs: Sequence[EncoderSpec], teacher: EncoderSpec, task: Task | None
) -> None:
    """Refuse what cannot be learnt on this kind of task before anything is trained.

    Args:
        steps: of a chain.
        specs: what each of them gives.
        teacher: whom they learn from.
        task: that they learn; without one there is nothing to check.

    Raises:
        ConfigError: a step's objective does not fit its networks or the kind of task; the message begins with the step.
    """
    from bertcompress.training.settings import TrainingSettings

    for place, (step, spec) in enumerate(zip(steps, specs, strict=True)):
        if task is None or not isinstance(step, TrainingSettings) or not step.trains:
            continue
        try:
            objective_of(step, spec, teacher, task)
            step.check_needs()
        except ConfigError as error:
            raise ConfigError(f"compress[{place}] {step.method}: {error}") from error


def objective_of(step: Any, spec: EncoderSpec, teacher: EncoderSpec, task: Task) -> Objective:
    """Return what a step that trains would minimise.

    Args:
        step: a compressor that trains.
        spec: what it gives.
        teacher: whom it learns from.
        task: that it learns.

    Raises:
        ConfigError: the objective does not fit the networks or the kind of task.
    """
    from bertcompress.compressors.distill.compressor import Distillation
    from bertcompress.training.masking import Masking
    from bertcompress.training.objectives import build_objective

    if isinstance(step, Distillation):
        teacher = step.learns_from(spec, teacher)
        step = step.fitted(spec, teacher, task.kind)
    learns: dict[str, Any] = step.learns() if isinstance(step, Distillation) else {}
    masking = Masking(0, (), spec.embeddings.vocab_size)  # any will do: nothing is hidden here
    weights = step.objective_weights(task.kind)
    return build_objective(weights, student=spec, teacher=teacher, kind=task.kind, masking=masking, **learns)


def _for_step(context: Context, name: str) -> Context:
    folder: Path | None = None if context.folder is None else context.folder / name
    return Context(folder, name)
