"""Chosen columns of a file of one's own: csv, tsv, jsonl, parquet or txt, each plain or gzipped.

csv is read with quotes (RFC 4180), tsv without any. Blank lines are skipped. Whatever else does not fit is an error
that names the file and the line; nothing is guessed or left out.
"""

from __future__ import annotations

import csv
import gzip
import io
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bertcompress.data.lines import json_lines, open_text, text_lines
from bertcompress.errors import DataError, allowed

FORMATS = ("csv", "tsv", "jsonl", "parquet", "txt")
MAX_FIELD = 1 << 27  # characters of one csv field; the csv module's own limit is a page of text


@dataclass(frozen=True)
class Header:
    """How the columns of a csv or tsv file are named: by `names`, by its first line, or not at all."""

    names: tuple[str, ...] | None = None
    first_line: bool = True


@dataclass(frozen=True)
class Columns:
    """Values of the chosen columns of a file, row by row, with what is needed to say where each stands."""

    path: Path
    unit: str  # "line" or "row"
    numbers: list[int]
    values: list[list[Any]]  # one list per chosen column; empty for a column that may be missing and is

    def where(self, row: int) -> str:
        """Return the file and line of a row, for messages."""
        return f"{self.path}, {self.unit} {self.numbers[row]}"


def format_of(path: Path) -> str:
    """Return the format that a file's name stands for.

    Raises:
        DataError: if its ending is not one that can be read.
    """
    ending = Path(path.name.removesuffix(".gz")).suffix.removeprefix(".").lower()
    if ending not in FORMATS:
        raise DataError(f"{path}: its format is {ending!r}, allowed are {allowed(FORMATS)}, each also with .gz.")
    return ending


def read_columns(path: Path, chosen: Sequence[str | int], header: Header, optional: str | int | None = None) -> Columns:
    """Read columns of a file by name or number (from 0; -1 is the last).

    Args:
        path: of the file; its ending tells the format.
        chosen: the columns.
        header: how the columns of csv and tsv files are named.
        optional: one of `chosen` that the file need not have.

    Raises:
        DataError: for a file that is missing, damaged or malformed, or does not have a column.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    ending = format_of(path)
    if ending == "txt":
        return _read_txt(path, chosen, optional)
    if ending == "parquet":
        return _read_parquet(path, chosen, optional)
    if ending == "jsonl":
        return _read_jsonl(path, chosen, optional)
    return _read_table(path, chosen, header, optional, ending)


def _read_txt(path: Path, chosen: Sequence[str | int], optional: str | int | None) -> Columns:
    if len([column for column in chosen if column != optional]) != 1:
        raise DataError(f"{path}: a txt file has one text per line; asked for are the columns {allowed(chosen)}.")
    kept = [(number, line) for number, line in text_lines(path) if line.strip()]
    texts = [line for _, line in kept]
    values: list[list[Any]] = [[] if column == optional else texts for column in chosen]
    return Columns(path, "line", [number for number, _ in kept], values)


def _place(path: Path, names: Sequence[str], column: str | int, optional: str | int | None, named: bool) -> int | None:
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
    if column == optional:
        return None
    raise DataError(f"{path}: {problem}.")


def _read_table(
    path: Path, chosen: Sequence[str | int], header: Header, optional: str | int | None, ending: str
) -> Columns:
    records = _csv_records(path) if ending == "csv" else _tsv_records(path)
    names: Sequence[str] | None = header.names
    if names is None and header.first_line:
        names = next((fields for _, fields in records), None)
        if names is None:
            raise DataError(f"{path}: it is empty, expected is a first line with the names of the columns.")
    places: list[int | None] | None = None
    width = len(names) if names is not None else 0
    numbers: list[int] = []
    values: list[list[Any]] = [[] for _ in chosen]
    for number, fields in records:
        if places is None:
            width = width or len(fields)
            known = names if names is not None else [""] * width
            places = [_place(path, known, column, optional, names is not None) for column in chosen]
        if len(fields) != width:
            raise DataError(f"{path}, line {number}: it has {len(fields)} fields, expected are {width}.")
        numbers.append(number)
        for into, place in zip(values, places, strict=True):
            if place is not None:
                into.append(fields[place])
    return Columns(path, "line", numbers, values)


def _tsv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    yield from ((number, line.split("\t")) for number, line in text_lines(path) if line.strip())


def _csv_records(path: Path) -> Iterator[tuple[int, list[str]]]:
    csv.field_size_limit(max(csv.field_size_limit(), MAX_FIELD))
    with open_text(path) as file:
        reader = csv.reader(file, strict=True)
        while True:
            start = reader.line_num + 1  # a quoted field may hold line ends
            try:
                fields = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{path}, line {start}: {error}; a quote inside a quoted field is doubled.") from error
            except UnicodeDecodeError as error:
                raise DataError(f"{path}, after line {start - 1}: the text is not UTF-8 ({error.reason}).") from error
            except (EOFError, OSError, zlib.error) as error:
                raise DataError(f"{path}, after line {start - 1}: the file is damaged ({error}).") from error
            if fields:
                yield start, fields


def _read_jsonl(path: Path, chosen: Sequence[str | int], optional: str | int | None) -> Columns:
    if wrong := [column for column in chosen if isinstance(column, int)]:
        raise DataError(f"{path}: columns of a jsonl file are given by name, got the number {wrong[0]}.")
    rows: list[Any] = []
    numbers: list[int] = []
    for number, row in json_lines(path):
        if isinstance(row, str):
            raise DataError(f"{path}, line {number}: {row}.")
        rows.append(row)
        numbers.append(number)
    values: list[list[Any]] = []
    for column in chosen:
        lacking = [number for number, row in zip(numbers, rows, strict=True) if column not in row]
        if lacking and column == optional and len(lacking) == len(rows):
            values.append([])
        elif lacking:
            keys = allowed(rows[numbers.index(lacking[0])])
            raise DataError(f"{path}, line {lacking[0]}: there is no {column!r}, its names are {keys}.")
        else:
            values.append([row[column] for row in rows])
    return Columns(path, "line", numbers, values)


def _read_parquet(path: Path, chosen: Sequence[str | int], optional: str | int | None) -> Columns:
    import pyarrow
    from pyarrow import parquet

    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        opened = parquet.ParquetFile(io.BytesIO(raw))
        names = [str(name) for name in opened.schema_arrow.names]
        places = [_place(path, names, column, optional, True) for column in chosen]
        table = opened.read(columns=[names[place] for place in places if place is not None])
    except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: it is not a readable parquet file ({error}).") from error
    values = [[] if place is None else table.column(names[place]).to_pylist() for place in places]
    return Columns(path, "row", list(range(1, table.num_rows + 1)), values)
