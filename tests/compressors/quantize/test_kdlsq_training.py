"""What KDLSQ trains: the released code's loss, its defaults, which gradients pass where, and where steps begin."""

from __future__ import annotations

import copy
import dataclasses

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from bertcompress.compressors import KDLSQ, PostTrainingQuantization, QuantizationAwareTraining, fitting
from bertcompress.compressors.quantize.initialization import initial_step
from bertcompress.compressors.quantize.learned import (
    LearnedEmbedding,
    LearnedLinear,
    LearnedSites,
    calibrating,
    prepare,
)
from bertcompress.compressors.quantize.training import calibrate
from bertcompress.data.base import make_dataset
from bertcompress.data.tasks import Task
from bertcompress.encoder.bits import code_range
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.encoder.tensors import Quantization
from bertcompress.model import Model

QUICK = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 16, "max_length": 32, "precision": "fp32"}


@pytest.fixture
def fitted(monkeypatch):
    """What the training is called with."""
    calls, real = [], fitting.fit

    def fit(*given, **named):
        calls.append(named)
        return real(*given, **named)

    monkeypatch.setattr(fitting, "fit", fit)
    return calls


@pytest.fixture
def teacher(model):
    other = model.copy()
    with torch.no_grad():
        other.network.classifier.weight.mul_(-3)
    return other


def test_it_learns_the_weighed_terms_from_the_teacher_that_is_given(model, teacher, task, fitted):
    KDLSQ(**QUICK).compress(model, task, teacher=teacher)
    (call,) = fitted
    assert call["weights"] == {"soft": 1 / 2, "attention": 1.0, "hidden": 1.0}
    assert call["learns"]["mapping"] == {"hidden": "tinybert", "attention": [(each, each) for each in (1, 2, 3, 4)]}
    assert call["learns"]["temperature"] == 1.0
    assert call["teacher"] is teacher
    KDLSQ(**QUICK, own_teacher=True).compress(model, task, teacher=teacher)
    assert fitted[1]["teacher"] is model


def test_positions_of_a_question_count_as_the_tokenizer_cuts_them(letters_tokenizer, fitted):
    """A window is as long as tokenizer, positions and settings allow; the threshold of no answer is the student's."""
    tokenizer = copy.deepcopy(letters_tokenizer)
    tokenizer.model_max_length = 24
    answers = {"text": ["b"], "answer_start": [4]}
    rows = {"id": list("12345678"), "context": ["ccc b ddd"] * 8, "question": ["b"] * 8, "answers": [answers] * 8}
    data = make_dataset(rows)
    task = Task("questions", "question_answering", (), "f1", data, data, data, unanswerable=True)
    spec = EncoderSpec(Embeddings(len(tokenizer), 8, 32), uniform_layers(1, 8, 2, 16), Head("question_answering", 2))
    model = Model.from_spec(spec, tokenizer, task, seed=0)
    model.null_threshold = 123.0
    settings = {**QUICK, "max_length": None, "batch_size": 4}
    student = KDLSQ(**settings).compress(model, task)
    assert fitted[0]["weights"]["soft"] == pytest.approx(200 / 24)
    assert student.null_threshold not in (0.0, 123.0)


@pytest.mark.parametrize("ground_truth", [False, True])
def test_the_first_loss_is_that_of_the_released_code(ground_truth, model, teacher, task):
    """Written out: squared errors of scores and states, pads included, and soft labels as a mean over classes.

    Nothing is projected, as student and teacher are equally wide.
    """
    method = KDLSQ(
        **{**QUICK, "batch_size": len(task.train)}, max_tokens=100_000, dropout=0.0, count_pads=True, weight_bits=4,
        ground_truth=ground_truth,
    )  # fmt: skip
    found = method.compress(model, task, teacher=teacher).history[-1].curves["loss"][0][1]
    learner, spec = method._learner(model), method.plan(model.spec, task)
    prepare(learner.network, spec, "kl")
    calibrate(learner, task, method.seed, 32, len(task.train), "kl")
    features = model.featurize(task.train, max_length=32)
    batch = features.collate(np.arange(len(features)))
    labels, mask = batch["labels"], batch["attention_mask"]
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    asked = {"output_hidden_states": True, "output_attention_scores": True}
    with torch.no_grad():
        student, taught = (each.network.eval()(**inputs, **asked) for each in (learner, teacher))
    # Ours is less by the teacher's entropy, which has no gradient.
    answers = taught.logits.softmax(-1)
    total = (answers * (taught.logits.log_softmax(-1) - student.logits.log_softmax(-1))).mean()
    for ours, theirs in zip(student.hidden_states, taught.hidden_states, strict=True):
        total = total + (ours - theirs).square().mean()
    for ours, theirs in zip(student.attention_scores, taught.attention_scores, strict=True):
        kept = mask[:, None, None, :].bool().expand_as(ours)
        total = total + ((ours - theirs) * kept).square().mean()
    if ground_truth:
        total = total + F.cross_entropy(student.logits, labels)
    assert len(student.hidden_states) == 5
    assert found == pytest.approx(float(total), rel=1e-4)


