"""One file of one's own, read row by row into Arrow tables; every row is checked as far as it alone can be."""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data.columns import MAX_FIELD, Row, Wanted, read_rows, unit_of
from bertcompress.data.splits import position
from bertcompress.data.tables import Scratch, Sink
from bertcompress.errors import DataError

if TYPE_CHECKING:
    import pyarrow

ROWS = 10_000  # of a batch at most
CHARACTERS = 1 << 22  # of a batch, about, so that long texts do not fill the memory
MAX_CLASSES = 100_000


@dataclass
class Staged:
    """A split as its file holds it: labels are text still, as their numbers are known only after the last row.

    Attributes:
        path: of the file.
        rows: the columns of the task; a missing label is null.
        keys: of each row its line, `position`, and a hash of its id (null if it has none).
        label: the label's column, for messages.
        counts: how often each label occurs, of a classification or tagging task.
        first: the line on which each label occurs first.
        missing: examples without a label.
        first_missing: the line of the first of them.
        blank: examples with an empty text.
        first_blank: the line of the first of them.
        highest: the largest `position`.
    """

    path: Path
    rows: Sink
    keys: Sink
    label: str | int | None = None
    counts: Counter[str] = field(default_factory=Counter)
    first: dict[str, int] = field(default_factory=dict)
    missing: int = 0
    first_missing: int = 0
    blank: int = 0
    first_blank: int = 0
    highest: float = 0.0

    @property
    def examples(self) -> int:
        """Number of examples."""
        return self.rows.rows

    @property
    def hidden(self) -> bool:
        """Whether no example has a label, though the kind of task has labels."""
        return self.label is not None and self.missing == self.examples

    def where(self, number: int, column: str | int | None = None) -> str:
        """Return the file, line and column of a value, for messages."""
        named = f", column {column!r}" if column is not None else ""
        return f"{self.path}, {unit_of(self.path)} {number}{named}"


@dataclass(frozen=True)
class Layout:
    """Which columns mean what.

    Attributes:
        kind: of the task.
        text: the columns of the text, or of the words.
        label: the column of the label or tags, or None.
        id: the column of the examples' ids, or None.
    """

    kind: str
    text: tuple[str | int, ...]
    label: str | int | None
    id: str | int | None

    def columns(self) -> tuple[str | int, ...]:
        """Return the columns to read: texts, label, id."""
        return (*self.text, *(column for column in (self.label, self.id) if column is not None))

    def schema(self) -> pyarrow.Schema:
        """Return the types of the staged columns."""
        import pyarrow

        text = pyarrow.string()
        if self.kind == "tagging":
            return pyarrow.schema({"words": pyarrow.list_(text), "tags": pyarrow.list_(text)})
        types = dict.fromkeys(("text", "text_pair")[: len(self.text)], text)
        if self.label is not None:
            types["label"] = text if self.kind == "classification" else pyarrow.float64()
        return pyarrow.schema(types)


def stage(path: Path, layout: Layout, wanted: Wanted, name: str, scratch: Scratch) -> Staged:
    """Read a file.

    Args:
        path: of the file, or of a folder that `datasets` saved.
        layout: which columns mean what; those of `wanted` in its order.
        wanted: how the columns are found.
        name: of the split.
        scratch: where large splits are put for now.

    Raises:
        DataError: for whatever is wrong with the file, or with one of its rows by itself.
    """
    return _Stager(path, layout, name, scratch).read(wanted)


