from __future__ import annotations

import gzip
import json
import logging
import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from bertcompress.data.tasks import load_task
from bertcompress.errors import ConfigError, DataError

ROWS = [("the printer burns", "hardware"), ('a "quoted", odd one', "billing"), ("refund me\nnow", "billing")]


def write_rows(path: Path) -> None:
    """Write ROWS with the columns body and team in the format that the name asks for."""
    ending = path.name.removesuffix(".gz").rpartition(".")[2]
    plain = path.with_name("plain." + ending)
    if ending == "csv":
        quoted = ['"' + body.replace('"', '""') + f'",{team}\r\n' for body, team in ROWS]
        plain.write_bytes(("body,team\r\n" + "".join(quoted)).encode())
    elif ending == "tsv":
        plain.write_text("body\tteam\n" + "".join(f"{body}\t{team}\n".replace("\nnow", " now") for body, team in ROWS))
    elif ending == "jsonl":
        plain.write_text("".join(json.dumps({"team": team, "body": body}) + "\n" for body, team in ROWS))
    else:
        Dataset.from_dict({"body": [row[0] for row in ROWS], "team": [row[1] for row in ROWS]}).to_parquet(plain)
    data = plain.read_bytes()
    plain.unlink()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def mapping(**changes: Any) -> dict[str, Any]:
    base = {"kind": "classification", "train": "train.csv", "validation": "train.csv", "text": "body", "label": "team"}
    return {key: value for key, value in (base | changes).items() if value is not None}


def write(path: Path, *lines: str) -> None:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


@pytest.mark.parametrize("ending", [kind + gz for kind in ("csv", "tsv", "jsonl", "parquet") for gz in ("", ".gz")])
def test_every_format_gives_the_same_examples(tmp_path: Path, ending: str) -> None:
    write_rows(tmp_path / f"train.{ending}")
    task = load_task(mapping(train=f"train.{ending}", validation=f"train.{ending}"), relative_to=tmp_path)
    texts = [body.replace("\n", " ") if ending.startswith("tsv") else body for body, _ in ROWS]
    assert task.train[:] == {"text": texts, "label": [1, 0, 0]}
    assert task.labels == ("billing", "hardware")
    assert (task.name, task.kind, task.metric) == ("train", "classification", "accuracy")


def test_a_yaml_file_describes_files_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    write_rows(tmp_path / "data/train.csv")
    lines = ["name: tickets", "kind: classification", "train: data/train.csv", "text: body", "label: team"]
    write(tmp_path / "tickets.yaml", *lines, "labels: [hardware, billing]", "validation: data/train.csv")
    write(tmp_path / "whole.yml", "task:", *("  " + line for line in lines), "teacher: {model: minilm-l6}")
    monkeypatch.chdir("/")
    task = load_task(tmp_path / "tickets.yaml")
    assert task.name == "tickets"
    assert task.labels == ("hardware", "billing")
    assert task.train["label"][:] == [0, 1, 1]
    assert load_task(tmp_path / "whole.yml").name == "tickets"


def test_txt_is_one_text_per_line(tmp_path: Path) -> None:
    write(tmp_path / "lines.txt", *(f"text {number}" for number in range(100)), "", "last\u2028one")
    task = load_task({"kind": "unlabelled", "train": "lines.txt"}, relative_to=tmp_path)
    assert len(task.train) + len(task.validation) == 101
    assert "label" not in task.train.column_names
    assert task.metric == ""
    assert "last\u2028one" in task.train["text"][:] + task.validation["text"][:]


def test_validation_left_out_is_a_tenth_of_train_by_text(tmp_path: Path) -> None:
    lines = [f"text {number // 2},{number % 2}" for number in range(2000)]  # each text twice
    write(tmp_path / "train.csv", "body,team", *lines)
    task = load_task(mapping(validation=None), relative_to=tmp_path)
    assert 150 < len(task.validation) < 250
    assert len(task.train) + len(task.validation) == 2000
    assert not set(task.train["text"][:]) & set(task.validation["text"][:])
    assert "held out" in task.notes[0]


