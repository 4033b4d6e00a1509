"""Fine-tuning and distilling a BERT, against the same work written with transformers' `Trainer` at its defaults.

    python -m benchmarks.peers.training [--examples N] [--pairs P] [--output FILE]

Both sides start from the same weights and see the same number of examples in the same number of steps of 32, with the
same learning rate, schedule, decay, clipping and seed. Ours runs at its own defaults otherwise (batches of similar
length, bf16 where the processor has it, teacher outputs computed once), as does `Trainer` (random batches padded to
their longest, fp32, a live teacher in `compute_loss`). Each training has a fresh process; ours and the peer's take
turns, and a pair's ratio compares two trainings that ran one after the other.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bertcompress as bc
from benchmarks.peers import common
from benchmarks.peers.common import RESULTS, machine, ratios, require_data, write
from benchmarks.peers.training_run import Job, subset

MODEL, TASK = "minilm-l6", "sst2"
EXAMPLES, EPOCHS, PAIRS, STUDENT_LAYERS = 1120, 3.0, 2, 3  # nine minutes on two cores
RATES = {
    "training_loop": "examples_per_second",
    "training_loop_without_teacher": "examples_per_second_without_teacher",
    "with_tokenization_and_setup": "examples_per_second_whole",
}
SHARED = ("batch_size", "max_length", "learning_rate", "schedule", "warmup", "weight_decay", "max_grad_norm")
Execute = Callable[[Job], dict[str, Any]]


def in_fresh_process(job: Job) -> dict[str, Any]:
    """Do the job in a process of its own."""
    return common.in_fresh_process("benchmarks.peers.training_run", job)


def save_twice(model: bc.Model, folder: Path) -> str:
    """Save the same weights as ours and as a plain transformers BERT; return the folder."""
    model.save_pretrained(folder / "ours")
    model.to_bert().save_pretrained(folder / "peer")
    model.tokenizer.save_pretrained(folder / "peer")
    return str(folder)


def run_pairs(job: Job, pairs: int, execute: Execute) -> list[dict[str, Any]]:
    """Do the job with ours and the peer in turn, with seeds 0, 1, ...; save the first of ours if the job says so."""
    runs = []
    for seed in range(pairs):
        for side in Job.sides:
            save = job.save if side == "ours" and seed == 0 else ""
            run = execute(dataclasses.replace(job, side=side, seed=seed, save=save))
            print(
                f"{job.work:9} seed {seed} {side:4} {run['examples_per_second']:7.1f} examples/s, "
                f"accuracy {run['accuracy']:.4f}",
                flush=True,
            )
            runs.append(run)
    return runs


def summarise(runs: list[dict[str, Any]], examples: int) -> dict[str, Any]:
    """Return paired ratios of the rates, and the accuracies with their difference and its noise.

    Args:
        runs: ours and the peer's in turn.
        examples: how many the accuracy was taken on.
    """
    ours, peer = runs[0::2], runs[1::2]
    rates = {name: ratios([r[key] for r in ours], [r[key] for r in peer]) for name, key in RATES.items()}
    accuracy = {side: [r["accuracy"] for r in chosen] for side, chosen in (("ours", ours), ("peer", peer))}
    means = {side: statistics.fmean(values) for side, values in accuracy.items()}
    noise = sum(mean * (1 - mean) / examples for mean in means.values()) ** 0.5
    return {
        "ours_over_peer": rates,
        "accuracy": {
            **accuracy,
            "mean_difference": means["ours"] - means["peer"],
            "binomial_standard_error_of_difference": noise,
            "validation_examples": examples,
        },
        "runs": runs,
    }


def compare(options: argparse.Namespace, folder: Path, execute: Execute) -> dict[str, Any]:
    """Fine-tune, then distil from what the first fine-tuning of ours gave; return both comparisons."""
    task = bc.load_task(options.task)
    assert task.validation is not None
    start = save_twice(bc.Model.from_pretrained(options.model, task=task), folder / "start")
    common = Job("fine_tune", "", start, "", options.task, options.examples, options.epochs, 0, str(folder / "tuned"))
    tuned = run_pairs(common, options.pairs, execute)
    teacher = bc.Model.from_pretrained(common.save, task=task)
    cut = bc.ExtractThenDistill(num_layers=options.student_layers, epochs=0).compress(teacher, task)
    distill = dataclasses.replace(
        common,
        work="distill",
        student=save_twice(cut, folder / "student"),
        teacher=save_twice(teacher, folder / "teacher"),
        save="",
    )
    distilled = run_pairs(distill, options.pairs, execute)
    trained_on = subset(task, options.examples).train
    assert trained_on is not None
    return {
        "setting": _setting(options, len(trained_on), common),
        "fine_tune": summarise(tuned, len(task.validation)),
        "distill": summarise(distilled, len(task.validation)),
    }


def _setting(options: argparse.Namespace, examples: int, job: Job) -> dict[str, Any]:
    return {
        "model": options.model,
        "task": options.task,
        "examples": examples,
        "epochs": options.epochs,
        "pairs": options.pairs,
        "student_layers": options.student_layers,
        "both": {name: getattr(job.settings(), name) for name in SHARED},
        "objective": "T^2 KL(teacher || student) at T=2 + MSE of hidden states of mapped layers (uniform)",
        "ours": "bertcompress at its defaults: batches of similar length, precision auto, teacher outputs kept",
        "peer": "transformers.Trainer at its defaults: random batches padded to their longest, fp32, live teacher; "
        "progress bars, checkpoints and trackers off",
    }


def report(result: dict[str, Any]) -> None:
    """Print the ratios and accuracies."""
    for work in ("fine_tune", "distill"):
        for name, ratio in result[work]["ours_over_peer"].items():
            low, high = ratio["range"]
            print(f"{work:9} {name:30} {ratio['median']:5.2f} times the peer (pairs: {low:.2f} to {high:.2f})")
        accuracy = result[work]["accuracy"]
        print(
            f"{work:9} validation accuracy: ours - peer = {accuracy['mean_difference']:+.4f}, "
            f"binomial standard error {accuracy['binomial_standard_error_of_difference']:.4f}"
        )


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--examples", type=int, default=EXAMPLES, help="training examples; 0: all")
    parser.add_argument("--epochs", type=float, default=EPOCHS, help="passes over them; 3 is both sides' default")
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how often each comparison is made")
    parser.add_argument("--student-layers", type=int, default=STUDENT_LAYERS)
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--task", default=TASK)
    parser.add_argument("--output", type=Path, default=RESULTS / "training.json")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, execute: Execute = in_fresh_process) -> dict[str, Any]:
    """Measure, print and write the comparison."""
    options = parse(arguments)
    require_data(options.task)
    began, conditions = time.perf_counter(), machine()
    with tempfile.TemporaryDirectory() as folder:
        result = {
            "benchmark": "training",
            "machine": conditions,
            **compare(options, Path(folder), execute),
        }
    result["seconds"] = time.perf_counter() - began
    report(result)
    write(options.output, result)
    return result


if __name__ == "__main__":
    main()
