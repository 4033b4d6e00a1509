"""Scoring a model on a task, against transformers' `Trainer.predict` with the scores of its example scripts.

    python -m benchmarks.peers.evaluation [--pairs P] [--model NAME] [--output FILE]

Both sides have the same weights, in fp32, and read the same tokens of SST-2's validation and of XQuAD's English part.
The peer is measured twice: in its best case, padding each batch to its longest row, with as many rows as keep a batch
of the longest within the padded tokens of ours; and as its example scripts are if not told otherwise, with every row
padded to `max_seq_length`, 8 rows in a batch. Nothing counts before both have given the same logits and answers. All
sides evaluate in turn in one process, in reversed order every other time, and a pair's ratio compares neighbours.
The memory of ours is taken in fresh processes, on data sets of two sizes.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import datasets
import numpy as np

import bertcompress as bc
from benchmarks.peers.common import RESULTS, machine, ratios, require_data, write
from benchmarks.peers.evaluation_memory import growth
from benchmarks.peers.evaluation_sides import MAX_LENGTHS, STEPS, Evidence, Ours, Peer, Run, Side, max_length, run
from bertcompress.data.base import Task
from bertcompress.predictions import PREDICTION_TOKENS

MODEL, TASKS, PAIRS, MEMORY_EXAMPLES = "minilm-l6", ("sst2", "squad"), 3, 5000
EXAMPLE_BATCH = 8  # `per_device_eval_batch_size` where nothing else is said
TOLERANCE = 1e-3  # largest difference of logits in fp32, of heads whose logits reach about 10
TIES = 0.01  # share of answers that may differ because two have the same score but for rounding
WARM_UP = 16  # examples that each side evaluates before any is timed
RATES = {"whole": STEPS, "without_tokenization": ("forward", "score"), **{step: (step,) for step in STEPS}}


def sides(model: bc.Model, task: Task) -> dict[str, Side]:
    """Return ours and the peer in both settings, for the split that the task is scored on."""
    split = task.scoring_split()[1]
    allowed = max_length(model, task)
    fitting = max(1, PREDICTION_TOKENS // int(model.featurize(split, max_length=allowed).lengths.max()))
    same = model.to_bert().eval(), model.tokenizer, task, split, allowed
    return {
        "ours": Ours(model, task, split),
        "best_case": Peer(*same, batch_size=fitting, pad_to_max_length=False),
        "example_defaults": Peer(*same, batch_size=EXAMPLE_BATCH, pad_to_max_length=True),
    }


def agreement(task: Task, ours: Evidence, peer: Evidence) -> dict[str, Any]:
    """Return how far the two are apart.

    Raises:
        SystemExit: by more than rounding; then there would be nothing to compare.
    """
    if not np.array_equal(ours.input_ids, peer.input_ids):
        raise SystemExit(f"{task.name}: ours and the peer read different tokens; no comparison.")
    apart = float(np.abs(ours.logits - peer.logits).max())
    if apart > TOLERANCE:
        raise SystemExit(f"{task.name}: ours differs from the peer by {apart:.2g}, allowed is {TOLERANCE}.")
    differing = [row for row, pair in enumerate(zip(ours.answers, peer.answers, strict=True)) if pair[0] != pair[1]]
    gaps = [_gap(ours, peer, row) for row in differing]
    score = max(abs(ours.scores[name] - value) for name, value in peer.scores.items())
    ties = len(differing) / len(ours.answers)
    if ties > TIES or max(gaps, default=0.0) > 2 * apart + 1e-6 or score > ties + 1e-9:
        raise SystemExit(f"{task.name}: {len(differing)} answers differ, scores by {score:.2g}; no comparison.")
    return {
        "largest_difference_of_logits": apart,
        "differing_answers": len(differing),
        "largest_gap_of_their_scores": max(gaps, default=0.0),
        "largest_difference_of_scores": score,
    }


def _gap(ours: Evidence, peer: Evidence, row: int) -> float:
    """Return by how much two answers' scores differ; classes are scored by their logits."""
    if ours.best:
        return abs(ours.best[row] - peer.best[row])
    return float(abs(ours.logits[row, ours.answers[row]] - ours.logits[row, peer.answers[row]]))


def scored(task: Task, examples: int) -> Task:
    """Return the task with nothing but the first examples of the split that it is scored on; 0: all of them."""
    split = task.scoring_split()[1]
    part = split.select(range(min(examples or len(split), len(split))))
    return Task(task.name, task.kind, task.labels, task.metric, test=part, unanswerable=task.unanswerable)


