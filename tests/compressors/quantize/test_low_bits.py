"""Networks of few bits: as small as the papers count, and the same function as their codes times their steps."""

from __future__ import annotations

import pytest
import torch

from bertcompress.compressors import PostTrainingQuantization
from bertcompress.compressors.quantize.weights import quantize_state
from bertcompress.encoder.bits import TERNARY, code_range
from bertcompress.encoder.lsq import fake_quantize
from bertcompress.encoder.network import build
from bertcompress.encoder.quantized import QuantizedLinear
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, Layer, SeparableConvolution, uniform_layers
from bertcompress.encoder.tensors import Quantization
from bertcompress.errors import ConfigError

WIDTHS = [TERNARY, 2, 3, 4, 5, 6, 7, 8]
BERT_BASE = EncoderSpec(Embeddings(30522, 768), uniform_layers(12, 768, 12, 3072), Head(pooler="tanh"))


@pytest.mark.parametrize(
    ("weights", "tables", "position", "mib", "ratio"),
    [(2, 2, False, 28.07, 14.88), (2, 2, True, 26.66, 15.67), (4, 4, False, 54.05, 7.73), (6, 6, False, 80.0, 5.22),
     (8, 8, False, 106.0, 3.94), (2, 8, False, 44.8, 9.3)],
)  # fmt: skip
def test_bert_base_is_as_small_as_the_papers_count(weights, tables, position, mib, ratio):
    """One step for each map and row of the word embeddings; biases, norms and token types in float."""
    names = ("word", "position") if position else ("word",)
    spec = BERT_BASE.replace(quantization=Quantization(weights, tables, 8, "tensor", "row", names))
    assert spec.bytes() / 2**20 == pytest.approx(mib, rel=0.003)
    assert BERT_BASE.bytes() / spec.bytes() == pytest.approx(ratio, rel=0.003)


@pytest.mark.parametrize(("bits", "ratio"), [(2, 14.8), (4, 7.7), (8, 3.9)])
def test_the_file_on_disk_is_that_small_and_all_there_is(bits, ratio, tmp_path):
    """As KDLSQ stores it: steps of activations and of attention's inputs as well; with header and configuration."""
    quantization = Quantization(bits, bits, 8, "tensor", "row", ("word",), activation_steps="tensor", attention_bits=8)
    network = build(BERT_BASE.replace(quantization=quantization))
    network.save_pretrained(tmp_path)
    written = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert {file.suffix for file in tmp_path.iterdir()} == {".json", ".safetensors"}
    assert BERT_BASE.bytes() / written >= ratio
    again = type(network).from_pretrained(tmp_path)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), again.state_dict().values(), strict=True)
    )


def test_ternary_codes_take_a_fifth_less_than_two_bits():
    sizes = [
        BERT_BASE.replace(quantization=Quantization(bits, bits, 8, "tensor", "row", ("word",))).bytes()
        for bits in (TERNARY, 2)
    ]
    assert sizes[0] / sizes[1] == pytest.approx(0.816, abs=0.005)  # of all, with what stays in float


