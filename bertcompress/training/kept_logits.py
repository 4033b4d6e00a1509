"""A teacher's logits of a whole training set: one row for each example, or for each token without any padding."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bertcompress.data.features import Features

MIB = 2**20


class KeptLogits:
    """Logits in float32, (rows, C) or (tokens, C)."""

    def __init__(self, features: Features, classes: int, by_token: bool) -> None:
        """Make room for all of them, filled with zeros."""
        self._offsets, self._by_token = features.offsets, by_token
        self.values = torch.zeros(int(features.offsets[-1]) if by_token else len(features), classes)

    @classmethod
    def plan(cls, example: Tensor, features: Features, limit_mib: float) -> KeptLogits | None:
        """Return room for logits like the example's, (1, C) or (1, L, C); None if those of tokens exceed the limit."""
        by_token, classes = example.ndim == 3, example.shape[-1]
        if by_token and int(features.offsets[-1]) * classes * 4 > limit_mib * MIB:
            return None
        return cls(features, classes, by_token)

    def write(self, indices: NDArray[np.int64], logits: Tensor) -> None:
        """Keep the logits of these rows, (B, C) or padded (B, L, C)."""
        logits = logits.float().cpu()
        if not self._by_token:
            self.values[torch.from_numpy(indices)] = logits
            return
        mask, places = self._places(indices, logits.shape[1])
        self.values[places] = logits[mask]

    def read(self, indices: NDArray[np.int64], length: int) -> Tensor:
        """Return the logits of these rows, (B, C) or (B, L, C) with zeros at pads."""
        if not self._by_token:
            return self.values[torch.from_numpy(indices)]
        mask, places = self._places(indices, length)
        padded = torch.zeros(len(indices), length, self.values.shape[-1])
        padded[mask] = self.values[places]
        return padded

    def _places(self, indices: NDArray[np.int64], length: int) -> tuple[Tensor, Tensor]:
        """Return which tokens of a padded batch are none of its pads, (B, L), and where these are kept."""
        starts, stops = self._offsets[indices], self._offsets[np.asarray(indices) + 1]
        columns = np.arange(length)
        mask = columns < (stops - starts)[:, None]
        return torch.from_numpy(mask), torch.from_numpy((starts[:, None] + columns)[mask])
