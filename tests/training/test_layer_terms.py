"""Terms that compare layers: each against its definition in loops, and what must and must not change them."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F
from transformers.utils import ModelOutput

from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Attention, FeedForward, Layer
from bertcompress.errors import ConfigError
from bertcompress.training.objectives import build_objective
from bertcompress.training.recipes import NEEDS, TERMS
from bertcompress.training.teacher import NEEDS as TEACHER_NEEDS
from bertcompress.training.teacher import TeacherOutputs, run_network

from .conftest import make_features, make_network, make_spec

LAYERED = [name for name, mapping in TERMS.items() if mapping is not None]
ROWS = [0, 3, 5, 7]


def outputs_of(network, features, rows, needs, pads=0):
    """A network's outputs on a batch with further pads, and the batch; pads hold tokens of their own."""
    batch = dict(features.collate(rows))
    if pads:
        for name, fill in (("input_ids", 7), ("attention_mask", 0), ("token_type_ids", 0)):
            batch[name] = F.pad(batch[name], (0, pads), value=fill)
    return run_network(network, batch, needs), batch


def loss_of(objective, student, teacher, features, rows=ROWS, pads=0):
    needs = sorted(objective.needs)
    learned, batch = outputs_of(student, features, rows, needs, pads)
    with torch.no_grad():
        taught, _ = outputs_of(teacher, features, rows, needs, pads)
    return objective(learned, taught, batch, features.counts(rows))


def objective_of(name, student, teacher, **settings):
    return build_objective({name: 1.0}, student=student, teacher=teacher, **settings)


def head_vectors(output, need, place, heads):
    """(B, L, heads, d) of queries, keys or values, from what the network recorded."""
    vectors = output[need][place]
    return vectors.view(*vectors.shape[:2], heads, -1)


def reference(name, learned, taught, mask, pairs, heads):
    """The definition with loops over examples, tokens and heads, in float64."""
    total, units = 0.0, 0
    for row in range(len(mask)):
        size = int(mask[row].sum())
        units += 1 if name == "patient" else size
        for own, other in pairs:
            if name == "patient":
                a, b = (each.hidden_states[layer][row, 0].double() for each, layer in ((learned, own), (taught, other)))
                total += float((a / a.norm() - b / b.norm()).square().sum())
                continue
            for token in range(size):
                if name == "cosine":
                    a, b = (
                        each.hidden_states[layer][row, token].double()
                        for each, layer in ((learned, own), (taught, other))
                    )
                    total += 1 - float(a @ b / (a.norm() * b.norm()))
                    continue
                for head in range(heads):
                    p, q = (
                        distribution(name, each, layer - 1, row, head, token, size, heads)
                        for each, layer in ((taught, other), (learned, own))
                    )
                    total += sum(x * math.log(x / y) for x, y in zip(p, q, strict=True)) / heads
    return total / units


def distribution(name, output, place, row, head, query, size, heads):
    if name == "attention_distribution":
        scores = output.attention_scores[place][row, head, query, :size].double().tolist()
    else:
        vectors = head_vectors(output, NEEDS[name], place, heads)[row, :, head].double()
        scores = [float(vectors[query] @ vectors[key]) / math.sqrt(vectors.shape[-1]) for key in range(size)]
    total = sum(map(math.exp, scores))
    return [math.exp(score) / total for score in scores]


@pytest.mark.parametrize(
    ("name", "settings", "heads"),
    [
        ("patient", {}, 2),
        ("cosine", {}, 2),
        ("cosine", {"mapping": [[0, 0], [2, 3]]}, 2),
        ("attention_distribution", {}, 2),
        ("query_relation", {"mapping": "uniform"}, 2),
        ("key_relation", {"relation_heads": 4}, 4),
        ("value_relation", {"relation_heads": 1}, 1),
    ],
)
def test_each_term_equals_its_definition_written_with_loops(name, settings, heads):
    features = make_features()
    student, teacher = make_network(make_spec(layers=2), 1), make_network(make_spec(layers=4), 2)
    objective = objective_of(name, student.spec, teacher.spec, **settings)
    value = float(loss_of(objective, student, teacher, features).detach())
    needs = [NEEDS[name]]
    learned, batch = outputs_of(student, features, ROWS, needs)
    taught, _ = outputs_of(teacher, features, ROWS, needs)
    pairs = objective.terms[name].pairs
    expected = reference(name, learned, taught, batch["attention_mask"], pairs, heads)
    assert expected > 0.01
    assert value == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", LAYERED)
def test_a_student_that_is_its_teacher_has_nothing_to_learn(name):
    spec, features = make_spec(layers=3), make_features()
    network = make_network(spec, 1)
    objective = objective_of(name, spec, spec, mapping=[1, 2, 3])
    loss = loss_of(objective, network, network, features)
    loss.backward()
    assert abs(float(loss)) < 1e-5
    gradients = [each.grad for each in network.parameters() if each.grad is not None]
    assert gradients
    assert max(float(each.abs().max()) for each in gradients) < 1e-3


