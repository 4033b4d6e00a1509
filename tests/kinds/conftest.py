"""A small task of every kind that can be learnt from letters, and small models for them."""

from __future__ import annotations

import random

import pytest
import torch

from bertcompress.data.base import Task, make_dataset
from bertcompress.encoder.spec import Embeddings, EncoderSpec, uniform_layers
from bertcompress.model import Model, head_for

TAGS = ("O", "B-A", "I-A")
KINDS = ("classification", "pair", "regression", "tagging", "question_answering", "unanswerable", "embedding")


@pytest.fixture(autouse=True)
def one_thread():
    """Run tiny networks on one thread: more only wait for each other, for long on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def word(source, letters="bcdefgh", longest=4):
    return "".join(source.choices(letters, k=source.randint(1, longest)))


def sentence(source):
    """Words, and their tags: words of "a" are A, from the second in a row on I-A."""
    count = source.randint(2, 14)
    words = [source.choice(("a", "aa")) if source.random() < 0.3 else word(source) for _ in range(count)]
    tags, inside = [], False
    for each in words:
        tags.append(0 if "a" not in each else 2 if inside else 1)
        inside = "a" in each
    return words, tags


def question(source, number, unanswerable):
    """A context with a number somewhere; the question asks for it."""
    words = [word(source) for _ in range(source.randint(3, 20))]
    place = source.randrange(len(words))
    answers = {"text": [], "answer_start": []}
    if not (unanswerable and source.random() < 0.4):
        words[place] = str(source.randint(10, 99))
        answers = {"text": [words[place]], "answer_start": [len(" ".join(words[:place])) + (place > 0)]}
    return {"id": str(number), "question": "where?", "context": " ".join(words), "answers": answers}


def examples(kind, count, seed):
    source = random.Random(f"{kind} {seed}")
    if kind in ("question_answering", "unanswerable"):
        rows = [question(source, number, kind == "unanswerable") for number in range(count)]
        return make_dataset({name: [row[name] for row in rows] for name in rows[0]})
    if kind == "tagging":
        words, tags = zip(*(sentence(source) for _ in range(count)), strict=True)
        return make_dataset({"words": words, "tags": tags})
    texts = [" ".join(word(source, "abcdefgh") for _ in range(source.randint(1, 9))) for _ in range(count)]
    others = [" ".join(word(source, "abcdefgh") for _ in range(source.randint(1, 9))) for _ in range(count)]
    if kind == "classification":
        return make_dataset({"text": texts, "label": [int(text[0] in "abcd") for text in texts]})
    if kind == "pair":
        return make_dataset({"text": texts, "text_pair": others, "label": [int(text[0] in "abcd") for text in others]})
    if kind == "regression":
        return make_dataset({"text": texts, "label": [text.count("a") / 2 for text in texts]})
    shared = [float(len(set(x) & set(y))) for x, y in zip(texts, others, strict=True)]
    return make_dataset({"text": texts, "text_pair": others, "label": shared})


def make_task(kind):
    own = {
        "classification": ("classification", ("no", "yes"), "accuracy"),
        "pair": ("classification", ("no", "yes"), "accuracy"),
        "regression": ("regression", (), "pearson"),
        "tagging": ("tagging", TAGS, "entity_f1"),
        "question_answering": ("question_answering", (), "f1"),
        "unanswerable": ("question_answering", (), "f1"),
        "embedding": ("embedding", (), "spearmanr"),
    }
    splits = [examples(kind, count, seed) for seed, count in enumerate((80, 40, 40))]
    scheme = "IOB2" if kind == "tagging" else ""
    return Task(kind, *own[kind], *splits, scheme=scheme, unanswerable=kind == "unanswerable")


@pytest.fixture(scope="session", params=KINDS)
def task(request):
    return make_task(request.param)


def make_model(task, tokenizer, layers=4, seed=7):
    spec = EncoderSpec(
        Embeddings(len(tokenizer), 16, max_positions=64),
        uniform_layers(layers, 16, 2, 32),
        head_for(task, "tanh"),
        hidden_dropout=0.0,
        attention_dropout=0.0,
        classifier_dropout=0.0,
        initializer_range=0.2,
    )
    return Model.from_spec(spec, tokenizer, task, seed=seed)


@pytest.fixture
def model(task, letters_tokenizer):
    return make_model(task, letters_tokenizer)
