"""What a training minimises: a weighted sum of terms.

The loss of an optimizer step is

    sum_k weight_k * (sum of term k over all examples of the step) / (number of term k's units in the step)

where a unit is an example, a word, a token, or a pair of tokens of one example, never a pad. The counts follow from
the tokenized examples alone, so they are known before the first forward, and micro-batches, accumulated groups and
processes add up to the same gradient, whatever the split. A step without any unit (sentences without words) has a
loss of 0.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bertcompress.encoder.spec import EncoderSpec
from bertcompress.errors import ConfigError, allowed
from bertcompress.training.answer_terms import KINDS, EmbeddingTerm, HardTerm, LogitsTerm, SoftTerm
from bertcompress.training.mapping import Pairs
from bertcompress.training.masking import MaskedTerm, Masking
from bertcompress.training.recipes import TERMS, Mappings, pairs_of
from bertcompress.training.relations import RELATIONS, AttentionDistributionTerm, RelationTerm
from bertcompress.training.term import Batch, Term
from bertcompress.training.terms import AttentionTerm, CosineTerm, HiddenTerm, PatientTerm, StatesTerm

__all__ = ["Objective", "build_objective"]


OUTPUTS = (*KINDS, "masked_lm")  # heads whose logits are compared


class Objective(nn.Module):
    """A weighted sum of terms, each divided by the number of its units in the whole optimizer step."""

    def __init__(self, terms: Mapping[str, Term], weights: Mapping[str, float]) -> None:
        """Take the terms and a weight for each, under the same names.

        Raises:
            ConfigError: the names differ, there are none, or a weight is not a positive finite number.
        """
        super().__init__()
        if not terms or set(terms) != set(weights):
            raise ConfigError(f"Objective: got weights for {sorted(weights)}, allowed are the terms {sorted(terms)}.")
        for name, weight in weights.items():
            if not math.isfinite(weight) or weight <= 0:
                raise ConfigError(f"Objective: the weight of {name!r} is {weight}, allowed is a finite number above 0.")
        self.terms = nn.ModuleDict(dict(terms))
        self.weights = {name: float(weights[name]) for name in terms}

    def _terms(self) -> list[Term]:
        return [term for term in self.terms.values() if isinstance(term, Term)]

    @property
    def needs(self) -> frozenset[str]:
        """Outputs beside the logits that the terms read."""
        return frozenset().union(*(term.needs for term in self._terms()))

    @property
    def teacher_places(self) -> dict[str, frozenset[int]]:
        """Which entries of the teacher's outputs the terms read."""
        places: dict[str, frozenset[int]] = {}
        for term in self._terms():
            for need, read in term.teacher_places().items():
                places[need] = places.get(need, frozenset()) | read
        return places

    @property
    def masking(self) -> Masking | None:
        """How tokens are hidden for the network to guess; None where they are not."""
        return next((term.masking for term in self._terms() if isinstance(term, MaskedTerm)), None)

    @property
    def needs_live_teacher(self) -> bool:
        """Whether a teacher must read each batch as the student does: with its pads, or with its hidden tokens."""
        return self.masking is not None or self.needs_pads

    @property
    def needs_pads(self) -> bool:
        """Whether any term reads what stands at pads."""
        return any(term.needs_pads for term in self._terms())

    @property
    def needs_teacher(self) -> bool:
        """Whether any term compares with a teacher."""
        return any(term.needs_teacher for term in self._terms())

    @property
    def needs_logits(self) -> bool:
        """Whether any term reads the student's logits."""
        return any(term.needs_logits for term in self._terms())

    @property
    def needs_teacher_logits(self) -> bool:
        """Whether any term reads the teacher's logits."""
        return any(term.needs_logits and term.needs_teacher for term in self._terms())

    @property
    def needs_labels(self) -> bool:
        """Whether any term reads labels."""
        return any(term.needs_labels for term in self._terms())

    def forward(self, student: Any, teacher: Any, batch: Batch, counts: Mapping[str, int]) -> Tensor:
        """Return this micro-batch's share of the step's loss, a scalar.

        Args:
            student: the student's ModelOutput.
            teacher: the teacher's, or None if no term needs one.
            batch: the collated micro-batch.
            counts: units in the whole step, from `Features.counts`.
        """
        shares = [
            term(student, teacher, batch) * (self.weights[term.name] / max(1, counts[term.unit]))
            for term in self._terms()
        ]
        return torch.stack(shares).sum()

    def describe(self) -> dict[str, Any]:
        """Return the terms and weights as JSON types."""
        return {"terms": [term.describe() for term in self._terms()], "weights": self.weights}


