"""Surgery against an independent slow reference, and against what the cut network must compute."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.encoder import surgery
from bertcompress.encoder.network import build
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

HEADS = {
    "bare": Head(),
    "bare with pooler": Head(pooler="tanh"),
    "classification": Head("classification", 3, "tanh"),
    "regression": Head("regression", 1, "relu"),
    "question answering": Head("question_answering", 2),
    "tagging": Head("tagging", 5),
    "masked lm": Head("masked_lm"),
}
LAYERS = (
    Layer((Attention(3, 4), FeedForward(20)), 12),
    Layer((SeparableConvolution(3), Attention(2, 5), FeedForward(7)), 12),
    Layer((FeedForward(9), Attention(4, 2)), 12),
)


def make_spec(head: Head, embedding: int = 12, layers: tuple[Layer, ...] = LAYERS) -> EncoderSpec:
    return EncoderSpec(Embeddings(40, embedding, 16), layers, head)


def random_network(spec: EncoderSpec, seed: int = 0) -> torch.nn.Module:
    """Every tensor random, biases and norms too, so that one that is cut wrongly shows."""
    torch.manual_seed(seed)
    network = build(spec).double()
    for parameter in network.parameters():
        parameter.data.normal_(0, 0.5)
    return network


def weights_of(network: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def network_of(spec: EncoderSpec, weights: dict[str, torch.Tensor]) -> torch.nn.Module:
    network = build(spec).double()
    network.load_state_dict(weights)
    return network


def outputs(network: torch.nn.Module) -> torch.Tensor:
    """What the network says about a padded batch, at the real tokens."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(0, 40, (3, 9), generator=generator)
    mask = torch.ones(3, 9, dtype=torch.long)
    mask[1, 6:] = mask[2, 3:] = 0
    types = (torch.arange(9) > 2).long().expand(3, 9)
    with torch.no_grad():
        said = network(input_ids=ids, attention_mask=mask, token_type_ids=types)
    parts = [said[key] for key in ("logits", "start_logits", "end_logits", "pooler_output") if key in said]
    parts = parts or [said.last_hidden_state]
    visible = mask.bool()
    # (batch, length, ...) is read at real tokens; (batch, values) as it is.
    chosen = [part[visible] if part.shape[:2] == visible.shape else part for part in parts]
    return torch.cat([each.flatten() for each in chosen])


def shuffled(count: int, seed: int) -> list[int]:
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()


def permuted(spec: EncoderSpec, weights: dict[str, torch.Tensor]) -> tuple[EncoderSpec, dict[str, torch.Tensor]]:
    """Select everything, in another order, with every function that keeps the bare outputs' coordinates."""
    places = [(index, place) for index, layer in enumerate(spec.layers) for place in range(len(layer.operations))]
    of = {place: spec.layers[place[0]].operations[place[1]] for place in places}
    heads = {place: shuffled(each.num_heads, 3) for place, each in of.items() if isinstance(each, Attention)}
    dimensions = {
        place: [shuffled(each.head_size, 5 + head) for head in range(each.num_heads)]
        for place, each in of.items()
        if isinstance(each, Attention)
    }
    neurons = {
        place: shuffled(each.intermediate_size, 7) for place, each in of.items() if isinstance(each, FeedForward)
    }
    spec, weights = surgery.select_heads(spec, weights, heads)
    spec, weights = surgery.select_head_dimensions(spec, weights, dimensions)
    return surgery.select_neurons(spec, weights, neurons)


@pytest.mark.parametrize("embedding", [12, 8])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_everything_in_another_order_is_the_same_function(head, embedding):
    spec = make_spec(head, embedding)
    network = random_network(spec)
    cut, weights = permuted(spec, weights_of(network))
    if embedding != 12:
        cut, weights = surgery.select_embedding(cut, weights, shuffled(embedding, 2))
    if head.task != "none":
        cut, weights = surgery.select_hidden(cut, weights, shuffled(12, 1))
    assert cut == spec
    moved = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, weights[name])]
    assert sum(".operations." in name for name in moved) > 15
    assert (outputs(network) - outputs(network_of(cut, weights))).abs().max() <= 1e-10


