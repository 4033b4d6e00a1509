"""Chosen columns of a file of one's own, row by row: csv, tsv, jsonl, parquet or txt, each plain or gzipped.

csv is read with quotes (RFC 4180), tsv without any. Blank lines are skipped. A folder that `datasets` saved is read as
well. Whatever else does not fit is an error that names the file and the line; nothing is guessed or left out, and no
file is ever held in memory as a whole.
"""

from __future__ import annotations

import contextlib
import csv
import json
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bertcompress.data import saved
from bertcompress.data.lines import DAMAGE, json_lines, not_decodable, open_bytes, open_text, text_lines
from bertcompress.errors import DataError, allowed

if TYPE_CHECKING:
    from pyarrow import RecordBatch
    from pyarrow.parquet import ParquetFile

FORMATS = ("csv", "tsv", "jsonl", "parquet", "txt")
MAX_FIELD = 1 << 27  # characters of one csv field; the csv module's own limit is a page of text
BATCH = 1000  # rows of a parquet file decoded at once

Row = tuple[int, list[Any]]  # the number of its line, and a value for each of the chosen columns


@dataclass(frozen=True)
class Header:
    """How the columns of a csv or tsv file are named: by `names`, by its first line, or not at all."""

    names: tuple[str, ...] | None = None
    first_line: bool = True


@dataclass(frozen=True)
class Wanted:
    """What to read of a file.

    Attributes:
        columns: names or numbers (from 0; -1 is the last); `None` is read where an optional one is missing.
        optional: those of `columns` that the file need not have.
        header: how the columns of csv and tsv files are named.
        encoding: of text files; UTF-8 if None.
    """

    columns: tuple[str | int, ...]
    optional: frozenset[str | int] = frozenset()
    header: Header = Header()
    encoding: str | None = None


def format_of(path: Path) -> str:
    """Return the format that a file's name stands for, or "folder" for a folder.

    Raises:
        DataError: if its ending is not one that can be read.
    """
    if path.is_dir():
        return "folder"
    ending = ending_of(path)
    if ending not in FORMATS:
        raise DataError(f"{path}: its format is {ending!r}, allowed are {allowed(FORMATS)}, each also with .gz.")
    return ending


def ending_of(path: Path) -> str:
    """Return the ending of a file's name without the dot, small, and without `.gz`."""
    return Path(path.name.removesuffix(".gz")).suffix.removeprefix(".").lower()


def unit_of(path: Path) -> str:
    """Return what the numbers of a file's rows count: lines, or rows where there are no lines."""
    return "row" if format_of(path) in ("parquet", "folder") else "line"


def read_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    """Yield the rows of a file.

    Raises:
        DataError: for a file that is missing, damaged or malformed, or does not have a column.
    """
    if not path.exists():
        raise DataError(f"{path}: there is no such file.")
    ending = format_of(path)
    if ending == "txt":
        return _txt_rows(path, wanted)
    if ending == "parquet":
        return _parquet_rows(path, wanted)
    if ending == "jsonl":
        return _jsonl_rows(path, wanted)
    if ending == "folder":
        return _folder_rows(path, wanted)
    return _table_rows(path, wanted, ending)


def class_names(path: Path, column: str | int | None) -> tuple[str, ...]:
    """Return the names that a parquet file or a folder of `datasets` itself gives a column's numbers; often none.

    Raises:
        DataError: if it cannot be read.
    """
    if not path.exists() or not isinstance(column, str):
        return ()
    ending = format_of(path)
    if ending == "folder":
        return saved.class_names(saved.features(path)).get(column, ())
    if ending == "parquet":
        with _opened_parquet(path) as file:
            return _parquet_classes(file).get(column, ())
    return ()


def _txt_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    needed = [column for column in wanted.columns if column not in wanted.optional]
    if len(needed) != 1:
        raise DataError(f"{path}: a txt file has one text per line; asked for are the columns {allowed(needed)}.")
    for number, line in _checked_lines(path, wanted.encoding):
        if line.strip():
            yield number, [None if column in wanted.optional else line for column in wanted.columns]


