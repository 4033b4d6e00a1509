"""`evaluate`: a model's task scores, its loyalty to its teacher, its size and its speed, in one call."""

from __future__ import annotations

import contextlib
import itertools
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

from bertcompress.data.kinds import BARE_METRICS, SCORED_KINDS
from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.breakdown import breakdown
from bertcompress.evaluation.efficiency import Measurable, measure_latency
from bertcompress.evaluation.intervals import percentile_interval
from bertcompress.evaluation.judges import Judge, judge_for, resample
from bertcompress.evaluation.memory import measure_peak_memory
from bertcompress.evaluation.result import Difference, Evaluation, ModelResult
from bertcompress.model import head_for
from bertcompress.predictions import Predictions

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.base import Task

Array: TypeAlias = npt.NDArray[Any]

METRICS = ("accuracy", "loyalty", "efficiency")
WEIGHT_FILES = {".safetensors", ".onnx", ".xml", ".bin"}
ALIASES = {"score": "accuracy"}
DEFAULT_METRICS = METRICS
MACS_LENGTH = 128


class Evaluable(Measurable, Protocol):
    """What `evaluate` needs of a model; `bertcompress.Model` has it."""

    @property
    def spec(self) -> EncoderSpec:
        """The description of the network."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in the order of the logits; empty where they are not known."""

    def predict(self, dataset: Dataset) -> Predictions:
        """Answer every example, in the data set's order."""

    def num_parameters(self, embeddings: bool = True) -> int:
        """Count the weights."""

    def size_in_bytes(self) -> int:
        """Bytes of all tensors."""

    def macs(self, sequence_length: int) -> int:
        """Multiply-accumulates of one sequence."""

    def save_pretrained(self, folder: Path) -> object:
        """Save the model."""

    def without_head(self) -> Evaluable:
        """Return the encoder alone."""


def check_metrics(metrics: Sequence[str], kind: str, *, has_teacher: bool) -> tuple[str, ...]:
    """Return the metrics by their own names, each once; for plans, which must fail before anything is trained.

    Args:
        metrics: of `METRICS`; "score" is "accuracy", and both mean the task's own scores.
        kind: of the task.
        has_teacher: whether there will be one.

    Raises:
        ConfigError: a metric or the kind of task is not available, or loyalty cannot be had.
    """
    if isinstance(metrics, str):
        raise ConfigError(f"evaluate: metrics is the text {metrics!r}, allowed is a list such as [{metrics!r}].")
    names = tuple(dict.fromkeys(ALIASES.get(name, name) for name in metrics))
    for name in names:
        if name == "robustness":
            raise ConfigError(
                "evaluate: robustness (accuracy under attack) is not available yet; leave it out. Available are "
                f"{allowed((*METRICS, *ALIASES))}."
            )
        if name not in METRICS:
            raise ConfigError(f"evaluate: got the metric {name!r}, allowed are {allowed((*METRICS, *ALIASES))}.")
    if kind not in SCORED_KINDS and set(names) - set(BARE_METRICS):
        raise ConfigError(
            f"evaluate: got {allowed(names)} for a task of the kind {kind!r}, which has nothing to score; allowed "
            f"there are {allowed(BARE_METRICS)}, with anything more on {allowed(SCORED_KINDS)}."
        )
    if not names:
        raise ConfigError(f"evaluate: got no metric, allowed are {allowed((*METRICS, *ALIASES))}.")
    if "loyalty" in names and not has_teacher:
        raise ConfigError("evaluate: loyalty compares a model with its teacher; give teacher=, or leave 'loyalty' out.")
    return names


def available_metrics(kind: str = "classification", *, has_teacher: bool) -> tuple[str, ...]:
    """Return the metrics that can be had on a kind of task; loyalty needs a teacher."""
    if kind not in SCORED_KINDS:
        return BARE_METRICS
    return tuple(name for name in METRICS if name != "loyalty" or has_teacher)


