"""Fine-tuning: the same encoder, trained on the task's labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from bertcompress.compressors.base import Context, refuse_quantized, require_task
from bertcompress.training.settings import TrainingSettings

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model


@dataclass(frozen=True, kw_only=True)
class FineTune(TrainingSettings):
    """Train all weights on the task's labels: how a teacher is made, and how a student is finished."""

    method: ClassVar[str] = "fine_tune"

    def plan(self, spec: EncoderSpec, task: Task | None, *, teacher: EncoderSpec | None = None) -> EncoderSpec:
        """Return the spec unchanged.

        Raises:
            ConfigError: the encoder is quantized, and there are epochs to train it in.
        """
        if self.epochs > 0:
            refuse_quantized(self.method, spec)
        return spec

    def objective_weights(self, kind: str = "classification") -> dict[str, float]:
        """Return the weight of each term of the objective: the labels alone."""
        return {"hard": 1.0}

    def compress(
        self, model: Model, task: Task | None, *, teacher: Model | None = None, context: Context | None = None
    ) -> Model:
        """Return a model trained on the task's labels; with `epochs=0` the model as it is. A teacher is not used.

        Raises:
            ConfigError: there is no task, or the model's head does not answer it.
        """
        from bertcompress.compressors.fitting import check_head, fit, step_of

        self.plan(model.spec, task)
        if self.epochs == 0 and task is not None:
            check_head(self.method, model, task)
            return model.copy().after(step_of(self, None), task=task)
        task = require_task(self.method, task)
        tuned = model.copy()
        result = fit(self.method, tuned, task, self, weights=self.objective_weights(task.kind), context=context)
        return tuned.after(step_of(self, result), task=task)


def finetune(model: Model, task: Task, **settings: Any) -> Model:
    """Fine-tune a model on a task; `settings` are the fields of `FineTune`, such as `epochs=3`.

    Raises:
        ConfigError: a setting is unknown or impossible, or the model's head does not answer the task.
    """
    return FineTune(**settings).compress(model, task)