def test_permuted_hidden_dimensions_permute_the_hidden_states():
    spec = make_spec(HEADS["bare"])
    network, order = random_network(spec), shuffled(12, 1)
    cut = network_of(*surgery.select_hidden(spec, weights_of(network), order))
    ids = torch.arange(9)[None]
    with torch.no_grad():
        before = network(ids, output_hidden_states=True).hidden_states
        after = cut(ids, output_hidden_states=True).hidden_states
    for old, new in zip(before, after, strict=True):
        assert (old[..., order] - new).abs().max() <= 1e-10


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_permutation_with_links_between_layers(head):
    layers = (
        Layer((Attention(2, 3), FeedForward(8)), 6),
        Layer((SeparableConvolution(5), Attention(2, 4)), 10),
        Layer((FeedForward(5),), 10),
    )
    spec = make_spec(head, 4, layers)
    network = random_network(spec)
    cut, weights = permuted(spec, weights_of(network))
    cut, weights = surgery.select_embedding(cut, weights, [2, 0, 3, 1])
    assert (outputs(network) - outputs(network_of(cut, weights))).abs().max() <= 1e-10
    with pytest.raises(ConfigError, match="widths 6, 10, 10"):
        surgery.select_hidden(spec, weights_of(network), [0])


@pytest.mark.parametrize(
    ("name", "mutant"),
    [
        ("head offset forgotten", lambda head, dimensions, attention: list(dimensions)),
        ("heads mixed", lambda head, dimensions, attention: [d * attention.num_heads + head for d in dimensions]),
    ],
)
def test_mixed_heads_would_be_noticed(name, mutant, monkeypatch):
    """The classic bug: flat indices that do not stay inside their head."""
    monkeypatch.setattr(surgery, "_rows", mutant)
    spec = make_spec(HEADS["classification"])
    network = random_network(spec)
    cut, weights = permuted(spec, weights_of(network))
    assert (outputs(network) - outputs(network_of(cut, weights))).abs().max() > 1e-3


# Left-out heads and neurons add exact zeros, but the shorter sums are blocked differently by the matrix kernels, so
# the last bit may differ: 1e-12 in float64, not torch.equal.
@pytest.mark.parametrize("kept", [[0], [1], [2, 0]])
def test_dropped_heads_equal_zeroed_output_columns(kept):
    spec = make_spec(HEADS["classification"])
    network = random_network(spec)
    cut = network_of(*surgery.select_heads(spec, weights_of(network), {(0, 0): kept}))
    assert cut.spec.layers[0].operations[0] == Attention(len(kept), 4)
    for head in {0, 1, 2} - set(kept):
        network.encoder.layers[0].operations[0].output.weight.data[:, head * 4 : head * 4 + 4] = 0
    assert (outputs(network) - outputs(cut)).abs().max() <= 1e-12


def test_dropped_neurons_equal_zeroed_output_columns():
    spec = make_spec(HEADS["masked lm"])
    network, kept = random_network(spec), [13, 2, 3, 5, 19]
    cut = network_of(*surgery.select_neurons(spec, weights_of(network), {(0, 1): kept}))
    dropped = [neuron for neuron in range(20) if neuron not in kept]
    network.encoder.layers[0].operations[1].output.weight.data[:, dropped] = 0
    assert (outputs(network) - outputs(cut)).abs().max() <= 1e-12


