"""Sentences of words to tag: words into word pieces, long sentences into rows that are cut between words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from bertcompress.data.tokenize import SHAPES, Part, Spans, Stream, find_layout, flat, lay_out, ranges, slices
from bertcompress.errors import ConfigError, DataError

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

IntArray = npt.NDArray[np.int64]

IGNORED = -100  # label of a token that is not the first of a word


def tagging_stream(dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int, chunk: int) -> Stream:
    """Return sentences as rows of word pieces.

    A word's pieces are those it has in running text, between spaces, whatever its neighbours are. Its tag stands at
    the first of them. A word that the tokenizer makes nothing of, such as a control character, becomes the unknown
    token, so that every word has its place. A sentence that is too long makes as few rows as it can, of about the
    same length, cut between words. Only of a word that is longer than a row are the last pieces left out.

    Args:
        dataset: with `words`, and perhaps `tags`.
        tokenizer: of the model.
        max_length: tokens of a row, special tokens included.
        chunk: sentences of a part.
    """
    columns = [name for name in ("words", "tags") if name in dataset.column_names]
    shapes = {**SHAPES, **dict.fromkeys(("words", "labels")[: len(columns)], ("<i4", 0))}
    layout = find_layout(tokenizer, 1)
    room = max_length - layout.special_tokens

    def parts() -> Iterator[Part]:
        for start, values in slices(dataset, columns, chunk):
            sentences = values["words"]
            counts = np.fromiter(map(len, sentences), np.int64, len(sentences))
            ids, sizes = word_pieces(tokenizer, sentences, room)
            firsts = np.cumsum(sizes) - sizes  # (words,), places in ids
            numbers = ranges(np.zeros_like(counts), counts)
            extras = {"words": (_at(firsts, numbers, len(ids), -1), -1)}
            if "tags" in values:
                tags = _tags(values["tags"], counts, start)
                extras["labels"] = (_at(firsts, tags, len(ids), IGNORED), IGNORED)
            lengths, examples = _rows(sizes, counts, room)
            part = lay_out(layout, [Spans(ids, np.cumsum(lengths) - lengths, lengths)], extras)
            yield {**part, "examples": start + examples}

    return Stream(shapes, columns, {"max_length": max_length}, parts, lambda labels: bool((labels >= 0).any()))


def word_pieces(
    tokenizer: PreTrainedTokenizerBase, sentences: list[list[str]], room: int
) -> tuple[npt.NDArray[np.int32], IntArray]:
    """Return the pieces of all words, one after the other, and how many each word has, at least 1, at most `room`.

    Every distinct word is tokenized once. All but the first of a sentence are tokenized with the space before them,
    of which byte-level tokenizers make a part of the word.

    Raises:
        ConfigError: if a word gives no piece and the tokenizer has no unknown token.
    """
    units: dict[str, int] = {}
    spaced = (word if at == 0 else " " + word for words in sentences for at, word in enumerate(words))
    found = [units.setdefault(word, len(units)) for word in spaced]
    if not found:
        return np.zeros(0, np.int32), np.zeros(0, np.int64)
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    pieces = tokenizer(list(units), add_special_tokens=False, **options)["input_ids"]
    if not all(pieces):
        if tokenizer.unk_token_id is None:
            word = next(word for word, got in zip(units, pieces, strict=True) if not got)
            raise ConfigError(
                f"tokenizer {type(tokenizer).__name__}: it makes nothing of the word {word!r} and has no unknown token "
                "to put there; set tokenizer.unk_token."
            )
        pieces = [got or [tokenizer.unk_token_id] for got in pieces]
    lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
    pool = flat(pieces, int(lengths.sum()), np.int32)
    words = np.asarray(found)  # (words,), numbers of units
    sizes = np.minimum(lengths, room)[words]
    return pool[ranges((np.cumsum(lengths) - lengths)[words], sizes)], sizes


def _at(places: IntArray, values: npt.NDArray[Any], size: int, fill: int) -> npt.NDArray[np.int32]:
    table = np.full(size, fill, np.int32)
    table[places] = values
    return table


def _tags(rows: list[list[int]], counts: IntArray, start: int) -> IntArray:
    lengths = np.fromiter(map(len, rows), np.int64, len(rows))
    wrong = np.flatnonzero(lengths != counts)
    if len(wrong):
        at = int(wrong[0])
        raise DataError(
            f"featurize: example {start + at} has {counts[at]} words and {lengths[at]} tags, needed is one for each."
        )
    return flat(rows, int(lengths.sum()), np.int64)


def _rows(sizes: IntArray, counts: IntArray, room: int) -> tuple[IntArray, IntArray]:
    """Return the length of every row, special tokens left out, and the number of the sentence it belongs to.

    Args:
        sizes: pieces of every word, (words,), none more than `room`.
        counts: words of every sentence, (sentences,).
        room: tokens that a row has for words.
    """
    ends = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])  # (words + 1,)
    last = np.cumsum(counts)
    totals = ends[last] - ends[last - counts]
    rows = [[total] for total in totals.tolist()]
    for sentence in np.flatnonzero(totals > room):
        rows[sentence] = split_evenly(sizes[last[sentence] - counts[sentence] : last[sentence]], room)
    per_sentence = np.fromiter(map(len, rows), np.int64, len(rows))
    lengths = flat(rows, int(per_sentence.sum()), np.int64)
    return lengths, np.repeat(np.arange(len(rows), dtype=np.int64), per_sentence)


def split_evenly(sizes: IntArray, room: int) -> list[int]:
    """Return the tokens in each of the fewest rows that hold the words in order, the longest as short as it can be.

    Args:
        sizes: pieces of every word, (words,), from 1 to `room`.
        room: tokens that a row holds.
    """
    ends = np.cumsum(sizes)
    best = _fill(ends, room)
    low, high = int(sizes.max()), room  # the least room that still makes as few rows lies between
    while low < high:
        middle = (low + high) // 2
        rows = _fill(ends, middle)
        if len(rows) == len(best):
            best, high = rows, middle
        else:
            low = middle + 1
    return best


def _fill(ends: IntArray, room: int) -> list[int]:
    """Return the tokens of each row where every row takes as many words as it holds."""
    cuts = [0]
    while cuts[-1] < ends[-1]:
        cuts.append(int(ends[np.searchsorted(ends, cuts[-1] + room, side="right") - 1]))
    return [stop - start for start, stop in pairwise(cuts)]
