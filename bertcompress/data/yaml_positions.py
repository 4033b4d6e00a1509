"""YAML text to plain values that know where they stand: file, line, column and key path.

Only what a configuration needs is read: mappings with text keys, lists, and scalars by the rules of YAML 1.2 (so
`5e-5` is a number, and `on`, `off`, `yes`, `no` are text). Tags, aliases and several documents are refused: nothing in
a file can name a Python object or grow when it is read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import yaml

from bertcompress.errors import ConfigError

MAX_DEPTH = 16
MAX_BYTES = 1 << 20
_INTEGER = re.compile(r"[-+]?[0-9]{1,18}")
_FLOAT = re.compile(r"[-+]?(?=.*[.eE])(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, bool | float | None] = {"": None, "~": None, ".nan": float("nan")}
_WORDS |= dict.fromkeys(("null", "Null", "NULL"), None)
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True) | dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= dict.fromkeys((".inf", "+.inf"), float("inf")) | {"-.inf": float("-inf")}


@dataclass(frozen=True)
class Place:
    """Where a value was written: a file and line (both counted from 1), or a `--set` option (line 0)."""

    source: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        """Return `FILE:LINE`, or the option as it was typed."""
        return f"{self.source}:{self.line}" if self.line else self.source


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where, at which key, what was got and what is allowed."""

    place: Place
    path: str
    message: str

    def __str__(self) -> str:
        """Return `FILE:LINE: key.path: message`."""
        return f"{self.place}: {self.path}: {self.message}" if self.path else f"{self.place}: {self.message}"


class ConfigFileError(ConfigError):
    """A configuration with problems, all of which are in `problems` and, a line each, in the message."""

    def __init__(self, problems: list[Problem]) -> None:
        """Order the problems by their lines, and drop repeated ones."""
        self.problems = sorted(dict.fromkeys(problems), key=lambda each: (each.place.source, each.place.line))
        super().__init__("\n".join(map(str, self.problems)))


Content: TypeAlias = "bool | int | float | str | list[Value] | dict[str, Value] | None"


@dataclass
class Value:
    """A value of a configuration with its place and its key path (`compress.0.epochs`; empty at the top)."""

    content: Content
    place: Place
    path: str = ""
    key_places: dict[str, Place] = field(default_factory=dict)  # of a mapping's keys

    def __str__(self) -> str:
        """Return the value as an error message shows it."""
        if self.content is None:
            return "nothing"
        if isinstance(self.content, dict):
            return _shortened(f"a mapping with {', '.join(self.content)}") if self.content else "an empty mapping"
        return _shortened(repr(self.plain()))

    def plain(self) -> object:
        """Return the content without places."""
        if isinstance(self.content, list):
            return [each.plain() for each in self.content]
        if isinstance(self.content, dict):
            return {key: each.plain() for key, each in self.content.items()}
        return self.content


def _shortened(text: str) -> str:
    return text if len(text) <= 80 else f"{text[:77]}..."


def join(path: str, key: object) -> str:
    """Return the key path of `key` inside `path`."""
    return f"{path}.{key}" if path else str(key)


def read_text(path: Path) -> str:
    """Return the text of a YAML file.

    Raises:
        ConfigFileError: there is no such file, it cannot be read, is not UTF-8, or is far too large.
    """

    def refuse(message: str, line: int = 1) -> ConfigFileError:
        return ConfigFileError([Problem(Place(str(path), line, 1), "", message)])

    try:
        if path.stat().st_size > MAX_BYTES and path.is_file():
            raise refuse(f"got {path.stat().st_size} bytes, allowed are {MAX_BYTES}: this is no configuration.")
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise refuse("got bytes that are not UTF-8, allowed is text saved as UTF-8.", line) from error
    except OSError as error:
        raise refuse(f"got {error.strerror or error}, allowed is a readable YAML file.", 0) from error


def read_yaml(text: str, source: str, *, path: str = "", numbered: bool = True) -> tuple[Value, list[Problem]]:
    """Read one YAML document; duplicate keys come back as problems, whatever else is wrong is raised.

    Args:
        text: the document.
        source: the file's name, as the messages should show it.
        path: key path of the document's top, for values that are given on the command line.
        numbered: whether lines are worth naming; False for a `--set` option.

    Raises:
        ConfigFileError: the text is not YAML, or uses a tag, an alias or a second document.
    """
    reader = _Reader(text, source, path, numbered)
    try:
        return reader.document(), reader.problems
    except yaml.YAMLError as error:
        raise ConfigFileError([*reader.problems, reader.syntax_problem(error)]) from error


