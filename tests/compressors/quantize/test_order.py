"""Which of the ways to few bits does better, on a task where a teacher knows more than the labels that are left."""

from __future__ import annotations

import dataclasses
import random
import statistics

import pytest
from datasets import Dataset

from bertcompress.compressors import KDLSQ, FineTune, PostTrainingQuantization
from bertcompress.data.tasks import Task
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.evaluation.evaluate import evaluate
from bertcompress.model import Model

SEEDS = (0, 1, 2)
SETTINGS = {"epochs": 8, "learning_rate": 5e-4, "batch_size": 16, "max_length": 32, "precision": "fp32"}


def words(count, seed):
    """Five to fifteen letters; the class is whether "a" comes before "b"; none at all comes first."""
    generator = random.Random(seed)
    texts = ["".join(generator.choices("abcdefgh", k=generator.randint(5, 15))) for _ in range(count)]
    return Dataset.from_dict({"text": texts, "label": [int(text.find("a") < text.find("b")) for text in texts]})


@pytest.fixture(scope="module")
def scores(letters_tokenizer):
    """Accuracies by method, one for each seed; the teacher has 2,000 examples, what quantizes it 100."""
    task = Task("order", "classification", ("no", "yes"), "accuracy", words(2000, 0), words(200, 1), words(500, 2))
    few = dataclasses.replace(task, train=words(100, 3), validation=None)
    embeddings = Embeddings(len(letters_tokenizer), 64, max_positions=32)
    head = Head("classification", 2, "tanh")
    spec = EncoderSpec(embeddings, uniform_layers(2, 64, 4, 128), head, initializer_range=0.1)
    found = {}
    for seed in SEEDS:
        start = Model.from_spec(spec, letters_tokenizer, task, seed=seed)
        tuned = {**SETTINGS, "epochs": 6, "learning_rate": 1e-3, "batch_size": 32, "seed": seed}
        teacher = FineTune(**tuned).compress(start, task)
        two = {"weight_bits": 2, "embedding_bits": 2}
        methods = {
            "kdlsq 8": KDLSQ(**SETTINGS, seed=seed),
            "kdlsq 4": KDLSQ(**SETTINGS, seed=seed, weight_bits=4, embedding_bits=4),
            "kdlsq 2": KDLSQ(**SETTINGS, seed=seed, **two),
            "lsq 2": KDLSQ(**SETTINGS, seed=seed, **two, objective={"hard": 1.0}),
            "post-training 2": PostTrainingQuantization(**two, initialization="mse"),
        }
        students = {name: method.compress(teacher, few) for name, method in methods.items()}
        for name, model in {"float": teacher, **students}.items():
            found.setdefault(name, []).append(evaluate(model, task, metrics=["accuracy"]).scores["accuracy"])
    return found


def test_eight_and_four_bits_are_as_good_as_the_floats(scores):
    means = {name: statistics.mean(each) for name, each in scores.items()}
    assert means["float"] > 0.9  # else nothing was learnt that bits could cost
    assert means["kdlsq 8"] == pytest.approx(means["float"], abs=0.015)
    assert means["kdlsq 4"] == pytest.approx(means["kdlsq 8"], abs=0.015)


def test_two_bits_cost_and_distillation_and_training_win_back(scores):
    """In the mean of three seeds."""
    means = {name: statistics.mean(each) for name, each in scores.items()}
    order = ["kdlsq 4", "kdlsq 2", "lsq 2", "post-training 2"]
    assert sorted(order, key=means.__getitem__, reverse=True) == order, scores
