"""Batches of similar length, so that little of the work goes into padding.

Everything here works on lengths alone: it chooses which rows of `Features` go together, never looks at their tokens,
and gives the same answer for the same seed and epoch on every machine.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from bertcompress.errors import ConfigError

IntArray = npt.NDArray[np.int64]

POOL_BATCHES = 50  # batches drawn at random before their rows are sorted by length
FULL, SHORTER = 1 / 8, 1 / 20  # a batch that is so full takes no row that is so much shorter than its longest


def _check(owner: str, **values: int) -> None:
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
            raise ConfigError(f"{owner}: {name} is {value!r}, allowed is a whole number of at least 1.")


def training_batches(lengths: npt.ArrayLike, batch_size: int, *, seed: int, epoch: int) -> list[IntArray]:
    """Return one epoch's batches of row numbers; each row comes exactly once.

    The rows are shuffled, sorted by length within pools of at most 50 batches (a quarter of a small data set,
    so that its batches are not the same ones in every epoch), cut into batches, and the batches are shuffled.

    Args:
        lengths: tokens of each row, (n,).
        batch_size: rows in a batch; only one batch may hold fewer.
        seed: of the run; not negative.
        epoch: 0, 1, 2, ...; other epochs give other batches.

    Raises:
        ConfigError: for a batch size below 1 or a negative seed or epoch.
    """
    _check("training_batches", batch_size=batch_size)
    if seed < 0 or epoch < 0:
        raise ConfigError(f"training_batches: seed={seed}, epoch={epoch}, allowed are whole numbers from 0.")
    sizes = np.asarray(lengths, dtype=np.int64)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(len(sizes)).astype(np.int64)
    num_batches = -(-len(order) // batch_size)
    pool = batch_size * min(POOL_BATCHES, max(1, -(-num_batches // 4)))
    batches: list[IntArray] = []
    for start in range(0, len(order), pool):
        members = order[start : start + pool]
        members = members[np.argsort(sizes[members], kind="stable")]
        batches.extend(members[at : at + batch_size] for at in range(0, len(members), batch_size))
    return [batches[place] for place in random.permutation(len(batches))]


def split_by_tokens(indices: npt.ArrayLike, lengths: npt.ArrayLike, max_tokens: int) -> list[IntArray]:
    """Split a batch into micro-batches whose padded size, rows times longest, is at most `max_tokens`.

    A batch that fits comes back as it is; otherwise its rows are sorted, longest first. A row that is
    longer than `max_tokens` stands alone.

    Args:
        indices: row numbers, (b,).
        lengths: tokens of each row of the whole data set, (n,).
        max_tokens: padded tokens in one micro-batch.

    Raises:
        ConfigError: for a budget below one token.
    """
    _check("split_by_tokens", max_tokens=max_tokens)
    members = np.asarray(indices, dtype=np.int64)
    if not len(members):
        return []
    sizes = np.maximum(np.asarray(lengths, dtype=np.int64)[members], 1)
    if len(members) * int(sizes.max()) <= max_tokens:
        return [members]
    order = np.argsort(-sizes, kind="stable")
    members, sizes = members[order], sizes[order]
    parts: list[IntArray] = []
    start = 0
    while start < len(members):  # sizes fall, so the first of a part is its longest
        stop = start + max(1, max_tokens // int(sizes[start]))
        parts.append(members[start:stop])
        start = stop
    return parts


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
