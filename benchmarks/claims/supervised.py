"""Cells of a fine-tuned teacher that is compressed for its own task, and scored there."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.claims.experiment import Cell
from bertcompress import __version__
from bertcompress.compressors.base import Context, settings_of
from bertcompress.config import RunConfig
from bertcompress.data.base import Task
from bertcompress.data.sampling import chosen, fewer_examples
from bertcompress.data.tasks import load_task
from bertcompress.evaluation.evaluate import evaluate
from bertcompress.model import Model
from bertcompress.pipeline.folder import fingerprint

DRAW = 0  # of the examples, the same ones for every seed


def task_of(cell: Cell, config: RunConfig) -> Task:
    """Return the task with as many examples as the experiment says."""
    task = load_task(config.task)
    if cell.train_examples is not None:
        task = fewer_examples(task, cell.train_examples, DRAW)
    name, split = task.measuring_split()
    if cell.scored_examples is not None and len(split) > cell.scored_examples:
        task = dataclasses.replace(task, **{name: split.select(chosen(len(split), cell.scored_examples, DRAW))})
    return task


def teacher_of(config: RunConfig, task: Task, shared: Path) -> Model:
    """Return the fine-tuned teacher, made once for all cells that have it."""
    tune = config.teacher.fine_tune
    mark = fingerprint(__version__, config.teacher.model, settings_of(tune), task.fingerprint())[:16]
    place = shared / mark
    shared.mkdir(parents=True, exist_ok=True)
    with FileLock(shared / f"{mark}.lock"):
        if not place.exists():
            start = Model.from_pretrained(config.teacher.model, task, seed=tune.seed)
            tuned = tune.compress(start, task, context=Context(shared / f"{mark}.checkpoint", "teacher"))
            draft = shared / f"{mark}.draft"
            shutil.rmtree(draft, ignore_errors=True)
            tuned.save_pretrained(draft)
            draft.rename(place)
    return Model.from_pretrained(place, task)


def measured(cell: Cell, config: RunConfig, folder: Path, shared: Path) -> dict[str, Any]:
    """Compress and score; return what was found of teacher and student.

    Args:
        cell: what to do.
        config: its settings.
        folder: for its checkpoints.
        shared: for fine-tuned teachers.
    """
    task = task_of(cell, config)
    teacher = teacher_of(config, task, shared)
    model = teacher
    for number, step in enumerate(config.compress):
        model = step.compress(model, task, teacher=teacher, context=Context(folder / f"step-{number}", cell.name))
    judged = folder / "judged"  # what is scored is what a file of it gives
    shutil.rmtree(judged, ignore_errors=True)
    model.save_pretrained(judged)
    found = evaluate(Model.from_pretrained(judged, task), task, teacher=teacher, metrics=list(config.evaluate))
    told = found.to_dict()
    steps = model.history[len(teacher.history) :]
    return {
        "metric": task.metric,
        "scores": dict(found.scores),
        "teacher_scores": dict(told["teacher"]["scores"]),
        "loyalty": dict(found.loyalty),
        "examples": {"train": 0 if task.train is None else len(task.train), "scored": len(task.measuring_split()[1])},
        "bytes": sum(file.stat().st_size for file in judged.glob("*.safetensors")),
        "curves": [json.loads(json.dumps(dict(step.curves))) for step in steps],
        "seconds": sum(step.measured.get("training_seconds", 0.0) for step in steps),
    }
