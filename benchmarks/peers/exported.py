"""Do exported int8 files answer as the model that they are of? All sentences of four development sets, both runtimes.

    python -m benchmarks.peers.exported [--seeds N] [--work FOLDER] [--output FILE]

The students are those of configs/int8.yaml. Beside the files stand two other ways to compute the same model in PyTorch,
as what any difference is to be compared with: each example alone, without others in its batch, and float64. Rounding
to codes makes of the last bit of a float a whole step where a value lies between two codes, and each layer repeats it.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import bertcompress as bc
from benchmarks.peers.common import RESULTS, machine, require_data, write
from benchmarks.peers.int8 import MODEL, STUDENT
from benchmarks.peers.training_run import subset

Logits = npt.NDArray[np.float32]
EXAMPLES = {"sst2": 2000, "mrpc": 2000, "cola": 8000, "bc5cdr": 2000}  # CoLA is not learned from 2,000
EPOCHS = {"cola": 4}
SUFFIXES = {"onnxruntime": ".onnx", "openvino": ".xml"}
ALONE = 1  # tokens in a batch: less than any example has, so that each is one


def student_of(name: str, seed: int, folder: Path) -> tuple[bc.Model, bc.Task]:
    """Return a task's student of 8 bits, made once."""
    task, epochs, mark = bc.load_task(name), EPOCHS.get(name, 2), folder.with_suffix(".json")
    made_with = json.dumps([MODEL, EXAMPLES[name], epochs, STUDENT])
    if not mark.exists() or mark.read_text(encoding="utf-8") != made_with:
        small = subset(task, EXAMPLES[name])
        start = bc.Model.from_pretrained(MODEL, task=task, seed=seed)
        teacher = bc.FineTune(epochs=epochs, learning_rate=1e-4, seed=seed).compress(start, small)
        bc.KDLSQ(**STUDENT, seed=seed).compress(teacher, small).save_pretrained(folder)
        mark.write_text(made_with, encoding="utf-8")
    return bc.Model.from_pretrained(folder, task), task


def answers_of(student: bc.Model, task: bc.Task, folder: Path) -> Iterator[tuple[str, Logits]]:
    """Yield each way to compute the student, with its logits on validation, (examples or words, classes)."""
    assert task.validation is not None
    yield "alone", student.predict(task.validation, max_length=128, max_tokens=ALONE).logits
    for runtime, suffix in SUFFIXES.items():
        path = folder.with_suffix(suffix)
        student.export(path)
        yield runtime, bc.Model.from_pretrained(path, task).predict(task.validation, max_length=128).logits
    double = student.copy()
    double.network.double()
    yield "float64", double.predict(task.validation, max_length=128).logits


def compared(expected: Logits, found: Logits) -> dict[str, Any]:
    """Return how often two logits say the same, how far apart they are, and how near to a tie the others are."""
    apart = np.abs(found - expected).max(-1)
    other = found.argmax(-1) != expected.argmax(-1)
    best = np.sort(expected, axis=-1)
    return {
        "answers": len(expected),
        "others": int(other.sum()),
        "same": float(1 - other.mean()),
        "difference": {"mean": float(apart.mean()), "largest": float(apart.max())},
        "margins_of_others": [float(each) for each in (best[:, -1] - best[:, -2])[other]],
    }


def measure(name: str, seed: int, work: Path) -> dict[str, Any]:
    """Compare all ways to compute one student."""
    folder = work / f"{Path(name).stem}-{seed}"
    student, task = student_of(name, seed, folder)
    assert task.validation is not None
    predicted = student.predict(task.validation, max_length=128)
    assert predicted.labels is not None
    kept = predicted.labels >= 0  # words that are hidden from the score have none
    expected = predicted.logits[kept]
    right = float((expected.argmax(-1) == predicted.labels[kept]).mean())
    result: dict[str, Any] = {"task": name, "seed": seed, "right": right}
    for way, logits in answers_of(student, task, folder):
        result[way] = compared(expected, logits[kept])
        told = result[way]
        print(
            f"{name}, seed {seed}, {way}: {told['others']} of {told['answers']} answers are others, "
            f"logits differ by at most {told['difference']['largest']:.4f}",
            flush=True,
        )
    return result


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.exported", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--work", type=Path, default=Path("runs/exported"), help="folder of the students, made once")
    parser.add_argument("--output", type=Path, default=RESULTS / "exported.json")
    options = parser.parse_args(arguments)
    require_data(next(iter(EXAMPLES)))
    options.work.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "benchmark": "exported",
        "machine": machine(),
        "settings": {"model": MODEL, "examples": EXAMPLES, "epochs": EPOCHS, "student": STUDENT},
        "found": [measure(name, seed, options.work) for seed in range(options.seeds) for name in EXAMPLES],
    }
    write(options.output, result)
    return result


if __name__ == "__main__":
    main()
