"""Answers to questions: the best span of text that the logits of a question's windows allow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bertcompress.errors import ConfigError

ROWS, PAIRS = 1024, 1 << 19  # at most decoded at once, so that memory does not grow with the data or `n_best`


class QuestionFeatures(Protocol):
    """What is read of tokenized questions; `Features` of the kind question_answering has it.

    Attributes:
        offsets: int64 (rows + 1,), row r holds the tokens `offsets[r]` up to but without `offsets[r + 1]`.
        examples: int64 (rows,), the question that a row is a window of; it never falls.
        num_examples: how many questions there are.
        starts: int32 (tokens,), where in the context a token begins, -1 for tokens that are not context.
        ends: int32 (tokens,), where it ends, the character behind its last one.
    """

    @property
    def offsets(self) -> npt.NDArray[np.int64]: ...  # noqa: D102
    @property
    def examples(self) -> npt.NDArray[np.int64]: ...  # noqa: D102
    @property
    def num_examples(self) -> int: ...  # noqa: D102
    @property
    def starts(self) -> npt.NDArray[np.int32] | None: ...  # noqa: D102
    @property
    def ends(self) -> npt.NDArray[np.int32] | None: ...  # noqa: D102


@dataclass(frozen=True)
class Answer:
    """The best span of a question's context, and how it compares with giving no answer.

    Attributes:
        text: the span; empty if the windows allow none.
        start: its first character in the context.
        end: the character behind its last one.
        score: start logit plus end logit; minus infinity if the windows allow no span.
        margin: lowest score of "no answer" over the question's windows minus `score`; "no answer" is given where it
            is above a threshold. Infinity if the windows allow no span.
    """

    text: str
    start: int
    end: int
    score: float
    margin: float


def decode_answers(
    features: QuestionFeatures,
    logits: npt.NDArray[np.float32],
    contexts: Sequence[str],
    *,
    n_best: int = 20,
    max_answer_tokens: int = 30,
) -> list[Answer]:
    """Return the best answer to every question, in order.

    A window's spans run from one of its `n_best` best starts to one of its `n_best` best ends, both among the tokens
    of the context, the end not before the start and not more than `max_answer_tokens` tokens in all. The span with
    the highest score over a question's windows wins; "no answer" of a window scores start plus end logit of its first
    token. Scores are added in float64. Of equal logits the earlier token ranks higher; of equal scores the earlier
    window wins, in it the earlier start, then the earlier end.

    Args:
        features: the tokenized questions.
        logits: of start and end at every token, (tokens, 2), flat as the tokens of `features`.
        contexts: the text of each question's context, (num_examples,).
        n_best: starts and ends to combine.
        max_answer_tokens: the longest answer.

    Raises:
        ConfigError: sizes do not fit each other, a logit is not finite, or a question has no window.
    """
    starts, ends = _check(features, logits, contexts, n_best, max_answer_tokens)
    if not len(contexts):
        return []
    offsets, rows = np.asarray(features.offsets), min(ROWS, max(1, PAIRS // n_best**2))
    parts = []
    for first in range(0, len(offsets) - 1, rows):
        bounds = offsets[first : first + rows + 1]
        allowed = starts[bounds[0] : bounds[-1]] >= 0
        parts.append(_best_spans(bounds, logits[bounds[0] : bounds[-1]], allowed, n_best, max_answer_tokens))
    scores, spans = (np.concatenate(each) for each in zip(*parts, strict=True))  # (rows,), (rows, 2) of tokens
    nothing = logits[offsets[:-1]].astype(np.float64).sum(1)  # (rows,)
    examples = np.asarray(features.examples)
    windows = np.flatnonzero(np.diff(examples, prepend=-1))  # first row of each question
    lowest = np.minimum.reduceat(nothing, windows)
    order = np.lexsort((-scores, examples))  # stable: of equal scores the earlier window stays first
    answers = []
    for question, row in enumerate(order[windows].tolist()):
        score = float(scores[row])
        margin = float(lowest[question]) - score
        if score == -np.inf:
            answers.append(Answer("", 0, 0, score, margin))
            continue
        start, end = int(starts[spans[row, 0]]), int(ends[spans[row, 1]])
        answers.append(Answer(contexts[question][start:end], start, end, score, margin))
    return answers


def _check(
    features: QuestionFeatures, logits: npt.NDArray[np.float32], contexts: Sequence[str], n_best: int, longest: int
) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    for name, value in (("n_best", n_best), ("max_answer_tokens", longest)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name}: got {value!r}, allowed is a whole number of at least 1.")
    if features.starts is None or features.ends is None:
        raise ConfigError("decode_answers: the features have no places of tokens; featurize a question answering task.")
    if logits.shape != (len(features.starts), 2):
        raise ConfigError(
            f"decode_answers: logits have the shape {logits.shape}, allowed is {(len(features.starts), 2)}: start and "
            "end of every token."
        )
    if not np.isfinite(logits).all():
        raise ConfigError("decode_answers: logits hold NaN or infinity, allowed are finite numbers.")
    seen = np.unique(features.examples)
    if len(contexts) != features.num_examples or not np.array_equal(seen, np.arange(features.num_examples)):
        raise ConfigError(
            f"decode_answers: got {len(contexts)} contexts and windows of {len(seen)} questions for "
            f"{features.num_examples} questions; give one context each, and at least one window."
        )
    return features.starts, features.ends


def _best_spans(
    bounds: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float32],
    allowed: npt.NDArray[np.bool_],
    n_best: int,
    longest: int,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return each row's best score, (rows,), and the first and last token of that span, (rows, 2), counted overall."""
    sizes = np.diff(bounds)
    real = np.arange(int(sizes.max())) < sizes[:, None]  # (rows, L)
    padded = np.full((2, *real.shape), -np.inf)
    padded[:, real] = np.where(allowed, logits.T, -np.inf)
    order = np.argsort(-padded, axis=2, kind="stable")[:, :, :n_best]  # (2, rows, n)
    order.sort(axis=2)  # by place, so that the first of equal scores is the earliest span
    values = np.take_along_axis(padded, order, 2)
    scores = values[0][:, :, None] + values[1][:, None, :]  # (rows, n, n)
    tokens = order[1][:, None, :] - order[0][:, :, None] + 1
    scores[(tokens < 1) | (tokens > longest)] = -np.inf
    flat = scores.reshape(len(sizes), -1)
    best = flat.argmax(1)
    row, (start, end) = np.arange(len(sizes)), np.unravel_index(best, scores.shape[1:])
    spans = np.stack([order[0][row, start], order[1][row, end]], axis=1) + bounds[:-1, None]
    return flat[row, best], spans
