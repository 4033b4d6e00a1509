from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertcompress.data import features as module
from bertcompress.data.base import make_dataset
from bertcompress.data.features import Features, featurize
from bertcompress.errors import ConfigError, DataError

WORDS = st.text("abcdefgh .,", max_size=30)
QUICK = settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@QUICK
@given(st.lists(WORDS, min_size=1, max_size=12), st.integers(3, 40), st.randoms(use_true_random=False))
def test_collate_equals_the_tokenizers_own_padding(letters_tokenizer, texts, max_length, random) -> None:
    chosen = random.sample(range(len(texts)), random.randint(1, len(texts)))
    batch = featurize(make_dataset({"text": texts}), letters_tokenizer, max_length=max_length).collate(chosen)
    wanted = letters_tokenizer(
        [texts[number] for number in chosen],
        truncation=True, max_length=max_length, padding=True, return_tensors="pt", return_token_type_ids=True,
    )  # fmt: skip
    for name in ("input_ids", "attention_mask", "token_type_ids"):
        assert torch.equal(batch[name], wanted[name])
        assert batch[name].dtype == torch.int64
    assert batch["indices"].tolist() == chosen
    assert "labels" not in batch


@QUICK
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), st.integers(5, 40))
def test_pairs_are_truncated_as_the_tokenizer_does(letters_tokenizer, pairs, max_length) -> None:
    firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    features = featurize(make_dataset({"text": firsts, "text_pair": seconds}), letters_tokenizer, max_length=max_length)
    for number, (first, second) in enumerate(pairs):
        wanted = letters_tokenizer(  # a batch of one: outside of batches an empty second text counts as none
            [first], [second], truncation="longest_first", max_length=max_length, return_token_type_ids=True
        )
        row = slice(features.offsets[number], features.offsets[number + 1])
        assert features.input_ids[row].tolist() == wanted["input_ids"][0]
        assert features.token_type_ids[row].tolist() == wanted["token_type_ids"][0]


def test_only_the_longer_text_of_a_pair_is_cut(letters_tokenizer) -> None:
    data = make_dataset({"text": ["abc"], "text_pair": ["d" * 50]})
    features = featurize(data, letters_tokenizer, max_length=16)
    # [CLS] a b c [SEP] and [SEP] leave 10 of the 50 letters
    tokens = letters_tokenizer.convert_ids_to_tokens(features.input_ids.tolist())
    assert tokens == ["[CLS]", "a", "##b", "##c", "[SEP]", "d", *["##d"] * 9, "[SEP]"]
    assert features.token_type_ids.tolist() == [0] * 5 + [1] * 11


def test_labels_keep_their_kind(letters_tokenizer) -> None:
    texts = ["a", "b", "c"]
    classes = featurize(make_dataset({"text": texts, "label": [2, 0, -1]}), letters_tokenizer, max_length=8)
    assert classes.collate(np.array([2, 0]))["labels"].tolist() == [-1, 2]
    assert classes.labels is not None
    assert classes.labels.dtype == np.int64
    ratings = featurize(make_dataset({"text": texts, "label": [0.5, -1.0, 4.0]}), letters_tokenizer, max_length=8)
    assert ratings.labels is not None
    assert ratings.labels.dtype == np.float32
    assert ratings.collate([1])["labels"].tolist() == [-1.0]


@pytest.mark.parametrize("hidden", [[-1, -1], [float("nan")] * 2])
def test_hidden_labels_are_no_labels(letters_tokenizer, hidden: list[float]) -> None:
    data = make_dataset({"text": ["a", "b"], "label": hidden})
    assert featurize(data, letters_tokenizer, max_length=8).labels is None


