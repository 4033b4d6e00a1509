"""The mapping that describes a task of one's own: read from YAML with line numbers, and checked."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from bertcompress.errors import ConfigError, DataError, allowed

KEYS = ("name", "kind", "train", "validation", "test", "text", "label", "labels", "columns", "metric")
METRICS = {  # of each kind that files can be read for; the first is the default
    "classification": ("accuracy", "f1", "matthews_correlation"),
    "regression": ("pearson", "spearmanr"),
    "embedding": ("spearmanr", "pearson"),
    "unlabelled": ("",),
}
LATER = ("tagging", "question_answering")


@dataclass(frozen=True)
class Mapped:
    """A mapping that was checked; `text` is empty if it names no column, which only txt files allow."""

    name: str
    kind: str
    files: Mapping[str, str]
    text: tuple[str | int, ...]
    label: str | int | None
    labels: tuple[str, ...] | None
    columns: tuple[str, ...] | None
    metric: str
    places: Mapping[str, str]

    def place(self, key: str) -> str:
        """Return where a key stands, for messages."""
        return _place(self.places, key)


def _place(places: Mapping[str, str], key: str) -> str:
    return f"{places[key]}: {key}" if key in places else f"task.{key}"


def read_mapping(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """Return a task's mapping from a YAML file and where each of its keys stands.

    The mapping is the whole file, or what stands under the key `task`.

    Raises:
        ConfigError: for a file that is not YAML, is no mapping, or has a key twice.
        DataError: for a file that cannot be read.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        values = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: it cannot be read ({error}).") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: it is not YAML: {' '.join(str(error).split())}") from error
    if isinstance(values, dict) and isinstance(values.get("task"), dict) and isinstance(node, yaml.MappingNode):
        values, node = values["task"], next(value for key, value in node.value if key.value == "task")
    if not isinstance(values, dict) or not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}: got {type(values).__name__}, allowed is a mapping with the keys {allowed(KEYS)}.")
    places: dict[str, str] = {}
    for key, _ in node.value:
        where = f"{path}, line {key.start_mark.line + 1}"
        if key.value in places:
            raise ConfigError(f"{where}: the key {key.value!r} stands there twice ({places[key.value]}).")
        places[key.value] = where
    return values, places


def check_mapping(values: Mapping[str, Any], places: Mapping[str, str]) -> Mapped:
    """Return the mapping, checked.

    Raises:
        ConfigError: naming the key, what was got and what is allowed.
    """
    checker = _Checker(values, places)
    checker.keys()
    kind = checker.kind()
    files = {split: checker.text(split) for split in ("train", "validation", "test") if values.get(split) is not None}
    if not files:
        checker.refuse("train", values.get("train"), "the path of a file (a task needs at least one of its splits)")
    text = checker.text_columns()
    label = checker.label(kind, text)
    metric = checker.metric(kind if kind != "embedding" or label is not None else "unlabelled")
    return Mapped(
        name=checker.name(files),
        kind=kind,
        files=files,
        text=text,
        label=label,
        labels=checker.names("labels", kind),
        columns=checker.names("columns", kind),
        metric=metric,
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
        if kind in LATER:
            raise ConfigError(
                f"{_place(self.places, 'kind')}: {kind!r} files are not read by this version; "
                f"supported are {allowed(METRICS)}."
            )
        if not isinstance(kind, str) or kind not in METRICS:
            self.refuse("kind", kind, f"one of {allowed(METRICS)}")
        return kind

    def text(self, key: str) -> str:
        value = self.values.get(key)
        if not isinstance(value, str) or not value:
            self.refuse(key, value, "a text")
        return value

    def name(self, files: Mapping[str, str]) -> str:
        if self.values.get("name") is None:
            return Path(next(iter(files.values()))).name.split(".")[0]
        name = self.text("name")
        if any(sign in name for sign in "/\\\n\t") or name in (".", ".."):
            self.refuse("name", name, "a name without slashes, as it becomes part of folder names")
        return name

    def column(self, key: str, value: object) -> str | int:
        if isinstance(value, bool) or not isinstance(value, (str, int)) or value == "":
            self.refuse(key, value, "a column's name or number (from 0; -1 is the last)")
        return value

    def text_columns(self) -> tuple[str | int, ...]:
        value = self.values.get("text")
        if value is None:
            return ()
        if not isinstance(value, (list, tuple)):
            return (self.column("text", value),)
        if len(value) != 2 or value[0] == value[1]:
            self.refuse("text", value, "one column, or two different ones for pairs")
        return tuple(self.column("text", item) for item in value)

    def label(self, kind: str, text: tuple[str | int, ...]) -> str | int | None:
        value = self.values.get("label")
        if kind == "unlabelled" or (kind == "embedding" and len(text) != 2):
            if value is not None:
                reason = (
                    "a kind with labels" if kind == "unlabelled" else "text: [first, second], as a label scores a pair"
                )
                self.refuse("label", value, f"no label here; labels need {reason}")
            return None
        if value is None:
            self.refuse("label", value, f"a column's name or number, as kind {kind!r} needs labels")
        if value in text:
            self.refuse("label", value, "another column than that of the text")
        return self.column("label", value)

    def names(self, key: str, kind: str) -> tuple[str, ...] | None:
        value = self.values.get(key)
        if value is None:
            return None
        if key == "labels" and kind != "classification":
            self.refuse(key, value, f"nothing for kind {kind!r}, which has no classes")
        if not isinstance(value, (list, tuple)) or not value:
            self.refuse(key, value, "a list of names")
        for item in value:
            if isinstance(item, bool) or not isinstance(item, (str, int)):
                self.refuse(key, item, "a text or whole number; put yes, no, on, off, true and false in quotes")
        names = tuple(str(item).strip() for item in value)
        if len(set(names)) != len(names):
            self.refuse(key, value, "a list of different names")
        return names

    def metric(self, kind: str) -> str:
        value = self.values.get("metric")
        if value is None:
            return METRICS[kind][0]
        if value not in METRICS[kind]:
            self.refuse(
                "metric", value, f"one of {allowed(METRICS[kind])}" if METRICS[kind][0] else "none for this kind"
            )
        return str(value)
