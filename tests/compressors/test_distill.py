"""What distillation learns and refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from bertcompress.compressors import Distill, ExtractThenDistill, FineTune
from bertcompress.errors import ConfigError, DataError
from bertcompress.evaluation.loyalty import probability_loyalty
from bertcompress.model import Model

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
