"""KDLSQ: what it minimises on each kind of task, for which chains it can, and that its step sizes learn."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from bertcompress.compressors import KDLSQ, Distill, PostTrainingQuantization, QuantizationAwareTraining
from bertcompress.compressors.quantize.drift import drift, log_drift, step_sizes
from bertcompress.compressors.quantize.learned import LearnedEmbedding, LearnedLinear
from bertcompress.data.tasks import Task
from bertcompress.encoder.network import build
from bertcompress.encoder.quantized import Embedding
from bertcompress.encoder.spec import (
    Attention,
    Embeddings,
    EncoderSpec,
    FeedForward,
    Head,
    Layer,
    SeparableConvolution,
    uniform_layers,
)
from bertcompress.encoder.tensors import Quantization
from bertcompress.errors import ConfigError, DataError
from bertcompress.model import Model
from bertcompress.pipeline.chain import objective_of
from bertcompress.training.optimizers import build_optimizer, set_learning_rate
from bertcompress.training.settings import TrainingSettings

QUICK = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "max_length": 32, "precision": "fp32"}
PLAIN = EncoderSpec(Embeddings(40, 16, 20), uniform_layers(4, 16, 2, 24), Head("classification", 3, "tanh"))


@pytest.mark.parametrize(
    ("kind", "ground_truth", "expected"),
    [
        ("classification", False, {"soft": 1 / 3}),
        ("classification", True, {"soft": 1 / 3, "hard": 1.0}),
        ("tagging", False, {"soft": 1 / 3}),
        ("question_answering", False, {"soft": 200 / 20}),
        ("regression", False, {"hard": 1.0}),
        ("unlabelled", True, {}),
    ],
)
def test_terms_weigh_as_in_the_released_code(kind, ground_truth, expected):
    """Its soft labels are a mean over classes; of a question's positions too, times 100, for start and end."""
    weights = KDLSQ(ground_truth=ground_truth).fitted(PLAIN, PLAIN, kind).objective_weights(kind)
    assert weights == pytest.approx({**expected, "attention": 1.0, "hidden": 1.0})


@pytest.mark.parametrize(
    ("positions", "settings", "tokenizer", "window"),
    [(512, {}, None, 384), (512, {"max_length": 64}, None, 64), (512, {}, 128, 128), (100, {}, None, 100)],
)
def test_positions_of_a_question_are_those_of_its_window(positions, settings, tokenizer, window):
    spec = PLAIN.replace(embeddings=Embeddings(40, 16, positions), head=Head("question_answering", 2))
    fitted = KDLSQ(**settings).fitted(spec, spec, "question_answering", tokenizer)
    assert fitted.objective["soft"] == pytest.approx(200 / window)


def test_without_training_examples_no_step_can_be_found(model, task):
    empty = dataclasses.replace(task, train=task.train.select([]))
    for method in (KDLSQ(**QUICK), PostTrainingQuantization(activation_steps="tensor")):
        with pytest.raises(DataError, match=rf"found in training examples, of which task {task.name} has none"):
            method.compress(model, empty)


@pytest.mark.parametrize("method", [KDLSQ(**QUICK), PostTrainingQuantization(activation_steps="tensor")])
def test_steps_are_found_without_a_logit_for_each_word(method, small_spec, letters_tokenizer, task, monkeypatch):
    """They are most of a masked-LM network's memory; the transform before them has steps too."""
    model = Model.from_spec(small_spec.replace(head=Head("masked_lm")), letters_tokenizer, seed=7)
    texts = Task("texts", "unlabelled", (), "", train=task.train.remove_columns("label"))

    def never(*_):
        raise AssertionError("decoded")

    monkeypatch.setattr(Embedding, "decode", never)
    monkeypatch.setattr(LearnedEmbedding, "decode", never)
    found = method.compress(model, texts)
    assert float(found.network.state_dict()["transform.input_step"]) not in (0.0, 1.0)


def test_steps_are_not_found_in_texts_of_another_task(model, task):
    tagging = dataclasses.replace(task, labels=("a", "b", "c"))
    with pytest.raises(ConfigError, match="the model's head is classification with 2 outputs, and task letters needs"):
        PostTrainingQuantization(activation_steps="tensor").compress(model, tagging)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", [KDLSQ, QuantizationAwareTraining, PostTrainingQuantization])
