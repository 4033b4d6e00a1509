"""What of a suite can be run here: every task is loaded and planned before the first is trained."""

from __future__ import annotations

import gc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bertcompress import runs
from bertcompress.data.glue import GLUE
from bertcompress.errors import ConfigError, DataError
from bertcompress.training.settings import TrainingSettings

if TYPE_CHECKING:
    from bertcompress.data.base import Task
    from bertcompress.pipeline.run import Run
    from bertcompress.suite.config import SuiteConfig


@dataclass(frozen=True)
class Finding:
    """What was found of a task's data.

    Attributes:
        missing: why nothing can be run on them; empty if something can.
        partial: what they are only a part of, a sentence each.
    """

    missing: str = ""
    partial: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """Which tasks are run, in order, and why the others are not.

    Attributes:
        order: the tasks to run.
        left_out: task -> reason.
        partial: task -> what its data are only a part of; of tasks that are run all the same.
    """

    order: tuple[str, ...]
    left_out: Mapping[str, str]
    partial: Mapping[str, tuple[str, ...]]


def survey(suite: SuiteConfig, order: Sequence[str], folder: Path) -> Survey:
    """Load and plan every task; nothing is trained or written.

    Args:
        suite: its configuration.
        order: the tasks that were asked for, each after the one that it starts from.
        folder: of the suite.

    Raises:
        ConfigError: the chain of a task cannot work.
        DataError: the data of a task are absent or partial here, and the suite does not say to go on without.
    """
    findings: dict[str, Finding] = {}
    problems: list[str] = []
    for task in order:
        try:
            findings[task] = _find(suite, task, folder)
        except ConfigError as error:
            problems.append(f"tasks.{task}: {error}")
        gc.collect()
    if problems:
        raise ConfigError("\n".join(problems))
    left_out = _left_out(suite, order, findings)
    kept = tuple(task for task in order if task not in left_out)
    if left_out and not (suite.skip_missing and kept):
        raise DataError(_refusal(suite, order, left_out))
    return Survey(kept, left_out, {task: findings[task].partial for task in kept if findings[task].partial})


def partial_data(task: Task) -> tuple[str, ...]:
    """Return in what the labelled splits of a GLUE task differ from the official ones, a sentence each."""
    official = GLUE[task.name].sizes if task.name in GLUE else {}
    counts = {name: len(data) for name, data in task.splits.items()}
    return tuple(
        f"{split} has {counts.get(split, 0):,} of {size:,} examples"
        for split, size in official.items()
        if not split.startswith("test") and counts.get(split, 0) != size
    )


def _find(suite: SuiteConfig, task: str, folder: Path) -> Finding:
    try:
        run = runs.prepare(suite.run_of(task, suite.seeds[0]), folder / task)
        partial = partial_data(run.task)
        if run.task.train is None and _trains(run):
            return Finding(f"there is no train split ({'; '.join(partial) or run.task.source})")
        run.check()
    except DataError as error:
        return Finding(str(error))
    return Finding(partial=partial)


def _trains(run: Run) -> bool:
    return any(isinstance(step, TrainingSettings) and step.epochs > 0 for step in (run.fine_tune, *run.pipeline.steps))


def _left_out(suite: SuiteConfig, order: Sequence[str], findings: Mapping[str, Finding]) -> dict[str, str]:
    """Return task -> reason of the tasks that cannot be run, and of those that start from them."""
    reasons: dict[str, str] = {}
    for task in order:
        finding, source = findings[task], suite.start_from.get(task)
        if finding.missing:
            reasons[task] = finding.missing
        elif finding.partial and not suite.allow_partial:
            reasons[task] = f"the data are partial: {'; '.join(finding.partial)}"
        elif source in reasons:
            reasons[task] = f"it starts from {source}, which is left out"
    return reasons


def _refusal(suite: SuiteConfig, order: Sequence[str], left_out: Mapping[str, str]) -> str:
    lines = [f"suite {suite.name}: {len(left_out)} of {len(order)} tasks cannot be run on what is here:"]
    lines += [f"  {task}: {reason}" for task, reason in left_out.items()]
    ways = "Put the data there, or take the tasks out of `tasks`"
    if len(left_out) < len(order):
        ways += "; `skip_missing: true` leaves them out and says so in the table"
    if any("partial" in reason for reason in left_out.values()):
        ways += "; `allow_partial: true` runs on partial data and says so"
    return "\n".join([*lines, f"{ways}."])
