"""Lines of text files with their numbers, plain or gzipped; only a newline ends a line, never an odd Unicode space."""

from __future__ import annotations

import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TextIO

from bertcompress.errors import DataError


def open_text(path: Path) -> TextIO:
    """Open a UTF-8 file (a byte order mark is skipped), decompressed if its name ends in `.gz`.

    Raises:
        DataError: if it cannot be opened.
    """
    try:
        raw = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}.") from error
    return io.TextIOWrapper(raw, encoding="utf-8-sig", newline="\n")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line, without its end.

    Raises:
        DataError: naming the line after which the file is not UTF-8, or is damaged.
    """
    number = 0
    with open_text(path) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DataError(f"{path}, after line {number}: the text is not UTF-8 ({error.reason}).") from error
        except (EOFError, OSError, zlib.error) as error:
            raise DataError(f"{path}, after line {number}: the file is damaged ({error}).") from error


def table_lines(path: Path, columns: Sequence[str] | None) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    """Yield number and fields of each line of an unquoted TSV file, or a word on what is wrong with the line.

    Args:
        path: of the file.
        columns: names of the columns; None if the first line holds them.
    """
    for number, line in text_lines(path):
        fields = line.split("\t")
        if columns is None:
            columns = fields
        elif line and len(fields) != len(columns):
            yield number, f"{len(fields)} fields, expected are {len(columns)}"
        elif line:
            yield number, dict(zip(columns, fields, strict=True))


def json_lines(path: Path) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    """Yield number and object of each line of a JSON lines file, or a word on what is wrong with the line."""
    for number, line in text_lines(path):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else f"{type(row).__name__}, expected is an object"


def read_text(path: Path) -> str:
    """Return a whole UTF-8 file (a byte order mark is skipped), decompressed if its name ends in `.gz`.

    Raises:
        DataError: if it cannot be opened or is damaged, or naming the line that is not UTF-8.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except FileNotFoundError:
        raise DataError(f"{path}: there is no such file.") from None
    except (EOFError, OSError, zlib.error) as error:
        raise DataError(f"{path}: the file is damaged or cannot be read ({error}).") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise DataError(f"{path}, line {line}: the text is not UTF-8 ({error.reason}); convert it to UTF-8.") from error