def test_a_model_on_a_gpu_is_quantized_there(method, model, task):
    settings = {"activation_steps": "tensor"} if method is PostTrainingQuantization else QUICK
    on_gpu = model.copy()
    on_gpu.network.cuda()
    done = method(**settings).compress(on_gpu, task)
    assert done.spec == method(**settings).plan(model.spec, task)
    assert np.isfinite(done.predict(task.test).logits).all()


def test_all_layers_and_the_embeddings_are_compared():
    mapping = KDLSQ().fitted(PLAIN, PLAIN, "classification").mapping
    assert mapping == {"hidden": "tinybert", "attention": [(1, 1), (2, 2), (3, 3), (4, 4)]}


@pytest.mark.parametrize(
    ("operations", "pairs"),
    [
        (
            [(Attention(2, 8),), (SeparableConvolution(3),), (FeedForward(8), Attention(2, 8)), (FeedForward(8),)],
            [1, 3],
        ),
        ([(SeparableConvolution(3),), (FeedForward(8),)], None),
    ],
)
def test_layers_without_attention_are_compared_by_their_states(operations, pairs, task):
    spec = PLAIN.replace(layers=tuple(Layer(each, 16) for each in operations), head=Head("classification", 2, "tanh"))
    settings = KDLSQ().fitted(spec, spec, "classification")
    assert settings.mapping.get("attention") == (pairs and [(place, place) for place in pairs])
    assert ("attention" in settings.objective_weights("classification")) is (pairs is not None)
    objective_of(KDLSQ(), spec, spec, task)


def test_what_the_user_says_is_left_alone():
    settings = KDLSQ(objective={"soft": 2.0}, mapping="last")
    assert settings.fitted(PLAIN, PLAIN, "classification") is settings
    assert KDLSQ(mapping="last").fitted(PLAIN, PLAIN, "classification").mapping == "last"


def test_heads_that_differ_are_refused_in_the_plan_with_the_remedy(task):
    narrow = PLAIN.replace(layers=uniform_layers(2, 16, 4, 24), head=Head("classification", 2, "tanh"))
    teacher = PLAIN.replace(head=Head("classification", 2, "tanh"))
    with pytest.raises(ConfigError, match="compares 4 heads of the student with 2 of the teacher"):
        objective_of(KDLSQ(), narrow, teacher, task)
    objective_of(KDLSQ(own_teacher=True), narrow, teacher, task)


def test_steps_learn_at_their_own_rates(model, task):
    """The file's steps differ from those that training began with, and a rate of 0 leaves them there."""
    rates = ((0.0, 0.0), (1e-2, 0.0), (0.0, 1e-2))
    trained = [
        KDLSQ(
            **QUICK, weight_bits=4, weight_step_rate=weights, activation_step_rate=activations, own_teacher=True
        ).compress(model, task)
        for weights, activations in rates
    ]
    for (of_weights, of_activations), done in zip(rates, trained, strict=True):
        drift = done.history[-1].facts["step_size_drift"]
        moved = {kind: (each["least"], each["most"]) != (1.0, 1.0) for kind, each in drift.items()}
        assert moved == {"weights": of_weights > 0, "tables": of_weights > 0, "activations": of_activations > 0}
        assert all(each["smallest"] > 0 for each in drift.values())
    frozen, weights, activations = (done.network.state_dict() for done in trained)
    steps = [name for name in frozen if name.endswith(".step") and ".sites." not in name]
    inputs = [name for name in frozen if name.endswith(("input_step", "sites.step"))]
    assert steps
    assert inputs
    for name in steps:
        assert torch.equal(frozen[name], activations[name]), name
        assert not torch.equal(frozen[name], weights[name]), name
    for name in inputs:
        assert torch.equal(frozen[name], weights[name]), name
        assert not torch.equal(frozen[name], activations[name]), name


