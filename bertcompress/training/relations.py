r"""What tokens have to do with each other: attention distributions and relations (MiniLM, MiniLMv2).

MiniLM (2002.10957), last layer only: the attention distribution A = softmax(Q K^T / sqrt(d)) of each head, eq. 5, and
the value relation VR = softmax(V V^T / sqrt(d)), eq. 6 and 7. MiniLMv2 (2012.15828) replaces A by the relations of
queries with queries and of keys with keys, and splits the concatenated heads of each into a number of relation heads
of its own, so that teacher and student may have other numbers of attention heads. Each term is

    sum over pairs of layers, mean over heads and query tokens, of KL(teacher || student) over key tokens.

Pads are no keys and no queries. Where we depart: MiniLM's mean is over the tokens of each sequence and then over
sequences, ours is over all tokens of a step; the papers teach one layer, here any mapping may be given.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConfigError
from bertcompress.training.mapping import Pairs
from bertcompress.training.term import Batch
from bertcompress.training.terms import AttentionsTerm, attention_of

# What each term reads.
RELATIONS = {"query_relation": "query_states", "key_relation": "key_states", "value_relation": "value_states"}
HIDDEN_SCORE = -1e9  # of a padded key; its probability is 0, and differences of it stay finite


def divergence(student: Tensor, teacher: Tensor, mask: Tensor) -> Tensor:
    """Return KL(teacher || student) of the distributions over keys, mean over heads, summed over query tokens.

    Args:
        student: scores before the softmax, (B, heads, L, L), queries before keys.
        teacher: the same of the teacher.
        mask: 1 at tokens and 0 at pads, (B, L).
    """
    pads = mask[:, None, None, :] == 0
    learned, target = (
        torch.log_softmax(scores.float().masked_fill(pads, HIDDEN_SCORE), dim=-1) for scores in (student, teacher)
    )
    distances = F.kl_div(learned, target, reduction="none", log_target=True).sum(-1).mean(1)  # (B, L)
    total: Tensor = (distances * mask).sum()
    return total


class AttentionDistributionTerm(AttentionsTerm):
    """KL of attention distributions (MiniLM, eq. 5)."""

    name = "attention_distribution"
    unit = "token"

    def __init__(self, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec) -> None:
        """Find the attentions of each pair of layers.

        Raises:
            ConfigError: a layer has no attention, the heads of a pair differ in number, or no pair is left.
        """
        super().__init__()
        self._compare("attention_scores", self.name, pairs, student, teacher)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over query tokens."""
        mask = batch["attention_mask"].float()
        return torch.stack([divergence(own, other, mask) for own, other in self.compared(student, teacher)]).sum()


class RelationTerm(AttentionsTerm):
    """KL of the relations of queries, keys or values with themselves (MiniLM, eq. 6 and 7; MiniLMv2)."""

    unit = "token"

    def __init__(
        self, name: str, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec, heads: int | None = None
    ) -> None:
        """Find the attentions of each pair of layers.

        Args:
            name: a key of `RELATIONS`.
            pairs: (student layer, teacher layer).
            student: the network that learns.
            teacher: the network it learns from.
            heads: relation heads that the concatenated heads are split into anew (MiniLMv2); None: the attention's
                own, which both networks must have the same number of (MiniLM).

        Raises:
            ConfigError: a layer has no attention, no pair is left, or the heads do not fit.
        """
        super().__init__()
        self.name = name  # type: ignore[misc]  # one class for three terms
        self._compare(RELATIONS[name], name, pairs, student, teacher, same_heads=heads is None)
        self.relation_heads = heads
        self.heads = [heads or attention_of(name, student, taught, "student")[1].num_heads for taught, _ in self.pairs]
        for pair in self.pairs:
            for who, spec, layer in zip(("student", "teacher"), (student, teacher), pair, strict=True):
                _check_split(name, heads, who, spec, layer)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over query tokens."""
        mask = batch["attention_mask"].float()
        found = [
            divergence(_relation(own, heads), _relation(other, heads), mask)
            for (own, other), heads in zip(self.compared(student, teacher), self.heads, strict=True)
        ]
        return torch.stack(found).sum()

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {**super().describe(), "heads": self.relation_heads}


def _relation(vectors: Tensor, heads: int) -> Tensor:
    """Return scaled products of tokens with tokens, (B, heads, L, L), from (B, L, heads * size)."""
    batch, length, width = vectors.shape
    split = vectors.view(batch, length, heads, width // heads).transpose(1, 2)
    relation: Tensor = split @ split.transpose(-1, -2) * (width // heads) ** -0.5
    return relation


def _check_split(name: str, heads: int | None, who: str, spec: EncoderSpec, layer: int) -> None:
    attention = attention_of(name, spec, layer, who)[1]
    width = attention.num_heads * attention.head_size
    if heads is not None and width % heads:
        fitting = [number for number in range(1, width + 1) if width % number == 0]
        raise ConfigError(
            f"relation_heads: got {heads}, and the {who}'s layer {layer} has heads of {width} dimensions together, "
            f"which that does not divide; allowed are {', '.join(map(str, fitting))}."
        )