def test_one_text_alone_cannot_be_split(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "body,team", "same,a", "Same!,b")
    with pytest.raises(DataError, match="too few different texts"):
        load_task(mapping(validation=None), relative_to=tmp_path)


def test_columns_by_number_in_files_without_header(tmp_path: Path) -> None:
    write(tmp_path / "train.tsv", "1\tx\tgood", "0\ty\tbad")
    numbers = mapping(train="train.tsv", validation="train.tsv", text=-1, label=0)
    assert load_task(numbers, relative_to=tmp_path).train[:] == {"text": ["good", "bad"], "label": [1, 0]}
    named = mapping(train="train.tsv", validation="train.tsv", columns=["team", "id", "body"])
    assert (
        load_task(named, relative_to=tmp_path).fingerprint() == load_task(numbers, relative_to=tmp_path).fingerprint()
    )


def test_a_header_read_as_an_example_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "body,team", *(f"text {number},{'ab'[number % 2]}" for number in range(30)))
    with pytest.raises(DataError, match=r"train.csv, line 1: the label is 'team'.*header"):
        load_task(mapping(text=0, label=1), relative_to=tmp_path)


def test_pairs(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "first,second,team", "a,b,0", "c,d,1")
    task = load_task(mapping(text=["second", "first"]), relative_to=tmp_path)
    assert task.train[:] == {"text": ["b", "d"], "text_pair": ["a", "c"], "label": [0, 1]}


def test_numeric_labels_are_in_numeric_order_whatever_their_type(tmp_path: Path) -> None:
    rows = [{"body": "x", "team": team} for team in (10, 9.0, "2", True)]
    write(tmp_path / "train.jsonl", *map(json.dumps, rows))
    task = load_task(mapping(train="train.jsonl", validation="train.jsonl"), relative_to=tmp_path)
    assert task.labels == ("2", "9", "10", "true")
    assert task.train["label"][:] == [2, 1, 0, 3]


def test_regression_and_embedding_scores(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "a,b,score", "x,y,-1", "z,w,2.5e0")
    regression = mapping(kind="regression", text="a", label="score")
    task = load_task(regression, relative_to=tmp_path)
    assert task.train["label"][:] == [-1.0, 2.5]
    assert task.scoring_split()[0] == "validation"  # -1 is a score, not a hidden label
    assert task.metric == "pearson"
    pairs = load_task(regression | {"kind": "embedding", "text": ["a", "b"]}, relative_to=tmp_path)
    assert (pairs.kind, pairs.metric, pairs.labels) == ("embedding", "spearmanr", ())
    plain = load_task(mapping(kind="embedding", text="a", label=None), relative_to=tmp_path)
    assert (plain.metric, plain.train.column_names) == ("", ["text"])


@pytest.mark.parametrize("test_lines", [("body", "x"), ("body,team", "x,", "y,")])
def test_a_test_file_without_labels_is_hidden(tmp_path: Path, test_lines: tuple[str, ...]) -> None:
    write_rows(tmp_path / "train.csv")
    write(tmp_path / "test.csv", *test_lines)
    task = load_task(mapping(test="test.csv"), relative_to=tmp_path)
    assert set(task.test["label"][:]) == {-1}
    assert task.scoring_split()[0] == "validation"
    write(tmp_path / "r.csv", "body,team", "x,1", "y,2")
    regression = mapping(kind="regression", train="r.csv", validation="r.csv", test="test.csv")
    ratings = load_task(regression, relative_to=tmp_path)
    assert all(math.isnan(value) for value in ratings.test["label"])


def test_empty_texts_are_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path / "train.csv", "body,team", "x,a", " ,b")
    with caplog.at_level(logging.WARNING, logger="bertcompress"):
        task = load_task(mapping(), relative_to=tmp_path)
    assert "1 examples have an empty text, the first in" in task.notes[0]
    assert "train.csv, line 3" in caplog.text


def check(tmp_path: Path, message: str, *lines: str, file: str = "train.csv", **changes: Any) -> None:
    write(tmp_path / file, *lines)
    with pytest.raises(DataError, match=message):
        load_task(mapping(train=file, validation=file, **changes), relative_to=tmp_path)


