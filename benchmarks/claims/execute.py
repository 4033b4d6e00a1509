"""Does the cells of an experiment, each once, shared with whatever other process does the same experiment."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from benchmarks.claims import supervised
from benchmarks.claims.experiment import Cell, Experiment
from benchmarks.peers.common import RESULTS, machine
from bertcompress import __version__
from bertcompress.compressors.base import Context, settings_of
from bertcompress.compressors.extract.compressor import ExtractThenDistill
from bertcompress.config import RunConfig
from bertcompress.data.base import Task
from bertcompress.data.feature_cache import usable_cache
from bertcompress.data.sampling import chosen
from bertcompress.data.tasks import load_task
from bertcompress.downstream.scores import DRAW, downstream_scores, load_tasks
from bertcompress.downstream.settings import Downstream
from bertcompress.encoder.spec import EncoderSpec, Head
from bertcompress.model import Model
from bertcompress.pipeline.folder import fingerprint

logger = logging.getLogger("bertcompress.claims")
KEPT = RESULTS / "claims"
CACHE_MIB = 8192.0  # of the teacher's outputs, which all cells share


def kept_at(experiment: Experiment, cell: Cell) -> Path:
    """Return where a cell's result is kept."""
    return KEPT / experiment.name / experiment.scale / f"{cell.name}.json"


def run(experiment: Experiment, work: Path, only: str = "", minutes: float | None = None) -> list[Cell]:
    """Do all cells that nobody has done or is doing; return those that are still left.

    Args:
        experiment: the cells.
        work: folder for checkpoints and the teacher's outputs, shared by all processes.
        only: a part of the names of cells to do.
        minutes: begin no cell after so many.
    """
    began = time.monotonic()
    wanted = [cell for cell in experiment.cells if only in cell.name]
    for cell in wanted:
        place = kept_at(experiment, cell)
        if is_done(place, cell) or (minutes is not None and time.monotonic() - began > 60 * minutes):
            continue
        folder = work / experiment.name / experiment.scale / cell.name
        folder.mkdir(parents=True, exist_ok=True)
        try:
            with FileLock(folder / ".lock", timeout=0):
                if not is_done(place, cell):
                    _keep(place, measure(cell, folder, work / "teacher"))
                    shutil.rmtree(folder / mark_of(cell), ignore_errors=True)
        except Timeout:
            continue  # another process does it
    return [cell for cell in wanted if not is_done(kept_at(experiment, cell), cell)]


def mark_of(cell: Cell) -> str:
    """Return a digest of all that was written about a cell, and of the library's version."""
    written = (cell.group, cell.choices, cell.seed, cell.run, cell.changes, cell.scored_examples)
    limit = () if cell.train_examples is None else (cell.train_examples,)  # what is kept was made without
    return fingerprint(__version__, *written, *limit)[:16]


def is_done(place: Path, cell: Cell) -> bool:
    """Return whether a cell's result is kept, and made with today's settings."""
    try:
        return bool(json.loads(place.read_text(encoding="utf-8"))["mark"] == mark_of(cell))
    except (OSError, ValueError, KeyError):
        return False


def measure(cell: Cell, folder: Path, shared: Path) -> dict[str, Any]:
    """Train and judge one cell; a finished student, and finished fine-tunings, are not made again.

    Args:
        cell: what to do.
        folder: for its checkpoints and fine-tunings.
        shared: for the teacher's outputs.
    """
    config = cell.config()
    if config.downstream is None and config.teacher.fine_tune.epochs > 0:
        return _supervised(cell, config, folder, shared)
    task, teacher = _task(json.dumps(config.task)), _teacher(config.teacher.model, json.dumps(config.task))
    about, mark = machine(), mark_of(cell)
    logger.info("%s", cell.name)
    model = _student(config, task, teacher, folder / mark, shared)
    history = model.history[len(teacher.history) :]
    found: dict[str, Any] = {}
    if config.downstream is not None:
        downstream = config.downstream
        tasks = _loaded(json.dumps([list(downstream.tasks), downstream.max_examples, cell.scored_examples]))
        tuned = folder / mark / "downstream"
        found = downstream_scores(model, config.downstream, tasks, folder=tuned, label=cell.name)
    return {
        "cell": dict(cell.choices),
        "group": cell.group,
        "seed": cell.seed,
        "steps": [{"method": step.method, "settings": settings_of(step)} for step in config.compress],
        "mark": mark,
        "texts": {"examples": _size(task, teacher)[0], "fingerprint": task.fingerprint()},
        "history": [_kept_of(step) for step in history],
        "parameters": model.num_parameters(),
        "compute": compute(config.compress, model.spec, teacher.spec, *_size(task, teacher)),
        "downstream": found,
        "measured": {"seconds": sum(step.measured.get("training_seconds", 0.0) for step in history)},
        "machine": about,
    }


