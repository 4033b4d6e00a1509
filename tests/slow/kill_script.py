"""Run by the kill test in a process group of its own: the whole of a run, with checkpoints far more often than usual.

Arguments: the YAML file, the run's folder, a file to which every phase is written as it begins; and, if the run is to
die, the phase and in which of its turns.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from pathlib import Path
from typing import Any

from bertcompress import report, runs
from bertcompress.model import Model
from bertcompress.pipeline import run
from bertcompress.pipeline.folder import RunFolder
from bertcompress.training import checkpoint, loop
from bertcompress.training.session import Session


def main(config: Path, folder: Path, phases: Path, fatal: str = "", turn: int = 1) -> None:
    """Run, and tell in which phase it is: one line each, the innermost last."""
    turns = 0
    checkpoint.SECONDS, checkpoint.SHARE = 0.3, 1e9
    with phases.open("a", buffering=1) as file:
        stack = ["loading"]
        file.write("loading\n")

        def told(owner: Any, function: str, phase: str) -> None:
            inner = getattr(owner, function)

            @functools.wraps(inner)
            def outer(*arguments: Any, **options: Any) -> Any:
                nonlocal turns
                stack.append(phase)
                file.write(f"{phase}\n")
                turns += phase == fatal
                if phase == fatal and turns == turn:
                    os.kill(os.getpid(), signal.SIGKILL)
                try:
                    return inner(*arguments, **options)
                finally:
                    stack.pop()
                    file.write(f"{stack[-1]}\n")

            setattr(owner, function, outer)

        told(loop, "_run", "training")
        told(checkpoint.Checkpoints, "save", "writing a checkpoint")
        told(Session, "evaluate", "scoring in training")
        told(Model, "save_pretrained", "saving a model")
        told(RunFolder, "complete", "moving a step into its place")
        told(run, "evaluate", "evaluating")
        told(report, "write_cards", "writing cards")
        told(report, "write_report", "writing the report")
        runs.run(config, folder)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:4]), *sys.argv[4:5], *map(int, sys.argv[5:]))