def test_the_defaults_are_those_of_the_released_code_but_for_what_the_text_says():
    found = {field.name: field.default for field in dataclasses.fields(KDLSQ)}
    as_released = {
        "epochs": 3, "batch_size": 16, "learning_rate": 5e-5, "weight_decay": 0.01, "warmup": 0.0,
        "max_grad_norm": 0.0, "schedule": "linear", "temperature": 1.0, "initialization": "kl", "weight_bits": 8,
        "embedding_bits": 8, "activation_bits": 8, "weight_steps": "tensor", "activation_steps": "tensor",
        "activation_offset": False, "smoothing": 0.0, "attention": True, "weight_gradient": "ste", "dropout": None,
        "ground_truth": False, "own_teacher": False,
    }  # fmt: skip
    # A step for each row, and no quantized positions, as the paper's ratio counts them; one integer product of Q, K, V;
    # rates of logarithms; pads left out.
    ours = {
        "embedding_steps": "row", "tables": ("word",), "shared_inputs": True, "weight_step_rate": 1e-2,
        "activation_step_rate": 3e-3, "count_pads": False,
    }  # fmt: skip
    assert {name: found[name] for name in as_released} == as_released
    assert {name: found[name] for name in ours} == ours


PLAIN = EncoderSpec(Embeddings(40, 16, 20), uniform_layers(1, 16, 2, 24), Head("classification", 3, "tanh"))
STORED = Quantization(2, 2, 8, "tensor", "tensor", ("word",), activation_steps="tensor", attention_bits=8)


@pytest.mark.parametrize("gradient", ["ste", "clip"])
@pytest.mark.parametrize("learned", [True, False])
def test_clipped_weights_learn_only_where_gradients_pass(gradient, learned):
    """In linear maps and tables alike; tracked steps clip no weight."""
    network = build(PLAIN, seed=0)
    prepare(network, PLAIN.replace(quantization=STORED), "mse", gradient, learned=learned)
    ids = torch.arange(1, 13).view(2, 6)
    with torch.no_grad(), calibrating(network.eval(), "max"):
        network(ids)
    network(ids).logits.square().sum().backward()
    checked = 0
    for module in network.modules():
        if isinstance(module, (LearnedLinear, LearnedEmbedding)):
            steps = module.weight_step.step.detach().repeat_interleave(
                len(module.weight) // len(module.weight_step.step)
            )
            outside = module.weight.detach().abs() > steps[:, None] * 1.0001
            reached = module.weight.grad[outside & (module.weight.grad.abs().amax(-1, keepdim=True) > 0)]
            if learned:
                assert outside.any()
                assert bool((reached != 0).any()) is (gradient == "ste")
                checked += 1
            else:
                assert not outside.any()
    assert checked == (6 if learned else 0)


@pytest.mark.parametrize("learned", [True, False])
def test_clipped_activations_pass_no_gradient_to_learned_steps(learned):
    """Tracked ones pass them as if nothing were rounded, as Q8BERT has it."""
    network = build(PLAIN, seed=0)
    prepare(network, PLAIN.replace(quantization=STORED), "max", learned=learned)
    modules = dict(network.named_modules())
    steps = [
        modules["encoder.layers.0.operations.1.intermediate"].input_steps[0],
        *modules["encoder.layers.0.operations.0.sites"].steps,
    ]
    for step in steps:
        values = torch.tensor([0.5, 400.0], requires_grad=True)
        step.eval()(values).sum().backward()
        assert values.grad.tolist() == [1.0, 0.0 if learned else 1.0]


