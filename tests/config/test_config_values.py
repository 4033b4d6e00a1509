from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from bertcompress.config.values import MISSING, build, describe, read
from bertcompress.data.yaml_positions import Problem, read_yaml
from bertcompress.errors import ConfigError


def parse(text: str, hint: Any) -> tuple[Any, list[str]]:
    value, _ = read_yaml(text, "t.yaml", path="key")
    problems: list[Problem] = []
    return read(value, hint, problems), [str(problem) for problem in problems]


@pytest.mark.parametrize(
    ("text", "hint", "expected"),
    [
        ("3", int, 3),
        ("3", float, 3.0),
        ("5e-5", float, 5e-5),
        ("true", bool, True),
        ("on", str, "on"),
        ("'3'", str, "3"),
        ("", int | None, None),
        ("3", int | None, 3),
        ("3", str | int, 3),
        ("[1, 2]", tuple[int, ...], (1, 2)),
        ("[1, 2]", list[float], [1.0, 2.0]),
        ("[1, 2]", Sequence[int], (1, 2)),
        ("[1, x]", tuple[int, str], (1, "x")),
        ("[[1, 2], [3, 4]]", str | Sequence[int] | Sequence[Sequence[int]], ((1, 2), (3, 4))),
        ("{a: 1, b: 2.5}", Mapping[str, float], {"a": 1.0, "b": 2.5}),
        ("{a: [1]}", dict[str, Any], {"a": [1]}),
        ("uniform", Literal["uniform", "last"] | list[int], "uniform"),
        ("x/y", Path, Path("x/y")),
        ("{a: null}", Any, {"a": None}),
    ],
)
def test_values_become_what_the_annotation_says(text: str, hint: Any, expected: object) -> None:
    result, problems = parse(text, hint)
    assert problems == []
    assert result == expected
    assert type(result) is type(expected)


@pytest.mark.parametrize(
    ("text", "hint", "message"),
    [
        ("true", int, "t.yaml:1: key: got True, allowed is a whole number."),
        ("3.0", int, "t.yaml:1: key: got 3.0, allowed is a whole number."),
        ("true", float, "t.yaml:1: key: got True, allowed is a number."),
        (".nan", float, "t.yaml:1: key: got nan, allowed is a number; it has to be finite."),
        ("1e999", float, "t.yaml:1: key: got inf, allowed is a number; it has to be finite."),
        ("'3'", int, "t.yaml:1: key: got '3' (text), allowed is a whole number."),
        (
            "yes",
            bool,
            "t.yaml:1: key: got 'yes' (text), allowed is true or false; YAML 1.2 has no on, off, yes and no.",
        ),
        ("1", bool, "t.yaml:1: key: got 1, allowed is true or false."),
        ("2024", str, "t.yaml:1: key: got 2024, allowed is text; put it in quotes."),
        ("", str, "t.yaml:1: key: got nothing, allowed is text."),
        ("{a: 1}", str, "t.yaml:1: key: got a mapping with a, allowed is text."),
        ("a", list[int], "t.yaml:1: key: got 'a' (text), allowed is a list of whole numbers."),
        ("[1,\n true]", tuple[int, ...], "t.yaml:2: key.1: got True, allowed is a whole number."),
        ("[1]", tuple[int, int], "t.yaml:1: key: got [1], allowed is a list of 2 (a whole number, a whole number)."),
        ("a: 1\nb: c", Mapping[str, float], "t.yaml:2: key.b: got 'c' (text), allowed is a number."),
        (
            "unifrm",
            Literal["uniform", "last"],
            "t.yaml:1: key: got 'unifrm' (text), allowed is 'uniform', 'last'; did you mean 'uniform'?",
        ),
        (
            "[[1, 2],\n [3, x]]",
            str | Sequence[int] | Sequence[Sequence[int]],
            "t.yaml:2: key.1.1: got 'x' (text), allowed is a whole number.",
        ),
    ],
)
def test_a_wrong_type_is_refused_with_what_was_got_and_what_is_allowed(text: str, hint: Any, message: str) -> None:
    result, problems = parse(text, hint)
    assert result is MISSING
    assert problems == [message]


def test_types_read_as_english() -> None:
    assert describe(str | Sequence[int] | Sequence[Sequence[int]] | None) == (
        "text or a list of whole numbers or a list of lists of whole numbers or null"
    )
    assert describe(str | Mapping[str, float]) == "text or a mapping of names to numbers"
    assert describe(Literal["a", "b"]) == "'a', 'b'"


@dataclass(frozen=True, kw_only=True)
class Sizes:
    width: int
    rate: float = 0.5
    weights: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ConfigError(f"Sizes.width: got {self.width}, allowed is at least 1.")
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"Sizes.rate: got {self.rate!r}, allowed is 0 to 1.")
        for name, weight in self.weights.items():
            if weight < 0:
                raise ConfigError(f"Sizes.weights.{name}: got {weight!r}, allowed is at least 0.")
        if self.seed > self.width:
            raise ConfigError("Sizes: seed and width do not fit together.")


def construct(text: str, **settings: Any) -> tuple[Sizes | None, list[str]]:
    value, _ = read_yaml(text, "t.yaml", path="step")
    problems: list[Problem] = []
    result = build(Sizes, value, problems, **settings)
    return result, [str(problem) for problem in problems]


def test_a_mapping_becomes_the_dataclass_and_defaults_fill_what_it_leaves_out() -> None:
    assert construct("width: 9\nseed: 4", defaults={"seed": 7, "rate": 0.25, "other": 1}) == (
        Sizes(width=9, rate=0.25, seed=4),
        [],
    )


def test_all_that_a_dataclass_refuses_is_found_at_once() -> None:
    result, problems = construct("rate: 3\nweights:\n  soft: -1\nwdth: 4\nwidth: 5\nseed: no")
    assert result is None
    assert sorted(problems) == [
        "t.yaml:1: step.rate: got 3, allowed is 0 to 1.",
        "t.yaml:3: step.weights.soft: got -1, allowed is at least 0.",
        "t.yaml:4: step.wdth: got the unknown key 'wdth', did you mean 'width'? "
        "Allowed are width, rate, weights, seed.",
        "t.yaml:6: step.seed: got 'no' (text), allowed is a whole number.",
    ]


def test_a_required_field_that_is_missing_or_refused_is_reported_once() -> None:
    assert construct("rate: 1")[1] == [
        "t.yaml:1: step.width: got no 'width', which is needed; allowed is a whole number."
    ]
    assert construct("rate: 1\nwidth: 0")[1] == ["t.yaml:2: step.width: got 0, allowed is at least 1."]


def test_a_refusal_of_several_fields_together_stands_at_the_step() -> None:
    assert construct("width: 1\nseed: 2") == (None, ["t.yaml:1: step: Sizes: seed and width do not fit together."])