@pytest.mark.parametrize("name", LAYERED)
def test_what_stands_at_pads_changes_nothing(name):
    features = make_features()
    student, teacher = make_network(make_spec(layers=2, dropout=0.0), 1), make_network(make_spec(layers=4), 2)
    objective = objective_of(name, student.spec, teacher.spec)
    plain = float(loss_of(objective, student, teacher, features))
    assert float(loss_of(objective, student, teacher, features, pads=5)) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("name", LAYERED)
def test_examples_count_the_same_alone_and_together(name):
    features = make_features()
    student, teacher = make_network(make_spec(layers=2), 1), make_network(make_spec(layers=4), 2)
    objective = objective_of(name, student.spec, teacher.spec)
    together = float(loss_of(objective, student, teacher, features))
    counts, alone = features.counts(ROWS), 0.0
    for row in ROWS:
        learned, batch = outputs_of(student, features, [row], sorted(objective.needs))
        taught, _ = outputs_of(teacher, features, [row], sorted(objective.needs))
        alone += float(objective(learned, taught, batch, counts))
    assert alone == pytest.approx(together, rel=1e-4)


@pytest.mark.parametrize("name", LAYERED)
def test_layers_above_the_highest_that_learns_get_no_gradient_and_those_below_do(name):
    features = make_features()
    student, teacher = make_network(make_spec(layers=3), 1), make_network(make_spec(layers=4), 2)
    objective = objective_of(name, student.spec, teacher.spec, mapping=[0, 3, 0])
    loss_of(objective, student, teacher, features).backward()
    for number, layer in enumerate(student.encoder.layers, start=1):
        reached = [each.grad for each in layer.parameters() if each.grad is not None and each.grad.abs().max() > 0]
        assert bool(reached) == (number <= 2)


@pytest.mark.parametrize("name", LAYERED)
def test_a_mapping_is_the_sum_of_its_pairs(name):
    features = make_features()
    student, teacher = make_network(make_spec(layers=3), 1), make_network(make_spec(layers=4), 2)

    def value(mapping):
        return float(
            loss_of(objective_of(name, student.spec, teacher.spec, mapping=mapping), student, teacher, features)
        )

    assert value([2, 0, 4]) == pytest.approx(value([[1, 2]]) + value([[3, 4]]), rel=1e-5)
    assert value([[3, 4], [1, 2]]) == value([2, 0, 4])


def test_a_mapping_that_teaches_nothing_is_refused():
    spec = make_spec(layers=2)
    with pytest.raises(ConfigError, match="no layer of the student learns"):
        objective_of("hidden", spec, spec, mapping=[0, 0])


def released(student, teacher, batch, layers, teacher_layers, project):
    """TinyBERT's general distillation as its released code has it: two list comprehensions, two means."""
    every = teacher_layers // layers
    attentions = [teacher.attention_scores[place * every + every - 1] for place in range(layers)]
    states = [teacher.hidden_states[place * every] for place in range(layers + 1)]
    mask = (1.0 - batch["attention_mask"][:, None, None, :].float()) * -10000.0
    total = 0.0
    for own, other in zip(student.attention_scores, attentions, strict=True):
        own, other = (torch.where(each + mask <= -100.0, torch.zeros_like(each), each + mask) for each in (own, other))
        total += F.mse_loss(own, other)
    for own, other in zip(student.hidden_states, states, strict=True):
        total += F.mse_loss(project(own), other)
    return float(total)


def test_the_released_loss_of_tinybert_is_reproduced():
    features = make_features()
    student, teacher = make_network(make_spec(layers=2, hidden=8), 1), make_network(make_spec(layers=4), 2)
    weights = {"hidden": 1.0, "attention": 1.0}
    objective = build_objective(
        weights, student=student.spec, teacher=teacher.spec, mapping="tinybert", count_pads=True
    )
    needs = sorted(objective.needs)
    learned, batch = outputs_of(student, features, ROWS, needs, pads=2)
    taught, _ = outputs_of(teacher, features, ROWS, needs, pads=2)
    project = objective.terms["hidden"].projections["8_to_16"]
    with torch.no_grad():
        expected = released(learned, taught, batch, 2, 4, project)
        value = float(objective(learned, taught, batch, features.counts(ROWS)))
    assert value == pytest.approx(expected, rel=1e-5)
    assert objective.needs_live_teacher


