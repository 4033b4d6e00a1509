"""A small model, a small task that can be learnt, and every compressor, for the suite that all of them must pass."""

from __future__ import annotations

import random

import pytest
from datasets import Dataset

from bertcompress.data.tasks import Task
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.model import Model


def make_examples(count, seed):
    """Texts of a few letters; the class is whether "a" comes before "z"."""
    generator = random.Random(seed)
    texts, labels = [], []
    for _ in range(count):
        letters = generator.choices("bcdefgh", k=generator.randint(2, 9))
        places = sorted(generator.sample(range(len(letters) + 1), 2))
        label = generator.randint(0, 1)
        for place, letter in zip(reversed(places), ("az" if label else "za"), strict=True):
            letters.insert(place, letter)
        texts.append("".join(letters))
        labels.append(label)
    return Dataset.from_dict({"text": texts, "label": labels})


@pytest.fixture(scope="session")
def task():
    train, validation, test = (make_examples(count, seed) for seed, count in enumerate((96, 32, 40)))
    return Task("letters", "classification", ("later", "earlier"), "accuracy", train, validation, test)


@pytest.fixture(scope="session")
def small_spec(letters_tokenizer):
    return EncoderSpec(
        Embeddings(len(letters_tokenizer), 16, max_positions=32),
        uniform_layers(4, 16, 2, 32),
        Head("classification", 2, "tanh"),
        initializer_range=0.2,
    )


@pytest.fixture
def model(small_spec, letters_tokenizer, task):
    return Model.from_spec(small_spec, letters_tokenizer, task, seed=7)
