"""Whatever a file holds, it loads with exactly the right number of examples, or one sentence names it."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pyarrow import parquet

from bertcompress.data.base import Task
from bertcompress.data.tasks import load_task
from bertcompress.errors import ConfigError, DataError

FUZZ = settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
LABELS = ["a", "b"]
SIGNS = st.characters(codec="utf-8") | st.sampled_from("\",\t\n\r\0\ufeff\x1c\u2028\x85é'\\")
ROWS = st.lists(st.tuples(st.text(SIGNS, max_size=12), st.sampled_from(LABELS)), max_size=8)


def load(path: Path, **changes: Any) -> Task | None:
    """Return the task, or None if the file was refused in a sentence that names it."""
    base = {"kind": "classification", "validation": path.name, "text": "body", "label": "team", "labels": LABELS}
    try:
        return load_task(base | changes, relative_to=path.parent)
    except (DataError, ConfigError) as error:
        message = str(error)
    assert path.name in message
    assert message.endswith(".")
    return None


def found(path: Path, **changes: Any) -> list[tuple[str, str]] | None:
    task = load(path, **changes)
    if task is None or task.validation is None:
        return None
    rows = task.validation[:]
    return [(text, task.labels[label]) for text, label in zip(rows["text"], rows["label"], strict=True)]


@FUZZ
@given(rows=ROWS, ends=st.sampled_from(["\n", "\r\n"]), quoting=st.sampled_from([csv.QUOTE_ALL, csv.QUOTE_MINIMAL]))
def test_every_csv_that_python_writes_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str]], ends: str, quoting: int
) -> None:
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator=ends, quoting=quoting).writerows([("body", "team"), *rows])
    path = tmp_path / "t.csv"
    path.write_bytes(written.getvalue().encode())
    bad = "\0" if quoting == csv.QUOTE_ALL or ends == "\r\n" else "\0\r"  # Python quotes the signs that end its lines
    fine = bool(rows) and not any(sign in text for text, _ in rows for sign in bad)
    assert found(path) == (rows if fine else None)


@FUZZ
@given(rows=ROWS, zipped=st.booleans(), ascii_only=st.booleans())
def test_every_json_line_that_python_writes_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str]], zipped: bool, ascii_only: bool
) -> None:
    lines = [json.dumps({"team": team, "body": body}, ensure_ascii=ascii_only) + "\n" for body, team in rows]
    data = "".join(lines).encode()
    path = tmp_path / ("t.jsonl.gz" if zipped else "t.jsonl")
    path.write_bytes(gzip.compress(data) if zipped else data)
    assert found(path) == (rows or None)


@FUZZ
@given(rows=ROWS.map(lambda rows: [(re.sub("[\t\n]", " ", body), team) for body, team in rows]))
def test_every_tsv_without_tabs_and_newlines_in_its_cells_is_read_back(
    tmp_path: Path, rows: list[tuple[str, str]]
) -> None:
    path = tmp_path / "t.tsv"
    path.write_bytes("".join(f"{team}\t{body}\n" for body, team in [("body", "team"), *rows]).encode())
    fine = bool(rows) and not any(sign in body.rstrip("\r") for body, _ in rows for sign in "\r\0")
    expected = [(body.rstrip("\r"), team) for body, team in rows]
    assert found(path) == (expected if fine else None)


def mutated(data: bytes, changes: list[tuple[str, int, bytes]]) -> bytes:
    for change, at, piece in changes:
        at %= len(data) + 1
        after = {"insert": at, "replace": at + len(piece), "cut": at + 3, "end": len(data)}[change]
        data = data[:at] + (piece if change in ("insert", "replace") else b"") + data[after:]
    return data


PIECES = st.binary(max_size=4) | st.sampled_from(
    [b'"', b'""', b"\r", b"\n", b"\r\n", b"\n\n", b"\0", b",", b"\t", b"\xef\xbb\xbf", b"\xff\xfe", b"{", b"null", b"a"]
)
CHANGES = st.lists(
    st.tuples(st.sampled_from(["insert", "replace", "cut", "end"]), st.integers(0, 1000), PIECES), max_size=4
)
PLAIN = [
    ("one text", "a"),
    ('a "quoted", text', "b"),
    ("two\nlines", "a"),
    ("é and 日本", "b"),
    ("", "a"),
    ("last", "b"),
]


def valid(ending: str) -> bytes:
    """Return a file of PLAIN (without its line end, where there can be none)."""
    if ending == "parquet":
        into = io.BytesIO()
        table = pyarrow.table({"body": [body for body, _ in PLAIN], "team": [team for _, team in PLAIN]})
        parquet.write_table(table, into, compression="none")
        return into.getvalue()
    if ending == "jsonl":
        return "".join(json.dumps({"body": body, "team": team}) + "\n" for body, team in PLAIN).encode()
    if ending == "tsv":
        lines = [("body", "team"), *((body.replace("\n", " "), team) for body, team in PLAIN)]
        return "".join("\t".join(line) + "\n" for line in lines).encode()
    written = io.StringIO(newline="")
    csv.writer(written, lineterminator="\n").writerows([("body", "team"), *PLAIN])
    return written.getvalue().encode()


def counted(ending: str, data: bytes) -> int:
    """Return the number of examples by a reading of one's own that knows nothing of errors."""
    text = data.decode("utf-8-sig")
    if ending == "csv":
        return sum(1 for row in csv.reader(io.StringIO(text, newline="\n")) if row) - 1
    lines = sum(1 for line in text.split("\n") if line.strip())
    return lines - (ending == "tsv")


