"""Located YAML values to the types that a dataclass's fields are annotated with; every mismatch names its place."""

from __future__ import annotations

import collections.abc
import dataclasses
import difflib
import functools
import math
import re
import types
import typing
from collections.abc import Callable, Hashable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from bertcompress.data.yaml_positions import Problem, Value, join
from bertcompress.errors import ConfigError, allowed

MISSING = object()  # stands for a value that could not be read and was reported
T = TypeVar("T")
_NAMES: dict[Any, tuple[str, str]] = {  # one and many
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    bool: ("true or false", "true or false"),
    str: ("text", "texts"),
    type(None): ("null", "null"),
    Path: ("a path", "paths"),
    Any: ("any value", "values"),
    object: ("any value", "values"),
}
SEQUENCES = (list, tuple, collections.abc.Sequence, frozenset)
MAPPINGS = (dict, collections.abc.Mapping)
# `Class.field: message`, `field: message` or `Class.field.key: message`, as the dataclasses' errors begin
_FIELD = re.compile(r"(?:[A-Za-z]\w*\.)?([a-z]\w*)((?:\.[^:\s]+)?): (.*)", re.DOTALL)


def members(hint: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the type itself, without `Annotated`."""
    origin = typing.get_origin(hint)
    if origin is typing.Annotated:
        return members(typing.get_args(hint)[0])
    if origin in (typing.Union, types.UnionType):
        return tuple(member for option in typing.get_args(hint) for member in members(option))
    return (hint,)


def describe(hint: Any, *, many: bool = False) -> str:
    """Return a type in the words of an error message, in the plural for `many`."""
    return " or ".join(dict.fromkeys(_describe_one(option, many) for option in members(hint)))


def _describe_one(hint: Any, many: bool) -> str:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    a_list, a_mapping = ("lists", "mappings") if many else ("a list", "a mapping")
    if origin is typing.Literal:
        return allowed(arguments)
    if origin in MAPPINGS:
        return f"{a_mapping} of names to {describe(arguments[1], many=True)}" if arguments else a_mapping
    if is_fixed(hint):
        return f"{a_list} of {len(arguments)} ({', '.join(map(describe, arguments))})"
    if origin in SEQUENCES:
        return f"{a_list} of {describe(arguments[0], many=True)}" if arguments else a_list
    one, plural = _NAMES.get(hint, (getattr(hint, "__name__", str(hint)),) * 2)
    return str(plural if many else one)


def is_fixed(hint: Any) -> bool:
    """Return whether a type is a tuple of as many items as it names."""
    arguments = typing.get_args(hint)
    return typing.get_origin(hint) is tuple and bool(arguments) and arguments[-1] is not Ellipsis


def hint_for(name: object, names: Iterable[str]) -> str:
    """Return `, did you mean ...?` where a known name is near, else nothing."""
    near = difflib.get_close_matches(str(name), list(names), n=1, cutoff=0.6)
    return f", did you mean {near[0]!r}?" if near else ""


def choice(value: Value, names: Iterable[str], problems: list[Problem]) -> bool:
    """Return whether the value is one of the names, and report it if not."""
    names = list(names)
    if isinstance(value.content, str) and value.content in names:
        return True
    problems.append(Problem(value.place, value.path, f"{refusal(value, names)} {allowed(names)}."))
    return False


def refusal(value: Value, names: Iterable[str]) -> str:
    """Return `got X, allowed are`, with the nearest known name in between."""
    hint = hint_for(value.content, names)
    return f"got {value}{hint} Allowed are" if hint else f"got {value}, allowed are"


def _accepts(content: object, hint: Any) -> bool:
    origin = typing.get_origin(hint) or hint
    if hint in (Any, object):
        return True
    if origin is typing.Literal:
        return any(type(content) is type(option) and content == option for option in typing.get_args(hint))
    if origin in SEQUENCES:
        return isinstance(content, list)
    if origin in MAPPINGS:
        return isinstance(content, dict)
    if origin is float:
        return isinstance(content, (int, float)) and not isinstance(content, bool) and math.isfinite(content)
    if origin is Path:
        return isinstance(content, str)
    return isinstance(origin, type) and type(content) is origin


def read(value: Value, hint: Any, problems: list[Problem]) -> Any:
    """Return the value as the type `hint` asks for, or `MISSING` after reporting why it is none."""
    tries: list[list[Problem]] = []
    for option in members(hint):
        if _accepts(value.content, option):
            found: list[Problem] = []
            result = _take(value, option, found)
            if not found:
                return result
            tries.append(found)
    if tries:  # the shape is right, an item is not: the reading with the fewest complaints is the one that was meant
        best: list[Problem] = min(tries, key=len)
        problems.extend(best)
        return MISSING
    kind = " (text)" if isinstance(value.content, str) else ""
    message = f"got {value}{kind}, allowed is {describe(hint)}{_fix(value.content, hint)}"
    problems.append(Problem(value.place, value.path, message))
    return MISSING


def _fix(content: object, hint: Any) -> str:
    """Return the end of a type error's message: a way to repair it, where there is a likely one."""
    options = members(hint)
    if str in options and isinstance(content, (bool, int, float)):
        return "; put it in quotes."
    if float in options and isinstance(content, float):
        return "; it has to be finite."
    if bool in options and content in ("on", "off", "yes", "no"):
        return "; YAML 1.2 has no on, off, yes and no."
    literals = (option for option in options if typing.get_origin(option) is typing.Literal)
    words = [word for option in literals for word in typing.get_args(option) if isinstance(word, str)]
    near = hint_for(content, words) if isinstance(content, str) else ""
    return f";{near[1:]}" if near else "."


def _take(value: Value, hint: Any, problems: list[Problem]) -> Any:
    """Return the value as the one type that accepts its shape."""
    content, origin, arguments = value.content, typing.get_origin(hint) or hint, typing.get_args(hint)
    if isinstance(content, dict):
        inner = arguments[1] if arguments else Any
        entries = {key: read(each, inner, problems) for key, each in content.items()}
        return MISSING if any(each is MISSING for each in entries.values()) else entries
    if isinstance(content, list):
        return _take_list(value, content, origin, arguments, problems)
    if origin in (float, Path):
        return origin(content)
    return content


def _take_list(
    value: Value, content: list[Value], origin: Any, arguments: tuple[Any, ...], problems: list[Problem]
) -> Any:
    fixed = origin is tuple and bool(arguments) and arguments[-1] is not Ellipsis
    if fixed and len(arguments) != len(content):
        message = f"got {value}, allowed is a list of {len(arguments)} ({', '.join(map(describe, arguments))})."
        problems.append(Problem(value.place, value.path, message))
        return MISSING
    hints = arguments if fixed else (arguments[0] if arguments else Any,) * len(content)
    items = [read(each, hint, problems) for each, hint in zip(content, hints, strict=True)]
    if any(each is MISSING for each in items):
        return MISSING
    return items if origin in (list, Any, object) else frozenset(items) if origin is frozenset else tuple(items)


def fields_of(cls: type[Any]) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    """Return name -> (type, field) of a dataclass's fields that its constructor takes."""
    return _fields_of(typing.cast("Hashable", cls))  # mypy does not see that every class is hashable


@functools.cache
def _fields_of(cls: Any) -> dict[str, tuple[Any, dataclasses.Field[Any]]]:
    hints = typing.get_type_hints(cls, include_extras=True)
    return {each.name: (hints[each.name], each) for each in dataclasses.fields(cls) if each.init}


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Return whether a dataclass's field has no default."""
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def unknown_keys(value: Value, names: Iterable[str], problems: list[Problem], what: str = "") -> None:
    """Report every key of a mapping that is not one of `names`."""
    assert isinstance(value.content, dict)
    names = list(names)
    for key in value.content:
        if key not in names:
            hint = hint_for(key, names)
            got = f"got the unknown key {key!r}{hint or '.'}"
            message = f"{got} Allowed{what} are {', '.join(names)}."
            problems.append(Problem(value.key_places.get(key, value.place), join(value.path, key), message))


def build(
    cls: type[T],
    value: Value,
    problems: list[Problem],
    *,
    skip: tuple[str, ...] = (),
    defaults: Mapping[str, Any] | None = None,
) -> T | None:
    """Return the dataclass that a mapping describes, or None after reporting every reason why it cannot be.

    Args:
        cls: a dataclass, whose `__post_init__` raises ConfigError for impossible values.
        value: a mapping from field names to values.
        problems: receives what is wrong.
        skip: keys of the mapping that are not the dataclass's.
        defaults: values for fields that the mapping leaves out.
    """
    assert isinstance(value.content, dict)
    before, known = len(problems), fields_of(cls)
    unknown_keys(value, [*skip, *known], problems)
    for name, (_, field) in known.items():
        if is_required(field) and name not in value.content:
            message = f"got no {name!r}, which is needed; allowed is {describe(known[name][0])}."
            problems.append(Problem(value.place, join(value.path, name), message))
    given = {key: each for key, each in value.content.items() if key in known and key not in skip}
    arguments = {key: read(each, known[key][0], problems) for key, each in given.items()}
    arguments = {key: each for key, each in arguments.items() if each is not MISSING}
    arguments = {key: each for key, each in (defaults or {}).items() if key in known} | arguments
    required = {name for name, (_, field) in known.items() if is_required(field)}
    result = attempt(lambda values: cls(**values), value, arguments, required, problems)
    return result if len(problems) == before else None


def attempt(
    make: Callable[[dict[str, Any]], T],
    value: Value,
    arguments: dict[str, Any],
    required: set[str],
    problems: list[Problem],
) -> T | None:
    """Return what `make` makes of the arguments; after a refused one go on without it, to find the next one as well.

    Args:
        make: raises ConfigError for arguments that cannot work.
        value: the mapping that the arguments were written in.
        arguments: by name.
        required: names without which nothing can be made.
        problems: receives what is refused.
    """
    arguments = dict(arguments)
    while required <= set(arguments):
        try:
            return make(arguments)
        except ConfigError as error:
            problems.append(locate(error, value))
            culprit = _culprit(error)
            if culprit not in arguments:
                return None
            del arguments[culprit]
    return None


def _culprit(error: ConfigError) -> str:
    match = _FIELD.fullmatch(str(error))
    return match.group(1) if match else ""


def locate(error: ConfigError, value: Value) -> Problem:
    """Return the error of a dataclass that was made from the mapping `value` as a problem at the guilty key's line."""
    assert isinstance(value.content, dict)
    match = _FIELD.fullmatch(str(error))
    if match is None or match.group(1) not in value.content:
        return Problem(value.place, value.path, str(error))
    guilty = value.content[match.group(1)]
    inner = match.group(2)[1:]
    if isinstance(guilty.content, dict) and inner in guilty.content:
        guilty = guilty.content[inner]
    message = match.group(3)
    if type(guilty.content) is int:  # whole numbers became floats on the way, but are named as they were written
        message = message.replace(f"got {float(guilty.content)!r},", f"got {guilty},", 1)
    return Problem(guilty.place, guilty.path, message)
