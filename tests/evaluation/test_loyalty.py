from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.spatial.distance import jensenshannon

import bertcompress as bc
from bertcompress.errors import ConfigError
from bertcompress.evaluation.loyalty import jensen_shannon_distances, label_loyalty, probability_loyalty

TEACHER, STUDENT = np.log([[0.75, 0.2, 0.05]]), np.log([[0.8, 0.1, 0.1]])  # softmax of log p is p
LOGITS = st.floats(-30, 30)


def tables(count: int) -> st.SearchStrategy[tuple[np.ndarray, ...]]:
    shape = st.tuples(st.integers(1, 12), st.integers(2, 5))
    return shape.flatmap(lambda size: st.tuples(*[hnp.arrays(np.float64, size, elements=LOGITS)] * count))


def softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def test_the_reference_vector_of_the_authors_readme() -> None:
    assert jensen_shannon_distances(TEACHER, STUDENT)[0] == pytest.approx(0.1146548016, abs=1e-9)
    assert jensen_shannon_distances(TEACHER, STUDENT)[0] ** 2 == pytest.approx(0.0131457235, abs=1e-9)
    assert jensen_shannon_distances(TEACHER, STUDENT, base=2)[0] == pytest.approx(0.1377144515, abs=1e-9)
    assert probability_loyalty(TEACHER, STUDENT) == pytest.approx(0.8853451984, abs=1e-9)
    assert probability_loyalty(TEACHER, STUDENT, base=2) == pytest.approx(0.8622855485, abs=1e-9)
    assert label_loyalty(TEACHER, STUDENT) == 1.0


def test_the_vector_tells_a_second_square_root_apart() -> None:
    twice = 1 - math.sqrt(jensenshannon([0.75, 0.2, 0.05], [0.8, 0.1, 0.1]))
    assert twice == pytest.approx(0.6613928507, abs=1e-9)
    assert abs(probability_loyalty(TEACHER, STUDENT) - twice) > 0.2


def test_disjoint_one_hot_rows_give_the_lower_bounds() -> None:
    teacher, student = np.array([[900.0, -900.0]]), np.array([[-900.0, 900.0]])
    assert probability_loyalty(teacher, student) == pytest.approx(1 - math.sqrt(math.log(2)), abs=1e-12)
    assert probability_loyalty(teacher, student, base=2) == 0.0
    assert label_loyalty(teacher, student) == 0.0


@given(tables(1))
def test_loyalty_to_oneself_is_exactly_one(drawn: tuple[np.ndarray]) -> None:
    (logits,) = drawn
    assert label_loyalty(logits, logits) == 1.0
    assert probability_loyalty(logits, logits) == 1.0
    assert probability_loyalty(logits, logits.copy(), base=2) == 1.0