class _Stager:
    """Gathers rows until they fill a batch."""

    def __init__(self, path: Path, layout: Layout, name: str, scratch: Scratch) -> None:
        import pyarrow

        self.layout = layout
        rows = Sink(layout.schema(), f"{name}.rows", scratch)
        types = {"line": pyarrow.int64(), "position": pyarrow.float64(), "id": pyarrow.int64()}
        self.staged = Staged(path, rows, Sink(pyarrow.schema(types), f"{name}.keys", scratch), layout.label)
        self.lines: list[int] = []
        self.positions: list[float] = []
        self.ids: list[int | None] = []
        self.values: dict[str, list[Any]] = {column: [] for column in rows.schema.names}
        self.characters = 0

    def read(self, wanted: Wanted) -> Staged:
        """Read all rows."""
        for row in read_rows(self.staged.path, wanted):
            self.take(row)
            if len(self.lines) >= ROWS or self.characters >= CHARACTERS:
                self.flush()
        self.flush()
        self.staged.rows.close()
        self.staged.keys.close()
        if not self.staged.examples:
            raise DataError(f"{self.staged.path}: it holds no example.")
        return self.staged

    def take(self, row: Row) -> None:
        """Check a row and keep it for the next batch."""
        number, cells = row
        width, tagging = len(self.layout.text), self.layout.kind == "tagging"
        texts = [
            self.words(number, name, cell) if tagging else self.text(number, name, cell)
            for name, cell in zip(self.layout.text, cells, strict=False)
        ]
        for column, value in zip(("words",) if tagging else ("text", "text_pair"), texts, strict=False):
            self.values[column].append(value)
        flat = [" ".join(value) if isinstance(value, list) else value for value in texts]
        self.characters += sum(map(len, flat))
        if not flat[0].strip():
            self.staged.first_blank = self.staged.first_blank or number
            self.staged.blank += 1
        if self.layout.label is not None:
            label = self.label(number, cells[width], texts[0])
            self.values["tags" if tagging else "label"].append(label)
            if label is None:
                self.staged.first_missing = self.staged.first_missing or number
                self.staged.missing += 1
        self.lines.append(number)
        self.positions.append(position(*flat))
        self.ids.append(None if self.layout.id is None else hash_of(label_text(cells[-1])))

    def text(self, number: int, column: str | int, cell: object) -> str:
        """Return a text."""
        if not isinstance(cell, str):
            got = "no text at all" if cell is None else repr(cell)[:80]
            raise DataError(f"{self.staged.where(number, column)}: got {got}, allowed is text.")
        if len(cell) > MAX_FIELD:
            got = f"a text of {len(cell)} characters"
            raise DataError(f"{self.staged.where(number, column)}: got {got}, allowed are {MAX_FIELD}.")
        return cell

    def words(self, number: int, column: str | int, cell: object) -> list[str]:
        """Return a sentence as its words."""
        if not isinstance(cell, list):
            raise DataError(f"{self.staged.where(number, column)}: got {cell!r:.80}, allowed is a list of words.")
        for word in cell:
            if not isinstance(word, str) or not word.strip():
                raise DataError(f"{self.staged.where(number, column)}: got the word {word!r:.80}, allowed is text.")
        return cell

    def label(self, number: int, cell: object, words: object) -> Any:
        """Return a label as it is staged, None if there is none."""
        if self.layout.kind == "tagging":
            return self.tags(number, cell, words)
        if self.layout.kind == "classification":
            return self.class_name(number, cell) or None
        return self.score(number, cell)

    def class_name(self, number: int, cell: object) -> str:
        """Return the name of a class or tag, empty if there is none, and count it."""
        name = label_text(cell)
        if name is None:
            where = self.staged.where(number, self.layout.label)
            raise DataError(f"{where}: got {cell!r:.80}, allowed is a text, a whole number, true or false.")
        if name:
            if name not in self.staged.first:
                if len(self.staged.first) == MAX_CLASSES:
                    raise DataError(
                        f"{self.staged.where(number, self.layout.label)}: {name!r:.80} is the label number "
                        f"{MAX_CLASSES + 1}, allowed are {MAX_CLASSES}; for numbers to predict use kind: regression."
                    )
                self.staged.first[name] = number
            self.staged.counts[name] += 1
        return name

    def score(self, number: int, cell: object) -> float | None:
        """Return a number to be predicted."""
        if cell is None or (isinstance(cell, str) and not cell.strip()):
            return None
        try:
            value = math.inf if isinstance(cell, bool) else float(cell)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            value = math.inf
        if math.isnan(value) and not isinstance(cell, str):
            return None  # how tables in memory write that there is nothing
        if not math.isfinite(value):
            where = self.staged.where(number, self.layout.label)
            raise DataError(f"{where}: got {cell!r:.80}, allowed is a finite number.")
        return value

    def tags(self, number: int, cell: object, words: Any) -> list[str] | None:
        """Return the tags of a sentence."""
        if cell is None or (isinstance(cell, list) and cell and all(tag is None for tag in cell)):
            return None
        where = self.staged.where(number, self.layout.label)
        if not isinstance(cell, list):
            raise DataError(f"{where}: got {cell!r:.80}, allowed is a list of tags.")
        if len(cell) != len(words):
            raise DataError(f"{where}: got {len(cell)} tags for {len(words)} words, allowed is one for each.")
        tags = [self.class_name(number, tag) for tag in cell]
        if "" in tags:
            raise DataError(f"{where}: tag {tags.index('')} (from 0) is missing, allowed is one for each word.")
        return tags

    def flush(self) -> None:
        """Hand the rows to the sinks."""
        import pyarrow

        if not self.lines:
            return
        staged = self.staged
        try:
            batch = pyarrow.RecordBatch.from_pydict(self.values, schema=staged.rows.schema)
        except UnicodeEncodeError:
            raise self._surrogate() from None
        staged.rows.write(batch)
        staged.highest = max(staged.highest, *self.positions)
        columns = {"line": self.lines, "position": self.positions, "id": self.ids}
        staged.keys.write(pyarrow.RecordBatch.from_pydict(columns, schema=staged.keys.schema))
        self.lines, self.positions, self.ids, self.characters = [], [], [], 0
        self.values = {column: [] for column in self.values}

    def _surrogate(self) -> DataError:
        """Return the error that names the row that holds half of a surrogate pair, which is no character."""
        names = dict(zip(("text", "text_pair"), self.layout.text, strict=False)) | {"words": self.layout.text[0]}
        for row, number in enumerate(self.lines):
            for column, values in self.values.items():
                text = json.dumps(values[row], ensure_ascii=False)
                if text.encode("utf-8", "ignore") != text.encode("utf-8", "surrogatepass"):
                    where = self.staged.where(number, names.get(column, self.layout.label))
                    return DataError(
                        f"{where}: it holds half of a surrogate pair (\\ud800 to \\udfff), which is no text."
                    )
        return DataError(f"{self.staged.path}: it holds text that is not Unicode.")


def label_text(value: object) -> str | None:
    """Return a label as the text that names its class: 3, 3.0 and "3" are one class; None if it cannot name one."""
    if isinstance(value, str):
        return value.strip()
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return json.dumps(value) if isinstance(value, (bool, int, float)) else None


def hash_of(text: str | None) -> int | None:
    """Return a whole number of 64 bits for a text; None for an empty one."""
    if not text:
        return None
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
