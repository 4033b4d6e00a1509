from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import BertTokenizerLegacy

from bertcompress.data import features as module
from bertcompress.data import windows
from bertcompress.data.base import make_dataset
from bertcompress.data.features import Features, featurize
from bertcompress.data.windows import window_overlap
from bertcompress.errors import ConfigError, DataError

QUICK = settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
SIGNS = st.one_of(st.sampled_from("abtheno,' 19-"), st.sampled_from(["é", "e\u0301", "日", "\u200b", "\t", "ﬁ", "  "]))
TEXTS = st.lists(SIGNS, max_size=60).map("".join)
QUESTIONS = st.lists(st.sampled_from("abth no"), max_size=6).map("".join)


@st.composite
def examples(draw):
    """Questions, contexts of which some come several times, and answers that stand in them; some without one."""
    contexts = draw(st.lists(TEXTS, min_size=1, max_size=3))
    rows = {"question": [], "context": [], "answers": []}
    for _ in range(draw(st.integers(1, 6))):
        context = draw(st.sampled_from(contexts))
        rows["question"].append(draw(QUESTIONS))
        rows["context"].append(context)
        start = draw(st.integers(0, len(context)))
        stop = draw(st.integers(start, len(context)))
        several = draw(st.integers(0, 2))
        found = [context[start:stop], context[:1]][:several]
        rows["answers"].append({"text": found, "answer_start": [start, 0][:several]})
    return rows


def rows_of(features: Features) -> list[slice]:
    return [slice(*pair) for pair in zip(features.offsets[:-1].tolist(), features.offsets[1:].tolist(), strict=True)]


@QUICK
@given(rows=examples(), max_length=st.integers(18, 40), overlap=st.integers(0, 5), chunk=st.sampled_from([4, 12, 400]))
def test_windows_equal_the_tokenizers_own(any_tokenizer, rows, max_length, overlap, chunk) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "CHUNK", chunk)
        features = featurize(make_dataset(rows), any_tokenizer, max_length=max_length, overlap=overlap)
    own = any_tokenizer(
        rows["question"], rows["context"],
        truncation="only_second", max_length=max_length, stride=overlap,
        return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
    )  # fmt: skip
    assert features.starts is not None
    assert features.ends is not None
    assert features.examples.tolist() == own["overflow_to_sample_mapping"]
    assert features.num_examples == len(rows["question"])
    for number, row in enumerate(rows_of(features)):
        assert features.input_ids[row].tolist() == own["input_ids"][number]
        assert features.token_type_ids[row].tolist() == own["token_type_ids"][number]
        context = rows["context"][features.examples[number]]
        sides = own.sequence_ids(number)
        ours = zip(features.starts[row].tolist(), features.ends[row].tolist(), strict=True)
        for (start, end), other, side in zip(ours, own["offset_mapping"][number], sides, strict=True):
            if side == 1:
                assert without_space(context, start, end) == without_space(context, *other)
            else:
                assert (start, end) == (-1, -1)


def without_space(context: str, start: int, end: int) -> tuple[int, int] | None:
    """A token's characters without the white space at its ends: whether a token of RoBERTa that comes first in its
    window covers the space before it depends, in the tokenizer, on the window."""
    covered = context[start:end]
    return (start + len(covered) - len(covered.lstrip()), start + len(covered.rstrip())) if covered.strip() else None


@QUICK
@given(rows=examples(), max_length=st.integers(12, 40))
def test_answers_stand_where_a_search_through_the_row_finds_them(any_tokenizer, rows, max_length) -> None:
    features = featurize(make_dataset(rows), any_tokenizer, max_length=max_length)
    assert features.labels is not None
    assert features.starts is not None
    assert features.ends is not None
    for number, row in enumerate(rows_of(features)):
        answer, context = (rows[name][features.examples[number]] for name in ("answers", "context"))
        expected = (0, 0)
        if answer["text"]:
            text = answer["text"][0]
            start = answer["answer_start"][0] + len(text) - len(text.lstrip())
            stop = start + len(text.strip())
            whole = any_tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
            wanted = [pair for pair in whole if pair[0] < stop and pair[1] > start]
            pairs = zip(features.starts[row].tolist(), features.ends[row].tolist(), strict=True)
            held = [at for at, pair in enumerate(pairs) if pair[1] >= 0 and pair[0] < stop and pair[1] > start]
            if (
                start < stop and wanted and len(held) == len(wanted)
            ):  # a row's tokens follow one another, so these are the same ones
                expected = (held[0], held[-1])
        assert tuple(features.labels[number].tolist()) == expected


