"""The schema allows every configuration that the code allows, and refuses most that the code refuses."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.compressors import METHODS, Distill, ExtractThenDistill, PostTrainingQuantization
from bertcompress.config import RunConfig, TeacherConfig, schema
from bertcompress.config.schema import step_schema
from bertcompress.data.yaml_positions import ConfigFileError, read_text, read_yaml
from bertcompress.errors import ConfigError
from bertcompress.training.settings import TrainingSettings

WRONG = Path(__file__).parent / "wrong"
KEYWORDS = {
    "$schema", "title", "description", "type", "additionalProperties", "required", "properties", "$defs", "$ref",
    "enum", "const", "items", "minItems", "maxItems", "prefixItems", "minimum", "maximum", "exclusiveMinimum",
    "anyOf", "allOf", "if", "then", "default", "examples",
}  # fmt: skip
TYPES = {
    "object": dict,
    "array": list,
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "null": type(None),
}
# What no schema can say, or is said by other means: files and names on this machine, sizes of the teacher, YAML itself.
BEYOND_A_SCHEMA = {
    "duplicate_key", "hidden_size_too_large", "missing_task_file", "missing_teacher_folder",
    "missing_train_file", "more_heads_than_the_teacher", "more_layers_than_the_teacher", "infinite_rate",
    "negative_weight", "mapping_of_a_layer_that_does_not_exist", "quantize_then_distil", "quantize_twice",
    "task_without_labels",
    "teacher_folder_without_config", "nine_bits", "unknown_objective", "unknown_task",
}  # fmt: skip


def conforms(value: Any, rule: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """A second, independent reading of the keywords that our schema uses."""
    assert set(rule) <= KEYWORDS
    if "$ref" in rule:
        target: Any = root
        for part in rule["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        if not conforms(value, target, root):
            return False
    types = rule.get("type", [])
    types = [types] if isinstance(types, str) else types
    if types and not any(
        isinstance(value, TYPES[name]) and (name == "boolean" or not isinstance(value, bool)) for name in types
    ):
        return False
    if "const" in rule and value != rule["const"]:
        return False
    if "enum" in rule and value not in rule["enum"]:
        return False
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        low, high, above = rule.get("minimum"), rule.get("maximum"), rule.get("exclusiveMinimum")
        if (low is not None and value < low) or (high is not None and value > high):
            return False
        if above is not None and value <= above:
            return False
    if isinstance(value, list):
        if not rule.get("minItems", 0) <= len(value) <= rule.get("maxItems", len(value)):
            return False
        first = rule.get("prefixItems", [])
        if not all(conforms(each, part, root) for each, part in zip(value, first, strict=False)):
            return False
        if not all(conforms(each, rule.get("items", {}), root) for each in value[len(first) :]):
            return False
    if isinstance(value, dict):
        known = rule.get("properties", {})
        if not set(rule.get("required", [])) <= set(value):
            return False
        for key, each in value.items():
            other = rule.get("additionalProperties", True)
            inner = known.get(key, {} if other is True else other)
            if inner is False or not conforms(each, inner, root):
                return False
    if "anyOf" in rule and not any(conforms(value, each, root) for each in rule["anyOf"]):
        return False
    for each in rule.get("allOf", []):
        if not conforms(value, each, root):
            return False
    return "if" not in rule or not conforms(value, rule["if"], root) or conforms(value, rule["then"], root)


RULES = schema()


@pytest.fixture
def rules() -> dict[str, Any]:
    return RULES


def test_the_schema_is_json_and_describes_every_field(rules: dict[str, Any]) -> None:
    assert json.loads(json.dumps(rules, allow_nan=False)) == rules
    assert rules["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for name, cls in METHODS.items():
        step = rules["$defs"][name]
        assert step["properties"]["method"]["const"] == name
        assert step["description"].endswith(".")
        if issubclass(cls, TrainingSettings):
            assert all(rule.get("description") for rule in step["properties"].values()), name


def test_bounds_and_choices_are_those_of_the_dataclasses(rules: dict[str, Any]) -> None:
    fields = rules["$defs"]["extract_then_distill"]["properties"]
    assert fields["batch_size"]["minimum"] == 1
    assert fields["max_length"]["anyOf"] == [{"type": "integer", "minimum": 2}, {"type": "null"}]
    assert (fields["warmup"]["minimum"], fields["warmup"]["maximum"]) == (0, 1)
    assert fields["temperature"]["exclusiveMinimum"] == 0
    assert fields["schedule"]["enum"] == ["linear", "cosine", "constant"]
    assert fields["num_layers"]["anyOf"] == [{"type": "integer", "minimum": 1}, {"type": "null"}]
    bits = rules["$defs"]["post_training_quantization"]["properties"]["weight_bits"]
    assert "minimum" not in bits  # 1.58, 2 to 8, or 32


STEPS = st.one_of(
    st.builds(
        Distill,
        epochs=st.floats(0, 1e6),
        learning_rate=st.floats(1e-300, 1e3),
        batch_size=st.integers(1, 10**9),
        warmup=st.floats(0, 1),
        patience=st.none() | st.integers(1, 99),
        objective=st.sampled_from(["soft", "hidden"])
        | st.dictionaries(st.sampled_from(["hard", "soft", "logits"]), st.floats(1e-9, 1e9), min_size=1),
        mapping=st.sampled_from(["uniform", "last", "skip"])
        | st.lists(st.integers(0, 12), min_size=1).map(tuple)
        | st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1).map(tuple),
        trackers=st.lists(st.text(min_size=1), max_size=2).map(tuple),
        schedule=st.sampled_from(["linear", "cosine", "constant"]),
        max_grad_norm=st.floats(0, 1e9),
        seed=st.integers(0, 2**32 - 1),
    ),
    st.builds(
        ExtractThenDistill, num_layers=st.none() | st.integers(1, 10**6), hidden_size=st.none() | st.integers(1, 10**6)
    ),
    st.sampled_from([PostTrainingQuantization(), PostTrainingQuantization(weight_bits=32, activation_bits=32)]),
)


@settings(deadline=None, max_examples=50)
@given(
    step=STEPS,
    seed=st.none() | st.integers(0, 2**32 - 1),
    metrics=st.sampled_from([("accuracy",), ("loyalty", "efficiency")]),
)
def test_whatever_the_code_accepts_the_schema_accepts(step: Any, seed: int | None, metrics: tuple[str, ...]) -> None:
    config = RunConfig(
        name="x",
        task={"kind": "classification", "train": "a.csv", "text": ["a", 1], "label": -1, "labels": ["a", "b"]},
        teacher=TeacherConfig(model="minilm-l6", fine_tune=METHODS["fine_tune"]()),
        compress=(step,),
        evaluate=metrics,
        seed=seed,
    )
    rules = RULES
    assert conforms(json.loads(json.dumps(config.to_dict())), rules, rules)


@pytest.mark.parametrize("path", sorted(WRONG.glob("*.yaml")), ids=lambda path: path.stem)
def test_the_schema_refuses_the_wrong_files(path: Path, rules: dict[str, Any]) -> None:
    try:
        value, _ = read_yaml(read_text(path), path.name)
    except ConfigFileError:
        return  # no YAML, so nothing that a schema could look at
    assert conforms(value.plain(), rules, rules) == (path.stem in BEYOND_A_SCHEMA)


def test_the_schema_itself_is_valid() -> None:
    dialect = jsonschema.Draft202012Validator
    assert list(dialect(dialect.META_SCHEMA).iter_errors(RULES)) == []
    assert list(dialect(dialect.META_SCHEMA).iter_errors({"type": "no type"}))  # it would notice


@dataclass(frozen=True, kw_only=True)
class Fancy:
    """A method of no use.

    It goes on in a second paragraph.

    Attributes:
        size: how large it is,
            in two lines.
        shape: its form.
    """

    method: ClassVar[str] = "fancy"
    size: int
    shape: Literal["round", "square"] = "round"
    even: int = 2
    pairs: tuple[tuple[int, str], ...] = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    colour: str = "red"

    def __post_init__(self) -> None:
        if self.size < 3:
            raise ConfigError(f"Fancy.size: got {self.size}, allowed is at least 3.")
        if self.even % 2:
            raise ConfigError(f"Fancy.even: got {self.even}, allowed are even numbers.")
        if self.colour == "?":
            raise ConfigError(
                f"Fancy.colour: got {self.colour!r}, allowed are 'red', 'none of these' or anything else."
            )


def test_a_rule_that_bounds_cannot_express_is_left_to_the_code() -> None:
    fields = step_schema("fancy", Fancy)["properties"]
    # The trial value of a required field is 1, which this class refuses; then nothing is known, and nothing is claimed.
    assert fields["even"] == {"type": "integer", "default": 2}
    assert fields["colour"] == {"type": "string", "default": "red"}
    assert fields["size"] == {"type": "integer", "minimum": 3, "description": "how large it is, in two lines."}
    assert fields["shape"] == {"enum": ["round", "square"], "default": "round", "description": "its form."}
    pair = {"type": "array", "prefixItems": [{"type": "integer"}, {"type": "string"}], "minItems": 2, "maxItems": 2}
    assert fields["pairs"] == {"type": "array", "items": pair, "default": []}
    assert fields["weights"] == {"type": "object", "additionalProperties": {"type": "number"}, "default": {}}
    assert step_schema("fancy", Fancy)["description"] == "A method of no use."
    assert step_schema("fancy", Fancy)["required"] == ["method", "size"]
