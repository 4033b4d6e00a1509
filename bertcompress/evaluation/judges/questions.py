"""Judging question answering: official scores, and loyalty of the answer's span, start and end.

A context longer than a window is read in several. The start of the answer is then one distribution over the tokens
of all of them, and over "no answer" in each (its first token): the softmax of all their start logits together, which
is how the best span is chosen as well. The same for the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bertcompress.data.tokenize import slices
from bertcompress.errors import ConfigError
from bertcompress.evaluation.judges.base import Array, Statistic, StatisticJudge, complement, ratio
from bertcompress.evaluation.judges.compared import Compared, compare_answers
from bertcompress.evaluation.metrics.squad import answer_statistics, best_threshold

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.base import Task
    from bertcompress.data.features import Features
    from bertcompress.predictions import Predictions

BLOCK = 1000  # questions that are read at once


class QuestionJudge(StatisticJudge):
    """Exact match and F1 of answers; where some questions have none, also of those with and without."""

    def __init__(self, task: Task, dataset: Dataset) -> None:
        """Take the task and the questions."""
        super().__init__(task, dataset)
        self.gold = _gold_answers(dataset) if "answers" in dataset.column_names else []
        self.answerable = np.array([bool(texts) for texts in self.gold], dtype=bool)
        names = tuple(dict.fromkeys((task.metric, "f1", "exact_match")))
        split = ("has_answer_exact_match", "has_answer_f1", "no_answer_accuracy") if task.unanswerable else ()
        self.names = (*names, *split) if self.gold else ()

    def _statistics(self, texts: list[str]) -> Array:
        """Return exact match and F1 of each answer, (questions, 2)."""
        return answer_statistics(texts, self.gold, unanswerable=self.task.unanswerable)

    def statistics(self, predictions: Predictions) -> Mapping[str, Statistic]:
        """Return the official scores, in [0, 1]."""
        exact, f1 = self._statistics(predictions.answer_texts()).T
        answerable = self.answerable
        found = {"exact_match": ratio(exact), "f1": ratio(f1)}
        if self.task.unanswerable:
            found["has_answer_exact_match"] = ratio(exact * answerable, answerable)
            found["has_answer_f1"] = ratio(f1 * answerable, answerable)
            found["no_answer_accuracy"] = ratio(exact * ~answerable, ~answerable)
        return found

    def selection_score(self, predictions: Predictions) -> float:
        """Return the metric; with unanswerable questions the F1 at the best threshold (the official `best_f1`)."""
        if not self.task.unanswerable:
            return super().selection_score(predictions)
        return self.best_threshold(predictions)[1]

    def best_threshold(self, predictions: Predictions) -> tuple[float, float]:
        """Return the null threshold with the best F1 on these questions, and that F1."""
        answers = predictions.answers
        f1 = self._statistics([answer.text for answer in answers])[:, 1]
        return best_threshold(np.array([answer.margin for answer in answers]), f1, self.answerable)

    def loyalty(self, teacher: Predictions, student: Predictions) -> dict[str, Statistic]:
        """Return how often the two give the same span, start and end, and how close their distributions are.

        `label` is the span's; `probability` is the mean of the start's and the end's.

        Raises:
            ConfigError: the two models read different tokens.
        """
        sides = [self._compare(teacher, student, side) for side in (0, 1)]
        distance = (sides[0].distance + sides[1].distance) / 2
        found = {"label": ratio(_same(teacher, student)), "probability": complement(distance)}
        found["probability_base_2"] = complement(distance / np.sqrt(np.log(2)))
        for name, side in zip(("start", "end"), sides, strict=True):
            found |= {name: ratio(side.agrees), f"{name}_probability": complement(side.distance)}
        return found

    def compared(self, teacher: Predictions, student: Predictions) -> Compared:
        """Return the answers side by side.

        The teacher's confidence is the probability of its likeliest start times that of its likeliest end.
        """
        sides = [self._compare(teacher, student, side) for side in (0, 1)]
        right = None
        if self.gold:
            exact = [self._statistics(each.answer_texts())[:, 0] > 0 for each in (teacher, student)]
            right = exact[0], exact[1]
        return compare_answers(
            teacher,
            student,
            self.dataset,
            agrees=_same(teacher, student),
            confidence=sides[0].confidence * sides[1].confidence,
            distance=(sides[0].distance + sides[1].distance) / 2,
            right=right,
        )

    def _compare(self, teacher: Predictions, student: Predictions, side: int) -> _Side:
        """Compare the starts (0) or ends (1)."""
        features, other = teacher.features, student.features
        assert features is not None
        assert other is not None
        if not np.array_equal(features.offsets, other.offsets):
            raise ConfigError(
                "loyalty: teacher and student cut the contexts into different tokens, so their starts and ends cannot "
                "be compared; use one tokenizer and one max_length, or leave 'loyalty' out."
            )
        places, bounds = _positions(features)
        logs = [_log_softmax(each.logits[places, side].astype(np.float64), bounds) for each in (teacher, student)]
        best = [_first_best(each, bounds) for each in logs]
        confidence = np.minimum(1.0, np.exp(logs[0][best[0]]))
        return _Side(best[0] == best[1], _distances(logs[0], logs[1], bounds), confidence)


def _gold_answers(dataset: Dataset) -> list[list[str]]:
    """Return the texts of each question's answers, read in blocks: one by one they take ten times as long."""
    blocks = (values["answers"] for _, values in slices(dataset, ["answers"], BLOCK))
    return [answers["text"] for block in blocks for answers in block]


