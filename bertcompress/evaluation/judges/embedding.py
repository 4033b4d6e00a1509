"""Judging sentence embeddings: cosines against rated similarities, and neighbours against the teacher's."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bertcompress.evaluation.judges.base import Array, Statistic, ratio
from bertcompress.evaluation.judges.compared import Compared, compare_neighbours
from bertcompress.evaluation.judges.sequence import VectorJudge, correlation

if TYPE_CHECKING:
    from bertcompress.predictions import Predictions

NEIGHBOURS = 10
MOST_TEXTS = 5000  # distinct texts whose neighbours are sought; a seeded sample of more
MOST_PAIRS = 10_000  # pairs of texts whose cosines are compared where the data set has no pairs of its own
BLOCK = 1024  # texts compared with all others at once: bounds memory


class EmbeddingJudge(VectorJudge):
    """Cosines of pairs, and which texts are near each other."""

    def predicted(self, predictions: Predictions) -> Array:
        """Return the cosine of each pair, (n,)."""
        vectors = _directions(predictions.logits)
        cosines: Array = (vectors[0::2] * vectors[1::2]).sum(-1)
        return cosines

    def loyalty(self, teacher: Predictions, student: Predictions) -> dict[str, Statistic]:
        """Return the share of each text's ten nearest neighbours that both models name, and how cosines correlate.

        Neighbours are sought among the distinct texts of the split (a seeded sample of 5,000 if there are more);
        cosines are those of the split's pairs, or of 10,000 seeded random pairs where it has none.
        """
        near = self._neighbours(teacher, student)
        if "text_pair" in self.dataset.column_names:
            cosines = [self.predicted(each) for each in (teacher, student)]
        else:
            pairs = np.random.default_rng(0).integers(len(near.texts), size=(2, MOST_PAIRS))
            pairs = pairs[:, pairs[0] != pairs[1]]
            cosines = [(each[pairs[0]] * each[pairs[1]]).sum(-1) for each in near.directions]
        return {"label": ratio(near.shared), "similarity": correlation(*cosines)}

    def compared(self, teacher: Predictions, student: Predictions) -> Compared:
        """Return each text's neighbours side by side."""
        near = self._neighbours(teacher, student)
        first, second = (_nearest_of_all(each) for each in near.directions)
        return compare_neighbours(near.shared, (first, second), near.texts)

    def _neighbours(self, teacher: Predictions, student: Predictions) -> _Neighbours:
        places, texts = self._distinct()
        first, second = (_directions(each.logits[places]) for each in (teacher, student))
        return _Neighbours(texts, (first, second), shared_neighbours(first, second, NEIGHBOURS))

    def _distinct(self) -> tuple[Array, list[str]]:
        """Return the rows of distinct texts, at most `MOST_TEXTS` of them, and the texts."""
        columns = [name for name in ("text", "text_pair") if name in self.dataset.column_names]
        texts = [text for row in zip(*(self.dataset[name][:] for name in columns), strict=True) for text in row]
        first: dict[str, int] = {}
        for place, text in enumerate(texts):
            first.setdefault(text, place)
        places = np.fromiter(first.values(), np.int64, len(first))
        if len(places) > MOST_TEXTS:
            places = np.sort(np.random.default_rng(0).permutation(places)[:MOST_TEXTS])
        return places, [texts[place] for place in places]


class _Neighbours(NamedTuple):
    """Distinct texts, each model's directions of them, and the share of neighbours in common, (n,)."""

    texts: list[str]
    directions: tuple[Array, Array]
    shared: Array


def _directions(vectors: Array) -> Array:
    """Return vectors of length 1, (n, H), in float64; a vector of zeros stays one."""
    wide = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(wide, axis=-1, keepdims=True)
    result: Array = np.divide(wide, lengths, out=np.zeros_like(wide), where=lengths > 0)
    return result


def shared_neighbours(first: Array, second: Array, count: int) -> Array:
    """Return the share of each text's nearest neighbours that two sets of directions, (n, H), have in common, (n,).

    With fewer than `count` other texts all of them are neighbours.
    """
    total = len(first)
    count = min(count, total - 1)
    if count < 1:
        return np.ones(total)
    shares = np.empty(total)
    for start in range(0, total, BLOCK):
        near = [_nearest(each, start, count) for each in (first, second)]
        both = np.zeros((len(near[0]), total), dtype=np.int8)
        for columns in near:
            np.add.at(both, (np.arange(len(columns))[:, None], columns), 1)
        shares[start : start + BLOCK] = (both == 2).sum(-1) / count
    return shares


def _nearest(directions: Array, start: int, count: int) -> Array:
    """Return the nearest neighbours of one block of texts, (b, count), the text itself left out."""
    cosines = directions[start : start + BLOCK] @ directions.T
    cosines[np.arange(len(cosines)), start + np.arange(len(cosines))] = -np.inf
    nearest: Array = np.argpartition(-cosines, count - 1, axis=-1)[:, :count]
    return nearest


def _nearest_of_all(directions: Array) -> Array:
    """Return the nearest neighbour of each text, (n,); of a single text the text itself."""
    if len(directions) < 2:
        return np.zeros(len(directions), dtype=np.int64)
    parts = [_nearest(directions, start, 1)[:, 0] for start in range(0, len(directions), BLOCK)]
    result: Array = np.concatenate(parts)
    return result
