"""The scores of the recipes in configs/tasks, kept run by run, beside published ones.

    bertcompress run configs/tasks/mrpc.yaml --set seed=1 --output runs/tasks/mrpc/seed-1
    python -m benchmarks.tasks collect runs/tasks      # keeps the results of finished runs in results/tasks
    python -m benchmarks.tasks table                   # writes results/tasks/README.md

What is kept of a run is its results and its environment, without the texts of examples, which belong to their data
sets, and with data folders written as $BERTCOMPRESS_DATA.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

from benchmarks.peers.common import RESULTS

KEPT = RESULTS / "tasks"
PUBLISHED = Path(__file__).resolve().parent / "published.yaml"
LOYALTY = "label"  # every kind's first loyalty has this key, see `bertcompress.evaluation.titles`


def collect(runs: Path) -> list[Path]:
    """Keep the results of all finished runs in `runs/TASK/seed-N`; return where."""
    kept = []
    for results in sorted(runs.glob("*/seed-*/results.json")):
        found = json.loads(results.read_text(encoding="utf-8"))
        if not (results.parent / "report.html").exists():
            continue  # results.json is there from the first step on, the report at the end
        folder = KEPT / results.parent.relative_to(runs)
        folder.mkdir(parents=True, exist_ok=True)
        for model in found["models"]:
            model.get("breakdown", {}).pop("departures", None)
        environment = json.loads((results.parent / "environment.json").read_text(encoding="utf-8"))
        for name, value in (("results", found), ("environment", environment | {"command": ""})):
            text = _anonymous(json.dumps(value, sort_keys=True), runs)
            (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        kept.append(folder)
    return kept


def _anonymous(text: str, runs: Path) -> str:
    """Return the text without the folders of this machine."""
    folders = {
        str(runs.resolve()): "runs/tasks",
        os.environ.get("BERTCOMPRESS_DATA", "").rstrip("/"): "$BERTCOMPRESS_DATA",
    }
    for folder, name in folders.items():
        text = text.replace(folder, name) if folder else text
    return text


def runs_of(kept: Path) -> dict[str, dict[int, dict[str, Any]]]:
    """Return the results by task and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for path in sorted(kept.glob("*/seed-*/results.json")):
        seed = int(path.parent.name.removeprefix("seed-"))
        found.setdefault(path.parent.parent.name, {})[seed] = json.loads(path.read_text(encoding="utf-8"))
    return found


def spread(values: Sequence[float]) -> str:
    """Return mean and range in percent, such as `88.2 (87.9 to 88.6)`."""
    mean = f"{100 * statistics.fmean(values):.1f}"
    return mean if len(values) < 2 else f"{mean} ({100 * min(values):.1f} to {100 * max(values):.1f})"


def rows(runs: dict[str, dict[int, dict[str, Any]]], published: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    """Yield a row of the table for each task and each score that it has."""
    for task, seeds in runs.items():
        first = next(iter(seeds.values()))
        for metric in first["models"][0]["scores"]:
            scores = [run["models"][0]["scores"][metric] for run in seeds.values()]
            students = [run["models"][-1] for run in seeds.values() if len(run["models"]) > 1]
            beside = [
                f"{each['encoder']} {each['score']}" + (f" ({each['split']})" if each["split"] else "")
                for each in published
                if each["task"] == task and metric in _names(each["metric"])
            ]
            yield [
                task,
                first["task"]["split"],
                metric.replace("_", " "),
                ", ".join(map(str, sorted(seeds))),
                spread(scores),
                "; ".join(beside) or "none found",
                spread([model["scores"][metric] for model in students]) if students else "",
                "; ".join(map(_loyalty, students)),
            ]


def _names(metric: str) -> list[str]:
    return [name.strip().lower() for name in metric.split(" or ")]


def _loyalty(model: dict[str, Any]) -> str:
    if "loyalty" not in model:
        return "not measured"
    low, high = (100 * bound for bound in model["loyalty_intervals"][LOYALTY])
    return f"{100 * model['loyalty'][LOYALTY]:.1f} ({low:.1f} to {high:.1f})"


HEAD = [
    "task",
    "split",
    "score",
    "seeds",
    "teacher: mean (range)",
    "published, of encoders of about that size",
    "3-layer student",
    "its loyalty (95 % interval)",
]


def table(kept: Path = KEPT) -> str:
    """Return the table in Markdown."""
    published = yaml.safe_load(PUBLISHED.read_text(encoding="utf-8"))
    lines = [HEAD, ["---"] * len(HEAD), *rows(runs_of(kept), published)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def main(arguments: list[str] | None = None) -> None:
    """Collect runs, or write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tasks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("collect").add_argument("runs", type=Path)
    commands.add_parser("table")
    options = parser.parse_args(arguments)
    if options.command == "collect":
        kept = collect(options.runs)
        for folder in kept:
            print(f"kept: {folder}")
        if not kept:
            sys.exit(
                f"{options.runs}: no finished run in it, looked for TASK/seed-N/ with results.json and report.html."
            )
        return
    text = table()
    (KEPT / "README.md").write_text(INTRODUCTION + text, encoding="utf-8")
    print(text)


INTRODUCTION = """# Scores of the recipes

Written by `python -m benchmarks.tasks table` from the raw results beside this file. In percent; a teacher is the
built-in MiniLM, fine-tuned as its recipe in `configs/tasks` says, and its student has every second layer of it.
Published scores are listed with their sources in `benchmarks/published.yaml`.

"""


if __name__ == "__main__":
    main()