def test_errors_name_file_line_and_column(tmp_path: Path) -> None:
    check(tmp_path, r"train.csv: there is no column 'body', its columns are 'text', 'team'", "text,team", "x,a", "y,b")
    check(tmp_path, r"train.csv, line 3: it has 3 fields, expected are 2", "body,team", "x,a", "y,b,c")
    check(tmp_path, r"train.csv, line 2: .*quote", "body,team", '"x"y,a')
    check(
        tmp_path,
        r"train.csv, line 5, column 'team': got 'c'",
        "body,team",
        '"x',
        'y",a',
        "z,b",
        "w,c",
        labels=["a", "b"],
    )
    missing = r"train.csv, line 3, column 'team': the label is missing, as it is in 1 of 3 examples; label these"
    check(tmp_path, missing, "body,team", "x,a", "y,", "z,b")
    check(
        tmp_path,
        r"train.csv, line 3, column 'team': got 'tall', .* finite",
        "body,team",
        "x,1",
        "y,tall",
        kind="regression",
    )
    check(tmp_path, r"train.csv, line 2, column 'team': got 'nan'", "body,team", "x,nan", "y,1", kind="regression")
    check(tmp_path, r"train.csv: there is no column number 5, it has 2", "x,a", "y,b", text=5, label=1)
    check(tmp_path, r"train.csv: the column name 'body' stands for 2", "body,body,team", "x,y,a")
    check(tmp_path, r"train.csv: it is empty", file="train.csv")
    check(tmp_path, r"train.csv: it holds no example", "body,team")
    check(tmp_path, r"labels are \['a'\], classification needs at least two", "body,team", "x,a", "y,a")


def test_errors_in_json_lines_name_the_line(tmp_path: Path) -> None:
    good = '{"body": "x", "team": "a"}'
    check(tmp_path, r"t.jsonl, line 2: not JSON", good, '{"body": ', file="t.jsonl")
    check(tmp_path, r"t.jsonl, line 2: list, expected is an object", good, "[1]", file="t.jsonl")
    check(
        tmp_path,
        r"t.jsonl, line 3: there is no 'team', its names are 'body'",
        good,
        "",
        '{"body": "y"}',
        file="t.jsonl",
    )
    check(
        tmp_path, r"t.jsonl, line 1, column 'body': got 3, allowed is text", '{"body": 3, "team": "a"}', file="t.jsonl"
    )
    check(
        tmp_path, r"t.jsonl: columns of a jsonl file are given by name, got the number 0", good, file="t.jsonl", text=0
    )


def test_a_label_that_train_does_not_have_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "body,team", "x,a", "y,b")
    write(tmp_path / "dev.csv", "body,team", "x,c")
    with pytest.raises(DataError, match=r"dev.csv, line 2, column 'team': got 'c', allowed are 'a', 'b'"):
        load_task(mapping(validation="dev.csv"), relative_to=tmp_path)


def test_numbers_as_classes_are_refused(tmp_path: Path) -> None:
    check(tmp_path, "use kind: regression", "body,team", *(f"t,{number / 7}" for number in range(1200)))


def test_missing_and_strange_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"train.csv: there is no such file"):
        load_task(mapping(), relative_to=tmp_path)
    check(tmp_path, r"its format is 'xlsx', allowed are 'csv', 'tsv'", "x", file="train.xlsx")
    check(tmp_path, r"not a readable parquet file", "x", file="train.parquet")
    check(tmp_path, r"the file is damaged", "x", file="train.csv.gz")
    check(tmp_path, r"a txt file has one text per line", "x", file="train.txt")


def refused(message: str, tmp_path: Path, **changes: Any) -> None:
    with pytest.raises(ConfigError, match=message):
        load_task(mapping(**changes), relative_to=tmp_path)


