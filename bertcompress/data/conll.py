"""Tagged sentences: files with one word per line, in columns (CoNLL-2003, BIO, IOB, IOBES) or in CoNLL-U.

Column files have the same number of columns in every line, separated by tabs if the first line with a word holds a
tab, otherwise by white space. A line without anything but white space ends a sentence. Left out are lines of
`-DOCSTART-`, and comments: lines before the first word of a sentence that begin with `# ` and either do not have
the file's number of columns, or have something as a tag that no other line of the file has (a word may well be `#`).

CoNLL-U has ten named columns; multiword tokens (`1-2`) and empty nodes (`1.1`) are left out, so that what remains are
the syntactic words, each with its own tag.

Everything else is an error that names the file and the line.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bertcompress.data.base import HIDDEN, SCHEMES, Task, make_dataset
from bertcompress.data.lines import read_text
from bertcompress.data.schemes import (
    OUTSIDE,
    convert_scheme,
    find_scheme,
    marks_spans,
    scheme_has,
    tag_order,
    tags_of,
    usual_tag,
)
from bertcompress.data.splits import hold_out, position
from bertcompress.errors import ConfigError, DataError, allowed

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
NO_TAG = "_"  # CoNLL-U's sign for a value that is not given
_ID = re.compile(r"[0-9]+([-.][0-9]+)?")
_BLANKS = re.compile(r"[ \t]+")  # only these separate columns; a word may hold an odd Unicode space
_DOCUMENT = "-DOCSTART-"
_Lines: TypeAlias = list[tuple[int, str]]  # with their numbers


@dataclass
class Sentences:
    """The sentences of a file.

    Attributes:
        path: of the file.
        width: number of its columns.
        words: of each sentence.
        tags: of each sentence, as many as words; empty if the file has no tags.
        lines: the line of the first word of each sentence.
        first: the line on which each tag stands first.
    """

    path: Path
    width: int = 0
    words: list[list[str]] = field(default_factory=list)
    tags: list[list[str]] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)


def is_conllu(path: Path) -> bool:
    """Return whether a file is in CoNLL-U, by its name."""
    return path.name.removesuffix(".gz").lower().endswith(".conllu")


def read_conll(
    path: Path, *, word: int | str | None = None, tag: int | str | None = None, width: int | None = None
) -> Sentences:
    """Read a file of tagged sentences.

    Args:
        path: of the file; CoNLL-U if its name ends in `.conllu` or a column is given by name. `.gz` of both.
        word: the column that holds the words, by number (from 0; -1 is the last) or by its name in CoNLL-U; by
            default the first, or `form`.
        tag: the column that holds the tags; by default the last, or `upos`. Where the file has the words alone, or
            only `_` as tags, the sentences have no tags.
        width: number of columns that the file should have. If tags are the last of these columns, a file with one
            column less has no tags.

    Raises:
        ConfigError: for a column that cannot be.
        DataError: naming the file and the line that is malformed, missing or damaged.
    """
    conllu = is_conllu(path) or isinstance(word, str) or isinstance(tag, str)
    word = word if word is not None else ("form" if conllu else 0)
    tag = tag if tag is not None else ("upos" if conllu else -1)
    lines = [(number, line.rstrip("\r")) for number, line in enumerate(read_text(path).split("\n"), start=1)]
    if isinstance(word, str) or isinstance(tag, str) or conllu:
        sentences = _read_conllu(path, lines, word, tag)
    else:
        sentences = _read_columns(path, lines, word, tag, width)
    if not sentences.words:
        raise DataError(f"{path}: it holds no sentence.")
    if sentences.first.keys() == {NO_TAG}:
        sentences.tags, sentences.first = [], {}
    elif conllu and NO_TAG in sentences.first:
        raise DataError(f"{path}, line {sentences.first[NO_TAG]}: the word's {tag} is '_', and other words have one.")
    return sentences


def _places(path: Path, width: int, word: int | str, tag: int | str) -> tuple[int, int]:
    """Return the numbers of the columns of words and tags, from 0."""
    places = _place(path, width, word, "word"), _place(path, width, tag, "tag")
    if places[0] == places[1]:
        raise ConfigError(f"{path}: word and tag are both column {places[0]}; give two different ones.")
    return places


def _place(path: Path, width: int, column: int | str, key: str) -> int:
    """Return the number of a column, from 0."""
    if isinstance(column, str):
        if column not in CONLLU:
            raise ConfigError(f"{path}: {key} is {column!r}, allowed are a number, or for CoNLL-U {allowed(CONLLU)}.")
        return CONLLU.index(column)
    if not -width <= column < width:
        raise DataError(f"{path}: {key} is column {column}, and the file has {width} (counted from 0; -1 is the last).")
    return column % width


def load_conll_files(
    name: str,
    files: Mapping[str, Path],
    *,
    word: int | str | None = None,
    tag: int | str | None = None,
    scheme: str | None = None,
    target: str | None = None,
    labels: Sequence[str] | None = None,
    metric: str | None = None,
    source: str | None = None,
    notes: Sequence[str] = (),
) -> Task:
    """Return a tagging task from files of tagged sentences.

    Without a validation file about a tenth of the training sentences is held out, by a hash of their words. A test
    file may lack the tags: they are hidden then.

    Args:
        name: of the task.
        files: path of each split.
        word: the column that holds the words; see `read_conll`.
        tag: the column that holds the tags; see `read_conll`.
        scheme: that the tags are in, one of `SCHEMES`, or "" if they mark no spans; by default it is found out.
        target: the scheme that the task's tags should be in; by default IOB1 becomes IOB2, and the others stay.
        labels: the tags in the order of their numbers; by default those of train, O first and the others sorted by
            type, followed by what only other splits have.
        metric: by default `entity_f1` where tags mark spans, else `token_accuracy`.
        source: where the files are from, by default their paths.
        notes: what a reader should know of the files.

    Raises:
        ConfigError: for a column or scheme that cannot be.
        DataError: naming the file and the line of a mistake in the data.
    """
    read: dict[str, Sentences] = {}
    for split in sorted(files, key=lambda split: {"train": 0, "validation": 1}.get(split, 2)):
        width = next(iter(read.values())).width if read else None
        read[split] = read_conll(Path(files[split]), word=word, tag=tag, width=width)
        if not read[split].tags and not split.startswith("test"):
            raise DataError(f"{read[split].path}: its sentences have no tags, which only those of test may lack.")
    told = list(notes)
    tagged = [sentences for sentences in read.values() if sentences.tags]
    chosen = _to_scheme(tagged, scheme, target, told)
    inventory = tuple(labels) if labels is not None else _inventory(tagged, chosen, told)
    if len(inventory) < 2:
        raise DataError(f"{next(iter(read.values())).path}: its tags are {list(inventory)}, a task needs at least two.")
    splits = {split: _dataset(read[split], inventory) for split in files}
    if "train" in splits and "validation" not in splits:
        splits |= _held_out(read["train"], splits["train"], told)
    for note in told:
        log.warning("task %s: %s", name, note)
    return Task(
        name,
        "tagging",
        inventory,
        metric or ("entity_f1" if chosen else "token_accuracy"),
        **{split: splits.pop(split, None) for split in ("train", "validation", "test")},
        extra=splits,
        source=source or ", ".join(str(sentences.path) for sentences in read.values()),
        notes=tuple(told),
        scheme=chosen,
    )


def _to_scheme(tagged: Sequence[Sentences], scheme: str | None, target: str | None, notes: list[str]) -> str:
    """Bring the tags of all files into one scheme and return it."""
    for value in (scheme, target):
        if value not in (None, "", *SCHEMES):
            raise ConfigError(f"scheme: got {value!r}, allowed are {allowed(SCHEMES)}, or '' for tags without spans.")
    counts = Counter(tag for sentences in tagged for tags in sentences.tags for tag in tags)
    if scheme == "" or (scheme is None and not marks_spans(counts)):
        if target:
            raise ConfigError(f"target: got {target!r}, but the tags mark no spans: {allowed(sorted(counts)[:9])}.")
        return ""
    found = [_usual(sentences, scheme, notes) for sentences in tagged]
    target = target or ("IOBES" if found[0] == "IOBES" else "IOB2")
    for sentences, own in zip(tagged, found, strict=True):
        converted = [convert_scheme(tags, own, target) for tags in sentences.tags]
        odd = [
            line for line, *pair in zip(sentences.lines, sentences.tags, converted, strict=True) if pair[0] != pair[1]
        ]
        if own != target:
            notes.append(f"{sentences.path.name}: tags converted from {own} to {target}")
            sentences.tags = converted
        elif odd:
            notes.append(
                f"{sentences.path.name}: {len(odd)} sentences have tags in an order that {own} does not allow, "
                f"the first from line {odd[0]}; they are left as they are"
            )
    return target


def _usual(sentences: Sentences, scheme: str | None, notes: list[str]) -> str:
    """Bring the tags of a file into the letters of IOBES, refuse those that are none, and return the file's scheme."""
    usual = {tag: usual_tag(tag) for tag in sentences.first}
    if changed := [tag for tag, other in usual.items() if other not in (tag, None)]:
        notes.append(f"{sentences.path.name}: {allowed(changed)} read as {allowed(usual[tag] for tag in changed)}")
        sentences.tags = [[usual[tag] or tag for tag in tags] for tags in sentences.tags]
    scheme = scheme or find_scheme(sentences.tags) or "IOB2"  # a file of nothing but O is in any scheme
    for tag, line in sentences.first.items():
        if not scheme_has(usual[tag] or tag, scheme):
            raise DataError(
                f"{sentences.path}, line {line}: the tag is {tag!r}; {tags_of(scheme)}. "
                "If tags mark no spans, say scheme: ''."
            )
    return scheme


