from __future__ import annotations

import copy
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bertcompress.data.squad import load_squad_files, read_squad
from bertcompress.errors import DataError

CONTEXT = "Ada Lovelace wrote notes in 1843. 😀 She lived in London."


def answer(text: str, start: int | None = None) -> dict[str, Any]:
    return {"text": text, "answer_start": CONTEXT.index(text) if start is None else start}


def content() -> dict[str, Any]:
    questions = [
        {"id": "a", "question": "Who wrote?", "answers": [answer("Ada Lovelace"), answer("Ada")]},
        {"id": "b", "question": "Where? ", "answers": [answer("London")]},
    ]
    return {"version": "1.1", "data": [{"title": "Ada", "paragraphs": [{"context": CONTEXT, "qas": questions}]}]}


def questions_of(value: dict[str, Any]) -> list[dict[str, Any]]:
    return value["data"][0]["paragraphs"][0]["qas"]


def write(path: Path, value: object) -> Path:
    raw = (value if isinstance(value, str) else json.dumps(value)).encode()
    path.write_bytes(gzip.compress(raw) if path.suffix == ".gz" else raw)
    return path


@pytest.mark.parametrize("name", ["dev.json", "dev.json.gz"])
def test_answers_stand_where_they_say(tmp_path: Path, name: str) -> None:
    found = read_squad(write(tmp_path / name, content()))
    assert [row["id"] for row in found.rows] == ["a", "b"]
    assert found.rows[0]["answers"] == {"text": ["Ada Lovelace", "Ada"], "answer_start": [0, 0]}
    assert found.rows[1]["question"] == "Where? "
    for row in found.rows:
        for text, start in zip(*row["answers"].values(), strict=True):
            assert row["context"][start : start + len(text)] == text
    assert not found.hidden
    assert found.notes == []


def test_version_2_has_impossible_questions(tmp_path: Path) -> None:
    value = content()
    questions_of(value)[0] |= {"is_impossible": False}
    plausible = {"is_impossible": True, "answers": [], "plausible_answers": [answer("1843")]}
    questions_of(value)[1] |= plausible
    questions_of(value).append({"id": "c", "question": "Why?", "is_impossible": True, "answers": [answer("notes")]})
    questions_of(value).append({"id": "d", "question": "How?", "is_impossible": True})
    task = load_squad_files("v2", {"validation": write(tmp_path / "dev.json", value)})
    assert task.unanswerable
    assert [answers["text"] for answers in task.validation["answers"]] == [["Ada Lovelace", "Ada"], [], [], []]
    assert task.describe()["splits"]["validation"]["labels"] == {"answerable": 1, "no answer": 3}


def test_hidden_answers(tmp_path: Path) -> None:
    value, emptied = content(), content()
    for question, other in zip(questions_of(value), questions_of(emptied), strict=True):
        del question["answers"]
        other |= {"answers": [], "is_impossible": False}
    files = {"validation": write(tmp_path / "dev.json", content()), "test": write(tmp_path / "test.json", value)}
    task = load_squad_files("qa", files)
    assert task.test.column_names == ["id", "question", "context"]
    assert not task.unanswerable
    assert task.scoring_split()[0] == "validation"
    assert read_squad(write(tmp_path / "emptied.json", emptied)).hidden
    with pytest.raises(DataError, match=r"test.json: no question has an answer, which only a test file may lack"):
        load_squad_files("qa", {"train": tmp_path / "test.json"})


def test_a_file_of_impossible_questions_is_not_hidden(tmp_path: Path) -> None:
    value = content()
    for question in questions_of(value):
        question |= {"answers": [], "is_impossible": True}
    assert not read_squad(write(tmp_path / "dev.json", value)).hidden
    assert load_squad_files("qa", {"test": tmp_path / "dev.json"}).unanswerable


def test_a_tenth_of_the_paragraphs_is_held_out(tmp_path: Path) -> None:
    def paragraph(number: int, copy: int) -> dict[str, Any]:
        # the second copy differs in punctuation alone
        context = f"Paragraph {number} is here" + "." * copy
        ids = [f"{number}-{copy}-{question}" for question in range(3)]
        return {
            "context": context,
            "qas": [
                {"id": name, "question": "?", "answers": [{"text": "is", "answer_start": context.index("is")}]}
                for name in ids
            ],
        }

    value = {"data": [{"paragraphs": [paragraph(number, copy) for number in range(100) for copy in (0, 1)]}]}
    task = load_squad_files("qa", {"train": write(tmp_path / "train.json", value)})
    assert len(task.train) + len(task.validation) == 600
    assert 20 <= len(task.validation) <= 120
    sides = [{context.rstrip(".") for context in split["context"]} for split in (task.train, task.validation)]
    assert not sides[0] & sides[1]
    assert any("paragraphs held out of train.json" in note for note in task.notes)


def test_one_paragraph_is_not_held_out_and_shared_ones_are_told(tmp_path: Path) -> None:
    path = write(tmp_path / "train.json", content())
    task = load_squad_files("qa", {"train": path, "test": path})
    assert task.validation is None
    assert "validation: none, as train.json has too few paragraphs to hold any out" in task.notes
    assert "test: 1 of its 1 paragraphs are also in train" in task.notes


def test_what_is_mended_is_told(tmp_path: Path) -> None:
    value = content()
    questions_of(value)[0]["answers"] = [answer("Lovelace", 5)]
    questions_of(value)[1] |= {"id": 17}
    found = read_squad(write(tmp_path / "train.json", value))
    assert found.rows[0]["answers"] == {"text": ["Lovelace"], "answer_start": [4]}
    assert found.rows[1]["id"] == "17"
    assert found.notes == [
        "train.json: 1 ids are numbers, used as texts; the first is data[0].paragraphs[0].qas[1].id",
        "train.json: 1 answers stand one or two characters beside their answer_start, which was mended; the first is "
        "data[0].paragraphs[0].qas[0].answers[0]",
    ]


