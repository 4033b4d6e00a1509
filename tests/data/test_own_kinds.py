"""Tagging and question answering in files of one's own, and the examples that users start from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from bertcompress.data import tables
from bertcompress.data.base import Task
from bertcompress.data.mapping import KEYS
from bertcompress.data.tasks import load_task
from bertcompress.data.yaml_positions import read_text, read_yaml
from bertcompress.errors import ConfigError, DataError

EXAMPLES = Path(__file__).parents[2] / "examples/tasks"
WORDS = [["Ada", "Lovelace", "lived"], ["in", "London"], ["Emmy", "Noether"]]
TAGS = [["B-PER", "I-PER", "O"], ["O", "B-LOC"], ["B-PER", "I-PER"]]
COUNTS = {  # examples of each split that the files beside the descriptions hold
    "tickets": ("classification", {"train": 9, "validation": 1}),
    "pairs": ("classification", {"train": 4, "validation": 2}),
    "ratings": ("regression", {"train": 4, "validation": 3}),
    "similarity": ("embedding", {"test": 4}),
    "plain": ("unlabelled", {"train": 4, "validation": 1}),
    "entities": ("tagging", {"train": 3, "validation": 1}),
    "questions": ("question_answering", {"train": 4, "validation": 2}),
}


@pytest.mark.parametrize("name", COUNTS)
def test_the_examples_load_and_have_at_most_six_lines(name: str) -> None:
    path = EXAMPLES / f"{name}.yaml"
    written = [line for line in path.read_text(encoding="utf-8").splitlines() if not line.startswith("#")]
    assert len(written) <= 6
    task = load_task(path)
    kind, counts = COUNTS[name]
    assert (task.name, task.kind) == (next(iter(task_files(path))).split(".")[0], kind)
    assert {split: len(data) for split, data in task.splits.items()} == counts


def task_files(path: Path) -> list[str]:
    values = read_yaml(read_text(path), str(path))[0].plain()
    assert isinstance(values, dict)
    assert values.keys() <= set(KEYS)
    return [Path(values[split]).name for split in ("train", "test") if split in values]


def test_every_example_is_tested() -> None:
    assert sorted(COUNTS) == sorted(path.stem for path in EXAMPLES.glob("*.yaml"))


def conll(path: Path, rows: Any = None, *, tags: bool = True) -> None:
    sentences = zip(WORDS, TAGS, strict=True) if rows is None else rows
    lines = (
        "".join(f"{word} x {tag}\n" if tags else f"{word} x\n" for word, tag in zip(*each, strict=True))
        for each in sentences
    )
    path.write_text("\n".join(lines), encoding="utf-8")


def tagging(**changes: Any) -> dict[str, Any]:
    base = {"kind": "tagging", "train": "t.conll", "validation": "t.conll"}
    return {key: value for key, value in (base | changes).items() if value is not None}


def lists(**changes: Any) -> dict[str, Any]:
    return tagging(train="t.jsonl", validation="t.jsonl", text="tokens", label="ner") | changes


def write_lists(path: Path, words: list[list[str]] = WORDS, tags: Any = TAGS) -> None:
    rows = [{"tokens": each, "ner": own} for each, own in zip(words, tags, strict=True)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def same(first: Task, second: Task) -> bool:
    return (first.fingerprint(), first.labels, first.scheme) == (second.fingerprint(), second.labels, second.scheme)


@pytest.mark.parametrize("ending", ["conll", "iob", "bio", "txt", "tsv"])
def test_words_in_lines_and_in_lists_are_one_task(tmp_path: Path, ending: str) -> None:
    conll(tmp_path / f"t.{ending}")
    write_lists(tmp_path / "t.jsonl")
    lines = load_task(tagging(train=f"t.{ending}", validation=f"t.{ending}"), relative_to=tmp_path)
    assert lines.train["words"][:] == WORDS
    assert [[lines.labels[tag] for tag in tags] for tags in lines.train["tags"]] == TAGS
    assert (lines.scheme, lines.metric) == ("IOB2", "entity_f1")
    assert same(lines, load_task(lists(), relative_to=tmp_path))
    chosen = tagging(train=f"t.{ending}", validation=f"t.{ending}", text=0, label=2)
    assert same(lines, load_task(chosen, relative_to=tmp_path))


def test_lists_come_from_parquet_and_folders_too_with_tags_as_numbers(tmp_path: Path) -> None:
    names = ["O", "B-LOC", "B-PER", "I-PER"]
    numbers = [[names.index(tag) for tag in tags] for tags in TAGS]
    features = Features({"tokens": List(Value("string")), "ner": List(ClassLabel(names=names))})
    named = Dataset.from_dict({"tokens": WORDS, "ner": numbers}, features=features)
    named.save_to_disk(tmp_path / "saved")
    named.to_parquet(tmp_path / "t.parquet")
    write_lists(tmp_path / "t.jsonl", tags=numbers)
    tasks = [
        load_task(lists(train="saved", validation="saved"), relative_to=tmp_path),
        load_task(lists(train="t.parquet", validation="saved"), relative_to=tmp_path),
        load_task(lists(labels=names), relative_to=tmp_path),
    ]
    for task in tasks:
        assert task.labels == tuple(names)
        assert (task.train["words"][:], task.train["tags"][:]) == (WORDS, numbers)
        assert task.scheme == "IOB2"


def test_large_lists_go_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path / "cache"))
    words = [[f"word{number}", "x"] for number in range(500)]
    write_lists(tmp_path / "t.jsonl", words, [["B-X", "O"]] * 500)
    small = load_task(lists(validation=None), relative_to=tmp_path)
    monkeypatch.setattr(tables, "IN_MEMORY", 100)
    large = load_task(lists(validation=None), relative_to=tmp_path)
    assert large.train.cache_files
    assert same(small, large)
    assert same(small, load_task(lists(validation=None), relative_to=tmp_path))
    assert large.train.features == small.train.features


def test_hidden_tags_and_parts_of_speech(tmp_path: Path) -> None:
    write_lists(tmp_path / "t.jsonl", tags=[["NOUN", "NOUN", "VERB"], ["ADP", "NOUN"], ["NOUN", "NOUN"]])
    (tmp_path / "hidden.jsonl").write_text('{"tokens": ["a", "b"]}\n{"tokens": ["c"]}\n', encoding="utf-8")
    task = load_task(lists(test="hidden.jsonl"), relative_to=tmp_path)
    assert (task.scheme, task.metric) == ("", "token_accuracy")
    assert task.labels == ("ADP", "NOUN", "VERB")
    assert task.test["tags"][:] == [[-1, -1], [-1]]
    assert task.scoring_split()[0] == "validation"
    with pytest.raises(ConfigError, match=r"task.metric: got 'entity_f1', allowed is token_accuracy here"):
        load_task(lists(metric="entity_f1"), relative_to=tmp_path)


def test_tags_that_only_later_splits_have_are_told(tmp_path: Path) -> None:
    write_lists(tmp_path / "t.jsonl")
    write_lists(tmp_path / "dev.jsonl", [["a"]], [["B-MISC"]])
    task = load_task(lists(validation="dev.jsonl"), relative_to=tmp_path)
    assert "B-MISC" in task.labels
    assert "validation: it has tags that no model can learn, as train lacks them: 'B-MISC'" in task.notes
    with pytest.raises(DataError, match=r"dev.jsonl, line 1, column 'ner': got 'B-MISC', allowed are 'O'"):
        load_task(lists(validation="dev.jsonl", labels=["O", "B-PER", "I-PER", "B-LOC"]), relative_to=tmp_path)


@pytest.mark.parametrize(
    ("words", "tags", "message"),
    [
        ([["a", "b"]], [["O"]], r"column 'ner': got 1 tags for 2 words"),
        ([["a", ""]], [["O", "B-X"]], r"column 'tokens': got the word '', allowed is text"),
        ([["a", "b"]], [["O", None]], r"column 'ner': tag 1 \(from 0\) is missing"),
        (["a b"], [["O", "O"]], r"column 'tokens': got 'a b', allowed is a list of words"),
        ([["a", "b"]], ["O O"], r"column 'ner': got 'O O', allowed is a list of tags"),
        ([["a", "b", "c"]], [["O", "I-PER", "B-PER"]], r"in IOB1|allowed"),
        ([["a"], ["b"]], [["B-X"], None], r"line 2, column 'ner': the label is missing, as it is in 1 of 2"),
    ],
)
def test_lists_that_do_not_fit_are_refused(tmp_path: Path, words: Any, tags: Any, message: str) -> None:
    write_lists(tmp_path / "t.jsonl", words, tags)
    if "IOB1" in message:
        write_lists(tmp_path / "t.jsonl", words * 3, [["I-PER", "O", "I-PER"]] * 3)
        message = r"t.jsonl, column 'ner': the tags are in IOB1"
    with pytest.raises(DataError, match=message):
        load_task(lists(), relative_to=tmp_path)


def refused(kind: type[Exception], message: str, folder: Path, mapping: dict[str, Any]) -> None:
    with pytest.raises(kind, match=message):
        load_task(mapping, relative_to=folder)


def test_what_such_files_do_not_have_is_refused(tmp_path: Path) -> None:
    conll(tmp_path / "t.conll")
    write_lists(tmp_path / "t.jsonl")
    (tmp_path / "t.csv").write_text("a,b\n", encoding="utf-8")
    refused(DataError, r"t.csv: its format is 'csv', allowed for tagging are 'conll'", tmp_path, tagging(train="t.csv"))
    refused(DataError, r"t.jsonl: its format is 'jsonl', .*all splits of a task", tmp_path, tagging(test="t.jsonl"))
    refused(ConfigError, r"task.encoding: got 'cp1252', allowed is nothing", tmp_path, tagging(encoding="cp1252"))
    refused(ConfigError, r"task.text: it is missing", tmp_path, lists() | {"text": None})
    questions = {"kind": "question_answering", "train": "t.csv"}
    refused(DataError, r"t.csv: its format is 'csv', allowed for question_answering is 'json'", tmp_path, questions)
    refused(ConfigError, r"task.label: got 'a', allowed is nothing", tmp_path, questions | {"label": "a"})
    refused(
        DataError, r"gone.json: there is no such file", tmp_path, {"kind": "question_answering", "train": "gone.json"}
    )


def test_question_answering_takes_its_metric_and_packed_files(tmp_path: Path) -> None:
    task = load_task(EXAMPLES / "questions.yaml")
    assert (task.metric, task.unanswerable) == ("exact_match", True)
    assert task.train["answers"][0] == {"text": ["1883"], "answer_start": [task.train["context"][0].index("1883")]}


def test_metrics_of_spans_need_tags_that_mark_spans_in_every_format(tmp_path: Path) -> None:
    tags = [["NOUN", "NOUN", "VERB"], ["ADP", "NOUN"], ["NOUN", "NOUN"]]
    conll(tmp_path / "t.conll", zip(WORDS, tags, strict=True))
    write_lists(tmp_path / "t.jsonl", tags=tags)
    for metric in ("entity_f1", "entity_f1_strict", "entity_f1_conlleval"):
        message = rf"task.metric: got '{metric}', allowed is token_accuracy here, as the tags mark no spans"
        refused(ConfigError, message, tmp_path, tagging(metric=metric))
        refused(ConfigError, message, tmp_path, lists(metric=metric))
    assert load_task(tagging(metric="token_accuracy"), relative_to=tmp_path).metric == "token_accuracy"


def test_labels_may_have_the_letters_of_the_file(tmp_path: Path) -> None:
    tags = [["B-P", "L-P", "O"], ["O", "U-P"], ["B-P", "L-P"]]
    conll(tmp_path / "t.conll", zip(WORDS, tags, strict=True))
    write_lists(tmp_path / "t.jsonl", tags=tags)
    given = ["U-P", "O", "B-P", "L-P"]
    lines, rows = (load_task(each(labels=given), relative_to=tmp_path) for each in (tagging, lists))
    assert lines.labels == ("S-P", "O", "B-P", "E-P")
    assert lines.train["tags"][:] == [[2, 3, 1], [1, 0], [2, 3]]
    assert same(lines, rows)
    assert same(lines, load_task(tagging(labels=lines.labels), relative_to=tmp_path))


def test_large_files_with_a_word_in_a_line_go_to_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path / "cache"))
    words = [[f"word{number}", "x", "y"] for number in range(500)]
    tags = [["I-X", "I-X", "O"] if number % 2 else ["I-X", "B-X", "I-X"] for number in range(500)]
    conll(tmp_path / "t.conll", zip(words, tags, strict=True))
    case = tagging(validation=None, test="t.conll")
    small = load_task(case, relative_to=tmp_path)
    assert not (tmp_path / "cache").exists()
    monkeypatch.setattr(tables, "IN_MEMORY", 100)
    large = load_task(case, relative_to=tmp_path)
    again = load_task(case, relative_to=tmp_path)
    for task in (large, again):
        assert task.train.cache_files
        assert same(small, task)
        assert task.notes == small.notes
        assert task.train.features == small.train.features
        assert task.splits.keys() == small.splits.keys()
    assert sorted(small.train["words"][:] + small.validation["words"][:]) == sorted(words)