def test_the_released_loss_depends_on_pads_but_not_on_padded_keys():
    spec, features = make_spec(layers=2), make_features()
    student, teacher = make_network(spec, 1), make_network(spec, 2)
    hidden = objective_of("hidden", spec, spec, count_pads=True)
    attention = objective_of("attention", spec, spec, count_pads=True)
    for objective in (hidden, attention):
        few, many = (float(loss_of(objective, student, teacher, features, pads=pads)) for pads in (0, 6))
        assert abs(few - many) > 1e-4  # as released: an example's loss depends on its batch mates
    learned, batch = outputs_of(student, features, ROWS, ["attention_scores"], pads=3)
    taught, _ = outputs_of(teacher, features, ROWS, ["attention_scores"], pads=3)
    before = float(attention(learned, taught, batch, features.counts(ROWS)))
    pads = batch["attention_mask"][:, None, None, :] == 0
    learned["attention_scores"] = tuple(each.masked_fill(pads, 99.0) for each in learned.attention_scores)
    assert float(attention(learned, taught, batch, features.counts(ROWS))) == before


def test_even_equal_widths_are_projected_where_the_released_code_does_so():
    spec = make_spec(layers=2)
    assert not list(objective_of("hidden", spec, spec).parameters())
    assert len(list(objective_of("hidden", spec, spec, count_pads=True).parameters())) == 2


@pytest.mark.parametrize("name", ["attention_distribution", "query_relation", "value_relation", "attention"])
def test_other_numbers_of_heads_are_refused_with_the_pair_and_the_remedy(name):
    student, teacher = make_spec(layers=2, heads=4), make_spec(layers=4, heads=2)
    with pytest.raises(ConfigError, match=r"pair \(2, 4\) compares 4 heads .* relation_heads") as caught:
        objective_of(name, student, teacher, mapping="last")
    assert name in str(caught.value)


def test_relation_heads_lift_the_restriction_and_must_divide_both_widths():
    features = make_features()
    student, teacher = make_network(make_spec(layers=2, hidden=8, heads=1), 1), make_network(make_spec(layers=4), 2)
    objective = objective_of("key_relation", student.spec, teacher.spec, relation_heads=4)
    assert float(loss_of(objective, student, teacher, features)) > 0
    with pytest.raises(ConfigError, match=r"student's layer 2 has heads of 8 dimensions .* allowed are 1, 2, 4, 8"):
        objective_of("key_relation", student.spec, teacher.spec, relation_heads=3)


@pytest.mark.parametrize("name", ["attention", "attention_distribution", "query_relation"])
def test_a_layer_without_attention_is_refused(name):
    spec = make_spec(layers=2)
    layers = (spec.layers[0], Layer((FeedForward(32),), spec.hidden_size))
    with pytest.raises(ConfigError, match="layer 2 of the student has no attention"):
        objective_of(name, spec.replace(layers=layers), spec, mapping="last")


def test_dimensions_inside_heads_may_change_places():
    """Queries and keys, or values and the output's columns, permuted together inside each head: nothing to learn."""
    spec, features = make_spec(layers=1), make_features()
    teacher = make_network(spec, 3)
    student = build(spec)
    student.load_state_dict(teacher.state_dict())
    attention: Attention = spec.layers[0].operations[0]
    size = attention.head_size
    order = torch.cat([torch.randperm(size) + head * size for head in range(attention.num_heads)])
    width = size * attention.num_heads
    with torch.no_grad():
        module = student.encoder.layers[0].operations[0]
        rows = torch.cat([order + part * width for part in range(3)])
        for tensor in (module.qkv.weight, module.qkv.bias):
            tensor.copy_(tensor[rows].clone())
        module.output.weight.copy_(module.output.weight[:, order].clone())
    weights = dict.fromkeys(("attention_distribution", "query_relation", "key_relation", "value_relation"), 1.0)
    objective = build_objective(weights, student=spec, teacher=spec)
    assert abs(float(loss_of(objective, student, teacher, features).detach())) < 1e-6
    with torch.no_grad():  # across heads it is another function
        module.qkv.weight.copy_(module.qkv.weight.roll(size // 2, 0).clone())
    assert float(loss_of(objective, student, teacher, features).detach()) > 1e-3


@pytest.mark.parametrize("name", ["value_relation", "cosine", "patient", "attention_distribution"])
def test_kept_outputs_teach_as_a_live_teacher_does(name):
    features = make_features()
    student, teacher = make_network(make_spec(layers=2), 1), make_network(make_spec(layers=4), 2)
    objective = objective_of(name, student.spec, teacher.spec)
    batch = features.collate(ROWS)
    learned = run_network(student, batch, sorted(objective.needs))
    values = []
    for budget in (0, 100):
        outputs = TeacherOutputs(
            teacher,
            features,
            needs=objective.needs,
            places=objective.teacher_places,
            precision="fp32",
            cache_mib=budget,
        )
        taught = outputs.batch(torch.tensor(ROWS).numpy(), batch)
        assert outputs.live == (budget == 0)
        values.append(float(objective(learned, taught, batch, features.counts(ROWS))))
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_what_is_read_of_a_network_hides_none_of_its_outputs_methods():
    assert not [need for need in TEACHER_NEEDS if hasattr(ModelOutput, need)]  # "values" did: an output is a dict
    assert set(NEEDS.values()) == set(TEACHER_NEEDS)