@pytest.fixture(scope="module")
def network():
    layers = (*uniform_layers(2, 16, 2, 24), Layer((SeparableConvolution(3),), 12))
    spec = EncoderSpec(Embeddings(40, 16, 20), layers, Head("classification", 3, "tanh"))
    network = build(spec, seed=0)
    torch.manual_seed(0)
    for tensor in network.state_dict().values():
        tensor.normal_(0, 0.4)
    return network


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("steps", ["row", "tensor"])
def test_weights_alone_give_what_their_rounded_floats_give(network, bits, steps):
    """Activations in float: the packed network is the float network with rounded weights."""
    spec = network.spec.replace(quantization=Quantization(bits, bits, 32, steps, steps, ("word",)))
    state = quantize_state(network.state_dict(), spec)
    packed = build(spec)
    packed.load_state_dict(state)
    rounded = {}
    for name, weight in network.state_dict().items():
        base = name.removesuffix(".weight")
        rounded[name] = weight
        if f"{base}.step" in state:
            step = state[f"{base}.step"].repeat_interleave(len(weight) // len(state[f"{base}.step"]))
            rounded[name] = fake_quantize(weight, step[:, None], code_range(bits))
    reference = build(network.spec)
    reference.load_state_dict(rounded)
    ids = torch.arange(1, 13).view(2, 6)
    with torch.no_grad():
        torch.testing.assert_close(packed(ids).logits, reference(ids).logits, rtol=1e-5, atol=1e-5)


def test_more_bits_are_nearer(network):
    ids = torch.arange(1, 37).view(3, 12)
    errors = []
    for bits in WIDTHS:
        spec = network.spec.replace(quantization=Quantization(bits, bits, 32))
        packed = build(spec)
        packed.load_state_dict(quantize_state(network.state_dict(), spec))
        with torch.no_grad():
            errors.append(float((packed(ids).logits - network(ids).logits).norm()))
    assert errors[-1] < errors[3] < errors[1]
    assert errors[-1] < 0.1 * errors[0]


def test_queries_keys_and_values_have_steps_of_their_own(network):
    state = dict(network.state_dict())
    name = "encoder.layers.0.operations.0.qkv"
    state[f"{name}.weight"] = state[f"{name}.weight"] * torch.tensor([1.0, 10.0, 100.0]).repeat_interleave(16)[:, None]
    spec = network.spec.replace(quantization=Quantization(4, 32, 8, "tensor"))
    steps = quantize_state(state, spec)[f"{name}.step"]
    assert steps.shape == (3,)
    assert torch.allclose(steps[1:] / steps[:-1], torch.tensor(10.0), rtol=0.5)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_stored_steps_round_what_goes_in(bits, shared):
    """The integer product with stored steps is the float product of rounded inputs and weights."""
    random = torch.Generator().manual_seed(bits)
    module = QuantizedLinear(24, 12, bits=4, steps=3, activation_bits=bits, input_steps=1 if shared else 3)
    module.packed.random_(0, 256, generator=random)
    module.step.uniform_(0.1, 1.0, generator=random)
    module.input_step.uniform_(0.05, 0.5, generator=random)
    module.bias.normal_(generator=random)
    inputs = torch.randn(2, 5, 24, generator=random)
    weights = module.whole().double() * module.row_steps().double()[:, None]
    steps = module.input_step.expand(3)
    parts = [
        fake_quantize(inputs, steps[part], code_range(bits)).double() @ weights[4 * part : 4 * part + 4].T
        for part in range(3)
    ]
    torch.testing.assert_close(
        module(inputs).double(), torch.cat(parts, -1) + module.bias.double(), rtol=1e-5, atol=1e-5
    )
    together = module(inputs)
    assert all(torch.equal(together[row], module(inputs[row])) for row in range(2))


@pytest.mark.parametrize("bits", [2, 4, 7, 8])
@pytest.mark.parametrize("weight_bits", [3, 8])
def test_what_an_offset_adds_goes_into_the_bias(bits, weight_bits):
    random = torch.Generator().manual_seed(bits)
    module = QuantizedLinear(24, 12, weight_bits, 12, bits, 1, input_offset=True)
    module.stored.random_(*((-127, 128) if weight_bits == 8 else (0, 256)), generator=random)
    module.step.uniform_(0.1, 1.0, generator=random)
    module.input_step.fill_(0.037)
    module.input_offset.fill_(-0.17)
    module.bias.normal_(generator=random)
    inputs = torch.nn.functional.gelu(torch.randn(2, 5, 24, generator=random) * 2)
    weights = module.whole().double() * module.step.double()[:, None]
    rounded = fake_quantize(inputs, module.input_step, code_range(bits, signed=False), module.input_offset).double()
    expected = rounded @ weights.T + module.bias.double()
    torch.testing.assert_close(module(inputs).double(), expected, rtol=1e-5, atol=1e-4)
    module.stored.copy_(module.stored.flip(0))  # the sums of codes change with them
    expected = rounded @ (weights.flip(0) / module.step.double().flip(0)[:, None] * module.step.double()[:, None]).T
    torch.testing.assert_close(module(inputs).double(), expected + module.bias.double(), rtol=1e-5, atol=1e-4)


def test_sites_of_attention_are_rounded_before_they_are_multiplied(network):
    spec = network.spec.replace(quantization=Quantization(8, 8, 32, attention_bits=3))
    quantized, plain = build(spec), build(spec.replace(quantization=Quantization(8, 8, 32)))
    state = quantize_state(network.state_dict(), plain.spec)
    plain.load_state_dict(state)
    quantized.load_state_dict(state, strict=False)
    sites = quantized.encoder.layers[0].operations[0].sites
    sites.step.copy_(torch.tensor([0.5, 0.4, 0.3, 1 / 7]))
    ids = torch.arange(1, 13).view(2, 6)
    trace = {"output_attention_scores": True, "output_projections": True}
    with torch.no_grad():
        ours, theirs = quantized(ids, **trace), plain(ids, **trace)
    query, key, _ = theirs.projections[0].permute(2, 0, 3, 1, 4)  # before rounding, the same in both
    rounded = [fake_quantize(each, sites.step[site], code_range(3)) for site, each in enumerate((query, key))]
    torch.testing.assert_close(ours.attention_scores[0], rounded[0] @ rounded[1].transpose(-1, -2) * 8**-0.5)
    assert (ours.attention_scores[0] - theirs.attention_scores[0]).abs().max() > 0.1
    assert sites.ranges == ((-3, 3), (-3, 3), (-3, 3), (0, 7))


def test_codes_are_unpacked_again_when_they_change():
    module = QuantizedLinear(8, 4, bits=2)
    inputs = torch.ones(1, 8)
    assert torch.allclose(module(inputs), torch.full((1, 4), -8.0))  # packed zeros are the lowest codes
    module.packed.fill_(0b01_01_01_01)
    assert torch.equal(module(inputs), torch.zeros(1, 4))
    other = QuantizedLinear(8, 4, bits=2)
    other.load_state_dict({**module.state_dict(), "packed": torch.full((4, 2), 0b10_10_10_10, dtype=torch.uint8)})
    assert torch.allclose(other(inputs), torch.full((1, 4), 8.0))
    other.packed.data = torch.zeros(4, 2, dtype=torch.uint8)
    assert torch.allclose(other(inputs), torch.full((1, 4), -8.0))
    with torch.inference_mode():
        made_there = QuantizedLinear(8, 4, bits=3)
        assert torch.allclose(made_there(inputs), torch.full((1, 4), -24.0))


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.parametrize("bits", [1.58, 4, 8])
def test_weights_that_are_multiplied_as_floats_can_be_traced(bits):
    module, inputs = QuantizedLinear(8, 4, bits, activation_bits=32).eval(), torch.randn(3, 8)
    module.stored.fill_(3)
    expected = module(inputs)
    with torch.no_grad():
        for traced in (
            torch.export.export(module, (inputs,)).module(),
            torch.compile(module, fullgraph=True, backend="eager"),
        ):
            torch.testing.assert_close(traced(inputs), expected)


def test_inference_tensors_are_not_relied_on():
    with torch.inference_mode():
        module, inputs = QuantizedLinear(8, 4, 4, activation_bits=32), torch.ones(1, 8)
        before = module(inputs)
        module.step.mul_(2)
        assert torch.equal(module(inputs), 2 * before)


@pytest.mark.parametrize("bits", [1.58, 2, 4, 8])
@pytest.mark.parametrize("steps", [1, 4])
def test_weights_that_are_multiplied_as_floats_are_found_once_and_again_when_they_change(bits, steps):
    module = QuantizedLinear(8, 4, bits, steps, activation_bits=32)
    module.stored.fill_(3)
    inputs = torch.randn(3, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()

    def check():
        expected = inputs.double() @ (module.whole().double() * module.row_steps().unsqueeze(-1)).T
        assert torch.allclose(module(inputs).double(), expected, atol=1e-5)

    with torch.inference_mode():
        module(inputs)
    check()
    module(inputs).sum().backward()  # what was made for inference serves a gradient as well
    assert inputs.grad.abs().sum() > 0
    assert module.floats() is module.floats()
    assert set(module._made) <= {"floats", "codes"}
    module.step.mul_(2)
    check()
    module.stored.fill_(5)
    check()
    module.load_state_dict({**module.state_dict(), "step": torch.full((steps,), 0.5)})
    check()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"weight_bits": 9}, r"Quantization.weight_bits: got 9, allowed are 1.58 \(ternary\), 2 to 8, and 32"),
        ({"weight_bits": 32, "activation_bits": 32, "tables": []}, "so nothing is quantized"),
        ({"weight_bits": 32, "activation_bits": 32, "embedding_bits": 32}, "so nothing is quantized"),
        ({"weight_bits": 32}, "weight_bits=32 with activation_bits=8 has no integer matrix product"),
        ({"weight_steps": "head"}, "Quantization.weight_steps: got 'head', allowed are 'row', 'tensor'"),
        ({"activation_offset": True}, "activation_offset: got True with activation_steps='token'"),
        ({"smoothing": 0.5}, "smoothing: got 0.5 with activation_steps='token'"),
        ({"smoothing": 1.5, "activation_steps": "tensor"}, r"smoothing: got 1.5, allowed are 0 \(none\) to 1"),
        ({"activation_offset": "no"}, "activation_offset: got 'no', allowed are true and false"),
        ({"shared_inputs": 1}, "shared_inputs: got 1, allowed are true and false"),
        ({"tables": "word"}, "tables: got 'word', allowed is a list of"),
        ({"initialization": "best"}, "PostTrainingQuantization.initialization: got 'best', allowed are 'max'"),
    ],
)
def test_what_cannot_be_stored_is_refused_at_once(changes, message):
    with pytest.raises(ConfigError, match=message):
        PostTrainingQuantization(**changes)