def test_mistakes_in_the_mapping_say_what_is_allowed(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "body,team", "x,a", "y,b")
    refused(r"task.lable: unknown key, .*did you mean 'label'", tmp_path, lable="team")
    refused(r"task.kind: got 'class', allowed is one of 'classification', 'regression'", tmp_path, kind="class")
    refused(r"task.text: got \['a', 'b'\], allowed is one column", tmp_path, kind="tagging", text=["a", "b"])
    refused(r"task.text: got 'body', allowed is nothing for kind", tmp_path, kind="question_answering")
    refused(r"task.data: got 'folder', allowed is either this folder .* or train", tmp_path, data="folder")
    refused(r"task.encoding: got 'rot13', allowed is the name of a text encoding", tmp_path, encoding="rot13")
    refused(r"task.encoding: got 'klingon', allowed", tmp_path, encoding="klingon")
    refused(r"task.id: got 'body', allowed is another column", tmp_path, id="body")
    refused(r"task.train: got None, allowed is the path", tmp_path, train=None, validation=None)
    refused(r"task.train: got 3, allowed is a text", tmp_path, train=3)
    refused(r"task.text: got \['a'\], allowed is one column, or two", tmp_path, text=["a"])
    refused(r"task.text: got True", tmp_path, text=True)
    refused(r"task.label: got None, .* kind 'classification' needs labels", tmp_path, label=None)
    refused(r"task.label: got 'team', allowed is no label here", tmp_path, kind="unlabelled")
    refused(r"task.label: got 'team', .*text: \[first, second\]", tmp_path, kind="embedding")
    refused(r"task.label: got 'body', allowed is another column", tmp_path, label="body")
    refused(r"task.labels: got \['a', 'a'\]", tmp_path, labels=["a", "a"])
    refused(r"task.labels: got False, .*put true, false", tmp_path, labels=[False, True])
    refused(r"task.labels: .*kind 'regression', which has no classes", tmp_path, kind="regression", labels=["a", "b"])
    refused(r"task.metric: got 'bleu', allowed is one of 'accuracy', 'f1'", tmp_path, metric="bleu")
    refused(r"task.name: got 'a/b'", tmp_path, name="a/b")
    refused(r"task.text: it is missing", tmp_path, text=None)


def test_mistakes_in_yaml_name_file_and_line(tmp_path: Path) -> None:
    path = tmp_path / "t.yaml"
    lines = ["kind: classification", "train: train.csv", "text: body"]
    for extra, message in (
        ("lable: team", r"t.yaml, line 4: lable: unknown key"),
        ("text: other", r"t.yaml:4: text: got the key 'text' twice \(first in line 3\)"),
        ("label: [team]", r"t.yaml, line 4: label: got \['team'\]"),
        ("label: {", r"t.yaml:4: label: got brackets that do not end well"),
    ):
        write(path, *lines, extra)
        with pytest.raises(ConfigError, match=message):
            load_task(path)
    write(path, "- a list")
    with pytest.raises(ConfigError, match=r"got \['a list'\], allowed is a mapping"):
        load_task(path)
    write(path, "kind: !!python/object/apply:os.getcwd []")
    with pytest.raises(ConfigError, match=r"t.yaml:1: kind: got the tag"):
        load_task(path)
    with pytest.raises(DataError, match="there is no such file"):
        load_task(tmp_path / "gone.yaml")


def test_a_gzipped_table_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    lines = "body,team\n" + "".join(f"text {number * number},{number % 2}\n" for number in range(5000))
    (tmp_path / "train.csv.gz").write_bytes(gzip.compress(lines.encode())[:-3000])
    with pytest.raises(DataError, match=r"train.csv.gz, after line \d+: the file is damaged"):
        load_task(mapping(train="train.csv.gz", validation=None), relative_to=tmp_path)


def test_a_deeply_nested_json_line_is_refused(tmp_path: Path) -> None:
    check(tmp_path, r"t.jsonl, line 1: not JSON", "[" * 200_000, file="t.jsonl")


def test_long_texts_are_read_whole(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "body,team", f"{'x' * 300_000},a", "y,b")
    assert len(load_task(mapping(), relative_to=tmp_path).train["text"][0]) == 300_000
