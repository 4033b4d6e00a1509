from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
import pytest

from bertcompress.data import answers
from bertcompress.data.answers import Answer, decode_answers
from bertcompress.errors import ConfigError


@dataclass(frozen=True)
class Windows:
    """What `decode_answers` reads of tokenized questions."""

    offsets: np.ndarray
    examples: np.ndarray
    num_examples: int
    starts: np.ndarray | None
    ends: np.ndarray | None


def windows_of(contexts: list[str], rows: list[tuple[int, int, list[tuple[int, int]]]]) -> Windows:
    """Build rows of (example, tokens before the context, places of the context's tokens); one token follows each."""
    places = [[(-1, -1)] * before + context + [(-1, -1)] for _, before, context in rows]
    flat = np.array([place for row in places for place in row], dtype=np.int32)
    offsets = np.cumsum([0, *(len(row) for row in places)])
    examples = np.array([example for example, _, _ in rows], dtype=np.int64)
    return Windows(offsets, examples, len(contexts), flat[:, 0], flat[:, 1])


def random_windows(random: np.random.Generator, questions: int, longest: int = 14) -> tuple[Windows, list[str]]:
    contexts, rows = [], []
    for question in range(questions):
        text = "".join(random.choice(list("abcdé "), size=60))
        contexts.append(text)
        for _ in range(random.integers(1, 4)):
            begin = random.integers(10)
            size = random.integers(longest + 1)  # some windows hold nothing of the context
            rows.append(
                (question, int(random.integers(1, 5)), [(3 * at, 3 * at + 2) for at in range(begin, begin + size)])
            )
    return windows_of(contexts, rows), contexts


def plain_answers(
    features: Windows, logits: np.ndarray, contexts: list[str], n_best: int, max_answer_tokens: int
) -> list[Answer]:
    found = []
    for example, context in enumerate(contexts):
        best, span, nothing = -np.inf, (0, 0), np.inf
        for row in np.flatnonzero(features.examples == example):
            first, last = int(features.offsets[row]), int(features.offsets[row + 1])
            nothing = min(nothing, float(logits[first, 0]) + float(logits[first, 1]))
            tokens = [token for token in range(first, last) if features.starts[token] >= 0]
            begins, finishes = (
                sorted(sorted(tokens, key=lambda token: (-logits[token, side], token))[:n_best]) for side in (0, 1)
            )
            for begin in begins:
                for finish in finishes:
                    score = float(logits[begin, 0]) + float(logits[finish, 1])
                    if begin <= finish < begin + max_answer_tokens and score > best:
                        best, span = score, (int(features.starts[begin]), int(features.ends[finish]))
        found.append(Answer(context[span[0] : span[1]], *span, best, nothing - best))
    return found


@pytest.mark.parametrize("n_best", [1, 2, 5, 100])
@pytest.mark.parametrize("max_answer_tokens", [1, 3, 100])
@pytest.mark.parametrize("tied", [False, True])
def test_answers_equal_a_plain_search(n_best: int, max_answer_tokens: int, tied: bool) -> None:
    random = np.random.default_rng([n_best, max_answer_tokens, tied])
    features, contexts = random_windows(random, 60)
    shape = (int(features.offsets[-1]), 2)
    # Few different values make ties of logits, of spans in one window and of windows, all of them often.
    logits = random.integers(-2, 3, size=shape) if tied else random.normal(size=shape)
    logits = logits.astype(np.float32)
    found = decode_answers(features, logits, contexts, n_best=n_best, max_answer_tokens=max_answer_tokens)
    assert found == plain_answers(features, logits, contexts, n_best, max_answer_tokens)
    assert len({answer.text for answer in found}) > 10


def test_blocks_of_rows_do_not_change_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(1)
    features, contexts = random_windows(random, 40)
    logits = random.normal(size=(int(features.offsets[-1]), 2)).astype(np.float32)
    expected = decode_answers(features, logits, contexts)
    for rows, pairs in ((7, 1 << 19), (1024, 1)):
        monkeypatch.setattr(answers, "ROWS", rows)
        monkeypatch.setattr(answers, "PAIRS", pairs)
        assert decode_answers(features, logits, contexts) == expected


