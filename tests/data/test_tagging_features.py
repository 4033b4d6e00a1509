from __future__ import annotations

import copy
from itertools import combinations

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bertcompress.data import features as module
from bertcompress.data.base import make_dataset
from bertcompress.data.features import featurize
from bertcompress.data.tagging import split_evenly
from bertcompress.errors import ConfigError, DataError

QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
PLAIN = st.text("abtheno,'19-", min_size=1, max_size=7)
ODD = st.sampled_from(
    ["\u200b", "\x7f", "", "naïve", "ﬁ", "##a", "日本", "\u0301", "don't", "e\u0301a", "[SEP]x", "</s>"]
)
SENTENCES = st.lists(st.lists(st.one_of(PLAIN, ODD), max_size=12), min_size=1, max_size=6)


def tagged(sentences: list[list[str]]):
    tags = [[(7 * at + number) % 5 for at in range(len(words))] for number, words in enumerate(sentences)]
    return tags, make_dataset({"words": sentences, "tags": tags})


@QUICK
@given(sentences=SENTENCES, max_length=st.integers(4, 30), chunk=st.integers(1, 7))
def test_every_word_has_one_place_where_its_tag_stands(any_tokenizer, sentences, max_length, chunk) -> None:
    tags, data = tagged(sentences)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        features = featurize(data, any_tokenizer, max_length=max_length)
    assert features.kind == "tagging"
    assert features.words is not None
    owners = np.repeat(features.examples, features.lengths)  # (tokens,)
    places = np.flatnonzero(features.words >= 0)
    found = list(zip(owners[places].tolist(), features.words[places].tolist(), strict=True))
    assert found == [(number, at) for number, words in enumerate(sentences) for at in range(len(words))]
    expected = np.full(len(features.input_ids), -100)
    expected[places] = [tag for row in tags for tag in row]
    if features.labels is None:
        assert not places.size
    else:
        assert features.labels.tolist() == expected.tolist()
    assert features.lengths.max() <= max_length
    assert sorted(set(features.examples.tolist())) == list(range(len(sentences)))
    assert (np.diff(features.examples) >= 0).all()
    assert features.counts(range(len(features)))["word"] == len(places)


def bodies(features, tokenizer) -> list[list[int]]:
    """The tokens of every example without the special tokens around its rows."""
    probe = tokenizer("a")["input_ids"]
    before = probe.index(tokenizer("a", add_special_tokens=False)["input_ids"][0])
    after = tokenizer.num_special_tokens_to_add() - before
    found: list[list[int]] = [[] for _ in range(features.num_examples)]
    for row, example in enumerate(features.examples):
        ids = features.input_ids[features.offsets[row] : features.offsets[row + 1]].tolist()
        assert ids[:before] == probe[:before]
        assert ids[len(ids) - after :] == probe[len(probe) - after :]
        found[example] += ids[before : len(ids) - after]
    return found


@QUICK
@given(sentences=st.lists(st.lists(PLAIN, min_size=1, max_size=9), min_size=1, max_size=5), room=st.integers(8, 40))
def test_pieces_are_those_of_running_text(any_tokenizer, sentences, room) -> None:
    features = featurize(
        tagged(sentences)[1], any_tokenizer, max_length=room + any_tokenizer.num_special_tokens_to_add()
    )
    texts = [" ".join(words) for words in sentences]
    assert bodies(features, any_tokenizer) == any_tokenizer(texts, add_special_tokens=False)["input_ids"]


@QUICK
@given(sentences=st.lists(st.lists(PLAIN, min_size=1, max_size=9), min_size=1, max_size=5))
def test_rows_equal_the_tokenizers_own_for_split_words(letters_tokenizer, sentences) -> None:
    features = featurize(tagged(sentences)[1], letters_tokenizer, max_length=100)
    own = letters_tokenizer(sentences, is_split_into_words=True, return_token_type_ids=True)
    assert features.words is not None
    for row in range(len(sentences)):
        place = slice(features.offsets[row], features.offsets[row + 1])
        assert features.input_ids[place].tolist() == own["input_ids"][row]
        assert features.token_type_ids[place].tolist() == own["token_type_ids"][row]
        numbers = own.word_ids(row)
        firsts = [n if n is not None and n != numbers[at - 1] else -1 for at, n in enumerate(numbers)]
        assert features.words[place].tolist() == firsts


