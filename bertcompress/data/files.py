"""Tasks from files of one's own, described by a small mapping (in YAML, or a Python dict).

    name: tickets
    kind: classification        # regression | embedding | unlabelled
    train: data/train.csv       # csv, tsv, jsonl, parquet, txt; .gz of each; relative to the mapping's file
    validation: data/dev.csv    # left out: 10% of train, by a hash of the text
    test: data/test.csv         # may be left out; a test file without the label column has hidden labels
    text: body                  # column name or number; [premise, hypothesis] for pairs
    label: team                 # column name or number (from 0; -1 is the last)
    labels: [billing, tech]     # order of the classes; left out: those of train, sorted
    columns: [id, team, body]   # names of the columns, for csv and tsv files without a header line
    metric: accuracy            # or another metric of the kind

Where every column is given by number and there are no `columns`, csv and tsv files have no header line. An `embedding`
task is plain text, or pairs with a `label` that says how similar they are.
"""

from __future__ import annotations

import json
import logging
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data.base import HIDDEN, Task, make_dataset
from bertcompress.data.columns import Columns, Header, format_of, read_columns
from bertcompress.data.mapping import Mapped, check_mapping, read_mapping
from bertcompress.data.splits import hold_out, position
from bertcompress.errors import ConfigError, DataError, allowed

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


def load_mapping_file(path: Path) -> Task:
    """Return the task that a YAML file describes; its paths are relative to it.

    Raises:
        ConfigError: naming file, line and key of a mistake in the mapping.
        DataError: naming file, line and column of a mistake in the data.
    """
    values, places = read_mapping(path)
    return load_mapping(values, path.parent, places)


def load_mapping(values: Mapping[str, Any], folder: Path, places: Mapping[str, str] | None = None) -> Task:
    """Return the task that a mapping describes.

    Args:
        values: the mapping; see the module's docstring for its keys.
        folder: that relative paths start from.
        places: key -> where it stands, such as `tickets.yaml, line 3`, for messages.

    Raises:
        ConfigError: for a mistake in the mapping.
        DataError: for a mistake in the data.
    """
    mapped = check_mapping(values, places or {})
    read = {split: _read(mapped, split, folder) for split in SPLITS if split in mapped.files}
    labels = _classes(mapped, read) if mapped.kind == "classification" else ()
    splits = {split: _dataset(mapped, split, columns, labels) for split, columns in read.items()}
    notes = [_blank(split, columns) for split, columns in read.items()]
    if "train" in splits and "validation" not in splits:
        splits, note = _hold_out(splits)
        notes.append(note)
    for note in filter(None, notes):
        log.warning("task %s: %s", mapped.name, note)
    source = ", ".join(str(columns.path) for columns in read.values())
    return Task(
        mapped.name, mapped.kind, labels, mapped.metric, **splits, source=source, notes=tuple(filter(None, notes))
    )


def _read(mapped: Mapped, split: str, folder: Path) -> Columns:
    path = folder / Path(mapped.files[split]).expanduser()
    chosen: list[str | int] = [*mapped.text]
    if mapped.label is not None:
        chosen.append(mapped.label)
    by_number = bool(chosen) and all(isinstance(column, int) for column in chosen)
    header = Header(mapped.columns, first_line=mapped.columns is None and not by_number)
    if not mapped.text:
        if format_of(path) != "txt":
            raise ConfigError(f"{mapped.place('text')}: it is missing; name the column of {path} that holds the text.")
        chosen.insert(0, "text")
    columns = read_columns(path, chosen, header, optional=mapped.label if split == "test" else None)
    if not columns.numbers:
        raise DataError(f"{path}: it holds no example.")
    if by_number and mapped.columns is None and mapped.label is not None and mapped.kind == "classification":
        _refuse_header(columns)
    return _checked_texts(mapped, columns)


