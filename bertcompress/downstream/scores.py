"""Fine-tunes a model on tasks and scores it; every fine-tuning that is done is kept, so that none is done twice."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress import __version__
from bertcompress.compressors.base import Context, settings_of
from bertcompress.data.base import has_labels
from bertcompress.data.feature_cache import usable_cache
from bertcompress.data.sampling import fewer_examples
from bertcompress.data.tasks import load_task
from bertcompress.downstream.settings import SEEDED, Downstream
from bertcompress.errors import ConfigError
from bertcompress.evaluation.judges import judge_for
from bertcompress.training.checkpoint import digest

if TYPE_CHECKING:
    from bertcompress.compressors.fine_tune.compressor import FineTune
    from bertcompress.data.base import Task
    from bertcompress.encoder.spec import EncoderSpec
    from bertcompress.model import Model

logger = logging.getLogger(__name__)
CHECKPOINTS = ".checkpoints"  # of fine-tunings under way, below the folder of what is finished
DRAW = 0  # seed of the examples that are drawn where there are more than `max_examples`


def load_tasks(settings: Downstream) -> list[Task]:
    """Load the tasks to fine-tune on.

    Raises:
        ConfigError: a task is unknown, lacks what fine-tuning and choosing need, or has the name of another one.
        DataError: its data are missing.
    """
    tasks = [load_task(each) for each in settings.tasks]
    names = [task.name for task in tasks]
    for task in tasks:
        scored = task.validation is not None and bool(task.metric) and has_labels(task.validation)
        if task.train is None or not scored or task.kind == "embedding":
            raise ConfigError(
                f"downstream.tasks: task {task.name} ({task.kind}) lacks a train split or labels on a validation "
                "split; name tasks that can be fine-tuned and scored."
            )
        if names.count(task.name) > 1:
            raise ConfigError(f"downstream.tasks: two tasks have the name {task.name!r}; give each its own.")
    return [
        task if settings.max_examples is None else fewer_examples(task, settings.max_examples, DRAW) for task in tasks
    ]


def check(settings: Downstream, specs: Mapping[str, EncoderSpec]) -> None:
    """Refuse models that cannot be fine-tuned.

    Args:
        settings: what is to be done.
        specs: of all models of a run by name, the teacher first.

    Raises:
        ConfigError: a model is quantized, or there is none of that name.
    """
    for name in settings.chosen_models(list(specs)):
        try:
            settings.fine_tune.plan(specs[name], None)
        except ConfigError as error:
            raise ConfigError(
                f"downstream.models: {name} cannot be fine-tuned: {error} Or name the models to fine-tune."
            ) from error


def downstream_scores(
    model: Model, settings: Downstream, tasks: Sequence[Task] = (), *, folder: Path | None = None, label: str = "model"
) -> dict[str, dict[str, Any]]:
    """Fine-tune copies of a model on every task and return their scores by task, in JSON types.

    Args:
        model: of any head; each task gets a new one, drawn from the seed.
        settings: tasks, grid and seeds.
        tasks: as `load_tasks` gives them; loaded if left out.
        folder: where finished fine-tunings, and checkpoints below it, are kept; None keeps nothing.
        label: what the model is called in progress lines.

    Raises:
        ConfigError: a task cannot be fine-tuned on, or the model is quantized.
        TrainingError: a training diverged.
    """
    settings.fine_tune.plan(model.spec, None)
    tuner = _Tuner(model, settings, folder, label)
    return {task.name: tuner.scores(task) for task in tasks or load_tasks(settings)}


class _Tuner:
    """Fine-tunes one model."""

    def __init__(self, model: Model, settings: Downstream, folder: Path | None, label: str) -> None:
        self.model, self.settings, self.folder, self.label = model, settings, folder, label
        self.mark = ""
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
            words = sorted(model.tokenizer.get_vocab().items())
            self.mark = digest(__version__, model.spec.to_dict(), words, model.network)

    def scores(self, task: Task) -> dict[str, Any]:
        """Choose the settings and return the scores with every seed."""
        settings, points = self.settings, self.settings.points()
        tried = []
        if len(points) > 1:
            tried = [
                {"settings": point, "score": self.one(task, point, settings.choosing_seed)["validation"]}
                for point in points
            ]
            best = max(tried, key=lambda each: -math.inf if each["score"] is None else each["score"])
            points = [best["settings"]]  # the first of equals
        runs = [self.one(task, points[0], seed) for seed in settings.seeds]
        split, data = task.scoring_split()
        tuning = settings_of(settings.tuning(points[0], settings.seeds[0]))
        assert task.train is not None
        return {
            "kind": task.kind,
            "metric": task.metric,
            "split": split,
            "examples": {"train": len(task.train), split: len(data)},
            "tried": tried,
            "choosing_seed": settings.choosing_seed if tried else None,
            "settings": {name: value for name, value in tuning.items() if name not in SEEDED},
            "seeds": list(settings.seeds),
            "scores": {name: [run["scores"][name] for run in runs] for name in runs[0]["scores"]},
            "measured": {"seconds": [run["seconds"] for run in runs]},
        }

    def one(self, task: Task, point: Mapping[str, Any], seed: int) -> dict[str, Any]:
        """Return the scores of one fine-tuning, which is done unless it was before."""
        tuning = self.settings.tuning(point, seed)
        if self.folder is None:
            return self.tuned(task, tuning, None)
        key = digest(self.mark, task.fingerprint(), settings_of(tuning))[:16]
        kept = self.folder / f"{task.name}-{key}.json"
        found = _read(kept)
        if found is None:
            work = self.folder / CHECKPOINTS / kept.stem
            found = self.tuned(task, tuning, work)
            draft = kept.with_suffix(".draft")
            draft.write_text(json.dumps(found, sort_keys=True), encoding="utf-8")
            draft.replace(kept)
            shutil.rmtree(work, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process may have one there
                work.parent.rmdir()
        return found

    def tuned(self, task: Task, tuning: FineTune, work: Path | None) -> dict[str, Any]:
        """Fine-tune and score."""
        label = f"{self.label}, {task.name}, seed {tuning.seed}"
        logger.info("%s: fine-tuning with learning rate %g", label, tuning.learning_rate)
        began = time.monotonic()
        if work is not None:
            work.mkdir(parents=True, exist_ok=True)
        tuned = tuning.compress(self.model.for_task(task, seed=tuning.seed), task, context=Context(work, label))
        _, data = task.scoring_split()
        scores = judge_for(task, data).scores(tuned.predict(data, cache=usable_cache()))
        logger.info("%s: %s %.4f", label, task.metric, scores[task.metric])
        return {
            "validation": tuned.history[-1].facts["best_score"],
            "scores": scores,
            "seconds": time.monotonic() - began,
        }


def _read(path: Path) -> dict[str, Any] | None:
    """Return a kept fine-tuning; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(found, dict) and {"validation", "scores", "seconds"} <= found.keys()
    return found if whole else None