def _inventory(tagged: Sequence[Sentences], scheme: str, notes: list[str]) -> tuple[str, ...]:
    """Return the tags of all files: those of the first sorted, then what only the next has, and so on."""
    known: dict[str, None] = {OUTSIDE: None} if scheme else {}
    for number, sentences in enumerate(tagged):
        tags = {tag for tags in sentences.tags for tag in tags} - known.keys()
        if number and tags:
            some = allowed(sorted(tags)[:9]) + (", ..." if len(tags) > 9 else "")
            notes.append(f"{sentences.path.name}: {len(tags)} tags that {tagged[0].path.name} does not have: {some}")
        known |= dict.fromkeys(sorted(tags, key=tag_order) if scheme else sorted(tags))
    return tuple(known)


def _dataset(sentences: Sentences, labels: tuple[str, ...]) -> Dataset:
    numbers = {tag: number for number, tag in enumerate(labels)}
    tags = [[HIDDEN] * len(words) for words in sentences.words]
    try:
        tags = [[numbers[tag] for tag in row] for row in sentences.tags] or tags
    except KeyError as error:
        line = sentences.first.get(error.args[0])
        where = f"{sentences.path}, line {line}" if line else str(sentences.path)
        raise DataError(f"{where}: the tag is {error.args[0]!r}, allowed are {allowed(labels)}.") from None
    return make_dataset({"words": sentences.words, "tags": tags})