def evaluate(
    model: Evaluable,
    task: Task,
    *,
    teacher: Evaluable | None = None,
    metrics: Sequence[str] = DEFAULT_METRICS,
    split: str | None = None,
    seed: int = 0,
) -> Evaluation:
    """Score a model on a task, beside its teacher.

    Args:
        model: to be evaluated.
        task: of any kind; on unlabelled text, only efficiency can be measured, and that of the encoder without a head.
        teacher: to compare with: differences of scores, loyalty, speed-up. All are paired: same examples, same
            resamples, same rounds of timing.
        metrics: any of "accuracy" (or "score": the task's own scores), "loyalty" and "efficiency". Left as it is, those
            that can be had; asked for by name, one that cannot be had is refused.
        split: of the task; by default test where its labels are known, otherwise validation.
        seed: of the bootstrap and of the order of timing.

    Raises:
        ConfigError: an unknown metric, a kind of task that cannot be scored yet, or a model whose classes are not the
            task's or not in the teacher's order.
        DataError: the split has no labels to score against.
    """
    if metrics is DEFAULT_METRICS:
        metrics = available_metrics(task.kind, has_teacher=teacher is not None)
    wanted = check_metrics(metrics, task.kind, has_teacher=teacher is not None)
    pair: tuple[Evaluable, ...] = (model,) if teacher is None else (model, teacher)
    if task.kind in SCORED_KINDS:
        _check_models(pair, task)
    split, dataset = task.measuring_split(split)
    if task.kind not in SCORED_KINDS:
        alone = model.without_head()
        pair = tuple(alone if each is model else each.without_head() for each in pair)
    found = [_sizes(each, len(dataset)) for each in pair]
    differences: dict[str, Difference] = {}
    notes: tuple[str, ...] = ()
    if task.kind in SCORED_KINDS:
        first = _answer(model, dataset)
        subjects = [first if each is model else _answer(each, dataset) for each in pair]
        differences = _add_answers(found, subjects, judge_for(task, dataset), wanted, seed)
        notes = (*_notes(subjects, task), *_threshold_note(subjects, split))
    if "efficiency" in wanted:
        _add_efficiency(found, pair, dataset, seed)
    results = [ModelResult(**fields) for fields in found]
    about = {"name": task.name, "kind": task.kind, "metric": task.metric, "split": split, "labels": list(task.labels)}
    return Evaluation(
        about, results[0], results[1] if teacher is not None else None, differences, MACS_LENGTH, seed, notes
    )


def _add_answers(
    found: list[dict[str, Any]], subjects: Sequence[Predictions], judge: Judge, wanted: Sequence[str], seed: int
) -> dict[str, Difference]:
    """Add what follows from the models' answers to what was found of each; return the differences of their scores."""
    differences: dict[str, Difference] = {}
    for fields, subject in zip(found, subjects, strict=True):
        fields["null_threshold"] = subject.null_threshold
    if "accuracy" in wanted:
        for name in judge.names:
            differences |= _add_score(found, subjects, judge, name, seed)
    if "loyalty" in wanted:
        _add_loyalty(found, subjects, judge, seed)
    return differences


def _check_models(models: Sequence[Evaluable], task: Task) -> None:
    """Refuse models whose output is not the task's, or whose classes are in different orders."""
    names = ("the model", "the teacher")
    for name, model in zip(names, models, strict=False):
        head, needed = model.spec.head, head_for(task, model.spec.head.pooler)
        if (head.task, head.num_labels) != (needed.task, needed.num_labels):
            raise ConfigError(
                f"evaluate: {name} has a head for {head.task} with {head.num_labels} outputs, the task {task.name!r} "
                f"is a {task.kind} task and needs {needed.task} with {needed.num_labels}; fine-tune it on this task "
                "first."
            )
    if task.labels:
        named = (
            (name, tuple(model.labels)) for name, model in zip(names, models, strict=False) if _named(model.labels)
        )
        # The teacher comes first: a student that differs from it is told so, before either is held against the task.
        _check_labels([*reversed(list(named)), (f"the task {task.name!r}", tuple(task.labels))])


def _check_labels(named: Sequence[tuple[str, tuple[str, ...]]]) -> None:
    for (name, labels), (other, others) in itertools.pairwise(named):
        if labels != others:
            same = "the same classes in another order" if set(labels) == set(others) else "different classes"
            raise ConfigError(
                f"evaluate: {name} has the labels {labels}, {other} has {others}: {same}, so logit i means different "
                "things and neither scores nor loyalty would be right; reorder the rows of the classifier and its "
                "labels, or fine-tune on this task."
            )


def _named(labels: Sequence[str]) -> bool:
    """Return whether the labels say anything; transformers' placeholders LABEL_0, LABEL_1, ... do not."""
    return any(not label.startswith("LABEL_") for label in labels)


def _answer(model: Evaluable, dataset: Dataset) -> Predictions:
    found = model.predict(dataset)
    broken = int((~np.isfinite(found.logits)).sum())
    answered = len(found.answers) if found.offsets is None else len(found.offsets) - 1
    if answered != len(dataset) or broken:
        raise ConfigError(
            f"evaluate: a model gave {answered} answers to {len(dataset)} examples, {broken} logits among them NaN or "
            "infinite; the model is broken."
        )
    return found


