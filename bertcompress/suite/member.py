"""One run of a suite: whether its folder holds it already, and the scores beyond those of an ordinary run.

A finished run is sealed: `member.json` says what its results depend on and holds the scores on further splits.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress import __version__, runs
from bertcompress.data import glue
from bertcompress.data.base import has_labels
from bertcompress.data.sources import data_folder
from bertcompress.encoder.integrity import sha256
from bertcompress.evaluation.evaluate import evaluate
from bertcompress.model import Model
from bertcompress.pipeline.folder import STEP_FILE, RunFolder, fingerprint, to_json, write_atomically

if TYPE_CHECKING:
    from bertcompress.data.base import Task
    from bertcompress.pipeline.run import Run
    from bertcompress.suite.config import SuiteConfig

logger = logging.getLogger(__name__)

SEAL, RESULTS = "member.json", "results.json"
SEAL_VERSION = 1
_SEALED = {"results", "steps", "further", "partial"}  # what is read of a seal
DIAGNOSED = "mnli"  # the task whose models answer the diagnostic set AX


@dataclass(frozen=True)
class Member:
    """One task with one seed.

    Attributes:
        suite: that it belongs to.
        folder: of the suite.
        task: its name in the suite.
        seed: of every step.
    """

    suite: SuiteConfig
    folder: Path
    task: str
    seed: int

    @property
    def name(self) -> str:
        """Its folder's path inside the suite's."""
        return f"{self.task}/seed-{self.seed}"

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.folder / self.task / f"seed-{self.seed}"

    @property
    def source(self) -> Path | None:
        """The folder of the model that its teacher starts from; None for the recipe's own."""
        source = self.suite.start_from.get(self.task)
        return None if source is None else self.folder / source / f"seed-{self.seed}" / "0-teacher"

    def settings(self) -> str:
        """Return a digest of what was written about it, which shows at once whether its results are of today."""
        config = self.suite.run_of(self.task, self.seed).to_dict()
        lasting = {key: value for key, value in config.items() if key not in ("name", "output")}
        return fingerprint(__version__, lasting, self.suite.start_from.get(self.task))

    def execute(self, partial: Sequence[str] = ()) -> bool:
        """Make what is not there yet and seal it; return whether there was anything to do.

        Args:
            partial: what the task's data are only a part of.

        Raises:
            BertCompressError: the run failed; its finished steps are kept.
        """
        run = runs.prepare(self.suite.run_of(self.task, self.seed, self.source), self.path)
        diagnostic = _diagnostic() if run.task.name == DIAGNOSED else None
        mark = fingerprint(run.check(), diagnostic.fingerprint() if diagnostic is not None else None)
        sealed = _sealed(self.path, mark)
        if sealed is None:
            (self.path / SEAL).unlink(missing_ok=True)  # it must not outlast what it was put on, if this is interrupted
            runs.execute(run)
            sealed = {
                "format_version": SEAL_VERSION,
                "fingerprint": mark,
                "results": sha256(self.path / RESULTS),
                "steps": {name: _mark_of(self.path / name) for name in _models(self.path)},
                "further": _further_scores(run, _models(self.path), diagnostic),
            }
            made = True
        else:
            logger.info("%s: done before, taken as it is", self.name)
            made = False
        write_atomically(self.path / SEAL, to_json({**sealed, "settings": self.settings(), "partial": list(partial)}))
        return made

    def results(self) -> dict[str, Any] | None:
        """Return the results of the finished run with its further scores and environment; None if it is not there."""
        seal = _seal_of(self.path)
        results = _read(self.path / RESULTS)
        if seal is None or results is None or seal.get("settings") != self.settings():
            return None
        return {
            **results,
            "further": seal["further"],
            "partial": seal["partial"],
            "environment": _read(self.path / "environment.json") or {},
        }


def _sealed(path: Path, mark: str) -> dict[str, Any] | None:
    """Return the seal of a run that is there, whole, and made of what it would be made of now; otherwise None."""
    seal, folder = _seal_of(path), RunFolder(path)
    if seal is None or seal.get("fingerprint") != mark:
        return None
    return seal if all(folder.finished(name, step) for name, step in seal["steps"].items()) else None


def _seal_of(path: Path) -> dict[str, Any] | None:
    """Return the seal of a run whose results and steps are those that it was put on; otherwise None.

    The steps' weights are not read, which would take long for a whole suite.
    """
    seal = _read(path / SEAL)
    if seal is None or seal.get("format_version") != SEAL_VERSION or not _SEALED <= seal.keys():
        return None
    if not (path / RESULTS).is_file() or sha256(path / RESULTS) != seal["results"]:
        return None
    return seal if all(_mark_of(path / name) == mark for name, mark in seal["steps"].items()) else None


def _read(path: Path) -> dict[str, Any] | None:
    """Return what a JSON file holds; None where there is none, or it is damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def _models(path: Path) -> list[str]:
    return [model["name"] for model in json.loads((path / RESULTS).read_text(encoding="utf-8"))["models"]]


def _mark_of(step: Path) -> str | None:
    return (_read(step / STEP_FILE) or {}).get("fingerprint")


def _diagnostic() -> Task | None:
    """Return GLUE's diagnostic set if its labels are here; the public file has none."""
    root = data_folder()
    folder = glue.find_folder("ax", root) if root is not None else None
    if folder is None or not glue.holds("ax", folder):
        return None
    task = glue.load_folder("ax", folder)
    return task if task.test is not None and has_labels(task.test) else None


def _further_scores(run: Run, names: Sequence[str], diagnostic: Task | None) -> dict[str, Any]:
    """Return split -> model -> metric -> score, of every labelled extra split and of the diagnostic set."""
    wanted = {split: (run.task, split) for split, data in run.task.extra.items() if has_labels(data)}
    if diagnostic is not None:
        wanted["ax"] = (diagnostic, "test")
    found: dict[str, Any] = {name: {} for name in wanted}
    for name in names if wanted else ():
        model = Model.from_pretrained(run.folder / name, run.task)
        for label, (task, split) in wanted.items():
            logger.info("%s: evaluating on %s", name, label)
            scored = evaluate(model, task, metrics=("accuracy",), split=split, seed=run.fine_tune.seed)
            found[label][name] = dict(scored.scores)
    return found
