"""Folders that `datasets` saved, as one split or as all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, DatasetDict, Features, Value

from bertcompress.data import tables
from bertcompress.data.tasks import load_task
from bertcompress.errors import ConfigError, DataError

TEXTS = ["good film", "bad film", "dull film", "fine film", "great film"]
NAMED = Features({"text": Value("string"), "label": ClassLabel(names=["negative", "positive"])})


def data(labels: list[int], features: Features = NAMED) -> Dataset:
    return Dataset.from_dict({"text": TEXTS[: len(labels)], "label": labels}, features=features)


def mapping(**changes: Any) -> dict[str, Any]:
    base = {"kind": "classification", "data": "saved", "text": "text", "label": "label"}
    return {key: value for key, value in (base | changes).items() if value is not None}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    whole = {"train": data([1, 0, 0, 1, 1]), "validation": data([0, 1]), "test": data([-1, -1]), "odd": data([1, 1, 1])}
    DatasetDict(whole).save_to_disk(tmp_path / "saved")
    return tmp_path / "saved"


def test_a_folder_with_splits_gives_them_all(saved: Path) -> None:
    task = load_task(mapping(), relative_to=saved.parent)
    assert task.labels == ("negative", "positive")
    assert task.train[:] == {"text": TEXTS, "label": [1, 0, 0, 1, 1]}
    assert task.validation["label"][:] == [0, 1]
    assert task.test["label"][:] == [-1, -1]  # hidden, as on the hub
    assert {name: len(split) for name, split in task.splits.items()} == {
        "train": 5,
        "validation": 2,
        "test": 2,
        "odd": 3,
    }
    assert task.scoring_split()[0] == "validation"


@pytest.mark.parametrize("train", ["saved", "saved/train"])
def test_a_split_may_be_named_by_itself_or_found_by_its_name(saved: Path, train: str) -> None:
    separate = load_task(mapping(data=None, train=train, validation="saved/validation"), relative_to=saved.parent)
    assert separate.train[:] == {"text": TEXTS, "label": [1, 0, 0, 1, 1]}
    assert len(separate.validation) == 2
    (saved.parent / "dev.csv").write_text("text,label\na,positive\n", encoding="utf-8")
    mixed = load_task(mapping(data=None, train=train, validation="dev.csv"), relative_to=saved.parent)
    assert mixed.validation["label"][:] == [1]


def test_a_folder_without_splits_is_train(tmp_path: Path) -> None:
    data([1, 0, 0, 1, 1]).select([0, 2, 4]).save_to_disk(tmp_path / "saved")
    task = load_task(mapping(), relative_to=tmp_path)
    assert len(task.train) + len(task.validation) == 3
    assert task.labels == ("negative", "positive")


def test_names_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    data([1, 0]).save_to_disk(tmp_path / "a")
    turned = Features({"text": Value("string"), "label": ClassLabel(names=["positive", "negative"])})
    data([1, 0], turned).save_to_disk(tmp_path / "b")
    task = load_task(mapping(data=None, train="a", validation="b"), relative_to=tmp_path)
    assert task.validation["label"][:] == [0, 1]
    other = load_task(
        mapping(data=None, train="a", validation="b", labels=["positive", "negative"]), relative_to=tmp_path
    )
    assert other.train["label"][:] == [0, 1]
    data([1, 0]).to_parquet(tmp_path / "c.parquet")  # parquet files of `datasets` keep the names too
    assert load_task(mapping(data=None, train="a", validation="c.parquet"), relative_to=tmp_path).labels == task.labels


def test_large_folders_are_not_read_into_memory(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(saved.parent / "cache"))
    small = load_task(mapping(), relative_to=saved.parent)
    monkeypatch.setattr(tables, "IN_MEMORY", 1)
    large = load_task(mapping(), relative_to=saved.parent)
    assert large.fingerprint() == small.fingerprint()
    assert list(large.splits) == list(small.splits)
    assert large.train.cache_files


def test_lists_of_words_and_tags_have_to_match(tmp_path: Path) -> None:
    rows = {"words": [["a"], ["b", "c"]], "tags": [["X"], ["X"]]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match=r"saved, row 2, column 'tags': got 1 tags for 2 words"):
        load_task(mapping(kind="tagging", text="words", label="tags"), relative_to=tmp_path)
    with pytest.raises(ConfigError, match=r"task.label: it is missing; name the column that holds the lists of tags"):
        load_task(mapping(kind="tagging", text="words", label=None), relative_to=tmp_path)


def refused(folder: Path, message: str, **changes: Any) -> None:
    with pytest.raises(DataError, match=message):
        load_task(mapping(**changes), relative_to=folder)


def test_folders_that_cannot_be_read_are_refused(saved: Path) -> None:
    folder = saved.parent
    refused(folder, r"nowhere: there is no such file", data=None, train="saved", test="nowhere")
    (folder / "empty").mkdir()
    refused(folder, r"empty: this folder was not saved by `datasets`", data="empty")
    refused(folder, r"nowhere: there is no such folder", data="nowhere")
    refused(folder, r"train: there is no column 'body', its columns are 'text', 'label'", text="body")
    DatasetDict({"train": data([1, 0])}).save_to_disk(folder / "one")
    refused(folder, r"one: it has no split 'test'; its splits are 'train'", data=None, train="saved", test="one")
    state = json.loads((saved / "train/state.json").read_text())
    for name in ("../validation/data-00000-of-00001.arrow", "/etc/passwd", "..", 3):
        (saved / "train/state.json").write_text(json.dumps(state | {"_data_files": [{"filename": name}]}))
        refused(folder, r"it names the file .*allowed are names of files in the folder itself")
    (saved / "train/state.json").write_text(json.dumps(state | {"_data_files": [{"filename": "gone.arrow"}]}))
    refused(folder, r"gone.arrow: there is no such file")
    (saved / "train/state.json").write_text("{")
    refused(folder, r"state.json: it cannot be read as JSON")
    (saved / "dataset_dict.json").write_text('{"splits": ["../../elsewhere"]}')
    refused(folder, r"it names the file '../../elsewhere'")


def test_a_damaged_arrow_file_is_refused(saved: Path) -> None:
    path = saved / "train/data-00000-of-00001.arrow"
    whole = path.read_bytes()
    for size in range(0, len(whole) - 8, 41):
        path.write_bytes(whole[:size])
        refused(saved.parent, r"train: it (is not a readable folder of `datasets`|holds no example)")


def test_a_saved_script_is_never_run(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (saved / "saved.py").write_text("raise SystemExit('this ran')")
    (saved / "train/train.py").write_text("raise SystemExit('this ran')")
    monkeypatch.chdir(saved)
    assert len(load_task(mapping(), relative_to=saved.parent).train) == 5
