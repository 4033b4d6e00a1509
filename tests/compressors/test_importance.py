"""Importance: what is measured agrees with what removing a unit does, and what is chosen follows from it."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

from bertcompress.compressors import Distill, ExtractThenDistill, FineTune
from bertcompress.compressors.base import Context
from bertcompress.compressors.extract.compressor import extract
from bertcompress.compressors.extract.importance import magnitude_scores, taylor_scores
from bertcompress.compressors.extract.losses import batch_losses, loss_name
from bertcompress.compressors.extract.selection import Selection, scored_units
from bertcompress.data.tasks import Task
from bertcompress.encoder.network import build
from bertcompress.encoder.spec import Head
from bertcompress.errors import ConfigError
from bertcompress.model import Model
from bertcompress.pipeline import Pipeline

SETTINGS = {"learning_rate": 3e-3, "batch_size": 16, "max_length": 32, "precision": "fp32"}
NEURONS = ("neurons", (1, 1))


@pytest.fixture(scope="module")
def trained(small_spec, letters_tokenizer, task):
    model = Model.from_spec(small_spec, letters_tokenizer, task, seed=7)
    return FineTune(epochs=6, **SETTINGS).compress(model, task)


def losses_of(model, task, name="task", batches=6, seed=0):
    features = model.featurize(task.train, max_length=32)
    return list(batch_losses(name, model, features, kind=task.kind, batches=batches, batch_size=16, seed=seed))


def values_of(model, task):
    """The loss of each batch."""
    with torch.no_grad():
        return np.array([float(loss()) for loss in losses_of(model, task)])


def zeroed(model, place, unit):
    """The model without one neuron."""
    copy = model.copy()
    operation = copy.network.encoder.layers[place[0]].operations[place[1]]
    with torch.no_grad():
        operation.output.weight[:, unit] = 0
    return copy


def test_scores_rank_neurons_as_their_removal_does(trained, task):
    losses = losses_of(trained, task)
    scores = taylor_scores(trained.network, losses)[NEURONS]
    whole, removed = values_of(trained, task), []
    for unit in range(len(scores)):
        changed = np.abs(values_of(zeroed(trained, (1, 1), unit), task) - whole)
        removed.append(changed.sum())
    assert spearmanr(scores, removed)[0] > 0.5


def test_dead_neurons_score_zero_and_are_never_chosen(trained, task):
    model, dead = trained.copy(), [3, 17, 30]
    operation = model.network.encoder.layers[1].operations[1]
    with torch.no_grad():
        operation.output.weight[:, dead] = 0
        operation.intermediate.weight[dead] = 0
        operation.intermediate.bias[dead] = 0
    scores = taylor_scores(model.network, losses_of(model, task))
    assert np.array_equal(np.flatnonzero(scores[NEURONS] == 0), dead)
    chosen = scored_units(scores)(*NEURONS, 32, 29)
    assert not set(dead) & set(chosen)


def test_a_heads_score_is_the_derivative_of_a_mask_on_it(trained, task):
    losses = losses_of(trained, task, batches=2)
    scores = taylor_scores(trained.network, losses)["heads", (2, 0)]
    operation = trained.network.encoder.layers[2].operations[0]
    mask = torch.ones(operation.num_heads, requires_grad=True)

    def masked(module, arguments):
        return (arguments[0] * mask.repeat_interleave(operation.head_size),)

    hook, total = operation.output.register_forward_pre_hook(masked), 0
    for loss in losses:
        mask.grad = None
        loss().backward()
        total = total + mask.grad.abs().numpy()
    hook.remove()
    trained.network.zero_grad()
    np.testing.assert_allclose(scores, total, rtol=1e-3)


def test_scores_follow_from_the_seed_and_leave_the_model_as_it_was(trained, task):
    before = {name: tensor.clone() for name, tensor in trained.network.state_dict().items()}
    one, two, other = (taylor_scores(trained.network, losses_of(trained, task, seed=seed)) for seed in (1, 1, 2))
    for unit, values in one.items():
        assert np.array_equal(values, two[unit])
    assert any(not np.array_equal(values, other[unit]) for unit, values in one.items())
    assert all(torch.equal(before[name], tensor) for name, tensor in trained.network.state_dict().items())
    assert all(each.grad is None for each in trained.network.parameters())
    assert not trained.network.training


def test_batches_do_not_mix(trained, task):
    losses = losses_of(trained, task, batches=3)
    together = taylor_scores(trained.network, losses)
    alone = [taylor_scores(trained.network, [loss]) for loss in losses]
    for unit, values in together.items():
        np.testing.assert_allclose(values, sum(each[unit] for each in alone), rtol=1e-5)


def test_a_dimension_of_the_stream_is_written_by_all_that_end_in_it(trained):
    scores = magnitude_scores(trained.network)["hidden", ()]
    encoder, expected = trained.network.encoder, 0
    tables = encoder.embeddings
    for table in (tables.word, tables.position, tables.token_type):
        expected = expected + table.weight.detach().abs().sum(0)
    norms = [tables.norm]
    for layer in encoder.layers:
        for operation in layer.operations:
            expected = expected + operation.output.weight.detach().abs().sum(1) + operation.output.bias.detach().abs()
            norms.append(operation.norm)
    for norm in norms:
        expected = expected + norm.weight.detach().abs() + norm.bias.detach().abs()
    np.testing.assert_allclose(scores, expected.numpy(), rtol=1e-5)


def cut(model, task, importance, **sizes):
    return ExtractThenDistill(epochs=0, importance=importance, **sizes, **SETTINGS).compress(model, task)


def test_less_is_lost_with_important_neurons_than_at_random_and_most_with_the_least_important(trained, task):
    def lost(importance, seed=0):
        return values_of(cut(trained, task, importance, intermediate_size=12, seed=seed), task).mean()

    random = np.mean([lost("random", seed) for seed in range(5)])
    assert lost("taylor") < random < lost("least")


@pytest.mark.parametrize("importance", ["random", "taylor", "magnitude", "first", "least"])
def test_every_choice_gives_the_planned_sizes_and_a_student_that_its_lists_make_again(importance, trained, task):
    sizes = {"num_layers": 2, "hidden_size": 12, "head_size": 5, "intermediate_size": 20}
    compressor = ExtractThenDistill(epochs=0, importance=importance, **sizes, **SETTINGS)
    student = compressor.compress(trained, task)
    assert student.spec == compressor.plan(trained.spec, task)
    stored = json.loads(json.dumps(student.history[-1].facts["selection"]))
    selection = Selection.from_dict(stored)
    assert json.loads(json.dumps(selection.describe())) == stored
    _, weights = extract(trained.spec, trained.network.state_dict(), selection)
    for name, tensor in student.network.state_dict().items():
        assert torch.equal(tensor, weights[name]), name


@pytest.mark.parametrize("head", ["classification", "none"])
def test_embeddings_alone_can_be_taken_over(trained, task, head):
    model = trained if head == "classification" else trained.without_head()
    text = None if head == "none" else task
    settings = {"epochs": 0, "importance": "first", "hidden_size": 12, "num_layers": 2}
    whole = ExtractThenDistill(**settings).compress(model, text).network.state_dict()
    student = ExtractThenDistill(**settings, initialization="embeddings").compress(model, text)
    random = ExtractThenDistill(**settings, initialization="random").compress(model, text).network.state_dict()
    taken = [name for name in whole if name.removeprefix("encoder.").startswith("embeddings.")]
    for name, tensor in student.network.state_dict().items():
        assert torch.equal(tensor, (whole if name in taken else random)[name]), name
    assert not all(torch.equal(whole[name], random[name]) for name in taken)
    facts = student.history[-1].facts
    assert facts["selection"]["hidden"] == list(range(12))
    assert "origin" not in facts  # its layers come from nowhere


def test_first_units_are_the_first(trained, task):
    student = cut(trained, task, "first", hidden_size=12)
    assert student.history[-1].facts["selection"]["hidden"] == list(range(12))


def test_models_without_labels_are_measured_by_hidden_tokens_or_by_themselves(small_spec, letters_tokenizer, task):
    texts = task.train.remove_columns("label")
    unlabelled = Task("texts", "unlabelled", (), "", texts)
    for head, expected in (("masked_lm", "mlm"), ("none", "self")):
        model = Model.from_spec(small_spec.replace(head=Head(head)), letters_tokenizer, seed=3)
        assert loss_name("auto", model, unlabelled) == expected
        features = model.featurize(texts, max_length=32)
        losses = batch_losses(expected, model, features, kind="unlabelled", batches=2, batch_size=8, seed=0)
        scores = taylor_scores(model.network, losses)
        assert scores[NEURONS].min() >= 0
        assert scores[NEURONS].max() > 0
        assert scores["hidden", ()].shape == (16,)


def test_a_head_that_only_guesses_measures_nothing(small_spec, letters_tokenizer, task):
    texts = Task("texts", "unlabelled", (), "", task.train.remove_columns("label"))
    new = Model.from_spec(small_spec.replace(head=Head("masked_lm")), letters_tokenizer, texts, seed=3)
    trained = Distill(epochs=6, objective={"mlm": 1.0}, **SETTINGS).compress(new, texts, teacher=new)
    for model, expected in ((new, "self"), (trained, "mlm")):
        student = ExtractThenDistill(epochs=0, importance="taylor", hidden_size=8, max_length=32).compress(model, texts)
        assert student.history[-1].facts["importance_loss"] == expected
    told = ExtractThenDistill(epochs=0, importance="taylor", importance_loss="mlm", hidden_size=8, max_length=32)
    assert told.compress(new, texts).history[-1].facts["importance_loss"] == "mlm"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance_loss": "mlm"}, "importance_loss: got 'mlm', and the model's head is 'classification'"),
        ({"importance": "largest"}, "importance: got 'largest', allowed are"),
        ({"importance_batches": 0}, "importance_batches: got 0"),
    ],
)
def test_what_cannot_be_measured_is_refused(settings, message, trained, task):
    with pytest.raises(ConfigError, match=message):
        ExtractThenDistill(**{"epochs": 0, "importance": "taylor", "hidden_size": 8} | settings).compress(trained, task)


def test_attention_scores_keep_their_size_where_dimensions_are_cut(trained, task):
    plain = ExtractThenDistill(epochs=0, head_size=4, seed=5).compress(trained, task)
    scaled = ExtractThenDistill(epochs=0, head_size=4, seed=5, compensate_logits=True).compress(trained, task)
    batch = trained.featurize(task.test, max_length=32).collate([0, 1])
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        before, after = (
            model.network(**inputs, output_attention_scores=True).attention_scores[0] for model in (plain, scaled)
        )
    torch.testing.assert_close(after, before * 2**0.5)  # (8 / 4)^(1/4) for queries, and again for keys


def test_a_projection_can_begin_as_the_selection(trained, task):
    settings = {**SETTINGS, "objective": {"hidden": 1.0}, "hidden_size": 12, "importance": "taylor", "epochs": 1}
    curves = {}
    for projection in ("random", "selection"):
        student = ExtractThenDistill(projection=projection, **settings).compress(trained, task)
        curves[projection] = [value for _, value in student.history[-1].curves["loss"]]
    assert curves["selection"][0] < 0.7 * curves["random"][0]


def test_nothing_is_cut_and_nothing_is_to_be_learnt(trained, task):
    weights = {"hidden": 1.0, "attention": 1.0, "attention_distribution": 1.0, "value_relation": 1.0}
    settings = {**SETTINGS, "epochs": 1, "learning_rate": 1e-9, "objective": weights, "importance": "taylor"}
    quiet = trained.spec.replace(hidden_dropout=0.0, attention_dropout=0.0, classifier_dropout=0.0)
    network = build(quiet, trained.labels)
    network.load_state_dict(trained.network.state_dict())
    student = ExtractThenDistill(**settings).compress(trained.after(network=network), task)
    assert max(value for _, value in student.history[-1].curves["loss"]) < 1e-6


def test_a_chain_says_how_importance_was_measured(trained, task):
    for sizes, measured in (({"hidden_size": 12}, True), ({"num_layers": 2}, False)):  # layers are taken by their place
        student = Pipeline([ExtractThenDistill(epochs=0, importance="taylor", **sizes)]).compress(trained, task)
        assert (student.history[-1].facts.get("importance_loss") == "task") is measured


def test_units_are_chosen_once_even_if_training_is_interrupted(trained, task, tmp_path, monkeypatch):
    compressor = ExtractThenDistill(importance="taylor", hidden_size=8, **{**SETTINGS, "epochs": 1})
    whole = compressor.compress(trained, task)

    def interrupted(*arguments, **named):
        raise KeyboardInterrupt

    context = Context(tmp_path / "step")
    with monkeypatch.context() as patch:
        patch.setattr(ExtractThenDistill, "fit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compressor.compress(trained, task, context=context)
    monkeypatch.setattr(ExtractThenDistill, "_scores", interrupted)  # not measured again
    resumed = compressor.compress(trained, task, context=context)
    assert resumed.history[-1].facts["selection"] == whole.history[-1].facts["selection"]
    for name, tensor in whole.network.state_dict().items():
        assert torch.equal(tensor, resumed.network.state_dict()[name])


@pytest.mark.parametrize("change", [{"hidden_size": 12}, {"importance": "least"}, {"seed": 5}])
def test_units_are_chosen_anew_where_what_they_depend_on_has_changed(change, trained, task, tmp_path):
    """An interrupted step's choice is no other step's, nor that of another model."""
    compressor = ExtractThenDistill(importance="taylor", hidden_size=8, **{**SETTINGS, "epochs": 0})
    context, after = Context(tmp_path / "step"), dataclasses.replace(compressor, **change)
    compressor.compress(trained, task, context=context)
    found = after.compress(trained, task, context=context)
    assert found.spec == after.plan(trained.spec, task)
    assert same_choice(found, after.compress(trained, task))
    other = trained.copy()
    with torch.no_grad():
        other.network.encoder.embeddings.word.weight.mul_(torch.linspace(0.1, 3, 16))
    assert not same_choice(found, after.compress(other, task, context=context))
    assert same_choice(after.compress(other, task, context=context), after.compress(other, task))


def same_choice(first, second):
    return first.history[-1].facts["selection"] == second.history[-1].facts["selection"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"importance": "taylor", "importance_loss": "mlm", "hidden_size": 8}, "importance_loss: got 'mlm'"),
        ({"objective": {"soft": 1, "value_relation": 1}, "num_heads": 1}, "compares 1 heads of the student with 2"),
    ],
)
def test_what_comes_last_in_a_chain_is_refused_before_the_first_step(settings, message, trained, task):
    first = Distill(epochs=1, **SETTINGS)
    with pytest.raises(ConfigError, match=message):
        Pipeline([first, ExtractThenDistill(**settings)]).compress(trained, task)


def test_a_selection_puts_dimensions_back_into_the_model_that_is_cut_alone(trained, task):
    compressor = ExtractThenDistill(hidden_size=8, projection="selection", **{**SETTINGS, "epochs": 1})
    with pytest.raises(ConfigError, match="the teacher is not the model that is cut"):
        compressor.compress(trained, task, teacher=trained.copy())
    with pytest.raises(ConfigError, match="the teacher is another one"):
        Pipeline([ExtractThenDistill(epochs=0, num_layers=2), compressor]).compress(trained, task)


def test_a_tokenizer_that_cannot_hide_tokens_is_refused_with_a_sentence(trained, task, monkeypatch):
    monkeypatch.setattr(type(trained.tokenizer), "mask_token_id", None, raising=False)
    with pytest.raises(ConfigError, match="the tokenizer has no mask token"):
        loss_name("self", trained, task)


def test_another_tasks_head_is_refused_before_anything_is_measured(trained, task):
    three = Task("three", "classification", ("a", "b", "c"), "accuracy", task.train)
    with pytest.raises(ConfigError, match="from_pretrained"):
        ExtractThenDistill(epochs=0, importance="taylor", hidden_size=8).compress(trained, three)
