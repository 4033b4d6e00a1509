from __future__ import annotations

import copy
import dataclasses
import logging
import random

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from bertcompress.errors import ConfigError, DataError, TrainingError
from bertcompress.training.loop import train
from bertcompress.training.objectives import build_objective
from bertcompress.training.optimizers import learning_rate
from bertcompress.training.plan import StepPlan
from bertcompress.training.session import Session
from bertcompress.training.settings import TrainingSettings
from bertcompress.training.teacher import TeacherOutputs, run_network

from .conftest import make_features, make_network, make_spec

FAST = {"learning_rate": 1e-2, "batch_size": 8, "precision": "fp32"}


def weights_of(network):
    return {name: tensor.clone() for name, tensor in network.state_dict().items()}


def same(first, second, tolerance=0.0):
    assert first.keys() == second.keys()
    return all(float((first[name] - second[name]).abs().max()) <= tolerance for name in first)


def trained(settings, *, spec=None, features=None, seed=0, weights=None, **options):
    spec = spec or make_spec()
    network, features = make_network(spec, seed), features or make_features()
    objective = build_objective(weights or {"hard": 1.0}, student=spec, teacher=spec)
    result = train(network, objective, features, settings, **options)
    return network, result


def accuracy(features):
    def score(network):
        assert not network.training
        batch = features.collate(np.arange(len(features)))
        return float((run_network(network, batch).logits.argmax(-1) == batch["labels"]).float().mean())

    return score


def test_it_learns_and_the_same_seed_gives_the_same_weights():
    features = make_features(48)
    settings = TrainingSettings(epochs=12, **FAST)
    first, result = trained(settings, features=features, spec=make_spec(dropout=0.1))
    second, _ = trained(settings, features=features, spec=make_spec(dropout=0.1))
    other, _ = trained(dataclasses.replace(settings, seed=1), features=features, spec=make_spec(dropout=0.1))
    assert accuracy(features)(first) > 0.9
    assert result.curves["loss"][-1][1] < 0.5 * result.curves["loss"][0][1]
    assert same(weights_of(first), weights_of(second))
    assert not same(weights_of(first), weights_of(other))
    assert (result.steps, result.examples, result.processes) == (72, 48 * 12, 1)


def reference_gradients(network, features, indices, teacher):
    """One example at a time, without padding, each term divided by the units of the whole step."""
    counts = features.counts(indices)
    terms = {"hard": 1.0, "soft": 0.5, "hidden": 0.7, "attention": 0.3}
    objective = build_objective(terms, student=network.spec, teacher=teacher.spec)
    needs = sorted(objective.needs)
    for index in indices:
        batch = features.collate([index])
        with torch.no_grad():
            taught = run_network(teacher, batch, needs)
        objective(run_network(network, batch, needs), taught, batch, counts).backward()
    return objective, {name: each.grad.clone() for name, each in network.named_parameters() if each.grad is not None}


