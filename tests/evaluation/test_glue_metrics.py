from __future__ import annotations

import math
import socket
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn_metrics

from bertcompress import metrics as public
from bertcompress.data.glue import GLUE
from bertcompress.data.mapping import METRICS as OWN_METRICS
from bertcompress.errors import ConfigError
from bertcompress.evaluation.metrics import ALIASES, METRICS, WEIGHTED, glue, metric_function, metric_names
from bertcompress.evaluation.metrics.glue import GLUE_METRICS

pairs = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=40)


def by_hand_matthews(predictions: np.ndarray, references: np.ndarray) -> float:
    tp, tn = ((predictions == value) & (references == value) for value in (1, 0))
    fp, fn = (predictions == 1) & (references == 0), (predictions == 0) & (references == 1)
    tp, tn, fp, fn = (int(each.sum()) for each in (tp, tn, fp, fn))
    product = (tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)
    return (tp * tn - fp * fn) / math.sqrt(product) if product else 0.0


@given(pairs)
def test_binary_metrics_equal_their_definitions(drawn: list[tuple[int, int]]) -> None:
    predictions, references = np.array(drawn).T
    hits = int(((predictions == 1) & (references == 1)).sum())
    positives = int(predictions.sum() + references.sum())
    assert METRICS["accuracy"](predictions, references) == pytest.approx(np.mean(predictions == references))
    assert METRICS["f1"](predictions, references) == pytest.approx(2 * hits / positives if positives else 0.0)
    expected = by_hand_matthews(predictions, references)
    assert METRICS["matthews_correlation"](predictions, references) == pytest.approx(expected, abs=1e-12)


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=40))
def test_weighted_forms_equal_the_metrics_on_the_repeated_examples(drawn: list[tuple[int, int]]) -> None:
    rows, counts = np.unique(np.array(drawn), axis=0, return_counts=True)
    repeated = np.repeat(rows, counts, axis=0)
    for name in ("accuracy", "matthews_correlation"):
        value = WEIGHTED[name](rows[:, 0], rows[:, 1], counts[None].astype(float))[0]
        assert value == pytest.approx(METRICS[name](repeated[:, 0], repeated[:, 1]), abs=1e-12)


@given(pairs)
def test_weighted_f1_equals_f1_on_the_repeated_examples(drawn: list[tuple[int, int]]) -> None:
    rows, counts = np.unique(np.array(drawn), axis=0, return_counts=True)
    repeated = np.repeat(rows, counts, axis=0)
    value = WEIGHTED["f1"](rows[:, 0], rows[:, 1], counts[None].astype(float))[0]
    assert value == pytest.approx(METRICS["f1"](repeated[:, 0], repeated[:, 1]), abs=1e-12)


def test_matthews_of_three_classes_equals_scikit_learn() -> None:
    random = np.random.default_rng(0)
    predictions, references = random.integers(3, size=(2, 200))
    expected = sklearn_metrics.matthews_corrcoef(references, predictions)
    assert METRICS["matthews_correlation"](predictions, references) == pytest.approx(expected, abs=1e-15)


def test_correlations_equal_numpy_and_ranks() -> None:
    random = np.random.default_rng(0)
    gold = random.normal(size=300)
    predictions = gold + random.normal(size=300)
    ranks = [each.argsort().argsort() for each in (predictions, gold)]
    assert METRICS["pearson"](predictions, gold) == pytest.approx(np.corrcoef(predictions, gold)[0, 1], abs=1e-12)
    assert METRICS["spearmanr"](predictions, gold) == pytest.approx(np.corrcoef(*ranks)[0, 1], abs=1e-12)
    # A monotone map changes Pearson and not Spearman; ties take their mean rank (scipy's own example by hand: 2 ties).
    assert METRICS["spearmanr"](np.exp(predictions), gold) == pytest.approx(METRICS["spearmanr"](predictions, gold))
    assert METRICS["spearmanr"]([1, 2, 2, 3], [1, 2, 3, 4]) == pytest.approx(0.9486832980505138)


