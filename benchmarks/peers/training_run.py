"""One training, of ours or of the peer: `python -m benchmarks.peers.training_run JOB RESULT`, in its own process."""

from __future__ import annotations

import dataclasses
import json
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import Dataset
from transformers import AutoTokenizer, Trainer

import bertcompress as bc
from benchmarks.peers import trainer as peer
from bertcompress.evaluation.hardware import load_average
from bertcompress.training.recipes import pairs_of
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs

OBJECTIVE = {"soft": 1.0, "hidden": 1.0}
SUBSET_SEED = 0


@dataclass(frozen=True)
class Job:
    """What to train.

    Attributes:
        work: fine_tune or distill.
        side: ours or peer.
        student: folder of the starting weights, with the folders `ours` and `peer` in it: the same weights twice.
        teacher: the same for the teacher, when distilling.
        task: a task's name or files.
        examples: how many of the training split; 0: all.
        epochs: passes over these.
        seed: of data order and dropout.
        save: folder for the trained model of ours, or empty.
    """

    work: str
    side: str
    student: str
    teacher: str
    task: str
    examples: int
    epochs: float
    seed: int
    save: str = ""

    sides: ClassVar[tuple[str, str]] = ("ours", "peer")

    def settings(self) -> TrainingSettings:
        """Return what both sides have to obey."""
        return TrainingSettings(epochs=self.epochs, seed=self.seed, max_length=128)


def subset(task: bc.Task, examples: int) -> bc.Task:
    """Return the task with so many training examples, always the same ones, and nothing to score on meanwhile."""
    assert task.train is not None
    rows = np.random.default_rng(SUBSET_SEED).permutation(len(task.train))[: examples or None]
    return dataclasses.replace(task, train=task.train.select(np.sort(rows).tolist()), validation=None)


def measure(job: Job) -> dict[str, Any]:
    """Train, and return times, examples per second with and without the teacher's part, and validation accuracy."""
    task = bc.load_task(job.task)
    assert task.validation is not None
    before = load_average()
    run = _ours if job.side == "ours" else _peer
    facts = run(job, subset(task, job.examples), task.validation)
    seen, loop, teacher = facts["examples_seen"], facts["loop_seconds"], facts["teacher_seconds"]
    return {
        "work": job.work,
        "side": job.side,
        "seed": job.seed,
        "examples_per_second": seen / loop,
        "examples_per_second_without_teacher": seen / (loop - teacher),
        "examples_per_second_whole": seen / facts["whole_seconds"],
        **facts,
        "peak_memory_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if _mac() else 2**10),
        "load_before": before,
        "load_after": load_average(),
    }


def _mac() -> bool:
    return sys.platform == "darwin"


def _ours(job: Job, task: bc.Task, validation: Dataset) -> dict[str, Any]:
    """Train with bertcompress; the whole includes copying the model and tokenizing."""
    student = bc.Model.from_pretrained(f"{job.student}/ours", task=task)
    settings = dataclasses.asdict(job.settings())
    distil = job.work == "distill"
    teacher = bc.Model.from_pretrained(f"{job.teacher}/ours", task=task) if distil else None
    method = bc.Distill(**settings, objective=OBJECTIVE) if distil else bc.FineTune(**settings)
    teacher_clock = _TeacherClock()
    began = time.perf_counter()
    with teacher_clock:
        trained = method.compress(student, task, teacher=teacher)
    whole = time.perf_counter() - began
    step = trained.history[-1]
    loop = step.measured["training_seconds"]
    if job.save:
        trained.save_pretrained(job.save)
    predictions = trained.predict(validation)
    return {
        "steps": step.facts["steps"],
        "examples_seen": round(loop * step.measured["examples_per_second"]),
        "loop_seconds": loop,
        "teacher_seconds": teacher_clock.seconds,
        "whole_seconds": whole,
        "last_loss": step.curves["loss"][-1][1],
        "accuracy": _accuracy(predictions.logits, predictions.labels),
    }


class _TeacherClock:
    """Adds up the time of all calls of `TeacherOutputs.batch`: the pass over all examples, and reading what it kept."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._batch = TeacherOutputs.batch

    def __enter__(self) -> None:
        untimed, clock = self._batch, self

        def batch(outputs: TeacherOutputs, *arguments: Any, **named: Any) -> Any:
            began = time.perf_counter()
            try:
                return untimed(outputs, *arguments, **named)
            finally:
                clock.seconds += time.perf_counter() - began

        TeacherOutputs.batch = batch  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        TeacherOutputs.batch = self._batch  # type: ignore[method-assign]


def _peer(job: Job, task: bc.Task, validation: Dataset) -> dict[str, Any]:
    """Train with transformers' Trainer; the whole includes tokenizing and building the Trainer."""
    settings = job.settings()
    student, tokenizer = peer.load(f"{job.student}/peer"), AutoTokenizer.from_pretrained(f"{job.student}/peer")
    extra: dict[str, Any] = {}
    if job.work == "distill":
        teacher = peer.load(f"{job.teacher}/peer")
        depths = (student.config.num_hidden_layers, teacher.config.num_hidden_layers)
        shared = bc.Distill()
        extra = {
            "teacher": teacher,
            "temperature": shared.temperature,
            "pairs": pairs_of("hidden", shared.mapping, *depths),
        }
    clock = peer.LoopClock()
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        train = peer.tokenized(task.train, tokenizer, settings.max_length)
        kind = peer.DistillationTrainer if extra else Trainer
        training = kind(
            model=student,
            args=peer.arguments(settings, Path(folder)),
            train_dataset=train,
            processing_class=tokenizer,
            callbacks=[clock],
            **extra,
        )
        outcome = training.train()
        whole = time.perf_counter() - began
        # A plain Trainer predicts: the subclass would run the teacher and gather hidden states.
        judge = Trainer(model=student, args=training.args, processing_class=tokenizer)
        predicted = judge.predict(peer.tokenized(validation, tokenizer, settings.max_length))
    return {
        "steps": outcome.global_step,
        "examples_seen": round(len(train) * settings.epochs),
        "loop_seconds": clock.seconds,
        "teacher_seconds": getattr(training, "teacher_seconds", 0.0),
        "whole_seconds": whole,
        "mean_loss": outcome.training_loss,
        "accuracy": _accuracy(predicted.predictions, predicted.label_ids),
    }


def _accuracy(logits: Any, labels: Any) -> float:
    return float((np.asarray(logits).argmax(-1) == np.asarray(labels)).mean())


def main(arguments: list[str]) -> None:
    """Read a job, do it, write the result."""
    job, result = arguments
    Path(result).write_text(json.dumps(measure(Job(**json.loads(job)))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
