"""The GLUE tasks, from a folder in the layout of the official zip file, or from the Hugging Face hub.

Labels are numbered as in the `nyu-mll/glue` data sets of the hub. The TSV files have no quoting. Where a folder
holds only a part of a data set (a sample of the training set, one development set), that part is used and the
task's notes say so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bertcompress.data.base import HIDDEN, Task, make_dataset
from bertcompress.data.lines import json_lines, table_lines
from bertcompress.data.splits import hold_out, position
from bertcompress.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

_NLI = ("entailment", "neutral", "contradiction")
_ENTAILMENT = ("entailment", "not_entailment")
_QQP_COLUMNS = ("id", "qid1", "qid2", "question1", "question2", "is_duplicate")


@dataclass(frozen=True)
class GlueTask:
    """How one GLUE task is laid out.

    Attributes:
        folders: names that its folder goes by.
        labels: class names in the order of their numbers; empty for regression.
        metric: the task's first metric.
        text: names of the column of the text, or of the two texts.
        label: name of the column of the label.
        sizes: examples in each official split.
        files: split -> files that may hold it, best first; each may also end in `.gz`.
        columns: file -> column names, for files without a header line.
    """

    folders: tuple[str, ...]
    labels: tuple[str, ...]
    metric: str
    text: tuple[str, ...]
    label: str
    sizes: Mapping[str, int]
    files: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """The task's kind."""
        return "classification" if self.labels else "regression"

    def candidates(self, split: str) -> tuple[str, ...]:
        """File names that may hold a split, best first."""
        usual = {"train": "train.tsv", "validation": "dev.tsv", "test": "test.tsv"}
        return self.files.get(split) or (usual[split],)

    def number_of(self, written: object) -> int | float:
        """Return a label as the task's number; ValueError if it is none."""
        text = str(written).strip()
        if not self.labels:
            score = float(text)
            if not 0 <= score <= 5:
                raise ValueError(text)
            return score
        if text in self.labels:
            return self.labels.index(text)
        number = int(text)
        if not 0 <= number < len(self.labels):
            raise ValueError(text)
        return number


def _sizes(train: int, validation: int, test: int) -> dict[str, int]:
    return {"train": train, "validation": validation, "test": test}


GLUE = {
    "cola": GlueTask(
        ("CoLA",), ("unacceptable", "acceptable"), "matthews_correlation", ("sentence",), "label",
        _sizes(8551, 1043, 1063),
        columns={name: ("source", "label", "mark", "sentence") for name in ("train.tsv", "dev.tsv")},
    ),
    "sst2": GlueTask(
        ("SST-2",), ("negative", "positive"), "accuracy", ("sentence",), "label", _sizes(67349, 872, 1821)
    ),
    "mrpc": GlueTask(
        ("MRPC",), ("not_equivalent", "equivalent"), "f1", ("#1 String", "#2 String"), "Quality",
        _sizes(3668, 408, 1725),
        files={"train": ("train.rebuilt.tsv", "train.tsv")},
    ),
    "stsb": GlueTask(("STS-B",), (), "spearmanr", ("sentence1", "sentence2"), "score", _sizes(5749, 1500, 1379)),
    "qqp": GlueTask(
        ("QQP",), ("not_duplicate", "duplicate"), "f1", ("question1", "question2"), "is_duplicate",
        _sizes(363846, 40430, 390965),
        files={"train": ("train.tsv", "train_sample.tsv")},
        columns={"train_sample.tsv": _QQP_COLUMNS},
    ),
    "mnli": GlueTask(
        ("MNLI",), _NLI, "accuracy", ("sentence1", "sentence2"), "gold_label",
        {**_sizes(392702, 9815, 9796), "validation_mismatched": 9832, "test_mismatched": 9847},
        files={
            "train": ("train.tsv", "train.jsonl", "train_sample_5genres.jsonl"),
            "validation": ("dev_matched.tsv", "dev_matched.jsonl"),
            "test": ("test_matched.tsv",),
            "validation_mismatched": ("dev_mismatched.tsv", "dev_mismatched.jsonl"),
            "test_mismatched": ("test_mismatched.tsv",),
        },
    ),
    "qnli": GlueTask(("QNLI",), _ENTAILMENT, "accuracy", ("question", "sentence"), "label", _sizes(104743, 5463, 5463)),
    "rte": GlueTask(("RTE",), _ENTAILMENT, "accuracy", ("sentence1", "sentence2"), "label", _sizes(2490, 277, 3000)),
    "wnli": GlueTask(
        ("WNLI",), ("not_entailment", "entailment"), "accuracy", ("sentence1", "sentence2"), "label",
        _sizes(635, 71, 146),
    ),
    "ax": GlueTask(
        ("AX", "diagnostic"), _NLI, "matthews_correlation", ("sentence1", "sentence2"), "label", {"test": 1104},
        files={"test": ("diagnostic.tsv",)},
    ),
}  # fmt: skip

_JSON_TEXT, _JSON_LABEL = ("premise", "hypothesis"), "label"  # of MNLI, as jsonl


