"""One mapping of a layer-mapping search, against distilling and judging it by `Trainer` as a loop over mappings would.

    python -m benchmarks.peers.search [--texts N] [--fitness-examples N] [--population N] [--rounds R] [--output FILE]

Ours is a whole search divided by the students that it trained: tokenizing, the teacher's one pass, the search's book
keeping and files. The naive side gets the mappings which that search evaluated, its student, steps and rates, and has
everything tokenized before its clock starts; its teacher runs in every step, as in the usual `compute_loss`. Both
fine-tune each student on the same examples of the same tasks. Each side has a fresh process; they take turns.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bertcompress as bc
from benchmarks.peers import common
from benchmarks.peers.common import RESULTS, machine, ratios, require_data, write
from benchmarks.peers.search_run import Job
from bertcompress.data.sampling import fewer_examples

MODEL, TEXTS, TASKS = "minilm-l6", "sst2", ("sst2", "mrpc", "stsb")
COUNT, FITNESS_EXAMPLES, POPULATION, ROUNDS = 2000, 300, 3, 3
Execute = Callable[[Job], dict[str, Any]]


def in_fresh_process(job: Job) -> dict[str, Any]:
    """Do the job in a process of its own."""
    return common.in_fresh_process("benchmarks.peers.search_run", job)


def write_texts(task: str, count: int, path: Path) -> str:
    """Write so many training texts of a task, one a line, and return where."""
    train = fewer_examples(bc.load_task(task), count, seed=0).train
    assert train is not None
    path.write_text("".join(" ".join(text.split()) + "\n" for text in train["text"]), encoding="utf-8")
    return str(path)


def compare(options: argparse.Namespace, texts: str, execute: Execute) -> list[dict[str, Any]]:
    """Search, then judge what was searched one by one, round by round."""
    runs = []
    for seed in range(options.rounds):
        job = Job(
            side="ours",
            model=options.model,
            texts=texts,
            tasks=tuple(options.tasks),
            layers=options.student_layers,
            fitness_examples=options.fitness_examples,
            population=options.population,
            seed=seed,
        )
        ours = execute(job)
        genes = [each["mapping"] for each in ours["candidates"]]
        for run in (ours, execute(dataclasses.replace(job, side="naive", genes=genes))):
            fitness = statistics.fmean(each["fitness"] for each in run["candidates"])
            told = f"{len(genes)} mappings, {run['seconds_each']:.1f} s each, mean fitness {fitness:.2f}"
            print(f"seed {seed} {run['side']:5} {told}", flush=True)
            runs.append({**run, "mean_fitness": fitness})
    return runs


def main(arguments: list[str] | None = None, execute: Execute = in_fresh_process) -> dict[str, Any]:
    """Measure, print and write the result."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.search", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--model", default=MODEL)
    parser.add_argument("--task", default=TEXTS, help="whose training texts are distilled on")
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), help="that a student is judged by")
    parser.add_argument("--texts", type=int, default=COUNT)
    parser.add_argument("--student-layers", type=int, default=3)
    parser.add_argument("--fitness-examples", type=int, default=FITNESS_EXAMPLES)
    parser.add_argument("--population", type=int, default=POPULATION, help="mappings in each of two generations")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="each with a seed of its own")
    parser.add_argument("--output", type=Path, default=RESULTS / "search.json")
    options = parser.parse_args(arguments)
    for task in (options.task, *options.tasks):
        require_data(task)
    about = machine()
    with tempfile.TemporaryDirectory() as folder:
        runs = compare(options, write_texts(options.task, options.texts, Path(folder) / "texts.txt"), execute)
    seconds = {side: [run["seconds_each"] for run in runs if run["side"] == side] for side in ("ours", "naive")}
    cost = ratios(seconds["ours"], seconds["naive"])
    settings = {name: value for name, value in vars(options).items() if name != "output"}
    result = {"benchmark": "search", "machine": about, "settings": settings, "cost_over_naive": cost, "runs": runs}
    write(options.output, result)
    print(
        f"one mapping costs {cost['median']:.2f} times what it costs naively ({cost['range'][0]:.2f} to "
        f"{cost['range'][1]:.2f})"
    )
    return result


if __name__ == "__main__":
    main()
