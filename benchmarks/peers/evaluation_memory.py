"""Peak memory of evaluations by ours, in fresh processes, on a data set and on one four times as large.

The examples lie in Arrow files that are memory-mapped, as `datasets` has what it read from files, and tokenized data
are kept on disk. The peak of resident memory counts those pages of such files that were read, though the system takes
them back when it needs them; the peak of anonymous memory, which it cannot, is sampled beside it where the system
tells it (Linux). Peaks move by tens of MiB with the order in which memory is freed; what is still in use at the end,
after free memory was given back, tells whether anything piles up.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from datasets import Dataset, concatenate_datasets, load_from_disk

import bertcompress as bc
from bertcompress.data.base import Task
from bertcompress.evaluation.judges import judge_for
from bertcompress.evaluation.memory import STATUS, peak_mib
from bertcompress.memory import MemoryTrimmer

TIMES = 4  # how much larger the second data set is
INTERVAL = 0.005  # seconds between two looks at the anonymous memory
DESCRIBED = ("name", "kind", "labels", "metric", "unanswerable")  # of a task, beside its examples


def growth(model: bc.Model, task: Task, examples: int, folder: Path) -> dict[str, Any]:
    """Return the peaks on two data sets, and by how much memory grows with an example.

    Sentences are those of the training set, the first `examples` and four times as many; questions are those that the
    task is scored on, once and four times with other ids.

    Args:
        model: of the task.
        task: of sentences or questions.
        examples: in the smaller data set, at most.
        folder: for what the processes read and keep.
    """
    model.save_pretrained(folder / "model")
    sizes = two_sizes(task, examples)
    found = [_measured(folder, task, data) for data in sizes]
    added = len(sizes[1]) - len(sizes[0])

    def per_example(name: str, unit: int = 2**20) -> float | None:
        first, second = (each[name] for each in found)
        return None if first is None or second is None else (second - first) * unit / added

    return {
        "task": task.name,
        "examples": [len(data) for data in sizes],
        **{name: [each[name] for each in found] for name in found[0]},
        "bytes_per_example": per_example("peak_mib"),
        "anonymous_bytes_per_example": per_example("peak_anonymous_mib"),
        "kept_bytes_per_example": per_example("kept_mib"),
        "logits_bytes_per_example": per_example("logits_bytes", 1),
    }


def two_sizes(task: Task, examples: int) -> tuple[Dataset, Dataset]:
    """Return a data set and one four times as large, of as many examples at most as there are."""
    if task.kind != "question_answering":
        assert task.train is not None
        small = min(examples, len(task.train) // TIMES)
        return task.train.select(range(small)), task.train.select(range(TIMES * small))
    split = task.scoring_split()[1]
    split = split.select(range(min(examples, len(split))))
    copies = [split.map(lambda row, copy=copy: {"id": f"{row['id']}-{copy}"}) for copy in range(TIMES)]
    return split, concatenate_datasets(copies)


def _measured(folder: Path, task: Task, data: Dataset) -> dict[str, Any]:
    """Evaluate in a fresh process and return its peaks."""
    own = folder / str(len(data))
    data.save_to_disk(str(own / "data"))
    described = {name: getattr(task, name) for name in DESCRIBED}
    order = {"model": str(folder / "model"), "folder": str(own), "task": described}
    (own / "order.json").write_text(json.dumps(order), encoding="utf-8")
    command = [sys.executable, "-m", "benchmarks.peers.evaluation_memory", str(own / "order.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"the evaluation of {len(data)} examples failed:\n{done.stderr[-4000:]}")
    result: dict[str, Any] = json.loads((own / "result.json").read_text(encoding="utf-8"))
    return result


class AnonymousMemory:
    """Samples the anonymous memory of this process, in MiB; `peak` is None where the system does not tell it."""

    def __init__(self) -> None:
        """Prepare the thread that samples."""
        self.peak: float | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    @staticmethod
    def now() -> float | None:
        """Return the anonymous memory in use, in MiB; None where the system does not tell it."""
        if not STATUS.exists():
            return None
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon:")), None)

    def _sample(self) -> None:
        while (now := self.now()) is not None:
            self.peak = max(now, self.peak or 0.0)
            if self._over.wait(INTERVAL):
                return

    def __enter__(self) -> AnonymousMemory:
        """Begin."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()


def main(order_file: Path) -> None:
    """Evaluate as the order says, and write the peaks beside it."""
    order = json.loads(order_file.read_text(encoding="utf-8"))
    folder, described = Path(order["folder"]), order["task"]
    data = load_from_disk(str(folder / "data"))  # memory-mapped
    task = Task(**{**described, "labels": tuple(described["labels"])}, test=data)
    libraries = peak_mib()
    with AnonymousMemory() as anonymous:
        predictions = bc.Model.from_pretrained(order["model"], task=task).predict(data, cache=folder / "cache")
        scores = judge_for(task, data).scores(predictions)
    MemoryTrimmer(0.0).tick()
    kept = AnonymousMemory.now()
    assert predictions.features is not None
    result = {
        "rows": len(predictions.features),
        "libraries_mib": libraries,
        "peak_mib": peak_mib(),
        "peak_anonymous_mib": anonymous.peak,
        "kept_mib": kept,
        "logits_bytes": predictions.logits.nbytes,
        "scores": scores,
    }
    (folder / "result.json").write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
