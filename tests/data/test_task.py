from __future__ import annotations

import copy
import dataclasses
import json
import math

import pytest
from datasets import Dataset

from bertcompress.data.base import Task, has_labels, make_dataset
from bertcompress.errors import ConfigError, DataError


def task(**changes: object) -> Task:
    values: dict[str, object] = {
        "name": "toy",
        "kind": "classification",
        "labels": ("no", "yes"),
        "metric": "accuracy",
        "train": make_dataset({"text": ["a b", "c d e", "f"], "label": [0, 1, 1]}),
        "validation": make_dataset({"text": ["g"], "label": [1]}),
        "test": make_dataset({"text": ["h"], "label": [0]}),
    }
    return Task(**(values | changes))  # type: ignore[arg-type]


HIDDEN = make_dataset({"text": ["x", "y"], "label": [-1, -1]})


def test_the_test_split_is_scored_if_its_labels_are_known() -> None:
    name, data = task().scoring_split()
    assert name == "test"
    assert data["text"][:] == ["h"]


def test_validation_is_scored_if_the_test_labels_are_hidden() -> None:
    assert task(test=HIDDEN).scoring_split()[0] == "validation"
    assert task(test=None).scoring_split()[0] == "validation"


def test_extra_splits_can_be_scored_by_name() -> None:
    other = make_dataset({"text": ["z"], "label": [1]})
    assert task(extra={"validation_mismatched": other}).scoring_split("validation_mismatched")[1] is other


def test_a_hidden_split_is_refused() -> None:
    with pytest.raises(DataError, match=r"labels of split 'test' are hidden.*test \(no labels\)"):
        task(test=HIDDEN).scoring_split("test")
    partly = make_dataset({"text": ["x", "y"], "label": [0, -1]})
    with pytest.raises(DataError, match="hidden"):
        task(test=partly).scoring_split("test")


def test_a_task_without_labels_cannot_be_scored() -> None:
    plain = make_dataset({"text": ["x"]})
    unlabelled = task(kind="unlabelled", labels=(), train=plain, validation=plain, test=None)
    with pytest.raises(DataError, match="neither test nor validation has labels"):
        unlabelled.scoring_split()


def test_a_split_that_does_not_exist_is_refused() -> None:
    with pytest.raises(DataError, match="no split 'dev'; the splits are train"):
        task().scoring_split("dev")


def test_minus_one_is_a_rating_in_regression_and_nan_is_hidden() -> None:
    assert has_labels(make_dataset({"text": ["x"], "label": [-1.0]}))
    assert not has_labels(make_dataset({"text": ["x"], "label": [math.nan]}))


def test_describe_counts_what_is_there() -> None:
    facts = task(test=HIDDEN).describe()
    assert facts["splits"]["train"] == {
        "examples": 3,
        "labels": {"no": 1, "yes": 2},
        "words": {"median": 2.0, "percentile_95": pytest.approx(2.9)},
    }
    assert facts["splits"]["test"]["labels"] == {"no": 0, "yes": 0, "hidden": 2}
    assert json.loads(json.dumps(facts)) == facts


def test_describe_of_regression_and_pairs() -> None:
    data = make_dataset({"text": ["a b"], "text_pair": ["c"], "label": [2.5]})
    ratings = task(kind="regression", labels=(), train=data, validation=None, test=None)
    assert ratings.describe()["splits"]["train"] == {
        "examples": 1,
        "labels": {"hidden": 0, "minimum": 2.5, "mean": 2.5, "maximum": 2.5},
        "words": {"median": 3.0, "percentile_95": 3.0},
    }


def test_the_fingerprint_is_of_the_content_alone() -> None:
    same = task(source="elsewhere", name="other", notes=("told",))
    assert same.fingerprint() == task().fingerprint()
    changed = [
        task(labels=("yes", "no")),
        task(metric="f1"),
        task(test=None),
        task(validation=make_dataset({"text": ["g"], "label": [0]})),
        task(validation=make_dataset({"text": ["g "], "label": [1]})),
        task(train=make_dataset({"text": ["c d e", "a b", "f"], "label": [1, 0, 1]})),
        task(train=make_dataset({"text": ["a b", "c d e", "f"], "text_pair": ["", "", ""], "label": [0, 1, 1]})),
    ]
    assert len({task().fingerprint(), *(other.fingerprint() for other in changed)}) == 8


def test_a_task_can_be_copied() -> None:
    extra = {"more": make_dataset({"text": ["z"], "label": [1]})}
    original = task(extra=extra)
    assert copy.deepcopy(original).fingerprint() == original.fingerprint()
    assert dataclasses.replace(original, name="b").splits.keys() == original.splits.keys()


def test_impossible_tasks_are_refused() -> None:
    with pytest.raises(ConfigError, match="kind is 'ranking', allowed are 'classification'"):
        task(kind="ranking")
    with pytest.raises(DataError, match="at least two"):
        task(labels=("only",))
    with pytest.raises(DataError, match="no split holds an example"):
        task(train=make_dataset({"text": []}), validation=None, test=None)


def test_each_column_is_read_by_itself_and_once(monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset(
        {
            "id": ["1", "2"],
            "question": ["a", "b"],
            "context": ["c", "d"],
            "answers": [{"text": ["c"], "answer_start": [0]}, {"text": [], "answer_start": []}],
        }
    )
    asked = task(kind="question_answering", labels=(), metric="f1", train=data, validation=None, test=None)
    pairs = make_dataset({"text": ["a"], "text_pair": ["b"], "label": [0]})
    read: list[str] = []
    honest = Dataset.__getitem__

    def spy(self: Dataset, key: object) -> object:
        if not isinstance(key, str):
            read.extend(self.column_names)
        return honest(self, key)

    monkeypatch.setattr(Dataset, "__getitem__", spy)
    asked.fingerprint()
    assert sorted(read) == ["answers", "context", "id", "question"]
    read.clear()
    assert has_labels(pairs)
    assert read == ["label"]
