from __future__ import annotations

import gzip
import json
import string
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcompress import metrics as public
from bertcompress.errors import ConfigError
from bertcompress.evaluation.metrics.squad import answer_statistics, best_threshold, normalize, squad_scores

PIECES = [
    "a",
    "An",
    "the",
    "cat",
    "Cat",
    "don't",
    "...",
    "\u2013",
    "“",
    "é",
    "É",
    "10,000",
    " ",
    "\u00a0",
    "-",
    "then",
    "İ",
]
texts = st.lists(st.sampled_from(PIECES), max_size=5).map(" ".join) | st.text(max_size=8)
questions = st.lists(st.tuples(texts, st.lists(texts, max_size=3)), min_size=1, max_size=12)


def plain_normalize(text: str) -> str:
    """The scripts' four steps, one character or word at a time where that is possible."""
    text = "".join(sign for sign in text.lower() if sign not in string.punctuation)
    words, word = [], ""
    for sign in [*text, ""]:  # \b stands between what is alphanumeric or _ and what is not
        inside = sign.isalnum() or sign == "_"
        if word and inside != (word[-1].isalnum() or word[-1] == "_"):
            words.append(" " if word in ("a", "an", "the") else word)
            word = ""
        word += sign
    return " ".join("".join([*words, " " if word in ("a", "an", "the") else word]).split())


def plain_f1(gold: str, given: str, version: int) -> float:
    gold_words, given_words = plain_normalize(gold).split(), plain_normalize(given).split()
    left = list(gold_words)
    same = 0
    for word in given_words:
        if word in left:
            left.remove(word)
            same += 1
    if version == 2 and (not gold_words or not given_words):
        return float(gold_words == given_words)
    if not same:
        return 0.0
    precision, recall = same / len(given_words), same / len(gold_words)
    return 2 * precision * recall / (precision + recall)


def plain_statistics(predictions: Sequence[str], references: Sequence[Sequence[str]], version: int) -> np.ndarray:
    rows = []
    for prediction, answers in zip(predictions, references, strict=True):
        gold = list(answers)
        if version == 2:
            gold = [answer for answer in gold if plain_normalize(answer)] or [""]
        exact = max(plain_normalize(answer) == plain_normalize(prediction) for answer in gold)
        rows.append((float(exact), max(plain_f1(answer, prediction, version) for answer in gold)))
    return np.array(rows)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Cat", "cat"),
        ("a an the", ""),
        ("theatre, another!", "theatre another"),
        ("the-cat", "thecat"),  # punctuation goes first, so that no article is left
        ("a.b. the.end", "ab theend"),
        ("U.S.A", "usa"),
        ("$1,000", "1000"),
        ("“the” \u2013 A", "“ ” \u2013"),  # only ASCII punctuation is removed, but articles next to other signs are
        ("à la carte á the", "à la carte á"),  # letters beyond ASCII are letters: no word ends before "à"
        ("the\u00a0cat\tsat\u3000", "cat sat"),
        ("ÉCOLE", "école"),
        ("a_b", "ab"),
        ("", ""),
    ],
)
def test_normalization(text: str, expected: str) -> None:
    assert normalize(text) == expected == plain_normalize(text)


@given(texts)
def test_normalization_equals_its_steps_and_is_stable(text: str) -> None:
    assert normalize(text) == plain_normalize(text)