AT = "data[0].paragraphs[0]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v: v.pop("data"), ": there is no 'data', its keys are [\"version\"]"),
        (lambda v: v.update(data={}), ", data: got an object, expected is a list"),
        (lambda v: v.update(data=[]), ": it holds no question"),
        (lambda v: v["data"].append(7), ", data[1]: got 7, expected is an object with 'paragraphs'"),
        (lambda v: v["data"][0].pop("paragraphs"), ", data[0]: there is no 'paragraphs', its keys are"),
        (lambda v: v["data"][0]["paragraphs"][0].update(context=None), f", {AT}.context: got null, expected is a text"),
        (lambda v: v["data"][0]["paragraphs"][0].update(context=" "), f", {AT}.context: the text is empty"),
        (lambda v: questions_of(v)[1].pop("id"), f", {AT}.qas[1]: there is no 'id'"),
        (lambda v: questions_of(v)[1].update(id=True), f", {AT}.qas[1].id: got true, expected is a text"),
        (lambda v: questions_of(v)[1].update(id="a"), f", {AT}.qas[1].id: the id 'a' is also that of {AT}.qas[0]"),
        (lambda v: questions_of(v)[0].pop("question"), f", {AT}.qas[0]: there is no 'question'"),
        (lambda v: questions_of(v)[1].pop("answers"), f", {AT}.qas[1]: there is no 'answers', and other questions"),
        (lambda v: questions_of(v)[0].update(answers="Ada"), f", {AT}.qas[0].answers: got \"Ada\", expected is a list"),
        (
            lambda v: questions_of(v)[0].update(answers=[], is_impossible=False),
            f", {AT}.qas[0]: 'is_impossible' is false, and 'answers' is empty",
        ),
        (
            lambda v: questions_of(v)[0].update(is_impossible="no"),
            f", {AT}.qas[0].is_impossible: got \"no\", expected is true or false",
        ),
        (
            lambda v: questions_of(v)[0]["answers"].append(answer("Ada", 7)),
            f", {AT}.qas[0].answers[2]: the text \"Ada\" does not stand at character 7 of the context, but at 0",
        ),
        (
            lambda v: questions_of(v)[0]["answers"].append(answer("Babbage", 0)),
            f", {AT}.qas[0].answers[2]: the text \"Babbage\" does not stand at character 0 of the context, nor",
        ),
        (
            lambda v: questions_of(v)[0]["answers"].append(answer("Ada", -1)),
            f", {AT}.qas[0].answers[2]: answer_start is -1, and the context has {len(CONTEXT)} characters",
        ),
        (
            lambda v: questions_of(v)[0]["answers"].append(answer("Ada", 10**30)),
            f", {AT}.qas[0].answers[2]: answer_start is 1000",
        ),
        (
            lambda v: questions_of(v)[0]["answers"].append(answer("", 0)),
            f", {AT}.qas[0].answers[2]: its text is empty",
        ),
        (
            lambda v: questions_of(v)[0]["answers"].append({"text": "Ada"}),
            f", {AT}.qas[0].answers[2]: there is no 'answer_start', its keys are [\"text\"]",
        ),
        (
            lambda v: questions_of(v)[0]["answers"].append({"text": "Ada", "answer_start": 0.0}),
            f", {AT}.qas[0].answers[2].answer_start: got 0.0, expected is a whole number",
        ),
        (
            lambda v: questions_of(v)[0].update(question="\ud83d?"),
            f", {AT}.qas[0].question: the text holds half of a surrogate pair",
        ),
    ],
)  # fmt: skip
def test_malformed_files_are_refused_naming_the_place(
    tmp_path: Path, change: Callable[[Any], Any], message: str
) -> None:
    value = copy.deepcopy(content())
    change(value)
    path = write(tmp_path / "dev.json", value)
    with pytest.raises(DataError) as caught:
        load_squad_files("qa", {"validation": path})
    assert str(caught.value).startswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"data":\n [}', r"dev.json, line 2: it is not JSON: Expecting value \(column 3\)"),
        ("", r"dev.json, line 1: it is not JSON"),
        ("[" * 100_000, r"dev.json: it cannot be read as JSON"),
        ('{"data": ' + "9" * 5000 + "}", r"dev.json: it cannot be read as JSON"),
        ("[1, 2]", r"dev.json: got a list, expected is an object with 'data'"),
    ],
    ids=["syntax", "empty", "deep", "huge", "list"],
)
def test_what_is_not_json_is_refused_naming_the_line(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_squad(write(tmp_path / "dev.json", text))


def test_bytes_that_cannot_be_read(tmp_path: Path) -> None:
    path = tmp_path / "dev.json"
    path.write_bytes(b'{"data": [\n"caf\xe9"]}')
    with pytest.raises(DataError, match=r"dev.json, line 2: the text is not UTF-8"):
        read_squad(path)
    cut = write(tmp_path / "cut.json.gz", content())
    cut.write_bytes(cut.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"cut.json.gz: the file is damaged"):
        read_squad(cut)
    cut.write_bytes(b"plain")
    with pytest.raises(DataError, match=r"cut.json.gz: the file is damaged"):
        read_squad(cut)
    with pytest.raises(DataError, match=r"gone.json: there is no such file"):
        read_squad(tmp_path / "gone.json")
