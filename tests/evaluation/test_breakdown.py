"""Loyalty by group and confidence, departures and McNemar's test: equal to slow references, and true by themselves."""

from __future__ import annotations

import itertools
import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from bertcompress.errors import ConfigError
from bertcompress.evaluation import breakdown as subject
from bertcompress.evaluation.breakdown import Units, breakdown, departing, mcnemar, share_interval
from bertcompress.evaluation.intervals import bootstrap_interval
from bertcompress.evaluation.result import Difference, Evaluation, ModelResult
from bertcompress.evaluation.titles import LOYALTIES, is_share, loyalty_title


def units(**columns: Any) -> Units:
    total = len(columns["agrees"])
    given = {
        "name": "examples",
        "group": "teacher's class",
        "groups": ("negative", "neutral", "positive"),
        "group_of": np.arange(total) % 3,
        "example": np.arange(total),
        "confidence": np.linspace(0.2, 1.0, total),
        "distance": np.where(np.asarray(columns["agrees"], dtype=float) < 1, 0.5, 0.1),
    } | columns
    return Units(**{name: np.asarray(each) if isinstance(each, list) else each for name, each in given.items()})


def random_units(seed: int, total: int = 400, examples: int = 90) -> Units:
    random = np.random.default_rng(seed)
    agrees = random.random(total) < 0.8
    return units(
        name="words",
        group="teacher's tag",
        group_of=random.integers(3, size=total),
        example=np.sort(random.integers(examples, size=total)),
        agrees=agrees,
        confidence=np.where(random.random(total) < 0.1, np.nan, random.random(total)),
        distance=np.where(agrees, random.random(total) * 0.2, random.random(total)),
        teacher_right=random.random(total) < 0.9,
        student_right=random.random(total) < 0.85,
    )


def pairs(student_only: int, teacher_only: int, both: int = 0, neither: int = 0) -> tuple[list[bool], list[bool]]:
    cells = [(True, False)] * student_only + [(False, True)] * teacher_only
    cells += [(True, True)] * both + [(False, False)] * neither
    return [student for student, _ in cells], [teacher for _, teacher in cells]


@pytest.mark.parametrize(("student_only", "teacher_only"), [(12, 20), (0, 6), (5, 5), (0, 0), (121, 59), (1, 400)])
def test_mcnemar_is_the_exact_binomial_test_of_the_discordant_pairs(student_only: int, teacher_only: int) -> None:
    found = mcnemar(*pairs(student_only, teacher_only, both=30, neither=7))
    discordant = student_only + teacher_only
    expected = stats.binomtest(student_only, discordant).pvalue if discordant else 1.0
    assert found.p_value == pytest.approx(expected, rel=1e-9)
    assert (found.student_only, found.teacher_only, found.both, found.neither) == (student_only, teacher_only, 30, 7)


def test_mcnemar_equals_the_published_value() -> None:
    # Agresti, Categorical Data Analysis, approval of the prime minister: 86 and 150 changed their minds. The exact
    # p-value is that of R's exact2x2::mcnemar.exact.
    assert mcnemar(*pairs(86, 150, 794, 570)).p_value == pytest.approx(3.716e-05, rel=1e-3)


@given(st.lists(st.lists(st.sampled_from([-1, 0, 1]), min_size=1, max_size=4), min_size=1, max_size=9))
@settings(deadline=None, max_examples=60)
def test_mcnemar_over_sentences_equals_all_sign_flips(sentences: list[list[int]]) -> None:
    differences = np.array([sum(words) for words in sentences])
    flips = [abs(np.dot(signs, differences)) for signs in itertools.product((1, -1), repeat=len(differences))]
    expected = np.mean(np.array(flips) >= abs(differences.sum()))
    flat = [(place, word) for place, words in enumerate(sentences) for word in words]
    student, teacher = [word > 0 for _, word in flat], [word < 0 for _, word in flat]
    assert mcnemar(student, teacher, [place for place, _ in flat]).p_value == pytest.approx(expected)


def test_words_of_one_sentence_count_as_one_piece_of_evidence() -> None:
    student, teacher = pairs(0, 12)
    assert mcnemar(student, teacher).p_value < 0.001
    assert mcnemar(student, teacher, [0] * 12).p_value == 1.0


def test_mcnemar_under_the_null_is_below_five_percent_no_oftener_than_that() -> None:
    random = np.random.default_rng(0)
    tests = [mcnemar(*(random.random((2, 60)) < 0.8)).p_value for _ in range(400)]
    assert np.mean(np.array(tests) < 0.05) <= 0.07


def test_mcnemar_of_columns_that_do_not_match_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"\(2,\), \(3,\)"):
        mcnemar([True, False], [True, False, True])