def test_chunks_join_seamlessly(letters_tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    data = make_dataset({"text": ["a" * (number % 7) for number in range(50)], "label": [0, 1] * 25})
    whole = featurize(data, letters_tokenizer, max_length=6)
    monkeypatch.setattr(module, "CHUNK", 7)
    assert featurize(data, letters_tokenizer, max_length=6).fingerprint() == whole.fingerprint()
    assert whole.lengths.tolist() == [min(number % 7, 4) + 2 for number in range(50)]
    assert len(whole) == 50


def test_the_fingerprint_tells_any_change(letters_tokenizer) -> None:
    data = make_dataset({"text": ["ab", "c"], "label": [0, 1]})
    features = featurize(data, letters_tokenizer, max_length=8)
    changed = [
        dataclasses.replace(features, labels=None),
        dataclasses.replace(features, labels=np.array([1, 1])),
        dataclasses.replace(features, pad_token_id=1),
        dataclasses.replace(features, token_type_ids=features.token_type_ids + np.int8(1)),
        dataclasses.replace(features, offsets=np.array([0, 3, 7])),
        dataclasses.replace(features, kind="embedding"),
        dataclasses.replace(features, examples=np.array([0, 0])),
        dataclasses.replace(features, num_examples=3),
        dataclasses.replace(features, words=features.input_ids),
        dataclasses.replace(features, starts=features.input_ids),
        featurize(make_dataset({"text": ["ab", "d"], "label": [0, 1]}), letters_tokenizer, max_length=8),
    ]
    assert len({features.fingerprint(), *(other.fingerprint() for other in changed)}) == 12


def test_no_examples_make_no_features(letters_tokenizer) -> None:
    features = featurize(make_dataset({"text": []}), letters_tokenizer, max_length=8)
    assert len(features) == 0
    assert features.lengths.tolist() == []


def test_a_length_without_room_for_text_is_refused(letters_tokenizer) -> None:
    with pytest.raises(ConfigError, match="max_length: got 2, allowed is a whole number of at least 3"):
        featurize(make_dataset({"text": ["a"]}), letters_tokenizer, max_length=2)
    with pytest.raises(ConfigError, match="at least 5"):
        featurize(make_dataset({"text": ["a"], "text_pair": ["b"]}), letters_tokenizer, max_length=4)


def test_a_data_set_without_text_is_refused(letters_tokenizer) -> None:
    with pytest.raises(DataError, match="needed is a column 'text'"):
        featurize(make_dataset({"label": [1]}), letters_tokenizer, max_length=8)


@QUICK
@given(st.lists(st.tuples(WORDS, WORDS), min_size=1, max_size=8), st.integers(3, 40))
def test_the_texts_of_an_embeddings_pairs_are_rows_of_their_own(letters_tokenizer, pairs, max_length) -> None:
    firsts, seconds = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    data = make_dataset({"text": firsts, "text_pair": seconds, "label": [0.5] * len(pairs)})
    features = featurize(data, letters_tokenizer, max_length=max_length, kind="embedding")
    texts = [text for pair in pairs for text in pair]
    assert features.input_ids.tolist() == [
        token
        for text in texts
        for token in letters_tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    ]
    assert features.examples.tolist() == [number // 2 for number in range(len(texts))]
    assert (features.num_examples, features.labels, features.kind) == (len(pairs), None, "embedding")
    single = featurize(make_dataset({"text": texts}), letters_tokenizer, max_length=max_length, kind="embedding")
    assert (single.input_ids == features.input_ids).all()
    assert single.examples.tolist() == list(range(len(texts)))


@pytest.mark.parametrize("kind", ["classification", "regression", "unlabelled"])
def test_kinds_of_single_texts_are_tokenized_alike(letters_tokenizer, kind) -> None:
    data = make_dataset({"text": ["ab", "c"], "label": [1, 0]})
    plain = featurize(data, letters_tokenizer, max_length=8)
    named = featurize(data, letters_tokenizer, max_length=8, kind=kind)
    assert named.kind == "classification"
    assert named.fingerprint() == plain.fingerprint()


def test_rows_stand_for_one_example_each_by_default() -> None:
    features = Features(np.arange(5, dtype=np.int32), np.zeros(5, np.int8), np.array([0, 2, 2, 5]), None, 0)
    assert features.examples.tolist() == [0, 1, 2]
    assert (features.num_examples, features.kind) == (3, "classification")
    assert features.counts([2, 0, 1]) == {"example": 3, "token": 5, "token_pair": 13, "word": 0}
    assert features.counts([]) == {"example": 0, "token": 0, "token_pair": 0, "word": 0}
    batch = features.collate([1, 2])
    assert batch["input_ids"].tolist() == [[0, 0, 0], [2, 3, 4]]
    assert batch["attention_mask"].tolist() == [[0, 0, 0], [1, 1, 1]]
    assert features.collate([])["input_ids"].shape == (0, 0)


def test_a_data_set_that_gives_arrays_is_read_as_lists(letters_tokenizer) -> None:
    data = make_dataset({"text": ["ab", "c"], "label": [1, 0]})
    numpy = featurize(data.with_format("numpy"), letters_tokenizer, max_length=8)
    assert numpy.fingerprint() == featurize(data, letters_tokenizer, max_length=8).fingerprint()
