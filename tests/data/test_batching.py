from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bertcompress.data.batching import evaluation_batches, padded_tokens, split_by_tokens, training_batches
from bertcompress.errors import ConfigError

LENGTHS = st.lists(st.integers(1, 300), max_size=300)


def flat(batches: list[np.ndarray]) -> list[int]:
    return [int(number) for batch in batches for number in batch]


@given(LENGTHS, st.integers(1, 40), st.integers(0, 2**40), st.integers(0, 50))
def test_training_batches_hold_each_example_once(lengths: list[int], size: int, seed: int, epoch: int) -> None:
    batches = training_batches(lengths, size, seed=seed, epoch=epoch)
    assert sorted(flat(batches)) == list(range(len(lengths)))
    assert sum(len(batch) < size for batch in batches) <= 1
    assert all(1 <= len(batch) <= size for batch in batches)


@given(LENGTHS, st.integers(1, 2000), st.randoms(use_true_random=False))
def test_micro_batches_keep_the_budget(lengths: list[int], budget: int, random) -> None:
    chosen = random.sample(range(len(lengths)), random.randint(0, len(lengths)))
    parts = split_by_tokens(chosen, lengths, budget)
    assert sorted(flat(parts)) == sorted(chosen)
    for part in parts:
        assert len(part) == 1 or len(part) * max(lengths[number] for number in part) <= budget


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


def test_a_batch_that_fits_keeps_its_order() -> None:
    assert flat(split_by_tokens([4, 0, 2], [5, 9, 7, 9, 6], 21)) == [4, 0, 2]


def test_micro_batches_are_no_more_than_the_budget_forces() -> None:
    lengths = np.full(64, 100)
    assert [len(part) for part in split_by_tokens(np.arange(64), lengths, 2048)] == [20, 20, 20, 4]


def test_same_seed_and_epoch_give_the_same_batches_and_others_do_not() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, 1000)
    first = flat(training_batches(lengths, 16, seed=1, epoch=2))
    assert first == flat(training_batches(lengths.tolist(), 16, seed=1, epoch=2))
    for seed, epoch in ((1, 3), (2, 2), (2, 1)):
        assert first != flat(training_batches(lengths, 16, seed=seed, epoch=epoch))


def test_epochs_mix_examples_even_in_a_small_data_set() -> None:
    lengths = np.arange(3, 203)
    partners = [
        {frozenset(map(int, batch)) for batch in training_batches(lengths, 8, seed=0, epoch=epoch)} for epoch in (0, 1)
    ]
    assert len(partners[0] & partners[1]) <= 1  # of 25 batches


def test_bucketing_wastes_little_padding() -> None:
    lengths = np.random.default_rng(0).geometric(1 / 20, 20_000) + 2
    random_batches = np.array_split(np.random.default_rng(1).permutation(20_000), 625)
    waste = padded_tokens(training_batches(lengths, 32, seed=0, epoch=0), lengths) / lengths.sum()
    assert waste < 1.12
    assert padded_tokens(random_batches, lengths) / lengths.sum() > 3


@pytest.mark.parametrize("size", [0, -1, 2.5, True])
def test_impossible_batch_sizes_are_refused(size: object) -> None:
    with pytest.raises(ConfigError, match="batch_size"):
        training_batches([1, 2], size, seed=0, epoch=0)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="max_tokens"):
        split_by_tokens([0, 1], [1, 2], size)  # type: ignore[arg-type]


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(ConfigError, match="seed=-1"):
        training_batches([1, 2], 1, seed=-1, epoch=0)