def test_dropped_head_dimensions_equal_zeroed_ones_with_the_scale_of_the_smaller_head():
    spec = make_spec(HEADS["tagging"], layers=(Layer((Attention(2, 4),), 12),))
    network = random_network(spec)
    cut = network_of(*surgery.select_head_dimensions(spec, weights_of(network), {(0, 0): [[0, 2], [3, 2]]}))
    attention = network.encoder.layers[0].operations[0]
    dropped = [1, 3, 4 + 0, 4 + 1]
    for tensor in (attention.qkv.weight.data, attention.qkv.bias.data):
        tensor[dropped] = 0
        tensor[:8] *= 2**0.5  # scores are divided by sqrt(4) here and by sqrt(2) in the smaller head
    attention.output.weight.data[:, dropped] = 0
    assert (outputs(network) - outputs(cut)).abs().max() <= 1e-12


def slow_reference(spec, weights, hidden=None, embedding=None, rows=None, neurons=None):
    """Cut every tensor by a rule on its name, element by element; indices of None keep all."""
    rows, neurons = rows or {}, neurons or {}
    same_stream = spec.embeddings.size == spec.hidden_size
    embedding = hidden if same_stream else embedding
    result = {}
    for name, tensor in weights.items():
        place = re.search(r"layers\.(\d+)\.operations\.(\d+)\.", name)
        at = (int(place[1]), int(place[2])) if place else None
        out, into = hidden, hidden
        if ".embeddings." in f".{name}":
            out, into = (embedding, None) if "norm" in name else (None, embedding)
        elif ".link." in name:
            out, into = hidden, embedding
        elif name.startswith("transform"):
            out, into = embedding, hidden
        elif name.startswith("norm"):
            out = embedding
        elif name.startswith("classifier"):
            out = None
        elif name == "decoder_bias":
            out = None
        elif name.endswith("depthwise.weight"):
            into = None
        elif ".qkv." in name and at in rows:
            width = tensor.shape[0] // 3
            out = [part * width + row for part in range(3) for row in rows[at]]
        elif ".qkv." in name:
            out = None
        elif ".intermediate." in name:
            out = neurons.get(at)
        elif name.endswith("output.weight"):
            kind = spec.layers[at[0]].operations[at[1]]
            into = rows.get(at) if isinstance(kind, Attention) else neurons.get(at)
        out = list(range(tensor.shape[0])) if out is None else out
        if tensor.dim() == 1:
            result[name] = torch.stack([tensor[i] for i in out])
        else:
            into = list(range(tensor.shape[1])) if into is None else into
            result[name] = torch.stack([torch.stack([tensor[i, j] for j in into]) for i in out])
    return result


def assert_equal(weights, expected):
    assert weights.keys() == expected.keys()
    for name, tensor in weights.items():
        assert torch.equal(tensor, expected[name]), name


@pytest.mark.parametrize("embedding", [12, 8])
@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
def test_every_tensor_is_the_slice_of_the_reference(head, embedding):
    spec = make_spec(head, embedding)
    weights = weights_of(random_network(spec))
    chosen = [11, 0, 5, 6, 3]
    _, cut = surgery.select_hidden(spec, weights, chosen)
    assert_equal(cut, slow_reference(spec, weights, hidden=chosen))
    if embedding == 8:
        _, cut = surgery.select_embedding(spec, weights, [7, 1])
        assert_equal(cut, slow_reference(spec, weights, embedding=[7, 1]))
    _, cut = surgery.select_heads(spec, weights, {(0, 0): [2, 0], (2, 1): [1]})
    assert_equal(cut, slow_reference(spec, weights, rows={(0, 0): [8, 9, 10, 11, 0, 1, 2, 3], (2, 1): [2, 3]}))
    _, cut = surgery.select_head_dimensions(spec, weights, {(1, 1): [[4, 0], [1, 2]]})
    assert_equal(cut, slow_reference(spec, weights, rows={(1, 1): [4, 0, 6, 7]}))
    _, cut = surgery.select_neurons(spec, weights, {(1, 2): [6, 0, 2]})
    assert_equal(cut, slow_reference(spec, weights, neurons={(1, 2): [6, 0, 2]}))


