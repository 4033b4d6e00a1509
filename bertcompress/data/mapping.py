"""The mapping that describes a task of one's own: read from YAML with line numbers, and checked."""

from __future__ import annotations

import codecs
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from bertcompress.data.kinds import METRICS
from bertcompress.data.yaml_positions import ConfigFileError, read_text, read_yaml
from bertcompress.errors import ConfigError, DataError, allowed

__all__ = ["FILE_KEYS", "KEYS", "METRICS", "Mapped", "check_mapping", "needs_two_classes", "read_mapping"]

SPLITS = ("train", "validation", "test")
FILE_KEYS = (*SPLITS, "data")
KEYS = ("name", "kind", *FILE_KEYS, "text", "label", "labels", "columns", "id", "encoding", "metric")
# Python has codecs for these, but no file is written in them.
_NO_ENCODING = ("idna", "punycode", "undefined", "unicode_escape", "raw_unicode_escape")
_BY_CONTENT = ("text", "label", "labels", "columns", "id", "encoding")  # what a SQuAD file says itself


@dataclass(frozen=True)
class Mapped:
    """A mapping that was checked.

    Attributes:
        name: of the task.
        kind: of the task.
        files: split -> path as written; under "data" that of a folder with all splits.
        text: columns of the text or words; empty if none is named.
        label: column of the label or tags, or None.
        labels: names of the classes in order, or None.
        columns: names of the columns of files without a header, or None.
        id: column of the ids; None: a column named `id`, where there is one; False: none.
        encoding: of the files, or None for UTF-8.
        metric: None if left out.
        places: key -> where it stands.
    """

    name: str
    kind: str
    files: Mapping[str, str]
    text: tuple[str | int, ...]
    label: str | int | None
    labels: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    id: str | int | bool | None
    encoding: str | None
    metric: str | None
    places: Mapping[str, str]

    def place(self, key: str) -> str:
        """Return where a key stands, for messages."""
        return _place(self.places, key)


def _place(places: Mapping[str, str], key: str) -> str:
    return f"{places[key]}: {key}" if key in places else f"task.{key}"


