"""Word pieces and windows of real sentences and questions, with the built-in model's own tokenizer."""

from __future__ import annotations

import gzip
import json
import time
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from bertcompress.data.base import make_dataset
from bertcompress.data.features import featurize
from bertcompress.data.sources import resolve_model
from bertcompress.errors import DataError

pytestmark = pytest.mark.network  # for the tokenizer, where it is not in the cache yet


@pytest.fixture(scope="module")
def tokenizer():
    try:
        return AutoTokenizer.from_pretrained(resolve_model("minilm-l6"))
    except DataError as error:  # no package index
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def sentences(data_root: Path) -> list[list[str]]:
    with gzip.open(data_root / "ud" / "ewt" / "en_ewt-ud-train.rebuilt.conllu.gz", "rt", encoding="utf-8") as file:
        blocks = file.read().split("\n\n")
    rows = [[line.split("\t") for line in block.splitlines() if line[:1] != "#"] for block in blocks]
    return [[fields[1] for fields in row if fields[0].isdigit()] for row in rows if row]


@pytest.fixture(scope="module")
def questions(data_root: Path) -> dict[str, list]:
    with gzip.open(data_root / "squad" / "cs224n-dev-v2.0.json.gz", "rt", encoding="utf-8") as file:
        articles = json.load(file)["data"]
    rows: dict[str, list] = {"question": [], "context": [], "answers": []}
    for paragraph in (paragraph for article in articles for paragraph in article["paragraphs"]):
        for asked in paragraph["qas"]:
            rows["question"].append(asked["question"])
            rows["context"].append(paragraph["context"])
            rows["answers"].append({key: [each[key] for each in asked["answers"]] for key in ("text", "answer_start")})
    return rows


def test_twelve_thousand_sentences_as_the_tokenizer_has_them(tokenizer, sentences) -> None:
    data = make_dataset({"words": sentences, "tags": [[0] * len(words) for words in sentences]})
    start = time.process_time()
    features = featurize(data, tokenizer, max_length=512)
    assert time.process_time() - start < 5  # about one; of the processor, as others may use it too
    assert len(sentences) == features.num_examples == len(features) == 12_544
    assert features.counts(range(len(features)))["word"] == sum(map(len, sentences)) == 204_577
    own = tokenizer(sentences, is_split_into_words=True)
    for row, ids in enumerate(np.split(features.input_ids, features.offsets[1:-1])):
        if 100 not in ids:  # no word that the tokenizer makes nothing of
            assert ids.tolist() == own["input_ids"][row]


def test_answers_of_squad_are_read_again_from_their_windows(tokenizer, questions) -> None:
    features = featurize(make_dataset(questions), tokenizer, max_length=384)
    assert features.labels is not None
    assert features.starts is not None
    assert features.ends is not None
    assert features.num_examples == 6_078
    found: dict[int, str] = {}
    for row in np.flatnonzero(features.labels.any(axis=1)):
        first, last = features.offsets[row] + features.labels[row]
        example = int(features.examples[row])
        found[example] = questions["context"][example][features.starts[first] : features.ends[last]]
    answers = {at: each["text"][0] for at, each in enumerate(questions["answers"]) if each["text"]}
    assert found.keys() == answers.keys()  # every answer is whole in some window
    exact = sum(found[at] == text.strip() for at, text in answers.items())
    assert all(text.strip() in found[at] for at, text in answers.items())
    assert exact / len(answers) > 0.99  # the rest begin or end within a word piece


@pytest.mark.parametrize(("max_length", "overlap"), [(384, 128), (96, 32)])
def test_windows_of_squad_equal_the_tokenizers_own(tokenizer, questions, max_length, overlap) -> None:
    chosen = {name: values[::7] for name, values in questions.items()}
    features = featurize(make_dataset(chosen), tokenizer, max_length=max_length, overlap=overlap)
    own = tokenizer(
        chosen["question"], chosen["context"],
        truncation="only_second", max_length=max_length, stride=overlap,
        return_overflowing_tokens=True, return_token_type_ids=True,
    )  # fmt: skip
    assert features.examples.tolist() == own["overflow_to_sample_mapping"]
    assert features.input_ids.tolist() == [token for row in own["input_ids"] for token in row]
    assert features.token_type_ids.tolist() == [kind for row in own["token_type_ids"] for kind in row]
