from __future__ import annotations

import math

import pytest
import torch
from transformers.utils import ModelOutput

from bertcompress.encoder.spec import FeedForward, Head, Layer
from bertcompress.errors import ConfigError
from bertcompress.training.objectives import HiddenTerm, build_objective

from .conftest import make_spec

LENGTHS = (4, 2, 3)
COUNTS = {"example": 3, "token": 9, "token_pair": 29, "word": 0}


def random_outputs(spec, seed, lengths=LENGTHS):
    """Outputs as a network of this spec would give them, with numbers of no meaning, pads included."""
    generator = torch.Generator().manual_seed(seed)
    rows, longest = len(lengths), max(lengths)
    states = [torch.randn(rows, longest, width, generator=generator) for width in spec.widths]
    heads = spec.layers[0].operations[0].num_heads
    scores = [torch.randn(rows, heads, longest, longest, generator=generator) for _ in spec.layers]
    logits = torch.randn(rows, spec.head.num_labels, generator=generator)
    return ModelOutput(logits=logits, hidden_states=tuple(states), attention_scores=tuple(scores))


def batch_of(lengths=LENGTHS, labels=(2, 0, 1)):
    mask = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
    for row, length in enumerate(lengths):
        mask[row, :length] = 1
    return {"attention_mask": mask, "labels": torch.tensor(labels)}


def value_of(objective, student, teacher):
    return float(objective(student, teacher, batch_of(), COUNTS))


def reference(name, student, teacher, labels=(2, 0, 1), temperature=2.0):
    """The same loss with loops over examples, tokens, heads and pairs, in float64 and plain python."""
    total, units = 0.0, 0
    for row, length in enumerate(LENGTHS):
        own, other = student.logits[row].double().tolist(), teacher.logits[row].double().tolist()
        if name == "hard":
            total += math.log(sum(map(math.exp, own))) - own[labels[row]]
            units += 1
        elif name == "logits":
            total += sum((a - b) ** 2 for a, b in zip(own, other, strict=True)) / len(own)
            units += 1
        elif name == "soft":
            p, q = ([math.exp(x / temperature) for x in each] for each in (other, own))
            p, q = ([x / sum(each) for x in each] for each in (p, q))
            total += temperature**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
            units += 1
        elif name == "hidden":
            units += length
            for taught, teaching in ((1, 2), (2, 4)):
                for token in range(length):
                    a, b = student.hidden_states[taught][row, token], teacher.hidden_states[teaching][row, token]
                    total += float((a.double() - b.double()).square().mean())
        else:
            units += length**2
            for taught, teaching in ((0, 1), (1, 3)):
                for query in range(length):
                    for key in range(length):
                        a = student.attention_scores[taught][row, :, query, key]
                        b = teacher.attention_scores[teaching][row, :, query, key]
                        total += float((a.double() - b.double()).square().mean())
    return total / units


@pytest.mark.parametrize("name", ["hard", "soft", "logits", "hidden", "attention"])
def test_each_term_equals_its_definition_written_with_loops(name):
    student, teacher = make_spec(layers=2), make_spec(layers=4)
    objective = build_objective({name: 1.0}, student=student, teacher=teacher, temperature=2.0)
    outputs = random_outputs(student, 1), random_outputs(teacher, 2)
    assert value_of(objective, *outputs) == pytest.approx(reference(name, *outputs), rel=1e-5)


def test_terms_add_up_with_their_weights():
    spec = make_spec(layers=2)
    outputs = random_outputs(spec, 1), random_outputs(spec, 2)
    weights = {"hard": 0.3, "soft": 2.0, "hidden": 0.5}
    parts = [
        weight * value_of(build_objective({name: 1.0}, student=spec, teacher=spec), *outputs)
        for name, weight in weights.items()
    ]
    whole = build_objective({**weights, "logits": 0.0}, student=spec, teacher=spec)
    assert value_of(whole, *outputs) == pytest.approx(sum(parts), rel=1e-6)
    assert set(whole.weights) == set(weights)


def test_what_stands_at_pads_is_never_read():
    spec = make_spec(layers=2)
    objective = build_objective({"hidden": 1.0, "attention": 1.0}, student=spec, teacher=spec)
    student, teacher = random_outputs(spec, 1), random_outputs(spec, 2)
    before = value_of(objective, student, teacher)
    for state in student.hidden_states:
        state[1, 2:] = 1e6
    for scores in student.attention_scores:
        scores[1, :, 2:] = 1e6
        scores[1, :, :, 2:] = 1e6
    assert value_of(objective, student, teacher) == pytest.approx(before, rel=1e-6)