def slow_layers(weights, layers, link_from=None):
    result = {}
    for name, tensor in weights.items():
        if "layers." not in name:
            result[name] = tensor
    for new, old in enumerate(layers):
        for name, tensor in weights.items():
            if f"layers.{old}.operations." in name:
                result[name.replace(f"layers.{old}.", f"layers.{new}.")] = tensor
    for part in ("weight", "bias"):
        for new, old in (link_from or {}).items():
            result[f"encoder.layers.{new}.link.{part}"] = weights[f"encoder.layers.{old}.link.{part}"]
    return result


@pytest.mark.parametrize("layers", [[0], [2], [1, 2], [2, 0], [2, 1, 0], [0, 1, 2]])
def test_layers_are_taken_in_the_order_given(layers):
    spec = make_spec(HEADS["tagging"])
    weights = weights_of(random_network(spec))
    cut, kept = surgery.select_layers(spec, weights, layers)
    assert cut.layers == tuple(LAYERS[index] for index in layers)
    assert_equal(kept, slow_layers(weights, layers))
    network_of(cut, kept)


def test_ten_layers_are_not_mixed_up_with_one():
    spec = make_spec(HEADS["tagging"], layers=uniform_layers(12, 12, 3, 5))
    weights = weights_of(random_network(spec))
    _, kept = surgery.select_layers(spec, weights, [1, 10, 11])
    assert_equal(kept, slow_layers(weights, [1, 10, 11]))


def test_left_out_layers_equal_layers_that_change_nothing():
    spec = make_spec(HEADS["bare"], 8)
    network = random_network(spec)
    cut = network_of(*surgery.select_layers(spec, weights_of(network), [1, 2]))
    network.layers[0].operations = torch.nn.ModuleList()  # the link stays, the operations go
    assert torch.equal(outputs(network), outputs(cut))


@pytest.mark.parametrize(("layers", "links"), [([1, 2], {0: 0}), ([2], {0: 0}), ([1, 0], {0: 0})])
def test_the_link_of_the_embeddings_stays_when_the_first_layer_goes(layers, links):
    spec = make_spec(HEADS["classification"], 8)
    weights = weights_of(random_network(spec))
    cut, kept = surgery.select_layers(spec, weights, layers)
    assert_equal(kept, slow_layers(weights, layers, links))
    network_of(cut, kept)


def test_links_between_layers_go_with_the_joint():
    widths = (6, 6, 10, 10)
    layers = tuple(Layer((Attention(2, 3),), width) for width in widths)
    spec = make_spec(HEADS["tagging"], 6, layers)
    weights = weights_of(random_network(spec))
    _, kept = surgery.select_layers(spec, weights, [0, 3])
    assert_equal(kept, slow_layers(weights, [0, 3], {1: 2}))
    _, kept = surgery.select_layers(spec, weights, [3, 2])
    assert_equal(kept, slow_layers(weights, [3, 2], {0: 2}))
    with pytest.raises(ConfigError, match="layer 1 cannot follow layer 2"):
        surgery.select_layers(spec, weights, [2, 1])
    with pytest.raises(ConfigError, match="after layer 1, the last one kept"):
        surgery.select_layers(spec, weights, [0, 1])
    three = make_spec(HEADS["tagging"], 6, (*layers, Layer((Attention(2, 3),), 4)))
    with pytest.raises(ConfigError, match="layer 4 cannot follow layer 1: their streams are 2 links apart"):
        surgery.select_layers(three, weights_of(random_network(three)), [1, 4])