def _held_out(train: Sentences, data: Dataset, notes: list[str]) -> dict[str, Dataset]:
    kept, held = hold_out([position(" ".join(words)) for words in train.words])
    if not kept:
        notes.append(f"validation: none, as {train.path.name} is too small to hold any sentence out")
        return {}
    notes.append(f"validation: {len(held)} sentences held out of {train.path.name} by a hash of their words")
    return {"train": data.select(kept), "validation": data.select(held)}


class _Builder:
    """Collects words into sentences."""

    def __init__(self, path: Path, width: int) -> None:
        self.sentences = Sentences(path, width)
        self.doubtful: list[tuple[int, int]] = []  # sentence and word that may be a comment
        self.words: list[str] = []
        self.tags: list[str] = []
        self.line = 0
        self.leading = 0  # doubtful words that this sentence begins with

    def add(self, line: int, word: str, tag: str | None, *, doubtful: bool = False) -> None:
        if not word:
            raise DataError(f"{self.sentences.path}, line {line}: the word is empty.")
        if tag is not None:
            if not tag.strip():
                raise DataError(f"{self.sentences.path}, line {line}: the word {word!r} has no tag.")
            if not doubtful:
                self.sentences.first.setdefault(tag, line)
            self.tags.append(tag)
        if doubtful:
            self.doubtful.append((len(self.sentences.words), len(self.words)))
            self.leading += 1
        self.line = self.line or line
        self.words.append(word)

    def end(self) -> None:
        self.leading = 0
        if not self.words:
            return
        self.sentences.words.append(self.words)
        self.sentences.lines.append(self.line)
        if self.tags:
            self.sentences.tags.append(self.tags)
        self.words, self.tags, self.line = [], [], 0

    def finished(self) -> Sentences:
        """Return the sentences without the doubtful words whose tag no other word has."""
        self.end()
        found = self.sentences
        for sentence, word in reversed(self.doubtful):
            if found.tags[sentence][word] not in found.first:
                del found.words[sentence][word], found.tags[sentence][word]
                if not found.words[sentence]:
                    del found.words[sentence], found.tags[sentence], found.lines[sentence]
        return found


