"""Masked language modelling: which tokens are hidden, and what is learnt from them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bertcompress.errors import ConfigError
from bertcompress.training.loop import train
from bertcompress.training.masking import UNMASKED, Masking
from bertcompress.training.objectives import build_objective
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs, run_network

from .conftest import make_features, make_network, make_spec

MASK, SPECIAL = 5, (0, 1, 2)


def masking_of(seed=0, share=0.15):
    return Masking(MASK, SPECIAL, 60, seed, share)


def hidden(features, rows, step=0, **settings):
    batch = features.collate(rows)
    before = batch["input_ids"].clone()
    masking_of(**settings).apply(batch, features, np.array(rows), step)
    return batch, before


def language_spec(layers=2):
    spec = make_spec(layers=layers)
    return spec.replace(head=type(spec.head)("masked_lm"))


def test_labels_are_what_was_there_and_nothing_else_changes():
    features = make_features(count=60)
    rows = list(range(60))
    batch, before = hidden(features, rows)
    chosen = batch["masked_labels"] != UNMASKED
    assert torch.equal(batch["masked_labels"][chosen], before[chosen])
    assert torch.equal(batch["input_ids"][~chosen], before[~chosen])
    assert not np.isin(before[chosen].numpy(), SPECIAL).any()
    assert not (chosen & (batch["attention_mask"] == 0)).any()
    assert int(chosen.sum()) == masking_of().count(features, np.array(rows))
    assert (chosen.sum(1) >= 1).all()


def test_shares_are_those_of_bert():
    features = make_features(count=400, longest=30)
    rows = list(range(400))
    batch, before = hidden(features, rows, share=0.5)
    chosen = batch["masked_labels"] != UNMASKED
    became = batch["input_ids"][chosen]
    masked, same = (became == MASK).float().mean(), (became == before[chosen]).float().mean()
    count = int(chosen.sum())
    assert float(masked) == pytest.approx(0.8, abs=4 * (0.16 / count) ** 0.5)
    assert float(same) == pytest.approx(0.1, abs=0.04)  # random tokens are now and then the same


def test_choices_follow_from_seed_step_and_row_alone():
    features = make_features()
    together, _ = hidden(features, [3, 1, 7])
    alone, _ = hidden(features, [1])
    size = int(features.lengths[1])
    assert torch.equal(together["input_ids"][1, :size], alone["input_ids"][0, :size])
    for other in ({"step": 1}, {"seed": 1}):
        assert not torch.equal(hidden(features, [3, 1, 7], **other)[0]["input_ids"], together["input_ids"])


def test_a_row_of_special_tokens_hides_nothing():
    features = make_features()
    features.input_ids[features.offsets[2] : features.offsets[3]] = 1
    batch, before = hidden(features, [2])
    assert torch.equal(batch["input_ids"], before)
    assert masking_of().count(features, np.array([2])) == 0


def test_the_term_is_the_mean_cross_entropy_of_hidden_tokens():
    features, spec = make_features(), language_spec()
    network = make_network(spec, 1)
    batch, _ = hidden(features, [0, 4, 9])
    objective = build_objective({"mlm": 1.0}, student=spec, masking=masking_of())
    output = run_network(network, batch)
    counts = {"masked": masking_of().count(features, np.array([0, 4, 9]))}
    expected = F.cross_entropy(output.logits.flatten(0, 1), batch["masked_labels"].flatten(), ignore_index=UNMASKED)
    assert float(objective(output, None, batch, counts)) == pytest.approx(float(expected), rel=1e-5)


def test_soft_labels_of_a_language_model_are_those_of_its_tokens():
    features, spec = make_features(), language_spec()
    student, teacher = make_network(spec, 1), make_network(spec, 2)
    objective = build_objective({"soft": 1.0}, student=spec, teacher=spec, kind="unlabelled", temperature=2.0)
    batch = features.collate([0, 4, 9])
    learned, taught = run_network(student, batch), run_network(teacher, batch)
    real = batch["attention_mask"].bool()
    p, q = ((each.logits[real] / 2).log_softmax(-1) for each in (taught, learned))
    expected = 4 * (p.exp() * (p - q)).sum(-1).mean()
    assert float(objective(learned, taught, batch, features.counts([0, 4, 9]))) == pytest.approx(
        float(expected), rel=1e-4
    )


def test_training_learns_to_guess_and_does_not_depend_on_how_steps_are_split():
    features, spec = make_features(count=32), language_spec()
    features.input_ids[:] = np.repeat(10 + np.arange(32) % 4, features.lengths)  # a row says one word again and again
    objective = build_objective({"mlm": 1.0}, student=spec, masking=masking_of())
    results = []
    for tokens in (4096, 30):
        network = make_network(spec, 1)
        settings = TrainingSettings(epochs=8, learning_rate=3e-3, batch_size=16, max_tokens=tokens, precision="fp32")
        result = train(network, objective, features, settings)
        results.append((result.curves["loss"], network.state_dict()))
    first, last = results[0][0][0][1], results[0][0][-1][1]
    assert last < first - 1
    for name, tensor in results[0][1].items():
        assert torch.allclose(tensor, results[1][1][name], atol=1e-4), name


def test_a_teacher_of_hidden_tokens_reads_what_the_student_reads():
    features, spec = make_features(), language_spec()
    teacher = make_network(spec, 2)
    objective = build_objective(
        {"mlm": 1.0, "soft": 1.0, "cosine": 1.0}, student=spec, teacher=spec, kind="unlabelled", masking=masking_of()
    )
    assert objective.needs_live_teacher
    outputs = TeacherOutputs(
        teacher, features, needs=objective.needs, keep=not objective.needs_live_teacher, precision="fp32"
    )
    batch, _ = hidden(features, [0, 4])
    taught = outputs.batch(np.array([0, 4]), batch)
    assert outputs.live
    with torch.no_grad():
        assert torch.equal(taught.logits, run_network(teacher, batch).logits)


def test_what_cannot_guess_is_refused():
    with pytest.raises(ConfigError, match="head is 'classification', allowed is 'masked_lm'"):
        build_objective({"mlm": 1.0}, student=make_spec(), masking=masking_of())
    with pytest.raises(ConfigError, match="nothing says how tokens are hidden"):
        build_objective({"mlm": 1.0}, student=language_spec())
