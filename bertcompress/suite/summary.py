"""What a suite found, as suite.json has it: every score, medians and ranges over seeds, and the GLUE average."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.evaluation.metrics import GLUE_METRICS
from bertcompress.pipeline.environment import describe_environment
from bertcompress.suite.member import Member

if TYPE_CHECKING:
    from bertcompress.suite.config import SuiteConfig

SUITE_VERSION = 1
WNLI = "wnli"


def summarize(
    suite: SuiteConfig, folder: Path, left_out: Mapping[str, str], failures: Mapping[str, str]
) -> dict[str, Any]:
    """Return what suite.json says of all that the suite's folder holds by now.

    Args:
        suite: its configuration.
        folder: that holds the runs.
        left_out: task -> why it is not run.
        failures: run -> error.
    """
    environments: list[dict[str, Any]] = []
    tasks = [_task(suite, folder, name, left_out.get(name, ""), failures, environments) for name in suite.tasks]
    return {
        "format_version": SUITE_VERSION,
        "name": suite.name,
        "seeds": list(suite.seeds),
        "environment": describe_environment(),
        "environments": environments,
        "tasks": tasks,
        "average": glue_average(tasks, with_wnli=suite.wnli_in_average),
    }


def spread(values: Iterable[float | None]) -> dict[str, float] | None:
    """Return median, minimum and maximum of the values that there are; None if there are none."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    return {"median": statistics.median(known), "min": min(known), "max": max(known)}


def score_of(
    task: Mapping[str, Any], model: Mapping[str, Any], further: Mapping[str, Any] | None = None
) -> tuple[str, float | None]:
    """Return a model's one number on a task, and what it is.

    On a GLUE task it is the mean of the task's metrics, on MNLI that of the matched and the mismatched set where both
    were scored; on any other task its own metric.

    Args:
        task: as results.json has it: name, metric, split.
        model: as results.json has it, with `scores`.
        further: split -> model's name -> metric -> score, of further splits.
    """
    scores: Mapping[str, float] = model["scores"]
    names = GLUE_METRICS.get(task["name"], (task["metric"],))
    label = names[0] if len(names) == 1 else f"mean of {' and '.join(names)}"
    values = [scores.get(name) for name in names]
    if task["name"] == "mnli":
        mismatched = (further or {}).get(f"{task['split']}_mismatched", {}).get(model["name"], {})
        if mismatched:
            values += [mismatched.get(name) for name in names]
        label += ", mean of matched and mismatched" if mismatched else ", matched only"
    known = [value for value in values if value is not None]
    return label, statistics.fmean(known) if len(known) == len(values) else None


def _task(
    suite: SuiteConfig,
    folder: Path,
    name: str,
    left_out: str,
    failures: Mapping[str, str],
    environments: list[dict[str, Any]],
) -> dict[str, Any]:
    """Return what there is of one task; collect the environments that its runs were made in."""
    runs: list[dict[str, Any]] = []
    about: dict[str, Any] = {}
    for seed in suite.seeds:
        member = Member(suite, folder, name, seed)
        found = None if left_out or member.name in failures else member.results()
        if found is None:
            error = failures.get(member.name, "")
            state = "failed" if error else "left out" if left_out else "not run"
            runs.append({"seed": seed, "folder": member.name, "state": state, "error": error, "models": []})
            continue
        models = [_model(found, model) for model in found["models"]]
        runs.append({"seed": seed, "folder": member.name, "state": "finished", "error": "", "models": models})
        label = score_of(found["task"], found["models"][0], found["further"])[0]
        about = {"task": found["task"], "score": label, "partial": found["partial"]}
        _note(environments, found["environment"], member.name)
    return {
        "name": name,
        "task": None,
        "score": "",
        "partial": [],
        **about,
        "left_out": left_out,
        "start_from": suite.start_from.get(name),
        "runs": runs,
        "models": _over_seeds([run["models"] for run in runs if run["models"]]),
    }


def _model(results: Mapping[str, Any], model: Mapping[str, Any]) -> dict[str, Any]:
    """Return the numbers of one model of one run."""
    _, score = score_of(results["task"], model, results["further"])
    _, teacher = score_of(results["task"], results["models"][0], results["further"])
    further = {split: models[model["name"]] for split, models in results["further"].items()}
    return {
        "name": model["name"],
        "method": model["method"],
        "score": score,
        "kept": _share(score, teacher),
        "scores": dict(model["scores"]),
        "further": further,
        "loyalty": dict(model.get("loyalty", {})),
        "parameters": model.get("parameters"),
        "file_bytes": model.get("file_bytes"),
    }


