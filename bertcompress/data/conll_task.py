"""Tagging tasks from files of tagged sentences: one scheme and one set of tags for all of them."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bertcompress.data import kept
from bertcompress.data.base import HIDDEN, SCHEMES, Task
from bertcompress.data.conll import Sentences, read_conll
from bertcompress.data.schemes import (
    OUTSIDE,
    convert_scheme,
    find_scheme,
    marks_spans,
    metric_of_tags,
    scheme_has,
    tag_order,
    tags_of,
    usual_tag,
)
from bertcompress.data.splits import bound_of, position
from bertcompress.data.tables import Scratch, Sink
from bertcompress.errors import ConfigError, DataError, allowed

if TYPE_CHECKING:
    import pyarrow

log = logging.getLogger(__name__)


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
    metric_place: str = "metric",
    source: str | None = None,
    notes: Sequence[str] = (),
) -> Task:
    """Return a tagging task from files of tagged sentences.

    Without a validation file about a tenth of the training sentences is held out, by a hash of their words. A test
    file may lack the tags: they are hidden then. Splits that are large in memory are kept in the user's cache.

    Args:
        name: of the task.
        files: path of each split.
        word: the column that holds the words; see `read_conll`.
        tag: the column that holds the tags; see `read_conll`.
        scheme: that the tags are in, one of `SCHEMES`, or "" if they mark no spans; by default it is found out.
        target: the scheme that the task's tags should be in; by default IOB1 becomes IOB2, and the others stay.
        labels: the tags in the order of their numbers; by default those of train, O first and the others sorted by
            type, followed by what only other splits have. Spans may have the letters of BILOU and its like here too.
        metric: by default `entity_f1` where tags mark spans, else `token_accuracy`.
        metric_place: where the metric was asked for, for messages.
        source: where the files are from, by default their paths.
        notes: what a reader should know of the files.

    Raises:
        ConfigError: for a column or scheme that cannot be, or a metric that the tags do not allow.
        DataError: naming the file and the line of a mistake in the data.
    """
    ordered = sorted(files, key=lambda split: {"train": 0, "validation": 1}.get(split, 2))
    paths = {split: Path(files[split]) for split in ordered}
    given = None if labels is None else tuple(labels)
    asked = {"kind": "words in lines", "word": word, "tag": tag, "scheme": scheme, "target": target, "labels": given}
    reader = _Reader(paths, word, tag, scheme, target, given)
    facts, splits = kept.load(paths, asked, reader.read)
    score = metric_of_tags(metric, facts.scheme, metric_place)
    told = (*notes, *facts.known["notes"])
    for note in told:
        log.warning("task %s: %s", name, note)
    return Task(
        name,
        "tagging",
        facts.labels,
        score,
        **{split: splits.pop(split, None) for split in ("train", "validation", "test")},
        extra=splits,
        source=source or ", ".join(map(str, paths.values())),
        notes=told,
        scheme=facts.scheme,
    )


@dataclass
class _Split:
    """The sentences of a split, and how their tags become those of the task.

    Attributes:
        sentences: as the file has them.
        usual: tag as the file has it -> the same in the letters of IOBES; empty where tags mark no spans.
        scheme: that the file's tags are in.
        target: the task's scheme.
        found: all tags, as the task has them.
    """

    sentences: Sentences
    usual: dict[str, str] = field(default_factory=dict)
    scheme: str = ""
    target: str = ""
    found: set[str] = field(default_factory=set)

    def rows(self) -> Iterator[tuple[list[str], int]]:
        """Yield the tags of each sentence in the usual letters, and the line of its first word."""
        return (([self.usual.get(tag, tag) for tag in tags], line) for tags, line in self.sentences.tag_rows())

    def tags(self, batch: pyarrow.RecordBatch) -> Iterator[list[str]]:
        """Yield the tags of each sentence of a batch as the task has them."""
        for tags in self.sentences.tags_of(batch):
            usual = [self.usual.get(tag, tag) for tag in tags]
            yield usual if self.scheme == self.target else convert_scheme(usual, self.scheme, self.target)

    def batches(self, labels: Sequence[str]) -> Iterator[pyarrow.RecordBatch]:
        """Yield words and numbers of tags, in order."""
        import pyarrow

        schema, numbers = _schema(), {tag: number for number, tag in enumerate(labels)}
        for batch in self.sentences.rows.batches():
            words = batch.column("words")
            if self.sentences.tagged:
                tags = [[numbers.get(tag, HIDDEN) for tag in row] for row in self.tags(batch)]
            else:
                tags = [[HIDDEN] * length for length in words.value_lengths().to_pylist()]
            yield pyarrow.RecordBatch.from_pydict({"words": words, "tags": tags}, schema=schema)

    def refuse_unknown(self, labels: Sequence[str]) -> None:
        """Refuse tags that are none of the task's."""
        for tag in sorted(self.found - set(labels), key=lambda tag: self.sentences.first.get(tag, 0)):
            line = self.sentences.first.get(tag)
            where = f"{self.sentences.path}, line {line}" if line else str(self.sentences.path)
            raise DataError(f"{where}: the tag is {tag!r}, allowed are {allowed(labels)}.")


