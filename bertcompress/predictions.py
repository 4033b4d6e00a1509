"""What a model says about a data set, in the data set's order, one entry for each example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from bertcompress.data.answers import Answer, decode_answers
from bertcompress.data.batching import evaluation_batches
from bertcompress.encoder.logits import task_logits
from bertcompress.memory import MemoryTrimmer

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

    from bertcompress.data.features import Features

PREDICTION_TOKENS = 4096  # padded tokens in one forward
TRIM_SECONDS = 0.25  # between two times that memory is given back: here every batch has another length
COLUMN_ROWS = 512  # values of a column that are read at once
INPUTS = ("input_ids", "attention_mask", "token_type_ids")


@dataclass(frozen=True, eq=False)
class Predictions:
    """A model's logits and what was to be predicted, where it is known.

    Attributes:
        logits: float32; (examples, C) in classification and regression; (words, C) in tagging, sentence after
            sentence; (tokens, 2) in question answering, flat as `features.input_ids`: start and end; (texts, H) in
            embedding, where texts of a pair follow each other.
        labels: gold labels (examples,) in classification and regression, (words,) in tagging (-1 where hidden), else
            None.
        offsets: int64 (examples + 1,): example i's rows of `logits`; None in question answering.
        features: the tokens that the logits belong to.
        answers: in question answering each question's best span, whether or not it is given; else none.
        null_threshold: in question answering, "no answer" is given where an answer's margin is above it; None never
            gives it.
    """

    logits: npt.NDArray[np.float32]
    labels: npt.NDArray[Any] | None = None
    offsets: npt.NDArray[np.int64] | None = None
    features: Features | None = None
    answers: tuple[Answer, ...] = ()
    null_threshold: float | None = None

    def answer_texts(self) -> list[str]:
        """Return the text that answers each question, empty where the model says that there is no answer."""
        return ["" if self.unanswered(answer) else answer.text for answer in self.answers]

    def unanswered(self, answer: Answer) -> bool:
        """Return whether the model says "no answer" in place of this one."""
        return self.null_threshold is not None and answer.margin > self.null_threshold

    def tags(self, labels: tuple[str, ...]) -> list[list[str]]:
        """Return the predicted tag of every word, sentence by sentence; ties go to the lowest number."""
        assert self.offsets is not None
        best = self.logits.argmax(-1)
        bounds = zip(self.offsets[:-1], self.offsets[1:], strict=True)
        return [[labels[number] for number in best[start:stop]] for start, stop in bounds]


def network_logits(
    network: nn.Module, features: Features, *, max_tokens: int = PREDICTION_TOKENS
) -> npt.NDArray[np.float32]:
    """Return a network's logits for all rows of a featurised data set, in order, without padding.

    Args:
        network: put into evaluation mode while it answers.
        features: what it reads.
        max_tokens: padded tokens in one forward.

    Returns:
        (rows, C), or (tokens, C) from heads that answer for each token.
    """
    device = next(iter(network.state_dict().values())).device  # int8 networks may have no parameters
    was_training = network.training
    network.eval()
    found: npt.NDArray[np.float32] | None = None
    memory = MemoryTrimmer(TRIM_SECONDS)
    with torch.inference_mode():
        for indices in evaluation_batches(features.lengths, max_tokens):
            batch = features.collate(indices)
            inputs = {name: batch[name].to(device) for name in INPUTS}
            logits = task_logits(network(**inputs), inputs["attention_mask"]).float().cpu().numpy()
            by_token = logits.ndim == 3
            if found is None:
                rows = len(features.input_ids) if by_token else len(features)
                found = np.zeros((rows, logits.shape[-1]), np.float32)
            if by_token:
                mask = batch["attention_mask"].numpy().astype(bool)
                places = features.offsets[indices][:, None] + np.arange(mask.shape[1])
                found[places[mask]] = logits[mask]
            else:
                found[indices] = logits
            memory.tick()
    network.train(was_training)
    return np.zeros((0, 0), np.float32) if found is None else found


def predictions_of(
    features: Features, logits: npt.NDArray[np.float32], dataset: Dataset, null_threshold: float | None = None
) -> Predictions:
    """Return a network's logits as predictions, one entry for each example of the data set.

    Args:
        features: of the data set.
        logits: from `network_logits`.
        dataset: the examples; question answering reads the contexts of its answers from it.
        null_threshold: of the model, for question answering.
    """
    if features.kind == "tagging":
        places, offsets = words_of(features)
        labels = None if features.labels is None else features.labels[places]
        return Predictions(logits[places], labels, offsets, features)
    if features.kind == "question_answering":
        answers = tuple(decode_answers(features, logits, _Column(dataset, "context")))
        return Predictions(logits, None, None, features, answers, null_threshold)
    offsets = np.searchsorted(features.examples, np.arange(features.num_examples + 1)).astype(np.int64)
    return Predictions(logits, features.labels, offsets, features)


def words_of(features: Features) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return where in the tokens every word's first piece stands, (words,), and each example's words, (examples + 1,).

    Rows of one example follow each other, and so do their words.
    """
    assert features.words is not None
    places = np.flatnonzero(np.asarray(features.words) >= 0)
    row = np.searchsorted(features.offsets, places, side="right") - 1
    counts = np.bincount(features.examples[row], minlength=features.num_examples)
    return places, np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)


class _Column(Sequence[str]):
    """A column read in blocks: contexts longer than memory are never held at once, and few are fetched alone."""

    def __init__(self, dataset: Dataset, name: str) -> None:
        self._values, self._name = dataset.with_format(None).select_columns([name]), name
        self._first = 0
        self._block: list[str] = []

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, row: Any) -> Any:
        if not self._first <= row < self._first + len(self._block):
            self._first = row - row % COLUMN_ROWS
            self._block = self._values[self._first : self._first + COLUMN_ROWS][self._name]
        return self._block[row - self._first]
