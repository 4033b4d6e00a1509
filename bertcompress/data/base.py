"""`Task`: a data set with its splits, labels and metric, whatever it was loaded from."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from bertcompress.errors import ConfigError, DataError, allowed

if TYPE_CHECKING:
    from datasets import Dataset

KINDS = ("classification", "regression", "tagging", "question_answering", "embedding", "unlabelled")
HIDDEN = -1  # class of an example whose label is hidden; hidden regression targets are NaN, as -1 may be a rating


@dataclass(frozen=True, eq=False)
class Task:
    """A data set to train and score on.

    The data sets have the columns `text`, `text_pair` (pairs only) and `label` (unless there is nothing to predict):
    the number of a class in `labels`, or a float in regression. A hidden label is -1, or NaN in regression.

    Attributes:
        name: short, used in reports and folder names.
        kind: one of `KINDS`.
        labels: names of the classes in the order of their numbers; empty where there are no classes.
        metric: the name of the metric that a model is chosen by; empty where there is nothing to score.
        train: examples to learn from, or None.
        validation: examples to choose by, or None.
        test: examples to report on, or None; its labels may be hidden.
        extra: further splits by name, such as `validation_mismatched`.
        source: where the data came from, for people.
        notes: what a reader should know, such as lines that were left out; also logged when the task is loaded.
    """

    name: str
    kind: str
    labels: tuple[str, ...]
    metric: str
    train: Dataset | None = None
    validation: Dataset | None = None
    test: Dataset | None = None
    extra: Mapping[str, Dataset] = field(default_factory=dict)
    source: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist, a task without any example, and labels where there are no classes."""
        if self.kind not in KINDS:
            raise ConfigError(f"task {self.name}: kind is {self.kind!r}, allowed are {allowed(KINDS)}.")
        if self.kind == "classification" and len(self.labels) < 2:
            raise DataError(f"task {self.name}: labels are {list(self.labels)}, classification needs at least two.")
        if not any(len(data) for data in self.splits.values()):
            raise DataError(f"task {self.name}: no split holds an example ({self.source}).")

    @property
    def splits(self) -> dict[str, Dataset]:
        """The splits that there are, by name: train, validation, test, then the extra ones."""
        named = {"train": self.train, "validation": self.validation, "test": self.test, **self.extra}
        return {name: data for name, data in named.items() if data is not None}

    def scoring_split(self, name: str | None = None) -> tuple[str, Dataset]:
        """Return the name and the examples of the split to score on.

        Args:
            name: of the split; by default the test split if its labels are known, otherwise validation.

        Raises:
            DataError: if there is no such split, or its labels are hidden.
        """
        splits = self.splits
        if name is None:
            for candidate in ("test", "validation"):
                if candidate in splits and has_labels(splits[candidate]):
                    return candidate, splits[candidate]
            raise DataError(
                f"task {self.name}: neither test nor validation has labels to score against; "
                f"the splits are {self._inventory()}."
            )
        if name not in splits:
            raise DataError(f"task {self.name}: there is no split {name!r}; the splits are {self._inventory()}.")
        if not has_labels(splits[name]):
            raise DataError(
                f"task {self.name}: the labels of split {name!r} are hidden, so nothing can be scored on it; "
                f"the splits are {self._inventory()}."
            )
        return name, splits[name]

    def _inventory(self) -> str:
        states = ((name, "labelled" if has_labels(data) else "no labels") for name, data in self.splits.items())
        return ", ".join(f"{name} ({state})" for name, state in states)

    def describe(self) -> dict[str, Any]:
        """Return counts, label distribution and text lengths in words of every split, as plain JSON values."""
        return {
            "name": self.name,
            "kind": self.kind,
            "metric": self.metric,
            "labels": list(self.labels),
            "source": self.source,
            "notes": list(self.notes),
            "splits": {name: _describe(data, self.labels) for name, data in self.splits.items()},
        }

    def fingerprint(self) -> str:
        """Return a hex digest of the content: kind, labels, metric and every example of every split in order."""
        digest = hashlib.blake2b(digest_size=16)
        digest.update(json.dumps([self.kind, self.labels, self.metric]).encode())
        for name, data in self.splits.items():
            for column in sorted(data.column_names):
                digest.update(json.dumps([name, column]).encode())
                digest.update(json.dumps(data[column][:]).encode())
        return digest.hexdigest()


def make_dataset(columns: Mapping[str, Sequence[Any]]) -> Dataset:
    """Return an in-memory data set; `text` and `text_pair` are strings, `label` is int64 or float64 by its values."""
    from datasets import Dataset, Features, Value

    kinds = {"text": "string", "text_pair": "string"}
    label = columns.get("label", ())
    kinds["label"] = "float64" if any(isinstance(value, float) for value in label) else "int64"
    schema = Features({name: Value(kinds[name]) for name in columns})
    return Dataset.from_dict({name: list(values) for name, values in columns.items()}, features=schema)


def has_labels(data: Dataset) -> bool:
    """Return whether every example of the split has a label that is not hidden."""
    if "label" not in data.column_names or not len(data):
        return False
    labels = np.asarray(data["label"])
    return not bool((np.isnan(labels) if labels.dtype.kind == "f" else labels == HIDDEN).any())


def _describe(data: Dataset, labels: tuple[str, ...]) -> dict[str, Any]:
    words = np.fromiter(_words(data), np.int64, len(data))
    facts: dict[str, Any] = {"examples": len(data)}
    if "label" in data.column_names:
        facts["labels"] = _distribution(np.asarray(data["label"]), labels)
    if len(words):
        facts["words"] = {"median": float(np.median(words)), "percentile_95": float(np.percentile(words, 95))}
    return facts


def _words(data: Dataset) -> Iterator[int]:
    if "text_pair" not in data.column_names:
        yield from (len(text.split()) for text in data["text"][:])
        return
    for text, pair in zip(data["text"][:], data["text_pair"][:], strict=True):
        yield len(text.split()) + len(pair.split())


def _distribution(values: np.ndarray[Any, Any], labels: tuple[str, ...]) -> dict[str, int | float]:
    if values.dtype.kind == "f":
        known = values[~np.isnan(values)]
        facts: dict[str, int | float] = {"hidden": len(values) - len(known)}
        if len(known):
            facts |= {
                "minimum": float(known.min()),
                "mean": math.fsum(known) / len(known),
                "maximum": float(known.max()),
            }
        return facts
    counts: dict[str, int | float] = {name: int((values == number).sum()) for number, name in enumerate(labels)}
    hidden = int((values == HIDDEN).sum())
    return {**counts, "hidden": hidden} if hidden else counts
