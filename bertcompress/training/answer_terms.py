"""Terms that compare answers: a network's logits with the labels, or with its teacher's logits.

What an answer is depends on the kind of task. In tagging every word has one, read at its first piece. In unlabelled
text every token has one, the token that stands there. In question
answering a window has two, the distributions of the answer's start and end over the window's tokens; pads are left
out of them, so that an example's loss does not depend on its batch mates (transformers' own loss keeps them in).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bertcompress.training.term import Batch, Term, Unit, begin_as_selection

KINDS = ("classification", "regression", "tagging", "question_answering")
IGNORED = -100  # the label of tokens that are no word's first piece


def unit_of(kind: str) -> Unit:
    """Return what the answers of a kind of task are counted in."""
    return {"tagging": "word", "unlabelled": "token"}.get(kind, "example")  # type: ignore[return-value]


def _answers(logits: Tensor, batch: Batch, kind: str, temperature: float = 1.0) -> Tensor:
    """Return logits of one answer in each row, (answers, C): words, tokens, starts and then ends, or examples."""
    logits = logits / temperature  # before pads are filled in, which a temperature below 1 would make infinite
    if kind == "tagging":
        return logits[batch["words"] >= 0].float()  # (words, C)
    if kind == "unlabelled":
        return logits[batch["attention_mask"] > 0].float()  # (tokens, V)
    if kind == "question_answering":
        pads = batch["attention_mask"].unsqueeze(-1) == 0  # (B, L, 1)
        # The least finite number and not -inf, of which a difference would be NaN.
        return logits.float().masked_fill(pads, torch.finfo(torch.float32).min).movedim(-1, 0).flatten(0, 1)  # (2B, L)
    return logits.float()


class HardTerm(Term):
    """Cross entropy with the labels, or the squared error for regression; in question answering the mean of two."""

    name = "hard"
    needs_teacher = False
    needs_labels = True
    needs_logits = True

    def __init__(self, kind: str) -> None:
        """Take the task's kind, one of `KINDS`."""
        super().__init__()
        self.kind = kind
        self.unit = unit_of(kind)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over examples, or words."""
        labels = batch["labels"]
        if self.kind == "regression":
            error: Tensor = student.logits.float().squeeze(-1) - labels.float()
            return error.square().sum()
        logits = _answers(student.logits, batch, self.kind)
        if self.kind == "question_answering":
            return F.cross_entropy(logits, labels.T.flatten(), reduction="sum") / 2  # starts, then ends
        if self.kind == "tagging":
            labels = labels[batch["words"] >= 0].long()
        return F.cross_entropy(logits, labels, reduction="sum")

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return {"name": self.name, "kind": self.kind}


class SoftTerm(Term):
    """T^2 KL(teacher || student) of the probabilities at temperature T; in question answering the mean of two."""

    name = "soft"
    needs_logits = True

    def __init__(self, temperature: float, kind: str = "classification") -> None:
        """Take the temperature, above 0, and the task's kind."""
        super().__init__()
        self.temperature, self.kind = temperature, kind
        self.unit = unit_of(kind)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over examples, or words."""
        learned, target = (
            torch.log_softmax(_answers(output.logits.float(), batch, self.kind, self.temperature), dim=-1)
            for output in (student, teacher)
        )
        divergence = F.kl_div(learned, target, reduction="sum", log_target=True)
        share = 0.5 if self.kind == "question_answering" else 1.0
        return divergence * (self.temperature**2 * share)

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        own = {} if self.kind in ("classification", "regression") else {"kind": self.kind}
        return {"name": self.name, "temperature": self.temperature, **own}


class LogitsTerm(Term):
    """Squared error of the logits, mean over the classes; in question answering mean over the window's tokens."""

    name = "logits"
    needs_logits = True

    def __init__(self, kind: str = "classification") -> None:
        """Take the task's kind."""
        super().__init__()
        self.kind = kind
        self.unit = unit_of(kind)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over examples, or words."""
        if self.kind == "question_answering":
            mask = batch["attention_mask"].float()  # (B, L)
            error = (student.logits.float() - teacher.logits.float()).square().mean(dim=-1) * mask
            means: Tensor = error.sum(-1) / mask.sum(-1)
            return means.sum()
        learned, target = (_answers(output.logits, batch, self.kind) for output in (student, teacher))
        errors: Tensor = (learned - target).square().mean(dim=-1)
        return errors.sum()

    def describe(self) -> dict[str, Any]:
        """Return the term's settings."""
        return (
            {"name": self.name}
            if self.kind in ("classification", "regression")
            else {"name": self.name, "kind": self.kind}
        )


class EmbeddingTerm(Term):
    """One minus the cosine of the student's and the teacher's sentence embedding.

    Reimers and Gurevych (2004.09813) teach with the squared error of embeddings; as sentence encoders are compared by
    cosines, only directions are taught here. Where the widths differ, a learned linear map without a bias takes the
    student's embedding to the teacher's width; it is dropped afterwards.
    """

    name = "embedding"
    needs_logits = True

    def __init__(self, narrow: int, wide: int, seed: int = 0) -> None:
        """Build the map from the student's width to the teacher's, if they differ, from `seed`."""
        super().__init__()
        self.projection: nn.Linear | None = None
        if narrow != wide:
            with torch.random.fork_rng(devices=[]):  # the caller's generator stays put
                self.projection = nn.Linear(narrow, wide, bias=False)
            generator = torch.Generator().manual_seed(seed)
            with torch.no_grad():
                self.projection.weight.normal_(0.0, wide**-0.5, generator=generator)

    def begin_with(self, selected: Sequence[int]) -> None:
        """Let the map begin as the selection that a student was cut out by, where it has one; see `StatesTerm`."""
        if self.projection is not None:
            begin_as_selection(self.projection, selected)

    def forward(self, student: Any, teacher: Any, batch: Batch) -> Tensor:
        """Return the sum over texts."""
        own = student.logits if self.projection is None else self.projection(student.logits)
        cosines: Tensor = F.cosine_similarity(own.float(), teacher.logits.float(), dim=-1)
        distances: Tensor = 1 - cosines
        return distances.sum()
