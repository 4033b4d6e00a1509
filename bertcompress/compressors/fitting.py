"""Training of a model on a task: tokens, teacher, score and loop put together for the compressors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from bertcompress.compressors.base import Context, settings_of
from bertcompress.compressors.held_out import HeldOutLoss
from bertcompress.data.base import has_labels
from bertcompress.data.feature_cache import usable_cache
from bertcompress.errors import ConfigError
from bertcompress.evaluation.judges import QuestionJudge, judge_for
from bertcompress.model import Model, Step, check_same_labels, head_for
from bertcompress.predictions import Predictions, network_logits, predictions_of
from bertcompress.training.loop import TrainingResult, train
from bertcompress.training.masking import Masking
from bertcompress.training.objectives import Objective, build_objective
from bertcompress.training.processes import process_state
from bertcompress.training.teacher import TeacherOutputs

if TYPE_CHECKING:
    from collections.abc import Mapping

    from datasets import Dataset

    from bertcompress.data.features import Features
    from bertcompress.data.tasks import Task
    from bertcompress.training.settings import TrainingSettings


def check_head(method: str, model: Model, task: Task) -> None:
    """Refuse a model whose head does not answer the task.

    Raises:
        ConfigError: names the head and what the task needs.
    """
    head, needed = model.spec.head, head_for(task, model.spec.head.pooler)
    if (head.task, head.num_labels) != (needed.task, needed.num_labels):
        raise ConfigError(
            f"{method}: the model's head is {head.task} with {head.num_labels} outputs, and task {task.name} needs "
            f"{needed.task} with {needed.num_labels}; load it with Model.from_pretrained(name, task=task)."
        )


def fit(
    method: str,
    model: Model,
    task: Task,
    settings: TrainingSettings,
    *,
    weights: Mapping[str, float],
    learns: Mapping[str, Any] | None = None,
    teacher: Model | None = None,
    context: Context | None = None,
    factors: Mapping[str, float] | None = None,
    origin: str | None = None,
) -> TrainingResult:
    """Train the model's network in place on the task's train split, keeping the best state on validation.

    On unlabelled text the best state is that of the smallest distillation loss on the validation split.

    Args:
        method: who trains, for messages.
        model: whose network is trained, and whose null threshold is chosen on validation; pass a copy.
        task: the data.
        settings: how to train.
        weights: of the objective's terms, by name.
        learns: what else the objective depends on, see `build_objective`.
        teacher: needed by every term but `hard`.
        context: for resuming.
        factors: of the learning rates of some parameters, see `training.optimizers.parameter_groups`.
        origin: by which a checkpoint is known, see `train`.
    """
    check_head(method, model, task)
    context = context or Context()
    objective = _objective(method, model, task, settings, weights, learns, teacher)
    assert task.train is not None
    features = _features(model, task, task.train, settings)
    outputs = None
    if teacher is not None and objective.needs_teacher:
        check_teacher(method, teacher, model, task)
        outputs = _outputs(teacher, features, objective, settings, context)
    scorer = _scorer(model, task, objective, settings, None if outputs is None else teacher, context)
    result = train(
        model.network,
        objective,
        features,
        settings.training_settings(),
        teacher=outputs,
        score=scorer,
        checkpoint=context.folder,
        description=context.label or method,
        factors=factors,
        origin=origin,
    )
    if isinstance(scorer, _Scorer) and isinstance(scorer.judge, QuestionJudge) and task.unanswerable:
        model.null_threshold = scorer.judge.best_threshold(scorer.predictions(model.network))[0]
    return result


def _objective(
    method: str,
    model: Model,
    task: Task,
    settings: TrainingSettings,
    weights: Mapping[str, float],
    learns: Mapping[str, Any] | None,
    teacher: Model | None,
) -> Objective:
    return build_objective(
        weights,
        student=model.spec,
        teacher=None if teacher is None else teacher.spec,
        kind=task.kind,
        seed=settings.seed,
        masking=masking_for(method, model, settings.seed) if "mlm" in weights else None,
        **(learns or {}),
    )


def _features(model: Model, task: Task, data: Dataset, settings: TrainingSettings) -> Features:
    max_length = min(settings.length_for(task.kind), model.max_length)
    return model.featurize(data, max_length=max_length, cache=usable_cache())


def _scorer(
    model: Model, task: Task, objective: Objective, settings: TrainingSettings, teacher: Model | None, context: Context
) -> _Scorer | HeldOutLoss | None:
    """Return what scores a network on the validation split; None where there is nothing to score on."""
    if settings.epochs == 0 or task.validation is None:
        return None
    if task.kind != "unlabelled":
        return _Scorer(model, task, settings) if task.metric and has_labels(task.validation) else None
    features = _features(model, task, task.validation, settings)
    answers = None
    if teacher is not None:
        answers = _outputs(teacher, features, objective, settings, context, scored=True)
    return HeldOutLoss(objective, features, answers, settings)


def _outputs(
    teacher: Model,
    features: Features,
    objective: Objective,
    settings: TrainingSettings,
    context: Context,
    *,
    scored: bool = False,
) -> TeacherOutputs:
    again = settings.epochs > 1 or context.shared is not None  # what is read once need not be kept
    if scored and process_state().num_processes > 1:
        again = False  # only one process scores: it must not wait for the others to share the pass over all texts
    return TeacherOutputs(
        teacher.network,
        features,
        needs=objective.needs,
        places=objective.teacher_places if context.shared is None else None,  # other mappings read other layers
        max_tokens=settings.max_tokens,
        precision=settings.precision,
        cache_mib=context.cache_mib,
        folder=context.shared,
        keep=again and not objective.needs_live_teacher,
        logits=objective.needs_teacher_logits,
    )


def check_teacher(method: str, teacher: Model, student: Model, task: Task) -> None:
    """Refuse a teacher that does not read what the student reads, or answers another question."""
    check_head(method, teacher, task)
    check_same_labels(teacher, student.labels)
    if teacher.tokenizer.get_vocab() != student.tokenizer.get_vocab():
        raise ConfigError(
            "teacher and student have different vocabularies, so the teacher cannot read the student's tokens; "
            "distil into a student that was cut from this teacher, or that shares its tokenizer."
        )


def masking_for(method: str, model: Model, seed: int) -> Masking:
    """Return how a model's tokens are hidden for the objective 'mlm'.

    Raises:
        ConfigError: its tokenizer has no mask token.
    """
    if model.tokenizer.mask_token_id is None:
        raise ConfigError(f"{method}: the objective 'mlm' hides tokens, and the model's tokenizer has no mask token.")
    return Masking.of(model.tokenizer, seed)


class _Scorer:
    """Scores a network on validation as the task is scored, higher is better."""

    def __init__(self, model: Model, task: Task, settings: TrainingSettings) -> None:
        assert task.validation is not None
        self.dataset, self.judge = task.validation, judge_for(task, task.validation)
        if task.kind == "question_answering":
            # Answers are searched in the windows that `predict` searches, as a null threshold fits no others.
            self.features = model.featurize(task.validation, cache=usable_cache())
        else:
            self.features = _features(model, task, task.validation, settings)

    def predictions(self, network: torch.nn.Module) -> Predictions:
        """Return what the network says about the examples."""
        return predictions_of(self.features, network_logits(network, self.features), self.dataset)

    def __call__(self, network: torch.nn.Module) -> float:
        """Return the network's score."""
        return self.judge.selection_score(self.predictions(network))


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
