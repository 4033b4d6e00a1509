"""SQuAD's official scores: exact match and F1 of the words after normalisation, for versions 1.1 and 2.0.

The two evaluation scripts (https://arxiv.org/abs/1606.05250 and https://arxiv.org/abs/1806.03822) agree wherever
normalisation leaves something of every text. Where it leaves nothing, `unanswerable=True` follows version 2.0: such
gold answers are ignored, a question without any other has the empty answer, and two empty answers have an F1 of 1.
Version 1.1 keeps every gold answer and gives two empty answers an F1 of 0, though they match exactly. Scores are
shares in [0, 1], where the scripts print percent.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from datasets import Features, List, Value

from bertcompress.errors import ConfigError, allowed
from bertcompress.evaluation.metrics.base import MetricModule

VERSIONS = {"squad": False, "squad_v2": True}  # whether "no answer" may be right
_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII only: “curly” quotes and dashes stay, as officially
_ARTICLES = re.compile(r"\b(a|an|the)\b")
_TIE = 1e-9  # sums of F1 that differ by less differ by rounding alone


def normalize(text: str) -> str:
    """Return the text in lower case without ASCII punctuation and articles, its words one space apart."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def answer_statistics(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, unanswerable: bool = False
) -> npt.NDArray[np.float64]:
    """Return exact match and F1 of each prediction with the gold answer that suits it best, (n, 2).

    Args:
        predictions: one text per question, empty for "no answer".
        references: the gold answers of each question; none where the question has no answer.
        unanswerable: whether to score by the rules of version 2.0, which allow questions without an answer.

    Raises:
        ConfigError: the two differ in length or are not texts, or a question has no answer by the rules of 1.1.
    """
    _check(predictions, references, unanswerable)
    statistics = np.zeros((len(predictions), 2))
    for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        given, gold = normalize(prediction), [normalize(answer) for answer in answers]
        if unanswerable:
            gold = [answer for answer in gold if answer] or [""]
        statistics[row] = given in gold, max(_overlap(given.split(), each.split(), unanswerable) for each in gold)
    return statistics


def _overlap(given: list[str], gold: list[str], unanswerable: bool) -> float:
    if not given and not gold:
        return float(unanswerable)
    shared = (Counter(given) & Counter(gold)).total()
    return 2 * shared / (len(given) + len(gold))


def _check(predictions: Sequence[str], references: Sequence[Sequence[str]], unanswerable: bool) -> None:
    if not len(predictions) or len(predictions) != len(references):
        raise ConfigError(
            f"squad: got {len(predictions)} predictions for {len(references)} references; pair them up, at least one."
        )
    for row, (prediction, answers) in enumerate(zip(predictions, references, strict=True)):
        if not isinstance(prediction, str):
            raise ConfigError(f"squad: prediction {row} is {prediction!r}, allowed is a text, empty for no answer.")
        if isinstance(answers, str) or not all(isinstance(answer, str) for answer in answers):
            raise ConfigError(f"squad: reference {row} is {answers!r}, allowed is a list of texts, the gold answers.")
        if not len(answers) and not unanswerable:
            raise ConfigError(
                f"squad: reference {row} has no gold answer, which version 1.1 does not know; score by version 2.0 "
                "with unanswerable=True."
            )


def squad_scores(
    predictions: Sequence[str], references: Sequence[Sequence[str]], *, unanswerable: bool = False
) -> dict[str, float]:
    """Return the scores of a whole data set: `exact_match` and `f1` in [0, 1].

    With `unanswerable` also `has_answer_exact_match` and `has_answer_f1` over the questions that list a gold answer,
    and `no_answer_accuracy` over the others: the share that was answered with nothing. As in the official script a
    number over no questions is left out.

    Args:
        predictions: one text per question, empty for "no answer".
        references: the gold answers of each question; none where the question has no answer.
        unanswerable: whether to score by the rules of version 2.0, which allow questions without an answer.

    Raises:
        ConfigError: as `answer_statistics`.
    """
    statistics = answer_statistics(predictions, references, unanswerable=unanswerable)
    scores = dict(zip(("exact_match", "f1"), statistics.mean(0).tolist(), strict=True))
    if not unanswerable:
        return scores
    has_answer = np.array([len(answers) > 0 for answers in references])
    if has_answer.any():
        exact_match, f1 = statistics[has_answer].mean(0).tolist()
        scores |= {"has_answer_exact_match": exact_match, "has_answer_f1": f1}
    if not has_answer.all():
        scores["no_answer_accuracy"] = float(statistics[~has_answer, 0].mean())
    return scores


