from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcompress.errors import ConfigError
from bertcompress.training.mapping import resolve_mapping


@pytest.mark.parametrize(
    ("mapping", "student", "teacher", "expected"),
    [
        ("uniform", 6, 12, ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12))),
        ("uniform", 4, 12, ((1, 3), (2, 6), (3, 9), (4, 12))),
        ("uniform", 4, 6, ((1, 2), (2, 3), (3, 5), (4, 6))),
        ("last", 6, 12, ((6, 12),)),
        ("skip", 6, 12, ((1, 2), (2, 4), (3, 6), (4, 8), (5, 10))),
        ("tinybert", 4, 12, ((0, 0), (1, 3), (2, 6), (3, 9), (4, 12))),
        ("top", 4, 12, ((1, 9), (2, 10), (3, 11), (4, 12))),
        ("bottom", 6, 12, ((1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6))),
        ("reversed", 4, 12, ((1, 12), (2, 9), (3, 6), (4, 3))),
        ((0, 5, 0, 12), 4, 12, ((2, 5), (4, 12))),
        ([[2, 4], [0, 0], [1, 2]], 2, 4, ((0, 0), (1, 2), (2, 4))),
    ],
)
def test_the_published_mappings(mapping, student, teacher, expected):
    assert resolve_mapping(mapping, student, teacher) == expected


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ("middle", "'middle'"),
        ((1, 2, 3), "3 numbers"),
        ((0, 0), "at least one pair"),
        ([], "at least one pair"),
        ((1, 5), "teacher layer 5"),
        ([[3, 1]], "student layer 3"),
        ([[1, -1]], "teacher layer -1"),
        ([[1, 1], [1, 1]], "twice"),
        ([[1, 2, 3]], "pairs of numbers"),
        ([["1", 2]], "pairs of numbers"),
    ],
)
def test_an_impossible_mapping_is_refused(mapping, message):
    with pytest.raises(ConfigError, match=message):
        resolve_mapping(mapping, 2, 4)


def test_skip_needs_two_layers():
    with pytest.raises(ConfigError, match="only one"):
        resolve_mapping("skip", 1, 4)


@given(st.integers(1, 24), st.integers(1, 24))
def test_uniform_teaches_every_layer_in_order_and_ends_at_the_end(student, teacher):
    pairs = resolve_mapping("uniform", student, teacher)
    assert [taught for taught, _ in pairs] == list(range(1, student + 1))
    teaching = [layer for _, layer in pairs]
    assert teaching == sorted(teaching)
    assert min(teaching) >= 1
    assert teaching[-1] == teacher


@pytest.mark.parametrize("name", ["top", "bottom"])
def test_more_layers_than_the_teacher_has_cannot_be_paired_one_by_one(name):
    with pytest.raises(ConfigError, match=f"'{name}' pairs the student's 3 layers .* which has 2; use 'uniform'"):
        resolve_mapping(name, 3, 2)
