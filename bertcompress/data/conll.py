"""Tagged sentences: files with one word per line, in columns (CoNLL-2003, BIO, IOB, IOBES) or in CoNLL-U.

Column files have the same number of columns in every line, separated by tabs if the first line with a word holds a
tab, otherwise by white space. A line without anything but white space ends a sentence. Left out are lines of
`-DOCSTART-`, and comments: lines before the first word of a sentence that begin with `# ` and either do not have
the file's number of columns, or have something as a tag that no other line of the file has (a word may well be `#`).

CoNLL-U has ten named columns; multiword tokens (`1-2`) and empty nodes (`1.1`) are left out, so that what remains are
the syntactic words, each with its own tag.

Everything else is an error that names the file and the line. Lines are read one by one, and sentences put into Arrow
tables, which go to a file once they grow large, so that memory does not grow with the data.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from bertcompress.data.lines import utf8_lines
from bertcompress.data.tables import Scratch, Sink
from bertcompress.errors import ConfigError, DataError, allowed

if TYPE_CHECKING:
    import pyarrow

CONLLU = ("id", "form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
NO_TAG = "_"  # CoNLL-U's sign for a value that is not given
_ID = re.compile(r"[0-9]+([-.][0-9]+)?")
_BLANKS = re.compile(r"[ \t]+")  # only these separate columns; a word may hold an odd Unicode space
_DOCUMENT = "-DOCSTART-"
_BATCH = 1 << 16  # words that are handed on at once
_Lines: TypeAlias = Iterable[tuple[int, str]]  # with their numbers


@dataclass
class Sentences:
    """The sentences of a file.

    Attributes:
        path: of the file.
        rows: of each sentence its `words`, as many `tags` by their places in `names`, and the `line` of its first word.
        width: number of columns of the file.
        tagged: whether it has tags.
        names: all tags.
        first: the line on which each tag stands first.
        counts: how often each tag occurs.
    """

    path: Path
    rows: Sink
    width: int = 0
    tagged: bool = True
    names: list[str] = field(default_factory=list)
    first: dict[str, int] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    @property
    def words(self) -> list[list[str]]:
        """The words of each sentence, all in memory."""
        return [words for batch in self.rows.batches() for words in batch.column("words").to_pylist()]

    @property
    def tags(self) -> list[list[str]]:
        """The tags of each sentence, all in memory; empty if the file has no tags."""
        return [tags for tags, _ in self.tag_rows()] if self.tagged else []

    @property
    def lines(self) -> list[int]:
        """The line of the first word of each sentence, all in memory."""
        return [line for _, line in self.tag_rows()]

    def tag_rows(self) -> Iterator[tuple[list[str], int]]:
        """Yield the tags of each sentence, and the line of its first word, as they are read from the tables."""
        for batch in self.rows.batches():
            yield from zip(self.tags_of(batch), batch.column("line").to_pylist(), strict=True)

    def tags_of(self, batch: pyarrow.RecordBatch) -> Iterator[list[str]]:
        """Yield the tags of each sentence of one of the `rows`' batches."""
        column = batch.column("tags")
        codes, ends = column.flatten().to_numpy().tolist(), column.value_lengths().to_numpy().cumsum().tolist()
        start = 0
        for end in ends:
            yield [self.names[code] for code in codes[start:end]]
            start = end


def is_conllu(path: Path) -> bool:
    """Return whether a file is in CoNLL-U, by its name."""
    return path.name.removesuffix(".gz").lower().endswith(".conllu")


