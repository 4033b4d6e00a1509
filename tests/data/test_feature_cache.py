from __future__ import annotations

import copy
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from datasets import load_from_disk
from transformers import PreTrainedTokenizerFast

from bertcompress.data import feature_cache
from bertcompress.data import features as module
from bertcompress.data.base import make_dataset
from bertcompress.data.entries import locked
from bertcompress.data.feature_cache import features_cache
from bertcompress.data.features import ARRAYS, featurize
from bertcompress.errors import DataError

SCRIPT = Path(__file__).with_name("feature_cache_script.py")
TEXTS = ["ab cd", "e", "fgh ab", "ab", "", "cd, e"]


def data_of(kind: str):
    if kind == "tagging":
        return make_dataset({"words": [text.split() for text in TEXTS], "tags": [[1] * len(t.split()) for t in TEXTS]})
    if kind == "question_answering":
        answers = [{"text": [text[:1]], "answer_start": [0]} for text in TEXTS]
        return make_dataset({"question": TEXTS[::-1], "context": TEXTS, "answers": answers})
    columns = {"text": TEXTS, "text_pair": TEXTS[::-1], "label": [0, 1, 2, -1, 0, 1]}
    if kind == "regression":
        columns["label"] = [0.5, 1.0, float("nan"), -1.0, 2.0, 3.0]
    return make_dataset(columns)


KINDS = ["classification", "regression", "embedding", "tagging", "question_answering"]


@pytest.fixture
def no_writing(monkeypatch):
    """Called by a test from where on nothing may be tokenized any more."""

    def refuse(*_args):
        raise AssertionError("it was tokenized again")

    return lambda: monkeypatch.setattr(feature_cache, "_write", refuse)


def entries(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.name != "locks")


@pytest.mark.parametrize("kind", KINDS)
def test_an_entry_gives_the_same_arrays_without_tokenizing(
    letters_tokenizer, tmp_path, kind, monkeypatch, no_writing
) -> None:
    data = data_of(kind)
    plain = featurize(data, letters_tokenizer, max_length=9, kind=kind)
    monkeypatch.setattr(module, "CHUNK", 4)
    made = featurize(data, letters_tokenizer, max_length=9, kind=kind, cache=tmp_path)
    no_writing()
    read = featurize(data, letters_tokenizer, max_length=9, kind=kind, cache=tmp_path)
    assert plain.fingerprint() == made.fingerprint() == read.fingerprint()
    assert len(entries(tmp_path)) == 1
    for name in ARRAYS:
        ours, theirs = getattr(plain, name), getattr(read, name)
        assert (ours is None) == (theirs is None)
        if ours is not None:
            assert ours.dtype == theirs.dtype
            assert isinstance(theirs.base, np.memmap)
            assert not theirs.flags.writeable
    rows = list(range(len(plain)))
    assert all((values == read.collate(rows)[name]).all() or kind == "regression"
               for name, values in plain.collate(rows).items())  # fmt: skip
    assert plain.counts(rows) == read.counts(rows)


def test_files_are_plain_numpy_files(letters_tokenizer, tmp_path) -> None:
    features = featurize(data_of("question_answering"), letters_tokenizer, max_length=9, cache=tmp_path)
    for path in tmp_path.glob("*/*.npy"):
        array = np.load(path, allow_pickle=False)
        assert (array == getattr(features, path.stem)).all()
    assert len(list(tmp_path.glob("*/*.npy"))) == 7


def test_equal_content_has_one_entry(letters_tokenizer, tmp_path, no_writing) -> None:
    def run(data, tokenizer=letters_tokenizer):
        return featurize(data, tokenizer, max_length=9, cache=tmp_path / "cache").fingerprint()

    data = data_of("classification")
    first = run(data)
    no_writing()
    assert run(data_of("classification")) == first
    assert run(data.select_columns(["label", "text_pair", "text"])) == first
    assert run(data.add_column("id", list(range(6)))) == first
    assert run(data.select([5, 4, 3, 2, 1, 0]).select([5, 4, 3, 2, 1, 0])) == first
    assert run(data.with_format("numpy")) == first
    data.save_to_disk(tmp_path / "arrow", num_shards=2)
    assert run(load_from_disk(tmp_path / "arrow")) == first
    letters_tokenizer.save_pretrained(tmp_path / "elsewhere")
    other = PreTrainedTokenizerFast.from_pretrained(tmp_path / "elsewhere")
    assert run(data, other) == first
    other(["ab", "c"], truncation=True, max_length=3, padding=True)  # leaves its settings in the tokenizer
    assert run(data, other) == first


