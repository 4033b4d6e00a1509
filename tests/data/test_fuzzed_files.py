"""Generated files: each either loads with the right counts, or is refused with a sentence that names it."""

from __future__ import annotations

import gzip
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertcompress.data.base import Task
from bertcompress.data.conll_task import load_conll_files
from bertcompress.data.squad import load_squad_files
from bertcompress.errors import ConfigError, DataError

unchecked = (HealthCheck.function_scoped_fixture, HealthCheck.too_slow)  # every example writes its own file
some = settings(max_examples=110, suppress_health_check=unchecked)
many = settings(max_examples=450, suppress_health_check=unchecked)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def loaded(path: Path, load: Callable[[], Task]) -> Task | None:
    """Return the task, or None if it is refused as it should be; whatever else is raised fails the test."""
    try:
        return load()
    except (ConfigError, DataError) as error:
        message = str(error)
    assert path.name in message
    assert "\n" not in message
    return None


WORD = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc", "Zs", "Zl", "Zp")), min_size=1, max_size=6)
PLAIN_WORD = WORD.filter(lambda word: not word.startswith(("#", "-DOCSTART-", "\ufeff")))
SPAN_TAG = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC"])
PART_OF_SPEECH = st.sampled_from(["NN", "VB", "#", "-LRB-", "O"])


@st.composite
def sentences(draw: st.DrawFn) -> list[list[tuple[str, str, str]]]:
    """Sentences of word, part of speech and tag; two of them differ in their tags, as a task needs."""
    row = st.tuples(PLAIN_WORD, PART_OF_SPEECH, SPAN_TAG)
    found = draw(st.lists(st.lists(row, min_size=1, max_size=5), max_size=5))
    return [[("a", "NN", "B-PER"), ("b", "VB", "O")], *found]


@st.composite
def columns(draw: st.DrawFn, rows: list[list[tuple[str, str, str]]]) -> str:
    """Write sentences as a column file, with all that such files have between the lines."""
    separator = draw(st.sampled_from([" ", "\t"]))
    end = draw(st.sampled_from(["\n", "\r\n"]))
    text = draw(st.sampled_from(["", "\ufeff", end, "-DOCSTART- -X- O" + end + end]))
    for sentence in rows:
        text += draw(st.sampled_from(["", "# id" + end, "# text = some thing else" + end]))
        text += "".join(separator.join(fields) + end for fields in sentence)
        text += draw(st.sampled_from([end, end + end, " \t" + end, end + "-DOCSTART- -X- O" + end + end]))
    return text


CONTEXT = st.text(st.characters(codec="utf-8"), min_size=1, max_size=30).filter(str.strip)


