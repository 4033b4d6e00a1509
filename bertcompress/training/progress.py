"""How a training shows that it is alive: a bar on a terminal, a log line now and then elsewhere."""

from __future__ import annotations

import logging
import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger(__name__)
LOG_SECONDS = 15.0  # between two log lines
DRAW_SECONDS = 0.2  # between two looks of the bar


class TrainingProgress:
    """Loss, speed and time left of a training; use as a context."""

    def __init__(self, description: str, total: int, done: int, *, visible: bool) -> None:
        """Take what is trained, the number of steps, how many are done already, and whether to show anything."""
        self._description, self._total, self._first = description or "training", total, done
        self._visible = visible
        self._began = self._shown = time.monotonic()
        self._examples = 0
        self._bar: Progress | None = None

    def __enter__(self) -> TrainingProgress:
        """Begin to show."""
        console = Console(stderr=True)
        if self._visible and console.is_terminal:
            columns = ("{task.description}", "loss {task.fields[loss]:.4f}", "{task.fields[speed]:.0f} examples/s")
            name, *values = [TextColumn(column) for column in columns]
            shown = (name, BarColumn(), MofNCompleteColumn(), *values, TimeRemainingColumn())
            self._bar = Progress(*shown, console=console, transient=True)
            self._task = self._bar.add_task(
                self._description, total=self._total, completed=self._first, loss=float("nan"), speed=0.0
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the terminal as it was."""
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, loss: float, examples: int) -> None:
        """Tell that `step` steps are done, the last with this loss on this many examples."""
        self._examples += examples
        now = time.monotonic()
        if not self._visible or now - self._shown < (LOG_SECONDS if self._bar is None else DRAW_SECONDS):
            return
        self._shown = now
        speed = self._examples / max(now - self._began, 1e-9)
        if self._bar is not None:
            self._bar.update(self._task, completed=step, loss=loss, speed=speed)
            return
        left = (now - self._began) / max(1, step - self._first) * (self._total - step)
        logger.info(
            "%s: step %d of %d, loss %.4f, %.0f examples/s, %s left",
            *(self._description, step, self._total, loss, speed, _clock(left)),
        )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