@pytest.mark.parametrize("learned", [True, False])
def test_probabilities_are_unsigned_and_the_rest_is_signed(learned):
    network = build(PLAIN, seed=0)
    prepare(network, PLAIN.replace(quantization=STORED), "max", learned=learned)
    sites = next(module for module in network.modules() if isinstance(module, LearnedSites))
    assert [tuple(each.codes) for each in sites.steps] == [(-127, 127)] * 3 + [(0, 255)]


def test_probabilities_are_rounded_after_dropout():
    """As in the released code: what is kept is above 1 and what is dropped 0."""
    spec = PLAIN.replace(attention_dropout=0.5)
    network, seen = build(spec, seed=0), []
    prepare(network, spec.replace(quantization=STORED), "max")
    sites = next(module for module in network.modules() if isinstance(module, LearnedSites))
    sites.steps[3].register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    network.train()(torch.arange(1, 13).view(2, 6))
    assert 0.3 < float((seen[0] == 0).float().mean()) < 0.7
    kept = seen[0].sum(-1)
    assert float(kept.max()) > 1.01


def begun(method, model, task):
    """Where the steps of activations begin, by name."""
    found = method.compress(model, task).network.state_dict()
    return {name: tensor for name, tensor in found.items() if name.endswith(("input_step", "sites.step"))}


@pytest.mark.parametrize(
    "change", [{"initialization": "max"}, {"initialization": "mse"}, {"seed": 1}, {"max_length": 5}]
)
@pytest.mark.parametrize("base", [KDLSQ, PostTrainingQuantization])
def test_steps_begin_as_method_seed_and_length_say(change, base, model, task):
    static = {"activation_steps": "tensor", "initialization": "percentile", "seed": 0, "max_length": 32}
    if base is KDLSQ:
        static = {**QUICK, **static, "epochs": 0}
    first, second = (begun(base(**settings), model, task) for settings in (static, {**static, **change}))
    assert any(not torch.equal(tensor, second[name]) for name, tensor in first.items())


def test_aware_steps_begin_with_the_largest_magnitudes(model, task):
    found = begun(QuantizationAwareTraining(**{**QUICK, "epochs": 0}), model, task)
    static = PostTrainingQuantization(
        activation_steps="tensor", initialization="max", calibration_examples=16, max_length=32
    )
    expected = begun(dataclasses.replace(static, weight_steps="tensor"), model, task)
    assert all(torch.allclose(tensor, expected[name]) for name, tensor in found.items())


def test_later_steps_see_what_earlier_ones_have_rounded(model, task):
    """With two bits of activations the second map's input is far from that of the float network."""
    seen = {}
    for bits in (2, 8):
        method = PostTrainingQuantization(activation_steps="tensor", activation_bits=bits, initialization="max")
        high = code_range(bits).high
        seen[bits] = {name: float(step[0]) * high for name, step in begun(method, model, task).items()}
    first = "encoder.layers.0.operations.0.qkv.input_step"
    assert seen[2][first] == pytest.approx(seen[8][first], rel=0.02)  # but for the table's rounding
    later = [abs(seen[2][name] / bound - 1) for name, bound in seen[8].items() if ".layers.3." in name]
    assert max(later) > 0.05


def test_masked_keys_do_not_count_where_steps_of_probabilities_begin(model, task, monkeypatch):
    """A calibration that ignored the mask would find other states behind the first attention."""
    from bertcompress.data.features import Features

    static, plain = (
        PostTrainingQuantization(activation_steps="tensor", initialization="max", attention=True),
        Features.collate,
    )
    expected = begun(static, model, task)

    def without_mask(self, indices):
        batch = plain(self, indices)
        return {**batch, "attention_mask": torch.ones_like(batch["attention_mask"])}

    monkeypatch.setattr(Features, "collate", without_mask)
    found = begun(static, model, task)
    assert any(not torch.allclose(tensor, found[name], rtol=1e-3) for name, tensor in expected.items())


def test_the_wider_tail_is_the_bound_of_the_percentile_rule():
    """Data with one long tail: what is cut at each end is 2.5 %, and the bound is the larger magnitude of the two."""
    values = -torch.linspace(-2, 3, 40_001).exp()
    ordered = values.sort().values
    expected = float(ordered[1000].abs())
    for given in (values, -values):
        assert float(initial_step(given[None], code_range(4), "percentile")) * 7 == pytest.approx(expected, rel=1e-3)
