"""The loss on texts that are not learnt from: what a distillation on bare text is scored by."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bertcompress.compressors import Distill, ExtractThenDistill
from bertcompress.compressors.base import Context
from bertcompress.compressors.held_out import HeldOutLoss
from bertcompress.data.tasks import Task
from bertcompress.encoder.spec import Head
from bertcompress.model import Model
from bertcompress.training.masking import Masking
from bertcompress.training.objectives import build_objective
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs, run_network

SETTINGS = {"learning_rate": 3e-3, "batch_size": 16, "precision": "fp32"}


@pytest.fixture
def texts(task):
    bare = {name: split.remove_columns("label") for name, split in task.splits.items()}
    return Task("texts", "unlabelled", (), "", bare["train"], bare["validation"])


@pytest.fixture
def teacher(small_spec, letters_tokenizer, texts):
    return Model.from_spec(
        small_spec.replace(head=Head("masked_lm"), hidden_dropout=0.3), letters_tokenizer, texts, seed=7
    )


@pytest.mark.parametrize("weights", [{"hidden": 1.0, "attention": 0.5}, {"mlm": 1.0, "soft": 1.0}, {"mlm": 1.0}])
def test_it_is_the_objective_over_all_texts_at_once(teacher, texts, weights, letters_tokenizer):
    student = ExtractThenDistill(num_layers=2, epochs=0).compress(teacher, texts)
    masking = Masking.of(letters_tokenizer, 3) if "mlm" in weights else None
    objective = build_objective(weights, student=student.spec, teacher=teacher.spec, kind="unlabelled", masking=masking)
    features = student.featurize(texts.validation, max_length=32)
    settings = TrainingSettings(max_tokens=40, precision="fp32")  # several batches
    outputs = TeacherOutputs(
        teacher.network,
        features,
        needs=objective.needs,
        precision="fp32",
        keep=masking is None,
        logits="soft" in weights,
    )
    student.network.train()
    score = HeldOutLoss(objective, features, outputs, settings)
    found = score(student.network)
    assert student.network.training  # left as it was
    rows = np.arange(len(features))
    batch, counts = features.collate(rows), features.counts(rows)
    if masking is not None:
        masking.apply(batch, features, rows, 0)
        counts["masked"] = masking.count(features, rows)
    student.network.eval()
    with torch.no_grad():
        learned, taught = (run_network(each.network, batch, sorted(objective.needs)) for each in (student, teacher))
        expected = float(objective(learned, taught, batch, counts))
    assert found == pytest.approx(-expected, rel=1e-4)
    assert score(student.network) == found


def test_the_weights_with_the_smallest_held_out_loss_are_kept(teacher, texts):
    student = ExtractThenDistill(num_layers=2, epochs=0).compress(teacher, texts)
    settings = {**SETTINGS, "learning_rate": 0.3, "schedule": "constant"}  # so much that it gets worse
    step = Distill(epochs=4, objective="tinybert", **settings).compress(student, texts, teacher=teacher).history[-1]
    scores = dict(step.curves["score"])
    assert len(scores) == 4
    assert step.facts["best_score"] == max(scores.values()) < 0
    assert scores[step.facts["best_step"]] == max(scores.values())


def test_a_shared_folder_serves_trainings_with_other_mappings(teacher, texts, tmp_path, monkeypatch):
    passes = []
    real = TeacherOutputs._pass_over_all
    monkeypatch.setattr(TeacherOutputs, "_pass_over_all", lambda outputs: (passes.append(1), real(outputs))[1])
    base = ExtractThenDistill(num_layers=2, epochs=1, objective="tinybert", **SETTINGS)
    alone, shared = {}, {}
    for mapping in ([1, 4], [0, 3]):
        method = dataclasses.replace(base, mapping=mapping)
        context = Context(shared=tmp_path / "teacher")
        shared[tuple(mapping)] = method.compress(teacher, texts, context=context).history[-1].curves["loss"]
        before = len(passes)
        alone[tuple(mapping)] = method.compress(teacher, texts).history[-1].curves["loss"]
        assert len(passes) == before  # read once, so not kept
    assert len(passes) == 2  # the training and the held-out texts, once for both mappings
    for mapping, losses in shared.items():
        np.testing.assert_allclose(np.array(losses), np.array(alone[mapping]), rtol=1e-4)
