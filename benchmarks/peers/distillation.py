"""Distilling a BERT, against TextBrewer, SilverSpoon-KD and the `Trainer` subclass that tutorials show.

    pip install textbrewer silverspoon-kd tensorboard
    python -m benchmarks.peers.distillation [--examples N] [--epochs E] [--rounds R] [--output FILE]

Each distillation has a fresh process; the sides take turns, and ratios compare those of one round. "soft" learns from
logits alone, "hidden" from logits and the states of every layer. Rates are over all epochs, and from the second on,
where ours reads what it has kept of the teacher; TextBrewer can keep logits too, and is measured with and without that.
All sides run at their own defaults where nothing has to be the same. The final loss is ours' code for all of them, on
the validation split.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bertcompress as bc
from benchmarks.peers import common
from benchmarks.peers.common import RESULTS, machine, ratios, require_data, write
from benchmarks.peers.distillation_run import OBJECTIVES, SIDES, Job
from benchmarks.peers.training import save_twice
from benchmarks.peers.training_run import subset

MODEL, TASK, STUDENT_LAYERS = "minilm-l6", "sst2", 3
EXAMPLES, EPOCHS, ROUNDS = 960, 3, 3
PACKAGES = {"textbrewer": "textbrewer", "textbrewer_caching": "textbrewer", "silverspoon": "silverspoon_kd"}
RATES = ("examples_per_second", "examples_per_second_from_second_epoch")
Execute = Callable[[Job], dict[str, Any]]


def in_fresh_process(job: Job) -> dict[str, Any]:
    """Do the job in a process of its own."""
    return common.in_fresh_process("benchmarks.peers.distillation_run", job)


def sides_of(objective: str) -> list[str]:
    """Return who can learn that objective; kept logits are of no use where states are needed as well.

    Ends the program where a peer is not installed: a table that leaves it out says less than it seems to.
    """
    for package in sorted(set(PACKAGES.values())):
        if importlib.util.find_spec(package) is None:
            sys.exit(f"{package} is not installed; pip install textbrewer silverspoon-kd tensorboard")
    return [side for side in SIDES if objective == "soft" or side != "textbrewer_caching"]


def summarise(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return for each peer the ratios of ours to it, and each side's final losses."""
    by_side: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        by_side.setdefault(run["side"], []).append(run)
    ours = by_side["ours"]
    return {
        "ours_over": {
            side: {name: ratios([run[name] for run in ours], [run[name] for run in peers]) for name in RATES}
            for side, peers in by_side.items()
            if side != "ours"
        },
        "final_loss": {
            side: {"values": [run["loss"] for run in each], "mean": statistics.fmean(run["loss"] for run in each)}
            for side, each in by_side.items()
        },
        "runs": runs,
    }


def compare(options: argparse.Namespace, folder: Path, execute: Execute) -> dict[str, Any]:
    """Fine-tune a teacher, cut a student, then distil with every side in turn."""
    task = bc.load_task(options.task)
    start = bc.Model.from_pretrained(options.model, task=task)
    teacher = bc.FineTune(epochs=2, learning_rate=1e-4).compress(start, subset(task, 2 * options.examples))
    student = bc.ExtractThenDistill(num_layers=options.student_layers, epochs=0).compress(teacher, task)
    folders = save_twice(student, folder / "student"), save_twice(teacher, folder / "teacher")
    found: dict[str, Any] = {}
    for objective in OBJECTIVES:
        runs = []
        for seed in range(options.rounds):
            for side in sides_of(objective):
                job = Job(side, objective, *folders, options.task, options.examples, options.epochs, seed)
                run = execute(job)
                print(
                    f"{objective:6} seed {seed} {side:18} {run[RATES[0]]:7.1f} examples/s, from the second epoch on "
                    f"{run[RATES[1]]:7.1f}, loss {run['loss']:.4f}",
                    flush=True,
                )
                runs.append(run)
        found[objective] = summarise(runs)
    return found


def main(arguments: list[str] | None = None, execute: Execute = in_fresh_process) -> dict[str, Any]:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.distillation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--student-layers", type=int, default=STUDENT_LAYERS)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="each with a seed of its own")
    parser.add_argument("--output", type=Path, default=RESULTS / "distillation.json")
    options = parser.parse_args(arguments)
    if options.epochs < 2:
        parser.error("--epochs: allowed is 2 or more, as rates from the second on are measured.")
    require_data(options.task)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        found = compare(options, Path(folder), execute)
    settings = {name: getattr(options, name) for name in ("model", "task", "student_layers", "examples", "epochs")}
    result = {"benchmark": "distillation", "machine": about, "settings": settings, **found}
    write(options.output, result)
    for objective in OBJECTIVES:
        for side, each in found[objective]["ours_over"].items():
            told = ", ".join(f"{name} {each[name]['median']:.2f}x" for name in RATES)
            print(f"{objective}: ours over {side}: {told}")
    return result


if __name__ == "__main__":
    main()
