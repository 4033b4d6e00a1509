"""Suites that take seconds: two tasks of one's own, and a few lines of MNLI, RTE and AX in the official layout."""

from __future__ import annotations

import csv
import json
import random
from pathlib import Path
from typing import Any

import yaml

from tests.pipeline.toy_run import COUNTS, TRAINING, write_task

ONCE = {**TRAINING, "epochs": 1}
STUDENT = {"method": "extract_then_distill", "num_layers": 2, **ONCE}
LETTERS = {
    "name": "letters",
    "kind": "classification",
    **{split: f"letters/{split}.csv" for split in COUNTS},
    "text": "text",
    "label": "label",
    "labels": ["later", "earlier"],
}
LENGTHS = {
    "name": "lengths",
    "kind": "regression",
    **{split: f"lengths/{split}.csv" for split in COUNTS},
    "text": "text",
    "label": "label",
}
WORDS = ["cats", "dogs", "birds", "sleep", "sing", "here", "there", "often", "never", "all"]
NLI = ("entailment", "neutral", "contradiction")
TESTS = {"rte": 7, "mnli": 5, "mnli-mm": 6, "ax": 8}  # lines of the test sets


def write_tasks(folder: Path) -> None:
    """Write the data and the descriptions of both tasks; lengths are numbers of letters in units of ten."""
    (folder / "letters").mkdir()
    (folder / "lengths").mkdir()
    write_task(folder / "letters")
    for name, description in {"letters": LETTERS, "lengths": LENGTHS}.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(description, sort_keys=False))
    for split in COUNTS:
        with (folder / "letters" / f"{split}.csv").open(newline="") as file:
            texts = [row["text"] for row in csv.DictReader(file)]
        with (folder / "lengths" / f"{split}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([["text", "label"], *([text, f"{len(text) / 10}"] for text in texts)])


def suite_values(**changes: Any) -> dict[str, Any]:
    """Return the suite's YAML with some of its top keys changed."""
    return {
        "name": "toys",
        "tasks": {
            "letters": {"task": "letters.yaml", "teacher": {"epochs": 0.5, "learning_rate": 0.0001}},
            "lengths": {"task": "lengths.yaml", "compress": {0: {"objective": {"logits": 1}}}},
        },
        "seeds": [0, 1],
        "teacher": {"model": "bert", **ONCE},
        "compress": [STUDENT],
        "evaluate": ["accuracy", "loyalty"],
        **changes,
    }


def write_suite(path: Path, **changes: Any) -> Path:
    """Write the suite's YAML with some of its top keys changed."""
    path.write_text(yaml.safe_dump(suite_values(**changes), sort_keys=False))
    return path


def sentence(generator: random.Random) -> str:
    """Return three words; no two examples need differ."""
    return " ".join(generator.choices(WORDS, k=3))


def write_glue(folder: Path) -> None:
    """Write RTE, MNLI and AX with labels as the leaderboard's zip has them, but a few lines each."""
    generator = random.Random(5)
    for name in ("RTE", "MNLI", "AX"):
        (folder / "glue" / name).mkdir(parents=True)

    def rows(count: int) -> list[tuple[str, str]]:
        return [(sentence(generator), sentence(generator)) for _ in range(count)]

    def table(path: str, header: list[str], lines: list[tuple[str, ...]]) -> None:
        text = "\n".join("\t".join(map(str, line)) for line in [header, *lines])
        (folder / "glue" / path).write_text(text + "\n")

    columns = ["index", "sentence1", "sentence2"]
    for split, count in {"train": 40, "dev": 20}.items():
        words = [generator.choice(("entailment", "not_entailment")) for _ in range(count)]
        lines = [(n, *pair, word) for n, (pair, word) in enumerate(zip(rows(count), words, strict=True))]
        table(f"RTE/{split}.tsv", [*columns, "label"], lines)
    table("RTE/test.tsv", columns, [(n, *pair) for n, pair in enumerate(rows(TESTS["rte"]))])
    table("MNLI/test_matched.tsv", columns, [(n, *pair) for n, pair in enumerate(rows(TESTS["mnli"]))])
    table("MNLI/test_mismatched.tsv", columns, [(n, *pair) for n, pair in enumerate(rows(TESTS["mnli-mm"]))])
    labels = [NLI[n % 3] for n in range(TESTS["ax"])]
    lines = [(n, *pair, label) for n, (pair, label) in enumerate(zip(rows(TESTS["ax"]), labels, strict=True))]
    table("AX/diagnostic.tsv", [*columns, "label"], lines)
    for split, count in {"train": 48, "dev_matched": 30, "dev_mismatched": 27}.items():
        pairs = [{"premise": a, "hypothesis": b, "label": generator.choice(NLI)} for a, b in rows(count)]
        text = "".join(json.dumps(pair) + "\n" for pair in pairs)
        (folder / "glue" / "MNLI" / f"{split}.jsonl").write_text(text)


def numbers(folder: Path) -> dict[str, Any]:
    """Return suite.json without what it says of where and when it was made, and where its data lay."""
    found = json.loads((folder / "suite.json").read_text())
    for task in found["tasks"]:
        (task["task"] or {}).pop("source", None)
    return {key: value for key, value in found.items() if not key.startswith("environment")}