def test_any_change_has_an_entry_of_its_own(letters_tokenizer, tmp_path) -> None:
    def change(column, value, row=2):
        values = {name: list(data[name]) for name in data.column_names}
        values[column][row] = value
        return make_dataset(values)

    data = data_of("classification")
    upper = copy.deepcopy(letters_tokenizer)
    upper.add_tokens(["cd"])
    left = copy.deepcopy(letters_tokenizer)
    left.truncation_side = "left"
    padded = copy.deepcopy(letters_tokenizer)
    padded.pad_token = "[MASK]"
    variants = [
        (data, {}), (change("text", "x"), {}), (change("text_pair", "x"), {}), (change("label", 1), {}),
        (data.select([1, 0, 2, 3, 4, 5]), {}), (data.select(range(5)), {}), (data, {"max_length": 10}),
        (data.remove_columns("label"), {}), (data.remove_columns("text_pair"), {}), (data, {"kind": "embedding"}),
        (data.rename_columns({"text": "text_pair", "text_pair": "text"}), {}), (data, {"tokenizer": upper}),
        (data, {"tokenizer": left}), (data, {"tokenizer": padded}),
        (make_dataset({**data.to_dict(), "label": [float(label) for label in data["label"]]}), {}),
        (data_of("tagging"), {}), (data_of("question_answering"), {}),
        (data_of("question_answering"), {"overlap": 0}), (data_of("question_answering"), {"overlap": 2}),
    ]  # fmt: skip
    for count, (changed, options) in enumerate(variants):
        featurize(changed, **{"tokenizer": letters_tokenizer, "max_length": 9, "cache": tmp_path, **options})
        assert len(entries(tmp_path)) == count + 1, options


def test_text_moved_between_examples_and_columns_is_another_content(letters_tokenizer, tmp_path) -> None:
    contents = [
        {"text": ["a", "b"], "text_pair": ["c", "d"]}, {"text": ["a", "c"], "text_pair": ["b", "d"]},
        {"text": ["ab", ""], "text_pair": ["c", "d"]}, {"text": ["a", 'b", "c'], "text_pair": ["c", "d"]},
        {"words": [["a", "b"], []]}, {"words": [["a"], ["b"]]}, {"words": [["ab"], []]},
    ]  # fmt: skip
    for content in contents:
        featurize(make_dataset(content), letters_tokenizer, max_length=9, cache=tmp_path)
    assert len(entries(tmp_path)) == len(contents)


def damage_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def damage_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 4
    path.write_bytes(data)


