"""Question answering and tagging tasks by name, from folders in the layout that each data set is published in.

Where the official files are not there but a part of the data set is, that part is used, and the task's notes say so:

- `squad`: `train_subset.merged-v1.1.json` is the training set and XQuAD's English part, 240 paragraphs of the official
  development set, is the test set.
- `squad_v2`: the paragraphs of `cs224n-dev-v2.0.json`, a sample of the official development set, are split by a hash
  of the paragraph. With the official training set, one half is for validation and one for test. Without, one
  half is for training, together with the subset of version 1.1, and a quarter each for validation and test. No
  paragraph stands in two splits, and none of those of XQuAD is trained on, so that the model can be scored on it.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bertcompress.data import hub
from bertcompress.data.base import Task
from bertcompress.data.conll_task import load_conll_files
from bertcompress.data.sources import data_folder
from bertcompress.data.splits import normalised, position
from bertcompress.data.squad import Questions, questions_task, read_squad
from bertcompress.errors import DataError

log = logging.getLogger(__name__)

_SUBSET = "train_subset.merged-v1.1.json"
_XQUAD = "xquad.en.json"
_SAMPLE = "cs224n-dev-v2.0.json"


@dataclass(frozen=True)
class TaggingCorpus:
    """How the files of a tagging task are laid out.

    Attributes:
        folders: that may hold them, below the data folder; the first is the usual one.
        files: split -> names of the file that may hold it, best first; each may also end in `.gz`.
        sizes: sentences in each official split, where they never change.
        word: column of the words.
        tag: column of the tags.
        scheme: "" for tags that mark no spans; None to find it out.
        remark: what to know to get the files.
    """

    folders: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int] = field(default_factory=dict)
    word: int | str = 0
    tag: int | str = -1
    scheme: str | None = None
    remark: str = ""

    kind = "tagging"

    @property
    def metric(self) -> str:
        """The metric that a model is chosen by."""
        return "token_accuracy" if self.scheme == "" else "entity_f1"

    @property
    def source(self) -> str:
        """Where the data come from, for people."""
        return f"$BERTCOMPRESS_DATA/{self.folders[0]}"

    def load(self, name: str, folders: Sequence[Path]) -> Task:
        """Return the task from the files that the folders hold."""
        found = {split: _find(folders, names) for split, names in self.files.items()}
        files = {split: path for split, path in found.items() if path}
        if not files:
            raise DataError(f"{_missing(name, self.folders, self.files)}.{self.remark}")
        lacking = [split for split in self.files if split not in files]
        notes = [f"{split}: not there (looked for {', '.join(self.files[split])})" for split in lacking]
        source = ", ".join(dict.fromkeys(str(path.parent) for path in files.values()))
        task = load_conll_files(
            name, files, word=self.word, tag=self.tag, scheme=self.scheme, source=source, notes=notes
        )
        return dataclasses.replace(task, notes=(*task.notes, *self._odd_sizes(task, files)))

    def _odd_sizes(self, task: Task, files: Mapping[str, Path]) -> Iterator[str]:
        """Yield a note for each file that does not have the official number of sentences."""
        for split, path in files.items():
            parts = [split] if split != "train" or "validation" in files else ["train", "validation"]
            found = sum(len(task.splits[part]) for part in parts if part in task.splits)
            for note in _size_note(split, found, path, self.sizes.get(split)):
                log.warning("task %s: %s", task.name, note)
                yield note


@dataclass(frozen=True)
class QuestionCorpus:
    """How the files of a question answering task are laid out.

    Attributes:
        folders: that may hold them, below the data folder; the first is the usual one.
        files: split -> name of the official file; it may also end in `.gz`.
        sizes: questions in each official split.
        repository: on the Hugging Face hub, for where there are no files.
        parts: returns the questions of each split, given the official files that there are.
    """

    folders: tuple[str, ...]
    files: Mapping[str, tuple[str, ...]]
    sizes: Mapping[str, int]
    repository: str
    parts: Callable[[Mapping[str, Path], Sequence[Path], list[str]], dict[str, Questions]]

    kind = "question_answering"
    metric = "f1"

    @property
    def source(self) -> str:
        """Where the data come from, for people."""
        return f"$BERTCOMPRESS_DATA/{self.folders[0]}, or hub {self.repository}"

    def load(self, name: str, folders: Sequence[Path]) -> Task:
        """Return the task from the files that the folders hold, or from the hub."""
        found = {split: _find(folders, names) for split, names in self.files.items()}
        files = {split: path for split, path in found.items() if path}
        notes: list[str] = []
        read = self.parts(files, folders, notes)
        if not read:
            return hub.load_squad(name, self.repository, _missing(name, self.folders, self.files))
        for split, path in files.items():
            notes += _size_note(split, len(read[split].rows), path, self.sizes.get(split))
        source = ", ".join(dict.fromkeys(str(questions.path) for questions in read.values()))
        return questions_task(name, read, source=source, notes=notes)


def load(name: str, folder: Path | None = None) -> Task:
    """Return one of `CORPORA`.

    Args:
        name: of the task.
        folder: that holds its files; by default it is looked for below `$BERTCOMPRESS_DATA`.

    Raises:
        DataError: if its files are not there, which says what files are wanted and where, or are malformed.
    """
    corpus = CORPORA[name]
    root = data_folder()
    return corpus.load(name, [folder] if folder else [root / below for below in corpus.folders] if root else [])


def task_of_folder(folder: Path) -> str | None:
    """Return the task that a folder is named after and holds files of, or None."""
    last = folder.resolve().name
    for name, corpus in CORPORA.items():
        named = last in (name, *(Path(below).name for below in corpus.folders))
        if named and any(_find([folder], names) for names in corpus.files.values()):
            return name
    return None


def _find(folders: Iterable[Path], names: Iterable[str]) -> Path | None:
    paths = (folder / (name + ending) for folder in folders for name in names for ending in ("", ".gz"))
    return next((path for path in paths if path.is_file()), None)


def _missing(name: str, folders: Sequence[str], files: Mapping[str, Sequence[str]]) -> str:
    wanted = "; ".join(f"{split} {' or '.join(names)}" for split, names in files.items())
    return f"task {name}: its files are not in $BERTCOMPRESS_DATA/{folders[0]}; wanted are {wanted} (or these with .gz)"


def _size_note(split: str, found: int, path: Path, official: int | None) -> Iterator[str]:
    if official not in (None, found):
        yield f"{split}: {found} examples from {path.name}, the official set has {official}"


def _squad(files: Mapping[str, Path], folders: Sequence[Path], notes: list[str]) -> dict[str, Questions]:
    """Return the official splits of version 1.1; for those that are not there, the subset and XQuAD."""
    read = {split: read_squad(path) for split, path in files.items()}
    subset, xquad = _find(folders, [_SUBSET]), _find(folders, [_XQUAD])
    if "train" not in read and subset:
        read = {"train": read_squad(subset), **read}
        notes.append(f"train: {len(read['train'].rows)} questions of {subset.name}, the official set has 87599")
    if "validation" not in read and xquad:
        read["test"] = read_squad(xquad)
        notes.append(
            f"test: {len(read['test'].rows)} questions of {xquad.name}, English XQuAD, with one answer each; it is a "
            "part of the official development set (10570 questions with up to six answers), so scores differ from its"
        )
    return read


def _squad_v2(files: Mapping[str, Path], folders: Sequence[Path], notes: list[str]) -> dict[str, Questions]:
    """Return the official splits of version 2.0; for a development set that is not there, parts of its sample."""
    read = {split: read_squad(path) for split, path in files.items()}
    sample_file = _find(folders, [_SAMPLE])
    if "validation" in read or sample_file is None:
        return read
    sample = read_squad(sample_file)
    if "train" in read:
        notes.append(_told_sample(sample, "one half of its paragraphs is for validation, the other for test"))
        return {**read, **_by_paragraph(sample, lambda at, _: "validation" if at < 0.5 else "test")}
    subset_file, xquad_file = _find(folders, [_SUBSET]), _find(folders, [_XQUAD])
    xquad = _alike(read_squad(xquad_file)) if xquad_file else set()
    parts = _by_paragraph(sample, lambda at, context: _quarter(at, normalised(context) in xquad))
    notes.append(
        _told_sample(sample, "half of its paragraphs is for training, a quarter each for validation and test")
        + (f"; none of the {len(xquad & _alike(sample))} that XQuAD has is trained on" if xquad else "")
    )
    if subset_file:
        ids = {row["id"] for row in sample.rows}
        avoided = _alike(sample) | xquad
        whole = read_squad(subset_file)
        fresh = {context for context in whole.contexts if normalised(context) not in avoided}
        subset = [row for row in whole.rows if row["context"] in fresh and row["id"] not in ids]
        notes.append(f"train: also {len(subset)} questions of {subset_file.name}, all of which have an answer")
        own = parts.get("train", Questions(sample.path))
        parts = {**parts, "train": Questions(subset_file, subset + own.rows, notes=[*whole.notes, *own.notes])}
    return parts


def _alike(questions: Questions) -> set[str]:
    """Return the paragraphs in the form in which those that differ in punctuation or case alone are the same."""
    return {normalised(context) for context in questions.contexts}


def _told_sample(sample: Questions, use: str) -> str:
    return (
        f"{sample.path.name} has {len(sample.rows)} of the 11873 questions of the official development set; {use}, by "
        "a hash of the paragraph, so that one article may be in several splits"
    )


def _quarter(at: float, kept_out: bool) -> str:
    """Return the split of a paragraph of the sample; those that are kept out of training go to the other two."""
    if at < 0.5 and not kept_out:
        return "train"
    return "validation" if at % 0.5 < 0.25 else "test"


def _by_paragraph(questions: Questions, split_of: Callable[[float, str], str]) -> dict[str, Questions]:
    """Split questions by the place of their paragraph in [0, 1) and its text."""
    splits = {context: split_of(position(context), context) for context in questions.contexts}
    parts: dict[str, Questions] = {}
    for split in ("train", "validation", "test"):
        rows = [row for row in questions.rows if splits[row["context"]] == split]
        if rows:
            parts[split] = Questions(questions.path, rows, notes=[] if parts else questions.notes)
    return parts


_CONLL2003_FILES = {
    "train": ("eng.train", "train.txt"),
    "validation": ("eng.testa", "valid.txt", "dev.txt"),
    "test": ("eng.testb", "test.txt"),
}
_BIONER_FILES = {"train": ("train.tsv",), "validation": ("devel.tsv",), "test": ("test.tsv",)}


def _conll2003(tag: int, scheme: str | None = None) -> TaggingCorpus:
    return TaggingCorpus(
        ("conll2003", "CoNLL-2003", "conll03"),
        _CONLL2003_FILES,
        {"train": 14041, "validation": 3250, "test": 3453},
        tag=tag,
        scheme=scheme,
        remark=" Their text is the Reuters corpus, which NIST sends to whoever signs an agreement.",
    )


def _conll2000(tag: int, scheme: str | None = None) -> TaggingCorpus:
    files = {"train": ("train.txt",), "test": ("test.txt",)}
    return TaggingCorpus(
        ("conll2000", "CoNLL-2000"), files, {"train": 8936, "test": 2012}, tag=tag, scheme=scheme,
        remark=" The shared task's page is https://www.clips.uantwerpen.be/conll2000/chunking/.",
    )  # fmt: skip


def _bioner(folder: str, train: int, validation: int, test: int) -> TaggingCorpus:
    return TaggingCorpus(
        (f"bioner/{folder}", folder),
        _BIONER_FILES,
        {"train": train, "validation": validation, "test": test},
        remark=" They are in github.com/cambridgeltl/MTL-Bioinformatics-2016.",
    )


_SQUAD_FOLDERS = ("squad", "SQuAD")

CORPORA: dict[str, QuestionCorpus | TaggingCorpus] = {
    "squad": QuestionCorpus(
        _SQUAD_FOLDERS,
        {"train": ("train-v1.1.json",), "validation": ("dev-v1.1.json",)},
        {"train": 87599, "validation": 10570},
        "rajpurkar/squad",
        _squad,
    ),
    "squad_v2": QuestionCorpus(
        (*_SQUAD_FOLDERS, "squad_v2"),
        {"train": ("train-v2.0.json",), "validation": ("dev-v2.0.json",)},
        {"train": 130319, "validation": 11873},
        "rajpurkar/squad_v2",
        _squad_v2,
    ),
    "conll2003": _conll2003(3),
    "conll2003-chunk": _conll2003(2),
    "conll2003-pos": _conll2003(1, ""),
    "conll2000": _conll2000(2),
    "conll2000-pos": _conll2000(1, ""),
    "wnut17": TaggingCorpus(
        ("wnut17", "emerging_entities_17"),
        {
            "train": ("wnut17train.conll",),
            "validation": ("emerging.dev.conll",),
            "test": ("emerging.test.annotated", "emerging.test.conll"),
        },
        {"train": 3394, "validation": 1009, "test": 1287},
        remark=" They are in github.com/leondz/emerging_entities_17.",
    ),
    "bc5cdr": _bioner("BC5CDR-IOB", 4560, 4581, 4797),
    "bc2gm": _bioner("BC2GM-IOB", 12574, 2519, 5038),
    "ud-ewt-pos": TaggingCorpus(
        ("ud/ewt", "UD_English-EWT"),
        {
            "train": ("en_ewt-ud-train.conllu", "en_ewt-ud-train.rebuilt.conllu"),
            "validation": ("en_ewt-ud-dev.conllu",),
            "test": ("en_ewt-ud-test.conllu",),
        },
        word="form",
        tag="upos",
        scheme="",
        remark=" They are in github.com/UniversalDependencies/UD_English-EWT.",
    ),
}