def test_stored_steps_come_from_data(model, task):
    compressor = PostTrainingQuantization(activation_steps="tensor", calibration_examples=8)
    with pytest.raises(ConfigError, match="post_training_quantization: got no task"):
        compressor.compress(model, None)
    steps = [
        PostTrainingQuantization(activation_steps="tensor", calibration_examples=8, seed=seed)
        .compress(model, task)
        .network.state_dict()["encoder.layers.0.operations.0.qkv.input_step"]
        for seed in (0, 0, 1)
    ]
    assert torch.equal(steps[0], steps[1])
    assert not torch.equal(steps[0], steps[2])


def test_stored_steps_of_activations_leave_outliers_out(model, task):
    found = [
        PostTrainingQuantization(embedding_bits=32, activation_steps="tensor", initialization=method).compress(
            model, task
        )
        for method in (None, "mse", "max")
    ]
    ours, by_error, by_peak = (each.network.state_dict() for each in found)
    steps = [name for name in ours if name.endswith("input_step")]
    assert sum(float(ours[name].sum() / by_peak[name].sum()) for name in steps) < 0.99 * len(steps)
    first = steps[0]  # what it sees, no other step has rounded
    assert torch.equal(ours[first], by_error[first])


def test_calibration_leaves_the_codes_of_weights_as_they_are_without_it(model, task):
    """Weights of 8 bits and tables of 4 begin each by the rule of its own width, also where steps are stored."""
    changes = {"weight_bits": 8, "embedding_bits": 4}
    plain = PostTrainingQuantization(**changes).compress(model, task).network.state_dict()
    stored = PostTrainingQuantization(**changes, activation_steps="tensor").compress(model, task).network.state_dict()
    assert plain.keys() < stored.keys()
    for name, value in plain.items():
        apart = (stored[name].float() - value.float()).abs()
        if name.endswith((".codes", ".packed")):
            assert (apart > 0).float().mean() < 0.001, name  # steps went through a logarithm
        else:
            assert bool((apart <= 1e-6 + 1e-5 * value.float().abs()).all()), name