@hypothesis_settings(max_examples=15, deadline=None)
@given(max_tokens=st.integers(1, 120), groups=st.integers(1, 4), processes=st.integers(1, 3), data=st.integers(0, 5))
def test_gradients_do_not_depend_on_the_split(max_tokens, groups, processes, data):
    features = make_features(12, seed=data)
    network, teacher = make_network(make_spec(), 1), make_network(make_spec(layers=4), 2)
    objective, expected = reference_gradients(network, features, np.arange(12), teacher)
    network.zero_grad()
    settings = TrainingSettings(
        batch_size=-(-12 // groups), gradient_accumulation_steps=groups, max_tokens=max_tokens, precision="fp32"
    )
    outputs = TeacherOutputs(teacher, features, needs=objective.needs, precision="fp32", cache_mib=0)
    session = Session(network, objective, features, settings, outputs, None, "")
    try:
        step = session.plan.groups(0)
        assert sorted(np.concatenate(step)) == list(range(12))
        for process in range(processes):
            for indices in session.plan.micro_batches(step, process, processes):
                session._backward(indices, features.counts(range(len(features))))
        for name, parameter in network.named_parameters():
            if name in expected:
                assert torch.allclose(parameter.grad, expected[name], rtol=1e-4, atol=1e-6), name
    finally:
        session.close()


@pytest.mark.parametrize("changes", [{"max_tokens": 20}, {"batch_size": 4, "gradient_accumulation_steps": 4}])
def test_trained_weights_do_not_depend_on_the_split(changes):
    features = make_features(16)
    whole = TrainingSettings(epochs=5, batch_size=16, learning_rate=1e-3, precision="fp32")
    first, result = trained(whole, features=features)
    second, _ = trained(dataclasses.replace(whole, **changes), features=features)
    assert result.steps == 5
    assert same(weights_of(first), weights_of(second), 1e-5)


def test_the_sparse_table_changes_nothing(monkeypatch):
    settings = TrainingSettings(epochs=2, **{**FAST, "learning_rate": 1e-3})
    sparse, _ = trained(settings)
    monkeypatch.setattr("bertcompress.training.session.sparse_table", lambda network, device: None)
    dense, _ = trained(settings)
    # Sums in another order differ in their last bits, and AdamW makes steps of such differences where a gradient is 0.
    assert same(weights_of(sparse), weights_of(dense), 1e-5)


def test_a_table_that_is_also_an_output_layer_is_treated_densely():
    spec = make_spec()
    features = make_features(16)

    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = make_network(spec)

        def get_input_embeddings(self):
            return self.inner.get_input_embeddings()

        def forward(self, **inputs):
            output = self.inner(**inputs)
            output.logits = output.logits + self.get_input_embeddings().weight[:, :3].mean(0)
            return output

    network, objective = Tied(), build_objective({"hard": 1.0}, student=spec)
    session = Session(network, objective, features, TrainingSettings(**FAST), None, None, "")
    session.step()
    assert session.gradients.table is None
    before = network.get_input_embeddings().weight.detach().clone()
    session.step()
    assert float((network.get_input_embeddings().weight.detach() - before)[:, :3].abs().min()) > 0
    session.close()


def test_nothing_is_left_behind_in_the_network():
    network, _ = trained(TrainingSettings(epochs=1, **FAST))
    assert not network.training
    assert network.get_input_embeddings().sparse is False
    assert all(parameter.grad is None for parameter in network.parameters())


def test_the_global_generators_are_left_alone():
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    expected = torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()
    network, features = make_network(make_spec(dropout=0.1)), make_features()
    torch.manual_seed(5)
    np.random.seed(5)
    random.seed(5)
    train(network, build_objective({"hard": 1.0}, student=network.spec), features, TrainingSettings(epochs=1, **FAST))
    assert (torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()) == expected


def test_a_score_that_draws_random_numbers_changes_no_weight():
    spec, settings = make_spec(dropout=0.1), TrainingSettings(epochs=2, evaluations_per_epoch=2, **FAST)

    def score(network):
        torch.rand(7)
        return calls.append(1) or float(len(calls))

    calls = []
    quiet, noisy = trained(settings, spec=spec)[0], trained(settings, spec=spec, score=score)[0]
    assert len(calls) == 4
    assert same(weights_of(quiet), weights_of(noisy))


@pytest.mark.parametrize("epochs", [0, 0.0])
def test_no_epochs_train_nothing(epochs):
    network = make_network(make_spec())
    before = weights_of(network)
    settings = TrainingSettings(epochs=epochs)
    result = train(network, build_objective({"hard": 1.0}, student=network.spec), make_features(), settings)
    assert result.steps == result.examples == 0
    assert same(before, weights_of(network))


@pytest.mark.parametrize(("epochs", "steps"), [(0.5, 2), (1, 3), (1.5, 4), (0.01, 1)])
def test_fractions_of_epochs(epochs, steps):
    assert trained(TrainingSettings(epochs=epochs, **FAST))[1].steps == steps


def test_the_best_weights_come_back():
    kept = []

    def score(network):
        kept.append(weights_of(network))
        return [0.1, 0.9, 0.5, 0.9][len(kept) - 1]

    network, result = trained(TrainingSettings(epochs=4, **FAST), score=score)
    assert (result.best_score, result.best_step) == (0.9, 6)
    assert [value for _, value in result.curves["score"]] == [0.1, 0.9, 0.5, 0.9]
    assert same(weights_of(network), kept[1])
    assert not same(weights_of(network), kept[3])


def test_patience_ends_the_training():
    scores = iter([0.5, 0.4, float("nan"), 0.9])
    _, result = trained(TrainingSettings(epochs=9, patience=2, **FAST), score=lambda network: next(scores))
    assert (result.steps, result.best_step, result.best_score) == (9, 3, 0.5)


def test_a_loss_that_is_not_finite_names_step_examples_and_remedy():
    features = make_features(24, regression=True)
    features.labels[7] = np.inf
    spec = make_spec(labels=1, task="regression")
    objective = build_objective({"hard": 1.0}, student=spec, kind="regression")
    settings = TrainingSettings(epochs=3, **FAST)
    plan = StepPlan(features.lengths, settings)
    step = next(number for number in range(3) if 7 in np.concatenate(plan.groups(number))) + 1
    with pytest.raises(TrainingError, match=rf"step {step} of 9: the loss is inf.*\b7\b.*Lower learning_rate"):
        train(make_network(spec), objective, features, settings, description="fine_tune")


def test_a_gradient_that_is_not_finite_is_noticed_before_the_weights_are_scored(monkeypatch):
    network = make_network(make_spec())
    network.classifier.weight.register_hook(lambda gradient: gradient * float("nan"))
    objective = build_objective({"hard": 1.0}, student=network.spec)
    with pytest.raises(TrainingError, match="gradient's norm is nan"):
        train(network, objective, make_features(), TrainingSettings(epochs=1, **FAST))


def test_the_teacher_stays_as_it_is_and_teaches():
    spec, features = make_spec(dropout=0.1), make_features()
    teacher = make_network(spec, 9)
    teacher.train()
    teacher.encoder.eval()
    before, modes = weights_of(teacher), [module.training for module in teacher.modules()]
    weights = {"soft": 1.0, "hidden": 1.0, "attention": 1.0}
    objective = build_objective(weights, student=spec, teacher=spec)
    outputs = TeacherOutputs(teacher, features, needs=objective.needs, precision="fp32")
    _, result = trained(TrainingSettings(epochs=30, **FAST), features=features, weights=weights, teacher=outputs)
    assert same(before, weights_of(teacher))
    assert modes == [module.training for module in teacher.modules()]
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert result.curves["loss"][-1][1] < 0.3 * result.curves["loss"][0][1]


def test_projections_are_trained():
    student, teacher, features = make_spec(hidden=8), make_spec(hidden=16), make_features()
    objective = build_objective({"hidden": 1.0}, student=student, teacher=teacher)
    before = weights_of(objective)
    outputs = TeacherOutputs(make_network(teacher, 3), features, needs=objective.needs)
    train(make_network(student), objective, features, TrainingSettings(epochs=1, **FAST), teacher=outputs)
    assert not same(before, weights_of(objective))


def test_misfits_are_refused():
    spec, features, settings = make_spec(), make_features(), TrainingSettings(**FAST)
    network = make_network(spec)
    hidden = build_objective({"hidden": 1.0}, student=spec, teacher=spec)
    hard = build_objective({"hard": 1.0}, student=spec)
    with pytest.raises(ConfigError, match="there is none"):
        train(network, hidden, features, settings)
    with pytest.raises(ConfigError, match="lack"):
        train(network, hidden, features, settings, teacher=TeacherOutputs(copy.deepcopy(network), features))
    outputs = TeacherOutputs(network, features, needs=hidden.needs)
    with pytest.raises(ConfigError, match="share weights"):
        train(network, hidden, features, settings, teacher=outputs)
    with pytest.raises(DataError, match="no examples"):
        train(network, hard, dataclasses.replace(features, offsets=np.zeros(1, np.int64)), settings)
    with pytest.raises(DataError, match="24 of 24"):
        train(network, hard, dataclasses.replace(features, labels=None), settings)
    features.labels[:2] = -1
    with pytest.raises(DataError, match="2 of 24"):
        train(network, hard, features, settings)
    with pytest.raises(ConfigError, match="no parameter"):
        train(network.requires_grad_(False), hard, make_features(), settings)


def test_frozen_parameters_stay():
    network = make_network(make_spec())
    network.encoder.embeddings.requires_grad_(False)
    before = weights_of(network)
    train(network, build_objective({"hard": 1.0}, student=network.spec), make_features(), TrainingSettings(**FAST))
    after = weights_of(network)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any("embeddings" in name for name in moved)


def test_trackers_that_do_not_exist_are_refused():
    for name in ("nonsense", "aim"):
        with pytest.raises(ConfigError, match=name):
            trained(TrainingSettings(epochs=1, trackers=(name,), **FAST))


def test_a_tracker_gets_the_curves(monkeypatch):
    from accelerate import tracking
    from accelerate.tracking import GeneralTracker

    seen = []

    class Recorder(GeneralTracker):
        name, requires_logging_directory, main_process_only = "wandb", False, True

        def __init__(self, run_name, **kwargs):
            super().__init__()

        @property
        def tracker(self):
            return seen

        def store_init_configuration(self, values):
            seen.append(("config", values["batch_size"]))

        def log(self, values, step, **kwargs):
            seen.append((step, sorted(values)))

        def finish(self):
            seen.append("finished")

    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [tracking.LoggerType.WANDB])
    monkeypatch.setitem(tracking.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr("accelerate.accelerator.LOGGER_TYPE_TO_CLASS", tracking.LOGGER_TYPE_TO_CLASS)
    trained(TrainingSettings(epochs=1, trackers=("wandb",), **FAST), score=lambda network: 0.0)
    assert seen[0] == ("config", 8)
    assert (1, ["learning_rate", "loss"]) in seen
    assert (3, ["score"]) in seen
    assert seen[-1] == "finished"


def test_log_lines_where_there_is_no_terminal(caplog, monkeypatch):
    monkeypatch.setattr("bertcompress.training.progress.LOG_SECONDS", 0.0)
    with caplog.at_level(logging.INFO, logger="bertcompress"):
        trained(TrainingSettings(epochs=1, **FAST), description="distill")
    assert any("distill: step 2 of 3, loss" in record.getMessage() for record in caplog.records)


@given(st.integers(1, 500), st.floats(0, 1), st.sampled_from(["linear", "cosine", "constant"]))
def test_learning_rates_rise_then_fall_and_are_never_zero(total, warmup, schedule):
    settings = TrainingSettings(learning_rate=1.0, warmup=warmup, schedule=schedule)
    rates = [learning_rate(step, total, settings) for step in range(total)]
    assert all(0 < rate <= 1.0 for rate in rates)
    peak = max(round(warmup * total) - 1, 0)
    assert rates[peak] == pytest.approx(1.0)
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


@given(st.integers(1, 60), st.integers(1, 9), st.integers(1, 4), st.integers(1, 4))
def test_each_epoch_is_every_example_once_over_all_processes(count, batch_size, accumulation, processes):
    lengths = np.random.default_rng(count).integers(1, 30, count)
    settings = TrainingSettings(batch_size=batch_size, gradient_accumulation_steps=accumulation, max_tokens=64)
    plan = StepPlan(lengths, settings)
    for epoch in range(2):
        seen = []
        for step in range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch):
            for process in range(processes):
                seen.extend(plan.micro_batches(plan.groups(step), process, processes))
        assert sorted(np.concatenate(seen)) == list(range(count))


@given(st.integers(1, 50), st.integers(1, 9))
def test_scores_are_taken_as_often_as_asked(steps_per_epoch, times):
    settings = TrainingSettings(epochs=2, batch_size=1, evaluations_per_epoch=times)
    plan = StepPlan(np.ones(steps_per_epoch, np.int64), settings)
    taken = [step for step in range(1, plan.total + 1) if plan.evaluated(step)]
    assert len(taken) == 2 * min(times, steps_per_epoch)
    assert taken[-1] == plan.total