@pytest.mark.parametrize(
    ("function", "selection"),
    [
        (surgery.select_layers, [0, 1, 2]),
        (surgery.select_hidden, list(range(12))),
        (surgery.select_embedding, list(range(8))),
        (surgery.select_heads, {(0, 0): [0, 1, 2]}),
        (surgery.select_heads, {}),
        (surgery.select_head_dimensions, {(0, 0): [[0, 1, 2, 3]] * 3}),
        (surgery.select_neurons, {(0, 1): list(range(20))}),
    ],
)
def test_results_share_no_memory_and_inputs_stay(function, selection):
    spec = make_spec(HEADS["masked lm"], 8)
    weights = weights_of(random_network(spec))
    before = {name: tensor.clone() for name, tensor in weights.items()}
    cut, kept = function(spec, weights, selection)
    assert cut == spec
    assert_equal(kept, before)
    assert not {t.untyped_storage().data_ptr() for t in kept.values()} & {
        t.untyped_storage().data_ptr() for t in weights.values()
    }
    assert len({t.untyped_storage().data_ptr() for t in kept.values()}) == len(kept)
    assert all(tensor.is_contiguous() and not tensor.requires_grad for tensor in kept.values())
    for tensor in kept.values():
        tensor.fill_(7)
    assert_equal(weights, before)


def test_weights_of_another_type_and_live_parameters_are_welcome():
    spec = make_spec(HEADS["tagging"])
    network = random_network(spec).to(torch.bfloat16)
    _, kept = surgery.select_hidden(spec, dict(network.named_parameters()), torch.tensor([3, 1]))
    assert {tensor.dtype for tensor in kept.values()} == {torch.bfloat16}
    assert not any(tensor.requires_grad for tensor in kept.values())


@pytest.mark.parametrize(
    ("function", "selection", "message"),
    [
        (surgery.select_layers, [0, 3], "layers: got 3, allowed are whole numbers from 0 to 2"),
        (surgery.select_layers, [], "layers: got no index"),
        (surgery.select_layers, [1, 1], "layers: got 1 more than once"),
        (surgery.select_hidden, [-1], "hidden dimensions: got -1"),
        (surgery.select_hidden, [0.0], "hidden dimensions: got 0.0"),
        (surgery.select_hidden, [True, False], "hidden dimensions: got True"),
        (surgery.select_embedding, [0, 8], "embedding dimensions: got 8"),
        (surgery.select_heads, {(0, 0): [0, 0]}, "heads of layer 0, operation 0: got 0 more than once"),
        (surgery.select_heads, {(0, 1): [0]}, "layer 0, operation 1 is FeedForward, allowed is Attention"),
        (surgery.select_heads, {(3, 0): [0]}, "there is no layer 3, operation 0"),
        (surgery.select_heads, {(0, -1): [0]}, "there is no layer 0, operation -1"),
        (surgery.select_head_dimensions, {(0, 0): [[0], [1]]}, "one list for each of the 3 heads"),
        (surgery.select_head_dimensions, {(0, 0): [[0], [1], [0, 1]]}, "lengths .1, 1, 2."),
        (surgery.select_head_dimensions, {(0, 0): [[0], [1], [4]]}, "head 2 of layer 0, operation 0: got 4"),
        (surgery.select_neurons, {(1, 0): [0]}, "is SeparableConvolution, allowed is FeedForward"),
        (surgery.select_neurons, {(1, 2): []}, "neurons of layer 1, operation 2: got no index"),
    ],
)
def test_wrong_selections_are_refused(function, selection, message):
    spec = make_spec(HEADS["tagging"], 8)
    with pytest.raises(ConfigError, match=message):
        function(spec, weights_of(random_network(spec)), selection)


def test_cuts_that_would_lose_the_link_are_refused():
    spec = make_spec(HEADS["tagging"], 8)
    weights = weights_of(random_network(spec))
    with pytest.raises(ConfigError, match="8 dimensions would make embeddings and layers equally wide"):
        surgery.select_hidden(spec, weights, range(8))
    wide = make_spec(HEADS["tagging"], 14)
    with pytest.raises(ConfigError, match="12 dimensions would make"):
        surgery.select_embedding(wide, weights_of(random_network(wide)), range(12))
    plain = make_spec(HEADS["tagging"])
    with pytest.raises(ConfigError, match="use select_hidden"):
        surgery.select_embedding(plain, weights_of(random_network(plain)), [0])


