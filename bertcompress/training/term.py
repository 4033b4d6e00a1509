"""What a part of an objective is: it compares, for one micro-batch, and sums over countable units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeAlias

import torch
from torch import Tensor, nn

Unit: TypeAlias = Literal["example", "token", "token_pair", "word", "masked"]
Batch: TypeAlias = Mapping[str, Tensor]


class Term(nn.Module):
    """One part of an objective.

    Attributes:
        name: key of the term in an objective.
        unit: what the term sums over; a key of `Features.counts`, or `masked`, the tokens that were hidden. In
            question answering a window is an example.
        needs: which outputs beside the logits both networks must return: "hidden_states", "attention_scores",
            "query_states", "key_states", "value_states".
        needs_teacher: whether the term compares with a teacher.
        needs_labels: whether the term reads the batch's labels.
        needs_logits: whether the term reads the student's logits, and the teacher's where it compares.
        needs_pads: whether the term reads what stands at pads, which kept teacher outputs do not have.
    """

    name: ClassVar[str]
    unit: Unit = "example"
    needs: frozenset[str] = frozenset()
    needs_teacher: ClassVar[bool] = True
    needs_labels: ClassVar[bool] = False
    needs_logits: ClassVar[bool] = False
    needs_pads: bool = False

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum of the term over the units of this micro-batch, a float32 scalar.

        Args:
            student: the student's ModelOutput.
            teacher: the teacher's, or None.
            batch: the collated micro-batch: `attention_mask` (B, L), and what `Features.collate` says of `labels`.
        """
        raise NotImplementedError

    def describe(self) -> dict[str, Any]:
        """Return the term's settings as JSON types; part of what a checkpoint must agree with."""
        return {"name": self.name}

    def teacher_places(self) -> dict[str, frozenset[int]]:
        """Return, for each of `needs`, which entries of the teacher's outputs the term reads."""
        return {}


def begin_as_selection(projection: nn.Linear, selected: Sequence[int]) -> None:
    """Put each of the student's dimensions where it was cut from; projections of other widths stay as they are.

    Args:
        projection: from the student's width to the teacher's.
        selected: the teacher's dimension that each of the student's is.
    """
    if projection.in_features == len(selected) and max(selected) < projection.out_features:
        with torch.no_grad():
            projection.weight.zero_()
            projection.weight[list(selected), range(len(selected))] = 1.0
