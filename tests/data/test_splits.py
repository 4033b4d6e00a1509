from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bertcompress.data.splits import hold_out, normalised, position, split_three


def test_duplicates_but_for_case_and_punctuation_fall_together() -> None:
    assert position("It's GREAT, really!") == position("it s great  really")
    assert position("great, really") != position("great really not")


def test_texts_without_a_word_are_not_all_one() -> None:
    assert normalised(":-)") != normalised(":-(")
    assert position("!!!") != position("???")


def test_the_two_texts_of_a_pair_are_told_apart() -> None:
    assert position("a b", "c") != position("a", "b c")


def test_a_position_never_changes() -> None:  # or splits of users' data would silently move between versions
    assert round(position("The quick brown fox"), 6) == 0.848649
    assert round(position("a premise", "a hypothesis"), 6) == 0.501292


@given(st.lists(st.floats(0, 1, exclude_max=True)))
def test_three_splits_hold_each_example_once(positions: list[float]) -> None:
    parts = split_three(positions)
    assert sorted(number for part in parts.values() for number in part) == list(range(len(positions)))


@given(st.lists(st.floats(0, 1, exclude_max=True), min_size=1))
def test_something_is_always_held_out_and_equal_positions_stay_together(positions: list[float]) -> None:
    kept, held = hold_out(positions)
    assert held
    assert sorted(kept + held) == list(range(len(positions)))
    assert not {positions[number] for number in kept} & {positions[number] for number in held}


def test_shares_are_as_asked() -> None:
    positions = [position(f"text {number}") for number in range(20_000)]
    parts = split_three(positions)
    assert abs(len(parts["train"]) / 20_000 - 0.8) < 0.01
    assert abs(len(parts["test"]) / 20_000 - 0.1) < 0.01
    assert abs(len(hold_out(positions)[1]) / 20_000 - 0.1) < 0.01