def compare(model: bc.Model, task: Task, pairs: int) -> dict[str, Any]:
    """Return seconds, scores, agreement and ratios of a task from `scored`."""
    for side in sides(model, scored(task, WARM_UP)).values():
        run(side)
    found, examples = sides(model, task), len(task.scoring_split()[1])
    facts: dict[str, Any] = {}
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in found}
    for number in range(pairs):
        for name in list(found)[:: -1 if number % 2 else 1]:
            done = run(found[name])
            seconds[name].append(done.seconds)
            facts[name] = facts.get(name) or _facts(found[name], done)
            _report(task.name, name, done)
    evidence = {name: fact.pop("evidence") for name, fact in facts.items()}
    peers = [name for name in found if name != "ours"]
    return {
        "task": task.name,
        "examples": examples,
        "sides": {name: {**facts[name], "seconds": seconds[name]} for name in found},
        "agreement": {name: agreement(task, evidence["ours"], evidence[name]) for name in peers},
        "faster_than_peer": {name: _ratios(seconds["ours"], seconds[name]) for name in peers},
    }


def _facts(side: Side, done: Run) -> dict[str, Any]:
    batch = {"batch_size": side.batch_size} if isinstance(side, Peer) else {"max_tokens": PREDICTION_TOKENS}
    return {
        **batch,
        "rows": len(done.rows),
        "padded_tokens": side.padded_tokens(done.rows),
        "scores": done.scores,
        "evidence": side.evidence(done.rows, done.output),
    }


def _ratios(ours: list[dict[str, float]], peer: list[dict[str, float]]) -> dict[str, Any]:
    def rates(runs: list[dict[str, float]], steps: tuple[str, ...]) -> list[float]:
        return [1 / sum(seconds[step] for step in steps) for seconds in runs]

    return {name: ratios(rates(ours, steps), rates(peer, steps)) for name, steps in RATES.items()}


def _report(task: str, name: str, done: Run) -> None:
    steps = ", ".join(f"{step} {seconds:.2f} s" for step, seconds in done.seconds.items())
    scores = ", ".join(f"{score} {value:.4f}" for score, value in done.scores.items())
    print(f"{task:6} {name:16} {steps}: {scores}", flush=True)


def report(result: dict[str, Any]) -> None:
    """Print the ratios and the memory."""
    for compared in result["tasks"]:
        for name, found in compared["faster_than_peer"].items():
            parts = [f"{part} {ratio['median']:.2f}x" for part, ratio in found.items()]
            print(f"{compared['task']:6} ours over {name:16}", *parts, sep=" | ")
    for memory in result["memory"]:
        names = ("examples", "peak_mib", "peak_anonymous_mib", "kept_mib")
        sizes = zip(*(memory[name] for name in names), strict=True)
        parts = [f"{count} examples: peak {peak} MiB, {own} anonymous, {kept} kept" for count, peak, own, kept in sizes]
        print(f"{memory['task']:6} memory", *parts, f"{memory['kept_bytes_per_example']} bytes an example", sep=" | ")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.evaluation", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--pairs", type=int, default=PAIRS, help="how often each comparison is made; 0: memory alone")
    parser.add_argument("--model", default=MODEL, help="a head that it lacks for a task is random")
    parser.add_argument("--tasks", nargs="*", default=TASKS, help="sentences, or questions with answers")
    parser.add_argument("--examples", type=int, default=0, help="of each split; 0: all")
    parser.add_argument("--memory-examples", type=int, default=MEMORY_EXAMPLES, help="0: do not measure it")
    parser.add_argument("--output", type=Path, help="by default evaluation.json, or evaluation-memory.json, in results")
    options = parser.parse_args(arguments)
    if options.output is None:
        options.output = RESULTS / ("evaluation.json" if options.pairs else "evaluation-memory.json")
    return options


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Measure, print and write the comparison."""
    options = parse(arguments)
    datasets.disable_progress_bars()
    for name in options.tasks:
        require_data(name)
    began, conditions = time.perf_counter(), machine()
    tasks, memory = [], []
    for name in options.tasks:
        task = bc.load_task(name)
        if task.kind not in MAX_LENGTHS or task.unanswerable or "text_pair" in task.scoring_split()[1].column_names:
            sys.exit(f"{name}: the peer is written for single sentences with classes, and questions with answers.")
        model = bc.Model.from_pretrained(options.model, task=task)
        if options.pairs:
            tasks.append(compare(model, scored(task, options.examples), options.pairs))
        if options.memory_examples:
            with tempfile.TemporaryDirectory() as folder:
                memory.append(growth(model, task, options.memory_examples, Path(folder)))
    result = {
        "benchmark": "evaluation",
        "machine": conditions,
        "setting": {
            "model": options.model,
            "head": "random where the model has none for the task",
            "precision": "fp32",
            "pairs": options.pairs,
            "max_lengths": MAX_LENGTHS,
            "best_case": "DataCollatorWithPadding; as many rows as keep the longest within ours' max_tokens",
            "example_defaults": "run_glue and run_qa: rows padded to max_seq_length, 8 in a batch",
        },
        "tasks": tasks,
        "memory": memory,
        "seconds": time.perf_counter() - began,
    }
    report(result)
    write(options.output, result)
    return result


if __name__ == "__main__":
    main()
