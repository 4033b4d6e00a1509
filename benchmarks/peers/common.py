"""What every measurement records: the machine, the load on it, ratios taken in pairs."""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bertcompress.evaluation.hardware import load_average, usable_cores
from bertcompress.evaluation.intervals import bootstrap_interval
from bertcompress.pipeline.environment import describe_environment

RESULTS = Path(__file__).resolve().parent.parent / "results"
IDLE_LOAD = 0.3  # processes per core that wanted to run before the measurement; more disturbs it


def machine() -> dict[str, Any]:
    """Return versions, processor, threads, commit, the time, and the load before the measurement."""
    environment = describe_environment()
    now = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
    load = load_average()
    if load is not None and load > IDLE_LOAD * usable_cores():
        print(f"note: the load is {load:.1f} on {usable_cores()} cores; measure on an idle machine.", flush=True)
    return {**environment, "measured_at": now, "load_before": load}


def ratios(ours: Sequence[float], peer: Sequence[float], *, seed: int = 0) -> dict[str, Any]:
    """Return how many times ours is the peer, pair by pair: each, the median, its interval (95%, bootstrap), range.

    Args:
        ours: what ours did, higher is better, such as examples per second.
        peer: the same for the peer, measured right beside it.
        seed: of the bootstrap.
    """
    each = np.asarray(ours, dtype=np.float64) / np.asarray(peer, dtype=np.float64)
    return {
        "median": float(np.median(each)),
        "interval": list(bootstrap_interval(np.median, each, seed=seed)),
        "range": [float(each.min()), float(each.max())],
        "pairs": len(each),
    }


def in_fresh_process(module: str, job: Any) -> dict[str, Any]:
    """Do the job, a dataclass, by `python -m MODULE JOB RESULT` in a process of its own, and return what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        command = [sys.executable, "-m", module, json.dumps(dataclasses.asdict(job)), str(result)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(f"{job} failed:\n{done.stderr[-4000:]}")
        answer: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return answer


def write(path: Path, result: dict[str, Any]) -> None:
    """Write the result, complete or not at all, with the load after the measurement."""
    result["machine"]["load_after"] = load_average()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(f".{os.getpid()}.tmp")
    temporary.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)
    print(f"written: {path}", flush=True)


def require_data(task: str) -> None:
    """End the program with a sentence if the task's files cannot be found without `$BERTCOMPRESS_DATA`."""
    if not os.environ.get("BERTCOMPRESS_DATA") and not Path(task).exists():
        sys.exit(
            f"This benchmark trains on {task}, whose files are not part of the project. Set BERTCOMPRESS_DATA to the "
            "folder that holds them, such as the one that has GLUE's SST-2/train.tsv and dev.tsv in it or in glue/."
        )
