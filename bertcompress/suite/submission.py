"""Predictions on GLUE's hidden test sets, in the files that its leaderboard takes.

Every file has the header `index<TAB>prediction` and a line per test example in the order of the official file, whose
own indices count from 0. The diagnostic set AX is answered by the model for MNLI.
"""

from __future__ import annotations

import json
import logging
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertcompress.data.base import has_labels
from bertcompress.data.glue import GLUE
from bertcompress.data.tasks import load_task
from bertcompress.data.yaml_positions import read_text, read_yaml
from bertcompress.errors import ConfigError, DataError, RunError, allowed
from bertcompress.evaluation.metrics import metric_function
from bertcompress.model import Model
from bertcompress.pipeline.folder import to_json, write_atomically
from bertcompress.suite.summary import score_of

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.base import Task

logger = logging.getLogger(__name__)

ZIP, ABOUT = "submission.zip", "submission.json"
ROLES = ("student", "teacher")
MIDNIGHT = (1980, 1, 1, 0, 0, 0)  # equal predictions make an equal zip


class LeaderboardFile(NamedTuple):
    """One file of the leaderboard: the task whose data it answers, the split, and the task whose model does."""

    task: str
    split: str
    model: str


FILES: dict[str, LeaderboardFile] = {
    "CoLA.tsv": LeaderboardFile("cola", "test", "cola"),
    "SST-2.tsv": LeaderboardFile("sst2", "test", "sst2"),
    "MRPC.tsv": LeaderboardFile("mrpc", "test", "mrpc"),
    "STS-B.tsv": LeaderboardFile("stsb", "test", "stsb"),
    "QQP.tsv": LeaderboardFile("qqp", "test", "qqp"),
    "MNLI-m.tsv": LeaderboardFile("mnli", "test", "mnli"),
    "MNLI-mm.tsv": LeaderboardFile("mnli", "test_mismatched", "mnli"),
    "QNLI.tsv": LeaderboardFile("qnli", "test", "qnli"),
    "RTE.tsv": LeaderboardFile("rte", "test", "rte"),
    "WNLI.tsv": LeaderboardFile("wnli", "test", "wnli"),
    "AX.tsv": LeaderboardFile("ax", "test", "mnli"),
}
IN_WORDS = ("mnli", "qnli", "rte", "ax")  # the others' classes are written as numbers


@dataclass(frozen=True)
class Submission:
    """What was written.

    Attributes:
        folder: that holds the files, `submission.zip` and `submission.json`.
        written: file -> the run and model that it comes from, and the validation score that the seed was chosen by.
        missing: file -> why it could not be written; the leaderboard takes complete submissions only.
        diagnostic: Matthews correlation on AX, or None where its labels are not here, as in the public file.
    """

    folder: Path
    written: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, str]
    diagnostic: float | None = None


@dataclass(frozen=True)
class _Source:
    """A run that answers a task: its folder, the model's step, the task as its configuration names it."""

    run: Path
    step: str
    task: Any
    score: float | None

    def about(self) -> dict[str, Any]:
        return {"run": str(self.run), "model": self.step, "validation_score": self.score}


def write_submission(
    source: str | Path, output: str | Path, *, model: str = "student", seed: int | None = None
) -> Submission:
    """Answer the test sets of all GLUE tasks that a run or suite has a model for.

    Args:
        source: the folder of a run or of a suite.
        output: the folder to write; the leaderboard's files of an earlier submission in it are removed.
        model: "student" (a run's last model), "teacher", or the name of a step's folder.
        seed: of the suite's runs to take; by default, for each task, the one that scored best where it was scored.

    Raises:
        ConfigError: no run has such a model or seed.
        DataError: none of the files can be written; the message says why for each.
        RunError: the folder holds neither a run nor a suite.
    """
    sources, reasons = _sources(Path(source), model, seed)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (*FILES, ZIP, ABOUT):
        (folder / name).unlink(missing_ok=True)  # of an earlier submission: it must not pass for one of this model
    written: dict[str, Mapping[str, Any]] = {}
    missing = {
        name: reasons.get(file.model, f"there is no finished run of {file.model}")
        for name, file in FILES.items()
        if file.model not in sources
    }
    diagnostic = None
    for task, found in sources.items():
        answering = _Answering(found)
        for name, file in FILES.items():
            if file.model != task:
                continue
            try:
                data = answering.data(file)
            except DataError as error:
                missing[name] = str(error)
                continue
            answers = answering.answers(file, data)
            write_atomically(folder / name, render(answers))
            written[name] = found.about()
            if file.task == "ax" and has_labels(data):
                diagnostic = answering.matthews(data)
    if not written:
        raise DataError("\n".join(["submit: no file can be written:", *(f"  {a}: {b}" for a, b in missing.items())]))
    missing = {name: missing[name] for name in FILES if name in missing}
    _pack(folder, [name for name in FILES if name in written])
    about = {"files": written, "missing": missing, "ax_matthews_correlation": diagnostic}
    write_atomically(folder / ABOUT, to_json(about))
    return Submission(folder, written, missing, diagnostic)


def render(answers: Sequence[str]) -> str:
    """Return a file of the leaderboard: a header, and for each answer its index, counted from 0, and the answer."""
    lines = ["index\tprediction", *(f"{index}\t{answer}" for index, answer in enumerate(answers))]
    return "\n".join(lines) + "\n"