def read_conll(
    path: Path,
    *,
    word: int | str | None = None,
    tag: int | str | None = None,
    width: int | None = None,
    scratch: Scratch | None = None,
    name: str = "sentences",
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
        scratch: where the sentences are put for now if they are many; None to keep them in memory.
        name: of the file there.

    Raises:
        ConfigError: for a column that cannot be.
        DataError: naming the file and the line that is malformed, missing or damaged.
    """
    conllu = is_conllu(path) or isinstance(word, str) or isinstance(tag, str)
    word = word if word is not None else ("form" if conllu else 0)
    tag = tag if tag is not None else ("upos" if conllu else -1)
    if isinstance(word, str) or isinstance(tag, str) or conllu:
        sentences = _read_conllu(_Builder(path, scratch, name), word, tag)
    else:
        sentences = _read_columns(_Builder(path, scratch, name), word, tag, width)
    if not sentences.rows.rows:
        raise DataError(f"{path}: it holds no sentence.")
    if not sentences.first or sentences.first.keys() == {NO_TAG}:
        sentences.tagged, sentences.first = False, {}
        sentences.counts.clear()
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


class _Rows:
    """Gathers sentences until they fill a batch of a table."""

    def __init__(self, scratch: Scratch | None, name: str) -> None:
        import pyarrow

        types = {"words": pyarrow.list_(pyarrow.string()), "tags": pyarrow.list_(pyarrow.int32())}
        schema = pyarrow.schema({**types, "line": pyarrow.int64(), "leading": pyarrow.int32()})
        self.sink = Sink(schema, name, scratch) if scratch else Sink(schema, name, Scratch(Path()), sys.maxsize)
        self.values: dict[str, list[object]] = {column: [] for column in schema.names}
        self.size = 0

    def add(self, words: list[str], tags: list[int], line: int, leading: int) -> None:
        for column, value in zip(self.values.values(), (words, tags, line, leading), strict=True):
            column.append(value)
        self.size += len(words)
        if self.size >= _BATCH:
            self.flush()

    def flush(self) -> None:
        import pyarrow

        self.sink.write(pyarrow.RecordBatch.from_pydict(self.values, schema=self.sink.schema))
        self.values = {column: [] for column in self.values}
        self.size = 0

    def finished(self) -> Sink:
        self.flush()
        self.sink.close()
        return self.sink


class _Builder:
    """Collects words into sentences."""

    def __init__(self, path: Path, scratch: Scratch | None, name: str) -> None:
        self.path, self.scratch, self.name = path, scratch, name
        self.rows = _Rows(scratch, f"{name}.read")
        self.sentences = Sentences(path, self.rows.sink)
        self.codes: dict[str, int] = {}  # tag -> its place in the names
        self.doubtful: set[str] = set()  # tags of words that may be comments
        self.words: list[str] = []
        self.tags: list[int] = []
        self.line = 0
        self.leading = 0  # doubtful words that this sentence begins with

    def add(self, line: int, word: str, tag: str | None, *, doubtful: bool = False) -> None:
        if not word:
            raise DataError(f"{self.path}, line {line}: the word is empty.")
        if tag is not None:
            if not tag.strip():
                raise DataError(f"{self.path}, line {line}: the word {word!r} has no tag.")
            if not doubtful:
                self.sentences.first.setdefault(tag, line)
            self.sentences.counts[tag] += 1
            self.tags.append(self.codes.setdefault(tag, len(self.codes)))
        if doubtful and tag is not None:
            self.doubtful.add(tag)
            self.leading += 1
        self.line = self.line or line
        self.words.append(word)

    def end(self) -> None:
        if self.words:
            self.rows.add(self.words, self.tags, self.line, self.leading)
        self.words, self.tags, self.line, self.leading = [], [], 0, 0

    def finished(self, width: int) -> Sentences:
        """Return the sentences without the doubtful words whose tag no other word has."""
        self.end()
        found = self.sentences
        found.width, found.names, found.rows = width, list(self.codes), self.rows.finished()
        if comments := self.doubtful - found.first.keys():
            found.rows = self._without(comments)
            for tag in comments:
                del found.counts[tag]
        return found

    def _without(self, comments: set[str]) -> Sink:
        """Return the sentences without the doubtful words that have one of these tags; what was read is dropped."""
        codes = {self.codes[tag] for tag in comments}
        rows = _Rows(self.scratch, f"{self.name}.words")
        for batch in self.sentences.rows.batches():
            for words, tags, line, leading in zip(*batch.to_pydict().values(), strict=True):
                kept = [place for place in range(len(words)) if place >= leading or tags[place] not in codes]
                if kept:
                    rows.add([words[place] for place in kept], [tags[place] for place in kept], line, 0)
        self.sentences.rows.remove()
        return rows.finished()


def _read_conllu(builder: _Builder, word: int | str, tag: int | str) -> Sentences:
    path, width = builder.path, len(CONLLU)
    word_place, tag_place = _places(path, width, word, tag)
    for number, line in utf8_lines(path):
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
    return builder.finished(width)


def _read_columns(builder: _Builder, word: int, tag: int, expected: int | None) -> Sentences:
    path = builder.path
    tabs, width = _layout(utf8_lines(path))
    untagged = width == 1 or (width + 1 == expected and tag in (-1, width))
    if expected not in (None, width) and not untagged:
        raise DataError(f"{path}: it has {width} columns, the other files of the task have {expected}.")
    if untagged:
        word_place, tag_place = _place(path, width, word, "word"), None
    else:
        word_place, tag_place = _places(path, width, word, tag)
    for number, line in utf8_lines(path):
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
    return builder.finished(width)


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