def test_regression_compares_with_the_number():
    spec = make_spec(labels=1, task="regression")
    objective = build_objective({"hard": 1.0}, student=spec, kind="regression")
    student = ModelOutput(logits=torch.tensor([[1.0], [0.0], [2.0]]))
    batch = {**batch_of(), "labels": torch.tensor([2.0, 0.5, 2.0])}
    assert float(objective(student, None, batch, {"example": 3})) == pytest.approx((1 + 0.25 + 0) / 3)


def test_projections_exist_only_where_widths_differ_and_are_shared_and_seeded():
    narrow, wide = make_spec(layers=2, hidden=8), make_spec(layers=4, hidden=16)
    pairs = ((1, 2), (2, 4))
    term = HiddenTerm(pairs, narrow, wide, seed=3)
    assert list(term.projections) == ["8_to_16"]
    assert len(HiddenTerm(pairs, wide, wide).projections) == 0
    same, other = HiddenTerm(pairs, narrow, wide, seed=3), HiddenTerm(pairs, narrow, wide, seed=4)
    weight = term.projections["8_to_16"].weight
    assert torch.equal(weight, same.projections["8_to_16"].weight)
    assert not torch.equal(weight, other.projections["8_to_16"].weight)
    outputs = random_outputs(narrow, 1), random_outputs(wide, 2)
    loss = term(*outputs, batch_of())
    loss.backward()
    assert float(weight.grad.abs().sum()) > 0


def test_a_constant_teacher_shows_which_layer_is_read():
    student, teacher = make_spec(layers=2), make_spec(layers=4)
    outputs = random_outputs(student, 1), random_outputs(teacher, 2)
    for index, state in enumerate(outputs[1].hidden_states):
        state.fill_(float(index))
    for index, state in enumerate(outputs[0].hidden_states):
        state.fill_(float(2 * index))  # what the uniform mapping finds in the teacher
    assert value_of(build_objective({"hidden": 1.0}, student=student, teacher=teacher), *outputs) == 0.0


def test_the_attention_operation_is_counted_along_the_chain():
    feed = Layer((FeedForward(8),), 16)
    spec = make_spec(layers=2)
    mixed = spec.replace(layers=(feed, spec.layers[0], feed, spec.layers[1]))
    objective = build_objective({"attention": 1.0}, student=mixed, teacher=spec, mapping=[[2, 1], [4, 2]])
    assert objective.terms["attention"].places == ((0, 0), (1, 1))
    assert objective.teacher_places == {"attention_scores": frozenset({0, 1})}


@pytest.mark.parametrize(
    ("weights", "changes", "message"),
    [
        ({"sofd": 1}, {}, "'sofd'"),
        ({"soft": -1}, {}, "'soft'"),
        ({"soft": float("nan")}, {}, "'soft'"),
        ({"soft": 0}, {}, "no term"),
        ({}, {}, "no term"),
        ({"soft": 1}, {"teacher": None}, "there is none"),
        ({"soft": 1}, {"temperature": 0}, "temperature"),
        ({"soft": 1}, {"teacher": make_spec(labels=2)}, "3 labels and the teacher 2"),
        ({"logits": 1}, {"teacher": make_spec().replace(head=Head())}, "'none'"),
        ({"hard": 1}, {"kind": "embedding"}, "'embedding'"),
        ({"embedding": 1}, {}, "has a head for classification"),
        ({"attention": 1}, {"teacher": make_spec(layers=2, heads=4)}, r"\(1, 1\) compares 2 heads"),
        ({"attention": 1}, {"mapping": [[0, 0]]}, "no pair"),
        ({"hidden": 1}, {"mapping": [[1, 9]]}, "layer 9"),
    ],
)
def test_what_cannot_work_is_refused(weights, changes, message):
    arguments = {"student": make_spec(), "teacher": make_spec(), **changes}
    with pytest.raises(ConfigError, match=message):
        build_objective(weights, **arguments)


def test_soft_labels_are_refused_for_one_number():
    spec = make_spec(labels=1, task="regression")
    with pytest.raises(ConfigError, match="use 'logits'"):
        build_objective({"soft": 1}, student=spec, teacher=spec, kind="regression")


def test_a_layer_without_attention_is_named():
    spec = make_spec(layers=2)
    bare = spec.replace(layers=(spec.layers[0], Layer((FeedForward(8),), 16)))
    with pytest.raises(ConfigError, match="layer 2 of the student"):
        build_objective({"attention": 1}, student=bare, teacher=spec)
