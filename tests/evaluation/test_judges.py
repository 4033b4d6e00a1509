from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon

from bertcompress.data.answers import decode_answers
from bertcompress.data.base import Task, make_dataset
from bertcompress.data.features import Features
from bertcompress.evaluation.judges import judge_for
from bertcompress.evaluation.judges.base import Statistic, complement, ratio, resample
from bertcompress.evaluation.judges.embedding import shared_neighbours
from bertcompress.evaluation.judges.sequence import concordance, correlation
from bertcompress.predictions import Predictions

RANDOM = np.random.default_rng(5)


def softmax(values):
    weights = np.exp(np.asarray(values, np.float64) - np.max(values))
    return weights / weights.sum()


def questions(rows=3):
    """Two questions: the first read in two windows of five tokens, the second in one of four."""
    lengths = np.array([5, 5, 4])
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    starts = np.array([-1, 0, 2, 4, -1, -1, 4, 6, 8, -1, -1, 0, 2, -1], np.int32)
    ends = np.where(starts >= 0, starts + 1, -1).astype(np.int32)
    ids = np.zeros(14, np.int32)
    spans = np.zeros((3, 2), np.int64)
    examples = np.array([0, 0, 1])
    return Features(
        ids, ids.astype(np.int8), offsets, spans, 0, "question_answering", examples, 2, starts=starts, ends=ends
    )


CONTEXTS = ["a b c d e", "a b"]
PLACES = [  # of each question: "no answer", then the tokens of its context, with their copies in other windows
    [[0, 5], [1], [2], [3, 6], [7], [8]],
    [[10], [11], [12]],
]


@pytest.fixture
def task():
    answers = [{"text": ["b c"], "answer_start": [2]}, {"text": [], "answer_start": []}]
    columns = {"id": ["1", "2"], "question": ["What is it?", "and?"], "context": CONTEXTS, "answers": answers}
    return Task("toy", "question_answering", (), "f1", test=make_dataset(columns), unanswerable=True)


def shares(logits, tokens):
    weights = np.array([sum(np.exp(float(logits[place])) for place in places) for places in tokens])
    return weights / weights.sum()


def predictions(logits, threshold=None):
    features = questions()
    return Predictions(
        logits, features=features, answers=tuple(decode_answers(features, logits, CONTEXTS)), null_threshold=threshold
    )


@pytest.mark.parametrize("seed", range(5))
def test_starts_and_ends_are_compared_over_all_windows_of_a_question(task, seed):
    random = np.random.default_rng(seed)
    teacher, student = (predictions(random.normal(size=(14, 2)).astype(np.float32)) for _ in range(2))
    found = judge_for(task, task.test).loyalty(teacher, student)
    for side, name in enumerate(("start", "end")):
        distances, same = [], []
        for tokens in PLACES:
            p, q = (shares(each.logits[:, side], tokens) for each in (teacher, student))
            distances.append(jensenshannon(p, q))
            same.append(p.argmax() == q.argmax())
        assert found[name].total() == np.mean(same)
        assert found[f"{name}_probability"].total() == pytest.approx(1 - np.mean(distances), abs=1e-12)
    both = (found["start_probability"].total() + found["end_probability"].total()) / 2
    assert found["probability"].total() == pytest.approx(both)
    base_2 = 1 - (1 - both) / np.sqrt(np.log(2))
    assert found["probability_base_2"].total() == pytest.approx(base_2)


def test_not_answering_is_an_answer_that_two_models_can_share(task):
    logits = RANDOM.normal(size=(14, 2)).astype(np.float32)
    silent, talking = predictions(logits, threshold=-np.inf), predictions(logits)
    judge = judge_for(task, task.test)
    assert judge.loyalty(silent, predictions(-logits, threshold=-np.inf))["label"].total() == 1
    assert judge.loyalty(silent, talking)["label"].total() == 0
    assert judge.scores(silent)["no_answer_accuracy"] == 1
    assert judge.scores(silent)["has_answer_f1"] == 0
    assert judge.scores(silent)["exact_match"] == 0.5


def test_resampled_statistics_have_the_mean_and_spread_of_the_plain_bootstrap():
    values = np.random.default_rng(0).normal(size=60)
    draws = resample([ratio(values), complement(values)], seed=1, resamples=4000)
    plain = np.random.default_rng(2).choice(values, size=(4000, 60)).mean(1)
    assert draws[:, 0].mean() == pytest.approx(plain.mean(), abs=0.01)
    assert draws[:, 0].std() == pytest.approx(plain.std(), rel=0.05)
    np.testing.assert_allclose(draws[:, 0], 1 - draws[:, 1])  # on the same resamples
    coarse = np.round(values)
    drawn = resample([ratio(coarse)], seed=1, resamples=4000)[:, 0]  # few distinct rows: the other way of drawing
    assert drawn.std() == pytest.approx(coarse.std() / np.sqrt(60), rel=0.05)


def test_concordance_is_lins_and_falls_with_a_shift_and_a_scale():
    first, second = RANDOM.normal(size=40), RANDOM.normal(size=40)
    covariance = np.cov(first, second, bias=True)[0, 1]
    expected = 2 * covariance / (first.var() + second.var() + (first.mean() - second.mean()) ** 2)
    assert concordance(first, second).total() == pytest.approx(expected)
    assert concordance(first, first).total() == 1
    assert concordance(first, first + 1).total() < 0.9
    assert concordance(first, first * 2).total() < 0.9
    assert concordance(np.ones(5), np.ones(5)).total() == 1
    assert correlation(first, second).total() == pytest.approx(np.corrcoef(first, second)[0, 1])
    assert correlation(first, first).total() == 1
    assert correlation(first, np.ones(40)).total() == 0


@pytest.mark.parametrize("count", [1, 3, 40])
def test_shared_neighbours_are_those_of_sorting_all_cosines(count):
    random = np.random.default_rng(count)
    sets = [each / np.linalg.norm(each, axis=1, keepdims=True) for each in random.normal(size=(2, 30, 6))]
    near = []
    for directions in sets:
        order = np.argsort(-(directions @ directions.T), axis=1, kind="stable")
        others = [[other for other in row if other != text] for text, row in enumerate(order)]
        near.append([set(row[:count]) for row in others])
    possible = min(count, 29)
    expected = [len(a & b) / possible for a, b in zip(*near, strict=True)]
    np.testing.assert_allclose(shared_neighbours(*sets, count), expected)


def test_a_single_text_has_no_neighbours_to_lose():
    assert shared_neighbours(np.ones((1, 3)), np.ones((1, 3)), 10).tolist() == [1.0]


def test_a_statistic_over_nothing_is_zero():
    assert ratio([0.0, 0.0], [0, 0]).total() == 0
    assert Statistic(np.ones((2, 1)), lambda sums: sums[:, 0]).total() == 2


def test_confidence_of_a_class_is_its_probability():
    from bertcompress.evaluation.judges.compared import compare_classes

    logits = RANDOM.normal(size=(6, 3)).astype(np.float32)
    data = make_dataset({"text": list("abcdef"), "label": [0, 1, 2, 0, 1, 2]})
    both = [SimpleNamespace(logits=each) for each in (logits, -logits)]
    compared = compare_classes(*both, data, ("x", "y", "z"), np.asarray(data["label"]))
    np.testing.assert_allclose(compared.units.confidence, [softmax(row).max() for row in logits])
    shown = compared.show(2)
    assert shown["text"] == "c"
    assert shown["gold"] == "z"
    assert shown["teacher"] == "xyz"[logits[2].argmax()]
    assert shown["student"] == "xyz"[logits[2].argmin()]