def build_objective(
    weights: Mapping[str, float],
    *,
    student: EncoderSpec,
    teacher: EncoderSpec | None = None,
    mapping: Mappings = None,
    temperature: float = 2.0,
    relation_heads: int | None = None,
    count_pads: bool = False,
    project_always: bool | None = None,
    kind: str = "classification",
    seed: int = 0,
    masking: Masking | None = None,
    selected: Sequence[int] | None = None,
) -> Objective:
    """Build the objective that the weights describe; terms of weight 0 are left out.

    Args:
        weights: weight of each of `recipes.TERMS`.
        student: the network that learns.
        teacher: the network it learns from, if any.
        mapping: pairs of layers for terms that compare layers, see `recipes.pairs_of`.
        temperature: of "soft", above 0.
        relation_heads: of "query_relation" and its like, see `RelationTerm`.
        count_pads: "hidden" and "attention" as in TinyBERT's released code, see `HiddenTerm` and `AttentionTerm`.
        project_always: whether "hidden" projects equal widths as well; None is as `count_pads`.
        kind: the task's kind.
        seed: of the projections' initial weights.
        masking: how "mlm" hides tokens.
        selected: the teacher's dimension that each of the student's is, where projections begin as this selection.

    Raises:
        ConfigError: a term is unknown or cannot work with these networks and this kind of task.
    """
    wanted = _checked_weights(weights)
    terms: dict[str, Term] = {}
    for name in wanted:
        if name == "hard":
            terms[name] = _hard_term(kind)
        elif name == "mlm":
            terms[name] = _masked_term(student, masking)
        elif teacher is None:
            raise ConfigError(f"objective {name!r} compares with a teacher, and there is none; use 'hard' alone.")
        elif name in ("soft", "logits"):
            terms[name] = _output_term(name, kind, student, teacher, temperature)
        elif name == "embedding":
            terms[name] = _embedding_term(student, teacher, seed)
        else:
            pairs = pairs_of(name, mapping, student.num_layers, teacher.num_layers)
            terms[name] = (
                HiddenTerm(pairs, student, teacher, seed, released=count_pads, always=project_always)
                if name == "hidden"
                else _layer_term(name, pairs, student, teacher, seed, relation_heads, count_pads)
            )
        term = terms[name]
        if selected is not None and isinstance(term, (StatesTerm, EmbeddingTerm)):
            term.begin_with(selected)
    return Objective(terms, wanted)


def _layer_term(
    name: str,
    pairs: Pairs,
    student: EncoderSpec,
    teacher: EncoderSpec,
    seed: int,
    relation_heads: int | None,
    count_pads: bool,
) -> Term:
    if name == "attention":
        return AttentionTerm(pairs, student, teacher, released=count_pads)
    if name == "attention_distribution":
        return AttentionDistributionTerm(pairs, student, teacher)
    if name in RELATIONS:
        return RelationTerm(name, pairs, student, teacher, relation_heads)
    return (CosineTerm if name == "cosine" else PatientTerm)(pairs, student, teacher, seed)


def _masked_term(student: EncoderSpec, masking: Masking | None) -> Term:
    if student.head.task != "masked_lm":
        raise ConfigError(
            f"objective 'mlm' guesses hidden tokens, and the student's head is {student.head.task!r}, allowed is "
            "'masked_lm': load it with an unlabelled task."
        )
    if masking is None:
        raise ConfigError(
            "objective 'mlm': nothing says how tokens are hidden; give masking=Masking.of(tokenizer, seed)."
        )
    return MaskedTerm(masking)


def _checked_weights(weights: Mapping[str, float]) -> dict[str, float]:
    for name, weight in weights.items():
        if name not in TERMS:
            raise ConfigError(f"objective: got the term {name!r}, allowed are {allowed(TERMS)}.")
        number = isinstance(weight, (int, float)) and not isinstance(weight, bool)
        if not number or not math.isfinite(weight) or weight < 0:
            raise ConfigError(f"objective: the weight of {name!r} is {weight!r}, allowed is a finite number from 0 up.")
    wanted = {name: float(weights[name]) for name in TERMS if weights.get(name, 0)}
    if not wanted:
        raise ConfigError(f"objective: no term has a weight above 0; give one to any of {allowed(TERMS)}.")
    return wanted


def _hard_term(kind: str) -> Term:
    if kind not in KINDS:
        raise ConfigError(f"objective 'hard': the task's kind is {kind!r}, allowed are {allowed(KINDS)}.")
    return HardTerm(kind)


def _output_term(name: str, kind: str, student: EncoderSpec, teacher: EncoderSpec, temperature: float) -> Term:
    heads = (student.head, teacher.head)
    if any(head.task not in OUTPUTS for head in heads) or heads[0].task != heads[1].task:
        raise ConfigError(
            f"objective {name!r} compares logits; the student's head is {heads[0].task!r} and the teacher's "
            f"{heads[1].task!r}, allowed is the same of {allowed(OUTPUTS)} for both; encoders without a head learn "
            "from 'embedding' and 'hidden'."
        )
    if heads[0].num_labels != heads[1].num_labels:
        raise ConfigError(
            f"objective {name!r}: the student has {heads[0].num_labels} labels and the teacher {heads[1].num_labels}; "
            "allowed is the same number: fine-tune the teacher on this task first."
        )
    if heads[0].task == "masked_lm":
        kind = _same_vocabulary(name, student, teacher)
    if name == "logits":
        return LogitsTerm(kind)
    if heads[0].num_labels == 1:
        raise ConfigError("objective 'soft': one label has only one probability, 1; use 'logits' for regression.")
    number = isinstance(temperature, (int, float)) and not isinstance(temperature, bool)
    if not number or not math.isfinite(temperature) or temperature <= 0:
        raise ConfigError(f"temperature: got {temperature!r}, allowed is a finite number above 0.")
    return SoftTerm(float(temperature), kind)


def _same_vocabulary(name: str, student: EncoderSpec, teacher: EncoderSpec) -> str:
    sizes = student.embeddings.vocab_size, teacher.embeddings.vocab_size
    if sizes[0] != sizes[1]:
        raise ConfigError(
            f"objective {name!r}: the student guesses among {sizes[0]} tokens and the teacher among {sizes[1]}; "
            "allowed is the same vocabulary."
        )
    return "unlabelled"


def _embedding_term(student: EncoderSpec, teacher: EncoderSpec, seed: int) -> Term:
    for who, spec in (("student", student), ("teacher", teacher)):
        if spec.head.task != "none":
            raise ConfigError(
                f"objective 'embedding' compares sentence embeddings, and the {who} has a head for {spec.head.task}; "
                "load it with a task of kind embedding, or use 'soft' or 'logits'."
            )
    return EmbeddingTerm(student.hidden_size, teacher.hidden_size, seed)
