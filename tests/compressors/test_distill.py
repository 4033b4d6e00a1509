"""What distillation learns and refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bertcompress.compressors import Distill, ExtractThenDistill, FineTune
from bertcompress.data.tasks import Task
from bertcompress.encoder.spec import Head
from bertcompress.errors import ConfigError, DataError
from bertcompress.evaluation.loyalty import probability_loyalty
from bertcompress.model import Model
from bertcompress.training.objectives import build_objective

SETTINGS = {"learning_rate": 3e-3, "batch_size": 16, "max_length": 32, "precision": "fp32"}


@pytest.fixture
def teacher(model, task):
    return FineTune(epochs=6, **SETTINGS).compress(model, task)


def test_student_comes_closer_to_its_teacher(teacher, task):
    extracted = ExtractThenDistill(epochs=0, num_layers=2).compress(teacher, task)
    distilled = Distill(epochs=4, **SETTINGS).compress(extracted, task, teacher=teacher)
    truth = teacher.predict(task.test).logits
    before, after = (probability_loyalty(truth, each.predict(task.test).logits) for each in (extracted, distilled))
    assert after > before


def test_narrow_student_learns_hidden_states_through_projections(teacher, task):
    student = ExtractThenDistill(epochs=1, hidden_size=8, objective={"hidden": 1.0}, **SETTINGS).compress(teacher, task)
    losses = [value for _, value in student.history[-1].curves["loss"]]
    assert losses[-1] < losses[0]
    assert student.spec.hidden_size == 8


def test_other_label_order_is_refused(teacher, task):
    swapped = dataclasses.replace(task, labels=tuple(reversed(task.labels)))
    student = Model(teacher.network, teacher.tokenizer, swapped)
    with pytest.raises(DataError, match="order their labels differently"):
        Distill(epochs=1, **SETTINGS).compress(student, swapped, teacher=teacher)


def test_different_head_counts_are_refused_by_name(teacher, task):
    narrow = ExtractThenDistill(epochs=0, num_heads=1).compress(teacher, task)
    with pytest.raises(ConfigError, match="head"):
        Distill(epochs=1, objective="attention", **SETTINGS).compress(narrow, task, teacher=teacher)


def test_a_task_is_needed(teacher):
    with pytest.raises(ConfigError, match="got no task"):
        Distill().compress(teacher, None)


def test_wrong_head_is_refused_with_the_fix(model, task):
    three = dataclasses.replace(task, labels=("later", "earlier", "never"))
    with pytest.raises(ConfigError, match="from_pretrained"):
        FineTune(epochs=1).compress(model, three)


def test_nothing_is_learnt_from_a_teacher_by_hard_labels_alone(model, task):
    other = model.copy()
    for parameter in other.network.parameters():
        parameter.data.mul_(2)
    settings = {**SETTINGS, "epochs": 1, "objective": "hard"}
    alone, taught = (Distill(**settings).compress(model, task, teacher=each) for each in (None, other))
    np.testing.assert_array_equal(alone.predict(task.test).logits, taught.predict(task.test).logits)


@pytest.fixture
def unlabelled(task):
    texts = {name: split.remove_columns("label") for name, split in task.splits.items()}
    return Task("texts", "unlabelled", (), "", texts["train"], texts["validation"])


@pytest.mark.parametrize("objective", ["tinybert", "minilm", "minilmv2", "distilbert"])
def test_published_objectives_teach_without_labels(objective, small_spec, letters_tokenizer, unlabelled):
    spec = small_spec.replace(head=Head("masked_lm"))
    teacher = Model.from_spec(spec, letters_tokenizer, unlabelled, seed=7)
    before = {name: tensor.clone() for name, tensor in teacher.network.state_dict().items()}
    settings = {**SETTINGS, "epochs": 4, "objective": objective}
    student = ExtractThenDistill(num_layers=2, **settings).compress(teacher, unlabelled)
    losses = [value for _, value in student.history[-1].curves["loss"]]
    assert losses[-1] < 0.9 * losses[0]
    assert student.spec.head == spec.head
    assert all(torch.equal(before[name], tensor) for name, tensor in teacher.network.state_dict().items())


def test_patient_distillation_learns_labels_and_first_tokens(teacher, task):
    settings = {**SETTINGS, "epochs": 2, "objective": {"hard": 0.5, "soft": 0.5, "patient": 10}, "mapping": "uniform"}
    student = ExtractThenDistill(num_layers=2, **settings).compress(teacher, task)
    losses = [value for _, value in student.history[-1].curves["loss"]]
    assert losses[-1] < losses[0]


def test_each_term_has_a_mapping_of_its_own(teacher, task):
    distill = Distill(
        objective={"soft": 1, "hidden": 1, "value_relation": 1}, mapping={"hidden": [1, 0, 0, 4]}, relation_heads=4
    )
    objective = build_objective(
        distill.objective_weights(), student=teacher.spec, teacher=teacher.spec, **distill.learns()
    )
    assert objective.terms["hidden"].pairs == ((1, 1), (4, 4))
    assert objective.terms["value_relation"].pairs == ((4, 4),)  # the last, as in its paper
    assert objective.terms["value_relation"].heads == [4]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"objective": "minilmv3"}, "got term 'minilmv3', allowed are .*; or by itself one of .*minilmv2"),
        ({"objective": {"tinybert": 1}}, "got term 'tinybert'"),
        ({"objective": "hidden", "mapping": {"hiden": "last"}}, "mapping: got the term 'hiden', allowed are 'hidden'"),
        ({"objective": "soft", "mapping": {"soft": "last"}}, "allowed is none, as no term of the objective compares"),
        ({"mapping": {"hidden": "lst"}}, "mapping: got 'lst', allowed are"),
        ({"relation_heads": 0}, "relation_heads: got 0"),
    ],
)
def test_impossible_objectives_are_refused_at_once(settings, message):
    with pytest.raises(ConfigError, match=message):
        Distill(**settings)


def test_a_mapping_for_terms_that_follow_from_the_task_is_checked_with_it(teacher, task):
    assert Distill(mapping={"hidden": "last"}).plan(teacher.spec, task) == teacher.spec
    with pytest.raises(ConfigError, match="got the term 'attention', allowed are 'hidden'"):
        Distill(mapping={"hidden": "last", "attention": "last"}).plan(teacher.spec, task)
