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
    from datasets import Dataset, Features

KINDS = ("classification", "regression", "tagging", "question_answering", "embedding", "unlabelled")
SCHEMES = ("IOB1", "IOB2", "IOBES")
ROWS = 10_000  # read at once, so that memory does not grow with the data
HIDDEN = -1  # class of an example whose label is hidden; hidden regression targets are NaN, as -1 may be a rating


@dataclass(frozen=True, eq=False)
class Task:
    """A data set to train and score on.

    What columns the data sets have depends on the kind; what is to be predicted may be missing where it is hidden:

    - classification: `text`, `text_pair` (pairs only), `label`, the number of a class in `labels`, -1 if hidden.
    - regression: the same with a float as `label`, NaN if hidden.
    - embedding: `text`, and where pairs are scored `text_pair` and `label`, a float that says how similar they are.
    - tagging: `words`, a list of strings, and `tags`, a list of as many numbers of tags in `labels`, -1 if hidden.
    - question_answering: `id`, `question`, `context`, and `answers` with `text` and `answer_start` (characters),
      both lists, empty where the context has no answer.
    - unlabelled: `text`, `text_pair` (pairs only).

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
        scheme: of tagging: "IOB2", "IOBES" or "IOB1" where tags mark spans, such as B-PER; empty where they do not.
        unanswerable: of question answering: whether "no answer" may be right, as in SQuAD v2.0.
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
    scheme: str = ""
    unanswerable: bool = False

    def __post_init__(self) -> None:
        """Refuse a kind that does not exist, a task without any example, and labels where there are no classes."""
        if self.kind not in KINDS:
            raise ConfigError(f"task {self.name}: kind is {self.kind!r}, allowed are {allowed(KINDS)}.")
        if self.kind in ("classification", "tagging") and len(self.labels) < 2:
            raise DataError(f"task {self.name}: labels are {list(self.labels)}, {self.kind} needs at least two.")
        if self.scheme and (self.kind != "tagging" or self.scheme not in SCHEMES):
            raise ConfigError(
                f"task {self.name}: scheme is {self.scheme!r} for kind {self.kind!r}, allowed are {allowed(SCHEMES)} "
                "for tagging."
            )
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
            name: of the split; by default the test split if its labels are known, otherwise validation. Embeddings
                can be compared with a teacher's without any label.

        Raises:
            DataError: if there is no such split, or its labels are hidden.
        """
        splits = self.splits
        bare = self.kind == "embedding" and not any(has_labels(data) for data in splits.values())
        if name is None:
            for candidate in ("test", "validation"):
                if candidate in splits and (bare or has_labels(splits[candidate])):
                    return candidate, splits[candidate]
            raise DataError(
                f"task {self.name}: neither test nor validation has labels to score against; "
                f"the splits are {self._inventory()}."
            )
        if name not in splits:
            raise DataError(f"task {self.name}: there is no split {name!r}; the splits are {self._inventory()}.")
        if not (bare or has_labels(splits[name])):
            raise DataError(
                f"task {self.name}: the labels of split {name!r} are hidden, so nothing can be scored on it; "
                f"the splits are {self._inventory()}."
            )
        return name, splits[name]

    def measuring_split(self, name: str | None = None) -> tuple[str, Dataset]:
        """Return the name and the examples of the split that a model is measured on: of unlabelled text, any will do.

        Args:
            name: of the split; by default the one to score on; of unlabelled text validation, else test, else train.

        Raises:
            DataError: there is no such split, or its labels are hidden in a kind of task that has labels.
        """
        if self.kind != "unlabelled":
            return self.scoring_split(name)
        splits = self.splits
        if name is not None and name not in splits:
            raise DataError(f"task {self.name}: there is no split {name!r}; the splits are {', '.join(splits)}.")
        chosen = name or next(each for each in ("validation", "test", *splits) if each in splits)
        return chosen, splits[chosen]

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
        own = [self.scheme, self.unanswerable] if self.scheme or self.unanswerable else []
        digest.update(json.dumps([self.kind, self.labels, self.metric, *own]).encode())
        for name, data in self.splits.items():
            for column in sorted(data.column_names):
                digest.update(json.dumps([name, column]).encode())
                for values in _read(data, column):
                    digest.update(json.dumps(values).encode())
        return digest.hexdigest()


def make_dataset(columns: Mapping[str, Sequence[Any]]) -> Dataset:
    """Return an in-memory data set with the types of `column_types`."""
    from datasets import Dataset

    return Dataset.from_dict({name: list(values) for name, values in columns.items()}, features=column_types(columns))


def column_types(columns: Mapping[str, Sequence[Any]]) -> Features:
    """Return the types of a task's columns; `label` is int64, or float64 where any of its values is a float."""
    from datasets import Features, List, Value

    label = columns.get("label", ())
    texts = dict.fromkeys(("text", "text_pair", "id", "question", "context"), Value("string"))
    known = {
        **texts,
        "label": Value("float64" if any(isinstance(value, float) for value in label) else "int64"),
        "words": List(Value("string")),
        "tags": List(Value("int64")),
        "answers": {"text": List(Value("string")), "answer_start": List(Value("int64"))},
    }
    return Features({name: known[name] for name in columns})


def has_labels(data: Dataset) -> bool:
    """Return whether every example of the split has a label, tags or answers that are not hidden."""
    if not len(data) or "answers" in data.column_names:
        return bool(len(data))
    column = next((name for name in ("label", "tags") if name in data.column_names), None)
    if column is None:
        return False
    labels = _flat(data, column)
    return not bool((np.isnan(labels) if labels.dtype.kind == "f" else labels == HIDDEN).any())


def _read(data: Dataset, column: str) -> Iterator[list[Any]]:
    """Yield the values of a column, `ROWS` at a time; the other columns are left alone, as they may be large."""
    alone = data.select_columns([column])
    for start in range(0, len(data), ROWS):
        yield alone[start : start + ROWS][column]


def _flat(data: Dataset, column: str) -> np.ndarray[Any, Any]:
    """Return a column of numbers, or of lists of numbers one after the other."""
    parts = list(_read(data, column))
    if column == "tags":
        parts = [[number for row in rows for number in row] for rows in parts]
    kind = np.float64 if "float" in str(data.features[column]) else np.int64
    return np.concatenate([np.asarray(part, dtype=kind) for part in parts]) if parts else np.zeros(0, kind)


def _describe(data: Dataset, labels: tuple[str, ...]) -> dict[str, Any]:
    words = np.fromiter(_words(data), np.int64, len(data))
    facts: dict[str, Any] = {"examples": len(data)}
    for column in ("label", "tags"):
        if column in data.column_names:
            facts["labels"] = _distribution(_flat(data, column), labels)
    if "answers" in data.column_names:
        without = sum(not answers["text"] for part in _read(data, "answers") for answers in part)
        facts["labels"] = {"answerable": len(data) - without, "no answer": without}
    if len(words):
        facts["words"] = {"median": float(np.median(words)), "percentile_95": float(np.percentile(words, 95))}
    return facts


def _words(data: Dataset) -> Iterator[int]:
    """Yield the words of each example, of all its texts together."""
    names = [name for name in ("words", "text", "text_pair", "question", "context") if name in data.column_names]
    for columns in zip(*(_read(data, name) for name in names), strict=True):
        for texts in zip(*columns, strict=True):
            yield sum(len(text if isinstance(text, list) else text.split()) for text in texts)


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
