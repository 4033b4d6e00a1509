"""Which places of a padded batch are computed: all of them, or little more than the real tokens.

A batch of random examples is two thirds padding where they are sentences. Nearly all work of an encoder is done token
by token, so that work can be spared: the tokens stand one after the other, and are put into the padded shape where they
meet, in attention and convolutions.
"""

from __future__ import annotations

import torch
from torch import Tensor

COARSEST = 8  # of a power of two tokens; libraries make code for every new size of a product, at up to 8 ms


def rounded(tokens: int) -> int:
    """Return the next size of which there are only eight between powers of two, and none below 16 but 16."""
    step = max(16, (1 << max(0, tokens - 1).bit_length()) // (2 * COARSEST))
    return -(-tokens // step) * step


class Places:
    """The places of a batch that are computed; by default all of them."""

    def __init__(self, mask: Tensor | None, *, skip_pads: bool = False) -> None:
        """Choose the places.

        Args:
            mask: (batch, length), True at real tokens; None where all are.
            skip_pads: compute real tokens, and only as many pads as fill up to a `rounded` number.
        """
        self.mask = mask
        self._kept: Tensor | None = None
        if mask is None or not skip_pads:
            return
        flat = mask.reshape(-1)
        tokens = int(flat.sum())
        if rounded(tokens) < len(flat):
            self._kept = torch.argsort(flat, descending=True, stable=True)[: rounded(tokens)].sort().values

    @property
    def all(self) -> bool:
        """Whether every place is computed."""
        return self._kept is None

    def pack(self, padded: Tensor) -> Tensor:
        """Return what is computed of (batch, length, ...), as (1, places, ...); unchanged if that is all."""
        if self._kept is None:
            return padded
        return padded.flatten(0, 1).index_select(0, self._kept)[None]

    def unpack(self, packed: Tensor) -> Tensor:
        """Return (1, places, ...) as (batch, length, ...), zero where nothing was computed."""
        if self._kept is None or self.mask is None:
            return packed
        values = packed[0]
        padded = values.new_zeros(self.mask.numel(), *values.shape[1:]).index_copy(0, self._kept, values)
        return padded.view(*self.mask.shape, *values.shape[1:])