@FUZZ
@given(ending=st.sampled_from(["csv", "tsv", "jsonl"]), changes=CHANGES, zipped=st.booleans())
def test_a_damaged_text_file_gives_the_right_count_or_a_sentence(
    tmp_path: Path, ending: str, changes: list[tuple[str, int, bytes]], zipped: bool
) -> None:
    data = mutated(valid(ending), changes)
    path = tmp_path / (f"t.{ending}.gz" if zipped else f"t.{ending}")
    path.write_bytes(gzip.compress(data, mtime=0) if zipped else data)
    task = load(path)
    if not changes:
        assert task is not None
    if task is not None:
        assert len(task.validation) == counted(ending, data)


@FUZZ
@given(ending=st.sampled_from(["csv", "tsv", "jsonl", "parquet", "txt"]), data=st.binary(max_size=60))
@pytest.mark.parametrize("zipped", [False, True])
def test_random_bytes_give_the_right_count_or_a_sentence(
    tmp_path: Path, ending: str, data: bytes, zipped: bool
) -> None:
    path = tmp_path / (f"t.{ending}.gz" if zipped else f"t.{ending}")
    path.write_bytes(data)
    columns = {} if ending == "txt" else {"text": "body"} if ending in ("jsonl", "parquet") else {"text": 0}
    task = load(path, **{"kind": "unlabelled", "text": None, "label": None, "labels": None} | columns)
    if task is not None:
        assert not zipped
        assert len(task.validation) == counted(ending, data) + (ending == "csv" or ending == "tsv")


@FUZZ
@given(changes=CHANGES)
@pytest.mark.parametrize("ending", ["csv.gz", "parquet"])
def test_damage_in_a_packed_file_is_found_or_harmless(
    tmp_path: Path, ending: str, changes: list[tuple[str, int, bytes]]
) -> None:
    whole = valid("parquet") if ending == "parquet" else gzip.compress(valid("csv"), mtime=0)
    path = tmp_path / f"t.{ending}"
    path.write_bytes(mutated(whole, changes))
    task = load(path)
    if task is not None:
        assert len(task.validation) == len(PLAIN)
        if ending == "csv.gz":  # gzip holds a checksum, parquet as most programs write it does not
            assert task.validation["text"][:] == [body for body, _ in PLAIN]


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from([*LABELS, "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


LISTS = st.lists(st.sampled_from(["B-X", "I-X", "O", "E-X", "", "\ud800"]) | st.integers(-1, 2) | st.none(), max_size=3)


@FUZZ
@given(
    kind=st.sampled_from(["classification", "regression", "tagging"]),
    rows=st.lists(st.dictionaries(st.sampled_from(["body", "team", "id"]), VALUES | LISTS), min_size=1, max_size=4),
)
def test_values_of_any_type_give_the_right_count_or_a_sentence(
    tmp_path: Path, kind: str, rows: list[dict[str, Any]]
) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    task = load(path, kind=kind, labels=LABELS if kind == "classification" else None)
    if task is not None:
        assert len(task.validation) == len(rows)