@given(tables(2))
def test_equals_scipy_along_the_classes(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    teacher, student = drawn
    for base in (math.e, 2):
        with np.errstate(invalid="ignore"):  # scipy takes the root of -1e-17 where rows are equal
            distances = np.nan_to_num(jensenshannon(softmax(teacher), softmax(student), base=base, axis=1))
        # scipy's sum cancels to about 1e-16 and the root makes 1e-8 of it.
        np.testing.assert_allclose(jensen_shannon_distances(teacher, student, base), distances, atol=1e-7)
        assert probability_loyalty(teacher, student, base) == pytest.approx(np.mean(1 - distances), abs=1e-7)


def test_scipys_default_axis_is_the_known_bug() -> None:
    teacher, student = np.tile([3.0, 0.0], (20, 1)), np.tile([0.0, 3.0], (20, 1))
    # Along the examples each column is normalised to 1, so models that disagree everywhere look the same.
    assert np.mean(1 - jensenshannon(softmax(teacher), softmax(student))) == pytest.approx(1.0)
    assert probability_loyalty(teacher, student) < 0.4


@given(tables(2))
def test_values_lie_in_their_range_and_the_bases_are_tied(drawn: tuple[np.ndarray, np.ndarray]) -> None:
    natural, binary = probability_loyalty(*drawn), probability_loyalty(*drawn, base=2)
    assert 1 - math.sqrt(math.log(2)) - 1e-12 <= natural <= 1
    assert 0 <= binary <= 1
    assert 1 - natural == pytest.approx((1 - binary) * math.sqrt(math.log(2)), abs=1e-12)
    assert isinstance(natural, float)
    assert isinstance(label_loyalty(*drawn), float)


@given(tables(2), st.randoms(use_true_random=False))
def test_symmetric_and_blind_to_the_order_of_examples_and_classes(
    drawn: tuple[np.ndarray, np.ndarray], random: object
) -> None:
    teacher, student = drawn
    rows, columns = list(range(teacher.shape[0])), list(range(teacher.shape[1]))
    random.shuffle(rows)  # type: ignore[attr-defined]
    random.shuffle(columns)  # type: ignore[attr-defined]
    expected = probability_loyalty(teacher, student)
    assert probability_loyalty(student, teacher) == pytest.approx(expected, abs=1e-12)
    assert probability_loyalty(teacher[rows], student[rows]) == pytest.approx(expected, abs=1e-12)
    # Summing the classes in another order rounds differently, and the root of 1e-16 is 1e-8.
    assert probability_loyalty(teacher[:, columns], student[:, columns]) == pytest.approx(expected, abs=1e-7)
    labels = label_loyalty(teacher, student)
    assert label_loyalty(student, teacher) == labels
    assert label_loyalty(teacher[rows], student[rows]) == pytest.approx(labels, abs=1e-12)


@given(tables(3))
def test_distances_obey_the_triangle_inequality(drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> None:
    a, b, c = drawn
    for measure in (label_loyalty, probability_loyalty):
        assert 1 - measure(a, c) <= (1 - measure(a, b)) + (1 - measure(b, c)) + 1e-7


@given(tables(2), st.integers(0, 2**32 - 1))
def test_label_loyalty_is_bounded_by_the_two_accuracies(drawn: tuple[np.ndarray, np.ndarray], seed: int) -> None:
    teacher, student = drawn
    gold = np.random.default_rng(seed).integers(teacher.shape[1], size=len(teacher))
    acc_t, acc_s = (float(np.mean(each.argmax(-1) == gold)) for each in (teacher, student))
    assert acc_t + acc_s - 1 - 1e-12 <= label_loyalty(teacher, student) <= 1 - abs(acc_t - acc_s) + 1e-12


def test_another_label_order_collapses_loyalty() -> None:
    teacher = 3 * np.random.default_rng(0).normal(size=(500, 3))
    swapped = teacher[:, [1, 2, 0]]
    assert label_loyalty(teacher, swapped) == 0.0
    assert probability_loyalty(teacher, swapped) < 0.7


def test_loyalty_falls_with_noise() -> None:
    random = np.random.default_rng(0)
    teacher, noise = 2 * random.normal(size=(2000, 3)), random.normal(size=(2000, 3))
    for measure in (label_loyalty, probability_loyalty):
        values = [measure(teacher, teacher + sigma * noise) for sigma in (0.0, 0.1, 0.3, 1.0, 3.0, 10.0)]
        assert values == sorted(values, reverse=True)
        assert len(set(values)) == len(values)


def test_distances_are_averaged_per_example_not_divergences() -> None:
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 50, 2))
    pooled = 1 - math.sqrt(np.mean(jensen_shannon_distances(teacher, student) ** 2))
    assert probability_loyalty(teacher, student) > pooled + 0.005


def test_ties_go_to_the_lowest_class() -> None:
    assert label_loyalty(np.array([[1.0, 1.0, 0.0]]), np.array([[2.0, 0.0, 0.0]])) == 1.0
    assert label_loyalty(np.array([[1.0, 1.0, 0.0]]), np.array([[0.0, 2.0, 0.0]])) == 0.0


