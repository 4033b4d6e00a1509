r"""The parts that objectives are composed of: each compares, for one micro-batch, and sums over countable units.

Hidden states and attention scores are compared as in TinyBERT (1909.10351): one projection, with a bias, shared by all
layers of the same widths; scores before the softmax; the terms add up over the pairs of layers. Where we depart:
TinyBERT's means count pads (hidden states) and pad queries (scores), ours count none, so an example's loss does not
depend on its batch mates; and its released code leaves the teacher's dropout on, ours is off.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertcompress.encoder.spec import Attention, EncoderSpec
from bertcompress.errors import ConfigError
from bertcompress.training.mapping import Pairs
from bertcompress.training.term import Batch, Term, Unit, begin_as_selection


class StatesTerm(Term):
    """A comparison of hidden states over pairs of layers.

    Where the widths of a pair differ, a learned linear map with a bias takes the student's state to the teacher's
    width. It is trained with the student and dropped afterwards. All pairs with the same two widths share one.
    """

    needs = frozenset({"hidden_states"})

    def __init__(
        self, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec, seed: int = 0, *, always: bool = False
    ) -> None:
        """Build the projections, with TinyBERT's initial weights (normal, deviation 0.02), from `seed`.

        Args:
            pairs: (student layer, teacher layer); 0 is the output of the embeddings.
            student: the network that learns.
            teacher: the network it learns from.
            seed: of the projections' weights.
            always: project between equal widths as well.
        """
        super().__init__()
        self.pairs = pairs
        self.keys: list[str | None] = []
        self.projections = nn.ModuleDict()
        generator = torch.Generator().manual_seed(seed)
        for taught, teaching in pairs:
            narrow, wide = student.widths[taught], teacher.widths[teaching]
            key = None if narrow == wide and not always else f"{narrow}_to_{wide}"
            self.keys.append(key)
            if key is not None and key not in self.projections:
                self.projections[key] = _projection(narrow, wide, generator)

    def begin_with(self, selected: Sequence[int]) -> None:
        """Let projections begin as the selection that a student was cut out by, where they are of its widths.

        Args:
            selected: the teacher's dimension that each of the student's is.
        """
        for projection in self.projections.values():
            assert isinstance(projection, nn.Linear)
            begin_as_selection(projection, selected)

    def compared(self, student: Any, teacher: Any, first: bool = False) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield both states of every pair at the teacher's width, (B, L, H), or of the first token alone, (B, H)."""
        for (taught, teaching), key in zip(self.pairs, self.keys, strict=True):
            state, target = student.hidden_states[taught], teacher.hidden_states[teaching]
            if first:
                state, target = state[:, 0], target[:, 0]
            yield (state if key is None else self.projections[key](state)).float(), target.float()

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {"name": self.name, "pairs": [list(pair) for pair in self.pairs]}

    def teacher_places(self) -> dict[str, frozenset[int]]:
        """Return the hidden states that the pairs name."""
        return {"hidden_states": frozenset(teaching for _, teaching in self.pairs)}


class HiddenTerm(StatesTerm):
    """Squared error of hidden states, mean over dimensions, summed over the pairs of layers (TinyBERT, eq. 8 and 9)."""

    name = "hidden"

    def __init__(
        self,
        pairs: Pairs,
        student: EncoderSpec,
        teacher: EncoderSpec,
        seed: int = 0,
        *,
        released: bool = False,
        always: bool | None = None,
    ) -> None:
        """Take the pairs; see `StatesTerm`.

        Args:
            pairs: (student layer, teacher layer).
            student: the network that learns.
            teacher: the network it learns from.
            seed: of the projections' weights.
            released: as in TinyBERT's released code: pads count, and every state is projected. A micro-batch then
                weighs as its examples do.
            always: whether equal widths are projected as well; None is as `released`.
        """
        super().__init__(pairs, student, teacher, seed, always=released if always is None else always)
        self.released = self.needs_pads = released
        self.unit: Unit = "example" if released else "token"

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over tokens."""
        mask = batch["attention_mask"].float()  # (B, L)
        total = mask.new_zeros(())
        for state, target in self.compared(student, teacher):
            error = (state - target).square().mean(dim=-1)  # (B, L)
            total = total + (error.mean() * len(error) if self.released else (error * mask).sum())
        return total

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {**super().describe(), **({"released": True} if self.released else {})}


class CosineTerm(StatesTerm):
    """One minus the cosine of hidden states, summed over the pairs of layers (DistilBERT, 1910.01108, section 3)."""

    name = "cosine"
    unit = "token"

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over tokens."""
        mask = batch["attention_mask"].float()  # (B, L)
        distances = [1 - F.cosine_similarity(*states, dim=-1) for states in self.compared(student, teacher)]
        total: Tensor = (torch.stack(distances).sum(0) * mask).sum()
        return total


