"""From a YAML file to a report: the run that a configuration describes, and its plan."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bertcompress.config import RunConfig, load_config
from bertcompress.pipeline.chain import Pipeline

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bertcompress.pipeline.planning import PlannedStep
    from bertcompress.pipeline.run import Run


def prepare(config: RunConfig | str | Path, folder: str | Path | None = None) -> Run:
    """Load the task of a configuration and return its run; nothing is trained or written.

    Args:
        config: a configuration, or the path of its YAML file.
        folder: of the run; by default the configuration's, else `runs/` and the file's stem or the run's name.

    Raises:
        ConfigError: the configuration cannot work.
        DataError: the task's data are missing or malformed.
    """
    from bertcompress.data.tasks import load_task
    from bertcompress.downstream.scores import load_tasks
    from bertcompress.pipeline.run import Run

    loaded = config if isinstance(config, RunConfig) else load_config(config)
    stem = loaded.name if isinstance(config, RunConfig) else Path(config).stem
    return Run(
        name=loaded.name,
        task=load_task(loaded.task),
        teacher=loaded.teacher.model,
        fine_tune=loaded.teacher.fine_tune,
        pipeline=Pipeline(loaded.compress),
        metrics=loaded.evaluate,
        export=loaded.export,
        downstream=loaded.downstream,
        downstream_tasks=() if loaded.downstream is None else load_tasks(loaded.downstream),
        folder=Path(folder or loaded.output or Path("runs") / stem),
        config=loaded.to_yaml(),
        command=_typed(sys.argv),
    )


def _typed(arguments: Sequence[str]) -> str:
    """Return the command that was typed; empty where this is a program's or a notebook's run."""
    called = Path(arguments[0])
    ours = called.name == "bertcompress" or (called.parent.name, called.name) == ("bertcompress", "__main__.py")
    return shlex.join(["bertcompress", *arguments[1:]]) if ours else ""


def run(config: RunConfig | str | Path, folder: str | Path | None = None) -> Path:
    """Do everything a configuration says, skipping what its folder holds already; return the path of the report.

    Raises:
        BertCompressError: the configuration cannot work, or a step failed; finished steps are kept.
    """
    return execute(prepare(config, folder))


def execute(prepared: Run) -> Path:
    """Do everything a prepared run says, with cards and report; return the path of the report.

    Raises:
        BertCompressError: the run cannot work, or a step failed; finished steps are kept.
    """
    from bertcompress.report import write_cards, write_report

    def report(made: Path) -> None:
        write_cards(made)
        write_report([made])

    prepared.execute(report)
    return prepared.folder / "report.html"


def assist(config: RunConfig | str | Path, folder: str | Path | None = None) -> list[str]:
    """Share the searches of a run that another process does in the folder; return the names of these steps.

    Raises:
        ConfigError: no step can be shared, or the configuration is not that run's.
        RunError: no process does this run.
    """
    from bertcompress.pipeline.worker import assist

    return assist(prepare(config, folder))


def plan(config: RunConfig | str | Path) -> list[PlannedStep]:
    """Return size, time, memory and energy of every step of a configuration; trains nothing.

    Raises:
        ConfigError: the configuration cannot work.
    """
    from bertcompress.pipeline.planning import plan_run

    return plan_run(prepare(config))