def _checked_lines(path: Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    """Yield lines, but refuse those that another system's line ends or a binary file would give."""
    for number, line in text_lines(path, encoding):
        if "\r" in line:
            raise DataError(
                f"{path}, line {number}: it holds a carriage return inside the line, allowed is one before a newline; "
                "if its lines end as on an old Macintosh, save it with newlines."
            )
        _refuse_nul(path, number, line)
        yield number, line


def _refuse_nul(path: Path, number: int, text: str) -> None:
    if "\0" in text:
        raise DataError(
            f"{path}, line {number}: it holds a NUL character, so this is no text, or is UTF-16 (`encoding: utf-16`)."
        )


def _places(path: Path, names: Sequence[str], wanted: Wanted, named: bool) -> list[int | None]:
    return [_place(path, names, column, column in wanted.optional, named) for column in wanted.columns]


def _place(path: Path, names: Sequence[str], column: str | int, optional: bool, named: bool) -> int | None:
    """Return the position of a column, or None if it is missing and may be."""
    if isinstance(column, int):
        if -len(names) <= column < len(names):
            return column % len(names)
        problem = f"there is no column number {column}, it has {len(names)} (counted from 0; -1 is the last)"
    elif column in names:
        if names.count(column) > 1:
            raise DataError(
                f"{path}: the column name {column!r} stands for {names.count(column)} columns; use a number."
            )
        return names.index(column)
    elif named:
        problem = f"there is no column {column!r}, its columns are {allowed(names)}"
    else:
        problem = f"columns have no names here, so {column!r} cannot be found; name them with columns: [...]"
    if optional:
        return None
    raise DataError(f"{path}: {problem}.")


def _table_rows(path: Path, wanted: Wanted, ending: str) -> Iterator[Row]:
    if ending == "csv":
        records = _csv_records(path, wanted.encoding)
    else:
        lines = _checked_lines(path, wanted.encoding)
        records = ((number, line.split("\t")) for number, line in lines if line.strip())
    header = wanted.header
    names: Sequence[str] | None = header.names
    if names is None and header.first_line:
        names = next((fields for _, fields in records), None)
        if names is None:
            raise DataError(f"{path}: it is empty, expected is a first line with the names of the columns.")
    places = _places(path, names, wanted, True) if names is not None else None
    width = len(names) if names is not None else 0
    for number, fields in records:
        if places is None:
            width = len(fields)
            places = _places(path, [""] * width, wanted, False)
        if len(fields) != width:
            raise DataError(f"{path}, line {number}: it has {len(fields)} fields, expected are {width}.")
        yield number, [None if place is None else fields[place] for place in places]


def _csv_records(path: Path, encoding: str | None) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    with open_text(path, encoding) as file:
        reader = csv.reader(_without_nul(path, file), strict=True)
        while True:
            start = reader.line_num + 1  # a quoted field may hold line ends
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{path}, line {start}: {_csv_problem(error)}.") from error
            except UnicodeError as error:
                raise not_decodable(path, encoding) from error
            except DAMAGE as error:
                raise DataError(f"{path}, after line {start - 1}: the file is damaged ({error}).") from error
            if fields:
                yield start, fields


def _without_nul(path: Path, file: Iterable[str]) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        _refuse_nul(path, number, line)
        yield line


def _csv_problem(error: csv.Error) -> str:
    text = str(error)
    if "new-line character" in text:
        return "a carriage return stands inside a field without quotes; quote the field, or end lines by a newline"
    if "unexpected end of data" in text:
        return "a quoted field that begins here or later never ends"
    return f"{text}; a quote inside a quoted field is doubled"


def _jsonl_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    if wrong := [column for column in wanted.columns if isinstance(column, int)]:
        raise DataError(f"{path}: columns of a jsonl file are given by name, got the number {wrong[0]}.")
    needed = [column for column in wanted.columns if column not in wanted.optional]
    for number, row in json_lines(path, wanted.encoding):
        if isinstance(row, str):
            raise DataError(f"{path}, line {number}: {row}.")
        lacking = next((column for column in needed if column not in row), None)
        if lacking is not None:
            raise DataError(f"{path}, line {number}: there is no {lacking!r}, its names are {allowed(row)}.")
        yield number, [row.get(str(column)) for column in wanted.columns]


def _parquet_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    with _opened_parquet(path) as file:
        names = [str(name) for name in file.schema_arrow.names]
        places = _places(path, names, wanted, True)
        picked = list(dict.fromkeys(names[place] for place in places if place is not None))
        batches = file.iter_batches(BATCH, columns=picked)
        yield from _arrow_rows(
            path, batches, [None if at is None else names[at] for at in places], _parquet_classes(file)
        )


@contextlib.contextmanager
def _opened_parquet(path: Path) -> Iterator[ParquetFile]:
    import pyarrow
    from pyarrow import parquet

    with contextlib.ExitStack() as stack:
        try:
            file = stack.enter_context(open_bytes(path))
            if path.suffix == ".gz":  # parquet is read from its end, so it is unpacked first, though not in memory
                unpacked = stack.enter_context(tempfile.TemporaryFile())
                shutil.copyfileobj(file, unpacked, 1 << 20)
                unpacked.seek(0)
                file = unpacked
            opened = parquet.ParquetFile(file, pre_buffer=False)
        except (*DAMAGE, pyarrow.ArrowException, UnicodeDecodeError) as error:
            raise DataError(f"{path}: it is not a readable parquet file ({error}).") from error
        yield stack.enter_context(opened)


def _parquet_classes(file: ParquetFile) -> dict[str, tuple[str, ...]]:
    try:
        described = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
        return saved.class_names(described["info"]["features"])
    except (
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
    ):  # a note of another program; its columns are still readable
        return {}


def _folder_rows(path: Path, wanted: Wanted) -> Iterator[Row]:
    features = saved.features(path)
    places = _places(path, list(features), wanted, True)
    names = [None if place is None else list(features)[place] for place in places]
    return _arrow_rows(path, saved.batches(path), names, saved.class_names(features))


def _arrow_rows(
    path: Path, batches: Iterator[RecordBatch], names: Sequence[str | None], classes: dict[str, tuple[str, ...]]
) -> Iterator[Row]:
    """Yield the rows of Arrow batches, with the names of classes for their numbers."""
    number = 0
    for columns, count in _values(path, batches, names):
        for row in range(count):
            number += 1
            values = [None if column is None else column[row] for column in columns]
            yield number, [_named(value, classes.get(name or "")) for name, value in zip(names, values, strict=True)]


def _values(
    path: Path, batches: Iterator[RecordBatch], names: Sequence[str | None]
) -> Iterator[tuple[list[list[Any] | None], int]]:
    import pyarrow

    try:
        for batch in batches:
            batch.validate(full=True)
            columns = [None if name is None else batch.column(name).to_pylist() for name in names]
            yield columns, batch.num_rows
    except (*DAMAGE, pyarrow.ArrowException, UnicodeDecodeError, ValueError, OverflowError, KeyError) as error:
        what = "parquet file" if path.is_file() else "folder of `datasets`"
        raise DataError(f"{path}: it is not a readable {what} ({error}).") from error


def _named(value: Any, classes: tuple[str, ...] | None) -> Any:
    """Return a class's name for its number, and None for -1, by which `datasets` marks a hidden label."""
    if not classes:
        return value
    if isinstance(value, list):
        return [_named(item, classes) for item in value]
    if isinstance(value, int):
        return None if value == -1 else classes[value] if 0 <= value < len(classes) else value
    return value