def _supervised(cell: Cell, config: RunConfig, folder: Path, shared: Path) -> dict[str, Any]:
    """Compress and judge a teacher that is fine-tuned on the task of the run."""
    about = machine()
    logger.info("%s", cell.name)
    found = supervised.measured(cell, config, folder / mark_of(cell), shared)
    return {
        "cell": dict(cell.choices),
        "group": cell.group,
        "seed": cell.seed,
        "steps": [{"method": step.method, "settings": settings_of(step)} for step in config.compress],
        "mark": mark_of(cell),
        "found": found,
        "measured": {"seconds": found["seconds"]},
        "machine": about,
    }


def _student(config: RunConfig, task: Task, teacher: Model, folder: Path, shared: Path) -> Model:
    """Return what comes out of the steps, made now or before an interruption."""
    made = folder / "student"
    if made.exists():
        return Model.from_pretrained(made, task)
    model = teacher
    for number, step in enumerate(config.compress):
        context = Context(folder / f"step-{number}", config.name, shared=shared, cache_mib=CACHE_MIB)
        model = step.compress(model, task, teacher=teacher, context=context)
    draft = folder / "student.draft"
    shutil.rmtree(draft, ignore_errors=True)
    model.save_pretrained(draft)
    draft.rename(made)
    return model


def compute(
    steps: Sequence[Any], student: EncoderSpec, teacher: EncoderSpec, examples: int, tokens: int
) -> dict[str, float]:
    """Return what the steps cost in multiply-accumulates, from the networks' shapes.

    A backward pass counts as two forward passes. The teacher's forward pass counts for every example that the student
    sees, also where its outputs are kept: the claim is about the method, not about a cache.

    Args:
        steps: compressors.
        student: what comes out of them.
        teacher: whom it learns from.
        examples: in the training split.
        tokens: of an example, the mean.
    """
    ours, theirs = (spec.replace(head=Head()).macs(tokens) for spec in (student, teacher))
    found = {"distillation": 0.0, "importance": 0.0}
    for step in steps:
        found["distillation"] += getattr(step, "epochs", 0.0) * examples * (3 * ours + theirs)
        if isinstance(step, ExtractThenDistill):
            found["importance"] += min(step.measured_examples(), examples) * 3 * theirs
    return found


def _size(task: Task, model: Model) -> tuple[int, int]:
    assert task.train is not None
    lengths = model.featurize(task.train, max_length=128, cache=usable_cache()).lengths
    return len(lengths), round(float(lengths.mean()))


def _kept_of(step: Any) -> dict[str, Any]:
    facts = {name: value for name, value in step.facts.items() if name != "selection"}
    return {"method": step.method, "curves": dict(step.curves), "facts": facts, "measured": dict(step.measured)}


@functools.lru_cache(maxsize=2)
def _task(source: str) -> Task:
    return load_task(json.loads(source))


@functools.lru_cache(maxsize=2)
def _teacher(name: str, source: str) -> Model:
    return Model.from_pretrained(name, _task(source))


@functools.lru_cache(maxsize=2)
def _loaded(source: str) -> list[Task]:
    tasks, examples, scored = json.loads(source)
    return [_fewer_scored(task, scored) for task in load_tasks(Downstream(tasks=tasks, max_examples=examples))]


def _fewer_scored(task: Task, examples: int | None) -> Task:
    """Return the task with at most so many examples in each split that a student is scored on."""
    splits = {"validation": task.validation, "test": task.test}
    cut = {
        name: split.select(chosen(len(split), examples, DRAW))
        for name, split in splits.items()
        if split is not None and examples is not None and len(split) > examples
    }
    return dataclasses.replace(task, **cut)


def _keep(place: Path, result: dict[str, Any]) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    draft = place.with_suffix(f".{os.getpid()}.draft")
    draft.write_text(json.dumps(result, sort_keys=True) + "\n", encoding="utf-8")
    draft.replace(place)