@pytest.mark.parametrize("seed", range(5))
def test_parts_add_up_to_the_whole(seed: int) -> None:
    given = random_units(seed)
    groups, bins = subject.loyalty_by_group(given), subject.loyalty_by_confidence(given)
    assert sum(each["units"] for each in groups) == len(given)
    assert sum(each["units"] * each["label"] for each in groups) == pytest.approx(given.agrees.sum())
    known = ~np.isnan(given.confidence)
    assert sum(each["units"] for each in bins) == known.sum()
    assert sum(each["units"] * each["label"] for each in bins) == pytest.approx(given.agrees[known].sum())
    for each in [*groups, *bins]:
        assert each["interval"][0] <= each["label"] <= each["interval"][1]


@pytest.mark.parametrize("seed", range(3))
def test_shares_of_groups_and_bins_equal_a_loop(seed: int) -> None:
    given = random_units(seed)
    for each in subject.loyalty_by_group(given):
        place = given.groups.index(each["name"])
        inside = [agrees for agrees, group in zip(given.agrees, given.group_of, strict=True) if group == place]
        assert (each["units"], each["label"]) == (len(inside), pytest.approx(np.mean(inside)))
    for each in subject.loyalty_by_confidence(given):
        last = each["to"] == 1.0
        inside = [
            agrees
            for agrees, sure in zip(given.agrees, given.confidence, strict=True)
            if each["from"] <= sure and (sure <= 1.0 if last else sure < each["to"])
        ]
        assert (each["units"], each["label"]) == (len(inside), pytest.approx(np.mean(inside)))


def test_bins_hold_their_edges_and_confidence_of_one() -> None:
    edges = [0.0, 0.5, 0.7, 0.9, 0.99, 0.999, 1.0]
    bins = subject.loyalty_by_confidence(units(agrees=[True] * 7, confidence=edges))
    assert [each["units"] for each in bins] == [1, 1, 1, 1, 1, 2]
    assert [each["from"] for each in bins] == edges[:-1]
    assert subject.loyalty_by_confidence(units(agrees=[True] * 3, confidence=[np.nan] * 3)) == []


def test_groups_without_units_are_left_out_and_keep_their_order() -> None:
    groups = subject.loyalty_by_group(units(agrees=[True, False], group_of=[2, 0]))
    assert [(each["name"], each["units"], each["label"]) for each in groups] == [("negative", 1, 0), ("positive", 1, 1)]


def test_interval_equals_a_bootstrap_that_draws_whole_sentences() -> None:
    random = np.random.default_rng(0)
    example = np.repeat(np.arange(60), random.integers(1, 9, size=60))
    hard = random.random(60)[example]  # words of a sentence depend on each other
    agrees = random.random(len(example)) < 0.5 + 0.5 * hard
    kept, sizes = (np.bincount(example, weight) for weight in (agrees.astype(float), np.ones(len(example))))
    slow = bootstrap_interval(lambda k, n: k.sum() / n.sum(), kept, sizes, seed=1, resamples=4000)
    assert share_interval(agrees, example, seed=2) == pytest.approx(slow, abs=0.012)
    alone = share_interval(agrees, np.arange(len(agrees)), seed=2)
    fast = share_interval(agrees, example, seed=2)
    assert fast[1] - fast[0] > 1.15 * (alone[1] - alone[0])


def test_repeated_words_make_no_interval_narrower() -> None:
    agrees = np.random.default_rng(0).random(80) < 0.7
    once = share_interval(agrees, np.arange(80), seed=0)
    assert share_interval(np.repeat(agrees, 5), np.repeat(np.arange(80), 5), seed=0) == pytest.approx(once)


@pytest.mark.parametrize("total", [1, 5, 300])
def test_units_that_all_agree_get_the_exact_binomial_interval(total: int) -> None:
    exact = stats.binomtest(total, total).proportion_ci(0.95, method="exact")
    assert share_interval(np.ones(total), np.arange(total)) == pytest.approx((exact.low, exact.high))
    assert share_interval(np.zeros(total), np.arange(total)) == pytest.approx((1 - exact.high, 1 - exact.low))


def test_examples_outside_a_group_make_its_interval_no_narrower() -> None:
    agrees = np.random.default_rng(0).random(200) < 0.6
    inside, among = (share_interval(agrees, np.arange(200), examples=total, seed=0) for total in (None, 4000))
    assert among == pytest.approx(inside, abs=0.03)
    assert among != inside


def test_a_model_compared_with_itself_agrees_everywhere() -> None:
    right = np.random.default_rng(0).random(90) < 0.7
    found = breakdown(
        units(agrees=np.ones(90, bool), distance=np.zeros(90), teacher_right=right, student_right=right), lambda _: {}
    )
    assert {each["label"] for each in [*found["by_group"], *found["by_confidence"]]} == {1.0}
    assert found["departures"] == []
    assert found["mcnemar"]["p_value"] == 1.0
    assert found["mcnemar"]["student_only"] == found["mcnemar"]["teacher_only"] == 0