@dataclass
class _Reader:
    """Reads the files of a task, and brings their tags into one scheme; see `load_conll_files`."""

    paths: Mapping[str, Path]
    word: int | str | None
    tag: int | str | None
    scheme: str | None
    target: str | None
    labels: tuple[str, ...] | None
    notes: list[str] = field(default_factory=list)

    def read(self, scratch: Scratch) -> tuple[kept.Facts, dict[str, Sink]]:
        """Return facts and the finished splits."""
        splits: dict[str, _Split] = {}
        for split, path in self.paths.items():
            width = next(iter(splits.values())).sentences.width if splits else None
            found = read_conll(path, word=self.word, tag=self.tag, width=width, scratch=scratch, name=split)
            splits[split] = _Split(found)
            if not found.tagged and not split.startswith("test"):
                raise DataError(f"{path}: its sentences have no tags, which only those of test may lack.")
        tagged = [each for each in splits.values() if each.sentences.tagged]
        chosen = self._to_scheme(tagged)
        labels = self._labels(tagged, chosen)
        sinks: dict[str, Sink] = {}
        for split, each in splits.items():
            each.refuse_unknown(labels)
            held_out = split == "train" and "validation" not in splits
            sinks |= self._held_out(each, labels, scratch) if held_out else _written(split, each, labels, scratch)
            each.sentences.rows.remove()
        return kept.Facts(labels, chosen, {"notes": self.notes}), sinks

    def _to_scheme(self, tagged: Sequence[_Split]) -> str:
        """Find out how the tags of all files are brought into one scheme, and return it."""
        for value in (self.scheme, self.target):
            if value not in (None, "", *SCHEMES):
                raise ConfigError(
                    f"scheme: got {value!r}, allowed are {allowed(SCHEMES)}, or '' for tags without spans."
                )
        counts = sum((each.sentences.counts for each in tagged), Counter[str]())
        if self.scheme == "" or (self.scheme is None and not marks_spans(counts)):
            if self.target:
                some = allowed(sorted(counts)[:9])
                raise ConfigError(f"target: got {self.target!r}, but the tags mark no spans: {some}.")
            for each in tagged:
                each.found = set(each.sentences.first)
            return ""
        for each in tagged:
            self._find_own(each)
        target = self.target or ("IOBES" if tagged[0].scheme == "IOBES" else "IOB2")
        for each in tagged:
            self._convert(each, target)
        return target

    def _find_own(self, split: _Split) -> None:
        """Find out the scheme of a file and the usual letters of its tags; refuse tags that are not of the scheme."""
        sentences = split.sentences
        usual = {tag: usual_tag(tag) for tag in sentences.first}
        if changed := [tag for tag, other in usual.items() if other not in (tag, None)]:
            others = allowed(usual[tag] for tag in changed)
            self.notes.append(f"{sentences.path.name}: {allowed(changed)} read as {others}")
        split.usual = {tag: other or tag for tag, other in usual.items()}
        found = self.scheme or find_scheme(tags for tags, _ in split.rows())
        split.scheme = found or "IOB2"  # a file of nothing but O is in any scheme
        for tag, line in sentences.first.items():
            if not scheme_has(split.usual[tag], split.scheme):
                raise DataError(
                    f"{sentences.path}, line {line}: the tag is {tag!r}; {tags_of(split.scheme)}. "
                    "If tags mark no spans, say scheme: ''."
                )

    def _convert(self, split: _Split, target: str) -> None:
        """Set a file's target, find the tags that it has there, and tell of what is converted or out of order."""
        split.target = target
        name, odd, first = split.sentences.path.name, 0, 0
        for tags, line in split.rows():
            converted = convert_scheme(tags, split.scheme, target)
            split.found.update(tags if split.scheme == target else converted)
            if tags != converted:
                odd, first = odd + 1, first or line
        if split.scheme != target:
            self.notes.append(f"{name}: tags converted from {split.scheme} to {target}")
        elif odd:
            self.notes.append(
                f"{name}: {odd} sentences have tags in an order that {target} does not allow, the first from line "
                f"{first}; they are left as they are"
            )

    def _labels(self, tagged: Sequence[_Split], scheme: str) -> tuple[str, ...]:
        """Return the tags of the task: those asked for, or those of all files."""
        if self.labels is None:
            labels = self._inventory(tagged, scheme)
        else:
            labels = tuple(dict.fromkeys(usual_tag(tag) or tag for tag in self.labels)) if scheme else self.labels
        if len(labels) < 2:
            first = next(iter(self.paths.values()))
            raise DataError(f"{first}: its tags are {list(labels)}, a task needs at least two.")
        return labels

    def _inventory(self, tagged: Sequence[_Split], scheme: str) -> tuple[str, ...]:
        """Return the tags of all files: those of the first sorted, then what only the next has, and so on."""
        known: dict[str, None] = {OUTSIDE: None} if scheme else {}
        for number, each in enumerate(tagged):
            tags = each.found - known.keys()
            if number and tags:
                some = allowed(sorted(tags)[:9]) + (", ..." if len(tags) > 9 else "")
                lacking = tagged[0].sentences.path.name
                self.notes.append(f"{each.sentences.path.name}: {len(tags)} tags that {lacking} does not have: {some}")
            known |= dict.fromkeys(sorted(tags, key=tag_order) if scheme else sorted(tags))
        return tuple(known)

    def _held_out(self, train: _Split, labels: Sequence[str], scratch: Scratch) -> dict[str, Sink]:
        """Return train and validation from the sentences of train."""
        name = train.sentences.path.name
        positions = np.fromiter(_positions(train.sentences), np.float64, train.sentences.rows.rows)
        stays = positions < bound_of(positions)
        if not stays.any():
            self.notes.append(f"validation: none, as {name} is too small to hold any sentence out")
            return _written("train", train, labels, scratch)
        self.notes.append(f"validation: {(~stays).sum()} sentences held out of {name} by a hash of their words")
        sinks = {split: Sink(_schema(), f"{split}.arrow", scratch) for split in ("train", "validation")}
        start = 0
        for batch in train.batches(labels):
            here = stays[start : start + batch.num_rows]
            sinks["train"].write(_chosen(batch, here))
            sinks["validation"].write(_chosen(batch, ~here))
            start += batch.num_rows
        for sink in sinks.values():
            sink.close()
        return sinks


def _positions(sentences: Sentences) -> Iterator[float]:
    for batch in sentences.rows.batches():
        yield from (position(" ".join(words)) for words in batch.column("words").to_pylist())


def _chosen(batch: pyarrow.RecordBatch, rows: np.ndarray[Any, Any]) -> pyarrow.RecordBatch:
    import pyarrow

    return batch.filter(pyarrow.array(rows))


def _written(name: str, split: _Split, labels: Sequence[str], scratch: Scratch) -> dict[str, Sink]:
    sink = Sink(_schema(), f"{name}.arrow", scratch)
    for batch in split.batches(labels):
        sink.write(batch)
    sink.close()
    return {name: sink}


def _schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema({"words": pyarrow.list_(pyarrow.string()), "tags": pyarrow.list_(pyarrow.int64())})
