from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seqeval.metrics.sequence_labeling import get_entities

from bertcompress.data.schemes import convert_scheme, find_scheme, marks_spans, read_spans, usual_tag, write_spans
from bertcompress.errors import ConfigError, DataError

SCHEMES = ("IOB1", "IOB2", "IOBES")


@st.composite
def spans(draw: st.DrawFn) -> tuple[list[tuple[str, int, int]], int]:
    """Spans that do not overlap, many of them side by side, and the number of words."""
    found, at = [], 0
    for gap, length, kind in draw(st.lists(st.tuples(st.integers(0, 1), st.integers(1, 3), st.sampled_from("XY")))):
        found.append((kind, at + gap, at + gap + length))
        at += gap + length
    return found, at + draw(st.integers(0, 2))


TAGS = st.lists(st.sampled_from(["O", *(f"{letter}-{kind}" for letter in "BIES" for kind in "XY")]), max_size=12)


@given(spans())
def test_every_conversion_there_and_back_is_exact(example: tuple[list[tuple[str, int, int]], int]) -> None:
    found, length = example
    written = {scheme: write_spans(found, length, scheme) for scheme in SCHEMES}
    for source, tags in written.items():
        assert read_spans(tags) == found
        for target in SCHEMES:
            assert convert_scheme(tags, source, target) == written[target]
            assert convert_scheme(convert_scheme(tags, source, target), target, source) == tags


@given(TAGS)
def test_spans_of_any_tags_are_those_of_seqeval(tags: list[str]) -> None:
    assert read_spans(tags) == [(kind, first, last + 1) for kind, first, last in get_entities(tags)]


@given(TAGS)
def test_what_a_scheme_does_not_allow_becomes_what_it_allows(tags: list[str]) -> None:
    usual = convert_scheme(tags, "IOBES", "IOBES")
    assert read_spans(usual) == read_spans(tags)
    assert convert_scheme(usual, "IOBES", "IOBES") == usual


def test_the_schemes_of_the_docstring() -> None:
    tags = {
        "IOB2": ["B-PER", "I-PER", "B-PER", "O", "B-LOC"],
        "IOB1": ["I-PER", "I-PER", "B-PER", "O", "I-LOC"],
        "IOBES": ["B-PER", "E-PER", "S-PER", "O", "S-LOC"],
    }
    for source in tags:
        assert find_scheme([tags[source]]) == source
        for target in tags:
            assert convert_scheme(tags[source], source, target) == tags[target]


def test_tags_without_a_type() -> None:
    assert find_scheme([["O", "B", "I"], ["B"]]) == "IOB2"
    assert find_scheme([["O", "I", "I"], ["I", "O", "I"]]) == "IOB1"
    assert convert_scheme(["B", "I", "O", "B"], "IOB2", "IOBES") == ["B", "E", "O", "S"]


@pytest.mark.parametrize(
    "tags",
    [["NN", "VB", "-LRB-"], ["O", "O"], ["N", "O", "V", "B", "I"], ["E", "S"], ["PRON", "X", "I-x"], []],
    ids=str,
)
def test_tags_that_mark_no_spans(tags: list[str]) -> None:
    assert not marks_spans(dict.fromkeys(tags, 1))
    assert find_scheme([tags]) == ""


def test_one_wrong_tag_among_spans_does_not_make_them_parts_of_speech() -> None:
    assert find_scheme([["B-PER", "I-PER", "PER"], ["B-LOC", "O"]]) == "IOB2"


def test_other_letters() -> None:
    assert [usual_tag(tag) for tag in ("U-X", "L-X", "M-X", "W-X", "U", "O")] == ["S-X", "E-X", "I-X", "S-X", "S", "O"]
    assert [usual_tag(tag) for tag in ("X-PER", "B-", "PER", "o", "", "b-PER", "B_PER")] == [None] * 7
    assert find_scheme([["B-X", "L-X", "U-X"]]) == "IOBES"


def test_refusals() -> None:
    with pytest.raises(DataError, match=r"word 2: its tag is 'E-X'; IOB2 has 'O', and B-, I- with a type"):
        convert_scheme(["B-X", "E-X"], "IOB2", "IOBES")
    with pytest.raises(DataError, match="word 1: its tag is 'NN'"):
        read_spans(["NN"])
    with pytest.raises(ConfigError, match="target: the scheme is 'BIO', allowed are 'IOB1', 'IOB2', 'IOBES'"):
        convert_scheme(["O"], "IOB2", "BIO")
