"""What a student and its teacher answered, unit by unit, for each kind of task: what a breakdown of loyalty is made of.

Agreement is a matter of degree in two kinds. Two regressions agree where their predictions differ by no more than a
quarter of the standard deviation of the teacher's; two embeddings agree on a text as far as their ten nearest
neighbours of it are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from bertcompress.evaluation.breakdown import Units
from bertcompress.evaluation.judges.base import Array
from bertcompress.evaluation.loyalty import jensen_shannon_distances

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.answers import Answer
    from bertcompress.predictions import Predictions

TOLERANCE = 0.25  # standard deviations of the teacher's predictions within which two numbers count as one
FIRST_WORDS = ("what", "who", "when", "where", "which", "how", "why", "other")
AROUND = 160  # characters of a context shown on each side of an answer


@dataclass(frozen=True, eq=False)
class Compared:
    """Units, and what a reader sees of one."""

    units: Units
    show: Callable[[int], Mapping[str, Any]]


def compare_classes(
    teacher: Predictions, student: Predictions, dataset: Dataset, labels: Sequence[str], gold: Array | None
) -> Compared:
    """Compare classes of texts."""
    first, second = teacher.logits.argmax(-1), student.logits.argmax(-1)

    def show(place: int) -> dict[str, Any]:
        return {
            **_texts(dataset, place),
            "gold": None if gold is None else labels[int(gold[place])],
            "teacher": labels[int(first[place])],
            "student": labels[int(second[place])],
        }

    examples = np.arange(len(first), dtype=np.int64)
    return Compared(_class_units(("examples", "teacher's class"), teacher, student, labels, gold, examples), show)


def compare_tags(teacher: Predictions, student: Predictions, dataset: Dataset, labels: Sequence[str]) -> Compared:
    """Compare the tags of words."""
    offsets, gold = teacher.offsets, teacher.labels
    assert offsets is not None
    gold = None if gold is None or (gold < 0).any() else gold
    first, second = teacher.logits.argmax(-1), student.logits.argmax(-1)
    sentence = np.repeat(np.arange(len(offsets) - 1, dtype=np.int64), np.diff(offsets))

    def show(place: int) -> dict[str, Any]:
        row = int(sentence[place])
        words = dataset[row]["words"]
        word = place - int(offsets[row])
        start = len(" ".join(words[:word])) + (word > 0)
        return {
            "text": " ".join(words),
            "at": [start, start + len(words[word])],
            "gold": None if gold is None else labels[int(gold[place])],
            "teacher": labels[int(first[place])],
            "student": labels[int(second[place])],
        }

    return Compared(_class_units(("words", "teacher's tag"), teacher, student, labels, gold, sentence), show)


def _class_units(
    names: tuple[str, str],
    teacher: Predictions,
    student: Predictions,
    labels: Sequence[str],
    gold: Array | None,
    example: Array,
) -> Units:
    """Return units that each have one of the labels; `names` are those of the units and of their groups."""
    first, second = teacher.logits.argmax(-1), student.logits.argmax(-1)
    return Units(
        name=names[0],
        group=names[1],
        groups=tuple(labels),
        group_of=first.astype(np.int64),
        example=example,
        agrees=first == second,
        confidence=_confidence(teacher.logits),
        distance=jensen_shannon_distances(teacher.logits, student.logits),
        teacher_right=None if gold is None else first == gold,
        student_right=None if gold is None else second == gold,
    )


def compare_answers(
    teacher: Predictions,
    student: Predictions,
    dataset: Dataset,
    *,
    agrees: Array,
    confidence: Array,
    distance: Array,
    right: tuple[Array, Array] | None,
) -> Compared:
    """Compare answers to questions; `right` are the teacher's and the student's exact matches."""
    texts = teacher.answer_texts(), student.answer_texts()
    words = [question.split()[0].lower() if question.split() else "" for question in dataset["question"][:]]
    groups = [FIRST_WORDS.index(word) if word in FIRST_WORDS else len(FIRST_WORDS) - 1 for word in words]

    def show(place: int) -> dict[str, Any]:
        row = dataset[place]
        gold = (row.get("answers") or {}).get("text")
        return {
            "text": row["question"],
            "text_pair": _around(row["context"], teacher.answers[place]),
            "gold": None if gold is None else (gold[0] if gold else ""),
            "teacher": texts[0][place],
            "student": texts[1][place],
        }

    units = Units(
        name="questions",
        group="first word of the question",
        groups=FIRST_WORDS,
        group_of=np.array(groups, dtype=np.int64),
        example=np.arange(len(groups), dtype=np.int64),
        agrees=agrees,
        confidence=confidence,
        distance=distance,
        teacher_right=None if right is None else right[0],
        student_right=None if right is None else right[1],
        agreement="exactly the teacher's span",
        distance_name="mean Jensen-Shannon distance of start and end",
    )
    return Compared(units, show)


def compare_numbers(
    first: Array, second: Array, dataset: Dataset, gold: Array | None, name: str = "examples"
) -> Compared:
    """Compare the predictions of two regressions, (n,) each."""
    first, second = first.astype(np.float64), second.astype(np.float64)
    tolerance = TOLERANCE * float(first.std())
    groups, group_of = _fifths(first, "{:.2f} to {:.2f}")

    def show(place: int) -> dict[str, Any]:
        return {
            **_texts(dataset, place),
            "gold": None if gold is None else f"{gold[place]:.2f}",
            "teacher": f"{first[place]:.2f}",
            "student": f"{second[place]:.2f}",
        }

    difference = np.abs(first - second)
    units = Units(
        name=name,
        group="teacher's prediction (fifths)",
        groups=groups,
        group_of=group_of,
        example=np.arange(len(first), dtype=np.int64),
        agrees=difference <= tolerance,
        confidence=np.full(len(first), np.nan),
        distance=difference,
        agreement=f"a prediction within {tolerance:.2f} of the teacher's",
        distance_name="difference of the predictions",
    )
    return Compared(units, show)


def compare_neighbours(shared: Array, nearest: tuple[Array, Array], texts: Sequence[str]) -> Compared:
    """Compare embeddings by the neighbours of each text.

    Args:
        shared: share of its nearest neighbours that both models name, (n,).
        nearest: the teacher's and the student's nearest neighbour of each, (n,) each.
        texts: that were embedded.
    """
    groups, group_of = _fifths(np.array([len(text.split()) for text in texts]), "{:.0f} to {:.0f} words")

    def show(place: int) -> dict[str, Any]:
        near = (texts[int(each[place])] for each in nearest)
        return {"text": texts[place], "gold": None, **dict(zip(("teacher", "student"), near, strict=True))}

    units = Units(
        name="examples",
        group="length of the text (fifths)",
        groups=groups,
        group_of=group_of,
        example=np.arange(len(texts), dtype=np.int64),
        agrees=shared,
        confidence=np.full(len(texts), np.nan),
        distance=1 - shared,
        agreement="the teacher's nearest neighbours (the table shows the nearest)",
        distance_name="share of neighbours that are others",
    )
    return Compared(units, show)


def _texts(dataset: Dataset, place: int) -> dict[str, str]:
    row = dataset[place]
    return {name: row[name] for name in ("text", "text_pair") if name in row}


def _confidence(logits: Array) -> Array:
    """Return the probability of the most likely class, (n,)."""
    wide = np.asarray(logits, dtype=np.float64)
    result: Array = 1 / np.exp(wide - wide.max(-1, keepdims=True)).sum(-1)
    return result


def _around(context: str, answer: Answer) -> str:
    start, end = max(0, answer.start - AROUND), min(len(context), answer.end + AROUND)
    return ("..." if start else "") + context[start:end] + ("..." if end < len(context) else "")


def _fifths(values: Array, form: str) -> tuple[tuple[str, ...], Array]:
    """Return names and numbers of five groups of about equal size; fewer where values are equal."""
    edges = np.unique(np.quantile(values, [0, 0.2, 0.4, 0.6, 0.8, 1]))
    group_of = np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(0, len(edges) - 2))
    ends = edges if len(edges) > 1 else np.repeat(edges, 2)
    return tuple(form.format(low, high) for low, high in pairwise(ends)), group_of.astype(np.int64)
