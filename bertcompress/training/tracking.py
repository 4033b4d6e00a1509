"""What a training reports to experiment trackers, and the memory it took."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from types import TracebackType

import torch
from accelerate import Accelerator

from bertcompress.errors import ConfigError
from bertcompress.training.processes import accelerator
from bertcompress.training.settings import TrainingSettings

KIB, MIB = 2**10, 2**20


class Trackers:
    """The trackers that the settings name, through accelerate; use as a context."""

    def __init__(self, settings: TrainingSettings, description: str, checkpoint: Path | None, main: bool) -> None:
        """Start the trackers in the first process; their files go into a folder "trackers" beside the checkpoint.

        Raises:
            ConfigError: a tracker is unknown or not installed.
        """
        self._accelerator: Accelerator | None = None
        if not settings.trackers or not main:
            return
        folder = (checkpoint.parent if checkpoint is not None else Path()) / "trackers"
        try:
            owner = accelerator(log_with=list(settings.trackers), project_dir=folder)
        except ValueError as error:
            raise ConfigError(f"TrainingSettings.trackers: got {list(settings.trackers)}: {error}") from error
        started = {str(getattr(tracker, "value", tracker)) for tracker in owner.log_with}
        absent = [name for name in settings.trackers if name not in started and name != "all"]
        if absent:
            raise ConfigError(f"TrainingSettings.trackers: {absent} are not installed; install them or leave them out.")
        config = {
            name: value if isinstance(value, (int, float, str)) else str(value)
            for name, value in dataclasses.asdict(settings.training_settings()).items()
        }
        owner.init_trackers(description or "bertcompress", config=config)
        self._accelerator = owner

    def __enter__(self) -> Trackers:
        """Nothing to do: they run already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the trackers' files; accelerate's own `end_training` would end the process group as well."""
        for tracker in self._accelerator.trackers if self._accelerator is not None else ():
            tracker.finish()

    def log(self, values: dict[str, float], step: int) -> None:
        """Report values after a step."""
        if self._accelerator is not None:
            self._accelerator.log(values, step=step)


def peak_memory_mib(device: torch.device) -> float:
    """Return the most memory this process has held so far, in MiB: resident, or allocated on its GPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / MIB
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return float(psutil.Process().memory_info().peak_wset) / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / MIB if sys.platform == "darwin" else peak / KIB