def test_drift_is_the_ratio_of_a_step_to_what_it_was(caplog):
    network = torch.nn.Module()
    network.a = LearnedLinear(torch.nn.Linear(4, 3), Quantization(weight_steps="tensor"), 3, 1, "ste")
    before = step_sizes(network)
    with torch.no_grad():
        network.a.weight_step.log_step += torch.tensor([0.5, 1.0, 2.0]).log()
        network.a.input_steps[0].log_step -= torch.tensor(4.0).log()
    found = drift(before, step_sizes(network))
    smallest = float(network.a.weight_step.step.detach().min())
    assert found == {
        "weights": pytest.approx({"median": 1.0, "least": 0.5, "most": 2.0, "smallest": smallest}),
        "activations": pytest.approx({"median": 0.25, "least": 0.25, "most": 0.25, "smallest": 0.25}),
    }
    with caplog.at_level("INFO"):
        log_drift("mine", found)
    assert caplog.messages == [
        "mine: step sizes over those of the calibration, median (least to most): weights 1.00 (0.50 to 2.00), "
        "activations 0.25 (0.25 to 0.25)"
    ]


def test_factors_are_of_the_groups_that_names_say():
    parameters = {
        "network.a.weight": torch.nn.Parameter(torch.ones(2, 2)),
        "network.a.weight_step.log_step": torch.nn.Parameter(torch.ones(1)),
        "network.a.input_steps.0.log_step": torch.nn.Parameter(torch.ones(1)),
        "network.a.input_steps.0.offset_steps": torch.nn.Parameter(torch.ones(1)),
        "network.norm.bias": torch.nn.Parameter(torch.ones(2)),
    }
    settings = KDLSQ(learning_rate=1e-4, weight_step_rate=1e-2, activation_step_rate=1e-3)
    optimizer = build_optimizer(parameters, TrainingSettings(weight_decay=0.1), settings.factors())
    set_learning_rate(optimizer, 5e-5)  # half of the peak
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, parameter in parameters.items()
        if any(parameter is each for each in group["params"])
    }
    assert found == {
        "network.a.weight": (5e-5, 0.1),
        "network.norm.bias": (5e-5, 0.0),
        "network.a.weight_step.log_step": (pytest.approx(5e-3), 0.0),
        "network.a.input_steps.0.log_step": (pytest.approx(5e-4), 0.0),
        "network.a.input_steps.0.offset_steps": (pytest.approx(5e-4), 0.0),
    }


def test_distilling_after_it_is_refused(model, task):
    quantized = KDLSQ(**QUICK).compress(model, task)
    with pytest.raises(ConfigError, match="quantized"):
        Distill().compress(quantized, task)


def with_dropout(model, rate):
    rates = dict.fromkeys(("hidden_dropout", "attention_dropout", "classifier_dropout"), rate)
    network = build(model.spec.replace(**rates), model.labels)
    network.load_state_dict(model.state())
    return model.after(network=network)


def test_dropout_of_the_training_is_the_settings_and_that_of_the_result_its_own(model, task):
    without = KDLSQ(**QUICK).compress(with_dropout(model, 0.0), task)
    said = KDLSQ(**QUICK, dropout=0.0).compress(with_dropout(model, 0.5), task)
    left = KDLSQ(**QUICK).compress(with_dropout(model, 0.5), task)
    states = [each.network.state_dict() for each in (without, said, left)]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    assert not all(torch.equal(value, states[2][name]) for name, value in states[0].items())
    assert said.spec.hidden_dropout == said.spec.attention_dropout == said.spec.classifier_dropout == 0.5


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_bits": 1}, r"weight_bits: got 1, allowed are 1.58 \(ternary\), 2 to 8"),
        ({"weight_bits": 32}, "weight_bits"),
        ({"initialization": "best"}, "KDLSQ.initialization: got 'best', allowed are 'max'"),
        ({"weight_gradient": "straight"}, "KDLSQ.weight_gradient: got 'straight', allowed are 'ste', 'clip'"),
        ({"dropout": 1.0}, "KDLSQ.dropout: got 1.0, allowed is a finite number of at least 0 and at most 0.99"),
        ({"weight_step_rate": -1.0}, "KDLSQ.weight_step_rate: got -1.0, allowed is a finite number of at least 0"),
    ],
)
def test_what_cannot_work_is_refused_at_once(changes, message):
    with pytest.raises(ConfigError, match=message):
        KDLSQ(**changes)
