"""The JSON Schema of a run's YAML file, made from the dataclasses, so that editors complete and check it.

Types and defaults come from the annotations, descriptions from the docstrings. Bounds and choices are asked of the
dataclasses themselves: a few values are tried, and what `__post_init__` refuses is not allowed. So the schema never
drifts from the code, and where a rule is too rich for it the schema allows more than the code, never less.
"""

from __future__ import annotations

import dataclasses
import inspect
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bertcompress.config import checks
from bertcompress.config.run_config import Methods, RunConfig, known_methods
from bertcompress.config.values import MAPPINGS, SEQUENCES, fields_of, is_fixed, is_required, members
from bertcompress.downstream.settings import SEEDED, Downstream
from bertcompress.errors import ConfigError

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TYPES = {int: "integer", float: "number", bool: "boolean", str: "string", type(None): "null", Path: "string"}
_CHOICES = re.compile(r"allowed are ((?:'[^']*'(?:, )?)+)(?:\.|, )")
_PROBE = "?"  # no name of anything
_LARGE = 64


def schema(methods: Methods | None = None) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of a run's YAML file.

    Args:
        methods: method name -> compressor dataclass; bertcompress's own if left out.
    """
    from bertcompress.data.tasks import TASKS

    methods = known_methods(methods)
    about = attributes(RunConfig)
    definitions = {name: step_schema(name, cls) for name, cls in methods.items()}
    properties: dict[str, dict[str, Any]] = {
        "name": {"type": "string"},
        "task": {"anyOf": [{"type": "string", "examples": list(TASKS)}, {"$ref": "#/$defs/task"}]},
        "teacher": {"$ref": "#/$defs/teacher"},
        "compress": {"type": "array", "items": {"$ref": "#/$defs/step"}},
        "evaluate": {"type": "array", "minItems": 1, "items": {"enum": list(checks.EVALUATIONS)}},
        "downstream": {"$ref": "#/$defs/downstream"},
        "export": {"type": "array", "items": {"enum": list(checks.EXPORTS)}},
        "seed": {"type": ["integer", "null"], "minimum": 0, "maximum": 2**32 - 1},
        "output": {"type": ["string", "null"]},
    }
    return {
        "$schema": DIALECT,
        "title": "bertcompress run",
        "description": first_sentence(RunConfig),
        "type": "object",
        "additionalProperties": False,
        "required": ["task", "teacher"],
        "properties": {name: {**rule, "description": about[name]} for name, rule in properties.items()},
        "$defs": {
            "task": _task_schema(),
            "teacher": _teacher_schema(methods["fine_tune"]),
            "downstream": _downstream_schema(methods["fine_tune"]),
            "step": _choice_of_steps(methods),
            **definitions,
        },
    }


def step_schema(name: str, cls: type[Any]) -> dict[str, Any]:
    """Return the schema of one step: `method:` and the dataclass's fields."""
    known = fields_of(cls)
    about = attributes(cls)
    properties = {"method": {"const": name, "description": first_sentence(cls)}}
    for key, (hint, field) in known.items():
        properties[key] = field_schema(cls, key, hint)
        if key in about:
            properties[key]["description"] = about[key]
        if not is_required(field):
            properties[key]["default"] = _json(default_of(field))
    required = [key for key, (_, field) in known.items() if is_required(field)]
    return {
        "title": name,
        "description": first_sentence(cls),
        "type": "object",
        "additionalProperties": False,
        "required": ["method", *required],
        "properties": properties,
    }


def _choice_of_steps(methods: Methods) -> dict[str, Any]:
    """Pick the step's schema by its method, so that an editor complains about that one method only."""
    return {
        "type": "object",
        "required": ["method"],
        "properties": {"method": {"enum": list(methods), "description": "the compression method"}},
        "allOf": [
            {
                "if": {"properties": {"method": {"const": name}}, "required": ["method"]},
                "then": {"$ref": f"#/$defs/{name}"},
            }
            for name in methods
        ],
    }


def _teacher_schema(fine_tune: type[Any]) -> dict[str, Any]:
    result = step_schema("teacher", fine_tune)
    about = "a folder, a folder under $BERTCOMPRESS_DATA, minilm-l6, or a name on the Hugging Face hub"
    model = {"type": "string", "description": about, "examples": ["minilm-l6"]}
    properties = {key: rule for key, rule in result["properties"].items() if key != "method"}
    required = [key for key in result["required"] if key != "method"]
    return {**result, "required": ["model", *required], "properties": {"model": model, **properties}}


def _downstream_schema(fine_tune: type[Any]) -> dict[str, Any]:
    own = step_schema("downstream", Downstream)
    tuning = step_schema("downstream", fine_tune)["properties"]
    task = {"anyOf": [{"type": "string"}, {"$ref": "#/$defs/task"}]}
    models = [{"enum": ["all", "last"]}, {"type": "array", "items": {"type": "string"}, "minItems": 1}]
    names = [name for name in tuning if name not in ("method", *SEEDED)]
    grid = {"type": "object", "properties": {name: {"type": "array", "minItems": 1} for name in names}}
    special: dict[str, dict[str, Any]] = {
        "tasks": {"type": "array", "items": task, "minItems": 1},
        "models": {"anyOf": models},
        "grid": {**grid, "additionalProperties": False},
    }
    properties = {key: rule for key, rule in own["properties"].items() if key not in ("method", "fine_tune")}
    for key, rule in special.items():
        kept = {each: properties[key][each] for each in ("description", "default") if each in properties[key]}
        properties[key] = rule | kept
    properties |= {name: tuning[name] for name in names}
    return {**own, "required": ["tasks"], "properties": properties}


