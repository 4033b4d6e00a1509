"""Judging sequence tagging: words are what is answered, sentences are what is resampled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from bertcompress.errors import DataError
from bertcompress.evaluation.judges.base import Array, Statistic, StatisticJudge, ratio
from bertcompress.evaluation.judges.compared import Compared, compare_tags
from bertcompress.evaluation.judges.sequence import probability_loyalties
from bertcompress.evaluation.loyalty import label_agreement
from bertcompress.evaluation.metrics.tagging import f1_from_counts, span_counts, token_counts

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.base import Task
    from bertcompress.predictions import Predictions


class TaggingJudge(StatisticJudge):
    """Tags of words: F1 of spans where tags mark spans, and the share of words whose tag is right."""

    def __init__(self, task: Task, dataset: Dataset) -> None:
        """Take the task and the sentences."""
        super().__init__(task, dataset)
        spans = ("entity_f1", "entity_f1_strict") if task.scheme else ()
        if task.scheme == "IOBES":  # conlleval.pl reads the other schemes as seqeval does
            spans = (*spans, "entity_f1_conlleval")
        self.names = tuple(dict.fromkeys((task.metric, *spans, "token_accuracy")))

    def _f1(self, tags: Array, gold: Array, offsets: Array, *, strict: bool = False, script: bool = False) -> Statistic:
        counts = span_counts(tags, gold, offsets, self.task.labels, self.task.scheme, strict, conlleval=script)
        return Statistic(counts, f1_from_counts)

    def statistics(self, predictions: Predictions) -> Mapping[str, Statistic]:
        """Return token accuracy and, where tags mark spans, their F1 in every convention.

        Raises:
            DataError: tags of some words are hidden.
        """
        gold, offsets = predictions.labels, predictions.offsets
        if gold is None or offsets is None or (gold < 0).any():
            raise DataError(f"task {self.task.name}: there are words whose tags are hidden, so nothing can be scored.")
        tags = predictions.logits.argmax(-1)
        counts = token_counts(tags, gold, offsets)
        found = {"token_accuracy": ratio(counts[:, 0], counts[:, 1])}
        if self.task.scheme:
            found["entity_f1"] = self._f1(tags, gold, offsets)
            found["entity_f1_strict"] = self._f1(tags, gold, offsets, strict=True)
        if "entity_f1_conlleval" in self.names:
            found["entity_f1_conlleval"] = self._f1(tags, gold, offsets, script=True)
        return found

    def compared(self, teacher: Predictions, student: Predictions) -> Compared:
        """Return the tags side by side."""
        return compare_tags(teacher, student, self.dataset, self.task.labels)

    def loyalty(self, teacher: Predictions, student: Predictions) -> dict[str, Statistic]:
        """Return the loyalties over words and, where tags mark spans, the F1 of the student's to the teacher's."""
        offsets = teacher.offsets
        assert offsets is not None
        sizes, sentences = np.diff(offsets), len(offsets) - 1
        sentence = np.repeat(np.arange(sentences), sizes)
        agreeing = np.bincount(sentence, weights=label_agreement(teacher.logits, student.logits), minlength=sentences)
        found = {"label": ratio(agreeing, sizes)}
        found |= probability_loyalties(teacher.logits, student.logits, sentence, sentences)
        if self.task.scheme:
            spans = self._f1(student.logits.argmax(-1), teacher.logits.argmax(-1), offsets)
            found["entity"] = Statistic(spans.rows, _agreement)
        return found


def _agreement(counts: Array) -> Array:
    """Return the F1 of two models' spans; 1 where neither has any."""
    return np.where(counts[:, 1:].sum(-1) == 0, 1.0, f1_from_counts(counts))