def damage_more(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0\0\0\0")


@pytest.mark.parametrize("damage", [damage_half, damage_bit, damage_more, Path.unlink, lambda p: p.write_bytes(b"")])
@pytest.mark.parametrize("name", ["input_ids.npy", "offsets.npy", "labels.npy", "words.npy", "meta.json"])
def test_a_damaged_entry_is_made_anew_with_a_warning(letters_tokenizer, tmp_path, caplog, name, damage) -> None:
    def run():
        return featurize(data_of("tagging"), letters_tokenizer, max_length=9, cache=tmp_path).fingerprint()

    caplog.set_level(logging.WARNING, "bertcompress")
    first = run()
    assert not caplog.records
    damage(tmp_path / entries(tmp_path)[0] / name)
    assert run() == first
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert re.search("is damaged .*; it is made anew", caplog.text)
    assert run() == first
    assert len(caplog.records) == 1
    assert len(entries(tmp_path)) == 1


def test_a_changed_number_or_type_in_the_description_is_noticed(letters_tokenizer, tmp_path, caplog) -> None:
    def run():
        return featurize(data_of("tagging"), letters_tokenizer, max_length=9, cache=tmp_path).fingerprint()

    first = run()
    path = tmp_path / entries(tmp_path)[0] / "meta.json"
    meta = json.loads(path.read_text())
    del meta["content"]["arrays"]["labels"]
    path.write_text(json.dumps(meta))
    assert run() == first
    assert "meta.json was changed" in caplog.text


def test_hidden_labels_and_no_examples_are_kept_as_such(letters_tokenizer, tmp_path) -> None:
    hidden = make_dataset({"text": ["a", "b"], "label": [-1, -1]})
    for _ in range(2):
        assert featurize(hidden, letters_tokenizer, max_length=9, cache=tmp_path).labels is None
        nothing = featurize(data_of("question_answering").select([]), letters_tokenizer, max_length=9, cache=tmp_path)
        assert len(nothing) == 0
        assert nothing.labels is not None
        assert nothing.labels.shape == (0, 2)
        assert nothing.labels.dtype == np.int64


def test_two_processes_at_once_make_one_entry(tmp_path) -> None:
    processes = [
        subprocess.Popen([sys.executable, str(SCRIPT), "once", str(tmp_path)], stdout=-1, stderr=-1, text=True)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], printed
    assert printed[0][0].split()[-1] == printed[1][0].split()[-1]
    assert sum(error.count("tokenizing into") for _, error in printed) == 1
    assert len(entries(tmp_path)) == 1


def test_what_an_ended_process_left_is_not_in_the_way(letters_tokenizer, tmp_path) -> None:
    data = data_of("classification")
    featurize(data, letters_tokenizer, max_length=9, cache=tmp_path)
    name = entries(tmp_path)[0]
    (tmp_path / name).rename(tmp_path / f"{name}.partial")
    (tmp_path / f"{name}.partial" / "meta.json").unlink()
    other = tmp_path / f"{'0' * 32}.partial"
    other.mkdir()
    featurize(data, letters_tokenizer, max_length=9, cache=tmp_path)
    assert entries(tmp_path) == [name]


def test_a_failure_half_way_leaves_nothing(letters_tokenizer, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "CHUNK", 4)
    rows = {"words": [["a"]] * 9, "tags": [[1]] * 8 + [[1, 2]]}
    with pytest.raises(DataError, match="example 8 has 1 words and 2 tags"):
        featurize(make_dataset(rows), letters_tokenizer, max_length=9, cache=tmp_path)
    assert entries(tmp_path) == []


def test_the_entry_unused_for_longest_is_deleted_beyond_the_budget(letters_tokenizer, tmp_path, monkeypatch) -> None:
    def run(number: int) -> set[str]:
        before = set(entries(tmp_path))
        data = make_dataset({"text": [str(number)] * 10})
        featurize(data, letters_tokenizer, max_length=9, cache=tmp_path)
        return set(entries(tmp_path)) - before

    def age(name: str, seconds: int) -> None:
        os.utime(tmp_path / name / "meta.json", (seconds, seconds))

    tmp_path.joinpath("mine").mkdir()  # not the cache's, so it stays, whatever there is in it
    tmp_path.joinpath("mine", "thesis").write_bytes(b"x" * 100_000)
    names = [run(number).pop() for number in range(4)]
    size = sum(path.stat().st_size for path in (tmp_path / names[0]).iterdir())
    for seconds, name in zip((400, 100, 300, 200), names, strict=True):
        age(name, seconds)
    run(1)  # used just now
    monkeypatch.setattr(feature_cache, "BUDGET", 3 * size + size // 2)
    new = run(4).pop()
    assert set(entries(tmp_path)) == {"mine", names[0], names[1], new}
    with locked(tmp_path, names[0]):  # another process is reading it
        monkeypatch.setattr(feature_cache, "BUDGET", 1)
        newest = run(5).pop()
    assert set(entries(tmp_path)) == {"mine", names[0], newest}


def test_deleted_entries_stay_readable_where_they_are_open(letters_tokenizer, tmp_path, monkeypatch) -> None:
    features = featurize(data_of("tagging"), letters_tokenizer, max_length=9, cache=tmp_path)
    before = features.fingerprint()
    monkeypatch.setattr(feature_cache, "BUDGET", 1)
    featurize(data_of("classification"), letters_tokenizer, max_length=9, cache=tmp_path)
    assert len(entries(tmp_path)) == 1
    assert features.fingerprint() == before


def test_a_cache_that_cannot_be_written_is_refused(letters_tokenizer, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"cache of tokenized data .*file.*; set \$BERTCOMPRESS_CACHE"):
        featurize(data_of("tagging"), letters_tokenizer, max_length=9, cache=tmp_path / "file")


def test_the_cache_is_in_the_users_cache(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("BERTCOMPRESS_CACHE", str(tmp_path))
    assert features_cache() == tmp_path / "features"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see a process's own memory")
def test_memory_does_not_grow_with_the_data(tmp_path) -> None:
    peaks = []
    for rows in (1_500, 15_000):
        command = [sys.executable, str(SCRIPT), "memory", str(tmp_path), str(rows)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
        assert done.returncode == 0, done.stderr
        peaks.append(json.loads(done.stdout.splitlines()[-1]))
    (small, few), (large, many) = peaks
    assert many > 9 * few
    assert many > 30 * 2**20  # bytes of arrays, which would show if they were ever held at once
    assert large - small < 12 * 2**20