class _Reader:
    """Builds values from PyYAML's events; `path` is the key that is being read, to name it when the text ends badly."""

    def __init__(self, text: str, source: str, path: str, numbered: bool) -> None:
        self.text, self.source, self.path, self.numbered = text, source, path, numbered
        self.top = path
        self.open: list[Place] = []  # of the lists and mappings that have begun and not ended
        self.problems: list[Problem] = []
        self.events: Iterator[Any] = iter(yaml.parse(text, Loader=yaml.SafeLoader))

    def document(self) -> Value:
        """Read the only document."""
        top: Value | None = None
        for event in self.events:
            if not isinstance(event, yaml.DocumentStartEvent):
                continue
            if top is not None:
                place = self.place(event.start_mark)
                self.refuse(place, "", "got a second document ('---'), allowed is one document in a file.")
            first = next(self.events)
            top = self.value(first, self.top, self.place(first.start_mark))
        return top if top is not None else Value(None, self.place(None), self.top)

    def value(self, event: Any, path: str, place: Place) -> Value:
        """Read the value that begins with `event`."""
        self.path = path
        if path.count(".") >= MAX_DEPTH:
            self.refuse(place, path[:80], f"got values nested deeper than {MAX_DEPTH}, allowed are a few levels.")
        if isinstance(event, yaml.AliasEvent):
            self.refuse(place, path, f"got the alias *{event.anchor}, allowed are values that are written out.")
        tag = getattr(event, "tag", None)
        if tag is not None:
            self.refuse(place, path, f"got the tag {tag!r}, allowed are plain values without tags.")
        if isinstance(event, yaml.CollectionStartEvent):
            self.open.append(self.place(event.start_mark))
            is_list = isinstance(event, yaml.SequenceStartEvent)
            value = self.sequence(path, place) if is_list else self.mapping(path, place)
            self.open.pop()
            return value
        return Value(scalar(event.value) if event.implicit[0] else event.value, place, path)

    def sequence(self, path: str, place: Place) -> Value:
        """Read items up to the end of the list."""
        items: list[Value] = []
        while not isinstance(event := next(self.events), yaml.SequenceEndEvent):
            items.append(self.value(event, join(path, len(items)), self.place(event.start_mark)))
        return Value(items, place, path)

    def mapping(self, path: str, place: Place) -> Value:
        """Read keys and values up to the end of the mapping; of a repeated key the first value counts."""
        entries: dict[str, Value] = {}
        places: dict[str, Place] = {}
        while not isinstance(event := next(self.events), yaml.MappingEndEvent):
            key_place = self.place(event.start_mark)
            if not isinstance(event, yaml.ScalarEvent):
                self.refuse(key_place, path, "got a key that is a list, a mapping or an alias, allowed are names.")
            key = event.value
            inner = join(path, key)
            self.path = inner
            first = next(self.events)
            # A block that begins on the next line is looked for at its key.
            scalar_here = isinstance(first, yaml.ScalarEvent) and first.value
            value = self.value(first, inner, self.place(first.start_mark) if scalar_here else key_place)
            if key in entries:
                message = f"got the key {key!r} twice (first in line {places[key].line}), allowed is once."
                self.problems.append(Problem(key_place, inner, message))
                continue
            entries[key], places[key] = value, key_place
        return Value(entries, place, path, places)

    def place(self, mark: Any) -> Place:
        """Return the place of a mark of PyYAML, whose lines and columns count from 0."""
        if not self.numbered:
            return Place(self.source)
        return Place(self.source, mark.line + 1, mark.column + 1) if mark is not None else Place(self.source, 1, 1)

    def refuse(self, place: Place, path: str, message: str) -> None:
        """Stop at a construct that cannot be read on."""
        raise ConfigFileError([*self.problems, Problem(place, path, message)])

    def syntax_problem(self, error: yaml.YAMLError) -> Problem:
        """Say in our words what PyYAML could not read."""
        mark = getattr(error, "problem_mark", None)
        what = str(getattr(error, "problem", None) or getattr(error, "reason", None) or error)
        context = str(getattr(error, "context", None) or "")
        if "quoted scalar" in context and "end of stream" in what:
            place = self.place(getattr(error, "context_mark", None))
            return Problem(place, self.path, "got a quote that is never closed, allowed is text between two quotes.")
        if "flow" in context and self.open:
            place = self.open[-1]
            message = f"got brackets that do not end well ({what}), allowed are {{key: value}} and [item, item]."
            return Problem(place, self.path, message)
        place = self.place(error.context_mark if "simple key" in context else mark)  # type: ignore[attr-defined]
        if "'\\t'" in what:
            message = f"got a tab in column {place.column or 1}, allowed are spaces: YAML cannot be indented by tabs."
        elif "mapping values are not allowed" in what:
            message = (
                f"got a second ': ' in one value (column {place.column or 1}), allowed is `key: value`; put a text "
                "with a colon in quotes, and check the indentation."
            )
        else:
            message = f"got text that is no YAML ({what}), allowed are `key: value` and `- item`, indented by spaces."
        return Problem(place, self.path, message)


def scalar(text: str) -> bool | int | float | str | None:
    """Return what an unquoted scalar means by YAML 1.2's core schema."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


class _Dumper(yaml.SafeDumper):
    """Writes what `read_yaml` reads: no aliases, and quotes around every text that would be read as something else."""

    def ignore_aliases(self, data: object) -> bool:
        """Write repeated values out."""
        return True


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar(
        "tag:yaml.org,2002:str", text, style=None if scalar(text) == text and text.isprintable() else '"'
    )


_Dumper.add_representer(str, _represent_text)


def write_yaml(values: object) -> str:
    """Return plain values (mappings, lists, texts, numbers) as YAML that `read_yaml` reads back."""
    return yaml.dump(values, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
