"""Judging question answering: official scores, and loyalty of the answer's span, start and end.

A context longer than a window is read in several. The start of the answer is then one distribution over the tokens of
the context and "no answer": the softmax of the start logits of all windows together, which is how the best span is
chosen as well, where the places of one token in overlapping windows, and the first tokens of all windows ("no
answer"), add up. The same for the end.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy.special import rel_entr

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
        """Return the metric; with unanswerable questions at its best threshold (the official `best_f1`)."""
        if not self.task.unanswerable:
            return super().selection_score(predictions)
        return self.best_threshold(predictions)[1]

    def best_threshold(self, predictions: Predictions) -> tuple[float, float]:
        """Return the null threshold with the best value of the task's metric on these questions, and that value."""
        answers = predictions.answers
        score = self._statistics([answer.text for answer in answers])[:, 0 if self.names[0] == "exact_match" else 1]
        return best_threshold(np.array([answer.margin for answer in answers]), score, self.answerable)

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
        tokens = _tokens(features)
        logits = [each.logits[tokens.places, side].astype(np.float64) for each in (teacher, student)]
        found = [_probabilities(each, tokens) for each in logits]
        best = [_first_best(each, tokens.bounds) for each in found]
        return _Side(best[0] == best[1], _distances(found[0], found[1], tokens.bounds), found[0][best[0]])


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


class _Tokens(NamedTuple):
    """What a start or end may be at, question after question: "no answer" first, then the tokens of its context.

    Attributes:
        places: in the flat tokens of all rows, (places,).
        question: that each place belongs to, (places,).
        token: the number of the token, over all questions, that each place is a copy of, (places,).
        bounds: the first token of each question, (questions,), as `reduceat` wants it.
    """

    places: Array
    question: Array
    token: Array
    bounds: Array


def _tokens(features: Features) -> _Tokens:
    assert features.starts is not None
    starts = np.asarray(features.starts)
    eligible = starts >= 0
    eligible[features.offsets[:-1]] = True  # "no answer", where `starts` is -1
    places = np.flatnonzero(eligible)
    question = features.examples[np.searchsorted(features.offsets, places, side="right") - 1]
    keys = np.stack([question, starts[places]], axis=1)
    distinct, token = np.unique(keys, axis=0, return_inverse=True)  # sorted by question, then by place in the context
    bounds = np.searchsorted(distinct[:, 0], np.arange(features.num_examples))
    return _Tokens(places, question, token.reshape(-1), bounds)


def _probabilities(logits: Array, tokens: _Tokens) -> Array:
    """Return the probability of each token, those of one question adding up to 1, (tokens,)."""
    highest = np.full(len(tokens.bounds), -np.inf)
    np.maximum.at(highest, tokens.question, logits)
    weights = np.bincount(tokens.token, np.exp(logits - highest[tokens.question]))
    totals = np.add.reduceat(weights, tokens.bounds)
    result: Array = weights / np.repeat(totals, np.diff([*tokens.bounds, len(weights)]))
    return result


def _first_best(values: Array, bounds: Array) -> Array:
    """Return where each question's largest value first stands."""
    question = np.repeat(np.arange(len(bounds)), np.diff([*bounds, len(values)]))
    candidates = np.flatnonzero(values == np.maximum.reduceat(values, bounds)[question])
    _, first = np.unique(question[candidates], return_index=True)
    best: Array = candidates[first]
    return best


def _distances(p: Array, q: Array, bounds: Array) -> Array:
    """Return the Jensen-Shannon distance, base e, of each question's two distributions; exactly 0 where they agree."""
    middle = (p + q) / 2
    divergence = 0.5 * np.add.reduceat(rel_entr(p, middle) + rel_entr(q, middle), bounds)
    result: Array = np.sqrt(np.clip(divergence, 0.0, np.log(2)))
    return result