def in_leaderboard_words(task: str, logits: npt.NDArray[Any]) -> list[str]:
    """Return the answers to a GLUE task as its file has them.

    Args:
        task: a name of `GLUE`.
        logits: (examples, classes), or (examples, 1) for STS-B.
    """
    labels = GLUE[task].labels
    if not labels:
        scores = np.clip(logits.reshape(len(logits)).astype(np.float64), 0.0, 5.0) + 0.0  # no "-0.000"
        return [f"{score:.3f}" for score in scores]
    classes = logits.argmax(-1).tolist()
    return [labels[number] for number in classes] if task in IN_WORDS else [str(number) for number in classes]


class _Answering:
    """The model of one run, loaded once for all files that it answers."""

    def __init__(self, source: _Source) -> None:
        self.source = source
        self.task: Task = load_task(source.task)
        self.model = Model.from_pretrained(source.run / source.step, self.task)
        self.logits: dict[LeaderboardFile, npt.NDArray[Any]] = {}

    def data(self, file: LeaderboardFile) -> Dataset:
        """Return the test examples of a file.

        Raises:
            DataError: they are not here, or not all of them, so that the lines would be wrong.
        """
        task = load_task(file.task) if file.task != file.model else self.task
        found = task.splits.get(file.split)
        size = GLUE[file.task].sizes[file.split]
        if found is None:
            raise DataError(f"the {file.split} split of {file.task} is not here ({task.source})")
        if len(found) != size:
            raise DataError(f"the {file.split} split of {file.task} has {len(found)} of {size} examples here")
        return found

    def answers(self, file: LeaderboardFile, data: Dataset) -> list[str]:
        """Return the answers to the examples, in their order."""
        logger.info("%s: answering %d examples of %s", self.source.run, len(data), file.task)
        self.logits[file] = np.asarray(self.model.predict(data).logits)
        return in_leaderboard_words(file.task, self.logits[file])

    def matthews(self, data: Dataset) -> float:
        """Return the Matthews correlation of the answers to AX, given before, with its labels."""
        classes = self.logits[FILES["AX.tsv"]].argmax(-1)
        return metric_function("matthews_correlation")(classes, np.asarray(data["label"]))


def _pack(folder: Path, names: Sequence[str]) -> None:
    """Write the zip of the files, without dates of its own."""
    with zipfile.ZipFile(folder / ZIP, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in names:
            entry = zipfile.ZipInfo(name, MIDNIGHT)
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, (folder / name).read_bytes())


def _sources(folder: Path, model: str, seed: int | None) -> tuple[dict[str, _Source], dict[str, str]]:
    """Return GLUE task -> the run that answers it, and task -> why there is none."""
    if (folder / "suite.json").is_file():
        return _of_suite(folder, model, seed)
    if not (folder / "results.json").is_file():
        raise RunError(f"{folder}: got no results.json and no suite.json, allowed is the folder of a run or a suite.")
    if seed is not None:
        raise ConfigError(f"--seed: got {seed}, allowed is none here: {folder} is one run, not a suite.")
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    name = results["task"]["name"]
    if name not in GLUE:
        raise ConfigError(
            f"{folder}: the run's task is {name!r}, allowed are GLUE's, which have a leaderboard: {allowed(GLUE)}."
        )
    step = _step(folder, results["models"], model)
    scores = {each["name"]: score_of(results["task"], each)[1] for each in results["models"]}
    return {name: _Source(folder, step, _task_of(folder), scores[step])}, {}


def _of_suite(folder: Path, model: str, seed: int | None) -> tuple[dict[str, _Source], dict[str, str]]:
    suite = json.loads((folder / "suite.json").read_text(encoding="utf-8"))
    if seed is not None and seed not in suite["seeds"]:
        raise ConfigError(f"--seed: got {seed}, allowed are the suite's, {allowed(suite['seeds'])}.")
    sources: dict[str, _Source] = {}
    reasons: dict[str, str] = {}
    for task in suite["tasks"]:
        name = task["task"]["name"] if task["task"] else task["name"]
        runs = [run for run in task["runs"] if run["models"] and seed in (None, run["seed"])]
        if name in GLUE and runs:
            run = max(runs, key=_score_by(folder, model))  # the first of equals
            path = folder / run["folder"]
            step = _step(path, run["models"], model)
            score = next(each["score"] for each in run["models"] if each["name"] == step)
            sources.setdefault(name, _Source(path, step, _task_of(path), score))
        elif task["left_out"]:
            reasons[name] = f"the suite left {name} out: {task['left_out']}"
    return sources, reasons


def _score_by(folder: Path, model: str) -> Callable[[Mapping[str, Any]], float]:
    def score(run: Mapping[str, Any]) -> float:
        step = _step(folder / run["folder"], run["models"], model)
        found = next(each["score"] for each in run["models"] if each["name"] == step)
        return float("-inf") if found is None else float(found)

    return score


def _step(run: Path, models: Sequence[Mapping[str, Any]], model: str) -> str:
    """Return the name of the step that a role or a name stands for."""
    names = [each["name"] for each in models]
    if model in ROLES:
        return str(names[-1] if model == "student" else names[0])
    if model not in names:
        raise ConfigError(f"--model: got {model!r}, allowed are {allowed((*ROLES, *names))} in {run}.")
    return model


def _task_of(run: Path) -> Any:
    """Return the task as the run's configuration names it: a name, a folder or a file."""
    top, _ = read_yaml(read_text(run / "config.yaml"), str(run / "config.yaml"))
    assert isinstance(top.content, dict)
    return top.content["task"].plain()