@QUICK
@given(words=st.lists(st.text("abcd,.", min_size=1, max_size=5), min_size=1, max_size=30), choice=st.randoms())
def test_an_answer_is_read_again_from_its_tokens(any_tokenizer, words, choice) -> None:
    first = choice.randrange(len(words))
    answer = " ".join(words[first : first + choice.randint(1, 4)])
    context, start = " ".join(words), len(" ".join([*words[:first], ""]))
    rows = {"question": ["a b"], "context": [context], "answers": [{"text": [answer], "answer_start": [start]}]}
    features = featurize(make_dataset(rows), any_tokenizer, max_length=64)
    assert features.labels is not None
    assert features.starts is not None
    assert features.ends is not None
    held = [number for number, label in enumerate(features.labels) if label.any()]
    assert held  # neighbours share more tokens than the answer has
    for number in held:
        starts, ends = (values[rows_of(features)[number]] for values in (features.starts, features.ends))
        begin, end = features.labels[number]
        assert context[starts[begin] : ends[end]].strip() == answer  # some tokens cover the space before them


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(3, 12)), min_size=1, max_size=5), st.integers(0, 2))
def test_windows_hold_every_token_and_share_as_many_as_asked(contexts, overlap) -> None:
    tokens, room = np.array([pair[0] for pair in contexts]), np.array([pair[1] for pair in contexts])
    examples, starts, sizes = windows.windows(tokens, room, overlap)
    for number in range(len(contexts)):
        own = [set(range(a, a + n)) for a, n in zip(starts[examples == number], sizes[examples == number], strict=True)]
        assert set().union(*own) == set(range(tokens[number]))
        assert all(len(window) <= room[number] for window in own)
        assert all(len(left & right) == overlap for left, right in pairwise(own))
        assert not any(left <= right or right <= left for left, right in pairwise(own))


def test_the_usual_window_shares_128_of_384_tokens() -> None:
    assert window_overlap(384, 3, None) == 128
    assert window_overlap(512, 3, None) == 170
    for max_length in range(5, 600):  # the longest question leaves windows that make progress
        room = max_length - 3 - windows.question_limit(max_length, 3)
        assert 0 <= window_overlap(max_length, 3, None) < room
        assert window_overlap(max_length, 3, room - 1) == room - 1


def squad(question: str = "ab", context: str = "abc de", text: str = "c", start: int = 2):
    answers = [{"text": [text], "answer_start": [start]}]
    return make_dataset({"question": [question], "context": [context], "answers": answers})


def test_a_question_is_cut_to_64_tokens_or_half_of_the_room(letters_tokenizer) -> None:
    data = squad("q" * 500, "a" * 100, "a", 0)
    for max_length, kept in ((384, 64), (23, 10)):
        features = featurize(data, letters_tokenizer, max_length=max_length)
        row = letters_tokenizer.convert_ids_to_tokens(features.input_ids[rows_of(features)[0]].tolist())
        assert row[: kept + 2] == ["[CLS]", "q", *["##q"] * (kept - 1), "[SEP]"]
        assert "##q" not in row[kept + 2 :]
        assert features.lengths.max() <= max_length


def test_the_first_answer_counts_and_batches_hold_its_place(letters_tokenizer) -> None:
    rows = {
        "question": ["q"] * 3,
        "context": ["ab cd"] * 3,
        "answers": [
            {"text": ["cd", "a"], "answer_start": [3, 0]},
            {"text": [], "answer_start": []},
            {"text": [" "], "answer_start": [2]},
        ],
    }
    features = featurize(make_dataset(rows), letters_tokenizer, max_length=16)
    batch = features.collate([2, 0])  # [CLS] q [SEP] a b c d [SEP]
    assert batch["labels"].tolist() == [[0, 0], [5, 6]]
    assert batch["labels"].dtype == torch.int64
    assert features.labels is not None
    assert features.labels.tolist() == [[5, 6], [0, 0], [0, 0]]
    assert features.counts([0, 1])["word"] == 0


def test_without_answers_there_are_no_labels(letters_tokenizer) -> None:
    data = squad().remove_columns("answers")
    assert featurize(data, letters_tokenizer, max_length=16).labels is None
    nothing = featurize(squad().select([]), letters_tokenizer, max_length=16)
    assert (len(nothing), nothing.num_examples) == (0, 0)
    assert nothing.labels is not None
    assert nothing.labels.shape == (0, 2)


def test_neighbouring_questions_share_one_tokenization_of_their_context(letters_tokenizer, monkeypatch) -> None:
    seen: list[str] = []
    tokens = windows._tokens
    monkeypatch.setattr(windows, "_tokens", lambda tokenizer, texts, **more: (
        seen.extend(texts), tokens(tokenizer, texts, **more))[1])  # fmt: skip
    rows = {"question": ["a", "b", "c", "d"], "context": ["ab", "ab", "cd", "ab"]}
    features = featurize(make_dataset(rows), letters_tokenizer, max_length=16)
    assert sorted(seen) == ["a", "ab", "b", "c", "cd", "d"]
    assert features.lengths.tolist() == [6] * 4


def test_what_cannot_work_is_refused(letters_tokenizer, tmp_path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "##b"]))
    slow = BertTokenizerLegacy(str(tmp_path / "vocab.txt"))
    with pytest.raises(ConfigError, match="use a fast tokenizer"):
        featurize(squad(), slow, max_length=16)
    for overlap in (-1, 7, True, 2.0):
        with pytest.raises(ConfigError, match="allowed is a whole number from 0 to 6 at max_length 16"):
            featurize(squad(), letters_tokenizer, max_length=16, overlap=overlap)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="at least 5"):
        featurize(squad(), letters_tokenizer, max_length=4)
    for start in (1, -1, 60):
        with pytest.raises(DataError, match="example 0 has the answer 'c' at character"):
            featurize(squad(start=start), letters_tokenizer, max_length=16)
    with pytest.raises(DataError, match="needed is a column 'context'"):
        featurize(squad().remove_columns("context"), letters_tokenizer, max_length=16)
    with pytest.raises(ConfigError, match="kind is 'qa', allowed are 'classification'"):
        featurize(squad(), letters_tokenizer, max_length=16, kind="qa")