def _task_schema() -> dict[str, Any]:
    from bertcompress.data.mapping import KEYS

    column = {"type": ["string", "integer"]}
    columns = {"anyOf": [column, {"type": "array", "items": column}]}
    special: dict[str, Any] = {
        "name": {"type": "string"},
        "kind": {"enum": list(checks.task_kinds())},
        "metric": {"type": "string"},
    }
    special |= {split: {"type": "string", "description": "a file, relative to this one"} for split in checks.SPLITS}
    special |= {"data": {"type": "string", "description": "a folder that `datasets` saved, with all splits"}}
    special |= {"id": {"type": ["string", "integer", "boolean"]}, "encoding": {"type": "string"}}
    special |= {"text": columns, "label": columns, "columns": {"type": "array"}, "labels": {"type": "array"}}
    return {
        "title": "task",
        "description": "A task of one's own.",
        "type": "object",
        "additionalProperties": False,
        "required": ["kind"],
        "properties": {key: special.get(key, {}) for key in KEYS},
    }


def field_schema(cls: type[Any], name: str, hint: Any) -> dict[str, Any]:
    """Return the schema of one field, with the bounds and choices that the dataclass enforces."""
    rules = [_type_schema(option) for option in members(hint)]
    for rule in rules:
        if rule.get("type") in ("integer", "number"):
            rule.update(_bounds(cls, name, rule["type"] == "integer"))
        elif rule == {"type": "string"} and (names := _names(cls, name)):
            rule["enum"] = names
    return rules[0] if len(rules) == 1 else {"anyOf": rules}


def _type_schema(hint: Any) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint) or hint, typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if origin in MAPPINGS:
        inner = _any_of(arguments[1]) if arguments else {}
        return {"type": "object", "additionalProperties": inner}
    if is_fixed(hint):
        count = len(arguments)
        return {"type": "array", "prefixItems": list(map(_any_of, arguments)), "minItems": count, "maxItems": count}
    if origin in SEQUENCES:
        return {"type": "array", "items": _any_of(arguments[0])} if arguments else {"type": "array"}
    return {"type": _TYPES[origin]} if origin in _TYPES else {}


def _any_of(hint: Any) -> dict[str, Any]:
    rules = [_type_schema(option) for option in members(hint)]
    return rules[0] if len(rules) == 1 else {"anyOf": rules}


def _refusal(cls: type[Any], name: str, value: Any) -> str | None:
    """Return why the dataclass refuses a value of one field, or None if it takes it.

    Fields without a default get the value 1: the smallest size of everything.
    """
    required = {key: 1 for key, (_, field) in fields_of(cls).items() if is_required(field)}
    try:
        cls(**{**required, name: value})
    except ConfigError as error:
        return str(error)
    except (TypeError, ValueError, AttributeError):  # a dataclass that does not expect a value of this type
        return f"{name} of type {type(value).__name__}"
    return None


def _bounds(cls: type[Any], name: str, whole: bool) -> dict[str, float]:
    """Return minimum and maximum of a number, by trying values around 0 and 1."""
    tried = range(-1, _LARGE + 1) if whole else (-1.0, 0.0, 1e-9, 0.5, 1.0, 1.0 + 1e-9, 2.0, float(_LARGE))
    taken = [value for value in tried if _refusal(cls, name, value) is None]
    ends = {float(_LARGE)} if whole else {float(_LARGE), 1.0}
    if not taken or taken != list(tried)[list(tried).index(taken[0]) :][: len(taken)] or taken[-1] not in ends:
        return {}  # with gaps: a rule that bounds cannot express
    result: dict[str, float] = {}
    if taken[0] == 1e-9:
        result["exclusiveMinimum"] = 0
    elif taken[0] > -1:
        result["minimum"] = int(taken[0]) if taken[0] == int(taken[0]) else taken[0]
    if taken[-1] == 1.0 and not whole:
        result["maximum"] = 1
    return result


def _names(cls: type[Any], name: str) -> list[str]:
    """Return the texts that the refusal of an impossible one lists, if the dataclass really takes each."""
    match = _CHOICES.search(_refusal(cls, name, _PROBE) or "")
    names = re.findall("'([^']*)'", match.group(1)) if match else []
    return names if all(_refusal(cls, name, each) is None for each in names) else []


def default_of(field: dataclasses.Field[Any]) -> Any:
    """Return a field's default value."""
    if field.default is not dataclasses.MISSING:
        return field.default
    return field.default_factory() if field.default_factory is not dataclasses.MISSING else None


def _json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json(each) for each in value]
    return value


def first_sentence(cls: type[Any]) -> str:
    """Return the first paragraph of a class's docstring in one line."""
    return " ".join((inspect.getdoc(cls) or "").split("\n\n")[0].split())


def attributes(cls: type[Any]) -> dict[str, str]:
    """Return field -> description out of the `Attributes:` (or `Args:`) sections of a class and its bases."""
    result: dict[str, str] = {}
    for each in reversed(cls.__mro__):
        lines = inspect.cleandoc(each.__dict__.get("__doc__") or "").splitlines()
        inside, name = False, ""
        for line in lines:
            if line in ("Attributes:", "Args:"):
                inside = True
            elif line and not line.startswith(" "):
                inside = False
            elif inside and (match := re.match(r"    (\w+)(?: \([^)]*\))?: (.*)", line)):
                name = match.group(1)
                result[name] = match.group(2)
            elif inside and name and line.startswith("      "):
                result[name] += " " + line.strip()
    return result
