"""A run that takes seconds: a small BERT checkpoint, a task in csv files that can be learnt, and its YAML."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import BertConfig, BertModel, PreTrainedTokenizerBase

import bertcompress

TRAINING = {"epochs": 2, "learning_rate": 0.001, "batch_size": 16, "max_length": 32, "precision": "fp32"}
COUNTS = {"train": 96, "validation": 32, "test": 40}
TOP = {"config.yaml", "environment.json", "results.json", "report.html", "report.md", ".lock"}
MODEL_FILES = {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "history.json"}
QUANTIZE = {"method": "post_training_quantization"}
STUDENT = {"method": "extract_then_distill", "num_layers": 2, **TRAINING}
STEPS = ("0-teacher", "1-extract_then_distill", "2-post_training_quantization")


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute in one thread meanwhile: sums by two round differently."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def write_checkpoint(folder: Path, tokenizer: PreTrainedTokenizerBase, seed: int = 0, width: int = 16) -> None:
    """Save a BERT of four layers without a head, as transformers does."""
    sizes = {"hidden_size": width, "num_hidden_layers": 4, "num_attention_heads": 2, "intermediate_size": 2 * width}
    config = BertConfig(vocab_size=len(tokenizer), max_position_embeddings=32, initializer_range=0.2, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        BertModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def write_task(folder: Path, counts: dict[str, int] = COUNTS) -> None:
    """Write texts of a few letters; the class is whether "a" comes before "z"."""
    for seed, (name, count) in enumerate(counts.items()):
        generator = random.Random(seed)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for _ in range(count):
                first, second = generator.choice(("az", "za"))
                rest = ["".join(generator.choices("bcdefgh", k=generator.randint(1, 4))) for _ in range(3)]
                label = "earlier" if first == "a" else "later"
                writer.writerow([rest[0] + first + rest[1] + second + rest[2], label])


def write_config(path: Path, **changes: Any) -> Path:
    """Write the run's YAML with some of its top keys changed."""
    student = {"method": "extract_then_distill", "num_layers": 2, **TRAINING}
    values = {
        "task": {
            "name": "letters",
            "kind": "classification",
            **{name: f"{name}.csv" for name in COUNTS},
            "text": "text",
            "label": "label",
            "labels": ["later", "earlier"],
        },
        "teacher": {"model": "bert", **TRAINING},
        "compress": [student, {"method": "post_training_quantization"}],
        "evaluate": ["accuracy", "loyalty"],
        **changes,
    }
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def reproducible(results: Path) -> str:
    """Return results.json without every entry named "measured", and files and folders by their last names only."""
    text = json.dumps(_without_measured(json.loads(results.read_text())), indent=1, sort_keys=True)
    return re.sub(r'/[^\s",]*/', "", text)


def _without_measured(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_measured(each) for name, each in value.items() if name != "measured"}
    return [_without_measured(each) for each in value] if isinstance(value, list) else value


def cli(*arguments):
    command = [sys.executable, "-m", "bertcompress", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=200, check=False, env=environment())


def environment():
    root = str(Path(bertcompress.__file__).parents[1])
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": root, "CUDA_VISIBLE_DEVICES": ""}


def made_at(run):
    """When the weights of each step were written."""
    return {name: (run / name / "model.safetensors").stat().st_mtime_ns for name in STEPS}


def weights(run):
    return {name: (run / name / "model.safetensors").read_bytes() for name in STEPS}


def redone(run, before):
    """Names of the steps whose weights were written again."""
    return [name for name, moment in made_at(run).items() if moment != before[name]]


def layout(run):
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file()}


def whole_layout():
    return TOP | {f"{step}/{file}" for step in STEPS for file in {*MODEL_FILES, "step.json", "README.md"}}