class _Side(NamedTuple):
    """One end of the answers, (questions,) each: same token, distance, the teacher's probability of its best."""

    agrees: Array
    distance: Array
    confidence: Array


def _same(teacher: Predictions, student: Predictions) -> Array:
    """Return whether the two give the same span, or both none, (questions,)."""
    pairs = zip(_spans(teacher), _spans(student), strict=True)
    return np.array([first == second for first, second in pairs], dtype=bool)


def _spans(predictions: Predictions) -> list[tuple[int, int] | None]:
    """Return the characters of each answer; None where the model says that there is none."""
    return [None if predictions.unanswered(each) else (each.start, each.end) for each in predictions.answers]


def _positions(features: Features) -> tuple[Array, Array]:
    """Return the tokens that a start or end may be at, context and first ones, and where each example's begin.

    The second has no entry for the end: example i's are `places[bounds[i]:bounds[i + 1]]`, as `reduceat` wants it.
    """
    assert features.starts is not None
    eligible = np.asarray(features.starts) >= 0
    eligible[features.offsets[:-1]] = True
    places = np.flatnonzero(eligible)
    first_rows = np.searchsorted(features.examples, np.arange(features.num_examples))
    bounds: Array = np.searchsorted(places, features.offsets[first_rows])
    return places, bounds


def _each(bounds: Array, total: int) -> Array:
    examples: Array = np.repeat(np.arange(len(bounds)), np.diff([*bounds, total]))
    return examples


def _log_softmax(logits: Array, bounds: Array) -> Array:
    """Return log-probabilities within each example, all examples one after the other."""
    example = _each(bounds, len(logits))
    shifted = logits - np.maximum.reduceat(logits, bounds)[example]
    result: Array = shifted - np.log(np.add.reduceat(np.exp(shifted), bounds))[example]
    return result


def _first_best(values: Array, bounds: Array) -> Array:
    """Return where each example's largest value first stands."""
    example = _each(bounds, len(values))
    candidates = np.flatnonzero(values == np.maximum.reduceat(values, bounds)[example])
    _, first = np.unique(example[candidates], return_index=True)
    best: Array = candidates[first]
    return best


def _distances(log_p: Array, log_q: Array, bounds: Array) -> Array:
    """Return the Jensen-Shannon distance, base e, of each example's two distributions."""

    def entropy(log_a: Array, log_b: Array) -> Array:  # KL(A || M) in nats, M the mean; exactly 0 where the two agree
        terms: Array = np.exp(log_a) * (np.log(2) - np.logaddexp(0.0, log_b - log_a))
        return terms

    divergence = 0.5 * np.add.reduceat(entropy(log_p, log_q) + entropy(log_q, log_p), bounds)
    result: Array = np.sqrt(np.clip(divergence, 0.0, np.log(2)))
    return result
