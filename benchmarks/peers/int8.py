"""Our exported int8 models against PyTorch, ONNX Runtime and OpenVINO with NNCF, all from one fine-tuned MiniLM.

    pip install nncf
    python -m benchmarks.peers.int8 [--examples N] [--rounds N] [--work FOLDER] [--output FILE]

All sides answer the same batch in turn, in a random order within each round; ratios are taken within rounds. The peers
quantize the teacher as their users do, with their own defaults; ours is KDLSQ's student of 8 bits. How often each gives
the teacher's answer stands beside the speed: a fast model that says something else is no help.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import bertcompress as bc
from benchmarks.peers.common import RESULTS, in_fresh_process, machine, ratios, require_data, write
from benchmarks.peers.int8_sides import SIDES, Answer, Batch, Start, export_ours, size_of, write_sides
from benchmarks.peers.training_run import subset
from bertcompress.export.graph import INPUTS

TASK, MODEL = "sst2", "minilm-l6"
STUDENT: dict[str, Any] = {  # what configs/int8.yaml says
    "epochs": 1, "learning_rate": 1e-5, "dropout": 0.0, "warmup": 0.1, "weight_steps": "row", "attention": False,
    "activation_offset": True, "smoothing": 0.85,
}  # fmt: skip
SHAPES = ((1, 16), (1, 128), (8, 128), (32, 32))  # (sentences, tokens)
THREADS = (1, 2)
ROUNDS, WARM_UP, BUDGET_SECONDS = 40, 3, 25.0
BASELINE = "torch_fp32"
OURS = ("ours_torch", "ours_onnx", "ours_openvino", "ours_openvino_bf16")
ROWS = 16  # examples of a batch whose answers are compared


def prepare(examples: int, work: Path) -> bc.Task:
    """Fine-tune the teacher, make the student of 8 bits, and write every side's files, unless the same are there."""
    task, done = bc.load_task(TASK), work / "done"
    made_with = json.dumps({"examples": examples, "student": STUDENT})
    if not done.exists() or done.read_text(encoding="utf-8") != made_with:
        small = subset(task, examples)
        start = bc.Model.from_pretrained(MODEL, task=task)
        teacher = bc.FineTune(epochs=2, learning_rate=1e-4).compress(start, small)
        student = bc.KDLSQ(**STUDENT).compress(teacher, small)
        teacher.save_pretrained(work / "teacher")
        write_sides(teacher, student, small, work)
        done.write_text(made_with, encoding="utf-8")
    export_ours(work)
    return task


def agreement(sides: Mapping[str, Answer], teacher: bc.Model, task: bc.Task) -> dict[str, dict[str, float]]:
    """Return each side's accuracy on validation, and how often it answers as the float32 teacher and as ours does."""
    assert task.validation is not None
    features = teacher.featurize(task.validation, max_length=128)
    labels = np.asarray(features.labels)
    expected = teacher.predict(task.validation, max_length=128).logits.argmax(-1)
    answers: dict[str, npt.NDArray[np.int64]] = {}
    for name, answer in sides.items():
        said = []
        for start in range(0, len(features), ROWS):
            batch = features.collate(np.arange(start, min(start + ROWS, len(features))))
            said.append(answer({each: batch[each].numpy() for each in INPUTS}).argmax(-1))
        answers[name] = np.concatenate(said)
    references = {"accuracy": labels, "teachers_answer": expected, "our_models_answer": answers[OURS[0]]}
    return {
        name: {what: float((each == reference).mean()) for what, reference in references.items()}
        for name, each in answers.items()
    }


def batch_of(rows: int, length: int) -> Batch:
    """Return random ids without pads."""
    ids = np.random.default_rng(0).integers(1000, 30000, (rows, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


def interleaved(sides: Mapping[str, Answer], batch: Batch, rounds: int) -> npt.NDArray[np.float64]:
    """Return seconds, (rounds, sides): in each round every side answers once, in a random order."""
    order, random, taken = list(sides.values()), np.random.default_rng(0), []
    until = time.perf_counter() + BUDGET_SECONDS
    gc.collect()
    gc.disable()
    try:
        while len(taken) < rounds + WARM_UP and (len(taken) < 3 * WARM_UP or time.perf_counter() < until):
            row = [0.0] * len(order)
            for place in random.permutation(len(order)).tolist():
                before = time.perf_counter()
                order[place](batch)
                row[place] = time.perf_counter() - before
            taken.append(row)
    finally:
        gc.enable()
    return np.asarray(taken[WARM_UP:])


def timed(sides: Mapping[str, Answer], shape: tuple[int, int], threads: int, rounds: int) -> dict[str, Any]:
    """Measure one shape; return milliseconds, and how many times as fast as the baseline and as the best peer."""
    seconds = dict(zip(sides, interleaved(sides, batch_of(*shape), rounds).T, strict=True))
    medians = {name: float(np.median(each)) for name, each in seconds.items()}
    best = min((name for name in sides if name not in OURS), key=medians.__getitem__)
    speed = {name: 1 / each for name, each in seconds.items()}
    result = {
        "batch": shape[0],
        "length": shape[1],
        "threads": threads,
        "ms": {name: 1000 * each for name, each in medians.items()},
        "faster_than_torch_fp32": {name: ratios(speed[name], speed[BASELINE]) for name in sides if name != BASELINE},
        "best_peer": best,
        "ours_faster_than_best_peer": {name: ratios(speed[name], speed[best]) for name in OURS if name in sides},
    }
    told = ", ".join(f"{name} {result['ms'][name]:.1f} ms" for name in sides)
    print(f"{shape}, {threads} thread{'s' * (threads > 1)}: {told}", flush=True)
    return result


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the comparison."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.int8", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--examples", type=int, default=4000, help="of SST-2 that teacher and student learn from")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="at most, for each shape and number of threads")
    parser.add_argument("--work", type=Path, default=Path("runs/int8"), help="folder of the models, made once")
    parser.add_argument("--output", type=Path, default=RESULTS / "int8.json")
    options = parser.parse_args(arguments)
    require_data(TASK)
    task = prepare(options.examples, options.work)
    about = machine()
    shapes = []
    for threads in THREADS:
        sides = {name: load(options.work, threads) for name, load in SIDES.items()}
        shapes += [timed(sides, shape, threads, options.rounds) for shape in SHAPES]
    agreed = agreement(sides, bc.Model.from_pretrained(options.work / "teacher", task), task)
    starts = {}
    for name in SIDES:
        job = Start(name, str(options.work), THREADS[-1])
        starts[name] = in_fresh_process("benchmarks.peers.int8_sides", job)
    result = {
        "benchmark": "int8",
        "machine": about,
        "settings": {
            "model": MODEL,
            "task": TASK,
            "examples": options.examples,
            "rounds": options.rounds,
            "student": STUDENT,
        },
        "shapes": shapes,
        "agreement": agreed,
        "cold_start": starts,
        "bytes": {name: size_of(name, options.work) for name in SIDES},
    }
    for name in SIDES:
        told = f"accuracy {agreed[name]['accuracy']:.3f}, the teacher's answer {agreed[name]['teachers_answer']:.1%}"
        print(f"{name}: {told}, first answer after {starts[name]['seconds']:.2f} s, {starts[name]['peak_mib']:.0f} MiB")
    write(options.output, result)
    return result


if __name__ == "__main__":
    main()