def _read_conllu(path: Path, lines: _Lines, word: int | str, tag: int | str) -> Sentences:
    width = len(CONLLU)
    word_place, tag_place = _places(path, width, word, tag)
    builder = _Builder(path, width)
    for number, line in lines:
        if not line.strip():
            builder.end()
        if not line.strip() or line.startswith("#"):
            continue
        fields = line.split("\t")
        if len(fields) != width:
            raise DataError(f"{path}, line {number}: it has {len(fields)} columns by tabs, CoNLL-U has {width}.")
        if not _ID.fullmatch(fields[0]):
            raise DataError(f"{path}, line {number}: the id is {fields[0][:80]!r}, allowed are such as 1, 1-2 and 1.1.")
        if "-" in fields[0] or "." in fields[0]:
            continue
        if fields[0] != str(len(builder.words) + 1):
            raise DataError(f"{path}, line {number}: the id is {fields[0]}, expected is {len(builder.words) + 1}.")
        builder.add(number, fields[word_place], fields[tag_place])
    return builder.finished()


def _read_columns(path: Path, lines: _Lines, word: int, tag: int, expected: int | None) -> Sentences:
    tabs, width = _layout(lines)
    untagged = width == 1 or (width + 1 == expected and tag in (-1, width))
    if expected not in (None, width) and not untagged:
        raise DataError(f"{path}: it has {width} columns, the other files of the task have {expected}.")
    if untagged:
        word_place, tag_place = _place(path, width, word, "word"), None
    else:
        word_place, tag_place = _places(path, width, word, tag)
    builder = _Builder(path, width)
    for number, line in lines:
        if not line.strip() or line.startswith(_DOCUMENT):
            builder.end()
            continue
        fields = _fields(line, tabs)
        maybe = len(builder.words) == builder.leading and (line + " ").startswith(("# ", "#\t"))
        if len(fields) != width and maybe:
            continue
        if len(fields) != width:
            raise DataError(
                f"{path}, line {number}: it has {len(fields)} columns by {'tabs' if tabs else 'white space'}, "
                f"the lines before have {width}: {line[:80]!r}."
            )
        if fields[word_place] != _DOCUMENT:
            tagged = None if tag_place is None else fields[tag_place]
            builder.add(number, fields[word_place], tagged, doubtful=maybe and tag_place is not None)
    return builder.finished()


def _layout(lines: _Lines) -> tuple[bool, int]:
    """Return whether tabs separate the columns, and how many columns there are, by the first line with a word."""
    words = (line for _, line in lines if line.strip() and not line.startswith(_DOCUMENT))
    first = next(words, "")
    if first.startswith("#"):  # most likely a comment
        first = next((line for line in words if not line.startswith("#")), first)
    tabs = "\t" in first.strip(" \t")
    return tabs, len(_fields(first, tabs))


def _fields(line: str, tabs: bool) -> list[str]:
    return [text.strip(" ") for text in line.rstrip(" \t").split("\t")] if tabs else _BLANKS.split(line.strip(" \t"))