def test_an_offset_makes_calibrated_models_say_what_floats_say_more_exactly(model, task):
    theirs, apart = model.predict(task.test).logits, []
    for offset in (False, True):
        settings = {"activation_steps": "tensor", "activation_offset": offset}
        ours = PostTrainingQuantization(**settings).compress(model, task).predict(task.test).logits
        apart.append(abs(ours - theirs).mean())
    assert apart[1] < apart[0]


def test_stored_steps_at_8_bits_keep_the_answers(model, task):
    quantized = PostTrainingQuantization(activation_steps="tensor", attention=True, shared_inputs=False)
    ours, theirs = (each.predict(task.test).logits for each in (quantized.compress(model, task), model))
    assert abs(ours - theirs).max() < 0.05 * abs(theirs).max()


@pytest.mark.parametrize("how", [{}, {"activation_steps": "tensor"}, {"weight_bits": 4}])
def test_products_of_integers_say_that_they_have_no_gradient(how, network):
    """Also in evaluation: an attack or an explanation by gradients would be told nonsense."""
    wanted = network.spec.replace(quantization=Quantization(**how))
    quantized = build(wanted)
    shapes = {tensor.name: tensor.shape for tensor in wanted.tensors()}
    stored = quantize_state(network.state_dict(), wanted)
    missing = {name: torch.full(shape, 0.1) for name, shape in shapes.items() if name not in stored}
    quantized.load_state_dict({**stored, **missing})
    for training in (True, False):
        logits = quantized.train(training)(torch.arange(1, 13).view(2, 6)).logits  # which itself is no error
        with pytest.raises(ConfigError, match="products of integers have no gradient; train before quantizing"):
            logits.sum().backward()


def test_floats_times_codes_have_a_gradient(network):
    wanted = network.spec.replace(quantization=Quantization(4, 4, 32))
    quantized = build(wanted)
    quantized.load_state_dict(quantize_state(network.state_dict(), wanted))
    quantized(torch.arange(1, 13).view(2, 6)).logits.sum().backward()
    assert float(quantized.encoder.embeddings.norm.weight.grad.abs().max()) > 0