@given(st.integers(0, 10**6), st.integers(0, 30), st.integers(1, 4))
@settings(deadline=None, max_examples=60)
def test_departures_disagree_are_farthest_first_and_leave_room(seed: int, limit: int, per_example: int) -> None:
    given = random_units(seed, total=60, examples=20)
    found = departing(given, limit, per_example)
    distances = given.distance[found]
    assert not given.agrees[found].any()
    assert len(set(found.tolist())) == len(found) <= limit
    assert (np.diff(distances) <= 0).all()
    counts = np.bincount(given.example[found], minlength=1)
    assert counts.max(initial=0) <= per_example
    # None is left out for nothing: the list is full, or every departure left out is of a full example.
    left = np.setdiff1d(np.flatnonzero(~given.agrees), found)
    if len(found) < limit:
        assert all((given.example[found] == given.example[unit]).sum() == per_example for unit in left)


def test_no_group_fills_the_list_of_departures() -> None:
    agrees = np.zeros(100, bool)
    group_of = np.where(np.arange(100) < 90, 0, np.where(np.arange(100) < 97, 1, 2))
    given = units(agrees=agrees, group_of=group_of, distance=np.linspace(0.9, 0.1, 100))
    assert np.bincount(given.group_of[departing(given, 9)]).tolist() == [3, 3, 3]
    assert np.bincount(given.group_of[departing(given, 30)]).tolist() == [20, 7, 3]


def test_departures_at_one_distance_come_in_their_own_order() -> None:
    given = units(agrees=np.zeros(12, bool), group_of=np.zeros(12, int), distance=np.full(12, 0.5))
    assert departing(given, 5).tolist() == [0, 1, 2, 3, 4]


def test_partial_agreement_counts_by_its_share() -> None:
    given = units(agrees=np.array([1.0, 0.7, 0.0, 0.3]), group_of=[0, 0, 1, 1], distance=[0.0, 0.3, 1.0, 0.7])
    assert [each["label"] for each in subject.loyalty_by_group(given)] == pytest.approx([0.85, 0.15])
    assert departing(given).tolist() == [2, 3, 1]


def test_breakdown_is_json_and_reproducible() -> None:
    given = random_units(3)
    shown: list[int] = []

    def show(place: int) -> dict[str, Any]:
        shown.append(place)
        return {"text": f"unit {place}", "gold": None, "teacher": "O", "student": "B-PER"}

    found = breakdown(given, show, seed=5)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert found == breakdown(given, show, seed=5)
    assert found["by_group"] != breakdown(given, show, seed=6)["by_group"]
    assert (found["unit"], found["group"], found["mcnemar"]["metric"]) == ("words", "teacher's tag", "token_accuracy")
    assert len(found["departures"]) == subject.DEPARTURES
    for place, each in zip(shown, found["departures"], strict=False):
        assert each["text"] == f"unit {place}"
        assert each["example"] == given.example[place]
        sure = given.confidence[place]
        assert each["teacher_probability"] == (None if np.isnan(sure) else sure)


def test_what_is_neither_right_nor_wrong_has_no_mcnemar() -> None:
    assert "mcnemar" not in breakdown(units(agrees=[True, False]), lambda _: {})


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"name": "tokens"}, "'tokens', allowed are 'examples'"),
        ({"example": [0]}, "shapes"),
        ({"agrees": [], "group_of": [], "example": [], "confidence": [], "distance": []}, "not empty"),
        ({"group_of": [0, 3]}, "group_of holds 3 at place 1"),
        ({"distance": [0.1, np.nan]}, "distance holds nan"),
        ({"confidence": [np.nan, 1.5]}, "confidence holds 1.5"),
        ({"agrees": [0.5, 2.0]}, "agrees holds 2.0"),
        ({"teacher_right": [True, True]}, "both be given"),
    ],
)
def test_units_that_do_not_fit_together_are_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        units(**{"agrees": [True, False], **wrong})


@pytest.mark.parametrize("kind", LOYALTIES)
def test_the_printed_table_names_loyalties_by_kind(kind: str) -> None:
    loyalty = dict.fromkeys(LOYALTIES[kind], -0.25) | {"new_measure": 0.5}
    results = [ModelResult(1, 1, 1, 1, None, 10, loyalty=loyalty) for _ in range(2)]
    task = {"name": "t", "kind": kind, "metric": "", "split": "test", "labels": []}
    found = Evaluation(task, results[0], results[1], dict[str, Difference](), 128, 0)
    rows = {row[0]: row[1] for row in found.rows()}
    for name in LOYALTIES[kind]:
        assert rows[loyalty_title(kind, name)] == "-25.0"
    assert rows["new measure loyalty"] == "50.0"


def test_titles_fit_the_kind() -> None:
    assert loyalty_title("classification", "label") == "label loyalty"
    assert loyalty_title("regression", "label") == "concordance"
    assert loyalty_title("embedding", "label") == "shared neighbours"
    assert [is_share(kind, "label") for kind in LOYALTIES] == [True, True, True, False, True]
