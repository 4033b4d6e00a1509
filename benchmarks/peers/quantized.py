"""A step of KDLSQ, against the same step of distillation without quantizers.

    python -m benchmarks.peers.quantized [--model M] [--examples N] [--rounds R] [--output FILE]

Both learn the same terms of the same layers from the same teacher, with the same batches, settings and arithmetic; the
trainings take turns, and each ratio is of two beside each other. The teacher runs once over all examples, in the first
step, which is left out on both sides: ratios are of the student's own steps. The same for `lsq` (labels alone) against
fine-tuning, where less goes on that could hide the quantizers.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import statistics
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

import bertcompress as bc
from benchmarks.peers.common import RESULTS, machine, ratios, require_data, write
from benchmarks.peers.distillation_run import StepClock
from benchmarks.peers.training_run import subset
from bertcompress.training.settings import TrainingSettings

MODEL, TASK, EXAMPLES, ROUNDS, EPOCHS = "minilm-l6", "sst2", 320, 5, 2
BITS = {"weight_bits": 2, "embedding_bits": 2}
WARM = 3  # steps that make oneDNN's code and find the allocator's sizes


def sides(teacher: bc.Model, task: bc.Task, seed: int, batch_size: int) -> dict[str, tuple[Any, Any]]:
    """Return for each objective the quantized training and the float one that it is compared with."""
    common: dict[str, Any] = {"epochs": EPOCHS, "seed": seed, "batch_size": batch_size}
    kdlsq = bc.KDLSQ(**common, **BITS).fitted(teacher.spec, teacher.spec, task.kind)
    lsq = bc.KDLSQ(**common, **BITS, objective={"hard": 1.0})
    return {"kdlsq": (kdlsq, _plain(kdlsq)), "lsq": (lsq, _plain(lsq))}


def _plain(quantized: Any) -> bc.Distill:
    shared = [field.name for field in dataclasses.fields(TrainingSettings)] + ["objective", "mapping", "temperature"]
    return bc.Distill(**{name: getattr(quantized, name) for name in shared})


def seconds_of(method: Any, teacher: bc.Model, task: bc.Task) -> tuple[float, float]:
    """Return the median seconds of a step in the first epoch and in the second."""
    clock = StepClock()
    with clock:
        method.compress(teacher, task, teacher=teacher)
    steps = len(clock.ends) // EPOCHS
    first, second = clock.ends[WARM:steps], clock.ends[steps:]
    return tuple(statistics.median(b - a for a, b in pairwise(ends)) for ends in (first, second))  # type: ignore[return-value]


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Measure both sides in turn and return seconds and ratios."""
    full = bc.load_task(options.task)
    teacher = bc.Model.from_pretrained(options.model, task=full)
    task = dataclasses.replace(subset(full, options.examples), validation=None)
    taken: dict[str, dict[str, list[tuple[float, float]]]] = {}
    for seed in range(options.rounds):
        for name, pair in sides(teacher, task, seed, options.batch_size).items():
            for side, method in zip(("quantized", "float"), pair, strict=True):
                taken.setdefault(name, {}).setdefault(side, []).append(seconds_of(method, teacher, task))
            told = {side: [round(1000 * each, 1) for each in runs[-1]] for side, runs in taken[name].items()}
            print(f"{name} seed {seed}: ms a step in the first and second epoch: {told}", flush=True)
    return {
        name: {
            epoch: {
                "times_as_long": ratios(*([run[index] for run in runs[side]] for side in ("quantized", "float"))),
                "milliseconds": {side: [1000 * run[index] for run in each] for side, each in runs.items()},
            }
            for index, epoch in enumerate(("first_epoch", "second_epoch"))
        }
        for name, runs in taken.items()
    }


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.quantized", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="each with a seed of its own")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--output", type=Path, default=RESULTS / "quantized.json")
    options = parser.parse_args(arguments)
    require_data(options.task)
    torch.set_num_threads(options.threads)
    about = machine()
    settings = {name: getattr(options, name) for name in ("model", "task", "examples", "batch_size", "threads")}
    result = {"benchmark": "quantized", "machine": about, "settings": {**settings, **BITS}, **compare(options)}
    write(options.output, result)
    for name in ("kdlsq", "lsq"):
        for epoch, found in result[name].items():
            told = found["times_as_long"]
            print(f"{name}, {epoch}: {told['median']:.2f}x as long ({told['range'][0]:.2f} to {told['range'][1]:.2f})")
    return result


if __name__ == "__main__":
    main()
