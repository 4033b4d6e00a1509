"""The fine-tuning of a recipe by other code: transformers' `Trainer`, from the same weights, with the same settings.

    python -m benchmarks.peers.control configs/tasks/cola.yaml [--seeds 0 1 2] [--output FILE]

Where a recipe's score is below published ones, this tells whether that is the encoder's doing or ours. The task must
be one of sentences or pairs with classes or numbers; the best epoch is not looked for, the last one is scored.
`Trainer` is used as in `benchmarks.peers.trainer`, in fp32.
"""

from __future__ import annotations

import argparse
import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from transformers import AutoTokenizer, Trainer

import bertcompress as bc
from benchmarks.peers import trainer as peer
from benchmarks.peers.common import RESULTS, machine, write
from bertcompress.config.run_config import load_config
from bertcompress.evaluation.judges import judge_for
from bertcompress.predictions import Predictions


def control(config: Any, task: bc.Task, seed: int) -> dict[str, float]:
    """Return the scores of one training, by name."""
    settings = dataclasses.replace(config.teacher.fine_tune.training_settings(), seed=seed)
    model = bc.Model.from_pretrained(config.teacher.model, task=task, seed=seed)
    split = task.scoring_split()[1]
    with tempfile.TemporaryDirectory() as folder:
        model.to_bert().save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        train, scored = (
            peer.tokenized(data, tokenizer, settings.length_for(task.kind)) for data in (task.train, split)
        )
        arguments = peer.arguments(settings, Path(folder) / "trainer")
        arguments.gradient_accumulation_steps = settings.gradient_accumulation_steps
        training = Trainer(model=peer.load(folder), args=arguments, train_dataset=train, processing_class=tokenizer)
        training.train()
        logits = training.predict(scored).predictions
    found = Predictions(np.asarray(logits, np.float32), np.asarray(split["label"]))
    return judge_for(task, split).scores(found)


def main(arguments: list[str] | None = None) -> dict[str, Any]:
    """Train, print and write the scores."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.control", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("recipe", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE, as for bertcompress run")
    parser.add_argument("--output", type=Path, help="needed with --set, whose result is another one")
    options = parser.parse_args(arguments)
    if options.set and not options.output:
        parser.error("--set changes the recipe: give --output as well.")
    datasets.disable_progress_bars()
    config = load_config(options.recipe, options.set)
    task = bc.load_task(config.task)
    if task.kind not in ("classification", "regression"):
        parser.error(f"{task.name} is a task of kind {task.kind}; the control is written for classes and numbers.")
    if config.teacher.fine_tune.schedule == "constant":
        parser.error("Trainer's constant schedule has no warm-up, so the settings would not be the same.")
    conditions, scores = machine(), {}
    for seed in options.seeds:
        scores[seed] = control(config, task, seed)
        print(f"{task.name}, seed {seed}: {scores[seed]}", flush=True)
    for name in next(iter(scores.values())):
        print(f"{task.name} {name}: mean {statistics.fmean(each[name] for each in scores.values()):.4f}")
    result = {"benchmark": "control", "machine": conditions, "recipe": options.recipe.name, "set": options.set}
    result["scores"] = scores
    write(options.output or RESULTS / "control" / f"{options.recipe.stem}.json", result)
    return result


if __name__ == "__main__":
    main()
