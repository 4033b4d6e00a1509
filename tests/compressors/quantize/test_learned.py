"""Networks with learned steps: where they round, that all of it learns, and that what is stored computes the same."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from bertcompress.compressors import KDLSQ
from bertcompress.compressors.quantize.learned import (
    LearnedEmbedding,
    LearnedLinear,
    LearnedSites,
    activation_steps,
    calibrating,
    prepare,
    quantized_state,
)
from bertcompress.compressors.quantize.steps import MOMENTUM, LearnedStep, TrackedStep
from bertcompress.compressors.quantize.weights import quantize_state
from bertcompress.encoder.bits import code_range
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, Layer, SeparableConvolution, uniform_layers
from bertcompress.encoder.tensors import Quantization
from bertcompress.training.objectives import build_objective

STATIC = {"activation_steps": "tensor", "attention_bits": 8}
QUANTIZATIONS = {
    "kdlsq-8": Quantization(8, 8, 8, "tensor", "tensor", ("word", "position"), shared_inputs=False, **STATIC),
    "kdlsq-2": Quantization(2, 2, 8, "tensor", "row", ("word",), **STATIC),
    "rows-3": Quantization(3, 5, 6, **STATIC),
    "ternary": Quantization(1.58, 1.58, 8, **STATIC),
    "offset": Quantization(8, 8, 8, **STATIC, activation_offset=True),
    "smooth": Quantization(8, 8, 8, **STATIC, activation_offset=True, smoothing=0.85),
    "offset-4": Quantization(4, 4, 4, "tensor", activation_steps="tensor", activation_offset=True),
    "tokens": Quantization(4, 4, 8, "tensor"),
    "weights": Quantization(4, 8, 32, "tensor", "tensor"),
    "tables": Quantization(32, 4, 32),
}
PLAIN = EncoderSpec(Embeddings(40, 16, 20), uniform_layers(2, 16, 2, 24), Head("classification", 3, "tanh"))
ODD = PLAIN.replace(layers=(*PLAIN.layers, Layer((SeparableConvolution(3),), 12)))
IDS = torch.randint(1, 40, (6, 12), generator=torch.Generator().manual_seed(0))
MASK = torch.arange(12) < torch.tensor([12, 9, 12, 5, 11, 12])[:, None]


DROPOUTS = ("hidden_dropout", "attention_dropout", "classifier_dropout")


def make(spec, seed=0):
    network = build(spec, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in network.state_dict().items():
        if "norm" not in name:
            tensor.normal_(0, 0.15, generator=generator)
    return network


def prepared(spec, quantization, method="kl"):
    network, wanted = make(spec), spec.replace(quantization=quantization)
    prepare(network, wanted, method)
    with torch.no_grad(), calibrating(network, method):
        network(IDS, attention_mask=MASK.long())
    return network, wanted


@pytest.mark.parametrize("spec", [PLAIN, ODD], ids=["plain", "odd"])
@pytest.mark.parametrize("quantization", QUANTIZATIONS.values(), ids=QUANTIZATIONS.keys())
def test_what_is_stored_computes_what_was_trained(spec, quantization):
    network, wanted = prepared(spec, quantization)
    stored = build(wanted)
    stored.load_state_dict(quantized_state(network, wanted))
    with torch.no_grad():
        ours = network(IDS, attention_mask=MASK.long(), output_hidden_states=True)
        theirs = stored(IDS, attention_mask=MASK.long(), output_hidden_states=True)
    errors = torch.cat([(a - b).abs().flatten() for a, b in zip(ours.hidden_states, theirs.hidden_states, strict=True)])
    # Float sums are rounded differently, and where a value is near the border of two codes, that moves it by one.
    assert (errors > 1e-5).float().mean() < 0.02
    torch.testing.assert_close(ours.logits, theirs.logits, rtol=0, atol=1e-3)


def test_nothing_is_rounded_at_32_bits():
    network = make(PLAIN)
    prepare(network, PLAIN.replace(quantization=Quantization(32, 32, 32)))
    assert torch.equal(network(IDS).logits, make(PLAIN)(IDS).logits)
    assert not list(activation_steps(network))


@pytest.mark.parametrize("name", ["kdlsq-8", "tokens"])
def test_8_bits_and_the_largest_magnitudes_hardly_change_what_is_said(name):
    bits = 8 if name == "kdlsq-8" else 32
    quantization = Quantization(8, 8, 8, activation_steps="tensor" if bits == 8 else "token", attention_bits=bits)
    network, _ = prepared(PLAIN, quantization, "max")
    teacher = make(PLAIN)
    with torch.no_grad():
        ours, theirs = (each(IDS, attention_mask=MASK.long()).logits for each in (network, teacher))
    assert ((ours - theirs).norm() / theirs.norm()) < 0.02


def test_quantizers_are_where_the_method_has_them():
    """KDLSQ: for each layer 10 of activations and 6 of weights; two tables and the pooler; head and norms have none."""
    network, _ = prepared(PLAIN, QUANTIZATIONS["kdlsq-8"])
    steps = {name: module for name, module in network.named_modules() if isinstance(module, LearnedStep)}
    per_layer = {name: each for name, each in steps.items() if ".layers.0." in name}
    weights = sum(len(each.log_step) for name, each in per_layer.items() if "weight_step" in name)
    assert (weights, sum("weight_step" not in name for name in per_layer)) == (6, 10)
    outside = sorted(name for name in steps if ".layers." not in name)
    assert outside == [
        "encoder.embeddings.position.weight_step", "encoder.embeddings.word.weight_step",
        "encoder.pooler.input_steps.0", "encoder.pooler.weight_step",
    ]  # fmt: skip
    assert len(list(activation_steps(network))) == 2 * 10 + 1


@pytest.mark.parametrize("quantization", QUANTIZATIONS.values(), ids=QUANTIZATIONS.keys())
def test_every_step_and_weight_learns(quantization):
    network, _ = prepared(ODD, quantization)
    for step in activation_steps(network):
        step.log_step.data -= 0.3  # an offset learns from what is clipped alone, and calibration clips hardly anything
    network.train()
    F.cross_entropy(network(IDS, attention_mask=MASK.long()).logits, torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_steps_stay_above_zero_whatever_the_gradient():
    step = LearnedStep(code_range(2))
    optimizer = torch.optim.SGD(step.parameters(), lr=10.0)
    for _ in range(5):
        optimizer.zero_grad()
        (step(torch.linspace(-3, 3, 50)).square().sum()).backward()
        optimizer.step()
    assert (step.step > 0).all()
    assert step.step.isfinite().all()


def test_only_rows_that_are_looked_up_are_rounded_and_learn():
    network, _ = prepared(PLAIN, Quantization(4, 4, 32))
    table = network.encoder.embeddings.word
    assert isinstance(table, LearnedEmbedding)
    ids = torch.tensor([[3, 5, 3]])
    table(ids).sum().backward()
    assert sorted(table.weight_step.log_step.grad.nonzero().flatten().tolist()) == [3, 5]
    whole = table.weight_step.of_rows(table.weight)
    assert torch.equal(table(ids), whole[ids])


def test_the_input_network_is_not_needed_again_and_heads_stay_float():
    network, _ = prepared(PLAIN, QUANTIZATIONS["kdlsq-8"])
    kinds = {name: type(module) for name, module in network.named_modules()}
    assert kinds["classifier"].__name__ == "Linear"
    assert kinds["encoder.layers.0.operations.0.qkv"] is LearnedLinear
    assert kinds["encoder.layers.0.operations.0.sites"] is LearnedSites
    assert kinds["encoder.layers.0.operations.0.norm"].__name__ == "LayerNorm"


@pytest.mark.parametrize("activation_bits", [8, 4, 2])
def test_masked_lm_heads_store_what_was_trained(activation_bits):
    """Their words are scored by the table, whose inputs have a step for each token."""
    network, wanted = prepared(PLAIN.replace(head=Head("masked_lm")), Quantization(4, 4, activation_bits), "mse")
    stored = build(wanted)
    stored.load_state_dict(quantized_state(network, wanted))
    with torch.no_grad():
        trained, found = network(IDS).logits, stored(IDS).logits
    # A sum that is rounded otherwise may move a code; few do.
    assert float((found - trained).abs().mean()) < 1e-3 * float(trained.std())


def test_masked_lm_heads_are_rounded_too():
    spec = PLAIN.replace(head=Head("masked_lm"))
    quantization = Quantization(4, 4, 32)
    network, wanted = prepared(spec, quantization, "mse")
    plain, stored = build(wanted), build(wanted)
    stored.load_state_dict(quantized_state(network, wanted))
    plain.load_state_dict(quantize_state(make(spec).state_dict(), wanted, "mse"))
    with torch.no_grad():
        torch.testing.assert_close(stored(IDS).logits, plain(IDS).logits)
        torch.testing.assert_close(network(IDS).logits, plain(IDS).logits, rtol=1e-4, atol=1e-4)


def test_tracked_steps_follow_the_largest_magnitudes():
    step = TrackedStep(code_range(8))
    weight = torch.tensor([[1.0, -2.0], [0.5, 0.25]])
    assert float(step.of_rows(weight).abs().max()) == pytest.approx(2.0)
    assert float(step.step) == pytest.approx(2 / 127)
    step.of_rows(weight * 3)
    assert float(step.step) == pytest.approx(6 / 127)  # at once
    step.train()
    for value in (-12.7, 3.0):  # two micro-batches
        step(torch.tensor([value]))
        assert float(step.step) == pytest.approx(6 / 127)
    step.settle()
    assert float(step.step) == pytest.approx(MOMENTUM * 6 / 127 + (1 - MOMENTUM) * 0.1)  # by an average
    before = float(step.step)
    step.eval()
    step(torch.tensor([1000.0]))
    step.settle()
    assert float(step.step) == pytest.approx(before)
    assert not list(step.parameters())


@pytest.mark.parametrize("kind", [LearnedStep, TrackedStep])
def test_offsets_begin_at_the_lowest_value_and_use_all_codes(kind):
    codes = code_range(8, signed=False)
    step = kind(codes, offset=True).eval()
    values = F.gelu(torch.linspace(-4, 5, 5000))
    step.method = "max"
    rounded = step(values)
    step.method = None
    assert float(step.offset.detach()) == pytest.approx(-0.17, abs=1e-3)
    assert float(step.step.detach()) == pytest.approx((5 + 0.17) / 255, rel=1e-3)
    assert len(rounded.unique()) > 250
    symmetric = LearnedStep(code_range(8))
    symmetric.begin(values[None], "max")
    errors = [float((each.detach() - values).square().mean()) for each in (rounded, symmetric(values))]
    assert errors[0] < 0.35 * errors[1]  # a quarter, were all codes of the symmetric one above -0.17 twice as far apart
    if kind is TrackedStep:
        step.train()(values * 2 + 1)
        step.settle()
        assert float(step.offset.detach()) == pytest.approx(MOMENTUM * -0.17 + (1 - MOMENTUM) * 0.66, abs=1e-3)
        assert not list(step.parameters())


@pytest.mark.parametrize("kind", [LearnedStep, TrackedStep])
def test_a_row_of_zeros_begins_with_the_others_step_and_can_leave_zero(kind):
    weight = torch.tensor([[0.5, -1.0], [0.0, 0.0], [0.25, 2.0], [1.5, 0.0]])
    step = kind(code_range(2), groups=4)
    step.begin(weight, "max")
    torch.testing.assert_close(step.step.detach(), torch.tensor([1.0, 1.5, 2.0, 1.5]))
    step.begin(torch.zeros(4, 2), "max")
    assert float(step.step.detach().min()) == pytest.approx(0.04)


def test_what_is_all_zero_is_learnt():
    """A word's row that was zero: its step must not hold it there."""
    network, wanted = make(PLAIN), PLAIN.replace(quantization=QUANTIZATIONS["kdlsq-2"])
    with torch.no_grad():
        network.encoder.embeddings.word.weight[7] = 0.0
    prepare(network, wanted, "kl")
    network.eval()
    before = network(torch.tensor([[7]])).logits.detach()
    optimizer = torch.optim.AdamW([network.encoder.embeddings.word.weight], lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        (-network(torch.tensor([[7]])).logits[0, 0]).backward()
        optimizer.step()
    assert float(network.encoder.embeddings.word(torch.tensor([7])).detach().abs().max()) > 0.05
    assert float((network(torch.tensor([[7]])).logits - before)[0, 0]) > 0.01


def test_smoothing_changes_nothing_but_what_rounding_loses():
    """One large dimension, as encoders have: without rounding all stays as it was, with it the others lose less."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 24) * torch.where(torch.arange(24) == 7, 40.0, 1.0)
    weight, errors = torch.randn(10, 24) / 5, []
    for smoothing in (0.0, 0.85):
        linear = torch.nn.Linear(24, 10)
        linear.weight.data.copy_(weight)
        quantization = Quantization(8, 8, 8, activation_steps="tensor", smoothing=smoothing)
        found = LearnedLinear(linear, quantization, 10, 1, "ste")
        with calibrating(found, "max"):
            found(inputs)
            found(inputs)  # begins anew, from the same weight
        if smoothing:
            assert found.input_factor.max() == 1
            assert found.input_factor[7] < 0.1
            torch.testing.assert_close(found.weight.detach() * found.input_factor, weight)
        errors.append(float((found(inputs) - F.linear(inputs, weight, linear.bias)).detach().square().mean()))
    assert errors[1] < 0.25 * errors[0]


def test_smoothing_bears_dimensions_that_are_never_there():
    """More than half are 0, as behind ReLU; the others are to be rounded as well as without them."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 24) * (torch.arange(24) < 9)
    linear = torch.nn.Linear(24, 10)
    expected = linear(inputs).detach()
    found = LearnedLinear(linear, Quantization(8, 8, 8, activation_steps="tensor", smoothing=0.85), 10, 1, "ste")
    with calibrating(found, "max"):
        found(torch.zeros_like(inputs))
        found(inputs)
    assert found.input_factor.min() > 0.01
    assert float((found(inputs).detach() - expected).abs().max()) < 0.05


def test_an_offset_is_where_an_activation_function_was_and_nowhere_else():
    network, wanted = prepared(ODD, QUANTIZATIONS["offset"])
    stored = quantized_state(network, wanted)
    assert [name for name in stored if name.endswith("input_offset")] == [
        f"encoder.layers.{layer}.operations.1.output.input_offset" for layer in range(2)
    ]
    assert all(-0.171 < float(stored[name]) < 0 for name in stored if name.endswith("input_offset"))


def test_rows_that_are_looked_up_follow_their_own_magnitudes():
    network = make(PLAIN)
    wanted = PLAIN.replace(quantization=Quantization(8, 8, 32))
    prepare(network, wanted, "max", learned=False)
    table = network.encoder.embeddings.word
    with torch.no_grad():
        table.weight[3] *= 10
    ids = torch.tensor([3, 4])
    assert torch.equal(table(ids), table.weight_step.of_rows(table.weight)[ids])
    row = table.weight[3].detach()
    assert float((table(ids)[0].detach() - row).abs().max()) <= float(row.abs().max()) / 254 * 1.001


def test_calibration_begins_nearer_to_the_teacher_than_lsqs_rule_at_8_bits():
    teacher, errors = make(PLAIN), {}
    for method in ("kl", "lsq"):
        network, _ = prepared(PLAIN, Quantization(8, 8, 8, "tensor", "tensor", **STATIC), method)
        with torch.no_grad():
            ours, theirs = (each(IDS, output_hidden_states=True).hidden_states for each in (network, teacher))
        errors[method] = sum(float((a - b).square().mean()) for a, b in zip(ours, theirs, strict=True))
    assert errors["kl"] < errors["lsq"]


def test_a_network_that_rounds_nothing_has_nothing_to_learn():
    """At 32 bits, and without dropout, every term of the distillation is exactly 0."""
    network, teacher = make(PLAIN), make(PLAIN)
    prepare(network, PLAIN.replace(quantization=Quantization(32, 32, 32)))
    settings = KDLSQ().fitted(PLAIN, PLAIN, "classification")
    objective = build_objective(
        settings.objective_weights(), student=PLAIN, teacher=PLAIN, kind="classification", seed=0, **settings.learns()
    )
    batch = {"input_ids": IDS, "attention_mask": MASK.long()}
    wanted = {"output_hidden_states": True, "output_attention_scores": True}
    with torch.no_grad():
        ours, theirs = (each(**batch, **wanted) for each in (network, teacher))
        tokens = MASK.sum(1)
        counts = {"example": len(IDS), "token": int(tokens.sum()), "token_pair": int(tokens.square().sum())}
        assert float(objective(ours, theirs, batch, counts)) == 0.0
        prepare(network, PLAIN.replace(quantization=Quantization(4, 4, 32)))
        assert float(objective(network(**batch, **wanted), theirs, batch, counts)) > 0.0


@pytest.mark.parametrize("name", ["kdlsq-8", "kdlsq-2", "ternary"])
def test_pads_change_nothing_that_is_said(name):
    """Stored steps are the same for all batches; the released losses do count pads, ours do not (see `terms`)."""
    network, _ = prepared(PLAIN, QUANTIZATIONS[name])
    with torch.no_grad():
        together = network(IDS, attention_mask=MASK.long()).logits
        alone = torch.cat([network(IDS[row : row + 1, : int(MASK[row].sum())]).logits for row in range(len(IDS))])
    # A float sum that is blocked differently may move a value over the border of two codes.
    assert (together - alone).abs().median() < 1e-5
    torch.testing.assert_close(together, alone, rtol=0, atol=5e-3)


@pytest.mark.parametrize("name", ["kdlsq-8", "kdlsq-2"])
def test_pads_need_not_be_computed(name):
    """Attention's sites round what is computed; a pad that is not is 0, which every step keeps."""
    generator = torch.Generator().manual_seed(5)
    mask = torch.arange(18) < torch.tensor([18, 3, 5, 2])[:, None]
    ids = torch.randint(1, 40, mask.shape, generator=generator) * mask
    found = []
    for skip in (False, True):
        network, _ = prepared(PLAIN.replace(**dict.fromkeys(DROPOUTS, 0.0)), QUANTIZATIONS[name])
        network.encoder.skip_pads = skip
        logits = network.train()(ids, attention_mask=mask.long()).logits
        logits.square().sum().backward()
        found.append((logits.detach(), *(each.grad for each in network.parameters() if each.grad is not None)))
    assert len(found[0]) == len(found[1]) > 50
    for whole, packed in zip(*found, strict=True):
        assert (whole - packed).norm() < 0.02 * whole.norm()


@pytest.mark.parametrize("name", ["kdlsq-8", "kdlsq-2", "rows-3", "ternary", "offset", "tokens"])
def test_a_thousand_inputs_get_the_answers_that_were_trained(name):
    """Products of stored codes, in integers where these pay, against those of rounded floats."""
    network, wanted = prepared(PLAIN, QUANTIZATIONS[name])
    stored = build(wanted)
    stored.load_state_dict(quantized_state(network, wanted))
    ids = torch.randint(1, 40, (1000, 12), generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        trained, found = network(ids).logits, stored(ids).logits
    assert ((found - trained).abs() > 1e-4).float().mean() < 0.01  # a value near the border of two codes
    balanced = trained.mean(0)  # so that no class is the answer to all
    answers, expected = (found - balanced).argmax(-1), (trained - balanced).argmax(-1)
    assert expected.bincount(minlength=3).min() > 100
    assert (answers == expected).float().mean() >= 0.999