def _sizes(model: Evaluable, examples: int) -> dict[str, Any]:
    return {
        "parameters": model.num_parameters(),
        "parameters_without_embeddings": model.num_parameters(embeddings=False),
        "macs": model.macs(MACS_LENGTH),
        "bytes": model.size_in_bytes(),
        "file_bytes": None,
        "examples": examples,
        "scores": {},
        "score_intervals": {},
        "loyalty": {},
        "loyalty_intervals": {},
        "breakdown": {},
        "measured": {},
    }


def _add_score(
    found: list[dict[str, Any]], subjects: Sequence[Predictions], judge: Judge, name: str, seed: int
) -> dict[str, Difference]:
    """Add one metric to what was found of each model, and return the difference to the teacher, if there is one."""
    draws = judge.draws(name, subjects, seed)
    for place, (fields, subject) in enumerate(zip(found, subjects, strict=True)):
        fields["scores"][name] = judge.scores(subject)[name]
        fields["score_intervals"][name] = percentile_interval(draws[:, place])
    if len(subjects) == 1:
        return {}
    ours, theirs = (fields["scores"][name] for fields in found)
    interval = percentile_interval(draws[:, 0] - draws[:, 1])
    return {name: Difference(ours - theirs, interval, ours / theirs if theirs > 0 else None)}


def _add_loyalty(found: list[dict[str, Any]], subjects: Sequence[Predictions], judge: Judge, seed: int) -> None:
    """Add the loyalty of each model to the teacher, the teacher's own included: it is 1, or something is wrong."""
    for fields, subject in zip(found, subjects, strict=True):
        loyalties = judge.loyalty(subjects[1], subject)
        fields["loyalty"] = {name: each.total() for name, each in loyalties.items()}
        fields["loyalty_intervals"] = {
            name: percentile_interval(resample([each], seed=seed)[:, 0]) for name, each in loyalties.items()
        }
    if subjects[0] is not subjects[1]:
        compared = judge.compared(subjects[1], subjects[0])
        found[0]["breakdown"] = breakdown(compared.units, compared.show, seed)


def _add_efficiency(found: list[dict[str, Any]], models: Sequence[Evaluable], dataset: Dataset, seed: int) -> None:
    """Add file size, latency and peak memory; a model that is its own teacher is measured once."""
    names = ["model", "model" if models[-1] is models[0] else "teacher"][: len(models)]
    named = dict(zip(names, models, strict=True))
    latency = measure_latency(named, dataset, baseline=names[1] if len(names) > 1 else None, seed=seed)
    saved = {}
    for name, model in named.items():
        with tempfile.TemporaryDirectory(prefix="bertcompress-") as folder:
            with _untold():
                model.save_pretrained(Path(folder))
            saved[name] = sum(file.stat().st_size for file in Path(folder).iterdir() if file.suffix in WEIGHT_FILES)
            precision = getattr(model, "precision", "fp32")  # of an exported file
            latency[name] |= measure_peak_memory(Path(folder), dataset, precision=precision)
    for fields, name in zip(found, names, strict=True):
        fields["file_bytes"] = saved[name]
        fields["measured"] = {"latency": latency[name]}


@contextlib.contextmanager
def _untold() -> Iterator[None]:
    """Leave out of the log that a model was saved: it is measured there, and then gone."""
    logger = logging.getLogger("bertcompress.model")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)


def _threshold_note(subjects: Sequence[Predictions], split: str) -> tuple[str, ...]:
    """Say so where a null threshold was chosen on the very questions that are scored, as the official best_f1 is."""
    if split != "validation" or all(not each.null_threshold for each in subjects):  # None, or 0: not chosen
        return ()
    return (
        "The threshold above which no answer is given was chosen on the validation split, which is scored here: these "
        "are best-case figures, like the official script's best_f1.",
    )


def _notes(subjects: Sequence[Predictions], task: Task) -> tuple[str, ...]:
    """Warn where the models agree far better after renaming classes: their labels may be in different orders.

    Names can agree and weights not (the TinyBERT checkpoints for MNLI). Ten points more is beyond what chance gives.
    """
    if len(subjects) < 2 or task.kind != "classification":
        return ()
    first, second = (each.logits.argmax(-1) for each in subjects)
    table = np.zeros((len(task.labels), len(task.labels)))
    np.add.at(table, (first, second), 1 / len(first))
    best = table[linear_sum_assignment(table, maximize=True)].sum()
    if best - np.trace(table) < 0.1:
        return ()
    return (
        f"Suspicious: the two models agree on {100 * np.trace(table):.1f}% of the examples, but would on "
        f"{100 * best:.1f}% with their classes renamed; check that both number the classes in the same order.",
    )