def test_an_answer_by_hand() -> None:
    context = "the red cat sat"
    features = windows_of([context], [(0, 2, [(0, 3), (4, 7), (8, 11)]), (0, 2, [(4, 7), (8, 11), (12, 15)])])
    logits = np.zeros((12, 2), dtype=np.float32)
    logits[0], logits[6] = (1.0, 0.5), (0.25, 0.5)  # "no answer": 1.5 in the first window, 0.75 in the second
    logits[1] = 9.0  # not context, so never part of an answer
    logits[3, 0], logits[4, 1] = 2.0, 1.5  # "red cat" in the first window
    logits[8, 0], logits[9, 1] = 2.0, 2.0  # the same in the second, where it scores more
    assert decode_answers(features, logits, [context]) == [Answer("red cat", 4, 11, 4.0, -3.25)]
    assert decode_answers(features, logits, [context], max_answer_tokens=1)[0].text in ("red", "cat")


def test_of_equal_scores_the_first_window_and_the_earliest_shortest_span_win() -> None:
    context = "ab cd ef"
    tokens = [(0, 2), (3, 5), (6, 8)]
    features = windows_of([context], [(0, 1, tokens[1:]), (0, 1, tokens)])
    found = decode_answers(features, np.zeros((9, 2), dtype=np.float32), [context])
    assert found == [Answer("cd", 3, 5, 0.0, 0.0)]


def test_a_question_without_a_span_has_an_empty_answer() -> None:
    features = windows_of(["ab", "ab"], [(0, 3, []), (1, 1, [(0, 1), (1, 2)])])
    logits = np.zeros((8, 2), dtype=np.float32)
    found = decode_answers(features, logits, ["ab", "ab"])
    assert found[0] == Answer("", 0, 0, -np.inf, np.inf)
    assert found[1].text == "a"
    # The best start comes after the best end, and only the best of each are combined.
    logits[6, 0] = logits[5, 1] = 1.0
    assert decode_answers(features, logits, ["ab", "ab"], n_best=1)[1] == Answer("", 0, 0, -np.inf, np.inf)
    assert decode_answers(features, logits, ["ab", "ab"], n_best=2)[1].text == "a"


def test_no_questions_have_no_answers() -> None:
    none = np.zeros(0, dtype=np.int64)
    assert decode_answers(Windows(np.zeros(1, np.int64), none, 0, none, none), np.zeros((0, 2), np.float32), []) == []


def test_scores_are_added_in_double_precision() -> None:
    features = windows_of(["abc"], [(0, 1, [(0, 1), (1, 2)])])
    logits = np.array([[0, 0], [1, 1e-9], [0, 0], [0, 0]], dtype=np.float32)
    assert decode_answers(features, logits, ["abc"])[0].score == 1.0 + float(np.float32(1e-9)) > 1.0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"n_best": 0}, "n_best: got 0"),
        ({"max_answer_tokens": 2.5}, "max_answer_tokens: got 2.5"),
        ({"contexts": ["ab"]}, "got 1 contexts"),
        ({"logits": np.zeros((8, 3), np.float32)}, r"shape \(8, 3\), allowed is \(8, 2\)"),
        ({"logits": np.full((8, 2), np.nan, np.float32)}, "NaN or infinity"),
        ({"features": Windows(np.array([0, 8]), np.array([0]), 2, np.zeros(8), np.zeros(8))}, "windows of 1 questions"),
        ({"features": Windows(np.array([0, 8]), np.array([0]), 1, None, None)}, "no places of tokens"),
    ],
)
def test_unusable_input_is_refused(change: dict, says: str) -> None:
    features = windows_of(["ab", "ab"], [(0, 3, []), (1, 1, [(0, 1), (1, 2)])])
    given = {"features": features, "logits": np.zeros((8, 2), np.float32), "contexts": ["ab", "ab"], **change}
    with pytest.raises(ConfigError, match=says):
        decode_answers(**given)


def test_a_thousand_windows_take_well_under_a_second() -> None:
    contexts = ["abcdefgh" * 100] * 1000
    tokens = [(2 * at, 2 * at + 2) for at in range(363)]
    features = windows_of(contexts, [(min(row, 999), 20, tokens) for row in range(1200)])
    logits = np.random.default_rng(0).normal(size=(int(features.offsets[-1]), 2)).astype(np.float32)
    spent = time.process_time()  # of this process alone, so that other work on the machine does not count
    assert len(decode_answers(features, logits, contexts)) == 1000
    assert time.process_time() - spent < 1.0
