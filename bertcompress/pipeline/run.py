"""A run: teacher, compression, judgement, each step kept in the run's folder and never done twice."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bertcompress import __version__
from bertcompress.compressors.base import Compressor, Context, settings_of
from bertcompress.evaluation.cost import estimate_cost
from bertcompress.evaluation.evaluate import MACS_LENGTH, check_metrics, evaluate
from bertcompress.model import Model
from bertcompress.pipeline.chain import Pipeline
from bertcompress.pipeline.environment import describe_environment
from bertcompress.pipeline.folder import (
    STEP_FILE,
    RunFolder,
    fingerprint,
    to_json,
    weights_fingerprint,
    write_atomically,
)

if TYPE_CHECKING:
    from bertcompress.compressors.fine_tune import FineTune
    from bertcompress.data.tasks import Task

logger = logging.getLogger(__name__)

RESULTS_VERSION = 1
TEACHER = "0-teacher"


@dataclass(frozen=True)
class Run:
    """What a run does and where it is kept.

    Attributes:
        name: shown in its report.
        task: data to train and to judge on.
        teacher: the name or folder of the model that is compressed.
        fine_tune: how the teacher is fine-tuned first; `epochs=0` takes it as it is.
        pipeline: the compressors.
        metrics: what is measured of every model.
        folder: where everything is kept.
        config: the resolved settings as YAML, kept beside the results.
        command: what was typed, kept in environment.json.
    """

    name: str
    task: Task
    teacher: str
    fine_tune: FineTune
    pipeline: Pipeline
    metrics: Sequence[str]
    folder: Path
    config: str = ""
    command: str = ""

    def execute(self) -> Path:
        """Do what has not been done yet, and return the path of results.json.

        Raises:
            ConfigError: the chain cannot work; nothing has been trained or written then.
            RunError: another run owns the folder.
        """
        metrics = check_metrics(self.metrics, self.task.kind, has_teacher=True)
        base = Model.from_pretrained(self.teacher, self.task, seed=self.fine_tune.seed)
        self.pipeline.plan(self.fine_tune.plan(base.spec, self.task), self.task)
        folder = RunFolder(self.folder)
        with folder.owned():
            if self.config:
                folder.write("config.yaml", self.config)
            folder.write("environment.json", to_json({**describe_environment(), "command": self.command}))
            names = self._steps(folder, base)
            return folder.write("results.json", to_json(self._results(folder, names, metrics)))

    def _steps(self, folder: RunFolder, base: Model) -> list[str]:
        """Do the teacher and every compressor that is not there yet; return their names."""
        origin = fingerprint(base.spec.to_dict(), _state_digest(base), base.labels)
        self._step(folder, TEACHER, self.fine_tune, base, None, [origin])
        names, place = [TEACHER], folder.step(TEACHER)
        source = weights_fingerprint(place)
        for name, step in self.pipeline.named_steps:
            inputs = [weights_fingerprint(place), source]
            self._step(folder, name, step, place, folder.step(TEACHER), inputs)
            names.append(name)
            place = folder.step(name)
        return names

    def _step(
        self,
        folder: RunFolder,
        name: str,
        step: Compressor,
        source: Model | Path,
        teacher: Path | None,
        inputs: Sequence[str],
    ) -> None:
        """Do one step, unless the folder holds it already with the same settings and inputs."""
        mark = fingerprint(__version__, step.method, settings_of(step), self.task.fingerprint(), list(inputs))
        if folder.finished(name, mark) is not None:
            logger.info("%s: done before, taken as it is", name)
            return
        logger.info("%s: %s", name, step.method)
        started, work = time.perf_counter(), folder.work(name)
        model = source if isinstance(source, Model) else Model.from_pretrained(source, self.task)
        learned_from = None if teacher is None else Model.from_pretrained(teacher, self.task)
        result = step.compress(model, self.task, teacher=learned_from, context=Context(work / "checkpoint", name))
        finished = work / "model"
        shutil.rmtree(finished, ignore_errors=True)
        result.save_pretrained(finished)
        last = result.history[-1]
        record = {
            "name": name,
            "method": step.method,
            "settings": settings_of(step),
            "fingerprint": mark,
            "curves": dict(last.curves),
            "facts": dict(last.facts),
            "measured": {"seconds": time.perf_counter() - started, **last.measured},
        }
        write_atomically(finished / STEP_FILE, to_json(record))
        folder.complete(name, finished)

    def _results(self, folder: RunFolder, names: Sequence[str], metrics: Sequence[str]) -> dict[str, Any]:
        """Judge every model beside the teacher, as results.json has it."""
        teacher = Model.from_pretrained(folder.step(TEACHER), self.task)
        split, _ = self.task.scoring_split()
        counts = {name: len(data) for name, data in self.task.splits.items()}
        return {
            "format_version": RESULTS_VERSION,
            "name": self.name,
            "base_model": self.teacher,
            "task": {
                "name": self.task.name,
                "kind": self.task.kind,
                "metric": self.task.metric,
                "split": split,
                "labels": list(self.task.labels),
                "counts": counts,
                "source": self.task.source,
            },
            "macs_length": MACS_LENGTH,
            "models": [self._judged(folder, name, teacher, metrics) for name in names],
        }

    def _judged(self, folder: RunFolder, name: str, teacher: Model, metrics: Sequence[str]) -> dict[str, Any]:
        logger.info("%s: evaluating", name)
        model = teacher if name == TEACHER else Model.from_pretrained(folder.step(name), self.task)
        record = json.loads((folder.step(name) / STEP_FILE).read_text(encoding="utf-8"))
        found = evaluate(model, self.task, teacher=teacher, metrics=metrics, seed=self.fine_tune.seed).to_dict()
        cost = estimate_cost(record["measured"]["seconds"]).to_dict()
        weights = sorted(folder.step(name).glob("*.safetensors"))
        shared = ("task", "macs_length", "seed", "teacher", "measured")
        judged = {key: value for key, value in found.items() if key not in shared}
        return {
            "name": name,
            "method": record["method"],
            "settings": record["settings"],
            "facts": record["facts"],
            "spec": model.spec.to_dict(),
            **judged,
            "file_bytes": sum(path.stat().st_size for path in weights),
            "seeds": [record["settings"].get("seed", self.fine_tune.seed)],
            "curves": record["curves"],
            "measured": {**found["measured"], **record["measured"], **cost},
        }


def _state_digest(model: Model) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(model.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().data)
    return digest.hexdigest()