@st.composite
def squad(draw: st.DrawFn) -> dict[str, Any]:
    """A valid file of one question or more."""
    paragraphs, number = [], 0
    for context in draw(st.lists(CONTEXT, min_size=1, max_size=4)):
        questions = []
        for answered in draw(st.lists(st.booleans(), max_size=3)) if paragraphs else [True]:
            start = draw(st.integers(0, len(context) - 1))
            text = context[start : start + draw(st.integers(1, len(context)))]
            answers = [{"text": text, "answer_start": start}] if answered and text.strip() else []
            questions.append(
                {"id": str(number), "question": draw(WORD), "answers": answers, "is_impossible": not answers}
            )
            number += 1
        paragraphs.append({"context": context, "qas": questions})
    at = draw(st.integers(0, len(paragraphs)))
    return {"version": "x", "data": [{"paragraphs": paragraphs[:at]}, {"title": "t", "paragraphs": paragraphs[at:]}]}


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(st.characters(), max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


def places(value: object) -> Iterator[tuple[Any, Any]]:
    """Yield every container of a JSON value with each of its keys."""
    for key in list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield value, key
        yield from places(value[key])  # type: ignore[index]


@st.composite
def damaged(draw: st.DrawFn, raw: bytes) -> bytes:
    """Bytes that were cut, or had some bytes replaced, put in or taken out."""
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        kind = draw(st.sampled_from(["cut", "replace", "insert", "remove", "line", "swap"]))
        if kind == "cut":
            raw = raw[:at]
        elif kind == "remove":
            raw = raw[:at] + raw[at + draw(st.integers(1, 8)) :]
        elif kind == "swap":
            raw = raw[:at] + raw[at:].replace(b"\t", b" ", 1)
        else:
            new = (
                draw(st.sampled_from([b"\n", b"\tO\n", b"# x\n", b"\x00"]))
                if kind == "line"
                else draw(st.binary(max_size=3))
            )
            raw = raw[:at] + new + raw[at + (len(new) if kind == "replace" else 0) :]
    return raw


def examples(task: Task) -> int:
    return sum(len(data) for data in task.splits.values())


@some
@given(data=st.data())
def test_valid_column_files_load_with_all_words_and_tags(data: st.DataObject, tmp_path: Path) -> None:
    rows = data.draw(sentences())
    raw = data.draw(columns(rows)).encode()
    packed = data.draw(st.booleans())
    path = tmp_path / ("fuzzed.tsv.gz" if packed else "fuzzed.tsv")
    path.write_bytes(gzip.compress(raw) if packed else raw)
    task = load_conll_files("fuzzed", {"test": path}, tag=1)
    assert task.test["words"][:] == [[word for word, _, _ in sentence] for sentence in rows]
    assert [[task.labels[tag] for tag in tags] for tags in task.test["tags"]] == [
        [part for _, part, _ in sentence] for sentence in rows
    ]
    spans = load_conll_files("fuzzed", {"train": path, "validation": path}, scheme="IOB2")
    assert [[spans.labels[tag] for tag in tags] for tags in spans.train["tags"]] == [
        [tag for _, _, tag in sentence] for sentence in rows
    ]


@many
@given(data=st.data())
def test_damaged_column_files(data: st.DataObject, tmp_path: Path) -> None:
    packed = data.draw(st.booleans())
    suffix = data.draw(st.sampled_from([".tsv", ".conllu"])) + ".gz" * packed
    raw = data.draw(columns(data.draw(sentences()))).encode()
    if ".conllu" in suffix:
        raw = (
            b"".join(b"%d\tw\tl\tNOUN\tNN\t_\t0\troot\t_\t_\n" % at for at in (1, 2))
            + b"\n"
            + raw * data.draw(st.integers(0, 1))
        )
    raw = data.draw(damaged(raw)) if data.draw(st.booleans()) or not packed else raw
    path = tmp_path / f"fuzzed{suffix}"
    path.write_bytes(
        data.draw(damaged(gzip.compress(raw)))
        if packed and data.draw(st.booleans())
        else gzip.compress(raw)
        if packed
        else raw
    )
    task = loaded(path, lambda: load_conll_files("fuzzed", {"train": path}))
    if task is None:
        return
    content = (gzip.decompress(path.read_bytes()) if packed else path.read_bytes()).decode("utf-8-sig")
    lines = [line for line in content.split("\n") if line.strip() and not line.startswith("-DOCSTART-")]
    comments = sum(line.startswith("#") for line in lines)
    words = [len(words) for split in task.splits.values() for words in split["words"]]
    assert len(lines) - comments <= sum(words) + content.count("-DOCSTART-") <= len(lines) + content.count("-DOCSTART-")
    assert words == [len(tags) for split in task.splits.values() for tags in split["tags"]]


@some
@given(data=st.data())
def test_valid_squad_files_load_with_all_questions(data: st.DataObject, tmp_path: Path) -> None:
    value = data.draw(squad())
    packed = data.draw(st.booleans())
    path = tmp_path / ("fuzzed.json.gz" if packed else "fuzzed.json")
    raw = json.dumps(
        value, ensure_ascii=data.draw(st.booleans()), indent=data.draw(st.sampled_from([None, 1]))
    ).encode()
    path.write_bytes(gzip.compress(raw) if packed else raw)
    task = load_squad_files("fuzzed", {"test": path})
    wanted = [
        (question["id"], question["question"], paragraph["context"], [answer["text"] for answer in question["answers"]])
        for article in value["data"]
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]
    assert [(row["id"], row["question"], row["context"], row["answers"]["text"]) for row in task.test] == wanted
    for row in task.test:
        for text, start in zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True):
            assert row["context"].startswith(text, start)
    assert task.unanswerable == any(not texts for *_, texts in wanted)


@many
@given(data=st.data())
def test_damaged_squad_files(data: st.DataObject, tmp_path: Path) -> None:
    value: Any = data.draw(squad())
    for _ in range(data.draw(st.integers(0, 2))):
        holder, key = data.draw(st.sampled_from(list(places(value)) or [([None], 0)]))
        if data.draw(st.booleans()):
            holder[key] = data.draw(JUNK)
        else:
            del holder[key]
    raw = json.dumps(value).encode()
    packed = data.draw(st.booleans())
    raw = gzip.compress(raw) if packed else raw
    raw = data.draw(damaged(raw)) if data.draw(st.booleans()) else raw
    path = tmp_path / ("fuzzed.json.gz" if packed else "fuzzed.json")
    path.write_bytes(raw)
    task = loaded(path, lambda: load_squad_files("fuzzed", {"test": path}))
    if task is None:
        return
    content = json.loads((gzip.decompress(raw) if packed else raw).decode("utf-8-sig"))
    questions = [
        question for article in content["data"] for paragraph in article["paragraphs"] for question in paragraph["qas"]
    ]
    assert task.test["question"][:] == [question["question"] for question in questions]


@settings(max_examples=100, suppress_health_check=unchecked)
@given(
    raw=st.binary(max_size=60),
    suffix=st.sampled_from([".json", ".tsv", ".conllu"]),
    pack=st.sampled_from(["", ".gz", "packed"]),
)
def test_any_bytes(raw: bytes, suffix: str, pack: str, tmp_path: Path) -> None:
    path = tmp_path / f"fuzzed{suffix}{'.gz' if pack else ''}"
    path.write_bytes(gzip.compress(raw) if pack == "packed" else raw)
    load = load_squad_files if suffix == ".json" else load_conll_files
    loaded(path, lambda: load("fuzzed", {"test": path}))
