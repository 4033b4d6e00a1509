from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcompress.data.batching import evaluation_batches, micro_batches, padded_tokens, training_batches
from bertcompress.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 300), max_size=300)


def flat(batches: list[np.ndarray]) -> list[int]:
    return [int(number) for batch in batches for number in batch]


@given(st.integers(0, 300), st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 50))
def test_training_batches_hold_each_example_once(rows: int, size: int, seed: int, epoch: int) -> None:
    batches = training_batches(rows, size, seed=seed, epoch=epoch)
    assert sorted(flat(batches)) == list(range(rows))
    assert all(len(batch) == size for batch in batches[:-1])
    assert all(1 <= len(batch) <= size for batch in batches)


@given(LENGTHS, st.integers(1, 2000), st.randoms(use_true_random=False))
def test_micro_batches_keep_the_budget(lengths: list[int], budget: int, random) -> None:
    chosen = random.sample(range(len(lengths)), random.randint(0, len(lengths)))
    parts = micro_batches(chosen, lengths, budget)
    assert sorted(flat(parts)) == sorted(chosen)
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[number] for number in part) <= budget


def every_cut(sizes: list[int], budget: int) -> list[tuple[int, int]]:
    """Return (parts, padded tokens) of every way to cut a sorted batch that keeps the budget."""
    if not sizes:
        return [(0, 0)]
    found = []
    for count in range(1, len(sizes) + 1):
        padded = count * sizes[0]
        if count == 1 or padded <= budget:
            found += [(parts + 1, tokens + padded) for parts, tokens in every_cut(sizes[count:], budget)]
    return found


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9), st.integers(1, 150))
def test_micro_batches_are_as_few_as_possible_and_then_of_the_least_padding(lengths: list[int], budget: int) -> None:
    parts = micro_batches(np.arange(len(lengths)), lengths, budget)
    assert (len(parts), padded_tokens(parts, lengths)) == min(every_cut(sorted(lengths, reverse=True), budget))


@given(LENGTHS, st.integers(1, 2000))
def test_evaluation_batches_cover_all_longest_first(lengths: list[int], budget: int) -> None:
    batches = evaluation_batches(lengths, budget)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert all(len(batch) == 1 or len(batch) * max(np.take(lengths, batch)) <= budget for batch in batches)
    longest = [max(np.take(lengths, batch)) for batch in batches]
    assert longest == sorted(longest, reverse=True)


@given(LENGTHS, st.integers(1, 2000))
def test_evaluation_batches_end_where_rows_get_shorter_or_the_budget_is_used(lengths: list[int], budget: int) -> None:
    batches = [np.take(lengths, batch) for batch in evaluation_batches(lengths, budget)]
    for number, sizes in enumerate(batches):
        longest = sizes[0]
        if number + 1 < len(batches) and batches[number + 1][0] > 0.95 * longest:
            assert (len(sizes) + 1) * longest > budget
        while len(sizes) > 1 and sizes[-1] <= 0.95 * longest:  # without its last row it was not full
            sizes = sizes[:-1]
            assert len(sizes) * longest < budget / 8


def test_little_of_an_evaluation_goes_into_padding() -> None:
    lengths = np.random.default_rng(0).gamma(4, 6, 900).astype(int) + 3  # as many, and as long, as SST-2's sentences
    batches = evaluation_batches(lengths, 4096)
    assert padded_tokens(batches, lengths) < 1.04 * lengths.sum()
    assert len(batches) < 30


def test_same_seed_and_epoch_give_the_same_batches_and_others_do_not() -> None:
    first = flat(training_batches(1000, 16, seed=1, epoch=2))
    assert first == flat(training_batches(1000, 16, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert first != flat(training_batches(1000, 16, seed=seed, epoch=epoch))


def test_examples_meet_whatever_their_lengths() -> None:
    lengths = np.sort(np.random.default_rng(0).geometric(1 / 20, 6400) + 2)
    spread = [lengths[batch].std() for batch in training_batches(6400, 32, seed=0, epoch=0)]
    assert np.mean(spread) > 0.9 * lengths.std()


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_impossible_batch_sizes_are_refused(size: object) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        training_batches(2, size, seed=0, epoch=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_tokens"):
        micro_batches([0, 1], [1, 2], size)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed=-1"):
        training_batches(2, 1, seed=-1, epoch=0)
