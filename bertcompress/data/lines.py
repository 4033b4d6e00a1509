"""Lines of text files with their numbers, plain or gzipped; only a newline ends a line, never an odd Unicode space."""

from __future__ import annotations

import codecs
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, TextIO, cast

from bertcompress.errors import DataError

DAMAGE = (EOFError, OSError, zlib.error)  # what reading a truncated or changed gzip file raises
BLOCK = 1 << 16  # bytes decoded at once when the first bad byte is looked for
_MARKS = {  # the longer ones first: UTF-32's mark begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


def open_bytes(path: Path) -> IO[bytes]:
    """Open a file for reading, decompressed if its name ends in `.gz`.

    Raises:
        DataError: if it cannot be opened.
    """
    try:
        return cast("IO[bytes]", gzip.open(path, "rb")) if path.suffix == ".gz" else path.open("rb")
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}.") from error


def open_text(path: Path, encoding: str | None = None) -> TextIO:
    """Open a text file, decompressed if its name ends in `.gz`.

    Args:
        path: of the file.
        encoding: of its text; UTF-8 if left out. A byte order mark is skipped.

    Raises:
        DataError: if it cannot be opened, or has the byte order mark of another encoding than UTF-8.
    """
    raw = open_bytes(path)
    if encoding is None:
        try:
            found = _marked(raw)
        except DAMAGE as error:
            raw.close()
            raise DataError(f"{path}, after line 0: the file is damaged ({error}).") from error
        if found:
            raw.close()
            name = found.upper()
            raise DataError(
                f"{path}, line 1: byte 0 begins the byte order mark of {name}, allowed is UTF-8; save the file as "
                f"UTF-8, or say `encoding: {found}` where it is described."
            )
    return io.TextIOWrapper(raw, encoding=codec(encoding), newline="\n")


def codec(encoding: str | None) -> str:
    """Return the name of Python's codec for an encoding; UTF-8 may begin with a byte order mark."""
    name = codecs.lookup(encoding or "utf-8").name
    return "utf-8-sig" if name == "utf-8" else name


def _marked(raw: IO[bytes]) -> str:
    start = raw.read(4)
    raw.seek(0)
    return next((name for mark, name in _MARKS.items() if start.startswith(mark)), "")


def text_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line, without its end.

    Args:
        path: of the file.
        encoding: of its text; UTF-8 if left out.

    Raises:
        DataError: naming the line and byte where the file is not of its encoding, or after which it is damaged.
    """
    number = 0
    with open_text(path, encoding) as file:
        try:
            for number, line in enumerate(file, start=1):
                yield number, line.rstrip("\r\n")
        except UnicodeError as error:
            raise not_decodable(path, encoding) from error
        except DAMAGE as error:
            raise DataError(f"{path}, after line {number}: the file is damaged ({error}).") from error


def not_decodable(path: Path, encoding: str | None) -> DataError:
    """Return the error that says where a file's first byte stands that is not of its encoding, and what may be."""
    wanted = (encoding or "utf-8").upper()
    decoder = codecs.getincrementaldecoder(codec(encoding))("strict")
    line, end = 1, 0  # of the blocks read so far
    with open_bytes(path) as file:
        while True:
            try:
                block = file.read(BLOCK)
                end += len(block)
                line += decoder.decode(block, final=not block).count("\n")
            except UnicodeDecodeError as error:
                bad = error.object  # ends where the block ends
                before = bad[: error.start].decode(codec(encoding), "replace")
                line += before.count("\n")
                where = f"{path}, line {line}: byte {end - len(bad) + error.start}"
                rest = bad[error.start :]
                return DataError(f"{where} is not {wanted} ({error.reason}){_guess(before, rest, encoding)}")
            except UnicodeError as error:
                return DataError(f"{path}, line {line}: the text is not {wanted} ({error}).")
            except DAMAGE as error:
                return DataError(f"{path}, after line {line - 1}: the file is damaged ({error}).")
            if not block:  # cannot be: the same bytes did not decode a moment ago
                return DataError(f"{path}: the text is not {wanted}; the file changed while it was read.")


def _guess(before: str, rest: bytes, encoding: str | None) -> str:
    """Return the end of the message: the likely encoding, with the words that show whether it is."""
    if encoding is not None:
        return "; give the encoding that it was saved in, or leave `encoding` out for UTF-8."
    if rest[:200].count(0) > len(rest[:200]) // 4:
        return "; its many zero bytes look like UTF-16: say `encoding: utf-16`, or save it as UTF-8."
    try:
        word = rest[:20].split(b"\n")[0].decode("cp1252")
    except UnicodeDecodeError:
        return "; save the file as UTF-8, or say `encoding:` where it is described."
    seen = (before.rsplit("\n", 1)[-1][-20:] + word).strip()
    return (
        f"; Windows-1252 would read it, as {seen!r}: if that is right say `encoding: cp1252` where the file is "
        "described, otherwise save it as UTF-8."
    )


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


def json_lines(path: Path, encoding: str | None = None) -> Iterator[tuple[int, Mapping[str, object] | str]]:
    """Yield number and object of each line of a JSON lines file, or a word on what is wrong with the line."""
    for number, line in text_lines(path, encoding):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, f"not JSON: {error}"
            continue
        yield number, row if isinstance(row, dict) else f"{type(row).__name__}, expected is an object"


def utf8_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield number and content of each line of a UTF-8 file, without its end, as `read_text` reads it.

    Raises:
        DataError: if it cannot be opened or is damaged, or naming the line that is not UTF-8.
    """
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, number, error) from error
    except DAMAGE as error:
        raise _unreadable(path, error) from error


def read_text(path: Path) -> str:
    """Return a whole UTF-8 file (a byte order mark is skipped), decompressed if its name ends in `.gz`.

    Raises:
        DataError: if it cannot be opened or is damaged, or naming the line that is not UTF-8.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except DAMAGE as error:
        raise _unreadable(path, error) from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content.count(b"\n", 0, error.start) + 1, error) from error


def _unreadable(path: Path, error: Exception) -> DataError:
    if isinstance(error, FileNotFoundError):
        return DataError(f"{path}: there is no such file.")
    return DataError(f"{path}: the file is damaged or cannot be read ({error}).")


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    return DataError(f"{path}, line {line}: the text is not UTF-8 ({error.reason}); convert it to UTF-8.")
