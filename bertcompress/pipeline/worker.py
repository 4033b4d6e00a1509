"""Helping a run from another process: what `bertcompress worker` does."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from filelock import FileLock, Timeout

from bertcompress.compressors.base import Context
from bertcompress.errors import ConfigError, RunError
from bertcompress.model import Model
from bertcompress.pipeline.folder import STEP_FILE, WORK, RunFolder
from bertcompress.pipeline.run import TEACHER

if TYPE_CHECKING:
    from bertcompress.data.tasks import Task
    from bertcompress.pipeline.run import Run

logger = logging.getLogger(__name__)
POLL_SECONDS = 1.0


@runtime_checkable
class Shared(Protocol):
    """A compressor whose work several processes can share."""

    def work(self, model: Model, task: Task | None, *, teacher: Model | None, context: Context | None) -> None:
        """Do a part of what `compress` with the same arguments does in another process, until nothing is left."""


def assist(run: Run) -> list[str]:
    """Share the searches of a run that another process does in the same folder; return the steps that were shared.

    Raises:
        ConfigError: no step of the run can be shared, or its settings are not those of the run in the folder.
        RunError: no process does this run.
    """
    steps = run.pipeline.named_steps
    shared = [name for name, step in steps if isinstance(step, Shared)]
    if not shared:
        raise ConfigError(
            f"worker: no step of {run.name} can be shared among processes; steps that search can, such as "
            "layer_mapping_search."
        )
    helped = []
    folder = RunFolder(run.folder)
    for place, (name, step) in enumerate(steps):
        if name in shared and _wait_for(run, folder, name):
            _share(run, folder, name, steps[place - 1][0] if place else TEACHER, step)
            helped.append(name)
    return helped


def _share(run: Run, folder: RunFolder, name: str, before: str, step: Any) -> None:
    """Work until the step's search is over."""
    logger.info("%s: joining", name)
    model = Model.from_pretrained(folder.step(before), run.task)
    teacher = Model.from_pretrained(folder.step(TEACHER), run.task)
    try:
        step.work(model, run.task, teacher=teacher, context=Context(folder.path / WORK / name / "checkpoint", name))
    except RunError:
        if not _is_done(folder, name):
            raise
        # The storage went with the step's folder, while this process still looked at it.
    logger.info("%s: the search is over", name)


def _is_done(folder: RunFolder, name: str) -> bool:
    return (folder.step(name) / STEP_FILE).is_file() and not (folder.path / WORK / name).exists()


def _wait_for(run: Run, folder: RunFolder, name: str) -> bool:
    """Wait until a step is under way; return False if it is done."""
    told = False
    while not (folder.path / WORK / name).is_dir():
        if _is_done(folder, name):
            return False
        _check_going(run, folder)
        if not told:
            logger.info("%s: waiting for it to begin in %s", name, folder.path)
            told = True
        time.sleep(POLL_SECONDS)
    _check_going(run, folder)
    return True


def _check_going(run: Run, folder: RunFolder) -> None:
    """Refuse a folder in which nothing is going on, or something else."""
    lock = FileLock(folder.path / ".lock")
    try:
        if folder.path.is_dir():
            lock.acquire(timeout=0)
            lock.release()
        raise RunError(
            f"worker: no process runs {run.name} in {folder.path}; start it with 'bertcompress run', then its workers."
        )
    except Timeout:
        pass
    kept = folder.path / "config.yaml"
    if run.config and kept.is_file() and kept.read_text(encoding="utf-8") != run.config:
        raise ConfigError(
            f"worker: the settings are not those of the run in {folder.path} ({kept.name} there); give the same file "
            "and the same --set."
        )
