"""What the description says is what the network is: tensors, parameters, bytes, multiply-accumulates, padding."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bertcompress.compressors.quantize.weights import quantize_state
from bertcompress.encoder import kernels
from bertcompress.encoder import spec as specs
from bertcompress.encoder.network import build
from bertcompress.encoder.quantized import LEVELS, QuantizedEmbedding, QuantizedLinear, quantize_rows
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
from bertcompress.errors import ConfigError

DTYPES = {torch.float32: "F32", torch.int8: "I8", torch.uint8: "U8"}
small = st.integers(1, 9)


def heads():
    labels, pooler = st.integers(1, 4), st.sampled_from(specs.POOLERS)
    return st.one_of(
        st.builds(Head, st.sampled_from(["none", "masked_lm"]), st.just(0), pooler),
        st.builds(Head, st.just("regression"), st.just(1), pooler),
        st.builds(Head, st.just("question_answering"), st.just(2), pooler),
        st.builds(Head, st.sampled_from(["classification", "tagging"]), labels, pooler),
    )


def chains(quantizations=None):
    """Chains of anything: widths change by links, places hold any operation, heads of every task."""
    operations = st.one_of(
        st.builds(Attention, st.integers(1, 3), st.integers(1, 5)),
        st.builds(FeedForward, small),
        st.builds(SeparableConvolution, st.sampled_from([1, 3, 5, 7])),
    )
    layers = st.builds(Layer, st.lists(operations, min_size=1, max_size=3).map(tuple), st.integers(1, 4))
    embeddings = st.builds(Embeddings, st.integers(2, 30), st.integers(1, 4), st.integers(8, 12), st.integers(0, 3))
    return st.builds(
        EncoderSpec,
        embeddings,
        st.lists(layers, min_size=1, max_size=3).map(tuple),
        heads(),
        st.sampled_from(specs.ACTIVATIONS),
        quantization=st.none() if quantizations is None else quantizations,
    )


widths = st.sampled_from([1.58, 2, 3, 4, 5, 6, 7, 8, 32])
quantizations = st.one_of(
    st.none(),
    st.builds(
        Quantization,
        widths,
        widths,
        st.just(32),
        st.sampled_from(["row", "tensor"]),
        st.sampled_from(["row", "tensor"]),
        st.sets(st.sampled_from(["word", "position", "token_type"])).map(lambda names: tuple(sorted(names))),
    ),
    st.sampled_from(
        [
            Quantization(),
            Quantization(8, 32, 8),
            Quantization(2, 2, 8, "tensor", "row", ("word",)),
            Quantization(4, 4, 8, "tensor", activation_steps="tensor", attention_bits=8),
            Quantization(8, 8, 4, activation_steps="tensor", shared_inputs=False),
            Quantization(32, 8, 32, activation_steps="tensor", attention_bits=8),
        ]
    ),
)


def random_network(spec):
    torch.manual_seed(0)
    network = build(spec)
    for name, tensor in network.state_dict().items():
        if tensor.dtype == torch.int8:
            tensor.random_(-LEVELS, LEVELS + 1)
        elif tensor.dtype == torch.uint8:
            tensor.random_(1, 243)
        elif name.endswith(".step"):
            tensor.uniform_(1e-3, 1e-2)
        else:
            tensor.normal_(0, 0.5)
    return network


@given(chains(quantizations))
@settings(max_examples=150, deadline=None)
def test_tensors_are_the_state_of_the_network(spec):
    state = build(spec).state_dict()
    expected = {tensor.name: (tensor.shape, tensor.dtype) for tensor in spec.tensors()}
    assert len(expected) == len(spec.tensors())
    assert {name: (tuple(each.shape), DTYPES[each.dtype]) for name, each in state.items()} == expected
    assert spec.bytes() == sum(each.numel() * each.element_size() for each in state.values())


@given(chains())
@settings(max_examples=100, deadline=None)
def test_parameters_are_those_of_the_network(spec):
    network = build(spec)
    assert spec.parameters() == sum(each.numel() for each in network.parameters())
    tables = [module for module in network.modules() if isinstance(module, torch.nn.Embedding)]
    without = spec.parameters() - sum(table.weight.numel() for table in tables)
    assert spec.parameters(embeddings=False) == without


@given(chains(), quantizations)
@settings(max_examples=50, deadline=None)
def test_quantization_changes_bytes_but_not_the_number_of_parameters(spec, quantization):
    quantized = spec.replace(quantization=quantization)
    assert quantized.parameters() == spec.parameters()
    assert quantized.parameters(embeddings=False) == spec.parameters(embeddings=False)
    assert quantized.macs(7) == spec.macs(7)


@given(chains(), st.integers(1, 8))
@settings(max_examples=100, deadline=None)
def test_macs_are_those_that_torch_counts(spec, length):
    network = build(spec)
    kernels.usable()  # tries a product out when it is first asked, which is not to be counted
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        # Attention maps are asked for as the counter does not see the fused attention kernel of the CPU.
        network(torch.zeros(1, length, dtype=torch.long), output_attentions=True)
    assert spec.macs(length) * 2 == counter.get_total_flops()


def test_sizes_of_bert_base_are_the_published_ones():
    bert = EncoderSpec(Embeddings(30522, 768), uniform_layers(12, 768, 12, 3072), Head(pooler="tanh"))
    assert bert.parameters() == 109_482_240
    assert bert.bytes() == 4 * 109_482_240
    assert bert.macs(128) == 12 * (128 * (4 * 768**2 + 2 * 768 * 3072) + 2 * 128**2 * 768) + 768**2


@given(chains(quantizations))
@settings(max_examples=100, deadline=None)
def test_descriptions_survive_json(spec):
    again = EncoderSpec.from_dict(json.loads(json.dumps(spec.to_dict())))
    assert again == spec
    assert again.to_json() == spec.to_json() == EncoderSpec.from_dict(json.loads(spec.to_json())).to_json()
    assert hash(again) == hash(spec)


def test_descriptions_need_no_torch():
    code = "import sys, bertcompress.encoder.spec; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, timeout=60, capture_output=True, text=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Attention(0, 4), "Attention.num_heads: got 0, allowed is a whole number of at least 1"),
        (lambda: Attention(2, 1.5), "Attention.head_size: got 1.5"),
        (lambda: Attention(True, 4), "Attention.num_heads: got True"),
        (lambda: FeedForward(-1), "FeedForward.intermediate_size: got -1"),
        (lambda: SeparableConvolution(4), "SeparableConvolution.kernel_size: got 4, allowed are odd sizes"),
        (lambda: Layer((), 4), "Layer.operations: got none"),
        (lambda: Layer((FeedForward(2),), 0), "Layer.hidden_size: got 0"),
        (lambda: Embeddings(0, 4), "Embeddings.vocab_size: got 0"),
        (lambda: Embeddings(4, 4, type_vocab_size=-1), "Embeddings.type_vocab_size: got -1"),
        (lambda: Embeddings(4, 4, pad_token_id=4), "Embeddings.pad_token_id: got 4, allowed are 0 to 3"),
        (lambda: Head("translation"), "Head.task: got 'translation', allowed are 'none', 'classification'"),
        (lambda: Head("none", 0, "mean"), "Head.pooler: got 'mean', allowed are 'none', 'tanh'"),
        (lambda: Head("regression", 2), "Head.num_labels: got 2, allowed for regression is 1"),
        (lambda: Head("tagging"), "Head.num_labels: got 0, allowed is a whole number of at least 1"),
        (lambda: EncoderSpec(Embeddings(4, 4), ()), "EncoderSpec.layers: got none"),
        (lambda: make_spec(activation="mish"), "EncoderSpec.activation: got 'mish', allowed are 'gelu'"),
        (lambda: make_spec(hidden_dropout=1.0), "EncoderSpec.hidden_dropout: got 1.0, allowed is 0 <= rate < 1"),
        (lambda: Quantization(9, 8, 8), r"Quantization.weight_bits: got 9, allowed are 1.58 \(ternary\), 2 to 8"),
        (lambda: Quantization(8, 1, 8), "Quantization.embedding_bits: got 1, allowed are"),
        (lambda: Quantization(8, 8, 1.58), "Quantization.activation_bits: got 1.58, allowed are 2 to 8, and 32"),
        (lambda: Quantization(True, 8, 8), "Quantization.weight_bits: got True"),
        (lambda: Quantization(32, 8, 8), "weight_bits=32 with activation_bits=8 has no integer matrix product"),
        (lambda: Quantization(weight_steps="head"), "Quantization.weight_steps: got 'head', allowed are 'row'"),
        (lambda: Quantization(tables=("words",)), "Quantization.tables: got 'words', allowed are 'word'"),
        (lambda: uniform_layers(1, 10, 3, 4), "hidden_size=10 is not a multiple of num_heads=3; give head_size"),
        (lambda: EncoderSpec.from_dict({}), "missing or unknown part"),
        (lambda: EncoderSpec.from_dict({**make_spec().to_dict(), "colour": 1}), "unknown part.*colour"),
        (lambda: EncoderSpec.from_dict(with_operation("recurrence")), "operation 'recurrence' is unknown, allowed are"),
    ],
)
def test_wrong_values_are_refused(make, message):
    with pytest.raises(ConfigError, match=message):
        make()


def make_spec(**changes):
    return EncoderSpec(**{"embeddings": Embeddings(20, 8, 12), "layers": uniform_layers(2, 8, 2, 5), **changes})


def with_operation(name):
    values = make_spec().to_dict()
    values["layers"][0]["operations"][0]["operation"] = name
    return values


MIXED = (
    Layer((Attention(2, 4), FeedForward(6)), 8),
    Layer((SeparableConvolution(5), Attention(2, 3)), 10),
    Layer((SeparableConvolution(3),), 10),
)
TASKS = [
    Head(pooler="tanh"),
    Head("classification", 3, "tanh"),
    Head("regression", 1),
    Head("question_answering", 2),
    Head("tagging", 4),
    Head("masked_lm"),
]


@pytest.mark.parametrize("quantization", [None, Quantization()], ids=["float", "int8"])
@pytest.mark.parametrize("head", TASKS, ids=lambda head: head.task)
def test_padding_and_batch_mates_never_change_what_is_said_of_a_sentence(head, quantization):
    network = random_network(make_spec(layers=MIXED, head=head, quantization=quantization))
    if quantization is None:
        network = network.double()
    lengths = (12, 7, 1, 4)
    ids = torch.randint(1, 20, (4, 12), generator=torch.Generator().manual_seed(2))
    mask = torch.arange(12) < torch.tensor(lengths)[:, None]  # (4, 12)
    with torch.no_grad():
        together = network(ids, attention_mask=mask.long())
        for row, length in enumerate(lengths):
            alone = network(ids[row : row + 1, :length])
            for name, value in alone.items():
                said = together[name][row]
                per_token = value.dim() == 3 or name.endswith("_logits")
                # Sums over the padded length are blocked differently, hence no exact equality; one int8 step apart
                # would be about 1e-2.
                tolerance = 1e-12 if quantization is None else 1e-4
                assert ((said[:length] if per_token else said) - value[0]).abs().max() <= tolerance, (name, row)


def test_a_padded_convolution_that_saw_the_padding_would_be_noticed(monkeypatch):
    from bertcompress.encoder.operations import SeparableStage
    from bertcompress.encoder.places import Places

    network = random_network(make_spec(layers=(Layer((SeparableConvolution(3),), 8),), head=Head("tagging", 2)))
    ids = torch.arange(1, 7)[None]
    mask = torch.tensor([[1, 1, 1, 1, 0, 0]])
    with torch.no_grad():
        right = network(ids, attention_mask=mask).logits
        forward = SeparableStage.forward
        monkeypatch.setattr(SeparableStage, "forward", lambda self, hidden, places: forward(self, hidden, Places(None)))
        wrong = network(ids, attention_mask=mask).logits
    assert (right - wrong)[0, 3].abs().max() > 1e-3
    assert torch.equal(right[0, 0], wrong[0, 0])  # two stages of width 3 do not reach so far


# Quantized parts

rows = st.integers(1, 6)


@given(rows, st.integers(1, 40), st.integers(1, 12), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_int8_rows_never_depend_on_each_other(count, inputs, outputs, seed):
    torch.manual_seed(seed)
    module = QuantizedLinear(inputs, outputs)
    module.codes.random_(-LEVELS, LEVELS + 1)
    module.step.uniform_(0.01, 1)
    module.bias.normal_()
    values = torch.randn(count, inputs) * torch.logspace(-3, 3, count)[:, None]
    together = module(values)
    assert all(torch.equal(together[row], module(values[row : row + 1])[0]) for row in range(count))
    assert torch.equal(module(values.view(count, 1, inputs)).view(count, outputs), together)


@given(rows, st.integers(1, 40), st.integers(1, 12), st.integers(0, 999))
@settings(max_examples=60, deadline=None)
def test_int8_product_is_the_product_of_the_dequantized_parts(count, inputs, outputs, seed):
    torch.manual_seed(seed)
    module = QuantizedLinear(inputs, outputs)
    module.codes.random_(-LEVELS, LEVELS + 1)
    module.step.uniform_(0.01, 1)
    module.bias.normal_()
    values = torch.randn(count, inputs)
    codes, step = quantize_rows(values)
    weights = module.codes.double() * module.step.double()[:, None]
    expected = (codes.double() * step.double()[:, None]) @ weights.T + module.bias.double()
    assert torch.allclose(module(values).double(), expected, rtol=1e-5, atol=1e-5)


@given(rows, st.integers(1, 40), st.integers(-30, 30), st.integers(0, 999))
@settings(max_examples=100, deadline=None)
def test_quantization_errs_by_half_a_step_at_most(count, width, exponent, seed):
    torch.manual_seed(seed)
    values = torch.randn(count, width) * 2.0**exponent
    codes, step = quantize_rows(values)
    assert codes.dtype == torch.int8
    assert codes.shape == values.shape
    assert int(codes.abs().max()) == LEVELS
    error = (codes.double() * step.double()[:, None] - values.double()).abs()
    assert bool((error <= step.double()[:, None] * 0.5 * (1 + 1e-4)).all())


def test_rows_of_zeros_stay_zero():
    codes, step = quantize_rows(torch.tensor([[0.0, 0.0], [0.0, -2.0]]))
    assert codes.tolist() == [[0, 0], [0, -LEVELS]]
    assert step[1] == pytest.approx(2 / LEVELS)
    assert 0 < step[0] < 1e-30
    module = QuantizedLinear(2, 3)
    module.codes.fill_(5)
    module.bias.fill_(0.25)
    assert torch.equal(module(torch.zeros(2, 2)), torch.full((2, 3), 0.25))


def test_quantized_embeddings_look_up_and_decode_the_same_table():
    torch.manual_seed(0)
    table = QuantizedEmbedding(6, 4)
    table.codes.random_(-LEVELS, LEVELS + 1)
    table.step.uniform_(0.01, 0.1)
    floats = table.codes.double() * table.step.double()[:, None]
    ids = torch.tensor([[0, 5], [3, 3]])
    assert torch.allclose(table(ids).double(), floats[ids])
    hidden = torch.randn(2, 3, 4)
    codes, step = quantize_rows(hidden)
    expected = (codes.double() * step.double()[..., None]) @ floats.T + 0.5
    assert torch.allclose(table.decode(hidden, torch.full((6,), 0.5)).double(), expected, atol=1e-4)


@pytest.mark.parametrize("head", TASKS, ids=lambda head: head.task)
def test_a_quantized_state_fills_the_quantized_network_and_stays_near(head):
    spec = make_spec(head=head, layers=MIXED)
    network = random_network(spec)
    quantized = spec.replace(quantization=Quantization())
    before = network.state_dict()
    state = quantize_state(before, quantized)
    assert set(network.state_dict()) == set(before)  # the input is not changed
    copy = build(quantized)
    copy.load_state_dict(state)
    ids = torch.arange(1, 10)[None]
    with torch.no_grad():
        for name, value in network(ids).items():
            assert (copy(ids)[name] - value).abs().mean() < 0.1 * value.abs().mean() + 0.05, name