def find_folder(name: str, root: Path) -> Path | None:
    """Return the folder of a GLUE task below a data folder: `root/glue/SST-2` or `root/SST-2`."""
    for parent in (root / "glue", root / "GLUE", root / "glue_data", root):
        for folder in GLUE[name].folders:
            if (parent / folder).is_dir():
                return parent / folder
    return None


def holds(name: str, folder: Path) -> bool:
    """Return whether a folder holds a file of a GLUE task."""
    layout = GLUE[name]
    return any(_find_file(folder, layout.candidates(split)) for split in layout.sizes)


def task_of_folder(folder: Path) -> str | None:
    """Return the GLUE task that a folder is named after, or None."""
    return next((name for name, task in GLUE.items() if folder.resolve().name in (*task.folders, name)), None)


def load_folder(name: str, folder: Path) -> Task:
    """Return a GLUE task from its folder.

    Raises:
        DataError: if the folder holds none of the task's files, or a file cannot be read.
    """
    layout = GLUE[name]
    splits: dict[str, Dataset] = {}
    notes: list[str] = []
    for split in layout.sizes:
        path = _find_file(folder, layout.candidates(split))
        if path is None:
            if split in ("train", "validation"):
                notes.append(f"{split}: not in {folder} (looked for {', '.join(layout.candidates(split))})")
            continue
        splits[split] = _read(layout, path, split, notes)
    if not splits:
        looked = ", ".join(file for split in layout.sizes for file in layout.candidates(split))
        raise DataError(f"task {name}: {folder} holds none of its files, which are {looked} (or these with .gz).")
    return _finish(name, splits, notes, str(folder))


def _find_file(folder: Path, names: Iterable[str]) -> Path | None:
    paths = (folder / (name + ending) for name in names for ending in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _read(layout: GlueTask, path: Path, split: str, notes: list[str]) -> Dataset:
    """Read one file; lines that are malformed are left out and counted in the notes."""
    stem = path.name.removesuffix(".gz")
    text_names, label_name = layout.text, layout.label
    bad: list[str] = []
    lines: Iterator[tuple[int, Mapping[str, object] | str]]
    if stem.endswith(".jsonl"):
        text_names, label_name = _JSON_TEXT, _JSON_LABEL
        lines = json_lines(path)
    else:
        lines = table_lines(path, layout.columns.get(stem))
    texts: list[list[str]] = [[] for _ in text_names]
    labels: list[int | float] = []
    for number, row in lines:
        try:
            found = _example(layout, row, text_names, label_name, hidden=split.startswith("test"))
        except ValueError as error:
            bad.append(f"line {number} ({error})")
            continue
        for column, text in zip(texts, found[0], strict=True):
            column.append(text)
        labels.append(found[1])
    if bad:
        some = ", ".join(bad[:3]) + (", ..." if len(bad) > 3 else "")
        notes.append(f"{split}: {len(bad)} malformed of {len(bad) + len(labels)} lines of {path.name} left out: {some}")
    if len(bad) > max(10, len(labels) // 100):
        raise DataError(f"{path}: {len(bad)} of {len(bad) + len(labels)} lines are malformed: {', '.join(bad[:3])}.")
    if len(labels) != layout.sizes[split]:
        official = layout.sizes[split]
        notes.append(f"{split}: {len(labels)} examples from {path.name}, the official set has {official}")
    return make_dataset({**dict(zip(("text", "text_pair"), texts, strict=False)), "label": labels})


def _example(
    layout: GlueTask, row: Mapping[str, object] | str, text_names: tuple[str, ...], label_name: str, *, hidden: bool
) -> tuple[list[str], int | float]:
    if isinstance(row, str):
        raise ValueError(row)
    texts = []
    for name in text_names:
        if not isinstance(row.get(name), str):
            raise ValueError(f"no column {name!r}")
        texts.append(str(row[name]).strip())
    if hidden and label_name not in row:
        return texts, HIDDEN if layout.labels else float("nan")
    if label_name not in row:
        raise ValueError(f"no column {label_name!r}")
    try:
        return texts, layout.number_of(row[label_name])
    except ValueError:
        raise ValueError(f"label {row[label_name]!r}") from None


def _finish(name: str, splits: dict[str, Dataset], notes: list[str], source: str) -> Task:
    layout = GLUE[name]
    if "train" in splits and "validation" not in splits:
        train = splits["train"]
        names = [column for column in ("text", "text_pair") if column in train.column_names]
        kept, held = hold_out([position(*texts) for texts in zip(*(train[column][:] for column in names), strict=True)])
        splits |= {"train": train.select(kept), "validation": train.select(held)}
        notes.append(
            f"validation: {len(held)} examples held out of train by a hash of their text, not the official set"
        )
    for note in notes:
        log.warning("task %s: %s", name, note)
    usual = {split: splits.pop(split, None) for split in ("train", "validation", "test")}
    return Task(
        name, layout.kind, layout.labels, layout.metric, **usual, extra=splits, source=source, notes=tuple(notes)
    )
