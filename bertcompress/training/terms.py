r"""The parts that objectives are composed of: each compares, for one micro-batch, and sums over countable units.

Sources: soft targets from Hinton et al. (1503.02531), with their T^2; hidden states and attention scores from
TinyBERT (1909.10351): one projection, with a bias, shared by all layers of the same widths; scores are compared
before the softmax; the terms add up over the pairs of layers. Where we depart: TinyBERT's means count pads
(hidden states) and pad queries (scores), ours count none, so an example's loss does not depend on its batch mates;
and its released code leaves the teacher's dropout on, ours is off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.encoder.spec import Attention, EncoderSpec
from bertcompress.errors import ConfigError
from bertcompress.training.mapping import Pairs
from bertcompress.training.term import Batch, Term


class HiddenTerm(Term):
    """Squared error of hidden states, mean over dimensions, summed over the pairs of layers (TinyBERT, eq. 8 and 9).

    Where the widths of a pair differ, a learned linear map takes the student's state to the teacher's width. It is
    trained with the student and dropped afterwards. All pairs with the same two widths share one.
    """

    name = "hidden"
    unit = "token"
    needs = frozenset({"hidden_states"})

    def __init__(self, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec, seed: int = 0) -> None:
        """Build the projections, with TinyBERT's initial weights (normal, deviation 0.02), from `seed`."""
        super().__init__()
        self.pairs = pairs
        self.keys: list[str | None] = []
        self.projections = nn.ModuleDict()
        generator = torch.Generator().manual_seed(seed)
        for taught, teaching in pairs:
            narrow, wide = student.widths[taught], teacher.widths[teaching]
            key = None if narrow == wide else f"{narrow}_to_{wide}"
            self.keys.append(key)
            if key is not None and key not in self.projections:
                self.projections[key] = _projection(narrow, wide, generator)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over tokens."""
        mask = batch["attention_mask"].float()  # (B, L)
        total = mask.new_zeros(())
        for (taught, teaching), key in zip(self.pairs, self.keys, strict=True):
            state = student.hidden_states[taught]  # (B, L, student width)
            state = state if key is None else self.projections[key](state)
            error = (state.float() - teacher.hidden_states[teaching].float()).square().mean(dim=-1)  # (B, L)
            total = total + (error * mask).sum()
        return total

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {"name": self.name, "pairs": [list(pair) for pair in self.pairs]}

    def teacher_places(self) -> dict[str, frozenset[int]]:
        """Return the hidden states that the pairs name."""
        return {"hidden_states": frozenset(teaching for _, teaching in self.pairs)}


class AttentionTerm(Term):
    """Squared error of attention scores before the softmax, mean over heads, summed over pairs of layers (eq. 7)."""

    name = "attention"
    unit = "token_pair"
    needs = frozenset({"attention_scores"})

    def __init__(self, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec) -> None:
        """Find the attention operation of each layer of each pair; pairs with layer 0 have none and are left out.

        Raises:
            ConfigError: a layer has no attention, the heads of a pair differ in number, or no pair is left.
        """
        super().__init__()
        self.pairs = tuple(pair for pair in pairs if 0 not in pair)
        if not self.pairs:
            raise ConfigError(f"mapping: {list(pairs)} has no pair of layers whose attention could be compared.")
        places = []
        for pair in self.pairs:
            (taught, heads), (teaching, teacher_heads) = (
                _attention(spec, layer, who)
                for spec, layer, who in ((student, pair[0], "student"), (teacher, pair[1], "teacher"))
            )
            if heads != teacher_heads:
                raise ConfigError(
                    f"objective 'attention': the pair {pair} compares {heads} heads of the student with "
                    f"{teacher_heads} of the teacher; allowed is the same number: keep num_heads or leave the term out."
                )
            places.append((taught, teaching))
        self.places = tuple(places)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over pairs of tokens."""
        mask = batch["attention_mask"].float()
        pairs = mask[:, :, None] * mask[:, None, :]  # (B, L, L)
        total = mask.new_zeros(())
        for taught, teaching in self.places:
            difference = student.attention_scores[taught].float() - teacher.attention_scores[teaching].float()
            total = total + (difference.square().mean(dim=1) * pairs).sum()  # (B, h, L, L) to (B, L, L)
        return total

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {"name": self.name, "pairs": [list(pair) for pair in self.pairs]}

    def teacher_places(self) -> dict[str, frozenset[int]]:
        """Return the attention operations that the pairs name."""
        return {"attention_scores": frozenset(teaching for _, teaching in self.places)}


def _projection(narrow: int, wide: int, generator: torch.Generator) -> nn.Linear:
    linear = nn.Linear(narrow, wide)
    with torch.no_grad():
        linear.weight.normal_(0.0, 0.02, generator=generator)
        linear.bias.zero_()
    return linear


def _attention(spec: EncoderSpec, layer: int, who: str) -> tuple[int, int]:
    """Return the place of the layer's last attention among the chain's attentions, and its number of heads."""
    found = [operation for operation in spec.layers[layer - 1].operations if isinstance(operation, Attention)]
    if not found:
        raise ConfigError(f"objective 'attention': layer {layer} of the {who} has no attention; do not map it.")
    until = spec.layers[:layer]
    place = sum(isinstance(operation, Attention) for each in until for operation in each.operations) - 1
    return place, found[-1].num_heads
