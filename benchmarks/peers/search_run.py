"""One side of `benchmarks.peers.search`: `python -m benchmarks.peers.search_run JOB RESULT`, in its own process."""

from __future__ import annotations

import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from datasets import Dataset
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, Trainer

import bertcompress as bc
from benchmarks.peers import trainer as peer
from benchmarks.peers.training import save_twice
from bertcompress.compressors.base import Context
from bertcompress.data.sampling import fewer_examples
from bertcompress.evaluation.hardware import load_average
from bertcompress.evaluation.judges import judge_for
from bertcompress.predictions import Predictions
from bertcompress.training.settings import TrainingSettings

MAX_LENGTH = 128
LEARNING_RATE = 3e-4  # of the distillation


@dataclass(frozen=True)
class Job:
    """What to search, or which mappings to judge one by one.

    Attributes:
        side: of `SIDES`.
        model: name or folder of the encoder that teaches and that students are cut from.
        texts: file with one text a line.
        tasks: names or files of the tasks that a student is judged by.
        layers: of the student.
        fitness_examples: training examples of each of these tasks.
        population: mappings in each of two generations.
        seed: of everything.
        epochs: of the distillation.
        genes: for the naive side, what the search has evaluated.
    """

    side: str
    model: str
    texts: str
    tasks: Sequence[str]
    layers: int
    fitness_examples: int
    population: int
    seed: int
    epochs: float = 1.0
    genes: Sequence[Sequence[int]] = ()

    def search(self) -> bc.LayerMappingSearch:
        """Return the search; one finalist with one seed is the least that there can be."""
        return bc.LayerMappingSearch(
            num_layers=self.layers,
            objective={"hidden": 1.0},
            learning_rate=LEARNING_RATE,
            max_length=MAX_LENGTH,
            epochs=0,
            proxy_share=1.0,
            proxy_epochs=self.epochs,
            fitness_tasks=tuple(self.tasks),
            fitness_examples=self.fitness_examples,
            population=self.population,
            generations=2,
            elites=1,
            seeded=False,
            finalists=1,
            finalist_seeds=1,
            seed=self.seed,
        )

    def start(self) -> tuple[bc.Task, bc.Model]:
        """Return the texts and the encoder."""
        task = bc.load_task({"name": "texts", "kind": "unlabelled", "train": self.texts})
        return task, bc.Model.from_pretrained(self.model, task=task)


def measure(job: Job) -> dict[str, Any]:
    """Judge mappings; return the seconds of one, how many, and their fitness."""
    datasets.disable_progress_bars()
    before = load_average()
    with tempfile.TemporaryDirectory() as folder:
        found = SIDES[job.side](job, Path(folder))
    return {**dataclasses.asdict(job), **found, "load_before": before, "load_after": load_average()}


def _ours(job: Job, folder: Path) -> dict[str, Any]:
    """Search as a run does, from tokenizing to the end: the teacher's pass is part of what a mapping costs."""
    task, model = job.start()
    began = time.perf_counter()
    student = job.search().compress(model, task, context=Context(folder=folder))
    seconds = time.perf_counter() - began
    found = student.history[-1].facts["search"]
    candidates = found["candidates"]
    if len(candidates) != found["evaluated"]:
        raise ValueError(f"{found['evaluated']} mappings, of which facts name {len(candidates)}; lower --population.")
    trained = len(candidates) + 1  # the finalist is trained once more, with another seed
    return {
        "seconds_each": seconds / trained,
        "candidates": [{"mapping": each["mapping"], "fitness": each["fitness"]} for each in candidates],
    }


def _naive(job: Job, folder: Path) -> dict[str, Any]:
    """Judge each mapping by a script's means; texts are tokenized and students cut before the clock starts."""
    task, model = job.start()
    student = job.search().extraction(job.seed).compress(model, task)
    folders = [f"{save_twice(each, folder / name)}/peer" for name, each in (("student", student), ("teacher", model))]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    assert task.train is not None
    texts = peer.tokenized(task.train, tokenizer, MAX_LENGTH)
    judges = [_Judge(name, tokenizer, job) for name in job.tasks]
    candidates = []
    began = time.perf_counter()
    for gene in job.genes:
        distilled = _distilled(job, gene, texts, tokenizer, folders, folder / "trainer")
        distilled.save_pretrained(folder / "distilled")
        scores = [judge.score(folder / "distilled", folder / "trainer") for judge in judges]
        candidates.append({"mapping": list(gene), "fitness": 100 * sum(scores) / len(scores)})
    seconds = time.perf_counter() - began
    return {"seconds_each": seconds / len(job.genes), "candidates": candidates}


SIDES: dict[str, Callable[[Job, Path], dict[str, Any]]] = {"ours": _ours, "naive": _naive}


def _distilled(
    job: Job, gene: Sequence[int], texts: Dataset, tokenizer: Any, folders: Sequence[str], folder: Path
) -> Any:
    student, teacher = (AutoModel.from_pretrained(each) for each in folders)
    training = peer.DistillationTrainer(
        model=student.train(),
        teacher=teacher,
        temperature=None,
        pairs=tuple((place, layer) for place, layer in enumerate(gene, start=1) if layer),
        args=peer.arguments(_proxy_settings(job), folder),
        train_dataset=texts,
        processing_class=tokenizer,
    )
    training.train()
    return student


def _proxy_settings(job: Job) -> TrainingSettings:
    search = job.search()
    return dataclasses.replace(search.training_settings(), epochs=search.proxy_epochs)


class _Judge:
    """A task that a student is fine-tuned and scored on."""

    def __init__(self, name: str, tokenizer: Any, job: Job) -> None:
        search = job.search()
        self.task = fewer_examples(bc.load_task(name), job.fitness_examples, job.seed)
        self.tokenizer = tokenizer
        self.settings = TrainingSettings(
            epochs=search.fitness_epochs,
            learning_rate=search.fitness_learning_rate,
            batch_size=search.batch_size,
            seed=job.seed,
        )
        assert self.task.train is not None
        assert self.task.validation is not None
        self.split = self.task.validation
        length = self.settings.length_for(self.task.kind)
        self.train, self.scored = (peer.tokenized(each, tokenizer, length) for each in (self.task.train, self.split))

    def score(self, student: Path, folder: Path) -> float:
        """Return the score of the student after its fine-tuning."""
        labels = 1 if self.task.kind == "regression" else len(self.task.labels)
        training = Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(student, num_labels=labels),
            args=peer.arguments(self.settings, folder),
            train_dataset=self.train,
            processing_class=self.tokenizer,
        )
        training.train()
        logits = np.asarray(training.predict(self.scored).predictions, np.float32)
        found = Predictions(logits, np.asarray(self.split["label"]))
        return float(judge_for(self.task, self.split).selection_score(found))


def main(arguments: list[str]) -> None:
    """Read a job, do it, write the result."""
    job, result = arguments
    Path(result).write_text(json.dumps(measure(Job(**json.loads(job)))), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