def _refuse_header(columns: Columns) -> None:
    """Refuse a file read without a header line whose first label, unlike all others, occurs only once."""
    labels = columns.values[-1]
    once = [label for label, count in Counter(labels).items() if count == 1]
    if len(labels) >= 20 and once == [labels[0]]:
        raise DataError(
            f"{columns.where(0)}: the label is {labels[0]!r}, which no other line has, so this seems to be a header; "
            "give the columns by name, or remove the line."
        )


def _checked_texts(mapped: Mapped, columns: Columns) -> Columns:
    for name, values in zip(mapped.text or ("text",), columns.values, strict=False):
        for row, value in enumerate(values):
            if not isinstance(value, str):
                raise DataError(f"{columns.where(row)}, column {name!r}: got {value!r}, allowed is text.")
    return columns


def _blank(split: str, columns: Columns) -> str:
    empty = [row for row, text in enumerate(columns.values[0]) if not text.strip()]
    first = f", the first in {columns.where(empty[0])}" if empty else ""
    return f"{split}: {len(empty)} examples have an empty text{first}" if empty else ""


def _label_text(value: object) -> str:
    """Return a label as the text that names its class: 3, 3.0 and "3" are one class."""
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "" if value is None else json.dumps(value, default=str)


def _labels_of(mapped: Mapped, columns: Columns) -> list[Any]:
    """Return the label column; empty if there is none, or if it is a test file whose labels are all blank."""
    if mapped.label is None:
        return []
    values = columns.values[len(mapped.text) or 1]
    return values if any(_label_text(value) for value in values) else []


def _classes(mapped: Mapped, read: Mapping[str, Columns]) -> tuple[str, ...]:
    if mapped.labels is not None:
        return mapped.labels
    first = next(columns for columns in read.values())
    found = {_label_text(value) for value in _labels_of(mapped, first)} - {""}
    if len(found) > 1000 and len(found) > len(first.numbers) // 2:
        raise DataError(
            f"{first.path}, column {mapped.label!r}: {len(found)} different labels in {len(first.numbers)} examples; "
            "for numbers to predict use kind: regression."
        )
    return tuple(sorted(found, key=_label_order))


def _label_order(label: str) -> tuple[int, int, str]:
    try:
        return 0, int(label), label
    except ValueError:
        return 1, 0, label


@dataclass(frozen=True)
class _LabelReader:
    """Turns a label as written into the number that the task stores."""

    labels: tuple[str, ...]
    numbers: Mapping[str, int]

    def __call__(self, value: object, where: str) -> int | float:
        if self.labels:
            text = _label_text(value)
            if text not in self.numbers:
                raise DataError(f"{where}: got {text!r}, allowed are {allowed(self.labels)}.")
            return self.numbers[text]
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if not math.isfinite(number):
            raise DataError(f"{where}: got {value!r}, allowed is a finite number.")
        return number


def _dataset(mapped: Mapped, split: str, columns: Columns, labels: tuple[str, ...]) -> Dataset:
    width = len(mapped.text) or 1
    values: dict[str, Sequence[Any]] = dict(zip(("text", "text_pair"), columns.values[:width], strict=False))
    if mapped.label is not None:
        written = _labels_of(mapped, columns)
        if written or split != "test":
            reader = _LabelReader(labels, {label: number for number, label in enumerate(labels)})
            rows = enumerate(columns.values[width])
            values["label"] = [reader(value, f"{columns.where(row)}, column {mapped.label!r}") for row, value in rows]
        else:
            hidden = HIDDEN if labels else math.nan
            values["label"] = [hidden] * len(columns.numbers)
    return make_dataset(values)


def _hold_out(splits: dict[str, Dataset]) -> tuple[dict[str, Dataset], str]:
    train = splits["train"]
    texts = zip(*(train[column][:] for column in ("text", "text_pair") if column in train.column_names), strict=True)
    kept, held = hold_out([position(*row) for row in texts])
    if not kept:
        raise DataError(
            "validation: it was left out, and train has too few different texts to hold any out; give a file."
        )
    note = f"validation: {len(held)} examples held out of train by a hash of their text"
    return {**splits, "train": train.select(kept), "validation": train.select(held)}, note
