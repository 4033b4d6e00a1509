"""Judging what a run has made: each model once, as long as all that the judgement depends on stays the same."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress import __version__
from bertcompress.evaluation.cost import estimate_cost
from bertcompress.evaluation.evaluate import WEIGHT_FILES, evaluate
from bertcompress.export import runtime
from bertcompress.model import Model
from bertcompress.pipeline.environment import describe_environment
from bertcompress.pipeline.folder import RunFolder, fingerprint, model_fingerprint, to_json

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task

logger = logging.getLogger(__name__)
RESULTS = "results.json"
SEAL = "seal"  # among what was measured: a digest of a judgement and of all that it depends on
AROUND = ("packages", "hardware", "gpu", "threads")  # of the environment


class Judge:
    """What evaluates the models of one run beside their teacher, as they were saved."""

    def __init__(self, folder: RunFolder, task: Task, metrics: Sequence[str], seed: int) -> None:
        """Take the run's folder, and what its results.json says so far."""
        self.folder, self.task, self.metrics, self.seed = folder, task, metrics, seed
        around = describe_environment()
        self._around = [__version__, list(metrics), task.fingerprint(), seed, [around[name] for name in AROUND]]
        self._known = _entries(folder.path / RESULTS)

    def judged(self, record: Mapping[str, Any], teacher: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
        """Return a finished step as results.json has it, and whether it was evaluated for that just now.

        Args:
            record: what step.json says of it.
            teacher: what it says of the teacher's.
        """
        name: str = record["name"]
        depends = [*self._around, dict(record), model_fingerprint(teacher)]
        known = self._known.get(name)
        if known is not None and known["measured"].get(SEAL) == _seal(known, depends):
            logger.info("%s: evaluated before, taken as it is", name)
            known.pop("downstream", None)  # which has files of its own
            return known, False
        logger.info("%s: evaluating", name)
        entry: dict[str, Any] = json.loads(to_json(self._evaluated(record, teacher)))
        entry["measured"][SEAL] = _seal(entry, depends)
        return entry, True

    def _evaluated(self, record: Mapping[str, Any], first: Mapping[str, Any]) -> dict[str, Any]:
        place = self.folder.step(record["name"])
        teacher = Model.from_pretrained(self.folder.step(first["name"]), self.task)
        model = teacher if record["name"] == first["name"] else self._loaded(place, record)
        found = evaluate(model, self.task, teacher=teacher, metrics=self.metrics, seed=self.seed).to_dict()
        cost = estimate_cost(record["measured"]["seconds"]).to_dict()
        weights = [path for path in place.iterdir() if path.suffix in WEIGHT_FILES]
        shared = ("task", "macs_length", "seed", "teacher", "measured")
        judged = {key: value for key, value in found.items() if key not in shared}
        return {
            "name": record["name"],
            "method": record["method"],
            "settings": record["settings"],
            "facts": record["facts"],
            "spec": model.spec.to_dict(),
            **judged,
            "file_bytes": sum(path.stat().st_size for path in weights),
            "seeds": [record["settings"].get("seed", self.seed)],
            "curves": record["curves"],
            "measured": {**found["measured"], **record["measured"], **cost},
        }

    def _loaded(self, place: Path, record: Mapping[str, Any]) -> Model:
        """Load what a step made; an exported file in the precision that the run asks for."""
        if record["method"].startswith("export_"):
            return runtime.load(place, self.task, precision=record["settings"].get("precision", "fp32"))
        return Model.from_pretrained(place, self.task)


def _entries(results: Path) -> dict[str, dict[str, Any]]:
    """Return what an earlier results.json says of each model; nothing if there is none, or it is not one of ours."""
    try:
        models = json.loads(results.read_text(encoding="utf-8"))["models"]
        return {entry["name"]: entry for entry in models if isinstance(entry["measured"], dict)}
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return {}


def _seal(entry: Mapping[str, Any], depends: Sequence[Any]) -> str:
    judged = {key: value for key, value in entry.items() if key not in ("downstream", "measured")}
    measured = {key: value for key, value in entry["measured"].items() if key != SEAL}
    return fingerprint(judged, measured, list(depends))
