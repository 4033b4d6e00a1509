"""Peak memory of inference, from a fresh process that loads the saved model and answers some examples.

The peak of this process would be that of whatever it did before (training, other models), so a child is started
that has done nothing else. On Linux its VmHWM is read, which starts anew with `exec`; `ru_maxrss`, which a child
inherits from its parent, is only used on macOS, where it does not. What the libraries alone take is reported beside
the peak, as it is the same for every model.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.getLogger(__name__)

EXAMPLES = 128
TIMEOUT = 600.0
READ = ("text", "text_pair", "words", "id", "question", "context")  # columns that a model reads, labels left out
STATUS = Path("/proc/self/status")


def peak_mib(status: Path = STATUS) -> float | None:
    """Return the peak resident memory of this process in MiB, or None where the platform does not tell."""
    if sys.platform == "darwin":
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # bytes there, KiB elsewhere
    try:
        lines = status.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return None


def measure_peak_memory(
    folder: Path, dataset: Dataset, *, examples: int = EXAMPLES, precision: str = "fp32"
) -> dict[str, Any]:
    """Return the peak memory of a fresh process that loads the model and predicts the first examples.

    Args:
        folder: a saved model.
        dataset: of any kind of task.
        examples: how many of them are answered, in the model's default batches.
        precision: that an exported file is loaded in.

    Returns:
        `peak_memory_mib`, `libraries_memory_mib` (the same process before it loads the model) and `memory_examples`;
        the first two are None, with a `memory_reason`, where they cannot be measured.
    """
    columns = {name: values for name, values in dataset[:examples].items() if name in READ}
    with tempfile.TemporaryDirectory(prefix="bertcompress-") as scratch:
        request, answer = Path(scratch) / "request.json", Path(scratch) / "answer.json"
        asked = {"folder": str(folder.resolve()), "columns": columns, "precision": precision}
        request.write_text(json.dumps(asked), encoding="utf-8")
        failure = _run_child(request, answer)
        measured = {} if failure else json.loads(answer.read_text(encoding="utf-8"))
    result = {f"{name}_memory_mib": measured.get(name) for name in ("peak", "libraries")}
    if result["peak_memory_mib"] is None:
        reason = failure or "this platform does not report a process's peak memory"
        logger.warning("Peak memory was not measured: %s.", reason)
        return {**result, "memory_examples": 0, "memory_reason": reason}
    return {**result, "memory_examples": min(examples, len(dataset))}


def _run_child(request: Path, answer: Path) -> str:
    """Run the child and return why it failed, empty if it did not."""
    package_root = str(Path(__file__).resolve().parents[2])
    inherited = os.environ.get("PYTHONPATH")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (package_root, inherited)))}
    command = [sys.executable, "-m", "bertcompress.evaluation.memory", str(request), str(answer)]
    try:
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the process that measures it did not finish ({error})"
    if done.returncode == 0 and answer.is_file():
        return ""
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    return f"the process that measures it ended with {done.returncode} ({last})"


def _answer(request: Path, answer: Path) -> None:
    """Load the model, predict, and write the peaks: what the child process does."""
    from bertcompress.data.base import make_dataset
    from bertcompress.export import runtime
    from bertcompress.model import Model

    asked = json.loads(request.read_text(encoding="utf-8"))
    dataset = make_dataset(asked["columns"])
    libraries = peak_mib()
    folder, precision = asked["folder"], asked["precision"]
    model = Model.from_pretrained(folder) if precision == "fp32" else runtime.load(folder, precision=precision)
    model.predict(dataset)
    answer.write_text(json.dumps({"libraries": libraries, "peak": peak_mib()}), encoding="utf-8")


if __name__ == "__main__":
    _answer(Path(sys.argv[1]), Path(sys.argv[2]))
