"""Missing cells, repeated ids, unknown labels, odd encodings and unbalanced classes each get a clear answer."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from bertcompress.data import assemble
from bertcompress.data.tasks import load_task
from bertcompress.errors import ConfigError, DataError

BASE = {"kind": "classification", "train": "train.csv", "validation": "train.csv", "text": "body", "label": "team"}
GOOD = ["body,team", "a text,x", "another,y", "a third,x"]


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def load(folder: Path, **changes: Any) -> Any:
    return load_task({key: value for key, value in (BASE | changes).items() if value is not None}, relative_to=folder)


def refused(folder: Path, message: str, *lines: str, file: str = "train.csv", **changes: Any) -> None:
    write(folder / file, *lines)
    with pytest.raises(DataError, match=message):
        load(folder, train=file, validation=file, **changes)


def test_missing_labels_are_counted_and_the_first_is_named(tmp_path: Path) -> None:
    refused(
        tmp_path, r"train.csv, line 3, column 'team': the label is missing, .* 2 of 4", *GOOD[:2], "b,", "c, ", "d,y"
    )
    rows = [{"body": "b", "team": team} for team in ("x", None, "y", float("nan"))]
    lines = [json.dumps(row) for row in rows]
    refused(
        tmp_path, r"t.jsonl, line 2, column 'team': the label is missing, as it is in 2 of 4", *lines, file="t.jsonl"
    )
    Dataset.from_dict({"body": ["b", "c"], "team": ["x", None]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match=r"t.parquet, row 2, column 'team': the label is missing, as it is in 1 of 2"):
        load(tmp_path, train="t.parquet", validation="t.parquet")


def test_missing_scores_are_refused_in_train_and_hidden_in_test(tmp_path: Path) -> None:
    regression = {"kind": "regression", "train": "r.csv", "validation": "r.csv"}
    write(tmp_path / "r.csv", "body,team", "b,1", "c,2.5")
    write(tmp_path / "hidden.csv", "body,team", "b,", "c,")
    assert load(tmp_path, **regression, test="hidden.csv").scoring_split()[0] == "validation"
    write(tmp_path / "partly.csv", "body,team", "b,1", "c,")
    with pytest.raises(DataError, match=r"partly.csv, line 3, .* is missing, .*1 of 2 .*take all labels out"):
        load(tmp_path, **regression, test="partly.csv")
    with pytest.raises(DataError, match=r"partly.csv, line 3, column 'team': the label is missing"):
        load(tmp_path, **(regression | {"train": "partly.csv"}))


def test_missing_texts_are_refused_but_empty_ones_are_told(tmp_path: Path) -> None:
    refused(tmp_path, r"t.jsonl, line 1, column 'body': got no text", '{"body": null, "team": "x"}', file="t.jsonl")
    write(tmp_path / "train.csv", *GOOD, ",y", ",x")
    assert "2 examples have an empty text, the first in" in load(tmp_path).notes[0]


def test_repeated_ids_name_both_lines(tmp_path: Path) -> None:
    lines = ["id,body,team", "7,b,x", "8,c,y", "9,d,x", "8,e,y"]
    refused(tmp_path, r"train.csv, line 5, column 'id': got '8', which is in line 3 already", *lines)
    assert len(load(tmp_path, id=False).train) == 4
    lines[0] = "ticket,body,team"
    write(tmp_path / "train.csv", *lines)
    assert len(load(tmp_path).train) == 4
    refused(tmp_path, r"train.csv, line 5, column 'ticket': got '8'", *lines, id="ticket")
    refused(tmp_path, r"there is no column 'ticket'", *GOOD, id="ticket")
    rows = [{"body": "b", "team": "x", "id": 3}, {"body": "c", "team": "y"}, {"body": "d", "team": "y", "id": "3"}]
    refused(tmp_path, r"t.jsonl, line 3, column 'id': got '3', .*line 1", *map(json.dumps, rows), file="t.jsonl")


def test_ids_are_compared_in_parts_when_there_are_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(assemble, "KEYS_AT_ONCE", 7)
    lines = [f"{number},text {number},{'xy'[number % 2]}" for number in range(100)]
    write(tmp_path / "train.csv", "id,body,team", *lines)
    write(tmp_path / "other.csv", "id,body,team", *lines[40:70], "1,TEXT 40!,x", "2,not in train,y")
    task = load(tmp_path, validation="other.csv")
    assert any("validation: 31 of 32 examples have a text that is in train as well" in note for note in task.notes)
    refused(
        tmp_path, r"line 102, column 'id': got '63', which is in line 65 already", "id,body,team", *lines, lines[63]
    )


def test_unknown_labels_name_the_line_and_what_is_allowed(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", *GOOD)
    write(tmp_path / "dev.csv", "body,team", "b,x", "c,z", "d,w")
    with pytest.raises(DataError, match=r"dev.csv, line 3, column 'team': got 'z', allowed are 'x', 'y'"):
        load(tmp_path, validation="dev.csv")
    with pytest.raises(DataError, match=r"dev.csv, line 3, column 'team': got 'z'"):
        load(tmp_path, test="dev.csv")


def test_labels_may_be_the_numbers_of_named_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "body,team", "b,1", "c,0", "d,1")
    task = load(tmp_path, labels=["bad", "good"])
    assert (task.labels, task.train["label"][:]) == (("bad", "good"), [1, 0, 1])
    with pytest.raises(DataError, match=r"line 2, column 'team': got '1', allowed are 'bad', '7'"):
        load(tmp_path, labels=["bad", "7"])
    write(tmp_path / "dev.csv", "body,team", "b,0")
    write(tmp_path / "train.csv", *GOOD)
    with pytest.raises(DataError, match=r"dev.csv, line 2, column 'team': got '0', allowed are 'x', 'y'"):
        load(tmp_path, validation="dev.csv")  # nobody said that x and y are numbers 0 and 1


def unbalanced(folder: Path, counts: dict[str, int], **changes: Any) -> list[str]:
    lines = [f"{team} {number},{team}" for team, count in counts.items() for number in range(count)]
    write(folder / "train.csv", "body,team", *lines)
    write(folder / "dev.csv", "body,team", *(f"other {team},{team}" for team in counts))
    return [note for note in load(folder, validation="dev.csv", **changes).notes if "unbalanced" in note]


def test_unbalanced_classes_are_told_with_their_counts(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="bertcompress"):
        (note,) = unbalanced(tmp_path, {"x": 91, "y": 9})
    assert "91 of 100 examples are 'x' and 9 are 'y'" in note
    assert "metric: matthews_correlation or f1" in note
    assert note in caplog.text
    assert unbalanced(tmp_path, {"x": 90, "y": 10}) == []
    (note,) = unbalanced(tmp_path, {"x": 100, "y": 100, "z": 1})
    assert "1 are 'z'" in note
    assert "f1" not in note
    (note,) = unbalanced(tmp_path, {"x": 91, "y": 9}, metric="matthews_correlation")
    assert "metric:" not in note
    assert unbalanced(tmp_path, {f"class {number}": 3 for number in range(150)}) == []
    (note,) = unbalanced(tmp_path, {"x": 5, "y": 5}, labels=["x", "y", "never"])
    assert "0 are 'never'" in note


def test_f1_is_refused_unless_there_are_two_classes(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", *GOOD)
    assert load(tmp_path, metric="f1").metric == "f1"
    message = r"task.metric: got 'f1', allowed is accuracy or matthews_correlation here, .*there are 3"
    with pytest.raises(ConfigError, match=message):
        load(tmp_path / "nowhere", metric="f1", labels=["x", "y", "z"])  # known before any file is looked at
    write(tmp_path / "train.csv", *GOOD, "d,z")
    with pytest.raises(ConfigError, match=message):
        load(tmp_path, metric="f1")


def test_another_encoding_is_named_with_line_and_byte(tmp_path: Path) -> None:
    text = 'body,team\nplain,x\n"two\nlines",y\ncaf\xe9 noir,x\n'
    (tmp_path / "train.csv").write_bytes(text.encode("cp1252"))
    at = text.index("\xe9")
    message = (
        rf"train.csv, line 5: byte {at} is not UTF-8 .*Windows-1252 would read it, as 'café noir,x'.*encoding: cp1252"
    )
    with pytest.raises(DataError, match=message):
        load(tmp_path)
    assert load(tmp_path, encoding="cp1252").train["text"][2] == "café noir"
    (tmp_path / "train.csv").write_bytes(gzip.compress(text.encode("cp1252")))
    (tmp_path / "train.csv").rename(tmp_path / "train.csv.gz")
    with pytest.raises(DataError, match=rf"train.csv.gz, line 5: byte {at} is not UTF-8"):
        load(tmp_path, train="train.csv.gz", validation="train.csv.gz")


@pytest.mark.parametrize("ending", ["csv", "tsv", "jsonl", "txt"])
@pytest.mark.parametrize("before", [0, 3, 70_000])
def test_the_bad_byte_is_found_wherever_it_stands(tmp_path: Path, ending: str, before: int) -> None:
    lines = {"csv": "ä,x\n", "tsv": "ä\tx\n", "jsonl": '{"body": "ä", "team": "x"}\n', "txt": "ä\n"}
    head = {"csv": "body,team\n", "tsv": "body\tteam\n"}.get(ending, "")
    good = (head + lines[ending] * before).encode()
    (tmp_path / f"t.{ending}").write_bytes(good + lines[ending].encode("latin-1"))
    line = good.count(b"\n") + 1
    byte = len(good) + lines[ending].index("ä")
    kind = {"kind": "unlabelled", "train": f"t.{ending}", "text": None if ending == "txt" else "body"}
    with pytest.raises(DataError, match=rf"t.{ending}, line {line}: byte {byte} is not UTF-8"):
        load(tmp_path, **kind, label=None, validation=None)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "utf-8", "shift_jis", "koi8-r"])
def test_an_encoding_that_is_given_is_respected(tmp_path: Path, encoding: str) -> None:
    words = {"shift_jis": "日本", "koi8-r": "привет"}.get(encoding, "日本 привет")
    text = f"body,team\n{words},x\nb,y\n"
    (tmp_path / "train.csv").write_bytes(text.encode(encoding))
    assert load(tmp_path, encoding=encoding).train["text"][:] == [words, "b"]
    if encoding in ("utf-16", "utf-32"):
        with pytest.raises(DataError, match=rf"line 1: byte 0 begins the byte order mark of {encoding.upper()}"):
            load(tmp_path)
    elif encoding != "utf-8":
        with pytest.raises(DataError, match=r"train.csv, line \d: (byte \d+ is not UTF-8|it holds a NUL)"):
            load(tmp_path)


def test_a_wrong_encoding_that_was_given_is_named(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", *GOOD, "日本,x")
    with pytest.raises(DataError, match=r"train.csv, line 5: byte \d+ is not ASCII"):
        load(tmp_path, encoding="ascii")


def test_other_systems_files_are_refused_or_read_right(tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_bytes("\ufeffbody,team\r\na,x\r\nb,y\r\n".encode())
    assert load(tmp_path).train["text"][:] == ["a", "b"]
    (tmp_path / "train.csv").write_bytes(b"body,team\ra,x\rb,y\r")
    with pytest.raises(DataError, match=r"train.csv, line 1: a carriage return"):
        load(tmp_path)
    (tmp_path / "t.txt").write_bytes(b"one\rtwo\r")
    with pytest.raises(DataError, match=r"t.txt, line 1: it holds a carriage return"):
        load(tmp_path, kind="unlabelled", train="t.txt", validation=None, text=None, label=None)
    (tmp_path / "train.csv").write_bytes(b"body,team\na,x\nb\0,y\n")
    with pytest.raises(DataError, match=r"train.csv, line 3: it holds a NUL"):
        load(tmp_path)


def test_half_a_character_in_json_is_refused(tmp_path: Path) -> None:
    lines = ['{"body": "fine \\ud83d\\ude00", "team": "x"}', '{"body": "half \\ud83d", "team": "y"}']
    refused(tmp_path, r"t.jsonl, line 2, column 'body': .*half of a surrogate pair", *lines, file="t.jsonl")
    lines[1] = '{"body": "b", "team": "\\udc00"}'
    refused(tmp_path, r"t.jsonl, line 2, column 'team': .*half of a surrogate pair", *lines, file="t.jsonl")


def test_labels_that_name_no_class_are_refused(tmp_path: Path) -> None:
    lines = ['{"body": "b", "team": ["x"]}', '{"body": "c", "team": "y"}']
    refused(tmp_path, r"t.jsonl, line 1, column 'team': got \['x'\], allowed is a text", *lines, file="t.jsonl")
    regression = {"kind": "regression", "file": "t.jsonl"}
    refused(tmp_path, r"line 1, column 'team': got True, .*finite", '{"body": "b", "team": true}', **regression)
    refused(tmp_path, r"line 1, column 'team': got 1000+", f'{{"body": "b", "team": 1{"0" * 400}}}', **regression)
    refused(tmp_path, r"line 1, column 'team': got inf", '{"body": "b", "team": 1e999}', **regression)


@pytest.mark.parametrize("name", ["~nobody-at-all/t.csv", "x" * 5000, "gone.csv", "a\udcffb.csv"])
def test_paths_that_cannot_be_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises((ConfigError, DataError), match=r"task.train: got '|: there is no such file"):
        load(tmp_path, train=name)


def test_yaml_is_read_as_in_a_configuration(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "body,team", "b,yes", "c,no", "d,5e-5")
    lines = ["kind: classification", "train: train.csv", "validation: train.csv", "text: body", "label: team"]
    write(tmp_path / "t.yaml", *lines, "labels: [no, yes, 5e-5]")
    with pytest.raises(ConfigError, match=r"labels: got 5e-05, allowed is a text"):
        load_task(tmp_path / "t.yaml")
    write(tmp_path / "t.yaml", *lines, 'labels: [no, yes, "5e-5"]')
    assert load_task(tmp_path / "t.yaml").labels == ("no", "yes", "5e-5")
    write(tmp_path / "t.yaml", *lines, "labels: [true, false]")
    with pytest.raises(ConfigError, match=r"labels: got True, allowed is .* in quotes"):
        load_task(tmp_path / "t.yaml")
