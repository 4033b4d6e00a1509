"""Which tokens are hidden from the network for it to guess (BERT, 1810.04805, section 3.1, task 1).

Of a row's tokens 15 % are chosen, at least one; of these 80 % become the mask token, 10 % a random token, 10 % stay.
Which ones follows from (seed, step, row) alone: it does not depend on how a step is split, and differs from epoch to
epoch.
Pieces are chosen one by one, not whole words.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from bertcompress.training.term import Batch, Term

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

    from bertcompress.data.features import Features

UNMASKED = -100  # the label of tokens that are not guessed
SALT = 0x6D6C6D  # keeps these draws apart from others with the same seed


@dataclass(frozen=True)
class Masking:
    """How tokens are hidden.

    Attributes:
        mask_token_id: what stands for a hidden token.
        special_ids: tokens that are never chosen.
        vocab_size: random tokens are below this.
        seed: that the choice follows from.
        share: of a row's tokens that are chosen.
    """

    mask_token_id: int
    special_ids: Collection[int]
    vocab_size: int
    seed: int = 0
    share: float = 0.15

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase, seed: int = 0) -> Masking:
        """Return the masking for a tokenizer's tokens."""
        assert tokenizer.mask_token_id is not None
        return cls(int(tokenizer.mask_token_id), frozenset(tokenizer.all_special_ids), len(tokenizer), seed)

    def count(self, features: Features, rows: NDArray[np.int64]) -> int:
        """Return how many tokens of these rows are chosen, which is the same in every step."""
        return sum(self._chosen(len(self._words(features, row))) for row in rows)

    def apply(self, batch: dict[str, Tensor], features: Features, rows: NDArray[np.int64], step: int) -> None:
        """Hide tokens in a collated batch on the CPU, and add `masked_labels` (B, L): the tokens that were there."""
        ids = batch["input_ids"].numpy()
        labels = np.full(ids.shape, UNMASKED, np.int64)
        for place, row in enumerate(rows):
            words = self._words(features, row)
            random = np.random.default_rng([SALT, self.seed, step, int(row)])
            chosen = random.permutation(words)[: self._chosen(len(words))]
            labels[place, chosen] = ids[place, chosen]
            fate = random.random(len(chosen))
            hidden, replaced = chosen[fate < 0.8], chosen[fate >= 0.9]
            ids[place, hidden] = self.mask_token_id
            ids[place, replaced] = random.integers(self.vocab_size, size=len(replaced))
        batch["masked_labels"] = torch.from_numpy(labels)

    def _words(self, features: Features, row: int) -> NDArray[np.int64]:
        """Return the places of a row's tokens that may be chosen."""
        ids = np.asarray(features.input_ids[features.offsets[row] : features.offsets[row + 1]])
        return np.flatnonzero(~np.isin(ids, list(self.special_ids)))

    def _chosen(self, words: int) -> int:
        return max(1, round(words * self.share)) if words else 0


class MaskedTerm(Term):
    """Cross entropy of the tokens that were hidden (masked language modelling)."""

    name = "mlm"
    unit = "masked"
    needs_teacher = False
    needs_logits = True

    def __init__(self, masking: Masking) -> None:
        """Take how tokens are hidden; the training loop hides them."""
        super().__init__()
        self.masking = masking

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over hidden tokens."""
        labels = batch["masked_labels"]
        places = labels != UNMASKED
        return F.cross_entropy(student.logits[places].float(), labels[places], reduction="sum")

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {"name": self.name, "share": self.masking.share, "seed": self.masking.seed}
