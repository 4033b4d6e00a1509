"""What extraction takes, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.compressors import ExtractThenDistill
from bertcompress.compressors.extract.compressor import extract
from bertcompress.compressors.extract.selection import Sizes, chosen_layers, random_units, select_units, student_spec
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Embeddings, EncoderSpec, Head, uniform_layers
from bertcompress.errors import ConfigError
from bertcompress.training.mapping import resolve_mapping


@pytest.mark.parametrize(
    ("choice", "expected"),
    [("last_of_block", (1, 3, 5)), ("first_of_block", (0, 2, 4)), ("first", (0, 1, 2))],
)
def test_layers_of_three_from_six(choice, expected):
    assert chosen_layers(choice, 3, 6) == expected


@given(teacher=st.integers(1, 24), data=st.data(), choice=st.sampled_from(["last_of_block", "first_of_block", "first"]))
def test_layers_rise_strictly_and_stay_inside(teacher, data, choice):
    student = data.draw(st.integers(1, teacher))
    layers = chosen_layers(choice, student, teacher)
    assert len(layers) == student
    assert list(layers) == sorted(set(layers))
    assert layers[0] >= 0
    assert layers[-1] < teacher
    if choice == "last_of_block":  # every student layer starts as the layer that will teach it
        assert [layer + 1 for layer in layers] == [pair[1] for pair in resolve_mapping("uniform", student, teacher)]


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_any_size_builds_runs_and_learns(data):
    layers, hidden, heads, size, inner = (data.draw(st.integers(1, top)) for top in (4, 12, 3, 4, 16))
    spec = EncoderSpec(
        Embeddings(20, hidden, 16), uniform_layers(layers, hidden, heads, inner, size), Head("regression", 1, "tanh")
    )
    sizes = Sizes(*(data.draw(st.integers(1, top)) for top in (layers, hidden, heads, size, inner)))
    planned = student_spec(spec, sizes, "last_of_block")
    selection = select_units(spec, planned, chosen_layers("last_of_block", planned.num_layers, layers), random_units(3))
    cut, weights = extract(spec, build(spec).state_dict(), selection)
    assert cut == planned
    network = build(cut)
    network.load_state_dict(weights)
    network(torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())


def test_what_is_left_out_stays_the_teachers(model, task):
    student = ExtractThenDistill(epochs=0, num_layers=2).compress(model, task)
    for small, origin in enumerate((1, 3)):
        taught = model.network.encoder.layers[origin].state_dict()
        for name, tensor in student.network.encoder.layers[small].state_dict().items():
            assert torch.equal(tensor, taught[name])
    assert student.history[-1].facts["origin"] == [2, 4]


def test_same_size_is_the_same_function(model, task):
    student = ExtractThenDistill(epochs=0).compress(model, task)
    assert (student.predict(task.test).logits == model.predict(task.test).logits).all()


def test_seeds_differ_and_selection_is_recorded(model, task):
    first, second = (ExtractThenDistill(epochs=0, hidden_size=8, seed=seed).compress(model, task) for seed in (0, 1))
    chosen = first.history[-1].facts["selection"]["hidden"]
    assert chosen != second.history[-1].facts["selection"]["hidden"]
    expected = model.network.encoder.embeddings.word.weight[:, chosen]
    assert torch.equal(first.network.encoder.embeddings.word.weight, expected)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"num_layers": 5}, r"num_layers: got 5, allowed are 1 to 4"),
        ({"hidden_size": 17}, r"hidden_size: got 17, allowed are 1 to 16"),
        ({"num_heads": 3}, r"num_heads: got 3, allowed are 1 to 2"),
        ({"num_layers": 2, "mapping": [1, 9]}, r"layer 9"),
    ],
)
def test_impossible_sizes_are_refused_in_the_plan(model, task, sizes, message):
    with pytest.raises(ConfigError, match=message):
        ExtractThenDistill(**sizes).plan(model.spec, task)


@pytest.mark.parametrize("wrong", [{"num_layers": 0}, {"layers": "top"}, {"importance": "magic"}, {"objective": {}}])
def test_impossible_settings_are_refused_at_once(wrong):
    with pytest.raises(ConfigError, match="allowed"):
        ExtractThenDistill(**wrong)
