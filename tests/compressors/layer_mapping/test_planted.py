"""A teacher with one layer that knows the answer, among layers that say nothing: the search finds that one.

The first two layers of the teacher pass on what they get, the third solves the task, and the fourth says the same to
every text. Only students taught by the third layer, in the layer that their output rests on, can answer.
"""

from __future__ import annotations

import pytest
import torch

from bertcompress.compressors import FineTune, LayerMappingSearch
from bertcompress.data.tasks import Task
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.evaluation.judges import judge_for
from bertcompress.model import Model

from ..conftest import make_examples

TRAINING = {"batch_size": 16, "precision": "fp32"}


@pytest.fixture(scope="module")
def letters():
    train, validation = (make_examples(count, seed) for seed, count in enumerate((512, 128)))
    return Task("letters", "classification", ("later", "earlier"), "accuracy", train, validation)


@pytest.fixture(scope="module")
def teacher(letters, letters_tokenizer):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    spec = EncoderSpec(
        Embeddings(len(letters_tokenizer), 32, max_positions=32),
        uniform_layers(1, 32, 4, 64),
        Head("classification", 2, "none"),
        initializer_range=0.1,
    )
    solver = FineTune(epochs=12, learning_rate=3e-3, **TRAINING).compress(
        Model.from_spec(spec, letters_tokenizer, letters, seed=1), letters
    )
    assert solver.history[-1].facts["best_score"] > 0.95
    whole = Model.from_spec(spec.replace(layers=spec.layers * 4), letters_tokenizer, letters, seed=2)
    weights = whole.network.state_dict()  # these are the network's own
    for name, tensor in solver.network.state_dict().items():
        weights[name.replace("layers.0.", "layers.2.")].copy_(tensor)
    for name, tensor in weights.items():
        passes_on = ("layers.0." in name or "layers.1." in name) and "output" in name
        silent = "layers.3." in name and "norm" in name
        if passes_on or silent:
            tensor.zero_()
    yield whole
    torch.set_num_threads(threads)


def test_the_search_finds_the_layer_that_knows(teacher, letters):
    scores = judge_for(letters, letters.validation).scores(teacher.predict(letters.validation))
    assert scores["accuracy"] < 0.6  # its own last layer hides the answer
    search = LayerMappingSearch(
        num_layers=2,
        layers="first",
        objective={"hidden": 1},
        ordered=True,
        seeded=False,
        population=6,
        generations=6,
        generation_patience=None,
        proxy_share=1.0,
        proxy_epochs=4,
        learning_rate=5e-3,
        finalists=2,
        finalist_seeds=1,
        epochs=0,
        **TRAINING,
    )
    facts = search.compress(teacher, letters).history[-1].facts
    knowing = {(0, 3), (1, 3), (2, 3), (3, 0)}
    assert tuple(facts["mapping"]) in knowing
    fitness = {tuple(each["mapping"]): each["fitness"] for each in facts["search"]["candidates"]}
    assert all((value > 90) == (gene in knowing) for gene, value in fitness.items()), fitness
    assert len(fitness) < facts["search"]["mappings"]  # it did not have to try them all