def test_weights_that_are_not_the_specs_are_refused():
    spec = make_spec(HEADS["tagging"])
    weights = weights_of(random_network(spec))
    with pytest.raises(ConfigError, match=r"'classifier\.bias' is missing"):
        surgery.select_layers(spec, {k: v for k, v in weights.items() if k != "classifier.bias"}, [0])
    with pytest.raises(ConfigError, match="'more' is not in the spec"):
        surgery.select_hidden(spec, {**weights, "more": torch.zeros(1)}, [0])
    with pytest.raises(ConfigError, match=r"got shape \(4,\), the spec says \(5,\)"):
        surgery.select_hidden(spec, {**weights, "classifier.bias": torch.zeros(4)}, [0])
    quantized = spec.replace(quantization=Quantization())
    with pytest.raises(ConfigError, match="quantized encoder cannot be cut"):
        surgery.select_hidden(quantized, build(quantized).state_dict(), [0])


@st.composite
def cuts(draw):
    """A random uniform chain with a random cut of everything, as extract-then-distill makes it."""
    heads, size, inner = draw(st.integers(1, 4)), draw(st.integers(1, 4)), draw(st.integers(1, 9))
    hidden, layers = draw(st.integers(2, 10)), draw(st.integers(1, 4))
    embedding = draw(st.sampled_from([hidden, hidden + 1, hidden + 3]))
    spec = make_spec(
        draw(st.sampled_from(list(HEADS.values()))), embedding, uniform_layers(layers, hidden, heads, inner, size)
    )

    def some(count, least=1):
        return draw(st.lists(st.integers(0, count - 1), min_size=least, max_size=count, unique=True))

    kept = some(layers)
    width = draw(st.integers(1, size))
    places = range(len(kept))
    return spec, {
        "layers": kept,
        "hidden": some(hidden),
        "dimensions": {
            (layer, 0): [draw(st.permutations(range(size)))[:width] for _ in range(heads)] for layer in places
        },
        "heads": {(layer, 0): some(heads) for layer in places if draw(st.booleans())},
        "neurons": {(layer, 1): some(inner) for layer in places},
    }


@given(cuts())
@settings(max_examples=60, deadline=None)
def test_any_cut_builds_runs_backwards_and_equals_the_reference(case):
    spec, cut = case
    weights = weights_of(random_network(spec))
    spec, weights = surgery.select_layers(spec, weights, cut["layers"])
    expected = slow_reference(spec, weights, hidden=cut["hidden"])
    spec, weights = surgery.select_hidden(spec, weights, cut["hidden"])
    assert_equal(weights, expected)
    for function, kind in ((surgery.select_head_dimensions, "dimensions"), (surgery.select_heads, "heads")):
        rows = {}
        for (layer, place), chosen in cut[kind].items():
            size = spec.layers[layer].operations[place].head_size
            rows[layer, place] = (
                [head * size + each for head, lists in enumerate(chosen) for each in lists]
                if kind == "dimensions"
                else [head * size + each for head in chosen for each in range(size)]
            )
        expected = slow_reference(spec, weights, rows=rows)
        spec, weights = function(spec, weights, cut[kind])
        assert_equal(weights, expected)
    expected = slow_reference(spec, weights, neurons=cut["neurons"])
    spec, weights = surgery.select_neurons(spec, weights, cut["neurons"])
    assert_equal(weights, expected)
    assert {tensor.name: tensor.shape for tensor in spec.tensors()} == {k: tuple(v.shape) for k, v in weights.items()}
    network = network_of(spec, weights)
    network.train()
    said = network(torch.arange(5)[None])
    sum(value.sum() for value in said.values()).backward()
    assert all(p.grad is None or bool(torch.isfinite(p.grad).all()) for p in network.parameters())
