from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bertcompress.data.yaml_positions import ConfigFileError, Problem, Value, read_text, read_yaml, scalar, write_yaml

KEYS = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Zl", "Zp")), min_size=1, max_size=8)
LEAVES = (
    st.none()
    | st.booleans()
    | st.integers(-(10**18) + 1, 10**18 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8"))
    | st.sampled_from(
        ["on", "yes", "1e3", "5e-5", "null", "~", "0x1F", "010", "1_000", "12:30", "2024-01-01", "- a", "#"]
    )
)
TREES = st.recursive(
    LEAVES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=12
)


@settings(deadline=None)
@given(TREES)
def test_what_is_written_is_read_back(tree: object) -> None:
    value, problems = read_yaml(write_yaml(tree), "t.yaml")
    assert problems == []
    assert value.plain() == tree
    assert type(value.plain()) is type(tree)


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("5e-5", 5e-5),
        ("1E3", 1000.0),
        ("-.5", -0.5),
        ("3.", 3.0),
        ("3", 3),
        ("010", 10),
        ("+7", 7),
        ("true", True),
        ("False", False),
        ("", None),
        ("null", None),
        ("on", "on"),
        ("No", "No"),
        ("y", "y"),
        ("1_000", "1_000"),
        ("0x1F", "0x1F"),
        ("12:30:00", "12:30:00"),
        ("2024-01-01", "2024-01-01"),
        ("9" * 5000, "9" * 5000),
        ("e5", "e5"),
        ("1e", "1e"),
    ],
)
def test_scalars_follow_yaml_1_2(text: str, meaning: object) -> None:
    assert scalar(text) == meaning
    assert type(scalar(text)) is type(meaning)


def test_every_value_knows_its_line_column_and_path() -> None:
    text = (
        "# header\nteacher: {model: minilm-l6, epochs: 2}\n"
        "compress:\n  - method: distill\n\n    epochs: 1\n  - x: [a, b]\n"
    )
    top, _ = read_yaml(text, "run.yaml")
    found = {}

    def visit(value: Value) -> None:
        found[value.path] = (value.place.line, value.place.column)
        content = value.content
        for each in content.values() if isinstance(content, dict) else content if isinstance(content, list) else ():
            visit(each)

    visit(top)
    assert found == {
        "": (2, 1),
        "teacher": (2, 1),
        "teacher.model": (2, 18),
        "teacher.epochs": (2, 37),
        "compress": (3, 1),
        "compress.0": (4, 5),
        "compress.0.method": (4, 13),
        "compress.0.epochs": (6, 13),
        "compress.1": (7, 5),
        "compress.1.x": (7, 5),
        "compress.1.x.0": (7, 9),
        "compress.1.x.1": (7, 12),
    }


@pytest.mark.parametrize(
    ("text", "line", "part"),
    [
        ("a: 1\nb: *x\n", 2, "alias"),
        ("a: !!str 1\n", 1, "tag"),
        ("a: !local {}\n", 1, "tag"),
        ("a: 1\n--- \nb: 1\n", 2, "second document"),
        ("a: 1\n\tb: 2\n", 2, "tab"),
        ("a:\n  'x\n\n", 2, "quote"),
        ("a: [1,\n", 1, "brackets"),
        ("a: b: c\n", 1, "second ': '"),
        ("a: 1\n? [x]\n: 2\n", 2, "key that is a list"),
        ("a: 1\nb\n", 2, "no YAML"),
        ("a: \x07\n", 1, "no YAML"),
        ("%YAML 9.9\n---\na: 1\n", 1, "no YAML"),
        ("a: @b\n", 1, "no YAML"),
        ("[" * 30 + "]" * 30, 1, "nested deeper"),
        ("[" * 50_000, 1, "nested deeper"),
        ("{a: " * 50_000, 1, "nested deeper"),
    ],
)
def test_what_cannot_be_read_is_refused_at_its_line(text: str, line: int, part: str) -> None:
    with pytest.raises(ConfigFileError) as caught:
        read_yaml(text, "t.yaml")
    assert str(caught.value).startswith(f"t.yaml:{line}: ")
    assert part in str(caught.value)


@settings(deadline=None)
@given(st.text(max_size=60) | st.text("ab:-[]{}#&*!|>'\"%@`,?~ \t\n\r\x85", max_size=40))
def test_any_text_is_read_or_refused_with_a_line(text: str) -> None:
    problems: list[Problem] = []
    try:
        read_yaml(text, "t.yaml")
    except ConfigFileError as error:
        problems = error.problems
    assert all(1 <= problem.place.line <= len(text) + 1 for problem in problems)


def test_duplicate_keys_are_all_reported_and_the_first_counts() -> None:
    value, problems = read_yaml("a: 1\nb: {c: 1, c: 2}\na: 3\n", "t.yaml")
    assert value.plain() == {"a": 1, "b": {"c": 1}}
    assert [(problem.place.line, problem.path) for problem in problems] == [(2, "b.c"), (3, "a")]


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    path = tmp_path / "bom.yaml"
    path.write_bytes(b"\xef\xbb\xbftask: x\r\nname: y\r\n")
    value, _ = read_yaml(read_text(path), str(path))
    assert value.plain() == {"task": "x", "name": "y"}


def test_a_huge_file_is_no_configuration(tmp_path: Path) -> None:
    path = tmp_path / "huge.yaml"
    path.write_bytes(b"#" * (1 << 20) + b"\n")
    with pytest.raises(ConfigFileError, match="allowed are 1048576"):
        read_text(path)