@pytest.mark.parametrize(
    ("prediction", "answers", "exact", "f1"),
    [
        ("The Denver Broncos!", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("Broncos", ["Denver Broncos", "the Broncos"], 1, 1),  # the best of several answers
        ("cat cat dog", ["cat dog dog"], 0, 2 / 3),  # words count as often as they are in both
        ("to be", ["not to", "be or not"], 0, 0.5),
        ("", ["cat"], 0, 0),
        ("cat", ["dog"], 0, 0),
    ],
)
@pytest.mark.parametrize("unanswerable", [False, True])
def test_one_answer(prediction: str, answers: list[str], exact: int, f1: float, unanswerable: bool) -> None:
    found = answer_statistics([prediction], [answers], unanswerable=unanswerable)
    np.testing.assert_allclose(found, [[exact, f1]])


@pytest.mark.parametrize(
    ("prediction", "answers", "old", "new"),
    [
        ("", ["the"], (1, 0), (1, 1)),  # nothing is left of either: 1.1 gives no credit for words, 2.0 does
        ("a", ["an", "cat"], (1, 0), (0, 0)),  # 2.0 drops the answer of which nothing is left
        ("cat", ["the"], (0, 0), (0, 0)),
        ("cat", ["the", "cat"], (1, 1), (1, 1)),
    ],
)
def test_versions_differ_only_where_nothing_is_left(
    prediction: str, answers: list[str], old: tuple[int, int], new: tuple[int, int]
) -> None:
    assert answer_statistics([prediction], [answers])[0].tolist() == list(old)
    assert answer_statistics([prediction], [answers], unanswerable=True)[0].tolist() == list(new)


def test_questions_without_an_answer() -> None:
    predictions, references = ["", "cat", "the", ""], [[], [], [], ["cat"]]
    found = answer_statistics(predictions, references, unanswerable=True)
    assert found.tolist() == [[1, 1], [0, 0], [1, 1], [0, 0]]


@given(questions)
def test_statistics_equal_a_plain_restatement(drawn: list[tuple[str, list[str]]]) -> None:
    predictions, references = (list(column) for column in zip(*drawn, strict=True))
    expected = plain_statistics(predictions, references, 2)
    np.testing.assert_allclose(answer_statistics(predictions, references, unanswerable=True), expected)
    answered = [answers or ["cat"] for answers in references]
    np.testing.assert_allclose(
        answer_statistics(predictions, answered), plain_statistics(predictions, answered, 1), rtol=1e-12
    )


def test_scores_of_a_data_set() -> None:
    predictions = ["cat", "black", "", "dog", ""]
    references = [["the cat"], ["black cat"], ["cat"], [], []]
    assert squad_scores(predictions, references, unanswerable=True) == pytest.approx(
        {
            "exact_match": 2 / 5,
            "f1": (1 + 2 / 3 + 1) / 5,
            "has_answer_exact_match": 1 / 3,
            "has_answer_f1": (1 + 2 / 3) / 3,
            "no_answer_accuracy": 1 / 2,
        }
    )
    assert squad_scores(predictions[:3], references[:3]) == pytest.approx({"exact_match": 1 / 3, "f1": 5 / 9})


def test_numbers_over_no_question_are_left_out() -> None:
    assert set(squad_scores(["cat"], [["cat"]], unanswerable=True)) == {
        *("exact_match", "f1", "has_answer_exact_match", "has_answer_f1")
    }
    assert set(squad_scores([""], [[]], unanswerable=True)) == {"exact_match", "f1", "no_answer_accuracy"}


def test_an_answer_of_which_nothing_is_left_still_makes_a_question_answerable() -> None:
    # The script asks whether answers are listed, not whether anything is left of them.
    found = squad_scores(["", "cat"], [["the"], []], unanswerable=True)
    assert found == {
        "exact_match": 0.5,
        "f1": 0.5,
        "has_answer_exact_match": 1,
        "has_answer_f1": 1,
        "no_answer_accuracy": 0,
    }


@pytest.mark.parametrize(
    ("predictions", "references", "says"),
    [
        ([], [], "at least one"),
        (["cat"], [["cat"], ["dog"]], "1 predictions for 2"),
        (["cat"], [[]], "unanswerable=True"),
        (["cat"], ["cat"], "list of texts"),
        ([None], [["cat"]], "prediction 0 is None"),
    ],
)
def test_unusable_input_is_refused(predictions: list, references: list, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        answer_statistics(predictions, references)


def test_scores_of_real_questions_equal_the_restatement(data_root: Path) -> None:
    with gzip.open(data_root / "squad/cs224n-dev-v2.0.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    paragraphs = [paragraph for article in articles for paragraph in article["paragraphs"]]
    drawn = [(part["context"], question) for part in paragraphs for question in part["qas"]][::7]
    random = np.random.default_rng(0)
    predictions, references = [], []
    for context, question in drawn:
        references.append([answer["text"] for answer in question["answers"]])
        begin = random.integers(len(context))
        own = references[-1][0] + context[begin : begin + 5] if references[-1] else ""
        predictions.append(own if random.random() < 0.7 else context[begin : begin + 20])
    expected = plain_statistics(predictions, references, 2)
    np.testing.assert_allclose(answer_statistics(predictions, references, unanswerable=True), expected)
    assert 0.1 < expected[:, 0].mean() < expected[:, 1].mean() < 0.9


def plain_threshold(margins: list[float], f1: list[float], has_answer: list[bool]) -> tuple[float, float]:
    """Try every threshold that makes a difference; of the best take the highest."""
    finite = sorted({margin for margin in margins if margin < np.inf})
    if not finite:
        return 0.0, float(np.mean([not known for known in has_answer]))
    tried = []
    for threshold in [np.nextafter(finite[0], -np.inf), *finite]:
        rows = zip(margins, f1, has_answer, strict=True)
        total = sum(float(not known) if margin > threshold else score for margin, score, known in rows)
        tried.append((total / len(margins), float(threshold)))
    score, threshold = max(tried)
    return threshold, score


decisions = st.tuples(
    st.integers(-3, 3).map(float) | st.just(np.inf), st.integers(0, 4).map(lambda number: number / 4), st.booleans()
)


@given(st.lists(decisions, min_size=1, max_size=15))
def test_the_threshold_equals_brute_force(drawn: list[tuple[float, float, bool]]) -> None:
    columns = [list(column) for column in zip(*drawn, strict=True)]
    threshold, f1 = best_threshold(*columns)
    assert (threshold, f1) == (plain_threshold(*columns)[0], pytest.approx(plain_threshold(*columns)[1], abs=1e-12))


def test_the_threshold_of_many_questions_equals_brute_force() -> None:
    random = np.random.default_rng(0)
    has_answer = random.random(400) < 0.5
    margins = random.normal(size=400).round(2) - has_answer
    f1 = np.where(has_answer, random.random(400), random.random(400) < 0.1)
    threshold, best = best_threshold(margins, f1, has_answer)
    assert (threshold, best) == pytest.approx(plain_threshold(margins.tolist(), f1.tolist(), has_answer.tolist()))
    assert best > max(f1.mean(), (~has_answer).mean())  # better than answering always, and than never


def test_thresholds_at_the_edges() -> None:
    # Every question has an answer: all are answered, though the last answers are worth nothing.
    assert best_threshold([3.0, -1.0, 2.0], [0.0, 0.5, 0.0], [True] * 3) == (3.0, pytest.approx(1 / 6))
    # None has an answer and every prediction is wrong: none is answered.
    threshold, f1 = best_threshold([3.0, -1.0, 2.0], [0.0] * 3, [False] * 3)
    assert threshold == np.nextafter(-1.0, -2.0)
    assert f1 == 1.0
    # No threshold parts equal margins, though answering only the first question would score 1.
    assert best_threshold([1.0, 1.0], [1.0, 0.0], [True, False]) == (1.0, 0.5)
    assert best_threshold([np.inf], [0.0], [True]) == (0.0, 0.0)


def test_sums_that_differ_by_rounding_are_ties() -> None:
    # Answering one question or all three is equally good, but for rounding, which makes the latter look worse.
    assert 0.3 > 0.3 + (0.1 - 1.0) + 0.9
    assert best_threshold([1.0, 2.0, 3.0], [0.3, 0.1, 0.9], [True, False, True]) == (3.0, pytest.approx(1.3 / 3))


@pytest.mark.parametrize(
    "columns",
    [
        ([], [], []),
        ([1.0], [1.0, 0.5], [True]),
        ([np.nan], [1.0], [True]),
        ([-np.inf], [1.0], [True]),
    ],
)
def test_unusable_margins_are_refused(columns: tuple[list, list, list]) -> None:
    with pytest.raises(ConfigError, match="best_threshold"):
        best_threshold(*columns)


def test_the_module_computes_both_versions() -> None:
    predictions, references = ["cat", "", "dog"], [["the cat"], ["cat", "dog"], ["hot dog"]]
    assert public.Squad().compute(predictions=predictions, references=references) == squad_scores(
        predictions, references
    )
    references[1] = []
    expected = squad_scores(predictions, references, unanswerable=True)
    metric = public.Squad("squad_v2")
    assert metric.compute(predictions=predictions, references=references) == expected
    for prediction, answers in zip(predictions, references, strict=True):
        metric.add(prediction=prediction, reference=answers)
    assert metric.compute() == expected
    with pytest.raises(ConfigError, match="'v3', allowed are 'squad', 'squad_v2'"):
        public.Squad("v3")
