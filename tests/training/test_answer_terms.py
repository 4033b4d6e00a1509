from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from transformers.utils import ModelOutput

from bertcompress.data.features import Features
from bertcompress.encoder.spec import Head
from bertcompress.training.objectives import build_objective
from bertcompress.training.teacher import TeacherOutputs, run_network

from .conftest import make_network, make_spec

LENGTHS = (5, 2, 4)
WORDS = ((1, 3), (), (1, 2))  # where the first pieces of each row's words stand
TAGS = ((2, 0), (), (1, 1))
SPANS = ((1, 3), (0, 0), (2, 2))
T = 2.0


def token_features(kind):
    """Rows of LENGTHS tokens with the labels above."""
    offsets = np.concatenate([[0], np.cumsum(LENGTHS)]).astype(np.int64)
    ids = np.arange(10, 10 + offsets[-1], dtype=np.int32)
    words, labels = np.full(offsets[-1], -1, np.int32), np.full(offsets[-1], -100, np.int32)
    for row, places in enumerate(WORDS):
        for number, (place, tag) in enumerate(zip(places, TAGS[row], strict=True)):
            words[offsets[row] + place], labels[offsets[row] + place] = number, tag
    own = {"words": words} if kind == "tagging" else {"starts": words, "ends": words}
    gold = labels if kind == "tagging" else np.array(SPANS, np.int64)
    return Features(ids, np.zeros(len(ids), np.int8), offsets, gold, 0, kind, **own)


def softmax(values, temperature=1.0):
    weights = [math.exp(value / temperature) for value in values]
    return [weight / sum(weights) for weight in weights]


def divergence(teacher, student):
    pairs = zip(softmax(teacher, T), softmax(student, T), strict=True)
    return T * T * sum(p * math.log(p / q) for p, q in pairs)


def answers(logits, kind):
    """Every answer's logits with its label, as lists: words, or starts and ends without pads."""
    for row, length in enumerate(LENGTHS):
        if kind == "tagging":
            for place, tag in zip(WORDS[row], TAGS[row], strict=True):
                yield logits[row, place].tolist(), tag
        else:
            for side in (0, 1):
                yield logits[row, :length, side].tolist(), SPANS[row][side]


def reference(name, student, teacher, kind):
    """The same loss with loops, in plain python."""
    total, share = 0.0, 1.0 if kind == "tagging" else 0.5
    for (own, label), (other, _) in zip(answers(student, kind), answers(teacher, kind), strict=True):
        if name == "hard":
            total += share * -math.log(softmax(own)[label])
        elif name == "soft":
            total += share * divergence(other, own)
        else:
            total += share * sum((a - b) ** 2 for a, b in zip(own, other, strict=True)) / len(own)
    return total / (sum(map(len, WORDS)) if kind == "tagging" else len(LENGTHS))


@pytest.mark.parametrize("kind", ["tagging", "question_answering"])
def test_a_low_temperature_is_no_reason_for_infinity(kind):
    labels = 3 if kind == "tagging" else 2
    spec = make_spec(labels=labels).replace(head=Head(kind, labels))
    features = token_features(kind)
    logits = torch.randn(3, 5, labels, requires_grad=True)
    objective = build_objective({"soft": 1.0}, student=spec, teacher=spec, temperature=0.1, kind=kind)
    batch, counts = features.collate([0, 1, 2]), features.counts([0, 1, 2])
    value = objective(ModelOutput(logits=logits), ModelOutput(logits=torch.randn(3, 5, labels)), batch, counts)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(logits.grad).all()


def test_a_step_without_any_word_has_a_loss_of_zero():
    spec = make_spec(labels=3).replace(head=Head("tagging", 3))
    features = token_features("tagging")
    objective = build_objective({"hard": 1.0}, student=spec, kind="tagging")
    value = objective(ModelOutput(logits=torch.randn(1, 2, 3)), None, features.collate([1]), features.counts([1]))
    assert value.item() == 0


@pytest.mark.parametrize("kind", ["tagging", "question_answering"])
@pytest.mark.parametrize("name", ["hard", "soft", "logits"])
def test_a_term_over_tokens_equals_its_definition_written_with_loops(name, kind):
    labels = 3 if kind == "tagging" else 2
    spec = make_spec(labels=labels).replace(head=Head(kind, labels))
    features = token_features(kind)
    generator = torch.Generator().manual_seed(4)
    student, teacher = (torch.randn(3, 5, labels, generator=generator) for _ in range(2))
    objective = build_objective({name: 1.0}, student=spec, teacher=spec, temperature=T, kind=kind)
    batch, counts = features.collate([0, 1, 2]), features.counts([0, 1, 2])
    value = float(objective(ModelOutput(logits=student), ModelOutput(logits=teacher), batch, counts))
    assert value == pytest.approx(reference(name, student, teacher, kind), rel=1e-5)


def test_pads_take_no_part_in_where_an_answer_starts():
    spec = make_spec(labels=2).replace(head=Head("question_answering", 2))
    features = token_features("question_answering")
    objective = build_objective({"hard": 1.0, "soft": 1.0}, student=spec, teacher=spec, kind="question_answering")
    logits = torch.randn(3, 5, 2, requires_grad=True)
    teacher, batch = torch.randn(3, 5, 2), features.collate([0, 1, 2])
    objective(ModelOutput(logits=logits), ModelOutput(logits=teacher), batch, features.counts([0, 1, 2])).backward()
    pads = batch["attention_mask"] == 0
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[pads] == 0).all()
    assert (logits.grad[~pads] != 0).all()


@pytest.mark.parametrize("widths", [(16, 16), (8, 16)])
def test_directions_of_embeddings_are_compared(widths):
    student, teacher = (make_spec(hidden=width).replace(head=Head()) for width in widths)
    objective = build_objective({"embedding": 1.0}, student=student, teacher=teacher, kind="embedding")
    generator = torch.Generator().manual_seed(4)
    own, other = (torch.randn(3, width, generator=generator) for width in widths)
    batch = {"attention_mask": torch.ones(3, 4, dtype=torch.long)}
    value = objective(ModelOutput(logits=own), ModelOutput(logits=other), batch, {"example": 3})
    term = objective.terms["embedding"]
    if term.projection is not None:
        own = own @ term.projection.weight.T
    cosines = (own * other).sum(-1) / own.norm(dim=-1) / other.norm(dim=-1)
    assert value.item() == pytest.approx((1 - cosines).mean().item(), rel=1e-5)
    assert (term.projection is None) == (widths[0] == widths[1])


@pytest.mark.parametrize(("kind", "labels"), [("tagging", 3), ("question_answering", 2)])
@pytest.mark.parametrize("cache_mib", [0, 64])
def test_a_teachers_logits_of_tokens_are_given_back_padded(kind, labels, cache_mib):
    network = make_network(make_spec().replace(head=Head(kind, labels)))
    features = token_features(kind)
    outputs = TeacherOutputs(network, features, precision="fp32", cache_mib=cache_mib)
    batch = features.collate([2, 0])
    taught = outputs.batch(np.array([2, 0]), batch)
    assert outputs.live == (cache_mib == 0)
    network.eval()
    with torch.no_grad():
        expected = run_network(network, batch).logits
    mask = batch["attention_mask"].bool()
    assert torch.allclose(taught.logits[mask], expected[mask], atol=1e-5)