def read_mapping(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a task's mapping from a YAML file and where each of its keys stands.

    The mapping is the whole file, or what stands under the key `task`. It is read by the rules of YAML 1.2, as every
    configuration is: `yes` is a text, and `5e-5` a number.

    Raises:
        ConfigError: for a file that is not YAML, is no mapping, or has a key twice.
        DataError: if there is no such file.
    """
    if not path.is_file():
        raise DataError(f"{path}: there is no such file.")
    top, problems = read_yaml(read_text(path), str(path))
    if problems:
        raise ConfigFileError(problems)
    if isinstance(top.content, dict) and "task" in top.content and isinstance(top.content["task"].content, dict):
        top = top.content["task"]
    if not isinstance(top.content, dict):
        raise ConfigError(f"{path}: got {top}, allowed is a mapping with the keys {allowed(KEYS)}.")
    places = {key: f"{path}, line {place.line}" for key, place in top.key_places.items()}
    return {key: value.plain() for key, value in top.content.items()}, places


def check_mapping(values: Mapping[str, Any], places: Mapping[str, str]) -> Mapped:
    """Return the mapping, checked.

    Raises:
        ConfigError: naming the key, what was got and what is allowed.
    """
    checker = _Checker(values, places)
    checker.keys()
    kind = checker.kind()
    files = checker.files()
    if kind == "question_answering":
        checker.nothing_for(kind, _BY_CONTENT)
    text = checker.text_columns(kind)
    label = checker.label(kind, text)
    labels = checker.names("labels", kind)
    return Mapped(
        name=checker.name(files),
        kind=kind,
        files=files,
        text=text,
        label=label,
        labels=labels,
        columns=checker.names("columns", kind),
        id=checker.id(text, label),
        encoding=checker.encoding(),
        metric=checker.metric(kind if kind != "embedding" or label is not None else "unlabelled", labels),
        places=places,
    )


@dataclass(frozen=True)
class _Checker:
    values: Mapping[str, Any]
    places: Mapping[str, str]

    def refuse(self, key: str, got: object, allow: str) -> NoReturn:
        raise ConfigError(f"{_place(self.places, key)}: got {got!r}, allowed is {allow}.")

    def keys(self) -> None:
        for key in self.values:
            if key not in KEYS:
                near = difflib.get_close_matches(str(key), KEYS, n=1)
                hint = f" (did you mean {near[0]!r}?)" if near else ""
                raise ConfigError(f"{_place(self.places, str(key))}: unknown key, allowed are {allowed(KEYS)}{hint}.")

    def kind(self) -> str:
        kind = self.values.get("kind")
        if not isinstance(kind, str) or kind not in METRICS:
            self.refuse("kind", kind, f"one of {allowed(METRICS)}")
        return kind

    def files(self) -> dict[str, str]:
        files = {key: self.text(key) for key in FILE_KEYS if self.values.get(key) is not None}
        if not files:
            allow = "the path of a file (a task needs at least one of its splits, or data: a folder that holds them)"
            self.refuse("train", self.values.get("train"), allow)
        if "data" in files and len(files) > 1:
            other = next(iter(files))
            self.refuse("data", files["data"], f"either this folder with all splits or {other}, not both")
        return files

    def nothing_for(self, kind: str, keys: tuple[str, ...]) -> None:
        for key in keys:
            if self.values.get(key) is not None:
                self.refuse(
                    key, self.values[key], f"nothing for kind {kind!r}, whose files name their parts themselves"
                )

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value or "\0" in value:
            self.refuse(key, value, "a text")
        return value

    def name(self, files: Mapping[str, str]) -> str:
        if self.values.get("name") is None:
            return Path(next(iter(files.values()))).name.split(".")[0] or "task"
        name = self.text("name")
        if any(sign in name for sign in "/\\\n\t") or name in (".", ".."):
            self.refuse("name", name, "a name without slashes, as it becomes part of folder names")
        return name

    def column(self, key: str, value: object) -> str | int:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            self.refuse(key, value, "a column's name or number (from 0; -1 is the last)")
        return value

    def text_columns(self, kind: str) -> tuple[str | int, ...]:
        value = self.values.get("text")
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)):
            return (self.column("text", value),)
        if kind == "tagging":
            self.refuse("text", value, "one column, that of the words")
        if len(value) != 2 or value[0] == value[1]:
            self.refuse("text", value, "one column, or two different ones for pairs")
        return tuple(self.column("text", item) for item in value)

    def label(self, kind: str, text: tuple[str | int, ...]) -> str | int | None:
        value = self.values.get("label")
        if kind in ("unlabelled", "question_answering") or (kind == "embedding" and len(text) != 2):
            if value is not None:
                reason = (
                    "a kind with labels" if kind == "unlabelled" else "text: [first, second], as a label scores a pair"
                )
                self.refuse("label", value, f"no label here; labels need {reason}")
            return None
        if value is None and kind == "tagging":
            return None
        if value is None:
            self.refuse("label", value, f"a column's name or number, as kind {kind!r} needs labels")
        if value in text:
            self.refuse("label", value, "another column than that of the text")
        return self.column("label", value)

    def id(self, text: tuple[str | int, ...], label: str | int | None) -> str | int | bool | None:
        value = self.values.get("id")
        if value is None or value is False:
            return value
        if value in (*text, label):
            self.refuse("id", value, "another column than those of the text and the label")
        return self.column("id", value)

    def encoding(self) -> str | None:
        value = self.values.get("encoding")
        if value is None:
            return None
        try:
            found = codecs.lookup(value) if isinstance(value, str) and value.isascii() else None
        except (LookupError, ValueError):
            found = None
        if found is None or not getattr(found, "_is_text_encoding", True) or found.name in _NO_ENCODING:
            self.refuse("encoding", value, "the name of a text encoding, such as utf-8, cp1252, utf-16 or shift_jis")
        return str(value)

    def names(self, key: str, kind: str) -> tuple[str, ...] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if key == "labels" and kind not in ("classification", "tagging"):
            self.refuse(key, value, f"nothing for kind {kind!r}, which has no classes")
        if not isinstance(value, (list, tuple)) or not value:
            self.refuse(key, value, "a list of names")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, (str, int)):
                self.refuse(key, item, "a text or whole number; put true, false and null in quotes")
        names = tuple(str(item).strip() for item in value)
        if len(set(names)) != len(names):
            self.refuse(key, value, "a list of different names")
        if key == "labels" and (len(names) < 2 or "" in names):
            self.refuse(key, value, "at least two names, none of them empty")
        return names

    def metric(self, kind: str, labels: tuple[str, ...] | None) -> str | None:
        value = self.values.get("metric")
        if value is None:
            return None
        if value not in METRICS[kind]:
            allow = f"one of {allowed(METRICS[kind])}" if METRICS[kind][0] else "none for this kind"
            self.refuse("metric", value, allow)
        if kind == "classification" and labels is not None and (wrong := needs_two_classes(str(value), labels)):
            self.refuse("metric", value, wrong)
        return str(value)


def needs_two_classes(metric: str, labels: tuple[str, ...]) -> str:
    """Return what is allowed instead of a metric that only two classes have; empty if there are two."""
    if metric != "f1" or len(labels) == 2:
        return ""
    rest = " or ".join(name for name in METRICS["classification"] if name != "f1")
    return f"{rest} here, as f1 is defined for two classes and there are {len(labels)}"