def _over_seeds(runs: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, Any]]:
    """Return every model with its medians and ranges over the seeds; all runs have the same models."""
    merged: list[dict[str, Any]] = []
    for models in zip(*runs, strict=True):
        first = models[0]
        score = spread(model["score"] for model in models)
        teacher = merged[0]["score"] if merged else score
        merged.append(
            {
                "name": first["name"],
                "method": first["method"],
                "seeds": len(models),
                "score": score,
                "kept": _share(score["median"], teacher["median"]) if score and teacher else None,
                "scores": _spreads([model["scores"] for model in models]),
                "further": _further(models),
                "loyalty": _spreads([model["loyalty"] for model in models]),
            }
        )
    return merged


def _further(models: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return split -> metric -> spread; labels may have come when some seeds were scored already."""
    splits = dict.fromkeys(split for model in models for split in model["further"])
    return {split: _spreads([model["further"].get(split, {}) for model in models]) for split in splits}


def _share(score: float | None, teacher: float | None) -> float | None:
    """Return a score over the teacher's; None where that is not positive and a share would mean nothing."""
    return score / teacher if score is not None and teacher is not None and teacher > 0 else None


def _spreads(scores: Sequence[Mapping[str, float]]) -> dict[str, dict[str, float] | None]:
    names = dict.fromkeys(name for each in scores for name in each)
    return {name: spread(each.get(name) for each in scores) for name in names}


def _note(environments: list[dict[str, Any]], environment: Mapping[str, Any], run: str) -> None:
    """Add a run to the environment that it was made in; what was typed does not make another one."""
    where = {key: value for key, value in environment.items() if key != "command"}
    for known in environments:
        if known["environment"] == where:
            known["runs"].append(run)
            return
    environments.append({"environment": where, "runs": [run]})


def glue_average(tasks: Sequence[Mapping[str, Any]], *, with_wnli: bool = False) -> dict[str, Any] | None:
    """Return the mean of the GLUE tasks' scores, medians over seeds, of teacher and final student.

    Args:
        tasks: as suite.json has them.
        with_wnli: whether WNLI counts, which is usually left out.

    Returns:
        None where fewer than two GLUE tasks have a score; otherwise `name`, which says what it is the average of,
        `tasks`, `missing`, and `teacher`, `student` and `kept`, the last two None without a student.
    """
    wanted = [name for name in GLUE_METRICS if with_wnli or name != WNLI]
    found: dict[str, Mapping[str, Any]] = {}
    for task in tasks:
        name = task["task"]["name"] if task["task"] else ""
        if name in wanted and task["models"] and task["models"][0]["score"] is not None:
            found.setdefault(name, task)
    if len(found) < 2:
        return None
    teacher = statistics.fmean(task["models"][0]["score"]["median"] for task in found.values())
    students = [task["models"][-1]["score"]["median"] for task in found.values() if len(task["models"]) > 1]
    student = statistics.fmean(students) if len(students) == len(found) else None
    missing = [name for name in wanted if name not in found]
    return {
        "name": _average_name(found, wanted, missing, with_wnli),
        "tasks": [name for name in wanted if name in found],
        "missing": missing,
        "teacher": teacher,
        "student": student,
        "kept": _share(student, teacher),
    }


def _average_name(
    found: Mapping[str, Mapping[str, Any]], wanted: Sequence[str], missing: Sequence[str], with_wnli: bool
) -> str:
    splits = {name: task["task"]["split"] for name, task in found.items()}
    tested = [name for name, split in splits.items() if split != "validation"]
    others = f", but {', '.join(tested)} on test" if tested else ""
    kind = "test scores" if len(tested) == len(found) else f"validation scores{others}"
    partial = [name for name, task in found.items() if task["partial"]]
    parts = [kind, "with WNLI" if with_wnli else "without WNLI, as usual"]
    parts += [f"on partial data: {', '.join(partial)}"] if partial else []
    parts += [f"missing: {', '.join(missing)}"] if missing else []
    return f"GLUE average of {len(found)} of {len(wanted)} tasks ({'; '.join(parts)})"
