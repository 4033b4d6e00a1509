from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from bertcompress.data.base import Task, make_dataset
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers

if TYPE_CHECKING:
    from bertcompress.model import Model

WORDS = ["good", "bad", "film", "plot", "a", "the", "very", "not", "dull", "fine"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Run tiny networks on one thread: more only wait for each other, for long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    table = Tokenizer(models.WordLevel({word: at for at, word in enumerate([*specials, *WORDS])}, unk_token="[UNK]"))
    table.pre_tokenizer = pre_tokenizers.Whitespace()
    table.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=table,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=32,
    )


def examples(count: int, labels: int, seed: int = 0) -> dict[str, list[object]]:
    random = np.random.default_rng(seed)
    texts = [" ".join(random.choice(WORDS, size=random.integers(1, 12))) for _ in range(count)]
    targets = random.integers(labels, size=count).tolist() if labels else random.normal(size=count).tolist()
    return {"text": texts, "label": targets}


@pytest.fixture(scope="session")
def task() -> Task:
    return Task(
        "toy",
        "classification",
        ("no", "yes"),
        "accuracy",
        train=make_dataset(examples(8, 2)),
        test=make_dataset(examples(60, 2, 1)),
    )


@pytest.fixture(scope="session")
def rating() -> Task:
    return Task("toy-rating", "regression", (), "pearson", test=make_dataset(examples(50, 0, 2)))


@pytest.fixture(scope="session")
def tiny(tokenizer: PreTrainedTokenizerFast) -> Callable[..., Model]:
    """Make a model of one or more layers with random weights that are large enough to give varied answers."""

    from bertcompress.model import Model

    def make(task: Task, layers: int = 1, seed: int = 0, width: int = 16) -> Model:
        head = Head(task.kind, len(task.labels) or 1, "tanh")
        chain = uniform_layers(layers, width, 2, 2 * width)
        table = Embeddings(len(tokenizer), width, max_positions=32)
        return Model.from_spec(EncoderSpec(table, chain, head, initializer_range=0.5), tokenizer, task, seed=seed)

    return make