def test_published_outputs_of_the_evaluate_library() -> None:
    # From the examples in the documentation of evaluate's `glue` metric and its parts.
    assert METRICS["matthews_correlation"]([0, 1], [0, 1]) == 1.0
    assert METRICS["accuracy"]([0, 1], [0, 1]) == METRICS["f1"]([0, 1], [0, 1]) == 1.0
    assert METRICS["pearson"]([0.0, 1.0, 2.0, 3.0, 4.0, 5.0], [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.0)
    assert METRICS["pearson"]([10, 9, 2.5, 6, 4], [1, 2, 3, 4, 5]) == pytest.approx(-0.74, abs=0.005)
    assert METRICS["spearmanr"]([10, 9, 2.5, 6, 4], [1, 2, 3, 4, 5]) == pytest.approx(-0.7)
    assert METRICS["accuracy"]([0, 1, 1, 2, 1, 0], [0, 1, 2, 0, 1, 2]) == 0.5
    assert METRICS["f1"]([0, 0, 1, 1, 0], [0, 1, 0, 1, 0]) == 0.5
    assert METRICS["matthews_correlation"]([1, 2, 2, 0, 3, 3], [1, 3, 2, 0, 3, 2]) == pytest.approx(0.54, abs=0.005)


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearmanr"])
@pytest.mark.parametrize("constant_first", [True, False])
def test_a_constant_column_scores_zero_without_a_warning(name: str, constant_first: bool) -> None:
    columns = ([1, 1, 1, 1], [0, 1, 0, 1]) if constant_first else ([0, 1, 0, 1], [1, 1, 1, 1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert METRICS[name](*columns) == 0.0


def test_a_column_that_is_constant_but_for_rounding_gives_a_finite_correlation() -> None:
    nearly = np.full(5, 0.1)
    nearly[0] = np.nextafter(0.1, 1)
    assert math.isfinite(METRICS["pearson"](nearly, np.arange(5)))


def test_f1_without_any_positive_is_zero() -> None:
    assert METRICS["f1"]([0, 0], [0, 0]) == 0.0


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize(
    ("predictions", "references", "says"),
    [
        ([], [], "shape"),
        ([0, 1], [0, 1, 1], "2 predictions for 3"),
        ([[0.1, 0.9]], [1], "argmax"),
        ([0, math.nan], [0, 1], "NaN"),
        (["a", "b"], [0, 1], "type"),
    ],
)
def test_unusable_input_is_refused(name: str, predictions: list, references: list, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        METRICS[name](predictions, references)


def test_f1_of_three_classes_and_fractional_classes_are_refused() -> None:
    with pytest.raises(ConfigError, match="allowed are 0 and 1"):
        METRICS["f1"]([0, 2], [0, 1])
    with pytest.raises(ConfigError, match="whole numbers"):
        METRICS["accuracy"]([0.5, 1], [0, 1])
    with pytest.raises(ConfigError, match="at least 2"):
        METRICS["pearson"]([1.0], [1.0])


def test_every_glue_task_reports_its_official_metrics() -> None:
    assert len(GLUE_METRICS) == 9
    assert metric_names("mrpc", "classification", "f1") == ("f1", "accuracy")
    assert metric_names("stsb", "regression", "spearmanr") == ("spearmanr", "pearson")
    assert metric_names("cola", "classification", "matthews_correlation") == ("matthews_correlation",)
    assert metric_names("tickets", "classification", "accuracy") == ("accuracy",)
    assert metric_names("tickets", "classification", "f1") == ("f1", "accuracy")
    assert metric_names("stars", "regression", "pearson") == ("pearson", "spearmanr")


def test_the_metric_of_every_task_is_known() -> None:
    for name, layout in GLUE.items():
        names = metric_names(name, layout.kind, layout.metric)
        assert names[0] == layout.metric
        assert set(GLUE_METRICS.get(name, ())) <= set(names)
    for kind in ("classification", "regression"):
        for metric in OWN_METRICS[kind]:
            assert metric_names("tickets", kind, metric)[0] == metric


def test_unknown_and_unfitting_metrics_are_refused() -> None:
    with pytest.raises(ConfigError, match="'bleu', allowed are 'accuracy'"):
        metric_function("bleu")
    with pytest.raises(ConfigError, match="does not fit a regression task"):
        metric_names("stars", "regression", "accuracy")
    assert all(metric_function(alias) is METRICS[name] for alias, name in ALIASES.items())


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object, **settings: object) -> None:
        raise AssertionError("a metric tried to reach the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("module", "name"),
    [
        (public.Accuracy, "accuracy"),
        (public.F1, "f1"),
        (public.MatthewsCorrelation, "matthews_correlation"),
        (public.Pearson, "pearson"),
        (public.Spearman, "spearmanr"),
    ],
)
def test_modules_compute_the_functions_without_a_network(module: type, name: str) -> None:
    predictions, references = [0, 1, 1, 0, 1], [0, 1, 0, 0, 1]
    assert module().compute(predictions=predictions, references=references) == {
        name: METRICS[name](predictions, references)
    }


@pytest.mark.usefixtures("offline")
def test_modules_take_batches_and_can_be_used_twice() -> None:
    metric = public.Accuracy()
    for _ in range(2):
        metric.add_batch(predictions=np.array([0, 1]), references=np.array([0, 0]))
        metric.add_batch(predictions=[1], references=[1])
        assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}


@settings(deadline=None, max_examples=10)
@given(st.sampled_from(sorted(GLUE_METRICS)))
def test_the_glue_module_gives_a_tasks_metrics(name: str) -> None:
    predictions, references = ([0.1, 0.9, 0.5], [0.0, 1.0, 0.7]) if name == "stsb" else ([0, 1, 1], [0, 1, 0])
    found = glue.Glue(name).compute(predictions=predictions, references=references)
    assert found == {each: METRICS[each](predictions, references) for each in GLUE_METRICS[name]}


def test_the_glue_module_refuses_other_tasks() -> None:
    with pytest.raises(ConfigError, match="'squad', allowed are 'cola'"):
        glue.Glue("squad")
