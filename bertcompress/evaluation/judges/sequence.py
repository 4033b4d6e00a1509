"""Judging classification and regression."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from bertcompress.data.base import has_labels
from bertcompress.evaluation.intervals import resample_scores
from bertcompress.evaluation.judges.base import Array, Judge, Statistic, complement, ratio
from bertcompress.evaluation.judges.compared import Compared, compare_classes, compare_numbers
from bertcompress.evaluation.loyalty import jensen_shannon_distances, label_agreement
from bertcompress.evaluation.metrics import metric_function, metric_names

if TYPE_CHECKING:
    from datasets import Dataset

    from bertcompress.data.base import Task
    from bertcompress.predictions import Predictions


class VectorJudge(Judge):
    """Scores that compare one prediction per example with one reference, as all metrics of GLUE do."""

    def __init__(self, task: Task, dataset: Dataset) -> None:
        """Take the task and the examples, with labels if there are any."""
        super().__init__(task, dataset)
        self.references: Array | None = None
        if task.metric and has_labels(dataset):
            self.names = metric_names(task.name, task.kind, task.metric)
            self.references = np.asarray(dataset["label"][:])  # without the slice it would go row by row

    def predicted(self, predictions: Predictions) -> Array:
        """Return what is compared with the references, (n,)."""
        raise NotImplementedError

    def scores(self, predictions: Predictions) -> dict[str, float]:
        """Return the task's scores by name."""
        predicted, references = self.predicted(predictions), self._gold()
        return {name: metric_function(name)(predicted, references) for name in self.names}

    def _gold(self) -> Array:
        assert self.references is not None  # there are no names without
        return self.references

    def draws(self, name: str, subjects: Sequence[Predictions], seed: int) -> Array:
        """Return one of the scores of several models on the same resamples, (resamples, models)."""
        return resample_scores(name, self._gold(), [self.predicted(each) for each in subjects], seed=seed)


class ClassificationJudge(VectorJudge):
    """Classes of texts or pairs; ties go to the lowest class, and int8 models have them often."""

    def predicted(self, predictions: Predictions) -> Array:
        """Return the predicted classes, (n,)."""
        classes: Array = predictions.logits.argmax(-1)
        return classes

    def compared(self, teacher: Predictions, student: Predictions) -> Compared:
        """Return the classes side by side."""
        return compare_classes(teacher, student, self.dataset, self.task.labels, self.references)

    def loyalty(self, teacher: Predictions, student: Predictions) -> dict[str, Statistic]:
        """Return label and probability loyalty."""
        return {"label": ratio(label_agreement(teacher.logits, student.logits))} | probability_loyalties(
            teacher.logits, student.logits
        )


def probability_loyalties(
    teacher: Array, student: Array, group: Array | None = None, groups: int = 0
) -> dict[str, Statistic]:
    """Return probability loyalty to base e and 2.

    Args:
        teacher: logits, (n, C).
        student: likewise.
        group: the example that each row belongs to, (n,); None: each row is an example.
        groups: number of examples.
    """
    found = {}
    for name, base in (("probability", np.e), ("probability_base_2", 2)):
        distances = jensen_shannon_distances(teacher, student, base)
        if group is None:
            found[name] = complement(distances)
        else:
            sums = np.bincount(group, weights=distances, minlength=groups)
            found[name] = complement(sums, np.bincount(group, minlength=groups))
    return found


class RegressionJudge(VectorJudge):
    """A number for each text or pair."""

    def predicted(self, predictions: Predictions) -> Array:
        """Return the predicted numbers, (n,)."""
        return predictions.logits.reshape(len(predictions.logits))

    def compared(self, teacher: Predictions, student: Predictions) -> Compared:
        """Return the numbers side by side."""
        return compare_numbers(self.predicted(teacher), self.predicted(student), self.dataset, self.references)

    def loyalty(self, teacher: Predictions, student: Predictions) -> dict[str, Statistic]:
        """Return the concordance of the two models' predictions.

        There is no softmax and so neither of the paper's loyalties. Lin's concordance correlation coefficient (1989)
        takes their place: 1 only where the predictions are equal, lower for scatter, for a shift and for a scale.
        """
        return {"label": concordance(self.predicted(teacher), self.predicted(student))}


def concordance(first: Array, second: Array) -> Statistic:
    """Return Lin's concordance correlation coefficient of two series, (n,), as a statistic."""
    centre = float(np.mean(first, dtype=np.float64))  # a shift of both changes nothing, and keeps rounding small
    x, y = np.asarray(first, np.float64) - centre, np.asarray(second, np.float64) - centre
    return Statistic(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), _concordance)


def _concordance(sums: Array) -> Array:
    mean_x, mean_y, xx, yy, xy = (sums[:, 1:] / sums[:, :1]).T
    covariance, shift = xy - mean_x * mean_y, mean_x - mean_y
    spread = (xx - mean_x**2) + (yy - mean_y**2) + shift**2
    same = np.where(shift == 0, 1.0, 0.0)  # two constants
    result: Array = np.divide(2 * covariance, spread, out=same, where=spread > 0)
    return result


def correlation(first: Array, second: Array) -> Statistic:
    """Return the Pearson correlation of two series, (n,), as a statistic; 0 where one of them is constant."""
    x, y = (np.asarray(each, np.float64) - float(np.mean(each, dtype=np.float64)) for each in (first, second))
    return Statistic(np.stack([np.ones_like(x), x, y, x * x, y * y, x * y], axis=1), _correlation)


def _correlation(sums: Array) -> Array:
    mean_x, mean_y, xx, yy, xy = (sums[:, 1:] / sums[:, :1]).T
    # The root of the product, not the product of roots: it makes a series' correlation with itself exactly 1.
    spread = np.sqrt(np.clip(xx - mean_x**2, 0, None) * np.clip(yy - mean_y**2, 0, None))
    result: Array = np.divide(xy - mean_x * mean_y, spread, out=np.zeros_like(spread), where=spread > 0)
    return result