def test_words_the_tokenizer_makes_nothing_of_become_unknown(letters_tokenizer) -> None:
    features = featurize(tagged([["ab", "\u200b", "c"]])[1], letters_tokenizer, max_length=9)
    tokens = letters_tokenizer.convert_ids_to_tokens(features.input_ids.tolist())
    assert tokens == ["[CLS]", "a", "##b", "[UNK]", "c", "[SEP]"]
    assert features.labels is not None
    assert features.labels.tolist() == [-100, 0, -100, 2, 4, -100]


def test_without_an_unknown_token_such_words_are_refused(letters_tokenizer) -> None:
    nameless = copy.deepcopy(letters_tokenizer)
    nameless.unk_token = None
    with pytest.raises(ConfigError, match=r"makes nothing of the word ' \\u200b' and has no unknown token"):
        featurize(tagged([["ab", "\u200b"]])[1], nameless, max_length=9)


def test_a_word_longer_than_a_row_keeps_its_first_pieces(letters_tokenizer) -> None:
    features = featurize(tagged([["ab", "abcdefgh", "c"]])[1], letters_tokenizer, max_length=6)
    rows = np.split(features.input_ids, features.offsets[1:-1])
    assert [letters_tokenizer.convert_ids_to_tokens(row[1:-1].tolist()) for row in rows] == [
        ["a", "##b"],
        ["a", "##b", "##c", "##d"],
        ["c"],
    ]
    assert features.examples.tolist() == [0, 0, 0]


@given(st.lists(st.integers(1, 6), min_size=1, max_size=9), st.integers(6, 12))
def test_rows_are_as_few_and_as_even_as_can_be(sizes, room) -> None:
    rows = split_evenly(np.array(sizes), room)
    ends = np.cumsum(sizes).tolist()
    assert set(np.cumsum(rows).tolist()) <= set(ends)
    assert sum(rows) == sum(sizes)
    for count in range(1, len(sizes) + 1):  # every way to cut the words into so many rows
        ways = [np.diff([0, *cuts, ends[-1]]).max() for cuts in combinations(ends[:-1], count - 1)]
        if min(ways) <= room:
            assert (len(rows), max(rows)) == (count, min(ways))
            return
    raise AssertionError("no way was found")


def test_tags_in_batches_are_padded_with_ignored_labels(letters_tokenizer) -> None:
    data = make_dataset({"words": [["ab"], ["a", "b", "cd"]], "tags": [[3], [0, -1, 2]]})
    batch = featurize(data, letters_tokenizer, max_length=9).collate([1, 0])
    assert batch["labels"].tolist() == [[-100, 0, -1, 2, -100, -100], [-100, 3, -100, -100, -100, -100]]
    assert batch["labels"].dtype == torch.int64
    assert batch["attention_mask"].sum(1).tolist() == [6, 4]


def test_hidden_or_missing_tags_are_no_labels(letters_tokenizer) -> None:
    words = [["a", "b"], ["c"]]
    hidden = featurize(make_dataset({"words": words, "tags": [[-1, -1], [-1]]}), letters_tokenizer, max_length=9)
    missing = featurize(make_dataset({"words": words}), letters_tokenizer, max_length=9)
    assert hidden.labels is None
    assert missing.labels is None
    assert hidden.fingerprint() == missing.fingerprint()
    assert missing.counts([0, 1]) == {"example": 2, "token": 7, "token_pair": 25, "word": 3}
    assert "labels" not in missing.collate([0])


def test_a_tag_too_few_is_refused(letters_tokenizer) -> None:
    data = make_dataset({"words": [["a"], ["a", "b"]], "tags": [[1], [1]]})
    with pytest.raises(DataError, match="example 1 has 2 words and 1 tags"):
        featurize(data, letters_tokenizer, max_length=9)
    with pytest.raises(ConfigError, match="at least 3"):
        featurize(data, letters_tokenizer, max_length=2)
    with pytest.raises(ConfigError, match="overlap"):
        featurize(data, letters_tokenizer, max_length=9, overlap=2)