def best_threshold(
    margins: npt.ArrayLike, f1_if_answered: npt.ArrayLike, has_answer: npt.ArrayLike
) -> tuple[float, float]:
    """Return the threshold with the best mean F1 when "no answer" is given where `margin > threshold`, and that F1.

    The threshold is the largest margin at which a question is still answered, so that it is always one of the
    margins; or, where nothing should be answered, the next number below all of them. Only thresholds between
    different margins count: the official script also scores some that fall among equal margins, which no threshold
    attains. Of equally good thresholds the highest is taken, which answers most: where every question has an answer
    all are answered, and where none has one, only those whose prediction is empty anyway. It takes O(n log n).

    Args:
        margins: how much better "no answer" scores than the best answer, (n,); infinity where there is no answer
            to give, which no threshold changes.
        f1_if_answered: F1 of the best answer, (n,); `answer_statistics(..., unanswerable=True)[:, 1]`.
        has_answer: whether the question has an answer, (n,).

    Returns:
        The threshold, 0 if every margin is infinite, and the mean F1 at it.

    Raises:
        ConfigError: the three are not (n,) each with n > 0, or a margin is NaN or minus infinity.
    """
    margin, f1 = np.asarray(margins, dtype=np.float64), np.asarray(f1_if_answered, dtype=np.float64)
    silent = 1.0 - np.asarray(has_answer, dtype=bool)  # F1 if the question is not answered
    if margin.ndim != 1 or not len(margin) or not margin.shape == f1.shape == silent.shape:
        raise ConfigError(
            f"best_threshold: got the shapes {margin.shape}, {f1.shape} and {silent.shape}, allowed is (n,) for each."
        )
    if not (margin > -np.inf).all():
        raise ConfigError("best_threshold: margins hold NaN or minus infinity, allowed are numbers and infinity.")
    order = np.argsort(margin, kind="stable")
    order = order[margin[order] < np.inf]
    if not len(order):
        return 0.0, float(silent.mean())
    places = margin[order]
    totals = np.concatenate([[0.0], np.cumsum(f1[order] - silent[order])]) + silent.sum()  # first k answered, (k + 1,)
    attained = np.concatenate([[True], places[1:] != places[:-1], [True]])
    best = int(np.flatnonzero(attained & (totals >= totals[attained].max() - _TIE))[-1])
    threshold = places[best - 1] if best else np.nextafter(places[0], -np.inf)
    return float(threshold), float(np.where(margin <= threshold, f1, silent).mean())


class Squad(MetricModule):
    """`squad_scores` as an `evaluate.Metric`: `Squad("squad_v2").compute(predictions=..., references=...)`."""

    about = "Exact match and F1 of answers, as the official scripts of SQuAD v1.1 and v2.0 compute them, in [0, 1]."
    inputs = "predictions: texts, (n,); references: the gold answers of each question, a list of texts, (n,)."

    def __init__(self, config_name: str = "squad", **settings: Any) -> None:
        """Take the version: "squad" (1.1) or "squad_v2" (2.0, where questions may have no answer).

        Raises:
            ConfigError: there is no such version.
        """
        if config_name not in VERSIONS:
            raise ConfigError(f"Squad: got the version {config_name!r}, allowed are {allowed(VERSIONS)}.")
        super().__init__(config_name=config_name, **settings)

    def columns(self) -> Features:
        """Return the types of `predictions` and `references`."""
        return Features({"predictions": Value("string"), "references": List(Value("string"))})

    def scores(self, predictions: Sequence[Any], references: Sequence[Any], **options: Any) -> dict[str, float]:
        """Return the version's numbers by name."""
        return squad_scores(predictions, references, unanswerable=VERSIONS[self.config_name])