class PatientTerm(StatesTerm):
    """Squared distance of the first token's states, each of length 1 (BERT-PKD, 1908.09355, eq. 7).

    Where the paper's students are as wide as their teacher, ours may be narrower, with a projection.
    """

    name = "patient"

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over examples."""
        distances = [
            (F.normalize(state, dim=-1) - F.normalize(target, dim=-1)).square().sum(-1)
            for state, target in self.compared(student, teacher, first=True)
        ]
        return torch.stack(distances).sum()


class AttentionsTerm(Term):
    """A comparison of what attention operations record, over pairs of layers; pairs with layer 0 are left out."""

    read: str  # the one output that it needs

    def _compare(
        self, read: str, name: str, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec, *, same_heads: bool = True
    ) -> None:
        """Find the attention operation of each layer of each pair; see `attention_places`."""
        self.read, self.needs = read, frozenset({read})
        self.places = attention_places(name, pairs, student, teacher, same_heads=same_heads)
        self.pairs = tuple(pair for pair in pairs if 0 not in pair)

    def compared(self, student: Any, teacher: Any) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield what both recorded, in float32, for every pair."""
        for taught, teaching in self.places:
            yield student[self.read][taught].float(), teacher[self.read][teaching].float()

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {"name": self.name, "pairs": [list(pair) for pair in self.pairs]}

    def teacher_places(self) -> dict[str, frozenset[int]]:
        """Return the attention operations that the pairs name."""
        return {self.read: frozenset(teaching for _, teaching in self.places)}


class AttentionTerm(AttentionsTerm):
    """Squared error of attention scores before the softmax, mean over heads, summed over pairs of layers (eq. 7)."""

    name = "attention"

    def __init__(self, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec, *, released: bool = False) -> None:
        """Find the attention operations of the pairs.

        Args:
            pairs: (student layer, teacher layer).
            student: the network that learns.
            teacher: the network it learns from.
            released: as in TinyBERT's released code: scores of padded keys are 0 on both sides, padded queries count,
                and the mean is over the padded square. A micro-batch then weighs as its examples do.

        Raises:
            ConfigError: a layer has no attention, the heads of a pair differ in number, or no pair is left.
        """
        super().__init__()
        self._compare("attention_scores", self.name, pairs, student, teacher)
        self.released = self.needs_pads = released
        self.unit: Unit = "example" if released else "token_pair"

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over pairs of tokens."""
        mask = batch["attention_mask"].float()
        total = mask.new_zeros(())
        for own, other in self.compared(student, teacher):
            error = (own - other).square()
            if self.released:
                total = total + (error * mask[:, None, None, :]).mean() * len(error)
            else:
                total = total + (error.mean(dim=1) * mask[:, :, None] * mask[:, None, :]).sum()  # of (B, L, L)
        return total

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {**super().describe(), **({"released": True} if self.released else {})}


def attention_places(
    name: str, pairs: Pairs, student: EncoderSpec, teacher: EncoderSpec, *, same_heads: bool = True
) -> tuple[tuple[int, int], ...]:
    """Return the places, among each chain's attentions, of the last attention of each pair's layers.

    Pairs with layer 0, the embeddings, have none and are left out.

    Args:
        name: of the term, for messages.
        pairs: (student layer, teacher layer).
        student: the network that learns.
        teacher: the network it learns from.
        same_heads: refuse pairs whose numbers of heads differ.

    Raises:
        ConfigError: a layer has no attention, the heads of a pair differ in number, or no pair is left.
    """
    found = []
    for pair in pairs:
        if 0 in pair:
            continue
        (taught, own), (teaching, other) = (
            attention_of(name, spec, layer, who)
            for spec, layer, who in ((student, pair[0], "student"), (teacher, pair[1], "teacher"))
        )
        if same_heads and own.num_heads != other.num_heads:
            raise ConfigError(
                f"objective {name!r}: the pair {pair} compares {own.num_heads} heads of the student with "
                f"{other.num_heads} of the teacher; allowed is the same number: keep num_heads (cut head_size), take "
                "'query_relation', 'key_relation' and 'value_relation' with relation_heads, or leave the term out."
            )
        found.append((taught, teaching))
    if not found:
        raise ConfigError(f"mapping: {list(pairs)} has no pair of layers whose attention could be compared.")
    return tuple(found)


def _projection(narrow: int, wide: int, generator: torch.Generator) -> nn.Linear:
    with torch.random.fork_rng(devices=[]):  # the caller's generator stays put
        linear = nn.Linear(narrow, wide)
    with torch.no_grad():
        linear.weight.normal_(0.0, 0.02, generator=generator)
        linear.bias.zero_()
    return linear


def attention_of(name: str, spec: EncoderSpec, layer: int, who: str) -> tuple[int, Attention]:
    """Return the place of the layer's last attention among the chain's attentions, and the attention."""
    found = [operation for operation in spec.layers[layer - 1].operations if isinstance(operation, Attention)]
    if not found:
        raise ConfigError(f"objective {name!r}: layer {layer} of the {who} has no attention; do not map it.")
    until = spec.layers[:layer]
    place = sum(isinstance(operation, Attention) for each in until for operation in each.operations) - 1
    return place, found[-1]
