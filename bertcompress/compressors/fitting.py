"""Training of a model on a task: tokens, teacher, score and loop put together for the compressors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from bertcompress.compressors.base import Context, settings_of
from bertcompress.data.batching import evaluation_batches
from bertcompress.data.features import featurize
from bertcompress.errors import ConfigError
from bertcompress.evaluation.metrics import METRICS
from bertcompress.model import PREDICTION_TOKENS, Model, Step, check_same_labels
from bertcompress.training.loop import TrainingResult, train
from bertcompress.training.objectives import build_objective
from bertcompress.training.teacher import TeacherOutputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bertcompress.data.tasks import Task
    from bertcompress.training.settings import TrainingSettings


def check_head(method: str, model: Model, task: Task) -> None:
    """Refuse a model whose head does not answer the task.

    Raises:
        ConfigError: names the head and what the task needs.
    """
    head = model.spec.head
    outputs = len(task.labels) if task.kind == "classification" else 1
    if head.task != task.kind or head.num_labels != outputs:
        raise ConfigError(
            f"{method}: the model's head is {head.task} with {head.num_labels} outputs, and task {task.name} needs "
            f"{task.kind} with {outputs}; load it with Model.from_pretrained(name, task=task)."
        )


def fit(
    method: str,
    model: Model,
    task: Task,
    settings: TrainingSettings,
    *,
    weights: Mapping[str, float],
    mapping: Any = "uniform",
    temperature: float = 1.0,
    teacher: Model | None = None,
    context: Context | None = None,
) -> TrainingResult:
    """Train the model's network in place on the task's train split, keeping the best state on validation.

    Args:
        method: who trains, for messages.
        model: whose network is trained; pass a copy.
        task: the data.
        settings: how to train.
        weights: of the objective's terms, by name.
        mapping: which teacher layer teaches which student layer.
        temperature: of the soft labels.
        teacher: needed by every term but `hard`.
        context: for resuming.
    """
    check_head(method, model, task)
    context = context or Context()
    objective = build_objective(
        weights,
        student=model.spec,
        teacher=None if teacher is None else teacher.spec,
        mapping=mapping,
        temperature=temperature,
        kind=task.kind,
        seed=settings.seed,
    )
    features = featurize(task.train, model.tokenizer, max_length=min(settings.max_length, model.max_length))
    outputs = None
    if teacher is not None and objective.needs_teacher:
        check_head(method, teacher, task)
        check_same_labels(teacher, model.labels)
        _check_same_tokens(teacher, model)
        outputs = TeacherOutputs(
            teacher.network,
            features,
            needs=objective.needs,
            places=objective.teacher_places,
            max_tokens=settings.max_tokens,
            precision=settings.precision,
        )
    return train(
        model.network,
        objective,
        features,
        settings.training_settings(),
        teacher=outputs,
        score=_scorer(model, task, settings.max_length) if settings.epochs > 0 else None,
        checkpoint=context.folder,
        description=context.label or method,
    )


def _check_same_tokens(teacher: Model, student: Model) -> None:
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise ConfigError(
            "teacher and student have different vocabularies, so the teacher cannot read the student's tokens; "
            "distil into a student that was cut from this teacher, or that shares its tokenizer."
        )


def _scorer(model: Model, task: Task, max_length: int) -> Callable[[torch.nn.Module], float] | None:
    """Return a function that scores the network on validation by the task's own metric, higher is better."""
    if task.validation is None:
        return None
    features = featurize(task.validation, model.tokenizer, max_length=min(max_length, model.max_length))
    metric = METRICS[task.metric]
    batches = evaluation_batches(features.lengths, PREDICTION_TOKENS)

    def score(network: torch.nn.Module) -> float:
        logits = np.zeros((len(features), model.spec.head.num_labels), np.float32)
        device = next(network.parameters()).device
        with torch.inference_mode():
            for indices in batches:
                batch = features.collate(indices)
                inputs = {name: batch[name].to(device) for name in ("input_ids", "attention_mask", "token_type_ids")}
                logits[indices] = network(**inputs).logits.float().cpu().numpy()
        predicted = logits[:, 0] if task.kind == "regression" else logits.argmax(-1)
        return float(metric(predicted, np.asarray(features.labels)))

    return score


def step_of(compressor: Any, result: TrainingResult | None, facts: Mapping[str, Any] | None = None) -> Step:
    """Describe what a compressor did, for the model's history."""
    if result is None:
        return Step(compressor.method, settings_of(compressor), facts=dict(facts or {}))
    return Step(
        compressor.method,
        settings_of(compressor),
        curves=result.curves,
        facts={**(facts or {}), "steps": result.steps, "best_step": result.best_step, "best_score": result.best_score},
        measured={
            "training_seconds": result.seconds,
            "examples_per_second": result.examples_per_second,
            "peak_memory_mib": result.peak_memory_mib,
        },
    )
