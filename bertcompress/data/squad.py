"""Question answering from files in the JSON format of SQuAD: version 1.1, version 2.0, and the many sets like them.

    {"data": [{"paragraphs": [{"context": "...", "qas": [
        {"id": "...", "question": "...", "is_impossible": false, "answers": [{"text": "...", "answer_start": 17}]}]}]}]}

`is_impossible` may be missing. Where it is true the question has no answer, whatever else is written (in version 2.0,
`plausible_answers`). A file in which no question has an answer or is impossible is a test file with hidden answers.

An error names the file and the place, such as `data[3].paragraphs[0].qas[2].answers[0]`. Two things are mended and
told in the task's notes: an answer that stands up to two characters beside its `answer_start`, as some versions of
SQuAD have it, and an id that is a number.

A file is one JSON value, so it is read whole; it and all its questions are in memory then.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data.base import Task, make_dataset
from bertcompress.data.lines import read_text
from bertcompress.data.splits import hold_out, position
from bertcompress.errors import DataError

if TYPE_CHECKING:
    from datasets import Dataset

log = logging.getLogger(__name__)

_NEAR = (0, -1, 1, -2, 2)  # characters that an answer may stand beside its place


@dataclass
class Questions:
    """The questions of a file, or of several together.

    Attributes:
        path: of the file.
        rows: one dict per question: id, question, context, and answers with text and answer_start; without answers
            where they are hidden.
        hidden: whether they are.
        notes: what was mended.
    """

    path: Path
    rows: list[dict[str, Any]] = field(default_factory=list)
    hidden: bool = False
    notes: list[str] = field(default_factory=list)

    @property
    def contexts(self) -> set[str]:
        """The different paragraphs."""
        return {row["context"] for row in self.rows}


def read_squad(path: Path) -> Questions:
    """Read the questions of a file in SQuAD's format, in its order; decompressed if its name ends in `.gz`.

    Raises:
        DataError: naming the file and the place of what is missing, malformed or damaged.
    """
    text = read_text(path)
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}, line {error.lineno}: it is not JSON: {error.msg} (column {error.colno}).") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: it cannot be read as JSON: {error}.") from error
    return _Reader(path).questions(content)


@dataclass
class _Reader:
    """Walks through the JSON of one file."""

    path: Path
    ids: dict[str, str] = field(default_factory=dict)  # id -> place
    moved: list[str] = field(default_factory=list)  # places of answers beside their place
    numbered: list[str] = field(default_factory=list)  # places of ids that are numbers
    unsaid: list[str] = field(default_factory=list)  # places of questions without answers that are not impossible
    missing: list[str] = field(default_factory=list)  # those of them without the key
    possible: list[str] = field(default_factory=list)  # those of them that claim to have an answer

    def refuse(self, place: str, problem: str) -> DataError:
        return DataError(f"{self.path}, {place}: {problem}." if place else f"{self.path}: {problem}.")

    def get(self, holder: object, place: str, key: str, kind: type) -> Any:
        """Return what stands under a key, checked for its type."""
        if not isinstance(holder, dict):
            raise self.refuse(place, f"got {_shown(holder)}, expected is an object with {key!r}")
        if key not in holder:
            raise self.refuse(place, f"there is no {key!r}, its keys are {_shown(list(holder))}")
        value = holder[key]
        if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
            names = {str: "a text", list: "a list", int: "a whole number", bool: "true or false"}
            raise self.refuse(f"{place}.{key}" if place else key, f"got {_shown(value)}, expected is {names[kind]}")
        if isinstance(value, str) and not value.isascii() and any("\ud800" <= sign <= "\udfff" for sign in value):
            raise self.refuse(f"{place}.{key}", "the text holds half of a surrogate pair, which is no character")
        return value

    def questions(self, content: object) -> Questions:
        rows = list(self.rows(content))
        if not rows:
            raise self.refuse("", "it holds no question")
        answered = any(row["answers"]["text"] for row in rows)
        hidden = not answered and len(self.unsaid) == len(rows)
        if self.missing and not hidden:
            raise self.refuse(self.missing[0], "there is no 'answers', and other questions have them")
        if self.possible and not hidden:
            raise self.refuse(self.possible[0], "'is_impossible' is false, and 'answers' is empty")
        if hidden:
            rows = [{key: value for key, value in row.items() if key != "answers"} for row in rows]
        return Questions(self.path, rows, hidden, list(self.notes(hidden)))

    def notes(self, hidden: bool) -> Iterator[str]:
        name = self.path.name
        if hidden:
            yield f"{name}: no question has an answer or is impossible, so the answers are hidden"
        if self.numbered:
            yield f"{name}: {len(self.numbered)} ids are numbers, used as texts; the first is {self.numbered[0]}"
        if self.moved:
            yield (
                f"{name}: {len(self.moved)} answers stand one or two characters beside their answer_start, which was "
                f"mended; the first is {self.moved[0]}"
            )

    def rows(self, content: object) -> Iterator[dict[str, Any]]:
        for place, article in self.items(content, "", "data"):
            for at, paragraph in self.items(article, place, "paragraphs"):
                context = self.get(paragraph, at, "context", str)
                if not context.strip():
                    raise self.refuse(f"{at}.context", "the text is empty")
                for where, entry in self.items(paragraph, at, "qas"):
                    yield self.row(entry, where, context)

    def items(self, holder: object, place: str, key: str) -> Iterator[tuple[str, Any]]:
        """Yield place and value of each item of the list under a key."""
        for number, item in enumerate(self.get(holder, place, key, list)):
            yield f"{place}.{key}[{number}]" if place else f"{key}[{number}]", item

    def row(self, entry: object, place: str, context: str) -> dict[str, Any]:
        question = self.get(entry, place, "question", str)
        assert isinstance(entry, dict)  # as `get` found a key in it
        return {
            "id": self.identity(entry, place),
            "question": question,
            "context": context,
            "answers": self.answers(entry, place, context),
        }

    def identity(self, entry: Mapping[str, Any], place: str) -> str:
        value = entry.get("id")
        if isinstance(value, int) and not isinstance(value, bool):
            self.numbered.append(f"{place}.id")
            value = str(value)
        else:
            value = self.get(entry, place, "id", str)
        if value in self.ids:
            raise self.refuse(f"{place}.id", f"the id {value!r} is also that of {self.ids[value]}")
        self.ids[value] = place
        return value

    def answers(self, entry: Mapping[str, Any], place: str, context: str) -> dict[str, list[Any]]:
        impossible = self.get(entry, place, "is_impossible", bool) if "is_impossible" in entry else None
        found: dict[str, list[Any]] = {"text": [], "answer_start": []}
        if impossible:
            return found
        if "answers" not in entry:
            self.missing.append(place)
        for where, answer in self.items(entry, place, "answers") if "answers" in entry else ():
            text, start = self.answer(answer, where, context)
            found["text"].append(text)
            found["answer_start"].append(start)
        if not found["text"]:
            self.unsaid.append(place)
            if impossible is False:
                self.possible.append(place)
        return found

    def answer(self, answer: object, place: str, context: str) -> tuple[str, int]:
        text = self.get(answer, place, "text", str)
        start = self.get(answer, place, "answer_start", int)
        if not text.strip():
            raise self.refuse(place, "its text is empty; a question without an answer has no 'answers'")
        if not 0 <= start < len(context):
            raise self.refuse(place, f"answer_start is {_shown(start)}, and the context has {len(context)} characters")
        for near in _NEAR:
            if start + near >= 0 and context.startswith(text, start + near):
                if near:
                    self.moved.append(place)
                return text, start + near
        elsewhere = context.find(text)
        where = f"but at {elsewhere}" if elsewhere >= 0 else "nor anywhere in it"
        raise self.refuse(place, f"the text {_shown(text)} does not stand at character {start} of the context, {where}")


def _shown(value: object) -> str:
    """Return a value as short JSON, or what it is, for messages."""
    if isinstance(value, dict):
        return "an object"
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        return "a list"
    text = json.dumps(value)
    return text if len(text) <= 80 else text[:77] + "..."


def load_squad_files(
    name: str,
    files: Mapping[str, Path],
    *,
    metric: str | None = None,
    source: str | None = None,
    notes: Sequence[str] = (),
) -> Task:
    """Return a question answering task from files in SQuAD's format.

    Without a validation file about a tenth of the training paragraphs is held out, by a hash of their text, so that
    no paragraph is on both sides. A test file may have hidden answers.

    Args:
        name: of the task.
        files: path of each split.
        metric: by default `f1`.
        source: where the files are from, by default their paths.
        notes: what a reader should know of the files.

    Raises:
        DataError: naming the file and the place of a mistake in the data.
    """
    read = {split: read_squad(Path(path)) for split, path in files.items()}
    source = source or ", ".join(str(path) for path in files.values())
    return questions_task(name, read, metric=metric, source=source, notes=notes)


def questions_task(
    name: str, read: Mapping[str, Questions], *, metric: str | None = None, source: str, notes: Sequence[str] = ()
) -> Task:
    """Return a question answering task from the questions of each split; see `load_squad_files`."""
    told = [*notes, *(note for questions in read.values() for note in questions.notes)]
    for split, questions in read.items():
        if questions.hidden and not split.startswith("test"):
            raise DataError(f"{questions.path}: no question has an answer, which only a test file may lack.")
    read = dict(read)
    if "train" in read and "validation" not in read:
        read |= _held_out(read["train"], told)
    told += _shared(read)
    for note in told:
        log.warning("task %s: %s", name, note)
    known = (row for questions in read.values() if not questions.hidden for row in questions.rows)
    unanswerable = any(not row["answers"]["text"] for row in known)
    splits = {split: _dataset(questions) for split, questions in read.items()}
    return Task(
        name,
        "question_answering",
        (),
        metric or "f1",
        **{split: splits.pop(split, None) for split in ("train", "validation", "test")},
        extra=splits,
        source=source,
        notes=tuple(told),
        unanswerable=unanswerable,
    )


def _held_out(train: Questions, notes: list[str]) -> dict[str, Questions]:
    places = {context: position(context) for context in train.contexts}
    kept, held = hold_out([places[row["context"]] for row in train.rows])
    if not kept:
        notes.append(f"validation: none, as {train.path.name} has too few paragraphs to hold any out")
        return {}
    parts = [Questions(train.path, [train.rows[number] for number in numbers]) for numbers in (kept, held)]
    notes.append(
        f"validation: {len(held)} questions on {len(parts[1].contexts)} paragraphs held out of {train.path.name} by a "
        "hash of the paragraph"
    )
    return {"train": parts[0], "validation": parts[1]}


def _shared(read: Mapping[str, Questions]) -> Iterator[str]:
    """Yield a note for splits that share paragraphs with the training set."""
    known = read["train"].contexts if "train" in read else set()
    for split, questions in read.items():
        if split != "train" and (both := known & questions.contexts):
            yield f"{split}: {len(both)} of its {len(questions.contexts)} paragraphs are also in train"


def _dataset(questions: Questions) -> Dataset:
    return make_dataset({name: [row[name] for row in questions.rows] for name in questions.rows[0]})
