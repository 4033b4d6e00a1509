"""How long a step has taken, over all its attempts."""

from __future__ import annotations

import contextlib
import json
import time
from pathlib import Path
from types import TracebackType

from bertcompress.pipeline.folder import to_json, write_atomically

CLOCK = "clock.json"


class Stopwatch:
    """Wall time in seconds of a step, earlier attempts included; use as a context.

    An attempt that was killed counts up to its last sign of life: the youngest file in the step's working folder,
    which is nearly always its last checkpoint.
    """

    def __init__(self, work: Path, fingerprint: str) -> None:
        """Add up the earlier attempts at the same step, and start.

        Args:
            work: the step's working folder.
            fingerprint: of the step; attempts at another one do not count.
        """
        self._file = work / CLOCK
        self._before = _earlier(work, fingerprint)
        self._started = time.monotonic()
        values = {"fingerprint": fingerprint, "seconds": self._before, "began": time.time()}
        write_atomically(self._file, to_json(values))

    @property
    def seconds(self) -> float:
        """Seconds so far."""
        return self._before + time.monotonic() - self._started

    def __enter__(self) -> Stopwatch:
        """Nothing to do: it runs already."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave a sign of life."""
        with contextlib.suppress(OSError):
            self._file.touch()


def _earlier(work: Path, fingerprint: str) -> float:
    try:
        values = json.loads((work / CLOCK).read_text(encoding="utf-8"))
        if values["fingerprint"] != fingerprint:
            return 0.0
        youngest = max(path.stat().st_mtime for path in work.rglob("*"))
        return float(values["seconds"] + max(0.0, youngest - values["began"]))
    except (OSError, ValueError, KeyError, TypeError):
        return 0.0  # the first attempt, or nothing that could be trusted