@pytest.mark.parametrize("kind", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_torch_tensors_of_any_float_type_are_taken(kind: torch.dtype) -> None:
    random = np.random.default_rng(0)
    teacher, student = (torch.tensor(each, dtype=kind) for each in random.normal(size=(2, 30, 3)))
    expected = probability_loyalty(teacher.double().numpy(), student.double().numpy())
    assert probability_loyalty(teacher.requires_grad_(), student) == expected
    assert probability_loyalty(teacher, teacher) == 1.0


def test_extreme_but_finite_logits_give_finite_values() -> None:
    teacher, student = np.array([[1e308, -1e308, 0.0]]), np.array([[-1e308, 1e308, 0.0]])
    assert probability_loyalty(teacher, student, base=2) == 0.0
    assert probability_loyalty(teacher, teacher) == 1.0
    assert probability_loyalty(np.array([[800.0, 0.0]]), np.array([[0.0, 0.0]])) == pytest.approx(
        1 - jensenshannon([1, 0], [0.5, 0.5]), abs=1e-12
    )


def test_a_small_difference_is_not_lost_in_float32() -> None:
    teacher = np.array([[0.1, 0.2, 0.7]], dtype=np.float32)
    student = teacher + np.array([[1e-4, 0.0, 0.0]], dtype=np.float32)
    exact = 1e-4 * math.sqrt(np.prod([p := softmax(teacher)[0, 0], 1 - p]) / 8)  # to first order
    assert 1 - probability_loyalty(teacher, student) == pytest.approx(exact, rel=0.01)


@pytest.mark.parametrize(
    ("teacher", "student", "says"),
    [
        (np.zeros((3, 2)), np.zeros((2, 2)), r"\(3, 2\), the student's \(2, 2\)"),
        (np.zeros((3, 2)), np.zeros((3, 3)), "same classes"),
        (np.zeros(3), np.zeros(3), "allowed is"),
        (np.zeros((0, 2)), np.zeros((0, 2)), "not empty"),
        (np.zeros((3, 1)), np.zeros((3, 1)), "regression"),
        (np.zeros((3, 2)), np.array([[0, 1], [0, np.nan], [np.inf, 0]]), "student_logits .* 2 of 3 .* example 1"),
        ([[1.0, 2.0], [1.0]], np.zeros((2, 2)), "no array of numbers"),
        (np.array([["a", "b"]]), np.zeros((1, 2)), "no array of numbers"),
    ],
)
def test_unusable_logits_are_refused(teacher: object, student: object, says: str) -> None:
    for measure in (label_loyalty, probability_loyalty):
        with pytest.raises(ConfigError, match=says):
            measure(teacher, student)


@pytest.mark.parametrize("base", [1.0, 0, -2, 1.9, math.inf, math.nan, "e"])
def test_bases_that_leave_the_unit_interval_are_refused(base: object) -> None:
    with pytest.raises(ConfigError, match="at least 2"):
        probability_loyalty(TEACHER, STUDENT, base)  # type: ignore[arg-type]


def test_the_public_modules_compute_the_functions() -> None:
    random = np.random.default_rng(0)
    teacher, student = random.normal(size=(2, 30, 3))
    labels = bc.metrics.LabelLoyalty().compute(predictions=student, references=teacher)
    natural = bc.metrics.ProbabilityLoyalty().compute(predictions=torch.tensor(student), references=teacher.tolist())
    binary = bc.metrics.ProbabilityLoyalty().compute(predictions=student, references=teacher, base=2)
    assert labels == {"label_loyalty": label_loyalty(teacher, student)}
    assert natural == {"probability_loyalty": probability_loyalty(teacher, student)}
    assert binary == {"probability_loyalty": probability_loyalty(teacher, student, base=2)}
    assert bc.label_loyalty is label_loyalty
    assert bc.metrics.ProbabilityLoyalty().compute(predictions=student, references=student) == {
        "probability_loyalty": 1.0
    }
