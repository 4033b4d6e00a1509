"""Batches, and micro-batches of similar length, so that little of the work goes into padding.

Everything here works on lengths alone: it chooses which rows of `Features` go together, never looks at their tokens,
and gives the same answer for the same seed and epoch on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bertcompress.errors import ConfigError

IntArray = npt.NDArray[np.int64]

FULL, SHORTER = 1 / 8, 1 / 20  # a batch that is so full takes no row that is so much shorter than its longest


def _check(owner: str, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ConfigError(f"{owner}: {name} is {value!r}, allowed is a whole number of at least 1.")


def training_batches(num_rows: int, batch_size: int, *, seed: int, epoch: int) -> list[IntArray]:
    """Return one epoch's batches of row numbers: a random order, cut into batches; each row comes exactly once.

    Which rows meet has nothing to do with their lengths: students taught in batches of similar length ended with a
    larger loss after as many steps, as each step saw a less even mix of examples. `micro_batches` saves the padding.

    Args:
        num_rows: of the data set.
        batch_size: rows in a batch; only the last may hold fewer.
        seed: of the run; not negative.
        epoch: 0, 1, 2, ...; other epochs give other batches.

    Raises:
        ConfigError: for a batch size below 1 or a negative seed or epoch.
    """
    _check("training_batches", batch_size=batch_size)
    if seed < 0 or epoch < 0:
        raise ConfigError(f"training_batches: seed={seed}, epoch={epoch}, allowed are whole numbers from 0.")
    order = np.random.default_rng([seed, epoch]).permutation(num_rows).astype(np.int64)
    return [order[at : at + batch_size] for at in range(0, len(order), batch_size)]


def micro_batches(indices: npt.ArrayLike, lengths: npt.ArrayLike, max_tokens: int) -> list[IntArray]:
    """Split a batch into as few micro-batches as a budget allows, of the least padding.

    Few, because each costs as much as hundreds of tokens: weights are read, and gradients of all weights written, once
    more. Sorted by length the best cuts are found exactly, by dynamic programming. The rows come back longest first.

    Args:
        indices: row numbers, (b,).
        lengths: tokens of each row of the whole data set, (n,).
        max_tokens: padded tokens, rows times longest, in one micro-batch; a row that is longer stands alone.

    Raises:
        ConfigError: for a budget below one token.
    """
    _check("micro_batches", max_tokens=max_tokens)
    members = np.asarray(indices, dtype=np.int64)
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64)[members], 1)
    order = np.argsort(-sizes, kind="stable")
    members, sizes = members[order], sizes[order]
    one_more = int(sizes.sum()) * len(members) + 1  # more than any padding
    least = np.zeros(len(members) + 1, dtype=np.int64)  # cost of the first 0, 1, ... rows
    begins = np.zeros(len(members) + 1, dtype=np.int64)  # where the last micro-batch of these begins
    for stop in range(1, len(members) + 1):
        padded = sizes[:stop] * np.arange(stop, 0, -1)  # sizes fall, so the first of a micro-batch is its longest
        first = min(stop - 1, int(np.count_nonzero(padded > max_tokens)))
        costs = least[first:stop] + padded[first:]
        begins[stop] = first + int(np.argmin(costs))
        least[stop] = costs.min() + one_more
    parts: list[IntArray] = []
    stop = len(members)
    while stop:
        start = int(begins[stop])
        parts.append(members[start:stop])
        stop = start
    return parts[::-1]


def evaluation_batches(lengths: npt.ArrayLike, max_tokens: int) -> list[IntArray]:
    """Return batches over all rows, longest first, each of a padded size of at most `max_tokens`.

    Longest first, so that a budget which does not fit in memory fails at once and not at the end. Once a batch holds
    an eighth of the budget, it also ends before the first row that is shorter than its longest by a twentieth: where
    rows are few and of many lengths, such as the 872 sentences of SST-2, a tenth of the work would go into padding.

    Raises:
        ConfigError: for a budget below one token.
    """
    _check("evaluation_batches", max_tokens=max_tokens)
    sizes = np.asarray(lengths, dtype=np.int64)
    order = np.argsort(-sizes, kind="stable")
    falling = -np.maximum(sizes[order], 1)  # negative, so that they rise
    batches: list[IntArray] = []
    start = 0
    while start < len(order):
        longest = -int(falling[start])
        most, enough = max(1, max_tokens // longest), -(-int(FULL * max_tokens) // longest)
        shorter = int(np.searchsorted(falling, -longest * (1 - SHORTER))) - start
        stop = start + min(most, max(enough, shorter, 1))
        batches.append(order[start:stop])
        start = stop
    return batches


def padded_tokens(batches: list[IntArray], lengths: npt.ArrayLike) -> int:
    """Return the tokens, padding included, that a forward pass over the batches works on."""
    sizes = np.asarray(lengths, dtype=np.int64)
    return sum(len(batch) * int(sizes[batch].max()) for batch in batches if len(batch))
